"""What actors say to each other: frozen values, the same in one process and across a cluster."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any, TypeAlias

from pipeline.fetched import Gap, Joined, Rewind
from pipeline.records import DeadLetter, Document, Partition

Learnable: TypeAlias = Document | DeadLetter | Gap | Rewind | Joined
"""What a poller hands to a replica, in log order within a partition."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Polled:
    """One poll: what to learn, where that leads (and in which topics, by Kafka's own ids), and how far the log goes.

    `at_s` is the wall-clock time at which the broker was asked.
    """

    items: tuple[Learnable, ...]
    positions: Mapping[str, int]
    topic_ids: Mapping[str, str]
    highwaters: Mapping[Partition, int]
    heard: frozenset[Partition]
    at_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A conversation to continue, greedily unless a temperature is given.

    >>> Question.of("Who is the president of Botswana?").messages
    ({'role': 'user', 'content': 'Who is the president of Botswana?'},)
    """

    messages: tuple[Mapping[str, str], ...]
    max_new_tokens: int | None = None
    temperature: float = 0.0
    top_p: float = 1.0

    @classmethod
    def of(cls, text: str, max_new_tokens: int | None = None) -> Question:
        return cls(messages=({"role": "user", "content": text},), max_new_tokens=max_new_tokens)


@dataclass(frozen=True, slots=True, kw_only=True)
class Knowledge:
    """What an answer was given from.

    Attributes:
        version: number of the pool version; grows with every document.
        position: next offset of each partition, as TOPIC/PARTITION.
        watermark_ms: latest event time learned; None before the first.
        applied: documents learned.
        complete_up_to_ms: when the position was last known to be at the log's end; None: never.
        staleness_s: seconds since then; None: never.
    """

    stream: str
    replica: int
    version: int
    update_number: int
    position: Mapping[str, int]
    watermark_ms: int | None
    applied: int
    complete_up_to_ms: int | None
    staleness_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The text, why it ended (`stop` or `length`), and the knowledge it was given from."""

    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    knowledge: Knowledge
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


class Phase(StrEnum):
    """Where a replica is in its life."""

    STARTING = "starting"
    RUNNING = "running"
    WAITING = "waiting"
    SERVING = "serving"
    DRAINING = "draining"
    DRAINED = "drained"
    FAILED = "failed"
    DOWN = "down"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaStatus:
    """A replica as it sees itself; of one that does not answer, `phase` is DOWN and only `replica` and `problem` are set."""

    replica: int
    phase: Phase
    problem: str | None = None
    pid: int | None = None
    node: str | None = None
    device: str | None = None
    update_number: int = 0
    version: int = 0
    position: Mapping[str, int] = field(default_factory=dict)
    highwater: Mapping[str, int] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)
    watermark_ms: int | None = None
    caught_up: bool = False
    complete_up_to_ms: int | None = None
    staleness_s: float | None = None
    remembered_documents: int = 0
    pool_tokens: int = 0
    running_answers: int = 0
    epoch: int | None = None
    epoch_age_s: float | None = None
    snapshot_problem: str | None = None
    pool_sha256: str | None = None

    @property
    def answers(self) -> bool:
        """Whether it can be asked: also while the broker is away, and after its stream stopped."""
        return self.phase not in (Phase.STARTING, Phase.DOWN, Phase.DRAINED)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Saved:
    """The last snapshot a replica wrote or was restored from."""

    epoch: int
    pool_sha256: str
    position: Mapping[str, int]
    counts: Mapping[str, int]
    update_number: int
    created_at_s: float
