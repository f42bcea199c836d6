"""What actors say to each other: frozen values, the same in one process and across a cluster."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from pipeline.commits import Place
from pipeline.fetched import Gap, Placed
from pipeline.ledger import Ledger, LedgerRow
from pipeline.records import DeadLetter, Document, Partition, Tombstone

Learnable: TypeAlias = Document | Tombstone | DeadLetter | Gap | Placed
"""What a poller hands to a replica, in log order within a partition."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Polled:
    """One poll: what to learn, where that leads, and how far the log goes.

    `at_s` is the wall-clock time at which the broker was asked.
    """

    items: tuple[Learnable, ...]
    positions: Mapping[str, int]
    highwaters: Mapping[Partition, int]
    heard: frozenset[Partition]
    at_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Which documents an answer may be read from; nothing set: all.

    Attributes:
        sources: these alone, compared as `same_name` has them.
        since_ms, until_ms: published then or later; before then.
        before_update: learned before this update.
        exclude: not these document ids.

    >>> Filter(sources=("Reuters",)).empty, Filter().empty
    (False, True)
    """

    sources: tuple[str, ...] = ()
    since_ms: int | None = None
    until_ms: int | None = None
    before_update: int | None = None
    exclude: tuple[str, ...] = ()

    @property
    def empty(self) -> bool:
        return self == Filter()

    def updates(self, ledger: Ledger) -> NDArray[np.int64]:
        """Which updates may be read, ascending."""
        found = ledger.columns.updates(self.sources, self.since_ms, self.until_ms, self.before_update)
        rows = [row for name in self.exclude if (row := ledger.document(name)) is not None]
        return found[~np.isin(found, [update for row in rows for update in row.updates])] if rows else found


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """What must be known for a question to be answered.

    Attributes:
        at_least: offsets, as TOPIC/PARTITION, that must have been passed.
        max_staleness_s: so long ago at most the position was at the log's end.
        wait_s: how long the question waits for that; then it is refused.
        as_of: the number of a snapshot, or a time in milliseconds: what was known then, and nothing later.
    """

    at_least: Mapping[str, int] = field(default_factory=dict)
    max_staleness_s: float | None = None
    wait_s: float = 0.0
    as_of_epoch: int | None = None
    as_of_ms: int | None = None

    @property
    def past(self) -> bool:
        """Whether it is about another time."""
        return self.as_of_epoch is not None or self.as_of_ms is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A conversation to continue, or a text as it stands: greedily unless a temperature is given, from the documents that `only` admits.

    Attributes:
        answers: how many are wanted, all from one version.
        top_logprobs: alternatives beside each token's own log-probability; None: none wanted.
        timeout_s: until then the answer must be whole; None: `answers.timeout_s`.

    >>> Question.of("Who is the president of Botswana?").messages
    ({'role': 'user', 'content': 'Who is the president of Botswana?'},)
    """

    messages: tuple[Mapping[str, str], ...] = ()
    text: str | None = None
    answers: int = 1
    max_new_tokens: int | None = None
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    repetition_penalty: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    top_logprobs: int | None = None
    max_blocks: int | None = None
    only: Filter = Filter()
    demand: Demand = Demand()
    timeout_s: float | None = None

    @classmethod
    def of(cls, text: str, max_new_tokens: int | None = None, only: Filter | None = None) -> Question:
        return cls(messages=({"role": "user", "content": text},), max_new_tokens=max_new_tokens, only=only or Filter())


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A document that an answer was read from. `score`: how likely it was the right one, 0 to 1, as the model sees it."""

    document_id: str
    title: str | None
    source: str | None
    link: str | None
    published_at_ms: int
    topic: str
    partition: int
    offset: int
    score: float

    @classmethod
    def of(cls, row: LedgerRow, score: float) -> Source:
        return cls(**_of_row(row), score=score)


@dataclass(frozen=True, slots=True, kw_only=True)
class Knowledge:
    """What an answer was given from.

    Attributes:
        version: of the memory: documents learned and deleted since the stream began. It grows over restarts, and the same version of the
            same stream is the same knowledge on every replica.
        epoch: the snapshot that the answer was given from, where an earlier one was asked for.
        grounded: whether the answer was read from memory; None where the memory cannot tell (a token pool).
        sources: the documents it was read from, the likeliest first.
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
    grounded: bool | None = None
    sources: tuple[Source, ...] = ()
    epoch: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """A token of an answer and its log-probability; `top`: the likeliest ones at its place."""

    text: str
    logprob: float
    top: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Begun:
    """An answer has begun: what it is given from. Whether it turns out to know nothing is known at its end."""

    knowledge: Knowledge


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """More text of one of the answers."""

    index: int
    text: str
    tokens: tuple[Token, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """One of the answers: its text, and why it ended (`stop` or `length`)."""

    text: str
    finish_reason: str
    completion_tokens: int
    tokens: tuple[Token, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The answers that were wanted, and the knowledge they were given from. `text` and its like are of the first one."""

    choices: tuple[Choice, ...]
    prompt_tokens: int
    knowledge: Knowledge
    seconds: float

    @property
    def text(self) -> str:
        return self.choices[0].text

    @property
    def finish_reason(self) -> str:
        return self.choices[0].finish_reason

    @property
    def completion_tokens(self) -> int:
        return sum(choice.completion_tokens for choice in self.choices)

    def as_dict(self) -> dict[str, Any]:
        first = {"text": self.text, "finish_reason": self.finish_reason, "completion_tokens": self.completion_tokens}
        return first | asdict(self)


Told: TypeAlias = Begun | Piece | Answer
"""What a replica sends of an answer: once `Begun`, any number of pieces, once the whole."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentsQuery:
    """Which remembered documents to list: newest first, `text` in title, source or id, at most `limit` after skipping `offset`."""

    text: str = ""
    source: str | None = None
    limit: int = 50
    offset: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Remembered:
    """A document of the ledger."""

    document_id: str
    title: str | None
    source: str | None
    link: str | None
    published_at_ms: int
    topic: str
    partition: int
    offset: int
    blocks: int
    tokens: int

    @classmethod
    def of(cls, row: LedgerRow) -> Remembered:
        return cls(**_of_row(row), blocks=len(row.updates), tokens=row.tokens)


def _of_row(row: LedgerRow) -> dict[str, Any]:
    """How a document of the ledger is named to whoever asks."""
    return {
        "document_id": row.document_id,
        "title": row.title,
        "source": row.source,
        "link": row.link,
        "published_at_ms": row.event_time_ms,
        "topic": row.partition.topic,
        "partition": row.partition.number,
        "offset": row.offset,
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentsPage:
    """Some remembered documents, and how many match."""

    documents: tuple[Remembered, ...]
    total: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Fate:
    """What became of an offset: `waiting` (not reached), one of the outcomes, or `passed` (reached, long ago or before a restart)."""

    state: str
    document: Remembered | None = None


class Role(StrEnum):
    """What a replica does for its stream; a state of it, which may change."""

    LEADER = "leader"
    """Reads the stream, publishes commits, saves."""
    FOLLOWER = "follower"
    """Applies the leader's commits."""
    READER = "reader"
    """Reads the stream for itself (replicas.mode: consume)."""
    SERVER = "server"
    """Follows the snapshots (replicas.mode: serve)."""


class Leader(NamedTuple):
    """Who leads, and since which claim on the stream."""

    replica: int
    generation: int


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
    """A replica as it sees itself; of one that does not answer, `phase` is DOWN and only `replica` and `problem` are set.

    `generation` is the newest claim on the stream that it knows of, `commits` how many it has applied; `behind_*` are to its leader.
    `forward_passes` are the chunks that its own model was run over in order to learn them, since its process began.
    """

    replica: int
    phase: Phase
    problem: str | None = None
    loading: bool = False
    role: Role | None = None
    generation: int = 0
    commits: int = 0
    behind_commits: int = 0
    behind_updates: int = 0
    behind_s: float = 0.0
    forward_passes: int = 0
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
    remembered_updates: int = 0
    memory_tokens: int = 0
    documents_cut: int = 0
    tokens_left_out: int = 0
    running_answers: int = 0
    waiting_answers: int = 0
    answered: int = 0
    turns: Mapping[str, int] = field(default_factory=dict)
    turn_s: float = 0.0
    seconds: Mapping[str, float] = field(default_factory=dict)
    restarts: int = 0
    at_s: float = 0.0
    epoch: int | None = None
    epoch_age_s: float | None = None
    snapshot_problem: str | None = None
    poller_deaths: int = 0
    memory_sha256: str | None = None

    @property
    def answers(self) -> bool:
        """Whether it can be asked: also while the broker is away, and after its stream stopped."""
        return not self.loading and self.phase not in (Phase.STARTING, Phase.DOWN, Phase.DRAINED)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Saved:
    """The last snapshot a replica wrote or was restored from."""

    epoch: int
    memory_sha256: str
    position: Mapping[str, int]
    counts: Mapping[str, int]
    update_number: int
    created_at_s: float
    generation: int = 0
    commits: int = 0

    @property
    def place(self) -> Place:
        return Place(self.generation, self.commits)
