"""Questions to a consumer about the log, each with the answer that can be trusted.

Four things that kafka-python 3.0.12 or a broker gets wrong are dealt with here: after a record that cannot be read, `poll` never returns
(its state must be left by a seek to another offset, or with the consumer); `end_offsets` of the embedded broker is wrong while the high
watermark of a fetch is right; a high watermark is kept without saying when it came; a partition that was paused may never be read again.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pipeline.errors import BrokerUnavailable, ResourcesExhausted, StreamError
from pipeline.kafka_batches import Span, UnreadableBatch, headers_only, is_parse_error
from pipeline.kafka_client import Consumer, KafkaConfig, TopicPartition, kafka_errors, new_consumer, of_kafka, to_kafka, translating
from pipeline.kafka_patches import drop_used_up_answer, forget_highwater
from pipeline.records import Partition, Record

_ONE_POLL_S = 0.5


class UnreadableRecord(StreamError):
    """The bytes at a position are no records. They are stepped over and counted as a gap; look at the broker's disk.

    `partition` and `span` say where, as far as that is known.
    """

    def __init__(self, message: str, partition: Partition | None = None, span: Span | None = None) -> None:
        super().__init__(message)
        self.partition, self.span = partition, span


def poll_batches(consumer: Consumer, timeout_s: float, max_records: int) -> Mapping[TopicPartition, Sequence[Any]]:
    """The next records, undecoded. Raises UnreadableRecord, after which this consumer must not be polled at the same positions again."""
    try:
        batches: Mapping[TopicPartition, Sequence[Any]] = consumer.poll(timeout_ms=int(timeout_s * 1000), max_records=max_records)
        return batches
    except UnreadableBatch as error:
        raise UnreadableRecord(str(error), of_kafka(error.partition), error.span) from error
    except kafka_errors.KafkaError as error:
        if is_parse_error(error):
            raise UnreadableRecord(str(error)) from error
        raise
    except (MemoryError, OSError) as error:  # this machine's trouble, not the bytes'
        raise ResourcesExhausted(f"this machine cannot read on: {type(error).__name__}: {error}") from error
    except Exception as error:  # the failure boundary of reading: parsers and codecs raise whatever they like at bytes from outside
        raise UnreadableRecord(f"{type(error).__name__}: {error}") from error


def record_of(partition: Partition, consumed: Any) -> Record:
    """Ours of kafka-python's. A header without a value counts as an empty one, which is all that `Record` can say."""
    return Record(
        partition=partition,
        offset=consumed.offset,
        timestamp_ms=consumed.timestamp,
        key=consumed.key,
        value=consumed.value,
        headers=tuple((name, value or b"") for name, value in consumed.headers),
    )


def take_highwater(consumer: Consumer, partition: Partition) -> int | None:
    """The high watermark that came with an answer since the last call, or None if none came.

    kafka-python keeps it without a time, so a dead broker would look like a log whose end was reached; hence the reset.
    """
    highwater: int | None = consumer.highwater(to_kafka(partition))
    if highwater is not None:
        forget_highwater(consumer, to_kafka(partition))
    return highwater


def read_only(consumer: Consumer, reading: Iterable[Partition], paused: Iterable[Partition]) -> None:
    """Pause some partitions and read the others. What a paused one has fetched already is kept until it is resumed.

    kafka-python 3.0.12 looks for what it has kept only while no answer is in the works, and an answer that is used up stays there: without
    the line below a resumed partition is never read again, nor fetched, while the others go on.
    """
    consumer.pause(*map(to_kafka, paused))
    consumer.resume(*map(to_kafka, reading))
    drop_used_up_answer(consumer)


def beginnings(consumer: Consumer, partitions: Iterable[Partition]) -> dict[Partition, int]:
    """The first offset that each log still holds."""
    offsets = consumer.beginning_offsets([to_kafka(partition) for partition in partitions])
    return {of_kafka(partition): offset for partition, offset in offsets.items()}


def committed_ends(config: KafkaConfig, partitions: Iterable[Partition]) -> dict[Partition, int]:
    """How far each log holds committed records: an open transaction ends it. Not to be asked of the embedded broker."""
    consumer = new_consumer(config)
    try:
        with translating(config):
            offsets = consumer.end_offsets([to_kafka(partition) for partition in partitions])
    finally:
        consumer.close()
    return {of_kafka(partition): offset for partition, offset in offsets.items()}


def ends(config: KafkaConfig, begins: Mapping[Partition, int]) -> dict[Partition, int]:
    """The high watermark of each log, asked with a fetch at its beginning. Raises BrokerUnavailable if it does not come in time."""
    consumer, found, deadline_s = new_consumer(config), dict[Partition, int](), time.monotonic() + config.request_timeout_s
    try:
        _assign(consumer, begins)
        while len(found) < len(begins):
            if time.monotonic() > deadline_s:
                raise BrokerUnavailable(f"the end of {sorted(map(str, begins.keys() - found.keys()))} could not be found out")
            poll_batches(consumer, _ONE_POLL_S, max_records=1)
            for partition in begins.keys() - found.keys():
                if (highwater := take_highwater(consumer, partition)) is not None:
                    found[partition] = highwater
                    consumer.pause(to_kafka(partition))
    finally:
        consumer.close()
    return found


def readable_from(config: KafkaConfig, partition: Partition, position: int) -> int:
    """The first offset from `position` on that can be read; `position` itself if nothing is wrong there.

    Raises StreamError if that is more than `max_unreadable` away: then it is not about some records.
    """
    consumer = new_consumer(config)
    try:
        _assign(consumer, {partition: position})
        for offset in range(position, position + config.max_unreadable + 1):
            consumer.seek(to_kafka(partition), offset)
            if _readable(consumer, partition, config.request_timeout_s):
                return offset
    finally:
        consumer.close()
    raise StreamError(f"{partition}: nothing from {position} to {offset} can be read; check its disk, or raise kafka.max_unreadable")


def batch_end(config: KafkaConfig, partition: Partition, position: int) -> int:
    """Where the batch at a position ends. Only its header is looked at: for what must not be unfolded. The next offset if it tells nothing.

    Raises BrokerUnavailable if it does not come in time.
    """
    consumer, deadline_s = new_consumer(config), time.monotonic() + config.request_timeout_s
    try:
        _assign(consumer, {partition: position})
        while time.monotonic() < deadline_s:
            try:
                with headers_only():
                    poll_batches(consumer, _ONE_POLL_S, max_records=1)
            except UnreadableRecord as error:
                highwater = take_highwater(consumer, partition)
                span = error.span
                known = span is not None and (span.sure or (highwater is not None and span.end <= highwater))
                return span.end if span is not None and known and span.end > position else position + 1
    finally:
        consumer.close()
    raise BrokerUnavailable(f"no answer for {partition} at {position}")


def _assign(consumer: Consumer, positions: Mapping[Partition, int]) -> None:
    consumer.assign([to_kafka(partition) for partition in positions])
    for partition, position in positions.items():
        consumer.seek(to_kafka(partition), position)


def _readable(consumer: Consumer, partition: Partition, timeout_s: float) -> bool:
    take_highwater(consumer, partition)
    deadline_s = time.monotonic() + timeout_s
    while time.monotonic() < deadline_s:
        try:
            batches = poll_batches(consumer, _ONE_POLL_S, max_records=1)
        except UnreadableRecord:
            return False
        if batches or take_highwater(consumer, partition) is not None:
            return True
    raise BrokerUnavailable(f"no answer for {partition} while stepping over what cannot be read")
