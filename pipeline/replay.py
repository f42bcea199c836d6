"""Publishes dead letters again, to the topic and partition they came from, and marks that it did.

A letter and its mark are written in one transaction: after a crash either both are there or neither, so a later replay leaves out what was
published, and nothing else. The transaction's name belongs to the topic of dead letters: who begins a replay stops one that is under way
elsewhere, before either can publish what the other does. (The embedded broker of the demo does not hide what was given up: there a crash in
the middle of a batch can publish up to `_BATCH` letters twice, which are learned as duplicates.)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from pipeline.dead_letters import PREFIX, REPLAYS
from pipeline.errors import StreamError
from pipeline.kafka_client import (
    Closing,
    KafkaConfig,
    Producer,
    close_producer,
    is_refusal,
    kafka_errors,
    new_producer,
    translated,
    translating,
)
from pipeline.letters import Letter, Marks, mark_of
from pipeline.records import Partition
from pipeline.topics import TopicFacts, describe_topics

_BATCH = 200
_BATCH_BYTES = 4 << 20
_TIMEOUT_S = 30.0
_FENCED = (kafka_errors.ProducerFencedError, kafka_errors.InvalidProducerEpochError)
_TOO_LARGE = (kafka_errors.MessageSizeTooLargeError, kafka_errors.RecordListTooLargeError)


class ReplayedElsewhere(StreamError):
    """Another `memstream dlq replay` of this topic began, so this one stopped. What it had published is marked; let one run at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Replayed:
    """What became of one letter: where its record lies now, or why it was refused."""

    letter: Letter
    landed: Partition | None = None
    offset: int = -1
    problem: str | None = None


class Replayer(Closing):
    """Publishes letters of `topic`. From its making on it is the only one; marks that are read after that are complete."""

    def __init__(self, kafka: KafkaConfig, topic: str) -> None:
        self._kafka, self._topic = kafka, topic
        self._topics: dict[str, TopicFacts | None] = {}
        self._producer: Producer | None = None
        self._connected()

    def _connected(self) -> Producer:
        if self._producer is None:
            producer = new_producer(self._kafka, transactional_id=f"memstream-replay-{self._topic}")
            try:
                with translating(self._kafka):
                    producer.init_transactions()
            except BaseException:
                close_producer(producer, 0.5)
                raise
            self._producer = producer
        return self._producer

    def replay(self, letters: Iterable[Letter], marks: Marks) -> Iterator[Replayed]:
        """What became of each letter, as soon as it is durable. Twins are published once; each that was published is added to `marks`.

        BOUNDED: a batch of letters at a time. Raises ReplayedElsewhere, BrokerUnavailable or ConfigurationError; what was yielded is done.
        """
        for batch in _batches(letters, marks):
            done = self._written(batch)
            for each in done:
                if each.landed is not None:
                    marks.add(each.letter.origin, each.letter.origin_offset)
            yield from done

    def close(self, timeout_s: float = 5.0) -> None:
        producer, self._producer = self._producer, None
        if producer is not None:
            close_producer(producer, timeout_s)

    def _written(self, batch: list[Letter]) -> list[Replayed]:
        """All of them in one transaction; where one of them is refused, each in its own."""
        looked_at = [Replayed(letter=letter, problem=self._fault(letter)) for letter in batch]
        impossible = [each for each in looked_at if each.problem is not None]
        possible = [each.letter for each in looked_at if each.problem is None]
        try:
            return impossible + (self._transaction(possible) if possible else [])
        except _Refused as refused:
            if len(possible) == 1:
                return [*impossible, Replayed(letter=possible[0], problem=str(refused))]
        return impossible + [each for letter in possible for each in self._written([letter])]

    def _transaction(self, letters: list[Letter]) -> list[Replayed]:
        producer = self._connected()
        try:
            producer.begin_transaction()
            landed = self._sent([(letter, self._publish(producer, letter)) for letter in letters])
            marks = [self._mark(producer, each) for each in landed]
            for mark in marks:
                mark.get(timeout=_TIMEOUT_S)
            producer.commit_transaction()
        except kafka_errors.KafkaError as error:
            self._give_up()
            if isinstance(error, _FENCED):
                raise ReplayedElsewhere(str(ReplayedElsewhere.__doc__)) from error
            if isinstance(error, _TOO_LARGE) or is_refusal(error):
                raise _Refused(str(error)) from error
            raise translated(error, self._kafka) from error
        return landed

    def _give_up(self) -> None:
        """Abort what is under way. The producer may be in a state that it never leaves, so the next one is new."""
        producer = self._connected()
        try:
            producer.abort_transaction()
        except (kafka_errors.KafkaError, RuntimeError, AssertionError):
            pass  # the broker aborts it when the next producer of this name begins
        finally:
            self.close(0.5)

    @staticmethod
    def _sent(under_way: list[tuple[Letter, Any]]) -> list[Replayed]:
        done = []
        for letter, future in under_way:
            metadata = future.get(timeout=_TIMEOUT_S)
            done.append(Replayed(letter=letter, landed=Partition(metadata.topic, metadata.partition), offset=metadata.offset))
        return done

    def _publish(self, producer: Producer, letter: Letter) -> Any:
        """Key, value, headers and timestamp as they were; two headers say that it is a replay, of which letter, and how often it was."""
        told = {REPLAYS: str(letter.replays + 1), "replay_of": f"{letter.place}/{letter.offset}"}
        facts = self._facts(letter.origin.topic)
        same = facts is not None and letter.origin.number in facts.partitions
        return producer.send(
            letter.origin.topic,
            key=letter.key,
            value=letter.value,
            headers=[*letter.headers, *((PREFIX + name, text.encode()) for name, text in told.items())],
            partition=letter.origin.number if same else None,
            timestamp_ms=letter.origin_timestamp_ms if letter.origin_timestamp_ms >= 0 else None,
        )

    def _mark(self, producer: Producer, done: Replayed) -> Any:
        assert done.landed is not None
        key, value, headers = mark_of(done.letter, done.landed, done.offset)
        return producer.send(self._topic, key=key, value=value, headers=headers, partition=done.letter.place.number)

    def _fault(self, letter: Letter) -> str | None:
        if letter.omitted:
            return f"its {' and '.join(letter.omitted)} is not here; the whole record is, or was, at {letter.origin_name}"
        if letter.key is None and letter.value is None:
            return "a record with neither key nor value cannot be published"
        return None if self._facts(letter.origin.topic) is not None else f"there is no topic {letter.origin.topic!r} any more"

    def _facts(self, topic: str) -> TopicFacts | None:
        if topic not in self._topics:
            self._topics[topic] = describe_topics(self._kafka, [topic]).get(topic)
        return self._topics[topic]


class _Refused(Exception):
    """The broker will never take this."""


def _batches(letters: Iterable[Letter], marks: Marks) -> Iterator[list[Letter]]:
    """Letters that are not marked, each origin once."""
    batch: dict[tuple[Partition, int], Letter] = {}
    size_bytes = 0
    for letter in letters:
        origin = letter.origin, letter.origin_offset
        if origin in marks or origin in batch:
            continue
        batch[origin] = letter
        size_bytes += letter.size_bytes
        if len(batch) >= _BATCH or size_bytes >= _BATCH_BYTES:
            yield list(batch.values())
            batch, size_bytes = {}, 0
    if batch:
        yield list(batch.values())
