"""Arrow files from outside: what could unfold is refused before it does."""

from __future__ import annotations

import io
from pathlib import Path

import pyarrow as pa
import pytest

from pipeline.errors import SnapshotCorrupt
from pipeline.snapshots.arrow import corrupt_if_unreadable, is_compressed, messages, open_file

TABLE = pa.table({"number": pa.array(range(1000), pa.int64()), "text": ["x" * 50] * 1000})


def written(codec: str | None) -> bytes:
    sink = io.BytesIO()
    options = pa.ipc.IpcWriteOptions(compression=codec)
    with pa.ipc.new_file(sink, TABLE.schema, options=options) as writer:
        writer.write_table(TABLE, max_chunksize=100)
    return sink.getvalue()


def test_a_plain_file_is_read_in_memory_and_mapped(tmp_path: Path) -> None:
    (tmp_path / "plain.arrow").write_bytes(written(None))
    assert open_file(pa.py_buffer(written(None)), "plain").read_all() == TABLE
    assert open_file(pa.memory_map(str(tmp_path / "plain.arrow")), "plain").read_all() == TABLE


@pytest.mark.parametrize("codec", ["lz4", "zstd"])
def test_a_compressed_file_is_refused(codec: str) -> None:
    with pytest.raises(SnapshotCorrupt, match="compressed batches"):
        open_file(pa.py_buffer(written(codec)), "bomb")


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
        open_file(pa.py_buffer(bytes(data)), "broken").read_all()
    except SnapshotCorrupt:
        return
    # What Arrow still reads is for the digest to tell.


@pytest.mark.parametrize("data", [b"", b"ARROW1", b"ARROW1\0\0" + b"\xff" * 64, written(None)[:300]])
def test_what_ends_early_is_corrupt(data: bytes) -> None:
    with pytest.raises(SnapshotCorrupt):
        open_file(pa.py_buffer(data), "short").read_all()


def test_metadata_that_is_no_flatbuffer_is_corrupt() -> None:
    with pytest.raises(SnapshotCorrupt), corrupt_if_unreadable("it"):
        is_compressed(b"\xff\xff\xff\x7f")
