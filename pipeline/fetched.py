"""What reading gives, in order, and the buffer that deals it out fairly.

    poll of Kafka -> items of each partition, in offset order -> FairBuffer -> Fetched

NOTHING-SILENT: an item accounts for offsets passed (a record, a gap) or says that a position moves otherwise (a rewind, a new partition).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

from pipeline.records import Partition, Positions, Record

# what a record's objects themselves take counts too: a million empty records are not nothing
OVERHEAD_BYTES = 256


class GapReason(StrEnum):
    """Why offsets were passed without a record."""

    ABSENT = "absent"
    """Nothing is there: compacted away, a transaction's marker, an aborted record."""
    UNREADABLE = "unreadable"
    """Something is there, but its bytes cannot be read: a wrong checksum, a broken header."""
    LOST = "lost"
    """Aged out before it was read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """The offsets `first` up to and without `end`, at which there is no record to learn.

    >>> Gap(partition=Partition("news", 0), first=3, end=5, reason=GapReason.ABSENT).size
    2
    """

    partition: Partition
    first: int
    end: int
    reason: GapReason

    @property
    def size(self) -> int:
        return self.end - self.first


@dataclass(frozen=True, slots=True, kw_only=True)
class Rewind:
    """The log was recreated or truncated: reading goes on at `position`, not after `passed`, where it stood.

    `topic_id`: of the topic that it goes on in, as Kafka has it; the same position is another one in another topic.
    """

    partition: Partition
    passed: int
    position: int
    topic_id: str | None
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Joined:
    """A partition that had no position, at the start of a stream or later; it is read from `position` on.

    `topic_id`: Kafka's own, None where the broker is too old to tell.
    """

    partition: Partition
    position: int
    topic_id: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Identified:
    """A position whose topic had no id so far, since the broker told none: it stays where it is."""

    partition: Partition
    position: int
    topic_id: str


Placed: TypeAlias = Rewind | Joined | Identified
"""Where a position is, and in which topic: the two change together."""

Item: TypeAlias = Record | Gap | Placed


def end_of(item: Item) -> int:
    """The position of the item's partition once it has been passed."""
    return item.position if isinstance(item, Placed) else item.end


def topic_ids_after(topic_ids: Mapping[str, str], items: Iterable[object]) -> dict[str, str]:
    """The ids of the topics that positions are in, by TOPIC/PARTITION, once some items have been passed.

    >>> topic_ids_after({}, [Joined(partition=Partition("news", 0), position=0, topic_id="q8Xz")])
    {'news/0': 'q8Xz'}
    """
    placed = {str(item.partition): item.topic_id for item in items if isinstance(item, Placed)}
    return {name: topic_id for name, topic_id in {**topic_ids, **placed}.items() if topic_id is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """One poll's result. `items` are in order within a partition; apply them one after the other, then positions are `positions`.

    `highwaters`: the end of each partition as the latest answer told it. `heard`: the partitions that an answer came for during this
    poll, so whose high watermark is of now.
    """

    items: tuple[Item, ...]
    positions: Positions
    highwaters: Mapping[Partition, int]
    heard: frozenset[Partition]

    @property
    def records(self) -> tuple[Record, ...]:
        return tuple(item for item in self.items if isinstance(item, Record))

    @property
    def gaps(self) -> tuple[Gap, ...]:
        return tuple(item for item in self.items if isinstance(item, Gap))


class FairBuffer:
    """Items read ahead, dealt out one record a partition in turn, so that a backlog in one does not hide the news in another.

    BOUNDED: a partition with `share_bytes` or more is `full`; the reader pauses it until it is not.
    """

    def __init__(self, share_bytes: int) -> None:
        self.share_bytes = share_bytes
        self._queues: dict[Partition, deque[Item]] = {}
        self._sizes_bytes: dict[Partition, int] = {}

    @property
    def size_bytes(self) -> int:
        return sum(self._sizes_bytes.values())

    @property
    def empty(self) -> bool:
        return not self._queues

    def full(self, partition: Partition) -> bool:
        return self._sizes_bytes.get(partition, 0) >= self.share_bytes

    def put(self, item: Item) -> None:
        """Append to the partition's items."""
        self._queues.setdefault(item.partition, deque()).append(item)
        self._sizes_bytes[item.partition] = self._sizes_bytes.get(item.partition, 0) + _size_bytes(item)

    def take(self, max_bytes: int) -> tuple[Item, ...]:
        """Items of at most `max_bytes` together, in turn; one record comes even if it is larger."""
        taken: list[Item] = []
        room_bytes, records = max_bytes, 0
        while self._queues:
            partition = next(iter(self._queues))
            size_bytes = _size_bytes(self._queues[partition][0])
            if size_bytes > room_bytes and records:
                break
            room_bytes -= size_bytes
            taken.append(self._pop(partition))
            records += size_bytes > 0
        return tuple(taken)

    def _pop(self, partition: Partition) -> Item:
        queue = self._queues.pop(partition)
        item = queue.popleft()
        self._sizes_bytes[partition] -= _size_bytes(item)
        if queue:
            self._queues[partition] = queue  # to the end of the dictionary's order: the other partitions come first now
        return item


def _size_bytes(item: Item) -> int:
    return item.size_bytes + OVERHEAD_BYTES if isinstance(item, Record) else 0
