"""Reading from a broker. What a broker does when it fails is proved against Apache Kafka, in tests/fault."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest
from kafka import KafkaProducer

from jobs.demo.broker import EmbeddedBroker
from pipeline import kafka_patches
from pipeline import source as source_module
from pipeline.errors import BrokerUnavailable, DataLoss, StreamError
from pipeline.fetched import Fetched, Gap, GapReason, Identified, Item, Joined, Rewind, end_of
from pipeline.kafka_client import KafkaConfig, close_producer, new_consumer, new_producer
from pipeline.kafka_log import ends
from pipeline.positions import caught_up
from pipeline.publish import Publisher, delete_topic, ensure_topic
from pipeline.records import Partition, Record
from pipeline.source import KafkaSource
from pipeline.topics import describe_topics

MANY = 1 << 20


def send(kafka: KafkaConfig, *values: bytes | None, partition: int = 0, **more: object) -> None:
    producer = new_producer(kafka)
    for future in [producer.send(kafka.topics[0], key=b"key", value=value, partition=partition, **more) for value in values]:
        future.get(timeout=10)
    close_producer(producer, 5)


def read_until(source: KafkaSource, enough: Callable[[list[Item], Fetched], bool], max_bytes: int = MANY) -> list[Item]:
    """What comes until `enough`, without the joining of the partitions there were at the start and the ids of those that had none."""
    at_start = not source.positions
    items: list[Item] = []
    for _ in range(200):
        fetched = source.poll(max_bytes, 0.2)
        items.extend(item for item in fetched.items if not (at_start and isinstance(item, Joined)) and not isinstance(item, Identified))
        if enough(items, fetched):
            return items
    raise AssertionError(f"not enough after 200 polls: {items[-3:]} {source.facts}")


def at_end(items: list[Item], fetched: Fetched) -> bool:
    return caught_up(fetched.positions, fetched.highwaters)


def topic_id(kafka: KafkaConfig) -> str:
    found = describe_topics(kafka, kafka.topics)[kafka.topics[0]].topic_id
    assert found is not None
    return found


def values(items: list[Item]) -> list[bytes | None]:
    return [item.value for item in items if isinstance(item, Record)]


def test_every_partition_is_read_from_its_beginning_to_its_end(kafka: KafkaConfig) -> None:
    ensure_topic(kafka, kafka.topics[0], partitions=3)
    send(kafka, *(b"%d" % each for each in range(40)), partition=0)
    send(kafka, b"a", None, b"", partition=1, headers=[("trace", b"1")], timestamp_ms=1234)
    with KafkaSource(kafka) as source:
        items = read_until(source, at_end)
        first, second, empty = (Partition(kafka.topics[0], number) for number in range(3))
        assert values([item for item in items if item.partition == first]) == [b"%d" % each for each in range(40)]
        others = [item for item in items if item.partition == second]
        assert values(others) == [b"a", None, b""]
        assert others[0] == Record(partition=second, offset=0, timestamp_ms=1234, key=b"key", value=b"a", headers=(("trace", b"1"),))
        assert source.positions == {first: 40, second: 3, empty: 0} == source.highwaters


def test_reading_goes_on_at_the_positions_given(kafka: KafkaConfig) -> None:
    ensure_topic(kafka, kafka.topics[0])
    send(kafka, b"0", b"1", b"2", b"3")
    with KafkaSource(kafka) as source:
        before = source.poll(1, 5.0)
        partition = Partition(kafka.topics[0], 0)
        assert before.items[0] == Joined(partition=partition, position=0, topic_id=topic_id(kafka))
        assert values(list(before.items)) == [b"0"], "max_bytes holds, but one record always comes"
    with KafkaSource(kafka, before.positions, {partition: topic_id(kafka)}) as source:
        assert values(read_until(source, at_end)) == [b"1", b"2", b"3"]


def test_start_latest_reads_what_comes_after(kafka: KafkaConfig) -> None:
    ensure_topic(kafka, kafka.topics[0], partitions=2)
    send(kafka, b"old", b"older", b"oldest")
    with KafkaSource(kafka.model_copy(update={"start": "latest"})) as source:
        source.check_positions()
        assert source.poll(MANY, 1.0).positions == {Partition(kafka.topics[0], 0): 3, Partition(kafka.topics[0], 1): 0}
        send(kafka, b"new")
        assert values(read_until(source, lambda items, _: bool(items))) == [b"new"]


def test_a_record_larger_than_every_limit_still_comes_and_small_ones_around_it(kafka: KafkaConfig) -> None:
    ensure_topic(kafka, kafka.topics[0], partitions=2)
    send(kafka, b"small", b"x" * 900_000, b"small", partition=0)
    send(kafka, *([b"y" * 100] * 200), partition=1)
    small = kafka.model_copy(update={"max_poll_bytes": 4096, "max_partition_bytes": 2048})
    with KafkaSource(small) as source:
        items = read_until(source, at_end, max_bytes=1024)
    assert [len(value or b"") for value in values([item for item in items if item.partition.number == 0])] == [5, 900_000, 5]
    assert len(items) == 203


def test_bounded_reading_ahead_waits_for_the_taker(kafka: KafkaConfig) -> None:
    ensure_topic(kafka, kafka.topics[0], partitions=2)
    send(kafka, *([b"x" * 1000] * 300), partition=0)
    send(kafka, b"news", partition=1)
    small = kafka.model_copy(update={"max_poll_bytes": 64 << 10, "max_partition_bytes": 32 << 10})
    with KafkaSource(small) as source:
        items: list[Item] = []
        for _ in range(20):
            items.extend(source.poll(2000, 1.0).items)
            ahead = sum(facts.read_to - facts.position for facts in source.facts.partitions.values())
            assert ahead < 250, "the shares and one answer, not the whole backlog"
        position = [item.partition.number for item in items].index(1)
        assert position < 100, "the other partition's news comes before the backlog's end"
        rest = read_until(source, at_end)
    offsets = [item.end for item in items + rest if isinstance(item, Record) and item.partition.number == 0]
    assert offsets == list(range(1, 301))


def test_partitions_that_were_paused_are_read_on(kafka: KafkaConfig) -> None:
    ensure_topic(kafka, kafka.topics[0], partitions=4)
    for partition in range(4):
        send(kafka, *(b"%1000d" % each for each in range(1500)), partition=partition)
    small = kafka.model_copy(update={"max_poll_bytes": 1 << 20, "max_partition_bytes": 128 << 10, "silence_s": 3.0})
    with KafkaSource(small) as source:
        items = read_until(source, at_end, max_bytes=200_000)
        assert source.facts.rebuilds == 0
    for partition in range(4):
        assert values([item for item in items if item.partition.number == partition]) == [b"%1000d" % each for each in range(1500)]


class _NotUtf8(str):
    """A header name that another client might write."""

    def encode(self, *_: object, **__: object) -> bytes:
        return b"\xff\xfe"


def test_a_header_name_that_is_no_utf8_costs_no_record(kafka: KafkaConfig) -> None:
    ensure_topic(kafka, kafka.topics[0])
    for value in (b"before", b"odd", b"odd too", b"after"):
        send(kafka, value, headers=[(_NotUtf8("trace"), b"1")] if value.startswith(b"odd") else [])
    with KafkaSource(kafka) as source:
        items = read_until(source, at_end)
    assert values(items) == [b"before", b"odd", b"odd too", b"after"]
    assert [item.headers for item in items if isinstance(item, Record)][1] == (("\\xff\\xfe", b"1"),)


def send_folded(kafka: KafkaConfig, value: bytes) -> None:
    """In a compressed batch of its own."""
    producer = KafkaProducer(bootstrap_servers=list(kafka.bootstrap_servers), compression_type="gzip", acks="all")
    try:
        producer.send(kafka.topics[0], value=value, partition=0).get(timeout=10)
    finally:
        producer.close()


def test_nothing_silent_what_cannot_be_read_is_a_gap_and_reading_goes_on(kafka: KafkaConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kafka_patches, "MOST_UNFOLDED_BYTES", 10_000)
    ensure_topic(kafka, kafka.topics[0], partitions=2)
    send(kafka, b"before")
    send_folded(kafka, b"x" * 50_000)
    send_folded(kafka, b"y" * 50_000)
    send_folded(kafka, b"after")
    send(kafka, b"other", partition=1)
    with KafkaSource(kafka) as source:
        items = read_until(source, at_end)
    gaps = [(item.first, item.end, item.reason) for item in items if isinstance(item, Gap)]
    assert gaps in (
        [(1, 2, GapReason.UNREADABLE), (2, 3, GapReason.UNREADABLE)],
        [(1, 3, GapReason.UNREADABLE)],
    )
    assert sorted(value or b"" for value in values(items)) == [b"after", b"before", b"other"]


def test_a_large_batch_that_cannot_be_read_is_passed_over_at_once_and_its_neighbours_are_kept(
    kafka: KafkaConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kafka_patches, "MOST_UNFOLDED_BYTES", 50_000)
    ensure_topic(kafka, kafka.topics[0])
    send(kafka, b"before", b"just before")
    folding = KafkaProducer(
        bootstrap_servers=list(kafka.bootstrap_servers), compression_type="gzip", acks="all", linger_ms=2000, batch_size=1 << 20
    )
    try:
        batch = [folding.send(kafka.topics[0], value=b"%0100d" % number, partition=0) for number in range(1100)]
        assert [future.get(timeout=10).offset for future in batch] == list(range(2, 1102))
    finally:
        folding.close()
    send(kafka, b"just after", b"after")
    made: list[object] = []

    def counted(*given: Any) -> Any:
        made.append(given)
        return new_consumer(*given)

    monkeypatch.setattr(source_module, "new_consumer", counted)
    monkeypatch.setattr(source_module, "readable_from", pytest.fail)  # no search offset by offset
    with KafkaSource(kafka.model_copy(update={"max_unreadable": 100})) as source:
        items = read_until(source, at_end)
    assert values(items) == [b"before", b"just before", b"just after", b"after"]
    assert [item for item in items if isinstance(item, Gap)] == [
        Gap(partition=Partition(kafka.topics[0], 0), first=2, end=1102, reason=GapReason.UNREADABLE)
    ]
    assert len(made) <= 3


def test_a_stream_may_stop_at_what_cannot_be_read(kafka: KafkaConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kafka_patches, "MOST_UNFOLDED_BYTES", 10_000)
    ensure_topic(kafka, kafka.topics[0])
    send_folded(kafka, b"x" * 50_000)
    strict = kafka.model_copy(update={"on_unreadable": "fail"})
    with KafkaSource(strict) as source, pytest.raises(StreamError, match=r"news-.*/0: the bytes from 0 to 0 are no records"):
        read_until(source, at_end)


def test_a_new_partition_joins_without_a_restart(kafka: KafkaConfig) -> None:
    ensure_topic(kafka, kafka.topics[0])
    send(kafka, b"old")
    with KafkaSource(kafka.model_copy(update={"refresh_s": 0.2})) as source:
        read_until(source, at_end)
        restored = source.positions
    delete_topic(kafka, kafka.topics[0])
    ensure_topic(kafka, kafka.topics[0], partitions=2)
    send(kafka, b"old")
    send(kafka, b"new", partition=1)
    with KafkaSource(kafka, restored) as source:  # without topic ids: only the partitions tell
        items = read_until(source, at_end)
    assert items[0] == Joined(partition=Partition(kafka.topics[0], 1), position=0, topic_id=topic_id(kafka))
    assert values(items) == [b"new"]


def test_a_topic_made_anew_is_data_loss_unless_told_otherwise(kafka: KafkaConfig) -> None:
    topic = kafka.topics[0]
    partition = Partition(topic, 0)
    ensure_topic(kafka, topic)
    send(kafka, b"0", b"1")
    with KafkaSource(kafka) as source:
        read_until(source, at_end)
        positions, ids = source.positions, {partition: topic_id(kafka)}
    delete_topic(kafka, topic)
    ensure_topic(kafka, topic)
    send(kafka, b"new 0", b"new 1", b"new 2")
    with KafkaSource(kafka, positions, ids) as source, pytest.raises(DataLoss, match=r"made anew.*on_data_loss"):
        source.check_positions()
    with KafkaSource(kafka.model_copy(update={"on_data_loss": "earliest"}), positions, ids) as source:
        items = read_until(source, at_end)
        rewind = Rewind(partition=partition, passed=2, position=0, topic_id=topic_id(kafka), reason="the topic was made anew")
        assert items[0] == rewind
        assert values(items) == [b"new 0", b"new 1", b"new 2"]
    with KafkaSource(kafka.model_copy(update={"on_data_loss": "latest"}), positions, ids) as source:
        assert read_until(source, at_end) == [rewind, Gap(partition=partition, first=0, end=3, reason=GapReason.LOST)]
    # It has grown to just where the old one ended: only its id tells.
    with KafkaSource(kafka.model_copy(update={"on_data_loss": "latest"}), {partition: 3}, ids) as source:
        assert read_until(source, at_end) == [
            replace(rewind, passed=3),
            Gap(partition=partition, first=0, end=3, reason=GapReason.LOST),
        ]


def test_of_a_topic_made_anew_only_those_positions_are_rewound_that_are_in_the_old_one(kafka: KafkaConfig) -> None:
    """A stop in between may save one partition before the rewind and another after it; and the new topic may have more of them."""
    topic = kafka.topics[0]
    first, second, third = (Partition(topic, number) for number in range(3))
    ensure_topic(kafka, topic, partitions=2)
    old = topic_id(kafka)
    delete_topic(kafka, topic)
    ensure_topic(kafka, topic, partitions=3)
    new = topic_id(kafka)
    for number in range(3):
        send(kafka, b"new 0", b"new 1", partition=number)
    config = kafka.model_copy(update={"on_data_loss": "earliest"})
    with KafkaSource(config, {first: 1, second: 1}, {first: new, second: old}) as source:
        items = read_until(source, at_end)
    assert {partition: values([item for item in items if item.partition == partition]) for partition in (first, second, third)} == {
        first: [b"new 1"],
        second: [b"new 0", b"new 1"],
        third: [b"new 0", b"new 1"],
    }
    assert [item for item in items if isinstance(item, Rewind | Joined)] == [
        Joined(partition=third, position=0, topic_id=new),
        Rewind(partition=second, passed=1, position=0, topic_id=new, reason="the topic was made anew"),
    ]


def test_a_topic_made_anew_is_gone_back_in_once_even_if_the_broker_goes_away_in_between(
    kafka: KafkaConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    topic = kafka.topics[0]
    partitions = [Partition(topic, number) for number in range(2)]
    ensure_topic(kafka, topic, partitions=2)
    for partition in partitions:
        send(kafka, b"0", b"1", partition=partition.number)
    asked = list[Partition]()

    def gone_at_the_second(config: KafkaConfig, begins: Mapping[Partition, int]) -> dict[Partition, int]:
        asked.extend(begins)
        if len(asked) == 2:
            raise BrokerUnavailable("gone")
        return ends(config, begins)

    monkeypatch.setattr(source_module, "ends", gone_at_the_second)
    config = kafka.model_copy(update={"on_data_loss": "latest"})
    with KafkaSource(config, dict.fromkeys(partitions, 5), dict.fromkeys(partitions, "of the old topic")) as source:
        source.connect()
        items = read_until(source, at_end)
    assert asked == [partitions[0], partitions[1], partitions[1]]
    assert [(item.partition, type(item), end_of(item)) for item in items] == [
        *((partition, Rewind, 0) for partition in partitions),
        *((partition, Gap, 2) for partition in partitions),
    ]


def test_an_id_that_was_not_told_before_is_told_where_the_position_stands(kafka: KafkaConfig) -> None:
    ensure_topic(kafka, kafka.topics[0])
    send(kafka, b"0", b"1")
    partition = Partition(kafka.topics[0], 0)
    with KafkaSource(kafka, {partition: 1}) as source:
        source.check_positions()
        items = source.poll(MANY, 1.0).items
    assert items[0] == Identified(partition=partition, position=1, topic_id=topic_id(kafka))
    assert values(list(items)) == [b"1"]


def test_a_broker_that_is_too_old_to_tell_ids(kafka: KafkaConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    ensure_topic(kafka, kafka.topics[0])
    send(kafka, b"0", b"1")
    partition = Partition(kafka.topics[0], 0)
    monkeypatch.setattr(
        source_module,
        "describe_topics",
        lambda *given: {name: replace(facts, topic_id=None) for name, facts in describe_topics(*given).items()},
    )
    with KafkaSource(kafka) as source:
        source.check_positions()
        items = source.poll(MANY, 1.0).items
    assert items[0] == Joined(partition=partition, position=0, topic_id=None)
    with KafkaSource(kafka, {partition: 1}, {partition: "of a newer broker"}) as source:  # what is not told is no other topic
        assert values(read_until(source, at_end)) == [b"1"]
    with KafkaSource(kafka.model_copy(update={"on_data_loss": "earliest"}), {partition: 5}, {partition: "of a newer broker"}) as source:
        source.check_positions()
        (rewind, *_) = source.poll(MANY, 1.0).items
    assert isinstance(rewind, Rewind) and (rewind.position, rewind.topic_id) == (0, "of a newer broker")


def test_a_topic_made_anew_while_it_is_read_is_noticed(kafka: KafkaConfig) -> None:
    topic = kafka.topics[0]
    ensure_topic(kafka, topic)
    send(kafka, b"0", b"1")
    with KafkaSource(kafka.model_copy(update={"refresh_s": 0.1, "on_data_loss": "earliest"})) as source:
        read_until(source, at_end)
        delete_topic(kafka, topic)
        ensure_topic(kafka, topic)
        send(kafka, b"new 0", b"new 1", b"new 2")
        items = read_until(source, lambda items, _: b"new 2" in values(items) and b"new 0" in values(items))
    assert any(isinstance(item, Rewind) and item.position == 0 for item in items)


def test_a_position_past_the_end_is_data_loss_even_if_the_broker_does_not_refuse_it(kafka: KafkaConfig) -> None:
    ensure_topic(kafka, kafka.topics[0])
    send(kafka, b"0", b"1")
    partition = Partition(kafka.topics[0], 0)
    with KafkaSource(kafka, {partition: 50}) as source, pytest.raises(DataLoss, match="position 50: the log ends at 2"):
        source.check_positions()
    with KafkaSource(kafka.model_copy(update={"on_data_loss": "latest"}), {partition: 50}) as source:
        source.check_positions()
        _, rewind = source.poll(MANY, 1.0).items
        assert isinstance(rewind, Rewind) and rewind.position == 2
        send(kafka, b"2")
        assert values(read_until(source, lambda items, _: bool(items))) == [b"2"]


def test_a_partition_that_the_topic_does_not_have_is_data_loss(kafka: KafkaConfig) -> None:
    ensure_topic(kafka, kafka.topics[0])
    with KafkaSource(kafka, {Partition(kafka.topics[0], 7): 1}) as source, pytest.raises(DataLoss, match="no such partition"):
        source.connect()


def test_a_topic_that_is_not_there_yet_is_waited_for(kafka: KafkaConfig) -> None:
    impatient = kafka.model_copy(update={"start_timeout_s": 0.5})
    with KafkaSource(impatient) as source:
        with pytest.raises(BrokerUnavailable, match="no topic"):
            source.connect()
        ensure_topic(kafka, kafka.topics[0])
        send(kafka, b"0")
        assert values(read_until(source, at_end)) == [b"0"]


def test_no_broker_says_what_to_do_and_leaves_nothing_behind(kafka: KafkaConfig) -> None:
    nowhere = kafka.model_copy(update={"bootstrap_servers": ("127.0.0.1:1",), "request_timeout_s": 1.0, "start_timeout_s": 0.1})
    with KafkaSource(nowhere) as source:
        with pytest.raises(BrokerUnavailable, match=r"check kafka\.bootstrap_servers"):
            source.connect()
        with pytest.raises(BrokerUnavailable):
            source.poll(MANY, 0.1)
        assert not source.facts.connected


def test_a_high_watermark_is_of_now_only_when_an_answer_came(kafka: KafkaConfig) -> None:
    with EmbeddedBroker() as broker:
        config = kafka.model_copy(update={"bootstrap_servers": (broker.bootstrap_servers,), "request_timeout_s": 1.0, "silence_s": 1.0})
        ensure_topic(config, config.topics[0])
        send(config, b"0")
        with KafkaSource(config) as source:
            read_until(source, at_end)
            assert source.poll(MANY, 2.0).heard == {Partition(config.topics[0], 0)}
            broker.stop()
            source.poll(MANY, 0.5)
            assert source.poll(MANY, 0.5).heard == frozenset()
            with pytest.raises(BrokerUnavailable):
                read_until(source, lambda items, _: bool(items))


def test_the_group_gets_positions_for_lag_tools(kafka: KafkaConfig) -> None:
    from pipeline.kafka_client import admin_client

    grouped = kafka.model_copy(update={"group_id": "memstream-test"})
    ensure_topic(kafka, kafka.topics[0])
    send(kafka, b"0", b"1")
    with KafkaSource(grouped) as source:
        read_until(source, at_end)
        source.commit(source.positions, metadata="epoch 7")
        with admin_client(kafka) as admin:
            committed = admin.list_group_offsets("memstream-test")
    assert "offset=2" in repr(committed)


def test_facts_tell_a_watchdog_about_a_poll_that_hangs(kafka: KafkaConfig) -> None:
    ensure_topic(kafka, kafka.topics[0])
    with KafkaSource(kafka) as source:
        source.poll(MANY, 0.0)
        assert source.facts.polling_since_s is None and not source.facts.hung(time.monotonic() + 1e6, after_s=1.0)
        with source._under_way():
            assert source.facts.hung(time.monotonic() + 61.0, after_s=60.0)


def test_publishing_tells_where_each_document_landed(kafka: KafkaConfig) -> None:
    with Publisher(kafka, kafka.topics[0], partitions=2) as publisher:
        landed = publisher.publish([{"id": str(each % 5), "text": f"\ud800 number {each}"} for each in range(1200)])
        assert publisher.publish_one({"id": "0", "text": "last"}).partition == landed[0].partition
    with KafkaSource(kafka) as source:
        items = read_until(source, at_end)
    assert sum(each is not None for each in values(items)) == 1201
    assert {(item.partition, item.end) for item in items if isinstance(item, Record)} >= {(each.partition, each.end) for each in landed}
    assert len({(each.partition, each.offset) for each in landed}) == 1200
