"""The configuration of one stream's deployment: the stages' own sections, and what replicas need beside them."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from pipeline.admission import AdmissionConfig
from pipeline.chunks import ChunkConfig
from pipeline.dead_letters import DeadLetterConfig
from pipeline.decode import DecodeConfig
from pipeline.snapshots import SnapshotConfig
from pipeline.source import KafkaConfig


class ModelConfig(BaseModel):
    """Which model, and how it computes."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    name: str = Field(default="memoryllm-smol-135m", description="The embedded model, a folder in the published layout, or a hub name.")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        default="auto", description="auto: bfloat16 on a GPU, float32 on a CPU (bfloat16 is up to ten times slower on CPUs without it)."
    )
    seed: int = Field(default=0, ge=0, description="What updates drop is drawn from (seed, update number, layer).")


class ReplicaConfig(BaseModel):
    """How many replicas there are and what each may use."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    count: int = Field(default=1, ge=1, description="Replicas of this stream; each holds the whole pool and reads the whole stream.")
    mode: Literal["consume", "serve"] = Field(
        default="consume", description="consume: read the stream. serve: answer from the latest snapshot and read nothing."
    )
    device: Literal["auto", "cpu", "cuda"] = Field(default="auto", description="auto: cuda where num_gpus is above 0.")
    num_cpus: int | None = Field(default=None, ge=1, description="Cores, and so threads, of each replica. null: all cores, shared evenly.")
    num_gpus: float = Field(default=0, ge=0, description="GPUs of each replica, as Ray counts them.")
    spare_blocks: int = Field(
        default=16, ge=1, description="Blocks of K tokens beyond the pool: how many updates an answer may outlive before it is evicted."
    )
    max_versions: int = Field(default=3, ge=1, description="Pool versions alive at once.")
    decode_steps_per_update: int = Field(default=4, ge=1, description="Decode steps for each update while answers are running.")
    max_answers: int = Field(default=4, ge=1, description="Answers running at once on a replica; more wait.")
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
    timeout_s: float = Field(default=120.0, gt=0, description="How long the query actor waits for one replica before it tries another.")


class StreamConfig(BaseModel):
    """One stream: where it comes from, how it is read, what learns it, where it is saved."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    stream: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")] = Field(
        default="news", description="Name of the stream: part of the snapshots' path and of the actors' names."
    )
    kafka: KafkaConfig = Field(description="Where records come from.")
    decode: DecodeConfig = Field(default=DecodeConfig(), description="How a record becomes a document.")
    admission: AdmissionConfig = Field(default=AdmissionConfig(), description="Which documents are learned.")
    chunks: ChunkConfig = Field(default=ChunkConfig(), description="How documents are cut into updates.")
    dead_letters: DeadLetterConfig = Field(default=DeadLetterConfig(), description="Where records go that cannot be learned.")
    model: ModelConfig = Field(default=ModelConfig(), description="The model.")
    replicas: ReplicaConfig = Field(default=ReplicaConfig(), description="The replicas.")
    answers: AnswerConfig = Field(default=AnswerConfig(), description="Bounds of an answer.")
    snapshots: SnapshotConfig = Field(default_factory=SnapshotConfig, description="Where and how often the pool is saved.")

    @model_validator(mode="after")
    def _dead_letters_go_elsewhere(self) -> Self:
        topic = self.dead_letters.topic_for(self.kafka)
        if topic in self.kafka.topics:
            raise ValueError(f"dead_letters.topic {topic!r} is also read as a topic of the stream; choose another")
        return self

    def effective(self) -> dict[str, Any]:
        """As JSON types, defaults filled in, secrets masked: what is printed and stored in every manifest."""
        return self.model_dump(mode="json")
