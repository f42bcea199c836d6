"""The poller decodes, sends dead letters, and never lets a batch that was read get lost."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import ClassVar

import pytest

import actors.poller
from actors.config import StreamConfig
from actors.poller import Poller
from pipeline.errors import BrokerUnavailable, DeadLetterUnacknowledged, RegistryUnavailable
from pipeline.fetched import Fetched, Gap, GapReason, Joined
from pipeline.records import DeadLetter, Document, Partition, Reason, Record, Tombstone
from tests.doubles.framed import avro, framed
from tests.doubles.registry import fake_registry
from tests.doubles.stream import NEWS, START_MS

LOG: list[str] = []


class Source:
    """One batch a poll, or the error that stands in its place."""

    batches: ClassVar[list[tuple[object, ...] | Exception]] = []

    def __init__(self, config: object, positions: Mapping[Partition, int], topic_ids: Mapping[Partition, str]) -> None:
        self.positions = dict(positions)

    def poll(self, max_bytes: int, timeout_s: float) -> Fetched:
        LOG.append("poll")
        batch = self.batches.pop(0)
        if isinstance(batch, Exception):
            raise batch
        return Fetched(items=batch, positions={NEWS: 9}, highwaters={NEWS: 9}, heard=frozenset({NEWS}))  # type: ignore[arg-type]

    def commit(self, positions: Mapping[Partition, int], metadata: str) -> None:
        LOG.append(f"commit {metadata}")

    def close(self) -> None:
        LOG.append("close source")


class Sink:
    """Takes letters; the first `refusals` calls are not acknowledged."""

    refusals = 0

    def __init__(self, *_: object) -> None: ...

    def send(self, letter: DeadLetter, wait: bool = True) -> None:
        LOG.append(f"send {letter.reason}")
        self._maybe_refuse()

    def flush(self, timeout_s: float) -> None:
        LOG.append("flush")
        self._maybe_refuse()

    def close(self) -> None:
        LOG.append("close sink")

    def _maybe_refuse(self) -> None:
        if Sink.refusals:
            Sink.refusals -= 1
            raise DeadLetterUnacknowledged("no answer")


@pytest.fixture
def poller(monkeypatch: pytest.MonkeyPatch, config_with: Callable[..., StreamConfig]) -> Callable[..., Poller]:
    LOG.clear()
    monkeypatch.setattr(actors.poller, "KafkaSource", Source)
    monkeypatch.setattr(actors.poller, "DeadLetterSink", Sink)
    monkeypatch.setattr(Sink, "refusals", 0)

    def made(*batches: tuple[object, ...] | Exception, owns_lineage: bool = True, **sections: object) -> Poller:
        monkeypatch.setattr(Source, "batches", list(batches))
        return Poller(config_with(**sections), {"news/0": 0}, owns_lineage, {})

    return made


def record(offset: int, value: bytes | None) -> Record:
    return Record(partition=NEWS, offset=offset, timestamp_ms=START_MS, value=value)


GOOD, BAD, TOMB = record(0, json.dumps({"text": "a story"}).encode()), record(1, b"{"), record(2, None)
WORSE = record(2, b"\xff")


def test_records_become_documents_and_dead_letters_in_order(poller: Callable[..., Poller]) -> None:
    gap, joined = Gap(partition=NEWS, first=3, end=9, reason=GapReason.ABSENT), Joined(partition=NEWS, position=0, topic_id="first")
    polled = poller((joined, GOOD, BAD, TOMB, gap)).poll(100, 0.1)
    assert [type(item) for item in polled.items] == [Joined, Document, DeadLetter, Tombstone, Gap]
    assert LOG == ["poll", "send bad_json"]
    assert polled.positions == {"news/0": 9} and polled.heard == {NEWS}


def test_a_replica_that_does_not_own_the_lineage_sends_and_commits_nothing(poller: Callable[..., Poller]) -> None:
    follower = poller((BAD,), owns_lineage=False)
    assert [type(item) for item in follower.poll(100, 0.1).items] == [DeadLetter]
    follower.commit({"news/0": 1}, "x")
    follower.flush(1)
    follower.close()
    assert LOG == ["poll", "close source"]


def test_nothing_silent_a_batch_is_handed_over_although_its_letters_wait(poller: Callable[..., Poller]) -> None:
    waiting = poller((BAD, GOOD), (WORSE,))
    Sink.refusals = 2
    assert len(waiting.poll(100, 0.1).items) == 2
    with pytest.raises(DeadLetterUnacknowledged):
        waiting.poll(100, 0.1)  # before anything new is read
    assert LOG == ["poll", "send bad_json", "flush"]
    assert [item.reason for item in waiting.poll(100, 0.1).items if isinstance(item, DeadLetter)] == [Reason.BAD_UTF8]
    assert LOG[3:] == ["flush", "poll", "send bad_utf8"]


def test_an_error_of_the_source_comes_through_and_the_next_poll_goes_on(poller: Callable[..., Poller]) -> None:
    interrupted = poller(BrokerUnavailable("away"), (GOOD,))
    with pytest.raises(BrokerUnavailable):
        interrupted.poll(100, 0.1)
    assert len(interrupted.poll(100, 0.1).items) == 1


def test_nothing_silent_a_batch_is_kept_while_the_schema_registry_is_away(poller: Callable[..., Poller]) -> None:
    schema = {"type": "record", "name": "News", "fields": [{"name": "text", "type": "string"}]}
    batch = (record(0, b"no frame"), record(1, framed(7, avro(schema, {"text": "a story"}))), record(2, framed(8, b"")))
    with fake_registry() as registry:
        waiting = poller(batch, (GOOD,), decode={"format": "avro", "registry": {"url": registry.url}})
        registry.says = 503, b""
        for _ in range(2):
            with pytest.raises(RegistryUnavailable):
                waiting.poll(100, 0.1)
        assert LOG == ["poll"], "nothing new is read, and no letter goes out twice"
        registry.says = None
        registry.put(7, "AVRO", schema)
        polled = waiting.poll(100, 0.1)
    assert [type(item) for item in polled.items] == [DeadLetter, Document, DeadLetter]
    assert LOG == ["poll", "send bad_payload", "send unknown_schema"]
