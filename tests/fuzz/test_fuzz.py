"""Everything that comes from outside, made up by hypothesis: records, headers, compressed batches, configuration, manifests, Arrow files.

In `make test` some hundred examples of each. `make test-slow` goes on for MEMSTREAM_FUZZ_S seconds (an hour if not set), with new ones
each time.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lz4.frame
import pyarrow as pa
import pytest
import snappy
import yaml
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kafka.record import MemoryRecords, MemoryRecordsBuilder

from jobs.config import load_config, parse_config
from jobs.feed_files import FileRefused, documents, opened
from pipeline import kafka_patches
from pipeline.chunks import ChunkConfig, chunk_document
from pipeline.decode import DecodeConfig, decode
from pipeline.errors import MemstreamError, SnapshotError
from pipeline.ledger import LEDGER_SCHEMA, Ledger
from pipeline.records import DeadLetter, Document, Partition, Reason, Record, Tombstone
from pipeline.schemas.avro import AvroReader
from pipeline.schemas.config import RegistryConfig
from pipeline.schemas.framing import message_indexes
from pipeline.schemas.protobuf import ProtobufReader
from pipeline.schemas.readers import SchemaReaders
from pipeline.schemas.registry import Kind, Schema
from pipeline.snapshots.arrow import corrupt_if_unreadable, open_file
from pipeline.snapshots.manifest import Manifest
from pipeline.undecodable import Undecodable
from tests.doubles.framed import avro, framed, zigzag

QUICK = settings(max_examples=150, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
LONG = settings(max_examples=2000, deadline=None, database=None, suppress_health_check=list(HealthCheck))
LONG_S = float(os.environ.get("MEMSTREAM_FUZZ_S", "3600"))

TARGETS: dict[str, tuple[Callable[..., None], tuple[Any, ...]]] = {}
"""What is fuzzed, and with what."""


def outside(*made_up: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Marks a function that must take whatever comes."""

    def mark(target: Callable[..., None]) -> Callable[..., None]:
        TARGETS[target.__name__] = target, made_up
        return target

    return mark


def fuzzed(name: str, how: settings) -> None:
    """Once through."""
    target, made_up = TARGETS[name]

    def anew(made: tuple[Any, ...]) -> None:  # hypothesis takes a function once
        target(*made)

    run: Callable[[], None] = how(given(st.tuples(*made_up))(anew))
    run()


texts = st.text(st.characters(), max_size=80)
scalars = st.none() | st.booleans() | st.integers() | st.floats() | texts
trees = st.recursive(scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4), max_leaves=12)
NAMES = ("text", "title", "source", "id", "link", "time", "schema", "payload", "op", "after", "specversion", "data", "type")
items = st.dictionaries(st.sampled_from(NAMES) | texts, trees | texts, max_size=8)
markup = st.lists(
    st.sampled_from(["<p>", "</p>", "<b", "&amp;", "&#x", "<!--", "-->", "<script>", "text ", "\0", "<br/>", "]]>"]), max_size=30
)
values = (
    st.binary(max_size=200)
    | items.map(lambda item: json.dumps(item).encode("utf-8", "surrogatepass"))
    | trees.map(lambda tree: json.dumps(tree).encode("utf-8", "surrogatepass"))
    | markup.map(lambda parts: json.dumps({"text": "".join(parts)}).encode())
    | st.integers(1, 3000).map(lambda depth: b"[" * depth)
)
decoding = st.fixed_dictionaries(
    {
        "format": st.sampled_from(["json", "text", "json_schema"]),
        "envelope": st.sampled_from(["none", "connect", "debezium", "cloudevents"]),
        "html": st.sampled_from(["keep", "strip"]),
        "fields": st.fixed_dictionaries({"text": st.sampled_from(["text", "payload.text", "data.0.text", "a..b", "after"])}),
    }
)
headers = st.lists(st.tuples(texts | st.sampled_from(["ce_specversion", "ce_id"]), st.binary(max_size=20)), max_size=4)


@outside(values, decoding, headers, st.integers(-1, 2**62), st.none() | st.binary(max_size=20))
def records(value: bytes, config: dict[str, Any], own: list[tuple[str, bytes]], time_ms: int, key: bytes | None) -> None:
    """A document, a tombstone or a dead letter, whatever the bytes; and what is a document can be cut."""
    record = Record(partition=Partition("news", 0), offset=7, timestamp_ms=time_ms, key=key, value=value, headers=tuple(own))
    found = decode(record, DecodeConfig.model_validate(config))
    assert isinstance(found, Document | Tombstone | DeadLetter)
    assert found == decode(record, DecodeConfig.model_validate(config))  # REPLAY-EXACT
    if isinstance(found, DeadLetter):
        found.detail.encode("utf-8", "backslashreplace")
    if isinstance(found, Document):
        chunked = chunk_document(found, lambda text: list(text.encode()), ChunkConfig(), update_tokens=64, most_updates=9)
        assert all(0 < len(chunk.token_ids) <= 64 for chunk in chunked.chunks)


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
flips = st.lists(st.tuples(st.integers(0, 1 << 12), st.integers(0, 255)), max_size=6)


@outside(nodes, flips, st.binary(max_size=60), st.booleans())
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


@outside(st.integers(0, 4), st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=12), st.booleans())
def batches(codec: int, flips: list[tuple[int, int]], cut: bool) -> None:
    """A batch with some bytes changed: records, or an error, which `poll_batches` takes for bytes that are no records."""
    builder = MemoryRecordsBuilder(magic=2, compression_type=codec, batch_size=1 << 16)
    for number in range(4):
        builder.append(timestamp=number, key=b"k", value=b"v" * 40, headers=[("trace", b"1")])
    builder.close()
    data = bytearray(builder.buffer())
    for place, byte in flips:
        data[place % len(data)] = byte
    read = MemoryRecords(bytes(data[: len(data) // 2] if cut else data))
    with contextlib.suppress(Exception):
        while (batch := read.next_batch()) is not None:
            for record in batch:
                assert record.value is None or len(record.value) < kafka_patches.MOST_UNFOLDED_BYTES


FOLDERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "lz4": lambda data: bytes(lz4.frame.compress(data)),
    "zstd": lambda data: zstandard.ZstdCompressor().compress(data),
    "snappy": lambda data: bytes(snappy.compress(data)),
}


@outside(
    st.sampled_from(list(FOLDERS)), st.binary(max_size=2000), st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), max_size=4)
)
def codecs(name: str, data: bytes, flips: list[tuple[int, int]]) -> None:
    """The bytes that were folded, or an error; never a loop without end, never more than the bound."""
    folded = bytearray(FOLDERS[name](data))
    for place, byte in flips:
        folded[place % len(folded)] = byte
    decoder = getattr(kafka_patches, f"{name}_decode")
    if not flips:
        assert decoder(bytes(folded)) == data
        return
    with contextlib.suppress(Exception):
        assert len(decoder(bytes(folded))) <= kafka_patches.MOST_UNFOLDED_BYTES


SECTIONS = (
    "kafka",
    "decode",
    "admission",
    "chunks",
    "dead_letters",
    "model",
    "memory",
    "replicas",
    "answers",
    "http",
    "snapshots",
    "stream",
)


@outside(st.dictionaries(st.sampled_from(SECTIONS) | texts, trees | items, max_size=5))
def configurations(tree: dict[str, Any]) -> None:
    """A configuration, or an error that names the key."""
    with contextlib.suppress(MemstreamError):
        parse_config({"kafka": {"bootstrap_servers": "one:9092", "topics": ["news"]}, **tree})


@outside(st.lists(texts | st.sampled_from(["kafka.topics=[", "a.b=c", "snapshots.root=$X", "=", "decode.fields.text={}"]), max_size=3))
def overrides(given_: list[str]) -> None:
    with contextlib.suppress(MemstreamError):
        load_config(None, given_)


@outside(trees.map(lambda tree: json.dumps(tree).encode("utf-8", "surrogatepass")) | st.binary(max_size=300))
def manifests(data: bytes) -> None:
    with contextlib.suppress(SnapshotError):
        Manifest.from_json(data, "here")


def ledger_file(codec: str | None) -> bytes:
    sink = io.BytesIO()
    with pa.ipc.new_file(sink, LEDGER_SCHEMA, options=pa.ipc.IpcWriteOptions(compression=codec)) as writer:
        writer.write_table(Ledger().to_table())
    return sink.getvalue()


@outside(st.sampled_from([None, "lz4", "zstd"]), st.lists(st.tuples(st.integers(0, 1 << 16), st.integers(0, 255)), max_size=20))
def arrow_files(codec: str | None, flips: list[tuple[int, int]]) -> None:
    """A ledger, or SnapshotCorrupt."""
    data = bytearray(ledger_file(codec))
    for place, byte in flips:
        data[place % len(data)] = byte
    with contextlib.suppress(SnapshotError), corrupt_if_unreadable("ledger.arrow"):
        Ledger.from_table(open_file(pa.py_buffer(bytes(data)), "ledger.arrow").read_all())


@outside(values | st.lists(values, max_size=4).map(b"\n".join), st.sampled_from([None, "jsonl", "json", "csv", "text", "lines"]))
def feed_files(data: bytes, format_: Any) -> None:
    """Documents, or an error that names a line."""
    path = Path(os.environ["MEMSTREAM_FUZZ_FILE"])
    path.write_bytes(data)
    with contextlib.suppress(FileRefused), opened(path, None) as text:
        for found in documents(text, path, format_, 1):
            assert found.line >= 1


@outside(st.binary(max_size=400) | trees.map(lambda tree: yaml.safe_dump(tree, allow_unicode=True).encode("utf-8", "surrogatepass")))
def configuration_files(data: bytes) -> None:
    path = Path(os.environ["MEMSTREAM_FUZZ_FILE"])
    path.write_bytes(data)
    with contextlib.suppress(MemstreamError):
        load_config(path)


@pytest.fixture(autouse=True)
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEMSTREAM_FUZZ_FILE", str(tmp_path / "file"))
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", list(TARGETS))
def test_what_comes_from_outside_is_taken_or_refused(name: str) -> None:
    fuzzed(name, QUICK)


@pytest.mark.slow
@pytest.mark.timeout(int(LONG_S) + 900)
def test_for_an_hour() -> None:
    deadline_s = time.monotonic() + LONG_S
    while time.monotonic() < deadline_s:
        for name in TARGETS:
            fuzzed(name, LONG)
