"""What a producer, a broker and whoever writes a configuration send: records, header names, batches, compressed bytes, addresses, keys."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lz4.frame
import snappy
import yaml
import zstandard
from hypothesis import strategies as st
from kafka.record import MemoryRecords, MemoryRecordsBuilder

from jobs.config import load_config, parse_config
from jobs.feed_files import FileRefused, documents, opened
from pipeline import kafka_patches
from pipeline.admission import AdmissionConfig, admit
from pipeline.chunks import ChunkConfig, chunk_document
from pipeline.decode import DecodeConfig, decode
from pipeline.errors import MemstreamError
from pipeline.ledger import Ledger
from pipeline.positions import parse_positions
from pipeline.reachability import advertised, broker_address
from pipeline.records import DeadLetter, Document, Partition, Record, Tombstone
from tests.fuzz.targets import flipped, outside, texts, trees

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
        admit(found, Ledger(), AdmissionConfig(deny_sources=("AFP",)))
        chunked = chunk_document(found, lambda text: list(text.encode()), ChunkConfig(), update_tokens=64, most_updates=9)
        assert all(0 < len(chunk.token_ids) <= 64 for chunk in chunked.chunks)


NAME = "the-name-of-a-header"


@outside(st.binary(min_size=len(NAME), max_size=len(NAME)))
def header_names(name: bytes) -> None:
    """No name of a header costs a record."""
    builder = MemoryRecordsBuilder(magic=2, compression_type=0, batch_size=1 << 16)
    for number in range(3):
        builder.append(timestamp=number, key=b"k", value=b"v", headers=[(NAME, b"1")])
    builder.close()
    read = MemoryRecords(bytes(builder.buffer()).replace(NAME.encode(), name))
    batch = read.next_batch()
    assert batch is not None and len(list(batch)) == 3


@outside(st.integers(0, 4), st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=12), st.booleans())
def batches(codec: int, flips: list[tuple[int, int]], cut: bool) -> None:
    """A batch with some bytes changed: records, or an error, which `poll_batches` takes for bytes that are no records."""
    builder = MemoryRecordsBuilder(magic=2, compression_type=codec, batch_size=1 << 16)
    for number in range(4):
        builder.append(timestamp=number, key=b"k", value=b"v" * 40, headers=[("trace", b"1")])
    builder.close()
    data = flipped(bytes(builder.buffer()), flips)
    read = MemoryRecords(data[: len(data) // 2] if cut else data)
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
    decoder = getattr(kafka_patches, f"{name}_decode")
    folded = FOLDERS[name](data)
    if not flips:
        assert decoder(folded) == data
        return
    with contextlib.suppress(Exception):
        assert len(decoder(flipped(folded, flips))) <= kafka_patches.MOST_UNFOLDED_BYTES


@outside(st.binary(max_size=200) | st.binary(max_size=60).map(lambda rest: b"\0\0\0\x02\0\0\0\0" + rest))
def what_brokers_advertise(answer: bytes) -> None:
    advertised(answer)


@outside(texts | st.sampled_from(["[::1]:9092", "a:b:1", ":", "h:99999", "plaintext://h:1"]))
def addresses(text: str) -> None:
    with contextlib.suppress(ValueError):
        assert broker_address(str(broker_address(text))) == broker_address(text)


@outside(st.dictionaries(texts | st.sampled_from(["news/0", "a/b/3", "/", "news/-1"]), st.integers(), max_size=3))
def positions(made: dict[str, int]) -> None:
    with contextlib.suppress(ValueError):
        parse_positions(made)


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


@outside(st.binary(max_size=400) | trees.map(lambda tree: yaml.safe_dump(tree, allow_unicode=True).encode("utf-8", "surrogatepass")))
def configuration_files(data: bytes) -> None:
    path = Path(os.environ["MEMSTREAM_FUZZ_FILE"])
    path.write_bytes(data)
    with contextlib.suppress(MemstreamError):
        load_config(path)


SECRET = "hunter2-hunter2"
KEYS = ("sasl_plain_password", "ssl_password", "sasl_plain_username", "password", "security_protocol")
punctuation = st.text(st.sampled_from(" :\t\n\"'{}[]&*!|>%@`,?-#ab"), max_size=12)


@outside(st.sampled_from(KEYS), punctuation, punctuation)
def passwords_in_files(key: str, before: str, after: str) -> None:
    """Whatever is wrong with a file, its secrets do not stand in the error."""
    path = Path(os.environ["MEMSTREAM_FUZZ_FILE"])
    alone = f"kafka:\n  bootstrap_servers: one:9092\n  topics: [news]\n  {key}: {before}{SECRET}{after}\n"
    path.write_text(alone)
    assert SECRET not in told_of(path)
    path.write_text("streams:\n  news:\n" + "".join(f"    {line}\n" for line in alone.splitlines()))
    assert SECRET not in told_of(path)


def told_of(path: Path) -> str:
    """What is said of a file that cannot be used."""
    try:
        load_config(path)
    except MemstreamError as error:
        return str(error)
    return ""


@outside(values | st.lists(values, max_size=4).map(b"\n".join), st.sampled_from([None, "jsonl", "json", "csv", "text", "lines"]))
def feed_files(data: bytes, format_: Any) -> None:
    """Documents, or an error that names a line."""
    path = Path(os.environ["MEMSTREAM_FUZZ_FILE"])
    path.write_bytes(data)
    with contextlib.suppress(FileRefused), opened(path, None) as text:
        for found in documents(text, path, format_, 1):
            assert found.line >= 1
