"""The parts of a document in an object, whatever format it came in: found by dotted paths, cleaned, bounded.

REPLAY-EXACT: there is no clock here; whether an event time is possible is judged against the record's own timestamp.
"""

from __future__ import annotations

import hashlib
import re
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field

from pipeline.envelopes import advice, seen
from pipeline.event_time import LATEST_MS, checked_ms, parse_ms
from pipeline.markup import TooMuchMarkup, plain_text
from pipeline.records import Reason, Record
from pipeline.undecodable import Undecodable

MAX_LABEL_CHARS: Final = 512
"""Titles, sources and ids are kept for as long as the document is remembered, so they have a bound of their own (BOUNDED)."""

MAX_LINK_CHARS: Final = 2048

_TAKEN: Final = re.compile(r".+/[0-9]+/[0-9]+(?:#[0-9]+)?|(?:id|sha256):.*")
"""Ids that records have for other reasons: without an id of its own (topic/partition/offset, maybe #2), a long one, and these escaped."""

_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_CONTROL: Final = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class FieldsConfig(BaseModel):
    """Where in an object the parts of a document are. A dotted path goes into nested objects and lists: `article.body`, `authors.0`."""

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
        description="Event time: ISO 8601 (without a zone: UTC) or seconds (ms, us, ns) since 1970; else the record's timestamp.",
    )


def with_advice(fault: str, counsel: str) -> str:
    return f"{fault}; {counsel}" if counsel else fault


def kind_of(value: object) -> str:
    names = {dict: "an object", list: "an array", str: "a string", bytes: "bytes", bool: "a boolean", type(None): "null"}
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
            raise Undecodable(Reason.WRONG_TYPE, f"field {path!r}: {kind_of(value)} on the way, not an object")
    return value


def _string(item: dict[str, Any], path: str | None) -> str | None:
    value = _at(item, path)
    if value is not None and not isinstance(value, str):
        raise Undecodable(Reason.WRONG_TYPE, f"field {path!r} is {kind_of(value)}, not a string")
    return value


def read_text(item: dict[str, Any], path: str, strips: bool) -> str:
    value = _string(item, path)
    if value is None:
        counsel = advice(item) or f"there is {seen(item)}: say with decode.fields.text where the text is"
        raise Undecodable(Reason.MISSING_FIELD, with_advice(f"field {path!r} is not there or null", counsel))
    text = _stripped(_clean(value)) if strips else _clean(value)
    if not any(character.isprintable() and character != " " for character in text):
        raise Undecodable(Reason.EMPTY_TEXT, f"{len(value)} characters, none of them visible")
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
        raise Undecodable(Reason.TOO_LARGE, str(error)) from error


def read_label(item: dict[str, Any], path: str | None, strips: bool = False) -> str | None:
    text = _string(item, path) or ""
    line = _one_line(_stripped(_clean(text)) if strips else text)
    return line[:MAX_LABEL_CHARS].rstrip() or None


def read_link(item: dict[str, Any], path: str | None) -> str | None:
    """An address that can be shown, or nothing: a record is not refused for its link."""
    value = _at(item, path)
    if not isinstance(value, str):
        return None
    link = value.strip()
    return link if 0 < len(link) <= MAX_LINK_CHARS and link.isprintable() and " " not in link else None


def _one_line(text: str) -> str:
    return " ".join(_clean(text).split())


def read_identity(item: dict[str, Any], path: str | None) -> str | None:
    value = _at(item, path)
    if type(value) is int:
        value = str(value)
    if value is not None and not isinstance(value, str):
        raise Undecodable(Reason.WRONG_TYPE, f"field {path!r} is {kind_of(value)}, neither a string nor an integer")
    line = _one_line(value or "")
    # A cut id could become another document's id; its digest cannot.
    if len(line) > MAX_LABEL_CHARS:
        return f"sha256:{hashlib.sha256(line.encode()).hexdigest()}"
    return f"id:{line}" if _TAKEN.fullmatch(line) else line  # it is not to be taken for another record's


def read_event_time_ms(record: Record, item: dict[str, Any], path: str | None, max_ahead_ms: int) -> int:
    value = _at(item, path)
    absent = value is None or (isinstance(value, str) and not value.strip())
    # A record without a timestamp of its own (-1, or 0 from careless producers) gives nothing to compare with.
    compared = not absent and record.timestamp_ms > 0
    latest_ms = record.timestamp_ms + max_ahead_ms if compared else LATEST_MS
    what = "the record's timestamp" if absent else f"field {path!r}"
    try:
        return checked_ms(record.timestamp_ms if absent else parse_ms(value), latest_ms)
    except TypeError as error:
        raise Undecodable(Reason.WRONG_TYPE, f"{what}: {kind_of(value)}, neither a string nor a number") from error
    except ValueError as error:
        raise Undecodable(Reason.BAD_TIMESTAMP, f"{what}: {error}") from error
