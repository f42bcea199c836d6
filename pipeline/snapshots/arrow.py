"""Arrow files from outside, opened with care: what they may unfold to is bounded before anything is unfolded.

What we write is never compressed (states of a model hardly shrink, and a mapped file must lie there as it is used), so a compressed batch
is none of ours: a few kilobytes of one may unfold to as many gigabytes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa

from pipeline.errors import SnapshotCorrupt

MAGIC_BYTES = 8
"""`ARROW1` and two bytes in front of an IPC file; then come the messages, as in a stream."""

_HEADER_SLOT, _COMPRESSION_SLOT = 2, 3
_RECORD_BATCH = "record batch"


@contextmanager
def corrupt_if_unreadable(where: str) -> Iterator[None]:
    """Whatever Arrow, or a shape that is not the expected one, makes of the bytes becomes SnapshotCorrupt."""
    try:
        yield
    except SnapshotCorrupt:
        raise
    except (pa.ArrowException, OSError, EOFError, ValueError, KeyError, IndexError, TypeError, OverflowError, struct.error) as error:
        raise SnapshotCorrupt(f"{where} cannot be read: {str(error) or type(error).__name__}") from error


def read_batches(source: Any, schema: pa.Schema, where: str) -> list[pa.RecordBatch]:
    """All batches of an IPC file, in memory or mapped; nothing is copied.

    They are read in the order in which they lie there, as their sizes were looked at: the file's own list, at its end, may point elsewhere.
    Raises SnapshotCorrupt, also where the columns are others, or one of the batches is compressed.
    """
    with corrupt_if_unreadable(where):
        buffer = source if isinstance(source, pa.Buffer) else source.read_buffer()
        found = messages(pa.BufferReader(buffer.slice(MAGIC_BYTES)), where)
        require_schema(next(found, None), schema, where)
        batches = [whole_batch(message, schema, where) for message in found]
        if pa.ipc.open_file(buffer).num_record_batches != len(batches):
            raise SnapshotCorrupt(f"{where} has {len(batches)} batches and says that they are others")
    return batches


def require_schema(message: pa.ipc.Message | None, schema: pa.Schema, where: str) -> None:
    """Raises SnapshotCorrupt unless that is the message that announces these columns, whatever else it tells of them."""
    if message is None or message.type != "schema":
        raise SnapshotCorrupt(f"{where} cannot be read: it begins without a schema")
    found = pa.ipc.read_schema(message)
    if not found.equals(schema):
        raise SnapshotCorrupt(f"{where} has columns {str(found.names)[:400]}, want {schema.names} with their types")


def whole_batch(message: pa.ipc.Message, schema: pa.Schema, where: str) -> pa.RecordBatch:
    """A batch that may be looked into: Arrow itself believes offsets, and reads wherever they point.

    Raises SnapshotCorrupt, also where a value is missing that must be there.
    """
    if message.type != _RECORD_BATCH:
        raise SnapshotCorrupt(f"{where} has a {message.type} where a batch of rows is due")
    batch = pa.ipc.read_record_batch(message, schema)
    batch.validate(full=True)
    for field in schema:
        if _lacks(batch.column(field.name), field):
            raise SnapshotCorrupt(f"{where}: column {field.name} lacks values")
    return batch


def _lacks(column: pa.Array, field: pa.Field) -> bool:
    if not field.nullable and column.null_count:
        return True
    return pa.types.is_nested(field.type) and _lacks(column.values, field.type.value_field)


def messages(source: Any, where: str) -> Iterator[pa.ipc.Message]:
    """The messages of an IPC stream, none of them compressed. Raises SnapshotCorrupt."""
    reader = pa.ipc.MessageReader.open_stream(source)
    while True:
        try:
            message = reader.read_next_message()
        except StopIteration:
            return
        if message.type == _RECORD_BATCH and is_compressed(message.metadata.to_pybytes()):
            raise SnapshotCorrupt(f"{where} has compressed batches, and none of ours is: it was not written by memstream")
        yield message


def is_compressed(metadata: bytes) -> bool:
    """Whether a record batch's message says that its body is compressed (Message.fbs: `header`; RecordBatch: `compression`).

    Raises struct.error where it is no flatbuffer.
    """
    message = _offset(metadata, 0)
    header = _field(metadata, message, _HEADER_SLOT)
    if header is None:
        return False
    return _field(metadata, _offset(metadata, header), _COMPRESSION_SLOT) is not None


def _offset(data: bytes, place: int) -> int:
    (offset,) = struct.unpack_from("<I", data, place)
    return int(place + offset)


def _field(data: bytes, table: int, slot: int) -> int | None:
    """Where a table's field lies; None where it has none."""
    (back,) = struct.unpack_from("<i", data, table)
    vtable = table - back
    (size,) = struct.unpack_from("<H", data, vtable)
    if 4 + 2 * slot >= size:
        return None
    (offset,) = struct.unpack_from("<H", data, vtable + 4 + 2 * slot)
    return int(table + offset) if offset else None
