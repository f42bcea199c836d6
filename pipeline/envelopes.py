"""What other systems wrap documents into: recognised, taken off where the configuration says so, and named where it does not.

| envelope      | looks like                                                       | `decode.envelope` |
|---------------|------------------------------------------------------------------|-------------------|
| Kafka Connect | `{schema, payload}`                                              | `connect`         |
| Debezium      | `{op, before, after, source}`, also inside Connect's             | `debezium`        |
| CloudEvents   | `{specversion, type, source, id, data}`, or headers `ce_*`       | `cloudevents`     |

They are looked for in what the format gave, so they are the same in JSON, Avro and Protobuf.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal, TypeAlias

from pipeline.schemas.framing import is_framed, unframed

Envelope: TypeAlias = Literal["none", "connect", "debezium", "cloudevents"]

_CE_HEADER: Final = "ce_"
_CE_PARTS: Final = ("id", "source", "time")
_STARTS: Final = {
    b"\x1f\x8b": "gzip",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"PK\x03\x04": "zip",
    b"Obj\x01": "an Avro file",
    b"<?xml": "XML",
    b"<rss": "XML",
    b"<feed": "XML",
    b"<!DOCTYPE": "HTML",
    b"<html": "HTML",
}


class Unwrappable(Exception):
    """The envelope is not the configured one; the message says what is there instead."""


class Removed(Exception):
    """The envelope says that what has the record's key is gone."""


def unwrapped(item: Any, envelope: Envelope, headers: Sequence[tuple[str, bytes]] = ()) -> Any:
    """The document inside an envelope.

    Raises:
        Unwrappable: it is in no such envelope.
        Removed: Debezium says that the row was deleted.

    >>> unwrapped({"schema": {}, "payload": {"text": "News."}}, "connect")
    {'text': 'News.'}
    >>> unwrapped({"op": "u", "before": {"text": "Old."}, "after": {"text": "News."}}, "debezium")
    {'text': 'News.'}
    >>> event = {"specversion": "1.0", "id": "7", "type": "news", "source": "/afp", "data": {"text": "News."}}
    >>> unwrapped(event, "cloudevents")
    {'id': '7', 'source': '/afp', 'text': 'News.'}
    """
    if envelope == "connect":
        return _payload(item)
    if envelope == "debezium":
        return _after(item)
    if envelope == "cloudevents":
        return _data(item, {name.lower(): value for name, value in headers})
    return item


def _payload(item: Any) -> Any:
    if not _is_connect(item):
        raise Unwrappable(f"not in Kafka Connect's envelope (schema, payload): {seen(item)}")
    return item["payload"]


def _after(item: Any) -> Any:
    change = item["payload"] if _is_connect(item) else item
    if not _is_debezium(change):
        raise Unwrappable(f"not in Debezium's envelope (op, before, after): {seen(item)}")
    if change["op"] == "d" or change.get("after") is None:
        raise Removed
    return change["after"]


def _data(item: Any, headers: Mapping[str, bytes]) -> Any:
    if _is_cloud_event(item):
        told: Mapping[str, Any] = item
        data = item.get("data")
        if data is None:
            raise Unwrappable("a CloudEvent without data" + (" but with data_base64, which is not read" if "data_base64" in item else ""))
    elif f"{_CE_HEADER}specversion" in headers:
        told, data = {name: headers.get(_CE_HEADER + name, b"").decode("utf-8", "replace") or None for name in _CE_PARTS}, item
    else:
        raise Unwrappable(f"no CloudEvent, neither as a value (specversion, type, source, id) nor by headers ce_*: {seen(item)}")
    about = {name: told[name] for name in _CE_PARTS if told.get(name)}
    if isinstance(data, str):
        return {**about, "text": data}
    return {**about, **data} if isinstance(data, dict) else data


def _is_connect(item: Any) -> bool:
    return isinstance(item, dict) and set(item) == {"schema", "payload"}


def _is_debezium(item: Any) -> bool:
    return isinstance(item, dict) and item.get("op") in ("c", "r", "u", "d", "t") and ("after" in item or "before" in item)


def _is_cloud_event(item: Any) -> bool:
    return isinstance(item, dict) and isinstance(item.get("specversion"), str) and {"id", "type", "source"} <= set(item)


def seen(item: Any) -> str:
    """What a value looks like, for whoever has to configure it."""
    if isinstance(item, dict):
        names = ", ".join(map(repr, list(item)[:8]))
        return f"an object with {names[:120]}{', ...' if len(item) > 8 else ''}" if item else "an empty object"
    if isinstance(item, list):
        return f"an array of {len(item)}"
    return f"a {type(item).__name__}"


def advice(item: Any) -> str:
    """How to configure what a JSON value looks like; empty where it looks like nothing known.

    >>> advice({"schema": {"type": "struct"}, "payload": {"text": "News."}})
    "it looks like Kafka Connect's envelope: set decode.envelope to connect, or value.converter.schemas.enable to false there"
    """
    if _is_connect(item):
        if _is_debezium(item["payload"]):
            return "it looks like a change event of Debezium: set decode.envelope to debezium"
        return "it looks like Kafka Connect's envelope: set decode.envelope to connect, or value.converter.schemas.enable to false there"
    if _is_debezium(item):
        return "it looks like a change event of Debezium: set decode.envelope to debezium"
    if _is_cloud_event(item):
        return "it looks like a CloudEvent: set decode.envelope to cloudevents"
    if isinstance(item, list) and any(isinstance(each, dict) for each in item):
        return f"an array of {len(item)} documents in one record; write each into a record of its own (`memstream publish` does so)"
    if isinstance(item, str) and item.lstrip()[:1] in ("{", "["):
        return "a JSON text inside a JSON string: it was encoded twice"
    return ""


def advice_on_bytes(value: bytes) -> str:
    """The same, of a value that is no JSON."""
    if is_framed(value):
        number, behind = unframed(value)
        if behind.lstrip()[:1] in (b"{", b"["):
            return f"it is framed by Confluent's JSON serializer (schema {number}): set decode.format to json_schema"
        return f"it is framed by a Confluent serializer (schema {number}): set decode.format to avro or protobuf, and decode.registry.url"
    start = value.lstrip()[:16]
    kind = next((name for mark, name in _STARTS.items() if start.startswith(mark)), None)
    if kind is not None:
        return f"it looks like {kind}, and documents are read as JSON (decode.format)"
    if start[:1].isalpha() and not start.startswith((b"true", b"false", b"null", b"NaN")):
        return "it looks like plain text: set decode.format to text"
    return ""
