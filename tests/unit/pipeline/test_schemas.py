"""Avro, Protobuf and JSON Schema by a registry's numbers: documents, or dead letters that say why not, or a wait for the registry."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import trustme
from google.protobuf.message_factory import GetMessageClass

from jobs.config import parse_config
from pipeline.decode import DecodeConfig, ReadValue, decode, value_reader
from pipeline.errors import ConfigurationError, RegistryUnavailable
from pipeline.records import DeadLetter, Document, Partition, Reason, Record, Tombstone
from pipeline.schemas.avro import MOST_VALUES, AvroReader
from pipeline.schemas.config import RegistryConfig
from pipeline.schemas.framing import message_indexes
from pipeline.schemas.protobuf import ProtobufReader
from pipeline.schemas.readers import ASK_AGAIN_S, SchemaReaders
from pipeline.schemas.registry import MOST_REFERENCES, BadSchema, Registry, Schema
from pipeline.undecodable import Undecodable
from tests.doubles.framed import avro, framed, zigzag
from tests.doubles.ports import ports, silent
from tests.doubles.registry import FakeRegistry, fake_registry

NEWS = {
    "type": "record",
    "name": "News",
    "namespace": "org.example",
    "fields": [
        {"name": "id", "type": {"type": "string", "logicalType": "uuid"}},
        {"name": "headline", "type": ["null", "string"]},
        {
            "name": "article",
            "type": {"type": "record", "name": "Article", "fields": [{"name": "parts", "type": {"type": "array", "items": "string"}}]},
        },
        {"name": "at", "type": ["null", {"type": "long", "logicalType": "timestamp-millis"}]},
    ],
}
STORY = {
    "id": UUID(int=7),
    "headline": "Elections",
    "article": {"parts": ["Skipped.", "A new president."]},
    "at": datetime(2025, 12, 30, 8, tzinfo=UTC),
}
FIELDS = {"text": "article.parts.1", "title": "headline", "time": "at"}

PROTO = """
syntax = "proto3";
package org.example;
import "google/protobuf/timestamp.proto";
import "google/protobuf/wrappers.proto";
message Other { string x = 1; message Inner { string text = 1; } }
message News {
  enum Kind { PLAIN = 0; FLASH = 1; }
  int64 id = 1;
  google.protobuf.StringValue headline = 2;
  repeated string parts = 3;
  google.protobuf.Timestamp at = 4;
  Kind source = 5;
  map<string, Other.Inner> more = 6;
  bytes raw = 7;
  News self = 8;
}
"""

JSON_SCHEMA = {
    "$schema": "http://json-schema.org/draft-07/schema#",
    "type": "object",
    "required": ["text"],
    "properties": {"text": {"type": "string", "maxLength": 40}, "id": {"type": "string", "pattern": "^(a+)+$"}},
}


@pytest.fixture
def registry() -> Iterator[FakeRegistry]:
    with fake_registry() as started:
        yield started


def configured(registry: FakeRegistry, format: str, **config: Any) -> DecodeConfig:
    return DecodeConfig.model_validate({"format": format, "registry": {"url": registry.url}, **config})


def decoded(value: bytes, config: DecodeConfig, read: ReadValue | None = None) -> Document | Tombstone | DeadLetter:
    record = Record(partition=Partition("news", 0), offset=7, timestamp_ms=1_767_100_000_000, key=b"k", value=value)
    return decode(record, config, read)


def letter(value: bytes, config: DecodeConfig, read: ReadValue | None = None) -> tuple[Reason, str]:
    found = decoded(value, config, read)
    assert isinstance(found, DeadLetter), found
    assert len(found.detail) < 500
    return found.reason, found.detail


# What is read


def test_avro_is_read_with_nested_fields_unions_and_logical_types(registry: FakeRegistry) -> None:
    registry.put(7, "AVRO", NEWS)
    found = decoded(framed(7, avro(NEWS, STORY)), configured(registry, "avro", fields=FIELDS))
    assert isinstance(found, Document), found
    assert (found.text, found.title, found.event_time_ms) == ("A new president.", "Elections", 1_767_081_600_000)
    assert found.document_id == str(UUID(int=7))
    bare = decoded(framed(7, avro(NEWS, {**STORY, "headline": None, "at": None})), configured(registry, "avro", fields=FIELDS))
    assert isinstance(bare, Document)
    assert (bare.title, bare.event_time_ms) == (None, 1_767_100_000_000)


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        ({"type": "int", "logicalType": "date"}, date(2025, 12, 30), "2025-12-30"),
        ({"type": "long", "logicalType": "timestamp-micros"}, datetime(2025, 12, 30, 8, 0, 0, 5, UTC), "2025-12-30T08:00:00.000005+00:00"),
        ({"type": "long", "logicalType": "local-timestamp-millis"}, datetime(2025, 12, 30, 8), "2025-12-30T08:00:00"),
        ({"type": "bytes", "logicalType": "decimal", "precision": 12, "scale": 2}, Decimal("1767081600.00"), 1_767_081_600),
        ({"type": "bytes", "logicalType": "decimal", "precision": 12, "scale": 2}, Decimal("0.25"), 0.25),
        ({"type": "fixed", "name": "F", "size": 2}, b"ab", b"ab"),
        ({"type": "enum", "name": "E", "symbols": ["A", "B"]}, "B", "B"),
        ({"type": "map", "values": ["null", "double"]}, {"a": 1.5, "b": None}, {"a": 1.5, "b": None}),
        ("boolean", True, True),
        ("float", 0.5, 0.5),
    ],
)
def test_values_of_avro_become_what_json_would_have(kind: Any, value: Any, expected: Any) -> None:
    schema = {"type": "record", "name": "R", "fields": [{"name": "x", "type": kind}]}
    assert AvroReader(Schema(kind="AVRO", text=json.dumps(schema))).read(avro(schema, {"x": value})) == {"x": expected}


def message(proto: str, name: str, **fields: Any) -> Any:
    """A message of a .proto text, made by Google's library."""
    reader = ProtobufReader(Schema(kind="PROTOBUF", text=proto))
    return GetMessageClass(reader._pool.FindMessageTypeByName(name))(**fields)


def test_protobuf_is_read_by_its_message_indexes(registry: FakeRegistry) -> None:
    registry.put(3, "PROTOBUF", PROTO)
    news = message(
        PROTO, "org.example.News", id=41, headline={"value": "Elections"}, parts=["a", "A new president."], source=1, raw=b"\xff"
    )
    news.at.FromDatetime(datetime(2025, 12, 30, 8))
    news.more["x"].text = "Inside."
    data = framed(3, zigzag(1) + zigzag(1) + news.SerializeToString())
    config = configured(registry, "protobuf", fields={"text": "parts.1", "title": "headline", "time": "at"})
    found = decoded(data, config)
    assert isinstance(found, Document), found
    assert (found.document_id, found.title, found.text, found.source) == ("41", "Elections", "A new president.", "FLASH")
    assert found.event_time_ms == 1_767_081_600_000
    inside = decoded(data, configured(registry, "protobuf", fields={"text": "more.x.text", "time": None}))
    assert isinstance(inside, Document)
    assert inside.text == "Inside."
    first = message(PROTO, "org.example.Other.Inner", text="Nested.")
    nested = decoded(framed(3, zigzag(2) + zigzag(0) + zigzag(0) + first.SerializeToString()), configured(registry, "protobuf"))
    assert isinstance(nested, Document)
    assert nested.text == "Nested."
    assert letter(data, configured(registry, "protobuf", fields={"text": "raw"}))[1] == "field 'raw' is bytes, not a string"


def test_the_first_message_is_written_as_one_zero() -> None:
    assert message_indexes(b"\x00rest") == ((0,), b"rest")
    assert message_indexes(zigzag(2) + zigzag(3) + zigzag(0) + b"rest") == ((3, 0), b"rest")


def test_json_is_held_against_its_schema(registry: FakeRegistry) -> None:
    registry.put(1, "JSON", JSON_SCHEMA)
    config = configured(registry, "json_schema")
    found = decoded(framed(1, b'{"text": "A new president."}'), config)
    assert isinstance(found, Document)
    assert letter(framed(1, json.dumps({"text": "x" * 41}).encode()), config)[0] is Reason.SCHEMA_VIOLATION
    assert letter(framed(1, b'{"text": 3}'), config) == (Reason.SCHEMA_VIOLATION, 'text: ... is not of type "string"')
    assert letter(framed(1, b"{"), config)[0] is Reason.BAD_JSON
    assert letter(framed(1, b"\xff"), config)[0] is Reason.BAD_UTF8
    assert letter(framed(1, json.dumps({"text": "a", "id": "a" * 50_000 + "!"}).encode()), config)[0] is Reason.SCHEMA_VIOLATION


@pytest.mark.parametrize("op", ["u", "d"])
def test_envelopes_are_taken_off_whatever_the_format(registry: FakeRegistry, op: str) -> None:
    row = {"type": "record", "name": "Row", "fields": [{"name": "id", "type": "int"}, {"name": "text", "type": "string"}]}
    change = {
        "type": "record",
        "name": "Envelope",
        "fields": [{"name": "before", "type": ["null", row]}, {"name": "after", "type": ["null", "Row"]}, {"name": "op", "type": "string"}],
    }
    registry.put(2, "AVRO", change)
    value = {"before": {"id": 4, "text": "Old."}, "after": {"id": 4, "text": "News."} if op == "u" else None, "op": op}
    found = decoded(framed(2, avro(change, value)), configured(registry, "avro", envelope="debezium"))
    if op == "d":
        assert isinstance(found, Tombstone)
    else:
        assert isinstance(found, Document)
        assert (found.document_id, found.text) == ("4", "News.")


def test_a_cloud_event_of_avro_is_read_in_both_modes(registry: FakeRegistry) -> None:
    data = {"type": "record", "name": "Data", "fields": [{"name": "text", "type": "string"}]}
    names = ("specversion", "id", "type", "source")
    event = {
        "type": "record",
        "name": "Event",
        "fields": [*({"name": name, "type": "string"} for name in names), {"name": "data", "type": data}],
    }
    registry.put(1, "AVRO", event)
    registry.put(2, "AVRO", data)
    config = configured(registry, "avro", envelope="cloudevents")
    about = {"specversion": "1.0", "id": "e-1", "type": "news", "source": "/afp"}
    structured = decoded(framed(1, avro(event, {**about, "data": {"text": "News."}})), config)
    headers = tuple((f"ce_{name}", text.encode()) for name, text in about.items())
    record = Record(
        partition=Partition("news", 0), offset=7, timestamp_ms=1, value=framed(2, avro(data, {"text": "News."})), headers=headers
    )
    for found in (structured, decode(record, config)):
        assert isinstance(found, Document), found
        assert (found.document_id, found.source, found.text) == ("e-1", "/afp", "News.")


# References


def test_avro_types_of_other_subjects_are_put_together(registry: FakeRegistry) -> None:
    article = {"type": "record", "name": "Article", "fields": [{"name": "text", "type": "string"}]}
    wrapped = {"type": "record", "name": "Wrapped", "fields": [{"name": "article", "type": "Article"}]}
    news = {"type": "record", "name": "News", "fields": [{"name": "first", "type": "Wrapped"}, {"name": "second", "type": "Article"}]}
    registry.put_version("article", 1, "AVRO", article)
    registry.put_version("wrapped", 3, "AVRO", wrapped, [{"name": "Article", "subject": "article", "version": 1}])
    references = [{"name": "Wrapped", "subject": "wrapped", "version": 3}, {"name": "Article", "subject": "article", "version": 1}]
    registry.put(5, "AVRO", news, references)
    whole = json.loads(json.dumps(news).replace('"Wrapped"', json.dumps(wrapped).replace('"Article"', json.dumps(article)), 1))
    assert whole["fields"][0]["type"]["name"] == "Wrapped"
    data = zigzag(len("One.")) + b"One." + zigzag(len("Two.")) + b"Two."
    found = decoded(framed(5, data), configured(registry, "avro", fields={"text": "second.text"}))
    assert isinstance(found, Document), found
    assert found.text == "Two."


def test_protobuf_files_import_each_other_and_confluents_own(registry: FakeRegistry) -> None:
    registry.put_version("common", 2, "PROTOBUF", 'syntax = "proto3"; package c; message Body { string text = 1; }')
    text = (
        'syntax = "proto3"; import "lib/common.proto"; import "confluent/meta.proto";'
        ' message News { c.Body body = 1 [(confluent.field_meta).doc = "what is said"]; }'
    )
    registry.put(5, "PROTOBUF", text, [{"name": "lib/common.proto", "subject": "common", "version": 2}])
    found = decoded(framed(5, b"\x00\x0a\x07\x0a\x05News."), configured(registry, "protobuf", fields={"text": "body.text"}))
    assert isinstance(found, Document), found
    assert found.text == "News."


def test_json_schemas_refer_to_each_other_and_to_nothing_else(registry: FakeRegistry) -> None:
    registry.put_version("text", 1, "JSON", {"type": "string", "maxLength": 5})
    registry.put(5, "JSON", {"properties": {"text": {"$ref": "text.json"}}}, [{"name": "text.json", "subject": "text", "version": 1}])
    registry.put(6, "JSON", {"properties": {"text": {"$ref": "file:///etc/passwd"}}})
    registry.put(7, "JSON", {"properties": {"text": {"$ref": "http://127.0.0.1:1/x.json"}}})
    config = configured(registry, "json_schema")
    assert isinstance(decoded(framed(5, b'{"text": "News."}'), config), Document)
    assert letter(framed(5, b'{"text": "News..."}'), config)[0] is Reason.SCHEMA_VIOLATION
    for number in (6, 7):
        assert letter(framed(number, b'{"text": "News."}'), config)[0] is Reason.UNUSABLE_SCHEMA


def test_references_in_a_circle_or_without_end_are_refused(registry: FakeRegistry) -> None:
    around = [{"name": "A", "subject": "a", "version": 1}]
    registry.put_version("a", 1, "AVRO", "string", around)
    registry.put(1, "AVRO", "string", around)
    config = configured(registry, "avro")
    assert letter(framed(1, b""), config) == (Reason.UNUSABLE_SCHEMA, "schema 1 cannot be used: its references go in a circle: A -> A")
    many = [{"name": f"A{each}", "subject": "leaf", "version": 1} for each in range(MOST_REFERENCES + 1)]
    registry.put_version("leaf", 1, "AVRO", '"string"')
    registry.put(2, "AVRO", "string", many)
    assert f"more than {MOST_REFERENCES} others" in letter(framed(2, b""), config)[1]
    registry.put(3, "AVRO", "string", [{"name": "B", "subject": "gone", "version": 9}])
    assert "version 9 of 'gone', which the registry does not have" in letter(framed(3, b""), config)[1]
    registry.put(4, "AVRO", "string", [{"name": "B"}])
    assert "no name, subject and version" in letter(framed(4, b""), config)[1]


@pytest.mark.parametrize("name", ["/etc/x.proto", "../x.proto", "a/../../x.proto", "x", "x.proto\n"])
def test_a_name_that_leads_out_of_the_compilers_folder_is_refused(name: str) -> None:
    with pytest.raises(BadSchema, match="no name of a file"):
        ProtobufReader(Schema(kind="PROTOBUF", text='syntax = "proto3";', references=((name, 'syntax = "proto3";'),)))


# Dead letters


def test_what_is_wrong_with_a_record_is_said(registry: FakeRegistry) -> None:
    registry.put(7, "AVRO", NEWS)
    registry.put(8, "PROTOBUF", PROTO)
    registry.put(9, "AVRO", '{"type": "record"}')
    registry.put(10, "XML", "<xml/>")
    config = configured(registry, "avro", fields=FIELDS)
    whole = avro(NEWS, STORY)
    assert letter(b"{}", config)[0] is Reason.BAD_PAYLOAD
    assert "no schema number in front" in letter(b"{}", config)[1]
    assert letter(framed(6, b""), config) == (
        Reason.UNKNOWN_SCHEMA,
        "the registry has no schema 6; check that decode.registry.url is the one the feed writes with",
    )
    assert letter(framed(0xFFFFFFFF, b""), config)[0] is Reason.UNKNOWN_SCHEMA
    assert letter(framed(7, whole[:-1]), config)[0] is Reason.BAD_PAYLOAD
    assert "1 bytes are left over" in letter(framed(7, whole + b"\0"), config)[1]
    assert letter(framed(8, whole), config) == (
        Reason.UNUSABLE_SCHEMA,
        "schema 8 cannot be used: it is of the kind PROTOBUF, and decode.format says AVRO",
    )
    assert "it is no Avro schema" in letter(framed(9, b""), config)[1]
    assert "of the kind 'XML'" in letter(framed(10, b""), config)[1]
    assert letter(framed(8, b"\x00\xff\xff"), configured(registry, "protobuf"))[0] is Reason.BAD_PAYLOAD
    assert "no such one" in letter(framed(8, zigzag(1) + zigzag(9)), configured(registry, "protobuf"))[1]


def test_a_schema_that_cannot_be_compiled_is_said_with_protocs_words(registry: FakeRegistry) -> None:
    registry.put(1, "PROTOBUF", 'syntax = "proto3"; message News { strin text = 1; }')
    reason, detail = letter(framed(1, b"\x00"), configured(registry, "protobuf"))
    assert reason is Reason.UNUSABLE_SCHEMA
    assert '"strin" is not defined' in detail


RECURSIVE = {"type": "record", "name": "N", "fields": [{"name": "next", "type": ["null", "N"]}]}
ENDLESS = {"type": "record", "name": "N", "fields": [{"name": "next", "type": "N"}]}
NULLS = {"type": "array", "items": "null"}
MAP = {"type": "map", "values": "null"}


@pytest.mark.parametrize(
    ("schema", "data", "reason"),
    [
        (RECURSIVE, b"\x02" * 1_000_000, Reason.BAD_PAYLOAD),
        (ENDLESS, b"", Reason.BAD_PAYLOAD),
        (NULLS, zigzag(1 << 62) + b"\0", Reason.TOO_LARGE),
        (NULLS, zigzag(-(1 << 63)) + b"\0\0", Reason.TOO_LARGE),
        ({"type": "array", "items": {"type": "record", "name": "E", "fields": []}}, zigzag(MOST_VALUES) + b"\0", Reason.TOO_LARGE),
        ({"type": "array", "items": "int"}, zigzag(1 << 62) + b"\x02", Reason.BAD_PAYLOAD),
        (MAP, zigzag(1 << 62), Reason.BAD_PAYLOAD),
        ("bytes", zigzag(1 << 62), Reason.BAD_PAYLOAD),
        ("string", zigzag(-5), Reason.BAD_PAYLOAD),
        ("string", zigzag(1) + b"\xff", Reason.BAD_PAYLOAD),
        ("long", b"\xff" * 11, Reason.BAD_PAYLOAD),
        ({"type": "enum", "name": "E", "symbols": ["A"]}, zigzag(5), Reason.BAD_PAYLOAD),
        (["null", "int"], zigzag(-1), Reason.BAD_PAYLOAD),
        ({"type": "long", "logicalType": "timestamp-millis"}, zigzag(1 << 62), Reason.BAD_PAYLOAD),
        ({"type": "bytes", "logicalType": "decimal", "precision": 4}, zigzag(500_000) + b"\x7f" * 500_000, Reason.BAD_PAYLOAD),
        ({"type": "string", "logicalType": "uuid"}, zigzag(1) + b"x", Reason.BAD_PAYLOAD),
    ],
)
def test_hostile_bytes_of_avro_are_a_dead_letter(schema: Any, data: bytes, reason: Reason) -> None:
    with pytest.raises(Undecodable) as caught:
        AvroReader(Schema(kind="AVRO", text=json.dumps(schema))).read(data)
    assert caught.value.reason is reason


def test_a_protobuf_message_nested_without_end_is_a_dead_letter() -> None:
    reader = ProtobufReader(Schema(kind="PROTOBUF", text='syntax = "proto3"; message N { N n = 1; string text = 2; }'))
    data = b""
    for _ in range(70):
        data = b"\x0a" + _length(data) + data
    with pytest.raises(Undecodable, match="nested deeper than 64 levels"):
        reader.read(b"\0" + data)
    for _ in range(2000):
        data = b"\x0a" + _length(data) + data
    with pytest.raises(Undecodable, match="the bytes are no N"):
        reader.read(b"\0" + data)


def _length(data: bytes) -> bytes:
    size, parts = len(data), bytearray()
    while size > 0x7F:
        parts.append(size & 0x7F | 0x80)
        size >>= 7
    return bytes([*parts, size])


def test_a_schema_too_large_is_not_used(registry: FakeRegistry) -> None:
    registry.put(1, "AVRO", {"type": "string", "doc": "x" * 3000})
    config = DecodeConfig.model_validate({"format": "avro", "registry": {"url": registry.url, "max_schema_bytes": 2000}})
    assert "larger than decode.registry.max_schema_bytes, 2000" in letter(framed(1, b""), config)[1]


# The registry


def test_a_schema_is_asked_for_once_and_the_longest_unused_leaves(registry: FakeRegistry) -> None:
    for number in (1, 2, 3):
        registry.put(number, "AVRO", '"string"')
    readers = SchemaReaders("AVRO", RegistryConfig(url=(registry.url,), max_schemas=2))
    for number in (1, 2, 1, 1, 3, 1, 2):
        assert readers.read(framed(number, zigzag(1) + b"x")) == "x"
    assert [path.rpartition("/")[2] for path in registry.asked] == ["1", "2", "3", "2"]


def test_a_number_that_is_unknown_is_asked_for_again_only_after_a_while(registry: FakeRegistry) -> None:
    now = [0.0]
    readers = SchemaReaders("AVRO", RegistryConfig(url=(registry.url,)), clock_s=lambda: now[0])
    for _ in range(3):
        with pytest.raises(Undecodable):
            readers.read(framed(4, b"\0"))
    assert len(registry.asked) == 1
    registry.put(4, "AVRO", '"string"')
    now[0] = ASK_AGAIN_S + 1
    assert readers.read(framed(4, b"\0")) == ""


@pytest.mark.parametrize(
    ("says", "said"),
    [
        ((503, b"busy"), "it answered 503"),
        ((500, b'{"error_code": 50001, "message": "store timeout"}'), "it answered 500 (store timeout)"),
        ((401, b"{}"), "does not let us in (401); check decode.registry.username"),
        ((404, b"<html>"), "there is no registry at this address"),
        ((404, b"[[[["), "there is no registry at this address"),
        ((200, b"<html>"), "it answered 200"),
        ((302, b""), "it answered 302"),
        ((200, b'{"schema": "' + b"x" * (3 << 20) + b'"}'), "an answer of more than"),
    ],
)
def test_a_registry_in_trouble_is_no_fault_of_the_record(registry: FakeRegistry, says: tuple[int, bytes], said: str) -> None:
    registry.put(7, "AVRO", NEWS)
    config = configured(registry, "avro", fields=FIELDS)
    read = value_reader(config)
    value = framed(7, avro(NEWS, STORY))
    registry.says = says
    with pytest.raises(RegistryUnavailable) as caught:
        decoded(value, config, read)
    assert said in str(caught.value)
    assert caught.value.retriable
    registry.says = None
    assert isinstance(decoded(value, config, read), Document)


def test_a_registry_that_is_away_or_hangs_is_said_in_time(registry: FakeRegistry) -> None:
    registry.put(1, "AVRO", '"string"')
    with ports() as listen:
        hangs = f"http://{listen(silent)}"
        with pytest.raises(RegistryUnavailable, match=r"no answer within 0\.2 s"):
            Registry(RegistryConfig(url=(hangs,), timeout_s=0.2)).schema(1)
        assert Registry(RegistryConfig(url=(hangs, registry.url), timeout_s=0.2)).schema(1).text == '"string"'
    with pytest.raises(RegistryUnavailable, match=r"the schema registry cannot be asked: http://127\.0\.0\.1:1: "):
        Registry(RegistryConfig(url=("http://127.0.0.1:1",))).schema(1)


def test_it_says_who_it_is_with_what_the_environment_holds(registry: FakeRegistry) -> None:
    registry.put(1, "AVRO", '"string"')
    registry.authorization = "Basic cmVhZGVyOnMzY3JldA=="
    given = RegistryConfig(url=(registry.url,), username="reader", password="${REGISTRY_PASSWORD}")
    with pytest.raises(ConfigurationError, match=r"decode\.registry\.password: the environment variable REGISTRY_PASSWORD is not set"):
        Registry(given, {}).schema(1)
    assert Registry(given, {"REGISTRY_PASSWORD": "s3cret"}).schema(1).kind == "AVRO"
    registry.authorization = "Bearer t0ken"
    assert Registry(RegistryConfig(url=(registry.url,), token="${TOKEN}"), {"TOKEN": "t0ken"}).schema(1).kind == "AVRO"


def test_its_certificate_is_looked_at(tmp_path: Path) -> None:
    ca, other = trustme.CA(), trustme.CA()
    context = _server_context(ca.issue_cert("localhost"))
    ca.cert_pem.write_to_path(tmp_path / "ca.pem")
    other.cert_pem.write_to_path(tmp_path / "other.pem")
    with fake_registry(context) as registry:
        registry.put(1, "AVRO", '"string"')
        assert Registry(RegistryConfig(url=(registry.url,), ssl_cafile=str(tmp_path / "ca.pem"))).schema(1).kind == "AVRO"
        for config in ({}, {"ssl_cafile": str(tmp_path / "other.pem")}):
            with pytest.raises(RegistryUnavailable, match="certificate is not to be trusted"):
                Registry(RegistryConfig.model_validate({"url": registry.url, **config})).schema(1)
        elsewhere = registry.url.replace("localhost", "127.0.0.1")
        with pytest.raises(RegistryUnavailable, match="IP address mismatch"):
            Registry(RegistryConfig(url=(elsewhere,), ssl_cafile=str(tmp_path / "ca.pem"))).schema(1)
    with pytest.raises(ConfigurationError, match=r"decode\.registry\.ssl_cafile"):
        Registry(RegistryConfig(url=("https://localhost:1",), ssl_cafile=str(tmp_path / "gone.pem"))).schema(1)


def _server_context(leaf: trustme.LeafCert) -> Any:
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    leaf.configure_cert(context)
    return context


# The configuration


@pytest.mark.parametrize(
    ("decode", "said"),
    [
        ({"format": "avro"}, "format avro needs the address of a schema registry: decode.registry.url"),
        ({"format": "json", "registry": {"url": "http://one:8081"}}, "registry.url is not used with format json"),
        ({"format": "avro", "registry": {"url": "one:8081"}}, "no address of a registry"),
        ({"format": "avro", "registry": {"url": "http://user:secret@one"}}, "no user or password in an address"),
        ({"format": "avro", "registry": {"url": "https://one", "password": "${P}"}}, "username and password belong together"),
        ({"format": "avro", "registry": {"url": "https://one", "username": "a", "password": "s3cret"}}, "a secret is not written"),
        ({"format": "avro", "registry": {"url": "http://one", "username": "a", "password": "${P}"}}, "not sent over http"),
        ({"format": "avro", "registry": {"url": "http://one", "ssl_cafile": "ca.pem"}}, "not used without an https address"),
        ({"format": "avro", "registry": {"url": "http://one", "zzz": 1}}, "decode.registry: a key of 3 characters"),
    ],
)
def test_what_cannot_work_is_refused(decode: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_config({"kafka": {"bootstrap_servers": "one:9092", "topics": ["news"]}, "decode": decode})
    assert said in str(caught.value)
    assert "secret@" not in str(caught.value)


def test_a_library_that_is_not_there_is_named_with_its_extra(registry: FakeRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fastavro", None)
    monkeypatch.delitem(sys.modules, "pipeline.schemas.avro")
    with pytest.raises(ConfigurationError, match=r"needs fastavro, which is not installed here: pip install 'memstream\[registry\]'"):
        value_reader(configured(registry, "avro"))
