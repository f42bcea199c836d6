"""Snapshots of blocks: segments that are written once, named by several manifests, mapped, and checked when they are used."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import numpy as np
import pyarrow as pa
import pytest

from pipeline.errors import ConfigurationError, SnapshotCorrupt, SnapshotMismatch
from pipeline.ledger import LedgerRow
from pipeline.positions import StreamState
from pipeline.records import Document, Partition, Record
from pipeline.snapshots.checksums import Digest
from pipeline.snapshots.collector import Collector
from pipeline.snapshots.config import RetentionConfig
from pipeline.snapshots.manifest import BlockShape, Manifest
from pipeline.snapshots.segments import BlockImage, BlocksImage, MappedSegment, block_sha256, memory_sha256, write_segment
from pipeline.snapshots.stores import open_store
from pipeline.snapshots.writer import SnapshotConfig, SnapshotContent, SnapshotStore
from tests.doubles import snapshots as doubles

SHAPE = BlockShape(num_layers=3, first_layer=1, hidden_size=16, update_tokens=8, key_size=4)


def block(update: int) -> BlockImage:
    return doubles.block(update, SHAPE)


def image(blocks: Sequence[BlockImage], published: dict[int, tuple[str, int]] | None = None) -> BlocksImage:
    """Blocks, some of which lie in segments (path, row) already."""
    published = published or {}
    segments = tuple(dict.fromkeys(path for path, _ in published.values()))
    places = [published.get(each.update) for each in blocks]
    return BlocksImage(
        shape=SHAPE,
        updates=np.array([each.update for each in blocks], dtype=np.int64),
        documents=np.array([each.update // 2 * 2 for each in blocks], dtype=np.int64),
        tokens=np.array([each.keys.shape[0] for each in blocks], dtype=np.int32),
        digests=np.array([np.frombuffer(each.sha256, dtype=np.uint8) for each in blocks], dtype=np.uint8).reshape(-1, 32),
        homes=np.array([-1 if place is None else segments.index(place[0]) for place in places], dtype=np.int32),
        rows=np.array([0 if place is None else place[1] for place in places], dtype=np.int32),
        segments=segments,
        block=lambda index: blocks[index],
    )


def content(memory: BlocksImage) -> SnapshotContent:
    return SnapshotContent(
        memory=memory,
        state=StreamState.beginning({}),
        fingerprint="model-1",
        seed=0,
        config={},
        build={},
        device="cpu/AVX2",
        threads=1,
    )


@pytest.fixture(params=["file", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SnapshotStore:
    monkeypatch.setenv("MEMSTREAM_CACHE", str(tmp_path / "cache"))
    root = f"file://{tmp_path}/store" if request.param == "file" else f"memory://{uuid4().hex}"
    return SnapshotStore(SnapshotConfig.model_construct(root=root), "world-news")


@pytest.fixture
def local(tmp_path: Path) -> SnapshotStore:
    return SnapshotStore(SnapshotConfig(root=str(tmp_path)), "world-news")


def placed(manifest: Manifest, updates: Sequence[int]) -> dict[int, tuple[str, int]]:
    return {update: (manifest.segments[-1].path, row) for row, update in enumerate(updates)}


def unnamed(store: SnapshotStore) -> list[str]:
    """Of what attempts wrote; claims go in their own time."""
    return [name for name in Collector(store, RetentionConfig()).unnamed() if not name.startswith("generations/")]


def folder(store: SnapshotStore) -> Path:
    return Path(store.url.removeprefix("file://"))


def test_what_is_written_is_mapped_back(store: SnapshotStore) -> None:
    blocks = [block(update) for update in (3, 4, 9)]
    manifest = store.write(content(image(blocks)), store.claim_generation())
    assert manifest.memory == SHAPE.model_copy(update={"blocks": 3})
    found = store.latest()
    assert found is not None and found.problems == ()
    back = store.read_blocks(found.manifest)
    assert back.updates.tolist() == [3, 4, 9]
    ((_, segment),) = back.segments
    for row, each in enumerate(blocks):
        assert np.array_equal(segment.states(row), each.states) and np.array_equal(segment.keys(row), each.keys)
        segment.check(row)
    assert manifest.memory_sha256 == memory_sha256(back.digests)
    assert manifest.memory_sha256 == hashlib.sha256(b"".join(each.sha256 for each in blocks)).hexdigest()


def test_a_memory_without_blocks_is_a_snapshot_too(store: SnapshotStore) -> None:
    manifest = store.write(content(image([])), store.claim_generation())
    assert (manifest.segments, len(store.read_blocks(manifest).updates), store.verify(manifest)) == ((), 0, [])


def test_incremental_a_later_snapshot_names_the_segment_of_an_earlier_one(store: SnapshotStore) -> None:
    generation = store.claim_generation()
    first = store.write(content(image([block(0), block(1)])), generation)
    second = store.write(content(image([block(1), block(2)], placed(first, [0, 1]))), generation)
    assert second.segments[0].path == first.segments[0].path
    assert [entry.rows for entry in second.segments] == [2, 1]
    back = store.read_blocks(second)
    assert (back.updates.tolist(), back.homes.tolist(), back.rows.tolist()) == ([1, 2], [0, 1], [1, 0])
    assert unnamed(store) == []
    third = store.write(content(image([block(2)], {2: (second.segments[1].path, 0)})), generation)
    assert [entry.path for entry in third.segments] == [second.segments[1].path]


def test_a_restored_store_goes_on_naming_what_it_found(local: SnapshotStore) -> None:
    first = local.write(content(image([block(0)])), local.claim_generation())
    other = SnapshotStore(SnapshotConfig(root=str(folder(local).parent)), "world-news")
    other.adopt(first)
    again = other.write(content(image([block(0), block(1)], placed(first, [0]))), other.claim_generation())
    assert other.verify(again) == []
    assert again.segments[0] == first.segments[0]


def test_manifest_last_a_failed_attempt_leaves_no_segment(store: SnapshotStore) -> None:
    def breaks(index: int) -> BlockImage:
        if index:
            raise RuntimeError("the device is gone")
        return block(0)

    broken = replace(image([block(0), block(1)]), block=breaks)
    with pytest.raises(RuntimeError, match="the device is gone"):
        store.write(content(broken), store.claim_generation())
    assert (store.latest(), unnamed(store)) == (None, [])


def test_manifest_last_a_segment_that_no_manifest_names_is_an_orphan(local: SnapshotStore) -> None:
    manifest = local.write(content(image([block(0)])), local.claim_generation())
    (folder(local) / "epochs/00000001.json").unlink()
    assert set(unnamed(local)) == {entry.path for entry in manifest.objects}


def test_a_flipped_bit_in_a_block_is_found_when_it_is_used_and_by_verify(local: SnapshotStore) -> None:
    manifest = local.write(content(image([block(update) for update in range(5)])), local.claim_generation())
    path = folder(local) / manifest.segments[0].path
    data = bytearray(path.read_bytes())
    wanted = block(3).states.tobytes()
    data[data.index(wanted) + 5] ^= 0x10
    path.write_bytes(data)
    assert local.latest() is not None, "a restore reads no states"
    ((_, segment),) = local.read_blocks(manifest).segments
    segment.check(2)
    with pytest.raises(SnapshotCorrupt, match="block 3 does not have the SHA-256"):
        segment.check(3)
    (problem,) = local.verify(manifest)
    assert (problem.path, "SHA-256" in problem.detail) == (manifest.segments[0].path, True)


@pytest.mark.parametrize("damage", ["truncated", "missing", "index"])
def test_a_broken_snapshot_is_passed_over(local: SnapshotStore, damage: str) -> None:
    generation = local.claim_generation()
    good = local.write(content(image([block(0)])), generation)
    broken = local.write(content(image([block(0), block(1)], placed(good, [0]))), generation)
    entry = broken.object("index.arrow") if damage == "index" else broken.segments[1]
    path = folder(local) / entry.path
    if damage == "missing":
        path.unlink()
    elif damage == "truncated":
        path.write_bytes(path.read_bytes()[:-1])
    else:
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    found = local.latest()
    assert found is not None and found.manifest == good
    assert [problem.path for problem in found.problems] == [entry.path]


def test_a_remote_segment_with_another_digest_is_not_mapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEMSTREAM_CACHE", str(tmp_path))
    store = SnapshotStore(SnapshotConfig.model_construct(root=f"memory://{uuid4().hex}"), "world-news")
    manifest = store.write(content(image([block(0)])), store.claim_generation())
    entry = manifest.segments[0].model_copy(update={"sha256": "0" * 64})
    with pytest.raises(SnapshotCorrupt, match="the manifest says 0000"):
        store.open_segment(entry, SHAPE)
    assert [path for path in (tmp_path / "segments").rglob("*") if path.is_file()] == []


def test_another_file_or_shape_is_refused(local: SnapshotStore, tmp_path: Path) -> None:
    manifest = local.write(content(image([block(5)])), local.claim_generation())
    path = folder(local) / manifest.segments[0].path
    with pytest.raises(SnapshotCorrupt, match="do not have the shape"):
        MappedSegment(path, SHAPE.model_copy(update={"hidden_size": 8}))
    with pytest.raises(SnapshotCorrupt, match="has columns"):
        MappedSegment(folder(local) / manifest.object("ledger.arrow").path, SHAPE)
    (tmp_path / "x.arrow").write_bytes(b"ARROW1")
    with pytest.raises(SnapshotCorrupt, match="cannot be read"):
        MappedSegment(tmp_path / "x.arrow", SHAPE)
    with pytest.raises(SnapshotMismatch, match="this model has R=4"):
        manifest.require_model("model-1", SHAPE.model_copy(update={"num_layers": 4}))
    with pytest.raises(ValueError, match="want"):
        local.write(content(image([replace(block(1), keys=block(2).keys)])), local.claim_generation())


def test_four_thousand_blocks_open_without_their_states(tmp_path: Path) -> None:
    """The file is full of holes where states would be: what a restore touches is what the index and the small columns need."""
    store = open_store(str(tmp_path))
    shape = BlockShape(num_layers=2, first_layer=1, hidden_size=64, update_tokens=64, key_size=8)
    states, keys = np.zeros((2, 50, 64), np.uint16), np.zeros((50, 8), np.uint16)
    same = block_sha256(states, keys)
    blocks = (BlockImage(update=number, states=states, keys=keys, sha256=same) for number in range(4096))
    with store.writer("blocks/a.arrow") as sink:
        assert write_segment(sink, blocks, shape, "model-1") == 4096
    before = pa.total_allocated_bytes()
    segment = MappedSegment(tmp_path / "blocks/a.arrow", shape)
    assert pa.total_allocated_bytes() - before < 1 << 20
    assert (len(segment), segment.updates[-1], segment.states(4095).shape) == (4096, 4095, (2, 50, 64))
    assert not segment.states(4095).flags.owndata and not segment.keys(7).flags.owndata


def test_the_documented_code_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """What docs/snapshots.md shows: pyarrow, numpy, json and hashlib, nothing of memstream."""
    monkeypatch.chdir(tmp_path)
    store = SnapshotStore(SnapshotConfig(), "world-news")
    generation = store.claim_generation()
    first = store.write(content(image([block(0), block(1)])), generation)
    record = Record(partition=Partition("news", 0), offset=40, timestamp_ms=5, value=b"{}")
    document = Document(record=record, document_id="a", text="A new president.", event_time_ms=5, content_sha256="f00", title="Vote")
    state = StreamState.beginning({record.partition: 40}).applied(LedgerRow.of(document, [0, 1, 2], tokens=6)).forgetting([0])
    store.write(replace(content(image([block(1), block(2)], placed(first, [0, 1]))), state=state), generation)
    documented = (Path(__file__).parents[3] / "docs/snapshots.md").read_text()
    exec(documented.partition("```python\n")[2].partition("```")[0], {})
    assert "Vote news/0@40 5 tokens in 2 blocks" in capsys.readouterr().out


def test_digest_of_nothing_is_the_digest_of_no_bytes() -> None:
    assert memory_sha256(np.zeros((0, 32), np.uint8)) == Digest.of(b"").sha256


def test_a_cache_that_others_may_write_into_is_not_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEMSTREAM_CACHE", str(tmp_path / "cache"))
    store = SnapshotStore(SnapshotConfig.model_construct(root=f"memory://{uuid4().hex}"), "world-news")
    manifest = store.write(content(image([block(5)])), store.claim_generation())
    (tmp_path / "cache").mkdir(mode=0o700)
    (tmp_path / "cache").chmod(0o777)
    with pytest.raises(ConfigurationError, match="others may write into it"):
        store.read_blocks(manifest)
    (tmp_path / "cache").chmod(0o700)
    assert store.read_blocks(manifest).updates.tolist() == [5]
