"""From a record's bytes to a document, or to a dead letter that says why not.

REPLAY-EXACT: the outcome depends on the record and the configuration alone. There is no clock here: whether an event time is possible is
judged against the record's own timestamp.

    value -> size -> framing -> UTF-8 -> JSON -> envelope -> fields -> clean text -> event time -> Document
       '-------'--------'---------'-------'---------'----------'------------'------> DeadLetter
    no value, or an envelope that says so -> Tombstone
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final, Literal, NoReturn

from pydantic import BaseModel, ConfigDict, Field

from pipeline.envelopes import Envelope, Framing, Removed, Unwrappable, advice, advice_on_bytes, seen, unframed, unwrapped
from pipeline.event_time import LATEST_MS, checked_ms, parse_ms
from pipeline.markup import TooMuchMarkup, plain_text
from pipeline.names import seen_alike
from pipeline.records import DeadLetter, Disposition, Document, Reason, Record, Tombstone

DISPOSITIONS: Final[Mapping[Reason, Disposition]] = {
    Reason.BAD_UTF8: Disposition.MALFORMED,
    Reason.BAD_JSON: Disposition.MALFORMED,
    Reason.TOO_LARGE: Disposition.OVERSIZE,
    Reason.WRONG_TYPE: Disposition.SCHEMA,
    Reason.MISSING_FIELD: Disposition.SCHEMA,
    Reason.EMPTY_TEXT: Disposition.SCHEMA,
    Reason.BAD_TIMESTAMP: Disposition.SCHEMA,
    Reason.UPDATE_FAILED: Disposition.MODEL,
}

MAX_LABEL_CHARS: Final = 512
"""Titles, sources and ids are kept for as long as the document is remembered, so they have a bound of their own (BOUNDED)."""

MAX_LINK_CHARS: Final = 2048

MAX_DEPTH: Final = 64
"""Levels of JSON. Python's own limit depends on how deep the caller's stack happens to be, which a replay would not repeat."""

_IMPLICIT: Final = re.compile(r".+/[0-9]+/[0-9]+")
"""What a record without an id of its own is called: topic/partition/offset."""

_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_CONTROL: Final = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class FieldsConfig(BaseModel):
    """Where in a JSON object the parts of a document are. A dotted path goes into nested objects and lists: `article.body`, `authors.0`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    text: str = Field(default="text", min_length=1, description="The text to learn; the one field that every record must have.")
    title: str | None = Field(default="title", min_length=1, description="Headline, put in front of every chunk. null: there is none.")
    source: str | None = Field(default="source", min_length=1, description="Who says so; sources can be filtered. null: there is none.")
    id: str | None = Field(default="id", min_length=1, description="The feed's own id, text or integer; else topic/partition/offset.")
    link: str | None = Field(
        default="link", min_length=1, description="The article's address, shown where it is cited. null: there is none."
    )
    time: str | None = Field(
        default="time",
        min_length=1,
        description="Event time: ISO 8601 (without a zone: UTC) or seconds or milliseconds since 1970; else the record's timestamp.",
    )


_TEXT_ONLY: Final = FieldsConfig(text="text", title=None, source=None, id=None, link=None, time=None)


class DecodeConfig(BaseModel):
    """How records are read."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal["json", "text"] = Field(
        default="json", description="json: an object for each record; text: the value is the text itself."
    )
    framing: Framing = Field(default="none", description="confluent: a schema's number stands in front of the JSON, and is passed over.")
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
    fields: FieldsConfig = Field(default=FieldsConfig(), description="Where the parts of a document are (format json).")
    max_bytes: int = Field(default=1_048_576, ge=1, description="A record's value above this size becomes a dead letter.")
    max_event_time_ahead_s: float = Field(
        default=86_400.0,
        ge=0,
        allow_inf_nan=False,
        description="How far an event time may lie after its record's own Kafka timestamp; later ones become dead letters.",
    )


class _Undecodable(Exception):
    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


def decode(record: Record, config: DecodeConfig) -> Document | Tombstone | DeadLetter:
    """The document that a record holds, or the dead letter that it becomes; a record without a value is a tombstone. Never raises.

    >>> from pipeline.records import Partition
    >>> value = b'{"title": "Elections", "text": "A new president.", "time": "2025-12-30T08:00:00Z"}'
    >>> record = Record(partition=Partition("news", 0), offset=7, timestamp_ms=1_767_100_000_000, value=value)
    >>> document = decode(record, DecodeConfig())
    >>> document.document_id, document.title, document.event_time_ms
    ('news/0/7', 'Elections', 1767081600000)
    """
    if record.value is None:
        return Tombstone(record=record)
    try:
        value = unframed(_sized(record.value, config.max_bytes), config.framing)
        if config.format == "text":
            return _document(record, config, {"text": _utf8(value)}, _TEXT_ONLY)
        return _document(record, config, _object(unwrapped(_json(value), config.envelope, record.headers)), config.fields)
    except Removed:
        return Tombstone(record=record)
    except Unwrappable as fault:
        return dead_letter(record, Reason.WRONG_TYPE, str(fault))
    except _Undecodable as fault:
        return dead_letter(record, fault.reason, fault.detail)


def dead_letter(record: Record, reason: Reason, detail: str) -> DeadLetter:
    """The dead letter for `reason`, with the disposition that belongs to it."""
    return DeadLetter(record=record, reason=reason, disposition=DISPOSITIONS[reason], detail=detail)


def _document(record: Record, config: DecodeConfig, item: dict[str, Any], fields: FieldsConfig) -> Document:
    strips = config.html == "strip"
    text = _text(item, fields.text, strips)
    title, feed_id = _label(item, fields.title, strips), _identity(item, fields.id)
    return Document(
        record=record,
        document_id=feed_id or f"{record.partition}/{record.offset}",
        text=text,
        event_time_ms=_event_time_ms(record, item, fields.time, round(config.max_event_time_ahead_s * 1000)),
        content_sha256=content_sha256(title, text),
        title=title,
        source=config.sources.get(record.partition.topic) or _label(item, fields.source),
        link=_link(item, fields.link),
        has_feed_id=bool(feed_id),
    )


def content_sha256(title: str | None, text: str) -> str:
    """What tells stories apart: the digest of title and text as readers see them, a line each, so that they cannot run into each other."""
    return hashlib.sha256(f"{seen_alike(title or '')}\n{seen_alike(text)}".encode()).hexdigest()


def _sized(value: bytes, max_bytes: int) -> bytes:
    if len(value) > max_bytes:
        raise _Undecodable(Reason.TOO_LARGE, f"{len(value)} bytes, at most {max_bytes} are read")
    return value


def _utf8(value: bytes) -> str:
    try:
        return value.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _Undecodable(Reason.BAD_UTF8, f"byte {error.start}: {error.reason}") from error


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


_JSON: Final = json.JSONDecoder(parse_constant=_refuse_constant)


def strict_json(text: str) -> Any:
    """The value of a JSON text; raises ValueError for what is none, NaN and infinities included, and for more than `MAX_DEPTH` levels.

    >>> strict_json('{"a": [1]}')
    {'a': [1]}
    """
    try:
        item = _JSON.decode(text)
    except RecursionError as error:
        raise ValueError(f"nested deeper than {MAX_DEPTH} levels") from error
    if text.count("[") + text.count("{") > MAX_DEPTH and _depth(item) > MAX_DEPTH:
        raise ValueError(f"nested deeper than {MAX_DEPTH} levels")
    return item


def _json(value: bytes) -> Any:
    text = _utf8(value)
    try:
        return strict_json(text)
    except ValueError as error:  # JSONDecodeError, and integers of more digits than Python converts
        raise _Undecodable(Reason.BAD_JSON, _with_advice(str(error), advice_on_bytes(value))) from error


def _object(item: Any) -> dict[str, Any]:
    if not isinstance(item, dict):
        raise _Undecodable(Reason.WRONG_TYPE, _with_advice(f"the value is {_kind(item)}, not an object", advice(item)))
    return item


def _with_advice(fault: str, counsel: str) -> str:
    return f"{fault}; {counsel}" if counsel else fault


def _depth(item: object) -> int:
    depth, level = 0, [item]
    while level := [each for each in level if isinstance(each, (dict, list))]:
        depth += 1
        level = [inner for outer in level for inner in _inside(outer)]
    return depth


def _inside(outer: object) -> Iterator[object]:
    return iter(outer.values() if isinstance(outer, dict) else outer if isinstance(outer, list) else ())


def _kind(value: object) -> str:
    names = {dict: "an object", list: "an array", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")


def _at(item: dict[str, Any], path: str | None) -> Any:
    """What stands at a dotted path; None where nothing does, or null. A number picks an element of a list."""
    if path is None:
        return None
    if path in item:  # CloudEvents and others have dots in names
        return item[path]
    value: Any = item
    for name in path.split("."):
        if value is None:
            return None
        if isinstance(value, list) and name.isascii() and name.isdigit():
            value = value[int(name)] if int(name) < len(value) else None
        elif isinstance(value, dict):
            value = value.get(name)
        else:
            raise _Undecodable(Reason.WRONG_TYPE, f"field {path!r}: {_kind(value)} on the way, not an object")
    return value


def _string(item: dict[str, Any], path: str | None) -> str | None:
    value = _at(item, path)
    if value is not None and not isinstance(value, str):
        raise _Undecodable(Reason.WRONG_TYPE, f"field {path!r} is {_kind(value)}, not a string")
    return value


def _text(item: dict[str, Any], path: str, strips: bool) -> str:
    value = _string(item, path)
    if value is None:
        counsel = advice(item) or f"there is {seen(item)}: say with decode.fields.text where the text is"
        raise _Undecodable(Reason.MISSING_FIELD, _with_advice(f"field {path!r} is not there or null", counsel))
    text = _stripped(_clean(value)) if strips else _clean(value)
    if not any(character.isprintable() and character != " " for character in text):
        raise _Undecodable(Reason.EMPTY_TEXT, f"{len(value)} characters, none of them visible")
    return text


def _clean(text: str) -> str:
    """Text that every stage behind can take: no lone surrogates, which UTF-8 cannot hold, no NUL or other control characters."""
    if text.isascii() and text.isprintable():
        return text.strip()
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return _CONTROL.sub(" ", _SURROGATE.sub("\ufffd", text)).strip()


def _stripped(text: str) -> str:
    try:
        return _clean(plain_text(text))
    except TooMuchMarkup as error:
        raise _Undecodable(Reason.TOO_LARGE, str(error)) from error


def _label(item: dict[str, Any], path: str | None, strips: bool = False) -> str | None:
    text = _string(item, path) or ""
    line = _one_line(_stripped(_clean(text)) if strips else text)
    return line[:MAX_LABEL_CHARS].rstrip() or None


def _link(item: dict[str, Any], path: str | None) -> str | None:
    """An address that can be shown, or nothing: a record is not refused for its link."""
    value = _at(item, path)
    if not isinstance(value, str):
        return None
    link = value.strip()
    return link if 0 < len(link) <= MAX_LINK_CHARS and link.isprintable() and " " not in link else None


def _one_line(text: str) -> str:
    return " ".join(_clean(text).split())


def _identity(item: dict[str, Any], path: str | None) -> str | None:
    value = _at(item, path)
    if type(value) is int:
        value = str(value)
    if value is not None and not isinstance(value, str):
        raise _Undecodable(Reason.WRONG_TYPE, f"field {path!r} is {_kind(value)}, neither a string nor an integer")
    line = _one_line(value or "")
    if _IMPLICIT.fullmatch(line):
        return f"id:{line}"  # it is not to be taken for another record's place
    # A cut id could become another document's id; its digest cannot.
    return line if len(line) <= MAX_LABEL_CHARS else f"sha256:{hashlib.sha256(line.encode()).hexdigest()}"


def _event_time_ms(record: Record, item: dict[str, Any], path: str | None, max_ahead_ms: int) -> int:
    value = _at(item, path)
    absent = value is None or (isinstance(value, str) and not value.strip())
    # A record without a timestamp of its own (-1, or 0 from careless producers) gives nothing to compare with.
    compared = not absent and record.timestamp_ms > 0
    latest_ms = record.timestamp_ms + max_ahead_ms if compared else LATEST_MS
    what = "the record's timestamp" if absent else f"field {path!r}"
    try:
        return checked_ms(record.timestamp_ms if absent else parse_ms(value), latest_ms)
    except TypeError as error:
        raise _Undecodable(Reason.WRONG_TYPE, f"{what}: {_kind(value)}, neither a string nor a number") from error
    except ValueError as error:
        raise _Undecodable(Reason.BAD_TIMESTAMP, f"{what}: {error}") from error
