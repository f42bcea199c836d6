"""What the topic of dead letters holds: letters, and marks that say which of them were replayed.

A mark is a record of the same topic: it is where the letters are, so every machine sees it, it needs no rights beyond those of the letters,
and it is as durable as they are and outlives them, being younger. It names the record's origin (topic, partition, offset), which twins of a
letter share. A consumer group's offset could say only "all up to here"; letters are replayed by reason and one by one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from pipeline.dead_letters import PREFIX, REPLAYS
from pipeline.errors import BrokerUnavailable, StreamError
from pipeline.fetched import Joined
from pipeline.kafka_client import KafkaConfig
from pipeline.kafka_log import committed_ends
from pipeline.records import Partition, Positions, Record
from pipeline.source import KafkaSource
from pipeline.topics import describe_topics

_POLL_BYTES = 1 << 20
_POLL_S = 0.5
_QUIET_POLLS = 4
_SILENT_POLLS = 60
_WORD_BITS = 64

Passed = Callable[[int, int], None]
"""Is told how many offsets were read so far, and how many there are."""


class LetterState(StrEnum):
    """Whether a letter may be replayed."""

    WAITING = "waiting"
    REPLAYED = "replayed"
    """Its record was published again; if that failed too, there is a newer letter of it."""
    EXHAUSTED = "exhausted"
    """It failed after as many replays as `dead_letters.retries` allows."""
    INCOMPLETE = "incomplete"
    """A part of it was too large for this topic and was left out; the whole record is, or was, at its origin."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Letter:
    """One dead letter. `place` and `offset` are its own, `origin` and `origin_offset` those of the record that could not be learned.

    `key`, `value` and `headers` are the record's, untouched. `replays`: how often it had been replayed when it failed. `omitted`: the parts
    that are not here.
    """

    place: Partition
    offset: int
    timestamp_ms: int
    origin: Partition
    origin_offset: int
    origin_timestamp_ms: int
    reason: str
    disposition: str
    detail: str
    replays: int
    omitted: tuple[str, ...]
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...]

    @property
    def name(self) -> str:
        """How a user names it: PARTITION/OFFSET of the topic of dead letters."""
        return f"{self.place.number}/{self.offset}"

    @property
    def origin_name(self) -> str:
        return f"{self.origin}/{self.origin_offset}"

    @property
    def size_bytes(self) -> int:
        return len(self.key or b"") + len(self.value or b"") + sum(len(name) + len(value) for name, value in self.headers)

    def state(self, marks: Marks, retries: int) -> LetterState:
        """Whether it may be replayed, where a record may be replayed `retries` times."""
        if (self.origin, self.origin_offset) in marks:
            return LetterState.REPLAYED
        if self.omitted:
            return LetterState.INCOMPLETE
        return LetterState.EXHAUSTED if self.replays >= retries else LetterState.WAITING


class Marks:
    """The origins that were replayed: a bit each, so that a million marks in a row take two megabytes.

    >>> marks = Marks()
    >>> marks.add(Partition("news", 0), 70)
    >>> (Partition("news", 0), 70) in marks, (Partition("news", 0), 71) in marks, len(marks)
    (True, False, 1)
    """

    def __init__(self) -> None:
        self._words: dict[tuple[Partition, int], int] = {}

    def add(self, partition: Partition, offset: int) -> None:
        word, bit = divmod(offset, _WORD_BITS)
        self._words[partition, word] = self._words.get((partition, word), 0) | 1 << bit

    def __contains__(self, origin: tuple[Partition, int]) -> bool:
        partition, offset = origin
        word, bit = divmod(offset, _WORD_BITS)
        return bool(self._words.get((partition, word), 0) >> bit & 1)

    def __len__(self) -> int:
        return sum(word.bit_count() for word in self._words.values())


def letter_of(record: Record) -> Letter | None:
    """The letter that a record of the topic is; None where it is a mark, or none of ours."""
    told = _told(record)
    try:
        origin, offset = Partition(told["topic"], int(told["partition"])), int(told["offset"])
        return Letter(
            place=record.partition,
            offset=record.offset,
            timestamp_ms=record.timestamp_ms,
            origin=origin,
            origin_offset=offset,
            origin_timestamp_ms=int(told["timestamp_ms"]),
            reason=told["reason"],
            disposition=told["disposition"],
            detail=told["detail"],
            replays=int(told.get(REPLAYS, "0")),
            omitted=tuple(part for part in ("key", "value", "headers") if f"omitted_{part}_bytes" in told),
            key=None if "null_key" in told else record.key,
            value=None if "null_value" in told else record.value,
            headers=tuple((name, value) for name, value in record.headers if not name.startswith(PREFIX)),
        )
    except (KeyError, ValueError):
        return None


def mark_of(letter: Letter, landed: Partition, offset: int) -> tuple[bytes, bytes, list[tuple[str, bytes]]]:
    """Key, value and headers of the record that says: this letter's record was published again and lies there now."""
    told = {
        "replayed_topic": letter.origin.topic,
        "replayed_partition": str(letter.origin.number),
        "replayed_offset": str(letter.origin_offset),
        REPLAYS: str(letter.replays + 1),
    }
    value = json.dumps({"replayed": letter.origin_name, "as": f"{landed}/{offset}", "replays": letter.replays + 1})
    return (
        f"{PREFIX}replayed/{letter.origin_name}".encode(),
        value.encode(),
        [(PREFIX + name, text.encode()) for name, text in told.items()],
    )


def marked_origin(record: Record) -> tuple[Partition, int] | None:
    """Which origin a mark is about; None where the record is no mark."""
    told = _told(record)
    try:
        return Partition(told["replayed_topic"], int(told["replayed_partition"])), int(told["replayed_offset"])
    except (KeyError, ValueError):
        return None


def _told(record: Record) -> dict[str, str]:
    return {name.removeprefix(PREFIX): value.decode("utf-8", "replace") for name, value in record.headers if name.startswith(PREFIX)}


def read_marks(kafka: KafkaConfig, topic: str, passed: Passed | None = None) -> Marks:
    """All marks of a topic of dead letters, by one read of it. Raises as `read_topic`."""
    marks = Marks()
    for record in read_topic(kafka, topic, passed):
        origin = marked_origin(record)
        if origin is not None:
            marks.add(*origin)
    return marks


def read_letters(kafka: KafkaConfig, topic: str, passed: Passed | None = None) -> Iterator[Letter]:
    """All letters of a topic, the first of each partition first. Raises as `read_topic`."""
    for record in read_topic(kafka, topic, passed):
        letter = letter_of(record)
        if letter is not None:
            yield letter


def read_letter(kafka: KafkaConfig, topic: str, number: int, offset: int) -> Letter:
    """One letter. Raises StreamError where there is none at that place."""
    partitions = describe_topics(kafka, [topic])
    place = Partition(topic, number)
    if topic not in partitions or number not in partitions[topic].partitions:
        raise StreamError(f"there is no partition {number} of {topic!r}")
    for record in read_topic(kafka, topic, only={place: offset}):
        letter = letter_of(record) if record.offset == offset else None
        if letter is None:
            break
        return letter
    raise StreamError(f"there is no dead letter at {number}/{offset} of {topic!r}: `memstream dlq list` names those that are there")


def read_topic(kafka: KafkaConfig, topic: str, passed: Passed | None = None, only: Positions | None = None) -> Iterator[Record]:
    """Every record of a topic up to the end that it has now, in bounded memory; `only`: of these partitions, from these offsets on.

    A topic that is not there holds nothing. Raises BrokerUnavailable, ConfigurationError or StreamError.
    """
    if topic not in describe_topics(kafka, [topic]):
        return
    config = kafka.model_copy(update={"topics": (topic,), "group_id": None, "start": "earliest", "on_data_loss": "earliest"})
    begins: dict[Partition, int] = dict(only or {})
    ends: dict[Partition, int] = {}
    silent = 0
    with KafkaSource(config, only) as source:
        while True:
            fetched = source.poll(_POLL_BYTES, _POLL_S)
            begins.update({item.partition: item.position for item in fetched.items if isinstance(item, Joined) and not only})
            ends = {**fetched.highwaters, **ends}  # those that were heard of first
            for record in fetched.records:
                if record.partition in begins and record.offset < ends.get(record.partition, record.end):
                    yield record
            if passed is not None and begins.keys() <= ends.keys():
                passed(
                    sum(min(fetched.positions[each], ends[each]) - begins[each] for each in begins),
                    sum(max(ends[each] - begins[each], 0) for each in begins),
                )
            if begins and all(each in ends and fetched.positions[each] >= ends[each] for each in begins):
                return
            silent = 0 if fetched.items else silent + 1
            if silent == _QUIET_POLLS:
                # A replay that was killed leaves a transaction open for a while: what is behind its beginning is not there yet.
                committed = committed_ends(config, ends)
                ends = {each: min(end, committed[each]) for each, end in ends.items()}
            if silent > _SILENT_POLLS:
                raise BrokerUnavailable(f"{topic!r} is not read to its end: no news for {_SILENT_POLLS * _POLL_S:.0f} s")
