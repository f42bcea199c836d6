"""A pool as it is stored: one layer at a time, in Arrow, bit for bit.

    layer int32 | slot int32 | update int64 | memory fixed_size_list<uint16 | halffloat | float>[d]

One record batch for each layer, oldest token first. Arrow has no bfloat16, so its 16 bits are kept as uint16, and no value is ever
converted: what is read back, NaN payloads included, is what was written. The pool of an 8B model is 3.4 GB, so no function here holds
more than one layer. All numbers are little-endian.

`pool_sha256` is over the values alone, so equal pools have equal sums whichever slots they lie in and wherever they are computed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.errors import SnapshotCorrupt
from pipeline.snapshots.arrow import MAGIC_BYTES, corrupt_if_unreadable, messages, require_schema, whole_batch
from pipeline.snapshots.checksums import Hash, HashingReader, HashingWriter
from pipeline.snapshots.manifest import Dtype, PoolShape

FROM_CHECKPOINT = -1
"""The update number of tokens that came with the checkpoint."""


_VALUES: dict[Dtype, tuple[str, pa.DataType]] = {
    "bfloat16": ("<u2", pa.uint16()),
    "float16": ("<f2", pa.float16()),
    "float32": ("<f4", pa.float32()),
}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LayerImage:
    """One layer of a pool, oldest token first.

    Args:
        slots: [N] int32, where each token lies.
        updates: [N] int64, the number of the update that wrote it, or FROM_CHECKPOINT.
        memory: [N, d], its values: uint16 with the bits of bfloat16, or float16, or float32.
    """

    slots: NDArray[np.int32]
    updates: NDArray[np.int64]
    memory: NDArray[Any]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PoolImage:
    """A whole pool, handed over one layer at a time. `layers` is gone through once.

    `num_tokens` is 0 for a pool that was never written.
    """

    layers: Iterable[LayerImage]
    num_layers: int
    num_tokens: int
    update_tokens: int
    hidden_size: int
    dtype: Dtype

    @property
    def shape(self) -> PoolShape:
        return PoolShape(
            num_layers=self.num_layers,
            num_tokens=self.num_tokens,
            hidden_size=self.hidden_size,
            update_tokens=self.update_tokens,
            dtype=self.dtype,
        )


def numpy_dtype(dtype: Dtype) -> np.dtype[Any]:
    """The type of `LayerImage.memory` for a logical type.

    >>> numpy_dtype("bfloat16"), numpy_dtype("float32")
    (dtype('uint16'), dtype('float32'))
    """
    return np.dtype(_VALUES[dtype][0])


def pool_sha256(layers: Iterable[LayerImage]) -> str:
    """SHA-256 over the values, layer by layer, oldest token first."""
    digest = hashlib.sha256()
    for layer in layers:
        digest.update(_bytes(layer.memory))
    return digest.hexdigest()


def pool_schema(shape: PoolShape, model_fingerprint: str) -> pa.Schema:
    """The schema of `pool.arrow`. Its metadata says what the column types cannot."""
    metadata = {
        "memstream.format": "pool/1",
        "memstream.dtype": shape.dtype,
        "memstream.shape": json.dumps([shape.num_layers, shape.num_tokens, shape.hidden_size]),
        "memstream.update_tokens": str(shape.update_tokens),
        "memstream.model_fingerprint": model_fingerprint,
    }
    return pa.schema([*_fields(shape)], metadata=metadata)


def write_pool(sink: HashingWriter, image: PoolImage, model_fingerprint: str) -> tuple[int, str]:
    """Write a pool as an Arrow IPC file; returns its number of rows and its `pool_sha256`.

    Raises ValueError where the layers are not those that the image announces.
    """
    shape, values = image.shape, hashlib.sha256()
    schema = pool_schema(shape, model_fingerprint)
    layers = iter(image.layers)
    with pa.ipc.new_file(pa.PythonFile(sink, mode="w"), schema) as writer:
        for number in range(shape.num_layers):
            _write_layer(writer, layers, number, shape, schema, values)
    if next(layers, None) is not None:
        raise ValueError(f"the pool image has more than its {shape.num_layers} layers")
    return shape.num_layers * shape.num_tokens, values.hexdigest()


def read_layers(source: HashingReader, shape: PoolShape) -> Iterator[LayerImage]:
    """Read a pool back, one layer at a time; each array is a copy that may be written to.

    Raises SnapshotCorrupt where the file is not such a pool. That its bits are right is known when `source.drain()` has given its digest.
    """
    source.read(MAGIC_BYTES)
    with corrupt_if_unreadable("pool.arrow"):
        found = messages(pa.PythonFile(source, mode="r"), "pool.arrow")
        schema = pa.schema(_fields(shape))
        require_schema(next(found, None), schema, "pool.arrow")
        for number in range(shape.num_layers):
            message = next(found, None)
            if message is None:
                raise SnapshotCorrupt("pool.arrow cannot be read: it ends too early")
            yield _read_layer(whole_batch(message, schema, "pool.arrow"), number, shape)


def _fields(shape: PoolShape) -> Iterator[pa.Field]:
    value = pa.field("item", _VALUES[shape.dtype][1], nullable=False)
    yield pa.field("layer", pa.int32(), nullable=False)
    yield pa.field("slot", pa.int32(), nullable=False)
    yield pa.field("update", pa.int64(), nullable=False)
    yield pa.field("memory", pa.list_(value, shape.hidden_size), nullable=False)


def _write_layer(
    writer: pa.RecordBatchWriter, layers: Iterator[LayerImage], number: int, shape: PoolShape, schema: pa.Schema, values: Hash
) -> None:
    # A function of its own, and no `for` or `enumerate` over the layers: those keep the last layer while the next one is made.
    layer = next(layers, None)
    if layer is None:
        raise ValueError(f"the pool image ends after {number} of {shape.num_layers} layers")
    _check(layer, number, shape)
    writer.write_batch(_batch(layer, number, schema))
    values.update(_bytes(layer.memory))


def _check(layer: LayerImage, number: int, shape: PoolShape) -> None:
    tokens, wanted = (shape.num_tokens,), (shape.num_tokens, shape.hidden_size)
    if layer.slots.shape != tokens or layer.updates.shape != tokens or layer.memory.shape != wanted:
        shapes = f"slots {layer.slots.shape}, updates {layer.updates.shape}, memory {layer.memory.shape}"
        raise ValueError(f"layer {number} has {shapes}, want {wanted}")
    types = [str(values.dtype) for values in (layer.slots, layer.updates, layer.memory)]
    if types != ["int32", "int64", str(numpy_dtype(shape.dtype))]:
        raise ValueError(f"layer {number} has types {types}, want int32, int64, {numpy_dtype(shape.dtype)}")


def _batch(layer: LayerImage, number: int, schema: pa.Schema) -> pa.RecordBatch:
    numbers = np.full(layer.slots.shape, number, dtype=np.int32)
    rows = schema.field("memory").type
    memory = pa.FixedSizeListArray.from_arrays(_column(layer.memory, rows.value_type), type=rows)
    columns = [_column(numbers, pa.int32()), _column(layer.slots, pa.int32()), _column(layer.updates, pa.int64()), memory]
    return pa.record_batch(columns, schema=schema)


def _column(values: NDArray[Any], type_: pa.DataType) -> pa.Array:
    """The array's own memory as a column: nothing is copied, nothing converted."""
    return pa.Array.from_buffers(type_, values.size, [None, pa.py_buffer(np.ascontiguousarray(values))])


def _bytes(values: NDArray[Any]) -> memoryview:
    return np.ascontiguousarray(values).reshape(-1).view(np.uint8).data


def _read_layer(batch: pa.RecordBatch, number: int, shape: PoolShape) -> LayerImage:
    if batch.num_rows != shape.num_tokens or (_values(batch["layer"], np.dtype("<i4")) != number).any():
        raise SnapshotCorrupt(f"pool.arrow: batch {number} holds {batch.num_rows} rows, want {shape.num_tokens} of layer {number}")
    memory = _values(batch["memory"].flatten(), numpy_dtype(shape.dtype))
    return LayerImage(
        slots=_values(batch["slot"], np.dtype("<i4")),
        updates=_values(batch["update"], np.dtype("<i8")),
        memory=memory.reshape(shape.num_tokens, shape.hidden_size),
    )


def _values(column: pa.Array, dtype: np.dtype[Any]) -> NDArray[Any]:
    """A copy, so that it can be written to and does not keep the whole batch alive."""
    return np.frombuffer(column.buffers()[1] or b"", dtype, count=len(column), offset=column.offset * dtype.itemsize).copy()
