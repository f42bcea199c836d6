"""Where a stream stands: positions, watermark, counts, update number and ledger, as one value.

ONE-STATE: these change together or not at all, so every transition takes the whole state and gives a new one; the pool's version of the
same moment is its only companion. NOTHING-SILENT: a transition moves a position by exactly the offsets that it counts, and `check()`
proves it from the numbers alone.

    origin ... position                 the log of one partition
       |-- applied, deleted, duplicate, filtered, dead letter, gap --|   sum(counts) == sum(position - origin)
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Self

from pipeline.ledger import Ledger, LedgerRow
from pipeline.records import Outcome, Partition, Positions


def _no_counts() -> dict[Outcome, int]:
    return dict.fromkeys(Outcome, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamState:
    """What a replica knows besides its pool. Every transition raises ValueError where it would skip or repeat an offset.

    `origin` is where the counting began, `positions` the next offsets to read (same partitions). `watermark_ms` is the latest event time
    passed, None before the first. `update_number` is how many updates the pool has had, and so the number of the next one; `commits` how
    many transitions there were, and so the number of the next commit. `topic_ids` are Kafka's ids of the topics that the positions are in,
    each set together with its position: a topic made anew under the same name has another one. A partition whose broker tells none has
    none. `tokens_left_out` are the text tokens that were cut off `documents_cut` documents, because they were longer than one document
    may be.

    >>> state = StreamState.beginning({Partition("news", 0): 40})
    >>> state = state.passed(Partition("news", 0), 41, Outcome.FILTERED)
    >>> state.check()
    >>> format_positions(state.positions), state.counts[Outcome.FILTERED]
    ({'news/0': 41}, 1)
    """

    origin: Positions
    positions: Positions
    watermark_ms: int | None = None
    counts: Mapping[Outcome, int] = field(default_factory=_no_counts)
    update_number: int = 0
    commits: int = 0
    ledger: Ledger = field(default_factory=Ledger)
    topic_ids: Mapping[Partition, str] = field(default_factory=dict)
    tokens_left_out: int = 0
    documents_cut: int = 0

    @classmethod
    def beginning(cls, origin: Positions) -> Self:
        """The state before the first record, at `origin`."""
        return cls(origin=dict(origin), positions=dict(origin))

    def applied(self, row: LedgerRow, replaces: str | None = None) -> StreamState:
        """After a document was written into memory by the updates of its `row`: the next numbers in turn, at least one.

        `replaces`: the id of the document whose place it takes.
        """
        if list(row.updates) != list(range(self.update_number, self.update_number + len(row.updates))):
            raise ValueError(f"updates {list(row.updates)} do not go on from {self.update_number}")
        ledger = self.ledger if replaces is None else self.ledger.without((replaces,))
        if ledger.document(row.document_id) is not None:
            raise ValueError(f"document {row.document_id!r} is remembered already, and is not what this one replaces")
        passed = self.passed(row.partition, row.offset + 1, Outcome.APPLIED, row.event_time_ms)
        return replace(
            passed,
            update_number=self.update_number + len(row.updates),
            ledger=ledger.with_row(row),
            tokens_left_out=self.tokens_left_out + row.tokens_left_out,
            documents_cut=self.documents_cut + (row.tokens_left_out > 0),
        )

    def passed(
        self, partition: Partition, end: int, outcome: Outcome, event_time_ms: int | None = None, removed: Collection[str] = ()
    ) -> StreamState:
        """After the one record before `end`, which came to `outcome`. A position that jumps is a `gap` and must be said first.

        `removed`: ids of the documents that it took out of memory.
        """
        advanced = self._advanced(partition, end - 1, end, outcome, event_time_ms)
        return replace(advanced, ledger=self.ledger.without(removed)) if removed else advanced

    def gap(self, partition: Partition, first: int, end: int) -> StreamState:
        """After the offsets `first` up to and without `end`, at which there is no record: compacted away, aged out or a marker."""
        if end <= first:
            raise ValueError(f"{partition}: a gap from {first} to {end} holds nothing")
        return self._advanced(partition, first, end, Outcome.GAP, None)

    def joined(self, partition: Partition, position: int, topic_id: str | None) -> StreamState:
        """With a partition that the topic has newly got; its counting begins at `position`."""
        if partition in self.positions:
            raise ValueError(f"{partition} is already part of this stream, at {self.positions[partition]}")
        return self._placed(partition, position, topic_id, origin=position)

    def identified(self, partition: Partition, topic_id: str) -> StreamState:
        """With the id of the topic that a position is in, where none was known. Another id is for `rewound` to say."""
        if partition in self.topic_ids:
            raise ValueError(f"{partition} is in topic {self.topic_ids[partition]} already")
        return self._placed(partition, self._position(partition), topic_id, self.origin[partition])

    def rewound(self, partition: Partition, position: int, topic_id: str | None) -> StreamState:
        """At an earlier `position` of a log that was truncated, or in a topic that was made anew, there at the same one at most.

        What was passed stays counted: the origin moves along. So an origin may be negative after it: that many offsets more than the new
        log holds were passed in the old one.
        """
        old = self._position(partition)
        if position > old or (position == old and topic_id == self.topic_ids.get(partition)):
            raise ValueError(f"{partition}: {position} is not before {old}")
        return self._placed(partition, position, topic_id, self.origin[partition] + position - old)

    def forgetting(self, updates: Collection[int]) -> StreamState:
        """Without these updates; documents that have none left are no longer in the ledger."""
        return replace(self, ledger=self.ledger.forgetting(updates)) if updates else self

    def check(self) -> None:
        """Prove NOTHING-SILENT: raises ValueError unless the counts add up to the offsets passed since the origin."""
        if self.origin.keys() != self.positions.keys():
            raise ValueError(f"partitions differ: origin {format_positions(self.origin)}, positions {format_positions(self.positions)}")
        if strange := self.topic_ids.keys() - self.positions.keys():
            raise ValueError(f"topics are known of partitions that have no position: {sorted(map(str, strange))}")
        backwards = [partition for partition, position in self.positions.items() if position < self.origin[partition]]
        if backwards or min(self.counts.values(), default=0) < 0:
            raise ValueError(f"negative numbers: partitions {[str(each) for each in backwards]}, counts {dict(self.counts)}")
        passed = sum(position - self.origin[partition] for partition, position in self.positions.items())
        if passed != sum(self.counts.values()):
            raise ValueError(f"{passed} offsets were passed but {sum(self.counts.values())} are counted: {dict(self.counts)}")

    def _placed(self, partition: Partition, position: int, topic_id: str | None, origin: int) -> StreamState:
        """ONE-STATE: a position and the topic that it is in."""
        topic_ids = {**self.topic_ids, partition: topic_id}
        return replace(
            self,
            origin={**self.origin, partition: origin},
            positions={**self.positions, partition: position},
            topic_ids={each: known for each, known in topic_ids.items() if known is not None},
            commits=self.commits + 1,
        )

    def _advanced(self, partition: Partition, first: int, end: int, outcome: Outcome, event_time_ms: int | None) -> StreamState:
        position = self._position(partition)
        if first != position:
            raise ValueError(f"{partition}: offsets {first} to {end} do not go on from position {position}")
        return replace(
            self,
            positions={**self.positions, partition: end},
            commits=self.commits + 1,
            counts={**self.counts, outcome: self.counts.get(outcome, 0) + end - first},
            watermark_ms=_later(self.watermark_ms, event_time_ms),
        )

    def _position(self, partition: Partition) -> int:
        if partition not in self.positions:
            raise ValueError(f"{partition} is not part of this stream: {sorted(map(str, self.positions))}")
        return self.positions[partition]


def _later(watermark_ms: int | None, event_time_ms: int | None) -> int | None:
    times_ms = [time_ms for time_ms in (watermark_ms, event_time_ms) if time_ms is not None]
    return max(times_ms, default=None)


def format_positions(positions: Positions) -> dict[str, int]:
    """As JSON has it, in the order of topic and number.

    >>> format_positions({Partition("news", 10): 7, Partition("news", 9): 41})
    {'news/9': 41, 'news/10': 7}
    """
    return {str(partition): positions[partition] for partition in sorted(positions)}


def parse_positions(named: Mapping[str, int]) -> dict[Partition, int]:
    """What `format_positions` wrote. Raises ValueError for a name that is no partition or a position that is no integer.

    >>> parse_positions({"news/0": 41})
    {Partition(topic='news', number=0): 41}
    """
    for name, position in named.items():
        if type(position) is not int:  # nor True, which is an int too
            raise ValueError(f"{name}: {position!r} is not a position")
    return {Partition.parse(name): position for name, position in named.items()}


def format_topic_ids(topic_ids: Mapping[Partition, str]) -> dict[str, str]:
    """As JSON has them, in the order of topic and number."""
    return {str(partition): topic_ids[partition] for partition in sorted(topic_ids)}


def parse_topic_ids(named: Mapping[str, str]) -> dict[Partition, str]:
    """What `format_topic_ids` wrote. Raises ValueError for a name that is no partition.

    >>> parse_topic_ids({"news/0": "q8Xz"})
    {Partition(topic='news', number=0): 'q8Xz'}
    """
    return {Partition.parse(name): topic_id for name, topic_id in named.items()}


def caught_up(positions: Positions, highwaters: Positions) -> bool:
    """Whether every partition stands at or past its high watermark. One whose high watermark is unknown has not caught up.

    >>> caught_up({Partition("news", 0): 41}, {Partition("news", 0): 41}), caught_up({Partition("news", 0): 41}, {})
    (True, False)
    """
    known = all(partition in highwaters for partition in positions)
    return bool(positions) and known and all(position >= highwaters[partition] for partition, position in positions.items())
