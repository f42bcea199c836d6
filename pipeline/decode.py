"""From a record's bytes to a document, or to a dead letter that says why not.

REPLAY-EXACT: the outcome depends on the record and the configuration alone. There is no clock here: whether an event time is possible is
judged against the record's own timestamp.

    value -> size -> format -> envelope -> fields -> clean text -> event time -> Document
       '-------'-------'----------'---------'------------'------------'------> DeadLetter
    no value, or an envelope that says so -> Tombstone

Whatever the format, what comes out of it is what JSON would have: objects, arrays, texts, numbers. Everything behind is the same for all.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any, Final, Literal, Self, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, model_validator

from pipeline.envelopes import Envelope, Removed, Unwrappable, advice, advice_on_bytes, unwrapped
from pipeline.fields import (
    FieldsConfig,
    kind_of,
    read_event_time_ms,
    read_identity,
    read_label,
    read_link,
    read_text,
    with_advice,
)
from pipeline.names import seen_alike
from pipeline.records import DeadLetter, Disposition, Document, Reason, Record, Tombstone
from pipeline.schemas.config import RegistryConfig
from pipeline.schemas.framing import unframed
from pipeline.schemas.readers import SchemaReaders
from pipeline.schemas.registry import Kind
from pipeline.strict_json import strict_json
from pipeline.undecodable import Undecodable

DISPOSITIONS: Final[Mapping[Reason, Disposition]] = {
    Reason.BAD_UTF8: Disposition.MALFORMED,
    Reason.BAD_JSON: Disposition.MALFORMED,
    Reason.TOO_LARGE: Disposition.OVERSIZE,
    Reason.WRONG_TYPE: Disposition.SCHEMA,
    Reason.MISSING_FIELD: Disposition.SCHEMA,
    Reason.EMPTY_TEXT: Disposition.SCHEMA,
    Reason.BAD_TIMESTAMP: Disposition.SCHEMA,
    Reason.BAD_PAYLOAD: Disposition.MALFORMED,
    Reason.UNKNOWN_SCHEMA: Disposition.SCHEMA,
    Reason.UNUSABLE_SCHEMA: Disposition.SCHEMA,
    Reason.SCHEMA_VIOLATION: Disposition.SCHEMA,
    Reason.UPDATE_FAILED: Disposition.MODEL,
    Reason.KILLS_READER: Disposition.MALFORMED,
}

Format: TypeAlias = Literal["json", "text", "avro", "protobuf", "json_schema"]

_KINDS: Final[Mapping[str, Kind]] = {"avro": "AVRO", "protobuf": "PROTOBUF", "json_schema": "JSON"}
_TEXT_ONLY: Final = FieldsConfig(text="text", title=None, source=None, id=None, link=None, time=None)


class DecodeConfig(BaseModel):
    """How records are read."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Format = Field(
        default="json",
        description="json: an object for each record; text: the value is the text itself; avro, protobuf, json_schema: as Confluent's"
        " serializers write it, a schema's number in front, read with decode.registry.",
    )
    registry: RegistryConfig = Field(default=RegistryConfig(), description="Where the schemas are (avro, protobuf, json_schema).")
    envelope: Envelope = Field(
        default="none",
        description="What documents are wrapped into: connect (schema, payload), debezium (op, before, after), cloudevents.",
    )
    sources: Mapping[str, str] = Field(
        default={}, description="Source by topic, whatever records say of it: a producer is who may write there, not who it says it is."
    )
    html: Literal["keep", "strip"] = Field(
        default="keep", description="strip: markup in text and title is taken out and entities are resolved; keep: they stay as they are."
    )
    fields: FieldsConfig = Field(default=FieldsConfig(), description="Where the parts of a document are (all formats but text).")
    max_bytes: int = Field(default=1_048_576, ge=1, description="A record's value above this size becomes a dead letter.")
    max_event_time_ahead_s: float = Field(
        default=86_400.0,
        ge=0,
        allow_inf_nan=False,
        description="How far an event time may lie after its record's own Kafka timestamp; later ones become dead letters.",
    )

    @model_validator(mode="after")
    def _schemas_come_from_somewhere(self) -> Self:
        if self.format in ("avro", "protobuf") and not self.registry.url:
            raise ValueError(f"format {self.format} needs the address of a schema registry: decode.registry.url")
        if self.registry.url and self.format not in _KINDS:
            raise ValueError(f"registry.url is not used with format {self.format}: set it to avro, protobuf or json_schema")
        return self


ReadValue: TypeAlias = Callable[[bytes], Any]
"""From a value's bytes to what JSON would have.

Raises Undecodable; where it asks a registry, RegistryUnavailable and ConfigurationError too.
"""


def value_reader(config: DecodeConfig) -> ReadValue:
    """How this format's values are read; keeps the schemas that it has seen. Raises ConfigurationError where a library is not there."""
    if config.format == "text":
        return lambda value: {_TEXT_ONLY.text: _utf8(value)}
    if config.format == "json":
        return _json
    if not config.registry.url:
        return lambda value: _json(unframed(value)[1])
    return SchemaReaders(_KINDS[config.format], config.registry).read


def decode(record: Record, config: DecodeConfig, read: ReadValue | None = None) -> Document | Tombstone | DeadLetter:
    """The document that a record holds, or the dead letter that it becomes; a record without a value is a tombstone.

    Args:
        read: `value_reader(config)`, made once.

    Never raises for what a record holds; where `read` asks a registry: RegistryUnavailable, ConfigurationError.

    >>> from pipeline.records import Partition
    >>> value = b'{"title": "Elections", "text": "A new president.", "time": "2025-12-30T08:00:00Z"}'
    >>> record = Record(partition=Partition("news", 0), offset=7, timestamp_ms=1_767_100_000_000, value=value)
    >>> document = decode(record, DecodeConfig())
    >>> document.document_id, document.title, document.event_time_ms
    ('news/0/7', 'Elections', 1767081600000)
    """
    if record.value is None:
        return Tombstone(record=record)
    read = read or value_reader(config)
    try:
        item = read(_sized(record.value, config.max_bytes))
        if config.format == "text":
            return _document(record, config, item, _TEXT_ONLY)
        return _document(record, config, _object(unwrapped(item, config.envelope, record.headers)), config.fields)
    except Removed:
        return Tombstone(record=record)
    except Unwrappable as fault:
        return dead_letter(record, Reason.WRONG_TYPE, str(fault))
    except Undecodable as fault:
        return dead_letter(record, fault.reason, fault.detail)


def dead_letter(record: Record, reason: Reason, detail: str) -> DeadLetter:
    """The dead letter for `reason`, with the disposition that belongs to it."""
    return DeadLetter(record=record, reason=reason, disposition=DISPOSITIONS[reason], detail=detail)


def _document(record: Record, config: DecodeConfig, item: dict[str, Any], fields: FieldsConfig) -> Document:
    strips = config.html == "strip"
    text = read_text(item, fields.text, strips)
    title, feed_id = read_label(item, fields.title, strips), read_identity(item, fields.id)
    return Document(
        record=record,
        document_id=feed_id or f"{record.partition}/{record.offset}",
        text=text,
        event_time_ms=read_event_time_ms(record, item, fields.time, round(config.max_event_time_ahead_s * 1000)),
        content_sha256=content_sha256(title, text),
        title=title,
        source=config.sources.get(record.partition.topic) or read_label(item, fields.source),
        link=read_link(item, fields.link),
        has_feed_id=bool(feed_id),
    )


def content_sha256(title: str | None, text: str) -> str:
    """What tells stories apart: the digest of title and text as readers see them, a line each, so that they cannot run into each other."""
    return hashlib.sha256(f"{seen_alike(title or '')}\n{seen_alike(text)}".encode()).hexdigest()


def _sized(value: bytes, max_bytes: int) -> bytes:
    if len(value) > max_bytes:
        raise Undecodable(Reason.TOO_LARGE, f"{len(value)} bytes, at most {max_bytes} are read")
    return value


def _utf8(value: bytes) -> str:
    try:
        return value.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Undecodable(Reason.BAD_UTF8, f"byte {error.start}: {error.reason}") from error


def _json(value: bytes) -> Any:
    text = _utf8(value)
    try:
        return strict_json(text)
    except ValueError as error:  # JSONDecodeError, and integers of more digits than Python converts
        raise Undecodable(Reason.BAD_JSON, with_advice(str(error), advice_on_bytes(value))) from error


def _object(item: Any) -> dict[str, Any]:
    if not isinstance(item, dict):
        raise Undecodable(Reason.WRONG_TYPE, with_advice(f"the value is {kind_of(item)}, not an object", advice(item)))
    return item
