"""The stream's side of a replica: everything that speaks Kafka, in a process of its own.

kafka-python is pure Python and can hang; here it neither holds the replica's GIL nor takes it along. Records are decoded here, and
what cannot be learned goes to the dead letters here; the replica is told in order what became of each offset.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from actors.config import StreamConfig
from actors.messages import Learnable, Polled
from pipeline.dead_letters import DeadLetterSink
from pipeline.decode import ReadValue, decode, value_reader
from pipeline.errors import DeadLetterUnacknowledged
from pipeline.fetched import Fetched, Item
from pipeline.kafka_log import batch_end
from pipeline.positions import format_positions, parse_positions, parse_topic_ids
from pipeline.records import DeadLetter, Partition, Record
from pipeline.source import KafkaSource


class PollerClient(Protocol):
    """What a replica needs of its poller, in this process or in another."""

    @property
    def deaths(self) -> int:
        """Processes of it that died or hung."""
        ...

    def poll(self, max_bytes: int, timeout_s: float) -> Polled: ...

    def reject(self, letter: DeadLetter) -> None: ...

    def flush(self, timeout_s: float) -> None: ...

    def commit(self, positions: Mapping[str, int], metadata: str) -> None: ...

    def renew(self) -> None: ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadOne:
    """What `Poller.read_one` gives: at most one record, as it came. `at_end`: partitions that have no more, as TOPIC/PARTITION."""

    items: tuple[Item, ...]
    positions: Mapping[str, int]
    highwaters: Mapping[Partition, int]
    heard: frozenset[Partition]
    at_end: frozenset[str]
    at_s: float


class Poller:
    """Reads one stream from `positions` on.

    Args:
        config: of the stream.
        positions: where the replica stands, as TOPIC/PARTITION; empty for a stream that was never read.
        topic_ids: of the topics that the positions are in, as TOPIC/PARTITION, so that one made anew is noticed.
        owns_lineage: whether dead letters and commits are this poller's to make; the other replicas read the same records.
    """

    def __init__(self, config: StreamConfig, positions: Mapping[str, int], owns_lineage: bool, topic_ids: Mapping[str, str]) -> None:
        self._config = config
        self._source = KafkaSource(config.kafka, parse_positions(positions), parse_topic_ids(topic_ids))
        self._sink = DeadLetterSink(config.kafka, config.dead_letters) if owns_lineage else None
        self._owns_lineage = owns_lineage
        self._overdue = False
        self._read: ReadValue | None = None
        self._fetched: tuple[Fetched, float] | None = None

    def poll(self, max_bytes: int, timeout_s: float) -> Polled:
        """The next items; raises as `KafkaSource.poll` does, RegistryUnavailable and DeadLetterUnacknowledged; goes on at the next call."""
        if self._overdue:
            # Before anything new is read (BOUNDED), and before the position moves: a batch that was read is always handed over.
            self.flush(self._config.dead_letters.flush_timeout_s)
        if self._fetched is None:
            asked_s = time.time()  # what the broker says is at least as new as this
            self._fetched = self._source.poll(max_bytes, timeout_s), asked_s
        # NOTHING-SILENT: what was fetched is kept until all of it is decoded. A schema registry that is away is waited for.
        fetched, asked_s = self._fetched
        items = tuple(self._decoded(item) for item in fetched.items)
        self._fetched = None
        for letter in items:
            if isinstance(letter, DeadLetter):
                self.reject(letter)
        positions = format_positions(fetched.positions)
        return Polled(
            items=items,
            positions=positions,
            highwaters=fetched.highwaters,
            heard=fetched.heard,
            at_s=asked_s,
        )

    def read_one(self, partition: str | None, timeout_s: float) -> ReadOne:
        """At most one record of one partition, undecoded, and nothing of any other is touched; None: only connect. Raises as `poll`."""
        asked_s = time.time()
        fetched = self._source.poll_one(None if partition is None else Partition.parse(partition), timeout_s)
        at_end = {each for each, end in fetched.highwaters.items() if fetched.positions.get(each, -1) >= end}
        return ReadOne(
            items=fetched.items,
            positions=format_positions(fetched.positions),
            highwaters=fetched.highwaters,
            heard=fetched.heard,
            at_end=frozenset(map(str, at_end)),
            at_s=asked_s,
        )

    def decode_one(self, record: Record) -> Learnable:
        """What `read_one` gave, decoded; a dead letter is sent."""
        item = self._decoded(record)
        if isinstance(item, DeadLetter):
            self.reject(item)
        return item

    def batch_end(self, partition: str, position: int) -> int:
        """Where the batch at a position ends, as its header says; nothing of it is unfolded or parsed."""
        return batch_end(self._config.kafka, Partition.parse(partition), position)

    def _decoded(self, item: Item) -> Learnable:
        self._read = self._read or value_reader(self._config.decode)
        return decode(item, self._config.decode, self._read) if isinstance(item, Record) else item

    def reject(self, letter: DeadLetter) -> None:
        """Send a dead letter. One that is not acknowledged is kept, and `flush` says so before its position becomes durable."""
        if self._sink is None:
            return
        try:
            self._sink.send(letter, wait=not self._overdue)
        except DeadLetterUnacknowledged:
            self._overdue = True

    def flush(self, timeout_s: float) -> None:
        """Return once all dead letters are acknowledged; raises DeadLetterUnacknowledged."""
        if self._sink is not None:
            self._sink.flush(timeout_s)
        self._overdue = False

    def commit(self, positions: Mapping[str, int], metadata: str) -> None:
        """Tell the consumer group, for lag tools."""
        if self._owns_lineage:
            self._source.commit(parse_positions(positions), metadata)

    def renew(self) -> None:
        """Nothing to do: this poller lives as long as its process."""

    def close(self) -> None:
        self._source.close()
        if self._sink is not None:
            self._sink.close()
