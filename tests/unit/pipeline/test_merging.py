"""Which blocks move, and that nothing but their place changes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.snapshots import segments
from pipeline.snapshots.checksums import Digest
from pipeline.snapshots.config import SnapshotConfig
from pipeline.snapshots.merging import FANOUT, blocks_to_move
from pipeline.snapshots.segments import MappedSegment, memory_sha256, write_segment
from pipeline.snapshots.stores import open_store
from tests.doubles.snapshots import SHAPE, Stream, block, in_memory, verified


def moved(homes: list[int], rows: list[int], budget: int = 1 << 30, each_bytes: int = 100) -> list[int]:
    sizes = np.full(len(homes), each_bytes, dtype=np.int64)
    found: list[int] = blocks_to_move(np.array(homes, dtype=np.int32), sizes, rows, budget).tolist()
    return found


def test_full_segments_stay_and_what_is_new_is_no_matter_of_merging() -> None:
    assert moved([0, 0, 1, 1, -1], [2, 2]) == []
    assert moved([], []) == [] and moved([-1, -1], []) == []


def test_a_segment_of_which_more_than_half_is_dead_is_left() -> None:
    assert moved([0, 1, 1], [2, 2]) == [], "just half is not more than half"
    assert moved([0, 1, 1], [3, 2]) == [0]


def test_no_more_moves_than_the_budget_but_something_always_does() -> None:
    assert moved([0] * 40 + [1], [100, 1], budget=1000) == list(range(10))
    assert moved([0] * 40, [100], budget=1) == [0], "a single block that is larger than the budget"
    assert moved([0] * 40, [100], budget=0) == []


def test_the_emptiest_goes_first() -> None:
    assert moved([0] * 4 + [1], [10, 10], budget=200) == [0, 4]


def test_segments_of_like_size_become_one() -> None:
    homes = list(range(FANOUT))
    assert moved(homes[:-1], [1] * (FANOUT - 1)) == []
    assert moved(homes, [1] * FANOUT) == homes
    assert moved(homes, [1] * FANOUT, budget=250) == [0, 1], "as many of them as the budget allows"
    assert moved(homes, [1] * FANOUT, budget=150) == [], "one alone gains nothing"


def test_a_stream_of_tiny_snapshots_has_few_segments_and_writes_each_block_a_few_times() -> None:
    """A snapshot after each update, in a memory of 500: the plan alone, as the writer follows it."""
    capacity, count, each_bytes = 500, 3000, 1_100_000
    lies, rows = dict[int, int](), dict[int, int]()
    written, most = 0, 0
    for update in range(count):
        lies.pop(update - capacity, None)
        names = sorted(set(lies.values()))
        most = max(most, len(names))
        homes = np.searchsorted(names, list(lies.values())).astype(np.int32)
        sizes = np.full(len(homes), each_bytes, dtype=np.int64)
        chosen = blocks_to_move(homes, sizes, [rows[name] for name in names], 1 << 30)
        updates = list(lies)
        lies |= dict.fromkeys([updates[index] for index in chosen.tolist()], update)
        lies[update] = update
        rows[update] = len(chosen) + 1
        written += rows[update]
        assert sum(rows[name] for name in set(lies.values())) <= 2 * len(lies) + 2, "never more dead than alive"
    assert most < 4 * FANOUT and written < 5 * count


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SnapshotConfig:
    """In memory: a folder is synced with each object, and here are many."""
    monkeypatch.setenv("MEMSTREAM_CACHE", str(tmp_path / "cache"))
    return in_memory()


def test_what_is_merged_is_the_same_memory(config: SnapshotConfig) -> None:
    stream = Stream(config, capacity=40)
    seen = []
    for number in range(70):
        stream.learn()
        if number % 7 == 3:
            stream.correct(number - 2)
        manifest = stream.save()
        updates, _ = verified(stream.store, manifest)
        assert updates == stream.updates
        digests = np.array([np.frombuffer(block(update).sha256, dtype=np.uint8) for update in updates])
        assert manifest.memory_sha256 == memory_sha256(digests)
        seen.append(len(manifest.segments))
    assert max(seen) <= 3 * FANOUT


def test_a_block_that_is_damaged_stays_where_it_is_and_holds_nothing_up(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    stream = Stream(SnapshotConfig(root=str(tmp_path)), capacity=40)
    stream.learn(7)
    first = stream.save()
    path = tmp_path / "news" / first.segments[0].path
    data = bytearray(path.read_bytes())
    data[data.index(block(5).states.tobytes()) + 3] ^= 1
    path.write_bytes(data)
    stream.forget([0, 1, 2, 3])
    second = stream.save()
    assert "block 5 stays where it is" in caplog.text
    assert [(entry.rows, count) for entry, count in zip(second.segments, stream.store.alive(second), strict=True)] == [(7, 1), (2, 2)]
    assert second.segments[0] == first.segments[0]


def test_what_lies_where_the_last_manifest_does_not_name_it_is_written_anew(config: SnapshotConfig) -> None:
    """A snapshot landed, and the memory never heard of it: the segment that the blocks lay in before may go at any time."""
    stream = Stream(config, capacity=40)
    for _ in range(FANOUT):
        stream.learn(4)
        stream.save()
    merged = stream.store.write(stream.content(), stream.generation)
    assert len(merged.segments) == 1
    stream.learn()
    manifest = stream.save()
    assert [entry.rows for entry in manifest.segments] == [4 * FANOUT + 1]
    assert verified(stream.store, manifest)[0] == list(range(4 * FANOUT + 1))


def test_batches_are_bounded_by_bytes_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments, "BATCH_BYTES", 2 * block(3).states.nbytes)
    store = open_store(str(tmp_path))
    with store.writer("blocks/a.arrow") as sink:
        assert write_segment(sink, (block(3) for _ in range(5)), SHAPE, "model-1") == 5
    assert isinstance(sink.digest, Digest)
    segment = MappedSegment(tmp_path / "blocks/a.arrow", SHAPE)
    assert [batch.num_rows for batch in segment._batches] == [2, 2, 1]
    segment.check(4)
