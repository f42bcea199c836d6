"""The one carrier: what one item of a stream does to a memory and its state. The leader makes it, and all replicas apply it.

    item -> Commit -> memory and state of the leader
                   -> memory and state of each follower, the same bit for bit

A commit costs what its document does, never what is remembered. It holds no torch and no Ray: arrays are numpy's, bfloat16 as its 16 bits,
so pickle (protocol 5) hands them on where they lie. What leaves a memory because it is full is not said: that follows from the memory and
the commit alone (REPLAY-EXACT), and so does everything else that `apply` computes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

from numpy.typing import NDArray

from pipeline.fetched import Gap, Identified, Joined, Placed
from pipeline.ledger import LedgerRow
from pipeline.positions import StreamState
from pipeline.records import DeadLetter, Outcome, Partition
from pipeline.snapshots.segments import BlockImage, block_sha256

OVERHEAD_BYTES = 1024
"""What a commit takes beside its arrays and its letter: a row, a position, their objects."""


class Place(NamedTuple):
    """How far a replica is: the writer whose commit it applied last, and how many commits it has applied.

    >>> Place(generation=2, commits=40) > Place(generation=1, commits=41)
    True
    """

    generation: int
    commits: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """A document was learned; `replaces`: the id of the one whose place it takes."""

    row: LedgerRow
    replaces: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Passed:
    """The record before `end` came to `outcome`; `removed`: ids of documents that it took out of memory."""

    partition: Partition
    end: int
    outcome: Outcome
    event_time_ms: int | None = None
    removed: tuple[str, ...] = ()


Change: TypeAlias = Applied | Passed | Gap | Placed
"""What a commit does to the state: the arguments of one transition of `StreamState`."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Commit:
    """What one item changes, at a document boundary.

    Attributes:
        number: commits before it; a state of `number` commits is the only one that it fits.
        generation: of the writer that made it.
        change: of the state.
        blocks: new ones, of a block memory; their updates are the next ones in turn.
        deltas: of a token pool, [L, K, D] each.
        taken_out: updates whose blocks go, by a correction or a deletion.
        letter: the dead letter that the item became. Whoever leads next sends it again, where it is not known to be acknowledged.

    >>> change = Passed(partition=Partition("news", 0), end=8, outcome=Outcome.FILTERED)
    >>> Commit(number=7, generation=1, change=change).updates
    0
    """

    number: int
    generation: int
    change: Change
    blocks: tuple[BlockImage, ...] = ()
    deltas: tuple[NDArray[Any], ...] = ()
    taken_out: tuple[int, ...] = ()
    letter: DeadLetter | None = None

    @property
    def updates(self) -> int:
        """How many it makes."""
        return len(self.blocks) + len(self.deltas)

    @property
    def size_bytes(self) -> int:
        arrays = sum(block.states.nbytes + block.keys.nbytes for block in self.blocks) + sum(delta.nbytes for delta in self.deltas)
        return arrays + OVERHEAD_BYTES + (self.letter.record.size_bytes if self.letter else 0)

    def check(self) -> None:
        """Raises ValueError where a block is not what its digest says: something was changed on the way."""
        for block in self.blocks:
            if block_sha256(block.states, block.keys) != block.sha256:
                raise ValueError(f"block {block.update} of commit {self.number} is not what was written")

    @property
    def passed(self) -> tuple[Partition, int, Outcome] | None:
        """The one record that it passed, and what became of it."""
        change = self.change
        if isinstance(change, Applied):
            return change.row.partition, change.row.offset, Outcome.APPLIED
        return (change.partition, change.end - 1, change.outcome) if isinstance(change, Passed) else None


def after(state: StreamState, change: Change) -> StreamState:
    """The state once a change has been made; what memory forgets by it is for `StreamState.forgetting`.

    Raises:
        ValueError: it skips or repeats an offset, or an update.
    """
    if isinstance(change, Applied):
        return state.applied(change.row, replaces=change.replaces)
    if isinstance(change, Passed):
        return state.passed(change.partition, change.end, change.outcome, change.event_time_ms, change.removed)
    if isinstance(change, Gap):
        return state.gap(change.partition, change.first, change.end)
    if isinstance(change, Joined):
        return state.joined(change.partition, change.position, change.topic_id)
    if isinstance(change, Identified):
        return state.identified(change.partition, change.topic_id)
    return state.rewound(change.partition, change.position, change.topic_id)
