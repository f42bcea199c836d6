"""Snapshots that somebody else wrote: manifests, ledgers, indexes, segments and pools, with bytes changed and as tables of any values."""

from __future__ import annotations

import contextlib
import io
import json
import os
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import strategies as st

from pipeline.errors import MemstreamError, SnapshotError
from pipeline.ledger import LEDGER_SCHEMA, Ledger, LedgerRow
from pipeline.positions import StreamState
from pipeline.records import Partition
from pipeline.snapshots.arrow import corrupt_if_unreadable, read_batches
from pipeline.snapshots.checksums import HashingReader, HashingWriter
from pipeline.snapshots.manifest import BlockShape, Manifest, PoolShape, _canonical, _sha256
from pipeline.snapshots.pool_image import LayerImage, PoolImage, read_layers, write_pool
from pipeline.snapshots.roots import checked_root
from pipeline.snapshots.segments import INDEX_SCHEMA, SEGMENT_SCHEMA, BlockImage, MappedSegment, block_sha256, read_index, write_segment
from pipeline.snapshots.writer import SnapshotConfig, SnapshotContent, SnapshotStore
from tests.fuzz.targets import flipped, flips, json_bytes, outside, texts, trees

CODECS = st.sampled_from([None, "lz4", "zstd"])
BLOCKS = BlockShape(num_layers=2, first_layer=1, hidden_size=4, update_tokens=4, key_size=2)
POOL = PoolShape(num_layers=2, num_tokens=3, hidden_size=4, update_tokens=2, dtype="bfloat16")


def arrow_file(table: pa.Table, codec: str | None = None) -> bytes:
    sink = io.BytesIO()
    with pa.ipc.new_file(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression=codec)) as writer:
        writer.write_table(table)
    return sink.getvalue()


def hashing(sink: io.BytesIO) -> HashingWriter:
    return HashingWriter(sink, contextlib.nullcontext)


@cache
def segment() -> bytes:
    sink = io.BytesIO()
    states, keys = np.arange(16, dtype=np.uint16).reshape(2, 2, 4), np.arange(4, dtype=np.uint16).reshape(2, 2)
    blocks = [BlockImage(update=number, states=states, keys=keys, sha256=block_sha256(states, keys)) for number in range(3)]
    write_segment(hashing(sink), blocks, BLOCKS, "model-1")
    return sink.getvalue()


@cache
def pool() -> bytes:
    sink = io.BytesIO()
    layer = LayerImage(
        slots=np.arange(3, dtype=np.int32), updates=np.arange(3, dtype=np.int64), memory=np.arange(12, dtype=np.uint16).reshape(3, 4)
    )
    image = PoolImage(layers=[layer, layer], num_layers=2, num_tokens=3, update_tokens=2, hidden_size=4, dtype="bfloat16")
    write_pool(hashing(sink), image, "model-1")
    return sink.getvalue()


@cache
def ledger() -> pa.Table:
    row = partial(LedgerRow, partition=Partition("news", 0), event_time_ms=5, key=b"k", title="Vote", source="AFP")
    rows = [row(updates=(each, each + 10), document_id=f"d{each}", offset=each, content_sha256=f"f{each}") for each in range(3)]
    return Ledger.of(iter(rows)).to_table()


def scratch_file(data: bytes) -> Path:
    path = Path(os.environ["MEMSTREAM_FUZZ_FILE"])
    path.write_bytes(data)
    return path


def table_of(data: bytes, schema: pa.Schema) -> pa.Table:
    return pa.Table.from_batches(read_batches(pa.py_buffer(data), schema, "here"), schema)


def read_segment(data: bytes) -> None:
    found = MappedSegment(scratch_file(data), BLOCKS)
    for row in range(len(found)):
        found.check(row)
        assert found.states(row).shape[1:] == (found.tokens[row], BLOCKS.hidden_size)


def read_ledger(data: bytes) -> None:
    with corrupt_if_unreadable("ledger.arrow"):
        found = Ledger.from_table(table_of(data, LEDGER_SCHEMA))
    for row in found:
        assert found.owner(row.updates[0]) == row


def index_of(data: bytes) -> None:
    with corrupt_if_unreadable("index.arrow"):
        updates, documents, homes, rows, digests = read_index(table_of(data, INDEX_SCHEMA))
    assert len(updates) == len(documents) == len(homes) == len(rows) == len(digests)


@outside(flips, st.booleans())
def segments(at: list[tuple[int, int]], cut: bool) -> None:
    """Blocks with the digests that they were written with, or SnapshotCorrupt."""
    data = flipped(segment(), at)
    with contextlib.suppress(SnapshotError):
        read_segment(data[: len(data) // 2] if cut else data)


lists = st.lists(st.integers(0, 65535), max_size=40)
rows = st.fixed_dictionaries(
    {
        "update": st.integers(-(1 << 63), (1 << 63) - 1),
        "tokens": st.integers(-5, 5) | st.integers(-(1 << 31), (1 << 31) - 1),
        "sha256": st.binary(min_size=32, max_size=32),
        "keys": lists,
        "states": lists,
    }
)


@outside(st.lists(rows, max_size=4), CODECS)
def segments_of_any_values(made: list[dict[str, Any]], codec: str | None) -> None:
    """The right columns, and anything in them."""
    with contextlib.suppress(SnapshotError):
        read_segment(arrow_file(pa.Table.from_pylist(made, schema=SEGMENT_SCHEMA), codec))


@outside(flips, st.booleans())
def pools(at: list[tuple[int, int]], cut: bool) -> None:
    """Layers of the manifest's shape, or SnapshotCorrupt."""
    data = flipped(pool(), at)
    source = HashingReader(io.BytesIO(data[: len(data) // 2] if cut else data), contextlib.nullcontext)
    with contextlib.suppress(SnapshotError):
        for layer in read_layers(source, POOL):
            assert layer.memory.shape == (POOL.num_tokens, POOL.hidden_size)


@outside(CODECS, flips)
def ledgers(codec: str | None, at: list[tuple[int, int]]) -> None:
    """A ledger, or SnapshotCorrupt."""
    with contextlib.suppress(SnapshotError):
        read_ledger(flipped(arrow_file(ledger(), codec), at))


counts = st.integers(-(1 << 63), (1 << 63) - 1)
utf8 = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@outside(
    st.lists(
        st.fixed_dictionaries(
            {
                "updates": st.lists(counts | st.integers(0, 3), max_size=3),
                "document_id": utf8,
                "topic": utf8,
                "partition": st.integers(-(1 << 31), (1 << 31) - 1),
                "offset": counts,
                "key": st.none() | st.binary(max_size=9),
                "event_time": counts,
                "title": st.none() | utf8,
                "source": st.none() | utf8,
                "link": st.none() | utf8,
                "tokens": counts,
                "tokens_left_out": counts,
                "content_sha256": utf8,
            }
        ),
        max_size=4,
    )
)
def ledgers_of_any_values(made: list[dict[str, Any]]) -> None:
    with contextlib.suppress(SnapshotError):
        read_ledger(arrow_file(pa.Table.from_pylist(made, schema=LEDGER_SCHEMA)))


@outside(CODECS, flips)
def indexes(codec: str | None, at: list[tuple[int, int]]) -> None:
    """Five columns of one length, or SnapshotCorrupt."""
    made = [{"update": each, "document": 0, "segment": 0, "row": each, "sha256": bytes(32)} for each in range(3)]
    with contextlib.suppress(SnapshotError):
        index_of(flipped(arrow_file(pa.Table.from_pylist(made, schema=INDEX_SCHEMA), codec), at))


@outside(json_bytes | st.binary(max_size=300) | st.integers(1, 3000).map(lambda depth: b"[" * depth))
def manifests(data: bytes) -> None:
    with contextlib.suppress(SnapshotError):
        Manifest.from_json(data, "here")


@cache
def whole_manifest() -> str:
    """As JSON, of a snapshot that was written."""
    store = SnapshotStore(SnapshotConfig.model_construct(root="memory://fuzz"), "fuzz")
    layer = LayerImage(
        slots=np.arange(3, dtype=np.int32), updates=np.arange(3, dtype=np.int64), memory=np.arange(12, dtype=np.uint16).reshape(3, 4)
    )
    image = PoolImage(layers=[layer, layer], num_layers=2, num_tokens=3, update_tokens=2, hidden_size=4, dtype="bfloat16")
    content = SnapshotContent(
        memory=image,
        state=StreamState.beginning({Partition("news", 0): 0}),
        fingerprint="model-1",
        seed=0,
        config={},
        build={},
        device="cpu",
        threads=1,
    )
    return store.write(content, store.claim_generation()).to_json().decode()


@outside(st.lists(st.tuples(st.integers(0, 30), trees | st.integers() | texts), min_size=1, max_size=3))
def forged_manifests(changes: list[tuple[int, Any]]) -> None:
    """A manifest with fields changed and a digest that fits: whoever may write may make one."""
    fields = json.loads(whole_manifest())
    fields.pop(Manifest.DIGEST_KEY)
    names = sorted(fields)
    for number, value in changes:
        fields[names[number % len(names)]] = value
    data = json.dumps({**fields, Manifest.DIGEST_KEY: _sha256(_canonical(fields))}).encode()
    with contextlib.suppress(SnapshotError):
        found = Manifest.from_json(data, "here")
        found.require_model("model-1", POOL)


@outside(texts | st.sampled_from(["s3://", "file://", "gs://b/", "~", "$X", "::", "@"]).flatmap(lambda head: texts.map(head.__add__)))
def roots(text: str) -> None:
    with contextlib.suppress(ValueError, MemstreamError):
        checked_root(text)
