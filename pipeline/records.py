"""The carriers: one frozen type for each arrow of the data path.

    Kafka -> Record -> Document | Tombstone | DeadLetter -> Chunk -> (self-update)

Each says where in the stream it came from. `offset` is Kafka's, `position` is the offset AFTER the last one passed, times are
milliseconds since the epoch, UTC.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple, Self, TypeAlias


class Partition(NamedTuple):
    """One partition of one topic.

    >>> str(Partition("news", 0)), Partition.parse("news/0")
    ('news/0', Partition(topic='news', number=0))
    """

    topic: str
    number: int

    def __str__(self) -> str:
        return f"{self.topic}/{self.number}"

    @classmethod
    def parse(cls, text: str) -> Self:
        topic, slash, number = text.rpartition("/")
        if not slash or not number.isdigit():
            raise ValueError(f"not a partition: {text!r} (want TOPIC/NUMBER)")
        return cls(topic, int(number))


Positions: TypeAlias = Mapping[Partition, int]
"""For each partition the next offset to read: everything before it has been passed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One Kafka record as it came, bytes untouched.

    >>> Record(partition=Partition("news", 0), offset=7, timestamp_ms=1_735_689_600_000, key=None, value=b"{}").end
    8
    """

    partition: Partition
    offset: int
    timestamp_ms: int
    key: bytes | None = None
    value: bytes | None = None
    headers: tuple[tuple[str, bytes], ...] = ()

    @property
    def end(self) -> int:
        """The position once this record has been passed."""
        return self.offset + 1

    @property
    def size_bytes(self) -> int:
        return len(self.key or b"") + len(self.value or b"") + sum(len(name) + len(value) for name, value in self.headers)


class Reason(StrEnum):
    """Why a record became a dead letter."""

    BAD_UTF8 = "bad_utf8"
    BAD_JSON = "bad_json"
    WRONG_TYPE = "wrong_type"
    MISSING_FIELD = "missing_field"
    EMPTY_TEXT = "empty_text"
    TOO_LARGE = "too_large"
    BAD_TIMESTAMP = "bad_timestamp"
    BAD_PAYLOAD = "bad_payload"
    """Bytes that are not what their schema says."""
    UNKNOWN_SCHEMA = "unknown_schema"
    """The registry has no schema of that number."""
    UNUSABLE_SCHEMA = "unusable_schema"
    """It has one that cannot be read, or that is of another kind than `decode.format` says."""
    SCHEMA_VIOLATION = "schema_violation"
    """JSON that its schema does not allow."""
    UPDATE_FAILED = "update_failed"
    KILLS_READER = "kills_reader"
    """Processes that decoded it died or hung, again and again."""


class Disposition(StrEnum):
    """What kind of fault it was, and so who can mend it."""

    MALFORMED = "malformed"
    OVERSIZE = "oversize"
    SCHEMA = "schema"
    MODEL = "model"


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """A record that cannot be learned, and why.

    >>> record = Record(partition=Partition("news", 0), offset=3, timestamp_ms=0, value=b"{")
    >>> DeadLetter(record=record, reason=Reason.BAD_JSON, disposition=Disposition.MALFORMED, detail="it ends early").reason
    <Reason.BAD_JSON: 'bad_json'>
    """

    record: Record
    reason: Reason
    disposition: Disposition
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """One news item, decoded.

    `document_id` is the feed's own id (`has_feed_id`), or `topic/partition/offset`. `content_sha256` is over title and text, so the same
    story under another id is still the same story. `link` is the article's address. `signature`: what near-duplicates are told by, where
    admission asks for that.

    >>> record = Record(partition=Partition("news", 0), offset=7, timestamp_ms=0, value=b"A new president.")
    >>> Document(record=record, document_id="news/0/7", text="A new president.", event_time_ms=0, content_sha256="...").partition
    Partition(topic='news', number=0)
    """

    record: Record
    document_id: str
    text: str
    event_time_ms: int
    content_sha256: str
    title: str | None = None
    source: str | None = None
    link: str | None = None
    has_feed_id: bool = False
    signature: bytes | None = field(default=None, repr=False)

    @property
    def partition(self) -> Partition:
        return self.record.partition

    @property
    def offset(self) -> int:
        return self.record.offset


@dataclass(frozen=True, slots=True, kw_only=True)
class Tombstone:
    """A record without a value: Kafka's way to say that what was published with its key is to be forgotten.

    >>> Tombstone(record=Record(partition=Partition("news", 0), offset=9, timestamp_ms=0, key=b"item-7")).key_text
    'item-7'
    """

    record: Record

    @property
    def key_text(self) -> str | None:
        """The key as text; None where there is none, or it is no UTF-8."""
        try:
            return None if self.record.key is None else self.record.key.decode()
        except UnicodeDecodeError:
            return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """The tokens of one self-update: a document's header line and a part of its text.

    >>> Chunk(document_id="news/0/7", number=0, count=2, token_ids=(5, 6, 7)).count
    2
    """

    document_id: str
    number: int
    count: int
    token_ids: tuple[int, ...] = field(repr=False)


class Outcome(StrEnum):
    """NOTHING-SILENT: each offset passed is exactly one of these."""

    APPLIED = "applied"
    DELETED = "deleted"
    DUPLICATE = "duplicate"
    FILTERED = "filtered"
    DEAD_LETTER = "dead_letter"
    GAP = "gap"
