"""What a deployment is made of: its streams, each with the stages' own sections and what replicas need beside them, and one HTTP front."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from itertools import combinations, permutations
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator, model_validator

from actors.http.config import HttpConfig
from model.catalog import NAME
from pipeline.admission import AdmissionConfig
from pipeline.chunks import ChunkConfig
from pipeline.dead_letters import DeadLetterConfig
from pipeline.decode import DecodeConfig
from pipeline.errors import ConfigurationError
from pipeline.paths import LocalPath, absolute
from pipeline.snapshots.writer import SnapshotConfig
from pipeline.source import KafkaConfig

_PATHS: Final = (".", "~", "/", "$")

STREAM_NAME: Final = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$"


class ModelConfig(BaseModel):
    """Which model, and how it computes."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    name: str = Field(default=NAME, description="The embedded model, a folder in the published layout, or a hub name.")
    revision: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]{0,199}$")] | None = Field(
        default=None, description="Of a hub name: a commit's 40 digits; a branch's name, or null, may be another model tomorrow."
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        default="auto",
        description="auto: bfloat16 on a GPU and on CPUs that compute it (elsewhere it is ten times slower), float32 on others.",
    )
    seed: int = Field(default=0, ge=0, description="Of a token pool: what updates drop is drawn from (seed, update number, layer).")

    @field_validator("name")
    @classmethod
    def _folder(cls, name: str) -> str:
        """A folder's name is settled where the user stands; the embedded model's and the hub's names are no paths."""
        if name == NAME:
            return name
        return absolute(name) if name.startswith(_PATHS) or name.count("/") != 1 or os.path.isdir(name) else name

    @model_validator(mode="after")
    def _revisions_are_the_hubs(self) -> Self:
        if self.revision is not None and (self.name == NAME or os.path.isabs(self.name)):
            raise ValueError(f"model.revision is of a hub name, and {self.name} is none")
        return self


class MemoryConfig(BaseModel):
    """How much is remembered, and how it is read (models of blocks; a token pool has its own size)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    blocks: int = Field(default=2048, ge=1, description="Blocks remembered; when there are more, the oldest leaves. About 1.1 MB each.")
    scratch: LocalPath | None = Field(
        default=None, description="Folder for what no snapshot has yet. null: the system's own for temporary files (TMPDIR)."
    )
    projected_bytes: int = Field(
        default=256 << 20, ge=1 << 20, description="Blocks that were read lately, ready to be read again, on the device."
    )
    most_read: int = Field(default=4, ge=1, le=64, description="Blocks that one answer reads at most.")
    read_share: float = Field(
        default=0.1, gt=0, le=1, description="A block is read if it is at least so likely the right one as this share of the best."
    )
    margin: float = Field(
        default=0.8,
        allow_inf_nan=False,
        description="Lead, in nats, from which a block is trusted (docs/memory.md): if it does not tell, 'I don't know' is said.",
    )
    doubt: float = Field(
        default=-8.0,
        allow_inf_nan=False,
        description="Lead from which blocks are read on trial: where they do not tell, the base model answers. Below, nothing is read.",
    )
    evidence: float = Field(
        default=-1.5,
        allow_inf_nan=False,
        description="Nats of that lead and the reader together from which an answer is believed. Higher: fewer answers from memory.",
    )


class ReplicaConfig(BaseModel):
    """How many replicas there are and what each may use."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    count: int = Field(default=1, ge=1, description="Replicas of this stream; each holds the whole memory.")
    mode: Literal["follow", "consume", "serve"] = Field(
        default="follow",
        description="follow: one replica leads, that is it reads, learns and saves, the others apply what it learned, and one of them leads"
        " when it is lost. consume: each reads the stream itself. serve: all follow the snapshots and read nothing.",
    )
    window_bytes: int = Field(
        default=512 << 20, ge=1 << 20, description="Of the last commits that each replica keeps for followers that are behind."
    )
    leader_silent_s: float = Field(
        default=10.0, gt=0, description="A leader that does not answer for so long is replaced; one whose process ended, at once."
    )
    device: Literal["auto", "cpu", "cuda"] = Field(default="auto", description="auto: cuda where num_gpus is above 0.")
    num_cpus: int | None = Field(
        default=None, ge=1, description="Cores, and so threads, of each replica. null: the cores that are left, shared evenly."
    )
    num_gpus: float = Field(default=0, ge=0, description="GPUs of each replica, as Ray counts them.")
    spare_blocks: int = Field(default=16, ge=1, description="Of a token pool: blocks beyond it, for answers that updates have overtaken.")
    max_versions: int = Field(default=3, ge=1, description="Of a token pool: versions that answers read at once.")
    max_restarts: int = Field(default=-1, ge=-1, description="Restarts of a killed replica. -1: without end.")
    poll_bytes: int = Field(default=1 << 20, ge=1 << 10, description="Bytes of records handed from the poller to the replica at once.")
    poll_hung_s: float = Field(
        default=120.0, gt=0, description="A poll that takes longer is hung: the poller's process is ended and replaced."
    )
    model_errors_in_a_row: int = Field(default=3, ge=1, description="Documents in a row that the model fails on before the stream stops.")


class AnswerConfig(BaseModel):
    """Bounds of an answer."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_new_tokens: int = Field(default=64, ge=1, description="Tokens of an answer where the question does not say.")
    most_new_tokens: int = Field(default=1024, ge=1, description="Tokens of an answer that a question may ask for.")
    max_prompt_tokens: int = Field(default=2048, ge=1, description="Longer prompts are refused.")
    timeout_s: float = Field(default=120.0, gt=0, description="An answer that is not whole by then is given up.")
    share: float = Field(
        default=0.5,
        gt=0,
        lt=1,
        description="Of the device's time, what answers get while there is something to learn.",
    )
    most_running: int = Field(default=32, ge=1, le=1024, description="Answers that run together on a replica.")
    most_waiting: int = Field(default=128, ge=0, description="Questions that wait on a replica; more are told to come again (429).")
    prefill_tokens: int = Field(default=512, ge=1, description="Tokens of prompts that are read side by side in one turn of the device.")
    hung_s: float = Field(default=60.0, gt=0, description="A replica that says nothing, or takes one turn, for so long is passed over.")


class StreamConfig(BaseModel):
    """One stream: where it comes from, how it is read, what learns it, where it is saved."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    stream: Annotated[str, StringConstraints(pattern=STREAM_NAME)] = Field(
        default="news", description="Name of the stream: part of the snapshots' path and of the actors' names."
    )
    kafka: KafkaConfig = Field(description="Where records come from.")
    decode: DecodeConfig = Field(default=DecodeConfig(), description="How a record becomes a document.")
    admission: AdmissionConfig = Field(default=AdmissionConfig(), description="Which documents are learned.")
    chunks: ChunkConfig = Field(default=ChunkConfig(), description="How documents are cut into updates.")
    dead_letters: DeadLetterConfig = Field(default=DeadLetterConfig(), description="Where records go that cannot be learned.")
    model: ModelConfig = Field(default=ModelConfig(), description="The model.")
    memory: MemoryConfig = Field(default=MemoryConfig(), description="What is remembered, and how it is read.")
    replicas: ReplicaConfig = Field(default=ReplicaConfig(), description="The replicas.")
    answers: AnswerConfig = Field(default=AnswerConfig(), description="Bounds of an answer.")
    snapshots: SnapshotConfig = Field(default_factory=SnapshotConfig, description="Where and how often memory is saved, and what is kept.")

    @model_validator(mode="after")
    def _dead_letters_go_elsewhere(self) -> Self:
        topic = self.dead_letters.topic_for(self.kafka)
        if topic in self.kafka.topics:
            raise ValueError(f"dead_letters.topic {topic!r} is also read as a topic of the stream; choose another")
        return self

    def effective(self) -> dict[str, Any]:
        """As JSON types, defaults filled in, secrets masked: what is printed and stored in every manifest."""
        return self.model_dump(mode="json")


class DeploymentConfig(BaseModel):
    """Streams that run side by side on one cluster, and the front that answers for all of them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    streams: tuple[StreamConfig, ...] = Field(
        min_length=1, description="By their names, what is each stream's own; what stands beside it they share."
    )
    http: HttpConfig = Field(default=HttpConfig(), description="The HTTP front, where one is started (memstream run --http).")

    @model_validator(mode="after")
    def _none_harms_another(self) -> Self:
        if conflicts := list(_conflicts(self.streams)):
            raise ValueError("\n".join(conflicts))
        return self

    @property
    def names(self) -> list[str]:
        return [each.stream for each in self.streams]

    def stream(self, name: str | None = None) -> StreamConfig:
        """The stream of that name, or the only one. Raises ConfigurationError."""
        if name is None and len(self.streams) > 1:
            raise ConfigurationError(f"the configuration has several streams: choose with --stream {' | '.join(self.names)}")
        return self.only(None if name is None else [name]).streams[0]

    def only(self, names: Sequence[str] | None) -> DeploymentConfig:
        """With these streams alone; none named: with all. Raises ConfigurationError."""
        for name in names or ():
            if name not in self.names:
                raise ConfigurationError(f"--stream {name}: the configuration has no such stream; it has {', '.join(self.names)}")
        return self if not names else self.model_copy(update={"streams": tuple(each for each in self.streams if each.stream in names)})

    def effective(self) -> dict[str, Any]:
        """As a file would hold it: JSON types, defaults filled in, secrets masked."""
        shown = [each.effective() for each in self.streams]
        http = self.http.model_dump(mode="json")
        if len(shown) == 1:
            return {**shown[0], "http": http}
        return {"http": http, "streams": {each.pop("stream"): each for each in shown}}


def _conflicts(streams: Sequence[StreamConfig]) -> Iterator[str]:
    """What streams would do to each other, by the keys that do it."""
    for one, other in combinations(streams, 2):
        if one.stream == other.stream:
            yield f"streams.{one.stream}: there are two of that name"
        both = sorted(set(one.kafka.topics) & set(other.kafka.topics)) if _share_brokers(one, other) else []
        if both and one.kafka.group_id is not None and one.kafka.group_id == other.kafka.group_id:
            yield (
                f"streams.{other.stream}.kafka.group_id: streams.{one.stream} commits its positions in {', '.join(both)} to the same group,"
                " and each would overwrite the other's; choose another"
            )
    for one, other in permutations(streams, 2):
        letters = one.dead_letters.topic_for(one.kafka)
        if _share_brokers(one, other) and letters in other.kafka.topics:
            yield (
                f"streams.{one.stream}.dead_letters.topic: streams.{other.stream} reads {letters!r} as one of its topics, and would learn"
                " the dead letters; choose another"
            )
        if f"{one.snapshots.root}/{one.stream}/".startswith(f"{other.snapshots.root}/{other.stream}/") and one.stream != other.stream:
            yield (
                f"streams.{one.stream}.snapshots.root: it lies among the snapshots of streams.{other.stream}, which removes what it does"
                " not know there; choose another"
            )


def _share_brokers(one: StreamConfig, other: StreamConfig) -> bool:
    return bool(set(one.kafka.bootstrap_servers) & set(other.kafka.bootstrap_servers))
