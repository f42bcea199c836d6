"""Blocks as they are stored: Arrow IPC files that are written once and mapped into memory.

    update int64 | tokens int32 | sha256 binary(32) | keys large_list<uint16> | states large_list<uint16>

One row a block, in batches of 64 blocks or 64 MB at most. `states` is [layers kept, tokens, d] laid end to end, `keys` [tokens, E]; both
are bfloat16, kept as their 16 bits, since Arrow has no bfloat16. `sha256` is over the bytes of states, then of keys, so a block can be
checked alone, when it is first used: a restore reads no states at all. All numbers are little-endian.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.errors import SnapshotCorrupt
from pipeline.snapshots.arrow import read_batches
from pipeline.snapshots.checksums import HashingWriter
from pipeline.snapshots.manifest import BlockShape

BATCH_BLOCKS, BATCH_BYTES = 64, 64 << 20
"""A block of an 8B model alone is as large as that."""

SEGMENT_SCHEMA = pa.schema(
    [
        pa.field("update", pa.int64(), nullable=False),
        pa.field("tokens", pa.int32(), nullable=False),
        pa.field("sha256", pa.binary(32), nullable=False),
        pa.field("keys", pa.large_list(pa.field("item", pa.uint16(), nullable=False)), nullable=False),
        pa.field("states", pa.large_list(pa.field("item", pa.uint16(), nullable=False)), nullable=False),
    ]
)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class BlockImage:
    """One block: `states` [layers kept, n, d] and `keys` [n, E], the bits of bfloat16."""

    update: int
    states: NDArray[np.uint16]
    keys: NDArray[np.uint16]
    sha256: bytes


def block_sha256(states: NDArray[np.uint16], keys: NDArray[np.uint16]) -> bytes:
    """The digest of a block: over its states, then its keys."""
    digest = hashlib.sha256(np.ascontiguousarray(states).data)
    digest.update(np.ascontiguousarray(keys).data)
    return digest.digest()


def memory_sha256(digests: NDArray[np.uint8]) -> str:
    """SHA-256 over the digests [B, 32] of all blocks, oldest first."""
    return hashlib.sha256(np.ascontiguousarray(digests).data).hexdigest()


def write_segment(sink: HashingWriter, blocks: Iterable[BlockImage], shape: BlockShape, model_fingerprint: str) -> int:
    """Write blocks as an Arrow IPC file, one batch in memory at a time; returns how many they were.

    Raises ValueError where a block has another shape.
    """
    metadata = {
        "memstream.format": "blocks/1",
        "memstream.dtype": "bfloat16",
        "memstream.shape": json.dumps([shape.num_layers, shape.update_tokens, shape.hidden_size, shape.key_size]),
        "memstream.model_fingerprint": model_fingerprint,
    }
    schema = SEGMENT_SCHEMA.with_metadata(metadata)
    rows = 0
    with pa.ipc.new_file(pa.PythonFile(sink, mode="w"), schema) as writer:
        for batch in _batches(blocks):
            writer.write_batch(_batch(batch, shape, schema))
            rows += len(batch)
    return rows


def _batches(blocks: Iterable[BlockImage]) -> Iterator[list[BlockImage]]:
    batch: list[BlockImage] = []
    size_bytes = 0
    for block in blocks:
        if batch and (len(batch) == BATCH_BLOCKS or size_bytes + block.states.nbytes > BATCH_BYTES):
            yield batch
            batch, size_bytes = [], 0
        batch.append(block)
        size_bytes += block.states.nbytes
    if batch:
        yield batch


def _batch(blocks: list[BlockImage], shape: BlockShape, schema: pa.Schema) -> pa.RecordBatch:
    for block in blocks:
        tokens = block.keys.shape[0]
        wanted = (shape.num_layers, tokens, shape.hidden_size), (tokens, shape.key_size)
        if (block.states.shape, block.keys.shape) != wanted or not 0 < tokens <= shape.update_tokens:
            raise ValueError(f"block {block.update} has states {block.states.shape} and keys {block.keys.shape}, want {wanted}")
    columns = [
        pa.array([block.update for block in blocks], pa.int64()),
        pa.array([block.keys.shape[0] for block in blocks], pa.int32()),
        pa.array([block.sha256 for block in blocks], pa.binary(32)),
        _lists([block.keys for block in blocks]),
        _lists([block.states for block in blocks]),
    ]
    return pa.record_batch(columns, schema=schema)


def _lists(arrays: list[NDArray[np.uint16]]) -> pa.LargeListArray:
    offsets = np.concatenate(([0], np.cumsum([each.size for each in arrays])))
    values = np.concatenate([each.reshape(-1) for each in arrays])
    return pa.LargeListArray.from_arrays(
        pa.array(offsets, pa.int64()), pa.array(values, pa.uint16()), type=SEGMENT_SCHEMA.field("keys").type
    )


class MappedSegment:
    """A segment, mapped: its small columns are read when it is opened, keys and states where they lie, when they are asked for.

    Raises SnapshotCorrupt where the file is no such segment.
    """

    def __init__(self, path: Path, shape: BlockShape) -> None:
        self.path, self._shape = path, shape
        self._batches = batches = read_batches(pa.memory_map(str(path)), SEGMENT_SCHEMA, str(path))
        self._starts = np.concatenate(([0], np.cumsum([batch.num_rows for batch in batches]))).astype(np.int64)
        self.updates: NDArray[np.int64] = _joined([batch["update"].to_numpy() for batch in batches], np.int64)
        self.tokens: NDArray[np.int32] = _joined([batch["tokens"].to_numpy() for batch in batches], np.int32)
        self.digests: NDArray[np.uint8] = _joined([_digests(batch["sha256"]) for batch in batches], np.uint8).reshape(-1, 32)
        self._check_sizes()

    def __len__(self) -> int:
        return len(self.updates)

    def keys(self, row: int) -> NDArray[np.uint16]:
        """[n, E], a view."""
        return self._values("keys", row).reshape(int(self.tokens[row]), self._shape.key_size)

    def states(self, row: int) -> NDArray[np.uint16]:
        """[layers kept, n, d], a view."""
        return self._values("states", row).reshape(self._shape.num_layers, int(self.tokens[row]), self._shape.hidden_size)

    def check(self, row: int) -> None:
        """Raises SnapshotCorrupt unless the block's bytes give its digest."""
        if block_sha256(self.states(row), self.keys(row)) != self.digests[row].tobytes():
            raise SnapshotCorrupt(f"{self.path}: block {self.updates[row]} does not have the SHA-256 that it was written with")

    def _values(self, column: str, row: int) -> NDArray[np.uint16]:
        number = int(np.searchsorted(self._starts, row, side="right")) - 1
        array, place = self._batches[number][column], row - int(self._starts[number])
        offsets = _numpy(array.offsets)
        found: NDArray[np.uint16] = _numpy(array.values)[offsets[place] : offsets[place + 1]]
        return found

    def _check_sizes(self) -> None:
        """The lists' lengths are what tokens and shape say, so that no view can have another shape."""
        if len(self) and not 0 < self.tokens.min() <= self.tokens.max() <= self._shape.update_tokens:
            raise SnapshotCorrupt(f"{self.path}: tokens do not have the shape of {self._shape}")
        each = {"keys": self._shape.key_size, "states": self._shape.num_layers * self._shape.hidden_size}
        for column, size in each.items():
            lengths = _joined([np.diff(_numpy(batch[column].offsets)) for batch in self._batches], np.int64)
            if not np.array_equal(lengths, self.tokens.astype(np.int64) * size):
                raise SnapshotCorrupt(f"{self.path}: {column} do not have the shape of {self._shape}")


def _joined(parts: list[NDArray[Any]], dtype: type) -> NDArray[Any]:
    return np.concatenate(parts) if parts else np.zeros(0, dtype=dtype)


def _digests(column: pa.FixedSizeBinaryArray) -> NDArray[np.uint8]:
    data: bytes = column.buffers()[1].to_pybytes()
    return np.frombuffer(data, dtype=np.uint8)[column.offset * 32 : (column.offset + len(column)) * 32]


def _numpy(array: pa.Array) -> NDArray[Any]:
    found: NDArray[Any] = array.to_numpy(zero_copy_only=True)
    return found


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class BlocksImage:
    """A block memory at one moment, to be saved: immutable, since blocks are.

    Attributes:
        shape: of the blocks.
        updates, tokens, digests: [B], [B] and [B, 32], oldest first.
        documents: [B] the first update of each block's document.
        homes: [B] which of `segments` a block lies in; -1: in none yet.
        rows: [B] which row of it.
        segments: paths of segments that were saved before and still hold something.
        block: gives a block by its index, wherever it lies. Raises SnapshotCorrupt where it is not what was saved.
    """

    shape: BlockShape
    updates: NDArray[np.int64]
    documents: NDArray[np.int64]
    tokens: NDArray[np.int32]
    digests: NDArray[np.uint8]
    homes: NDArray[np.int32]
    rows: NDArray[np.int32]
    segments: tuple[str, ...]
    block: Callable[[int], BlockImage]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RestoredBlocks:
    """A block memory as a snapshot has it: `homes[i]` and `rows[i]` say where block `updates[i]` of document `documents[i]` lies."""

    updates: NDArray[np.int64]
    documents: NDArray[np.int64]
    digests: NDArray[np.uint8]
    homes: NDArray[np.int32]
    rows: NDArray[np.int32]
    segments: tuple[tuple[str, MappedSegment], ...]


INDEX_SCHEMA = pa.schema(
    [
        pa.field("update", pa.int64(), nullable=False),
        pa.field("document", pa.int64(), nullable=False),
        pa.field("segment", pa.int32(), nullable=False),
        pa.field("row", pa.int32(), nullable=False),
        pa.field("sha256", pa.binary(32), nullable=False),
    ]
)
"""`index.arrow`: the blocks alive, oldest first; `document` is the first update of the block's document, `segment` counts the segments in
the order in which the manifest names them."""


def index_table(
    updates: NDArray[np.int64],
    documents: NDArray[np.int64],
    homes: NDArray[np.int32],
    rows: NDArray[np.int32],
    digests: NDArray[np.uint8],
) -> pa.Table:
    """`index.arrow` of blocks [B] of these documents that lie in these segments and rows, with digests [B, 32]."""
    column = pa.FixedSizeBinaryArray.from_buffers(pa.binary(32), len(updates), [None, pa.py_buffer(np.ascontiguousarray(digests))])
    return pa.table([pa.array(updates), pa.array(documents), pa.array(homes), pa.array(rows), column], schema=INDEX_SCHEMA)


def read_index(table: pa.Table) -> Iterator[NDArray[Any]]:
    """updates, documents, homes, rows and digests of a table of `INDEX_SCHEMA`."""
    joined = table.combine_chunks()
    for name in ("update", "document", "segment", "row"):
        yield joined[name].to_numpy()
    yield _joined([_digests(chunk) for chunk in joined["sha256"].chunks], np.uint8).reshape(-1, 32)
