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


def open_file(buffer: Any, where: str) -> pa.ipc.RecordBatchFileReader:
    """An IPC file in memory, or mapped. Raises SnapshotCorrupt, also where one of its batches is compressed."""
    with corrupt_if_unreadable(where):
        source = buffer if isinstance(buffer, pa.Buffer) else buffer.read_buffer()
        for message in messages(pa.BufferReader(source.slice(MAGIC_BYTES)), where):
            del message
        return pa.ipc.open_file(source)


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
