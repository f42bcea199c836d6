"""Dead letters on a topic that takes little: shortened part by part; a refusal that no repetition can mend is not repeated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from pipeline import dead_letters
from pipeline.dead_letters import DeadLetterConfig, DeadLetterSink
from pipeline.errors import DeadLetterUnacknowledged
from pipeline.kafka_client import KafkaConfig, kafka_errors
from pipeline.records import DeadLetter, Disposition, Partition, Reason, Record

Headers = Sequence[tuple[str, bytes]]


@dataclass
class Sent:
    key: bytes | None
    value: bytes | None
    headers: Headers
    error: Exception | None
    is_done: bool = True

    def get(self, timeout: float) -> None:
        if self.error is not None:
            raise self.error


@dataclass
class Topic:
    """Takes records of at most `most` bytes, the client those of at most `client`; with `compacted` only ones that have a key."""

    most: int = 10_000
    client: int = 1_000_000
    compacted: bool = False
    refusal: Exception | None = None
    passable: int = 10_000_000
    """What is larger never gets through in time."""
    taken: list[Sent] = field(default_factory=list)
    tries: int = 0

    def send(self, topic: str, key: bytes | None, value: bytes | None, headers: Headers) -> Sent:
        self.tries += 1
        size = len(key or b"") + len(value or b"") + sum(len(name) + len(each) for name, each in headers)
        if size > self.client:
            raise kafka_errors.MessageSizeTooLargeError("larger than max_request_size")
        error = self.refusal
        if size > self.most:
            error = kafka_errors.MessageSizeTooLargeError()
        elif self.compacted and key is None:
            error = kafka_errors.InvalidRecordError()
        if size > self.passable:
            error = kafka_errors.KafkaTimeoutError("no answer in time")
        sent = Sent(key, value, headers, error)
        if error is None:
            self.taken.append(sent)
        return sent

    def close(self, timeout: float) -> None:
        pass


@pytest.fixture
def topic(monkeypatch: pytest.MonkeyPatch) -> Topic:
    made = Topic()
    monkeypatch.setattr(dead_letters, "new_producer", lambda *_, **__: made)
    monkeypatch.setattr(dead_letters, "ensure_topic", lambda *_: None)
    return made


def sink() -> DeadLetterSink:
    return DeadLetterSink(KafkaConfig(bootstrap_servers=("127.0.0.1:1",), topics=("news",)), DeadLetterConfig())


def letter(**record: Any) -> DeadLetter:
    whole = {"partition": Partition("news", 1), "offset": 7, "timestamp_ms": 99, "value": b"{", **record}
    return DeadLetter(record=Record(**whole), reason=Reason.BAD_JSON, disposition=Disposition.MALFORMED, detail="no end")


@pytest.mark.parametrize(
    ("part", "record"),
    [
        ("value", {"value": b"x" * 20_000, "key": b"k", "headers": (("trace", b"1"),)}),
        ("headers", {"key": b"k", "headers": (("trace", b"x" * 20_000),)}),
        ("headers", {"key": b"k", "headers": tuple((f"h{number}", b"x" * 100) for number in range(200))}),
        ("key", {"key": b"x" * 20_000, "headers": (("trace", b"1"),)}),
        ("key", {"key": b"x" * 20_000, "value": None}),
    ],
)
def test_the_part_that_is_too_large_is_left_out_and_the_others_stay(topic: Topic, part: str, record: dict[str, Any]) -> None:
    with sink() as letters:
        letters.send(letter(**record))
        letters.flush(5)
    (taken,) = topic.taken
    told = dict(taken.headers)
    assert {name for name in told if "omitted" in name} == {f"memstream.omitted_{part}_bytes", f"memstream.omitted_{part}_sha256"}
    assert (told["memstream.topic"], told["memstream.offset"], told["memstream.reason"]) == (b"news", b"7", b"bad_json")
    assert ("trace" in told) == (part != "headers" and "headers" in record)
    assert (taken.key == b"k") == (part != "key")


def test_all_parts_go_where_all_are_too_large_and_what_the_client_refuses_is_shortened_alike(topic: Topic) -> None:
    topic.client, topic.most = 50_000, 800
    with sink() as letters:
        letters.send(letter(key=b"k" * 9_000, value=b"v" * 60_000, headers=(("trace", b"t" * 7_000),)))
        letters.flush(5)
    (taken,) = topic.taken
    told = dict(taken.headers)
    assert (taken.key, taken.value) == (None, b"") and told["memstream.partition"] == b"1" and "trace" not in told
    assert (told["memstream.omitted_key_bytes"], told["memstream.omitted_value_bytes"]) == (b"9000", b"60000")


def test_a_compacted_topic_gets_the_origin_as_key(topic: Topic) -> None:
    topic.compacted = True
    with sink() as letters:
        letters.send(letter(key=None))
        letters.flush(5)
    assert topic.taken[0].key == b"news/1/7"


@pytest.mark.parametrize("refusal", [kafka_errors.TopicAuthorizationFailedError(), kafka_errors.PolicyViolationError()])
def test_a_refusal_that_no_repetition_can_mend_is_not_repeated(topic: Topic, refusal: Exception) -> None:
    topic.refusal = refusal
    with sink() as letters:
        letters.send(letter())
        with pytest.raises(DeadLetterUnacknowledged, match=r"'news\.dead-letters' takes no dead letter"):
            letters.flush(5)
        assert (topic.tries, letters.pending) == (1, 1)
        topic.refusal = None
        letters.flush(5)
    assert len(topic.taken) == 1


def test_a_topic_that_takes_nothing_is_named_with_its_cure(topic: Topic) -> None:
    topic.most = 100
    with sink() as letters:
        letters.send(letter(key=b"k", headers=(("trace", b"1"),)))
        with pytest.raises(DeadLetterUnacknowledged, match=r"max\.message\.bytes"):
            letters.flush(5)
        assert letters.pending == 1


def test_a_letter_that_never_gets_through_is_shortened_and_holds_nothing_up(topic: Topic, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dead_letters, "_TRY_AGAIN_S", 0.0)
    topic.client, topic.most, topic.passable = 100 << 20, 100 << 20, 3 << 20
    with sink() as letters:
        letters.send(letter(key=b"k", value=b"v" * (40 << 20)))
        letters.send(letter(offset=8))
        letters.flush(5)
    shortened, other = sorted(topic.taken[-2:], key=lambda each: dict(each.headers)["memstream.offset"])
    assert (shortened.key, shortened.value, dict(shortened.headers)["memstream.omitted_value_bytes"]) == (b"k", b"", b"41943040")
    assert other.value == b"{"


def test_a_small_letter_is_never_shortened_because_a_broker_is_slow(topic: Topic, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dead_letters, "_TRY_AGAIN_S", 0.0)
    topic.passable = 10
    with sink() as letters:
        letters.send(letter(value=b"v" * 5000))
        with pytest.raises(DeadLetterUnacknowledged, match="1 dead letters"):
            letters.flush(0.2)
        topic.passable = 10_000_000
        letters.flush(5)
    assert topic.taken[-1].value == b"v" * 5000
