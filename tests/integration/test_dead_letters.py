from __future__ import annotations

from dataclasses import replace

import pytest

from jobs.demo.broker import EmbeddedBroker
from pipeline.dead_letters import DeadLetterConfig, DeadLetterSink
from pipeline.errors import DeadLetterUnacknowledged
from pipeline.kafka_client import KafkaConfig
from pipeline.letters import read_letters
from pipeline.records import DeadLetter, Disposition, Partition, Reason, Record
from tests.topics import read_all


def letter(offset: int, key: bytes | None = b"key", value: bytes | None = b"{") -> DeadLetter:
    record = Record(partition=Partition("news", 1), offset=offset, timestamp_ms=99, key=key, value=value, headers=(("trace", b"1"),))
    return DeadLetter(record=record, reason=Reason.BAD_JSON, disposition=Disposition.MALFORMED, detail="no end")


def test_key_and_value_are_untouched_and_the_headers_say_why(kafka: KafkaConfig) -> None:
    with DeadLetterSink(kafka, DeadLetterConfig()) as sink:
        sink.send(letter(1, value=b"\xff\x00{"))
        sink.send(letter(2, value=None))
        sink.send(letter(3, key=None, value=None))
        sink.flush(10)
        assert sink.pending == 0
    first, tombstone, nothing = read_all(kafka, f"{kafka.topics[0]}.dead-letters")
    assert (first.key, first.value) == (b"key", b"\xff\x00{")
    headers = dict(first.headers)
    assert (headers["memstream.topic"], headers["memstream.partition"], headers["memstream.offset"]) == (b"news", b"1", b"1")
    assert (headers["memstream.reason"], headers["trace"]) == (b"bad_json", b"1")
    assert (tombstone.key, tombstone.value) == (b"key", None)
    assert (nothing.key, nothing.value, dict(nothing.headers)["memstream.null_value"]) == (None, b"", b"true")


def test_nothing_silent_a_flush_without_a_broker_fails_and_keeps_the_letters(kafka: KafkaConfig) -> None:
    with EmbeddedBroker() as broker:
        config = kafka.model_copy(update={"bootstrap_servers": (broker.bootstrap_servers,), "request_timeout_s": 1.0})
        with DeadLetterSink(config, DeadLetterConfig()) as sink:
            sink.send(letter(1))
            sink.flush(10)
            broker.stop()
            sink.send(letter(2))
            with pytest.raises(DeadLetterUnacknowledged, match="1 dead letters"):
                sink.flush(1)
            assert sink.pending == 1


def test_bounded_letters_that_nobody_acknowledges_stop_the_sender(kafka: KafkaConfig) -> None:
    nowhere = kafka.model_copy(update={"bootstrap_servers": ("127.0.0.1:1",), "request_timeout_s": 1.0})
    with DeadLetterSink(nowhere, DeadLetterConfig(max_pending_bytes=1000, flush_timeout_s=0.1)) as sink:
        with pytest.raises(DeadLetterUnacknowledged):
            sink.send(letter(1, value=b"x" * 1001))
        assert sink.pending == 1


TOO_MUCH = b"x" * (80 << 20)
"""More than kafka-python takes in one request of ours (64 MB)."""


@pytest.mark.parametrize("part", ["key", "value", "headers"])
def test_a_record_larger_than_any_request_holds_up_neither_a_snapshot_nor_the_letters_behind_it(kafka: KafkaConfig, part: str) -> None:
    whole = Record(partition=Partition("news", 1), offset=2, timestamp_ms=99, key=b"key", value=b"{", headers=(("trace", b"1"),))
    more = (("trace", TOO_MUCH),) if part == "headers" else TOO_MUCH
    large = replace(letter(2), record=replace(whole, **{part: more}))  # type: ignore[arg-type]
    with DeadLetterSink(kafka, DeadLetterConfig()) as sink:
        for each in (letter(1), large, letter(3)):
            sink.send(each)
        sink.flush(30)  # what a snapshot waits for
        assert sink.pending == 0
    found = {each.origin_offset: each for each in read_letters(kafka, sink.topic)}
    assert sorted(found) == [1, 2, 3]
    assert found[2].omitted == (part,) and found[2].reason == "bad_json"
    kept = {"key": found[2].key, "value": found[2].value, "headers": found[2].headers}
    assert {name: kept[name] for name in kept if name != part} == {
        name: value for name, value in (("key", b"key"), ("value", b"{"), ("headers", (("trace", b"1"),))) if name != part
    }
