"""Reads the topics of one stream from Kafka, from given positions on, and says of every offset what became of it.

    consumer.poll -> records and gaps in order -> FairBuffer -> poll() -> Fetched

A consumer of kafka-python is never polled again after it raised: it is closed, and a new one begins at the positions read so far. So what
went wrong inside it cannot matter, and whatever the positions need (data loss, new partitions, unreadable bytes) is settled in one place,
`_open`, before the first poll.

A poll can still hang inside kafka-python. It runs in a process of its own; `facts` may be read from another thread there and says since
when a poll has been under way.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from pipeline.errors import BrokerUnavailable, ConfigurationError, DataLoss, PartitionStalled, StreamError
from pipeline.fetched import FairBuffer, Fetched, Gap, GapReason, Identified, Item, Joined, Placed, Rewind, end_of
from pipeline.kafka_client import (
    Closing,
    Consumer,
    KafkaConfig,
    OffsetAndMetadata,
    kafka_errors,
    new_consumer,
    of_kafka,
    to_kafka,
    translated,
    translating,
)
from pipeline.kafka_log import UnreadableRecord, beginnings, ends, poll_batches, read_only, readable_from, record_of, take_highwater
from pipeline.records import Partition, Positions
from pipeline.source_facts import PartitionFacts, SourceFacts
from pipeline.topics import TopicFacts, describe_topics
from pipeline.watchdog import Watchdog

__all__ = ["KafkaConfig", "KafkaSource", "PartitionFacts", "SourceFacts"]

log = logging.getLogger(__name__)

_MAX_RECORDS = 500
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.2, 5.0
# answers in a row that say the log ends before our position: one alone may come from a replica that has just become leader
_ANSWERS_PAST_END = 6
_ERRORS_IN_A_ROW = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class _Doubt:
    """Why a position may not be in its log any more; `diverged` is the offset up to which the log is still the one that was read.

    `topic_id`: of the topic that is there now, where that is another one.
    """

    why: str
    diverged: int = 0
    topic_id: str | None = None


class KafkaSource(Closing):
    """A stream's records from `positions` on. A partition without one comes as `Joined` first.

    It begins at `config.start` if there are no positions at all, otherwise (it is new) at its beginning.

    `topic_ids` are those of the topics that the positions are in, as `Placed` items told them: with them a topic that was made anew is
    noticed even if it has grown past the position. A position without one comes as `Identified` once the broker tells it. Not for several
    threads, `facts` excepted. Nothing is connected before the first call.
    """

    def __init__(self, config: KafkaConfig, positions: Positions | None = None, topic_ids: Mapping[Partition, str] | None = None) -> None:
        self._config = config
        self._given: dict[Partition, int] = dict(positions or {})
        self._read: dict[Partition, int] = dict(self._given)
        self._topic_ids: dict[Partition, str | None] = dict(topic_ids or {})
        self._highwaters: dict[Partition, int] = {}
        self._buffer = FairBuffer(config.max_poll_bytes)
        self._watchdog = Watchdog(silence_s=config.silence_s, stall_s=config.stall_s)
        self._consumer: Consumer | None = None
        self._committer: Consumer | None = None
        self._doubts: dict[Partition, _Doubt] = {}
        self._past_end: dict[Partition, int] = {}
        self._suspect: tuple[Partition, int] | None = None
        self._settled: set[Partition] = set()
        self._heard_s: dict[Partition, float] = {}
        self._moved_s: dict[Partition, float] = {}
        self._refresh_at_s = 0.0
        self._errors_in_a_row = 0
        self._rebuilds = 0
        self._polling_since_s: float | None = None

    @property
    def positions(self) -> dict[Partition, int]:
        """The next offset of each partition that `poll` has not given yet."""
        return dict(self._given)

    @property
    def highwaters(self) -> dict[Partition, int]:
        return dict(self._highwaters)

    @property
    def facts(self) -> SourceFacts:
        partitions = {
            partition: PartitionFacts(
                position=self._given.get(partition, read_to),
                read_to=read_to,
                highwater=self._highwaters.get(partition),
                heard_s=self._heard_s.get(partition),
                moved_s=self._moved_s.get(partition),
            )
            for partition, read_to in list(self._read.items())
        }
        return SourceFacts(
            connected=self._consumer is not None, polling_since_s=self._polling_since_s, rebuilds=self._rebuilds, partitions=partitions
        )

    def connect(self) -> None:
        """Reach the broker and settle every position against its log. Waits with growing pauses.

        Raises BrokerUnavailable after `start_timeout_s`, ConfigurationError, or DataLoss.
        """
        deadline_s, pause_s = time.monotonic() + self._config.start_timeout_s, _FIRST_PAUSE_S
        while self._consumer is None:
            try:
                self._open()
            except BrokerUnavailable as error:
                if time.monotonic() + pause_s > deadline_s:
                    raise
                log.warning("waiting for Kafka: %s", error)
                time.sleep(pause_s)
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    def check_positions(self) -> None:
        """Connect and wait until each partition has answered at its position, so that data loss shows before anything is learned.

        What was lost comes as items of the next polls. Raises as `connect` does.
        """
        self.connect()
        deadline_s = time.monotonic() + self._config.start_timeout_s
        while self._consumer is None or not self._settled.issuperset(self._read):
            if time.monotonic() > deadline_s:
                raise BrokerUnavailable(f"no answer for {sorted(map(str, self._read.keys() - self._settled))}")
            self._read_ahead(_FIRST_PAUSE_S)

    def poll(self, max_bytes: int, timeout_s: float) -> Fetched:
        """The next items: at most `max_bytes` of records, but at least one record once there is one; waits up to `timeout_s` for it.

        Takes up to a few `request_timeout_s` longer when it must connect anew. Whatever it raises, nothing is lost and the next call goes
        on: BrokerUnavailable and PartitionStalled (retriable), DataLoss, ConfigurationError, StreamError.
        """
        heard_before_s = dict(self._heard_s)
        with self._under_way():
            if self._buffer.empty:
                self._read_ahead(timeout_s)
            elif self._consumer is not None:
                self._read_ahead(0.0)
        return self._taken(max_bytes, heard_before_s)

    def _taken(self, max_bytes: int, heard_before_s: Mapping[Partition, float]) -> Fetched:
        items = self._buffer.take(max_bytes)
        self._given.update({item.partition: end_of(item) for item in items})
        heard = frozenset(partition for partition, at_s in self._heard_s.items() if heard_before_s.get(partition) != at_s)
        return Fetched(items=items, positions=self.positions, highwaters=self.highwaters, heard=heard)

    def poll_one(self, partition: Partition | None, timeout_s: float) -> Fetched:
        """At most one record of one partition; what came of others is not even parsed. None: only connect. Raises as `poll`.

        For whoever must find out which of them kills this process.
        """
        heard_before_s = dict(self._heard_s)
        with self._under_way():
            if self._consumer is None:
                self._open()
            if self._buffer.empty and partition is not None:
                self._read_ahead(timeout_s, partition)
        return self._taken(1, heard_before_s)

    def commit(self, positions: Positions, metadata: str = "") -> None:
        """Tell the consumer group where the stream stands, for lag tools only. Does nothing without a `group_id`; raises StreamError."""
        if self._config.group_id is None:
            return
        offsets = {to_kafka(partition): OffsetAndMetadata(position, metadata, -1) for partition, position in positions.items()}
        # a consumer of its own: one with a group id would make reading wait for the group's coordinator
        self._committer = self._committer or new_consumer(self._config, self._config.group_id)
        try:
            self._committer.commit(offsets, timeout_ms=int(self._config.request_timeout_s * 1000))
        except kafka_errors.KafkaError as error:
            self._committer.close(autocommit=False)
            self._committer = None
            raise translated(error, self._config) from error

    def close(self) -> None:
        """End the connections. What was read ahead is dropped: it comes again from `positions`."""
        self._drop_consumer()
        if self._committer is not None:
            self._committer.close(autocommit=False)
            self._committer = None

    @contextmanager
    def _under_way(self) -> Iterator[None]:
        self._polling_since_s = time.monotonic()
        try:
            yield
        finally:
            self._polling_since_s = None

    # Reading

    def _read_ahead(self, timeout_s: float, only: Partition | None = None) -> None:
        if self._consumer is None:
            self._open()
        self._look_for_changes()
        started_s, read_before = time.monotonic(), dict(self._read)
        try:
            while self._poll_once(timeout_s, only) and only is None:
                timeout_s = 0.0
        except UnreadableRecord as error:
            if error.partition is not None:
                self._hear(error.partition)
            self._drop_consumer()
            self._step_over(error)
        except kafka_errors.KafkaError as error:
            self._drop_consumer()
            self._recover(error)
        else:
            self._errors_in_a_row = 0
            if only is None:
                self._watch(started_s, read_before)

    def _poll_once(self, timeout_s: float, only: Partition | None = None) -> bool:
        """Whether more may be had at once."""
        reading = self._pause_full(only)
        if self._consumer is None or not reading:
            return False
        batches = poll_batches(self._consumer, timeout_s, _MAX_RECORDS if only is None else 1)
        for batch_partition, consumed in batches.items():
            partition = of_kafka(batch_partition)
            for each in consumed:
                self._pass_to(partition, each.offset, GapReason.ABSENT)
                if each.offset == self._read[partition]:
                    self._put(record_of(partition, each))
        for partition in reading:
            self._pass_to(partition, self._consumer.position(to_kafka(partition), timeout_ms=0), GapReason.ABSENT)
            self._hear(partition)
        if self._doubts:
            self._drop_consumer()
        return bool(batches)

    def _pause_full(self, only: Partition | None) -> list[Partition]:
        """BOUNDED: a partition whose share of the buffer is used up is not read; the others still are (`only`: it alone). Returns those."""
        if self._consumer is None:
            return []
        reading = [each for each in self._read if only in (None, each) and not self._buffer.full(each)]
        read_only(self._consumer, reading, paused=[each for each in self._read if each not in reading])
        return reading

    def _pass_to(self, partition: Partition, position: int, reason: GapReason) -> None:
        """NOTHING-SILENT: offsets that were passed without a record are a gap."""
        if position > self._read[partition]:
            self._put(Gap(partition=partition, first=self._read[partition], end=position, reason=reason))

    def _put(self, item: Item) -> None:
        self._buffer.put(item)
        self._read[item.partition] = end_of(item)
        if isinstance(item, Placed):
            self._topic_ids[item.partition] = item.topic_id

    def _hear(self, partition: Partition) -> None:
        highwater = take_highwater(self._consumer, partition)
        if highwater is None:
            return
        self._highwaters[partition] = highwater
        self._heard_s[partition] = time.monotonic()
        if highwater >= self._read[partition]:
            self._past_end.pop(partition, None)
            self._settled.add(partition)
            return
        # a broker that does not refuse positions past the end: the embedded one
        self._past_end[partition] = self._past_end.get(partition, 0) + 1
        if self._past_end[partition] >= _ANSWERS_PAST_END:
            self._doubts[partition] = _Doubt(why=f"the log ends at {highwater}")

    def _watch(self, started_s: float, read_before: Positions) -> None:
        now_s = time.monotonic()
        for partition, read_to in self._read.items():
            progressed = read_to != read_before.get(partition)
            if progressed:
                self._moved_s[partition] = now_s
            if not self._buffer.full(partition):
                self._watchdog.observe(
                    partition,
                    polled_s=now_s - started_s,
                    progressed=progressed,
                    heard=self._heard_s.get(partition, -1.0) >= started_s,
                    behind=self._highwaters.get(partition, read_to) > read_to,
                )
        stuck = [partition for partition in self._watchdog.stuck() if not self._awaits_transaction(partition)]
        if in_vain := [*self._watchdog.silent(), *stuck]:
            self._rebuild(in_vain)

    def _rebuild(self, in_vain: list[Partition]) -> None:
        names = ", ".join(f"{partition} at {self._read[partition]} of {self._highwaters.get(partition)}" for partition in in_vain)
        log.warning("no progress, so the consumer is rebuilt: %s", names)
        self._rebuilds += 1
        self._drop_consumer()
        if self._watchdog.rebuilt(in_vain) >= self._config.stall_rebuilds:
            raise PartitionStalled(f"{names}: no progress after {self._config.stall_rebuilds} rebuilds; look at the broker")

    def _awaits_transaction(self, partition: Partition) -> bool:
        """An open transaction holds back what comes after it: the end for committed readers is then our position."""
        if self._config.isolation_level != "read_committed" or self._consumer is None:
            return False
        try:
            end = self._consumer.end_offsets([to_kafka(partition)])[to_kafka(partition)]
        except kafka_errors.KafkaError:
            return False
        if end == self._read[partition]:
            self._watchdog.excuse(partition)
        return bool(end == self._read[partition])

    # Faults

    def _recover(self, error: Exception) -> None:
        """After an error from kafka-python: what can be settled is settled by the next `_open`; the rest is raised if it repeats."""
        if isinstance(error, kafka_errors.OffsetOutOfRangeError):
            self._doubts.update({of_kafka(each): _Doubt(why=f"{offset} is out of range") for each, offset in error.args[0].items()})
            return
        if isinstance(error, kafka_errors.LogTruncationError):
            for each, divergent in error.divergent_offsets.items():
                diverged = divergent.offset if divergent is not None else 0
                self._doubts[of_kafka(each)] = _Doubt(why=f"the log was truncated to {diverged}", diverged=diverged)
            return
        ours = translated(error, self._config)
        self._count_error(ours, at_once=isinstance(ours, ConfigurationError))

    def _step_over(self, error: UnreadableRecord) -> None:
        """Pass over the batch that cannot be parsed, and over nothing else.

        It is looked at twice: what came wrong over the network is read well the second time. Where its header tells nothing, not even
        which partition it was may be known: then each that has more is tried alone, offset by offset.
        """
        partition, end = error.partition, self._end_of_unreadable(error)
        if partition is None or end is None:
            self._search(error)
        elif self._suspect != (partition, end):
            self._suspect = partition, end
            log.warning("%s: read once more at %d: %s", partition, self._read[partition], error)
        else:
            first = error.span.first if error.span is not None and error.span.first is not None else 0
            self._pass_to(partition, min(first, end), GapReason.ABSENT)
            self._pass_over(partition, end, error)

    def _end_of_unreadable(self, error: UnreadableRecord) -> int | None:
        """Where its batch ends; None where that cannot be believed."""
        if error.partition is None or error.span is None:
            return None
        highwater = self._highwaters.get(error.partition)
        known = error.span.sure or (highwater is not None and error.span.end <= highwater)
        return error.span.end if known and error.span.end > self._read[error.partition] else None

    def _search(self, error: UnreadableRecord) -> None:
        found = False
        for partition, position in list(self._read.items()):
            if self._highwaters.get(partition, position + 1) > position:
                end = readable_from(self._config, partition, position)
                if end > position:
                    self._pass_over(partition, end, error)
                    found = True
        if not found:
            self._count_error(error)

    def _pass_over(self, partition: Partition, end: int, error: UnreadableRecord) -> None:
        first = self._read[partition]
        if self._config.on_unreadable == "fail":
            raise StreamError(
                f"{partition}: the bytes from {first} to {end - 1} are no records ({error}); kafka.on_unreadable: skip passes over them"
            ) from error
        self._pass_to(partition, end, GapReason.UNREADABLE)
        log.error("%s: the offsets from %d to %d cannot be read and are passed over: %s", partition, first, end - 1, error)

    def _count_error(self, error: StreamError | Exception, at_once: bool = False) -> None:
        self._errors_in_a_row += 1
        if at_once or self._errors_in_a_row >= _ERRORS_IN_A_ROW:
            raise error
        log.warning("the consumer is rebuilt after: %s", error)

    def _drop_consumer(self) -> None:
        self._settled.clear()
        self._past_end.clear()
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            consumer.close(autocommit=False)

    # Opening

    def _open(self) -> None:
        """A consumer at the positions read so far, after these were settled against the log."""
        topics = describe_topics(self._config, self._config.topics)
        if missing := [topic for topic in self._config.topics if topic not in topics]:
            raise BrokerUnavailable(f"there is no topic {', '.join(missing)} yet; make it, or correct kafka.topics")
        consumer = new_consumer(self._config)
        try:
            with translating(self._config):
                self._settle(topics, beginnings(consumer, _partitions(topics)))
                consumer.assign([to_kafka(partition) for partition in self._read])
                for partition, position in self._read.items():
                    consumer.seek(to_kafka(partition), position)
        except BaseException:
            consumer.close(autocommit=False)
            raise
        self._consumer = consumer
        self._buffer.share_bytes = self._config.max_poll_bytes // len(self._read)
        self._refresh_at_s = time.monotonic() + self._config.refresh_s

    def _settle(self, topics: Mapping[str, TopicFacts], begins: Mapping[Partition, int]) -> None:
        if gone := sorted(str(partition) for partition in self._read.keys() - begins.keys()):
            raise DataLoss(
                f"{', '.join(gone)}: no such partition in kafka.topics; correct kafka.topics, give the topic as many partitions as it had,"
                " or restore another snapshot"
            )
        self._begin(topics, begins)
        for partition, begin in sorted(begins.items()):
            topic_id = topics[partition.topic].topic_id
            if doubt := self._doubt(partition, begin, topic_id):
                self._restart(partition, begin, doubt)
                self._doubts.pop(partition, None)
            if topic_id is not None and self._topic_ids.get(partition) is None:
                self._put(Identified(partition=partition, position=self._read[partition], topic_id=topic_id))

    def _begin(self, topics: Mapping[str, TopicFacts], begins: Mapping[Partition, int]) -> None:
        """A position for each partition that has none. One that appears later is read from its beginning, whatever `start` says."""
        starts = begins if self._read or self._config.start == "earliest" else ends(self._config, begins)
        for partition in sorted(begins.keys() - self._read.keys()):
            self._put(Joined(partition=partition, position=starts[partition], topic_id=topics[partition.topic].topic_id))

    def _doubt(self, partition: Partition, begin: int, topic_id: str | None) -> _Doubt | None:
        """Whether the log goes on from its position, as far as that is known."""
        known = self._topic_ids.get(partition)
        if known is not None and topic_id not in (None, known):
            return _Doubt(why="the topic was made anew", topic_id=topic_id)
        aged_out = _Doubt(why=f"the log begins at {begin}") if self._read[partition] < begin else None
        return self._doubts.get(partition, aged_out)

    def _restart(self, partition: Partition, begin: int, doubt: _Doubt) -> None:
        """Go on where `on_data_loss` says, and say what was lost."""
        position = self._read[partition]
        if self._config.on_data_loss == "fail":
            raise DataLoss(
                f"{partition}: the log does not go on from position {position}: {doubt.why}. To go on and count the loss, "
                "set kafka.on_data_loss to earliest or latest"
            )
        if self._config.on_data_loss == "earliest":
            restart = max(begin, doubt.diverged)
        else:
            restart = ends(self._config, {partition: begin})[partition]
        log.warning("%s: reading goes on at %d instead of %d: %s", partition, restart, position, doubt.why)
        self._highwaters.pop(partition, None)
        # All of a topic made anew is unread, so what is left out of it is lost from its beginning on.
        back = min(position, restart if doubt.topic_id is None else begin)
        if back < position or doubt.topic_id is not None:
            topic_id = doubt.topic_id or self._topic_ids.get(partition)
            self._put(Rewind(partition=partition, passed=position, position=back, topic_id=topic_id, reason=doubt.why))
        self._pass_to(partition, restart, GapReason.LOST)

    def _look_for_changes(self) -> None:
        if time.monotonic() < self._refresh_at_s:
            return
        self._refresh_at_s = time.monotonic() + self._config.refresh_s
        try:
            topics = describe_topics(self._config, self._config.topics)
        except StreamError as error:
            log.warning("could not look for new partitions: %s", error)
            return
        told = {partition: topics[partition.topic].topic_id for partition in _partitions(topics)}
        if any(each not in self._read or topic_id not in (None, self._topic_ids.get(each)) for each, topic_id in told.items()):
            log.warning("the topics have changed: the consumer is rebuilt")
            self._drop_consumer()
            self._open()


def _partitions(topics: Mapping[str, TopicFacts]) -> set[Partition]:
    return {Partition(topic, number) for topic, facts in topics.items() for number in facts.partitions}
