"""What a real broker does when things go wrong, and that no offset is lost, repeated or passed in silence over it."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from pipeline.dead_letters import DeadLetterConfig, DeadLetterSink
from pipeline.errors import BrokerUnavailable, DataLoss, DeadLetterUnacknowledged, StreamError
from pipeline.fetched import Fetched, Gap, GapReason, Identified, Item, Joined, Rewind, end_of
from pipeline.kafka_client import KafkaConfig, TopicPartition, admin_client, close_producer, new_producer
from pipeline.positions import caught_up
from pipeline.publish import Publisher, delete_topic
from pipeline.records import DeadLetter, Disposition, Partition, Reason, Record
from pipeline.source import KafkaSource

if TYPE_CHECKING:
    from tests.fault.conftest import ApacheKafka

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]
MANY = 1 << 20


@contextlib.contextmanager
def producer(config: KafkaConfig, **options: Any) -> Iterator[Any]:
    made = new_producer(config)
    try:
        yield made
    finally:
        close_producer(made, 5)


@contextlib.contextmanager
def transactional(config: KafkaConfig) -> Iterator[Any]:
    from kafka import KafkaProducer

    made = KafkaProducer(bootstrap_servers=list(config.bootstrap_servers), transactional_id="feed")
    try:
        made.init_transactions()
        yield made
    finally:
        made.close(timeout=5)


def send(config: KafkaConfig, *values: bytes) -> None:
    """Each acknowledged before the next, so each is a batch of its own."""
    with producer(config) as feed:
        for value in values:
            feed.send(config.topics[0], value=value).get(timeout=30)


def read_until(source: KafkaSource, enough: Callable[[list[Item], Fetched], bool], patience_s: float = 60) -> list[Item]:
    """What comes until `enough`, without the joining of the partitions."""
    items: list[Item] = []
    deadline_s = time.monotonic() + patience_s
    while time.monotonic() < deadline_s:
        with contextlib.suppress(BrokerUnavailable):
            fetched = source.poll(MANY, 0.2)
            items.extend(item for item in fetched.items if not isinstance(item, Joined | Identified))
            if enough(items, fetched):
                return items
    raise AssertionError(f"not enough: {items[-3:]} {source.facts}")


def at_end(items: list[Item], fetched: Fetched) -> bool:
    return caught_up(fetched.positions, fetched.highwaters)


def values(items: list[Item]) -> list[bytes | None]:
    return [item.value for item in items if isinstance(item, Record)]


def poll_in_vain(source: KafkaSource) -> None:
    for _ in range(60):
        assert source.poll(MANY, 0.2).items == ()


def assert_nothing_silent(items: list[Item], origin: int, end: int) -> None:
    """Every offset from `origin` to `end` is accounted for, once, in order."""
    position = origin
    for item in items:
        first = item.first if isinstance(item, Gap) else end_of(item) - 1
        assert first == position, item
        position = end_of(item)
    assert position == end


def numbers(count: int, first: int = 0) -> list[bytes]:
    return [b"item %04d" % each for each in range(first, first + count)]


@pytest.mark.parametrize(("policy", "restart"), [("earliest", 0), ("latest", 5)])
def test_a_position_past_the_end(apache: ApacheKafka, policy: str, restart: int) -> None:
    config = apache.config()
    apache.create_topic(config)
    send(config, *numbers(5))
    partition = Partition(config.topics[0], 0)
    with KafkaSource(config, {partition: 50}) as source:
        for _ in range(2):
            with pytest.raises(DataLoss, match="position 50"):
                source.check_positions()
    with KafkaSource(config.model_copy(update={"on_data_loss": policy}), {partition: 50}) as source:
        source.check_positions()
        items = read_until(source, at_end)
        rewind = items.pop(0)
        assert isinstance(rewind, Rewind) and (rewind.passed, rewind.position) == (50, restart)
        assert values(items) == numbers(5)[restart:]


@pytest.mark.parametrize(("policy", "restart"), [("earliest", 4), ("latest", 6)])
def test_a_position_that_has_aged_out_is_counted_as_lost(apache: ApacheKafka, policy: str, restart: int) -> None:
    config = apache.config()
    apache.create_topic(config)
    send(config, *numbers(6))
    partition = Partition(config.topics[0], 0)
    with admin_client(config) as admin:
        admin.delete_records({TopicPartition(*partition): 4})
    with KafkaSource(config, {partition: 1}) as source, pytest.raises(DataLoss, match="position 1: the log begins at 4"):
        source.connect()
    with KafkaSource(config.model_copy(update={"on_data_loss": policy}), {partition: 1}) as source:
        items = read_until(source, at_end)
    assert items[0] == Gap(partition=partition, first=1, end=restart, reason=GapReason.LOST)
    assert_nothing_silent(items, 1, 6)


def test_a_topic_made_anew_under_a_reader(apache: ApacheKafka) -> None:
    config = apache.config(on_data_loss="earliest", silence_s=3.0)
    apache.create_topic(config)
    send(config, *numbers(10))
    with KafkaSource(config) as source:
        assert values(read_until(source, at_end)) == numbers(10)
        delete_topic(config, config.topics[0])
        apache.create_topic(config)
        send(config, *numbers(3, first=100))
        items = read_until(source, lambda items, _: values(items)[-1:] == numbers(1, first=102))
    assert isinstance(items[0], Rewind) and items[0].position == 0
    assert values(items) == numbers(3, first=100)


def test_the_broker_is_killed_and_comes_back_while_the_stream_is_read(apache: ApacheKafka) -> None:
    config = apache.config(silence_s=2.0)
    apache.create_topic(config)
    send(config, *numbers(20))
    with KafkaSource(config) as source:
        items = read_until(source, at_end)
        apache.kill()
        back = threading.Timer(4.0, apache.start)
        back.start()
        unavailable = 0
        deadline_s = time.monotonic() + 5
        while time.monotonic() < deadline_s:
            try:
                assert source.poll(MANY, 0.2).items == ()
            except BrokerUnavailable:
                unavailable += 1
        back.join()
        assert unavailable > 0, "a dead broker is said, not waited out in silence"
        apache.await_answer(config)
        send(config, *numbers(20, first=20))
        items += read_until(source, lambda new, _: len(values(new)) >= 20)
    assert values(items) == numbers(40)
    assert_nothing_silent(items, 0, 40)


def test_the_broker_is_killed_in_the_middle_of_a_backlog(apache: ApacheKafka) -> None:
    config = apache.config(silence_s=2.0, max_poll_bytes=4096, max_partition_bytes=2048)
    apache.create_topic(config)
    send(config, *numbers(300))
    with KafkaSource(config) as source:
        items: list[Item] = []
        while len(items) < 50:
            items.extend(item for item in source.poll(1024, 0.2).items if not isinstance(item, Joined))
        apache.kill()
        apache.start()
        items += read_until(source, at_end)
    assert values(items) == numbers(300)
    assert_nothing_silent(items, 0, 300)


def test_a_broker_that_hangs_with_its_connections_open(apache: ApacheKafka) -> None:
    config = apache.config(silence_s=1.0, request_timeout_s=1.0)
    apache.create_topic(config)
    send(config, *numbers(3))
    with KafkaSource(config) as source:
        items = read_until(source, at_end)
        apache.freeze()
        try:
            with pytest.raises(BrokerUnavailable):
                poll_in_vain(source)
            assert source.facts.rebuilds == 1
        finally:
            apache.thaw()
        apache.await_answer(config)
        send(config, *numbers(3, first=3))
        items += read_until(source, lambda new, _: len(values(new)) == 3)
    assert values(items) == numbers(6)


def test_a_log_cut_off_by_the_disk_is_data_loss(apache: ApacheKafka) -> None:
    config = apache.config(on_data_loss="latest", silence_s=2.0)
    apache.create_topic(config)
    send(config, *numbers(10))
    with KafkaSource(config) as source:
        read_until(source, at_end)
        apache.kill()
        segment = apache.segment(config.topics[0])
        with open(segment, "r+b") as log:
            log.truncate(segment.stat().st_size // 2)
        apache.start()
        items = read_until(source, lambda items, _: bool(items))
        assert isinstance(items[0], Rewind) and items[0].passed == 10 and 0 < items[0].position < 10
        send(config, b"after")
        assert values(read_until(source, lambda items, _: bool(items))) == [b"after"]


def test_transaction_markers_and_aborted_records_are_gaps(apache: ApacheKafka) -> None:
    config = apache.config()
    apache.create_topic(config)
    topic = config.topics[0]
    with transactional(config) as feed:
        for values_sent, end in ((numbers(3), "commit"), (numbers(2, first=3), "abort"), (numbers(1, first=5), "commit")):
            feed.begin_transaction()
            for value in values_sent:
                feed.send(topic, value=value)
            feed.flush()
            feed.commit_transaction() if end == "commit" else feed.abort_transaction()
    with KafkaSource(config) as source:
        items = read_until(source, at_end)
    assert values(items) == [*numbers(3), *numbers(1, first=5)]
    assert {item.reason for item in items if isinstance(item, Gap)} == {GapReason.ABSENT}
    assert_nothing_silent(items, 0, 9)
    with KafkaSource(config.model_copy(update={"isolation_level": "read_uncommitted"})) as source:
        items = read_until(source, at_end)
    assert values(items) == numbers(6)
    assert_nothing_silent(items, 0, 9)


def test_an_open_transaction_is_no_stall(apache: ApacheKafka) -> None:
    config = apache.config(stall_s=0.5, stall_rebuilds=1)
    apache.create_topic(config)
    with transactional(config) as feed, KafkaSource(config) as source:
        feed.begin_transaction()
        feed.send(config.topics[0], value=b"held back").get(timeout=30)
        assert [source.poll(MANY, 0.5).records for _ in range(6)] == [()] * 6
        assert source.facts.rebuilds == 0 and source.highwaters[Partition(config.topics[0], 0)] == 1
        feed.commit_transaction()
        assert values(read_until(source, at_end)) == [b"held back"]


def test_what_compaction_took_away_is_a_gap(apache: ApacheKafka) -> None:
    config = apache.config()
    settings = {"cleanup.policy": "compact", "segment.ms": "100", "min.cleanable.dirty.ratio": "0.001", "max.compaction.lag.ms": "100"}
    apache.create_topic(config, settings=settings)

    def compacted() -> list[Item]:
        with KafkaSource(config) as source:
            return read_until(source, at_end)

    deadline_s, sent, items = time.monotonic() + 90, 0, list[Item]()
    with producer(config) as feed:
        while not any(isinstance(item, Gap) for item in items):
            assert time.monotonic() < deadline_s, "the broker did not compact"
            for _ in range(10):
                feed.send(config.topics[0], key=b"same story", value=b"version %d" % sent).get(timeout=30)
                sent += 1
            time.sleep(0.5)
            items = compacted()
    assert_nothing_silent(items, 0, sent)
    assert values(items)[-1] == b"version %d" % (sent - 1)


def test_a_flipped_bit_on_the_brokers_disk_is_a_gap_and_reading_goes_on(apache: ApacheKafka) -> None:
    config = apache.config()
    apache.create_topic(config)
    send(config, *numbers(6))
    segment = apache.segment(config.topics[0])
    at = segment.read_bytes().index(b"item 0003")
    with open(segment, "r+b") as log:
        log.seek(at)
        log.write(b"I")
    with KafkaSource(config) as source:
        items = read_until(source, at_end)
    assert values(items) == [each for each in numbers(6) if each != b"item 0003"]
    assert [item for item in items if isinstance(item, Gap)] == [
        Gap(partition=Partition(config.topics[0], 0), first=3, end=4, reason=GapReason.UNREADABLE)
    ]
    assert_nothing_silent(items, 0, 6)


@pytest.mark.parametrize("codec", ["gzip", "snappy", "lz4", "zstd"])
def test_compressed_topics_are_read(apache: ApacheKafka, codec: str) -> None:
    config = apache.config()
    apache.create_topic(config, settings={"compression.type": codec})
    send(config, *numbers(5))
    with KafkaSource(config) as source:
        assert values(read_until(source, at_end)) == numbers(5)


def test_lag_tools_see_the_snapshots_positions_and_name(apache: ApacheKafka) -> None:
    config = apache.config(group_id="memstream-world")
    apache.create_topic(config)
    send(config, *numbers(3))
    with KafkaSource(config) as source:
        read_until(source, at_end)
        source.commit(source.positions, metadata="epoch 7")
        with admin_client(config) as admin:
            committed = repr(admin.list_group_offsets("memstream-world"))
    assert "offset=3" in committed and "epoch 7" in committed


def test_a_dead_letter_too_large_for_its_topic_goes_without_its_value(apache: ApacheKafka) -> None:
    config = apache.config()
    letters = config.model_copy(update={"topics": (f"{config.topics[0]}.dead-letters",)})
    apache.create_topic(letters, settings={"max.message.bytes": "2000"})
    record = Record(partition=Partition(config.topics[0], 0), offset=7, timestamp_ms=0, key=b"key", value=b"x" * 5000)
    with DeadLetterSink(config, DeadLetterConfig()) as sink:
        sink.send(DeadLetter(record=record, reason=Reason.TOO_LARGE, disposition=Disposition.OVERSIZE, detail="5000 bytes"))
        sink.flush(20)
    with KafkaSource(letters) as source:
        (letter,) = read_until(source, at_end)
    assert isinstance(letter, Record) and (letter.key, letter.value) == (b"key", b"")
    assert dict(letter.headers)["memstream.omitted_value_bytes"] == b"5000"


@pytest.mark.parametrize(
    ("settings", "record"),
    [
        ({"max.message.bytes": "2000"}, {"key": b"key", "headers": (("trace", b"x" * 5000),)}),
        ({"max.message.bytes": "2000"}, {"key": b"x" * 5000}),
        ({"cleanup.policy": "compact"}, {"key": None}),
    ],
)
def test_a_dead_letter_is_made_into_one_that_its_topic_takes(apache: ApacheKafka, settings: dict[str, str], record: dict[str, Any]) -> None:
    config = apache.config()
    letters = config.model_copy(update={"topics": (f"{config.topics[0]}.dead-letters",)})
    apache.create_topic(letters, settings=settings)
    whole = Record(partition=Partition(config.topics[0], 0), offset=7, timestamp_ms=0, value=b"{", **record)
    with DeadLetterSink(config, DeadLetterConfig()) as sink:
        sink.send(DeadLetter(record=whole, reason=Reason.BAD_JSON, disposition=Disposition.MALFORMED, detail="no end"))
        sink.flush(20)
    with KafkaSource(letters) as source:
        (letter,) = read_until(source, at_end)
    assert isinstance(letter, Record) and dict(letter.headers)["memstream.offset"] == b"7"


def test_dead_letters_outlive_the_brokers_death(apache: ApacheKafka) -> None:
    config = apache.config(request_timeout_s=2.0)
    record = Record(partition=Partition(config.topics[0], 0), offset=0, timestamp_ms=0, value=b"{")
    letter = DeadLetter(record=record, reason=Reason.BAD_JSON, disposition=Disposition.MALFORMED, detail="no end")
    with DeadLetterSink(config, DeadLetterConfig()) as sink:
        sink.send(letter)
        sink.flush(20)
        apache.kill()
        sink.send(letter)
        with pytest.raises(DeadLetterUnacknowledged, match="1 dead letters"):
            sink.flush(1)
        sink.send(letter)
        apache.start()
        sink.flush(60)
        assert sink.pending == 0
        with KafkaSource(config.model_copy(update={"topics": (sink.topic,)})) as source:
            assert len(read_until(source, at_end)) >= 3


def test_a_document_that_the_topic_refuses_does_not_spoil_the_next(apache: ApacheKafka) -> None:
    config = apache.config()
    apache.create_topic(config, settings={"max.message.bytes": "2000"})
    with Publisher(config, config.topics[0]) as publisher:
        with pytest.raises(StreamError, match=r"MESSAGE_SIZE_TOO_LARGE|MessageSizeTooLarge"):
            publisher.publish_one({"text": "x" * 5000})
        assert publisher.publish_one({"text": "short"}).offset == 0
