"""Arrow files from outside: what could unfold is refused before it does."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import pyarrow as pa
import pytest

from pipeline.errors import SnapshotCorrupt
from pipeline.snapshots.arrow import corrupt_if_unreadable, is_compressed, messages, read_batches

TABLE = pa.table({"number": pa.array(range(1000), pa.int64()), "text": ["x" * 50] * 1000})


def written(codec: str | None) -> bytes:
    sink = io.BytesIO()
    options = pa.ipc.IpcWriteOptions(compression=codec)
    with pa.ipc.new_file(sink, TABLE.schema, options=options) as writer:
        writer.write_table(TABLE, max_chunksize=100)
    return sink.getvalue()


def read(data: bytes, schema: pa.Schema = TABLE.schema) -> pa.Table:
    return pa.Table.from_batches(read_batches(pa.py_buffer(data), schema, "it"), schema)


def test_a_plain_file_is_read_in_memory_and_mapped(tmp_path: Path) -> None:
    (tmp_path / "plain.arrow").write_bytes(written(None))
    assert read(written(None)) == TABLE
    assert pa.Table.from_batches(read_batches(pa.memory_map(str(tmp_path / "plain.arrow")), TABLE.schema, "plain")) == TABLE


@pytest.mark.parametrize("codec", ["lz4", "zstd"])
def test_a_compressed_file_is_refused(codec: str) -> None:
    with pytest.raises(SnapshotCorrupt, match="compressed batches"):
        read(written(codec))


@pytest.mark.parametrize("codec", ["lz4", "zstd"])
def test_a_bomb_is_refused_before_it_unfolds(codec: str) -> None:
    sink = io.BytesIO()
    zeros = pa.record_batch({"zeros": pa.array([b"\0" * (256 << 20)], pa.large_binary())})
    with pa.ipc.new_stream(sink, zeros.schema, options=pa.ipc.IpcWriteOptions(compression=codec)) as writer:
        writer.write_batch(zeros)
    del zeros
    before = pa.total_allocated_bytes()
    with pytest.raises(SnapshotCorrupt, match="compressed batches"):
        list(messages(pa.BufferReader(sink.getvalue()), "bomb"))
    assert pa.total_allocated_bytes() - before < 32 << 20


@pytest.mark.parametrize("place", [8, 40, 200, 1000, -40, -12])
def test_bytes_that_are_none_of_ours_are_corrupt_and_nothing_else(place: int) -> None:
    data = bytearray(written(None))
    data[place : place + 8 if place + 8 else None] = b"\xff" * len(data[place : place + 8 if place + 8 else None])
    try:
        read(bytes(data))
    except SnapshotCorrupt:
        return
    # What Arrow still reads is for the digest to tell.


@pytest.mark.parametrize("data", [b"", b"ARROW1", b"ARROW1\0\0" + b"\xff" * 64, written(None)[:300]])
def test_what_ends_early_is_corrupt(data: bytes) -> None:
    with pytest.raises(SnapshotCorrupt):
        read(data)


def test_a_batch_that_only_the_files_own_list_points_to_is_not_read() -> None:
    """The messages that were looked at end before it; the list at the end of the file leads there all the same."""
    schema = pa.schema([pa.field("zeros", pa.large_binary())])
    zeros = pa.record_batch([pa.array([b"\0" * (64 << 20)])], schema=schema)
    sink = io.BytesIO()
    with pa.ipc.new_file(sink, schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
        writer.write_batch(zeros)
    hidden = ending_before_its_batch(sink.getvalue())
    assert pa.ipc.open_file(hidden).read_all().num_rows == 1
    before = pa.total_allocated_bytes()
    with pytest.raises(SnapshotCorrupt, match="0 batches"):
        read(hidden, schema)
    assert pa.total_allocated_bytes() - before < 32 << 20


def ending_before_its_batch(data: bytes) -> bytes:
    """A file of one batch with an end of stream in front of it, and the list at its end led to where the batch lies now."""
    schema_bytes = int.from_bytes(data[12:16], "little")
    place = 16 + schema_bytes
    foot = data.rindex(place.to_bytes(8, "little"))
    return b"".join((data[:place], b"\xff\xff\xff\xff\0\0\0\0", data[place:foot], (place + 8).to_bytes(8, "little"), data[foot + 8 :]))


SCHEMA = pa.schema([pa.field("number", pa.int64(), nullable=False), pa.field("text", pa.string(), nullable=False)])


def test_texts_that_lie_outside_of_the_file_are_refused() -> None:
    """Arrow looks at the last offset alone unless it is told to look at all of them, and reads where they point."""
    sink = io.BytesIO()
    with pa.ipc.new_file(sink, SCHEMA) as writer:
        writer.write_table(pa.table({"number": [1, 2, 3], "text": ["abc"] * 3}, schema=SCHEMA))
    offsets, hostile = struct.pack("<4i", 0, 3, 6, 9), struct.pack("<4i", 0, 3, 1 << 30, 9)
    assert sink.getvalue().count(offsets) == 1
    with pytest.raises(SnapshotCorrupt):
        read(sink.getvalue().replace(offsets, hostile), SCHEMA)


def test_a_value_that_is_missing_where_it_must_be_there_is_corrupt() -> None:
    sink = io.BytesIO()
    rows = pa.record_batch([pa.array([None, 1], pa.int64()), pa.array(["a", "b"])], schema=SCHEMA)
    with pa.ipc.new_file(sink, SCHEMA) as writer:
        writer.write_batch(rows)
    with pytest.raises(SnapshotCorrupt, match="column number lacks values"):
        read(sink.getvalue(), SCHEMA)


def test_metadata_that_is_no_flatbuffer_is_corrupt() -> None:
    with pytest.raises(SnapshotCorrupt), corrupt_if_unreadable("it"):
        is_compressed(b"\xff\xff\xff\x7f")
