"""What a schema registry and those who write by its schemas send: Avro, Protobuf, JSON Schema."""

from __future__ import annotations

import contextlib
import json
from typing import Any

from hypothesis import strategies as st

from pipeline.decode import DecodeConfig, decode
from pipeline.records import DeadLetter, Document, Partition, Reason, Record, Tombstone
from pipeline.schemas.avro import AvroReader
from pipeline.schemas.config import RegistryConfig
from pipeline.schemas.framing import message_indexes
from pipeline.schemas.protobuf import ProtobufReader
from pipeline.schemas.readers import SchemaReaders
from pipeline.schemas.registry import Kind, Schema
from pipeline.undecodable import Undecodable
from tests.doubles.framed import avro, framed, zigzag
from tests.fuzz.stream import values
from tests.fuzz.targets import outside, texts


class OneSchema:
    """A registry that gives everybody the same."""

    def __init__(self, schema: Schema) -> None:
        self._schema = schema

    def schema(self, number: int) -> Schema:
        return self._schema


PROTO = (
    'syntax = "proto3"; import "google/protobuf/struct.proto"; import "google/protobuf/timestamp.proto";'
    " message N { string text = 1; N inner = 2; repeated sint64 numbers = 3; map<string, N> named = 4; google.protobuf.Value any = 5;"
    " google.protobuf.Timestamp time = 6; bytes raw = 7; message M { repeated N many = 1; } }"
)
AVRO = {
    "type": "record",
    "name": "N",
    "fields": [
        {"name": "text", "type": ["null", "string"]},
        {"name": "inner", "type": ["null", "N"]},
        {"name": "numbers", "type": {"type": "array", "items": ["long", "double"]}},
        {"name": "named", "type": {"type": "map", "values": ["N", "null", "boolean"]}},
        {"name": "time", "type": ["null", {"type": "long", "logicalType": "timestamp-micros"}, {"type": "int", "logicalType": "date"}]},
        {"name": "price", "type": {"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2}},
        {"name": "raw", "type": {"type": "fixed", "name": "F", "size": 2}},
    ],
}
AVRO_READER = AvroReader(Schema(kind="AVRO", text=json.dumps(AVRO)))
PROTO_READER = ProtobufReader(Schema(kind="PROTOBUF", text=PROTO))
nodes = st.recursive(
    st.just(None),
    lambda inner: st.fixed_dictionaries(
        {
            "text": st.none() | st.text(max_size=9),
            "inner": inner,
            "numbers": st.lists(st.integers(-(2**63), 2**63 - 1), max_size=5),
            "named": st.dictionaries(st.text(max_size=3), inner | st.booleans(), max_size=3),
            "time": st.none(),
            "price": st.decimals(-9999, 9999, places=2),
            "raw": st.binary(min_size=2, max_size=2),
        }
    ),
    max_leaves=3,
).filter(bool)
few_flips = st.lists(st.tuples(st.integers(0, 1 << 12), st.integers(0, 255)), max_size=6)


@outside(nodes, few_flips, st.binary(max_size=60), st.booleans())
def avro_bytes(node: dict[str, Any], changed: list[tuple[int, int]], more: bytes, alone: bool) -> None:
    """What was written, or a dead letter; never a crash of the library below."""
    data = bytearray(more if alone else avro(AVRO, node))
    for place, byte in changed:
        if data:
            data[place % len(data)] = byte
    if not changed and not alone:
        read = AVRO_READER.read(bytes(data))
        assert (read["text"], read["numbers"], read["raw"]) == (node["text"], node["numbers"], node["raw"])
        assert read["named"].keys() == node["named"].keys()
        return
    with contextlib.suppress(Undecodable):
        AVRO_READER.read(bytes(data))


@outside(
    st.binary(max_size=120)
    | st.lists(st.sampled_from([b"\x0a", b"\x12", b"\x1a", b"\x22", b"\x2a", b"\x32", b"\x02", b"\xff"])).map(b"".join)
)
def protobuf_bytes(data: bytes) -> None:
    with contextlib.suppress(Undecodable):
        message_indexes(data)
    with contextlib.suppress(Undecodable):
        PROTO_READER.read(b"\0" + data)


AVRO_WORDS = ("type", "name", "fields", "items", "values", "symbols", "size", "logicalType", "precision", "scale", "default", "namespace")
AVRO_TYPES = ("record", "array", "map", "enum", "fixed", "string", "bytes", "int", "long", "null", "decimal", "N", "error")
schema_trees = st.recursive(
    st.sampled_from(AVRO_TYPES) | st.integers(-1, 70),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(AVRO_WORDS), inner, max_size=5),
    max_leaves=10,
)
JSON_WORDS = ("type", "properties", "$ref", "pattern", "allOf", "not", "items", "maxLength", "$id", "definitions", "uniqueItems", "text")
json_trees = st.recursive(
    st.sampled_from(["string", "object", "#", "#/definitions/text", "^(a+)+$", "http://127.0.0.1:1/a", "(", 3, -1, True]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(JSON_WORDS), inner, max_size=4),
    max_leaves=10,
)


@outside(
    st.tuples(st.just("AVRO"), schema_trees.map(json.dumps) | texts) | st.tuples(st.just("JSON"), json_trees.map(json.dumps) | texts),
    values | st.lists(st.integers(-9, 2**40)).map(lambda numbers: b"".join(map(zigzag, numbers))),
    st.sampled_from(["avro", "json_schema"]),
)
def schemas(schema: tuple[Kind, str], data: bytes, format_: str) -> None:
    """Whatever a registry has: a document or a dead letter."""
    kind, text = schema
    config = DecodeConfig.model_validate({"format": format_, "registry": {"url": "http://one:8081"}})
    readers = SchemaReaders("AVRO" if format_ == "avro" else "JSON", RegistryConfig(), OneSchema(Schema(kind=kind, text=text)))  # type: ignore[arg-type]
    record = Record(partition=Partition("news", 0), offset=7, timestamp_ms=1, value=framed(7, data))
    found = decode(record, config, readers.read)
    assert isinstance(found, Document | Tombstone | DeadLetter)
    assert not isinstance(found, DeadLetter) or found.reason is not Reason.UNKNOWN_SCHEMA
