"""The snapshot protocol: whole or not at all, one writer, the one before when the last is broken."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pyarrow as pa
import pytest
from pydantic import ValidationError

from pipeline.errors import ConfigurationError, SnapshotCorrupt, SnapshotError, SnapshotMismatch, StaleWriter, StoreUnavailable
from pipeline.ledger import LedgerRow
from pipeline.positions import StreamState
from pipeline.records import Document, Outcome, Partition, Record
from pipeline.snapshots.collector import Collector
from pipeline.snapshots.config import RetentionConfig
from pipeline.snapshots.manifest import Manifest
from pipeline.snapshots.pool_image import FROM_CHECKPOINT, LayerImage, PoolImage, pool_sha256
from pipeline.snapshots.writer import SnapshotConfig, SnapshotContent, SnapshotStore

NEWS = Partition("news", 0)


def layers(seed: int = 0) -> Iterator[LayerImage]:
    generator = np.random.default_rng(seed)
    for _ in range(3):
        yield LayerImage(
            slots=np.arange(8, dtype=np.int32),
            updates=np.array([FROM_CHECKPOINT] * 4 + [0] * 4),
            memory=generator.integers(0, 1 << 16, (8, 16), dtype=np.uint16),
        )


def pool(layers: Iterator[LayerImage]) -> PoolImage:
    return PoolImage(layers=layers, num_layers=3, num_tokens=8, update_tokens=4, hidden_size=16, dtype="bfloat16")


def state() -> StreamState:
    record = Record(partition=NEWS, offset=40, timestamp_ms=5, value=b"{}")
    document = Document(record=record, document_id="a", text="A new president.", event_time_ms=5, content_sha256="f00", title="Vote")
    beginning = StreamState.beginning({}).joined(NEWS, 40, "first")
    return beginning.applied(LedgerRow.of(document, [0], tokens=5, tokens_left_out=2)).gap(NEWS, 41, 43)


def content(seed: int = 0, layers_: Iterator[LayerImage] | None = None) -> SnapshotContent:
    return SnapshotContent(
        memory=pool(layers_ or layers(seed)),
        state=state(),
        fingerprint="model-1",
        seed=seed,
        config={"stream": "world-news"},
        build={"torch": "2.13.0"},
        device="cpu/AVX2",
        threads=1,
    )


@pytest.fixture(params=["file", "memory"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return f"file://{tmp_path}" if request.param == "file" else f"memory://{uuid4().hex}"


@pytest.fixture
def store(root: str) -> SnapshotStore:
    return SnapshotStore(SnapshotConfig.model_construct(root=root), "world-news")


@pytest.fixture
def local(tmp_path: Path) -> SnapshotStore:
    return SnapshotStore(SnapshotConfig(root=str(tmp_path)), "world-news")


def folder(store: SnapshotStore) -> Path:
    return Path(store.url.removeprefix("file://"))


def unnamed(store: SnapshotStore) -> list[str]:
    """Of what attempts wrote; claims go in their own time."""
    return [name for name in Collector(store, RetentionConfig()).unnamed() if not name.startswith("generations/")]


def flip_a_bit(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 0x10
    path.write_bytes(data)


def test_an_empty_store_has_no_latest(store: SnapshotStore) -> None:
    assert store.latest() is None
    assert store.epochs() == []
    assert unnamed(store) == []


def test_what_is_written_is_read_back(store: SnapshotStore) -> None:
    manifest = store.write(content(), store.claim_generation())
    found = store.latest()
    assert found == (manifest, ())
    assert (manifest.epoch, manifest.generation, manifest.device, manifest.threads) == (1, 1, "cpu/AVX2", 1)
    read = list(store.read_pool(manifest))
    assert pool_sha256(read) == manifest.memory_sha256 == pool_sha256(layers())
    assert [layer.updates.tolist() for layer in read] == [[-1] * 4 + [0] * 4] * 3
    assert [(entry.name, entry.rows) for entry in manifest.objects] == [("pool.arrow", 24), ("ledger.arrow", 1)]


def test_one_state_comes_back_as_it_was(store: SnapshotStore) -> None:
    manifest = store.write(content(), store.claim_generation())
    assert store.read_state(manifest) == state()
    assert manifest.positions == {"news/0": 43}
    assert manifest.origin == {"news/0": 40}
    assert manifest.topic_ids == {"news/0": "first"}
    assert manifest.counts[Outcome.GAP] == 2
    assert "f00" in store.read_ledger(manifest)


def test_nothing_silent_a_state_whose_counts_do_not_add_up_is_not_written(store: SnapshotStore) -> None:
    crooked = replace(content(), state=replace(state(), positions={NEWS: 50}))
    with pytest.raises(ValueError, match="10 offsets were passed but 3 are counted"):
        store.write(crooked, store.claim_generation())
    assert store.epochs() == []


def test_epochs_grow_and_the_newest_is_latest(store: SnapshotStore) -> None:
    generation = store.claim_generation()
    manifests = [store.write(content(seed), generation) for seed in range(3)]
    assert store.epochs() == [1, 2, 3]
    assert store.load(2) == manifests[1]
    found = store.latest()
    assert found is not None
    assert found.manifest.memory_sha256 == pool_sha256(layers(2))


def test_loading_what_is_not_there_says_what_is(store: SnapshotStore) -> None:
    store.write(content(), store.claim_generation())
    with pytest.raises(SnapshotError, match=r"no snapshot 7 .*there are: \[1\]"):
        store.load(7)


# -------------------------------------------------------------------- MANIFEST-LAST


def test_manifest_last_data_without_a_manifest_is_no_snapshot(local: SnapshotStore) -> None:
    generation = local.claim_generation()
    first = local.write(content(1), generation)
    local.write(content(2), generation)
    (folder(local) / "epochs/00000002.json").unlink()  # what a crash between data and manifest leaves
    assert local.latest() == (first, ())
    orphans = unnamed(local)
    assert [name.rpartition("/")[2] for name in orphans] == ["ledger.arrow", "pool.arrow"]
    again = local.write(content(2), local.claim_generation())
    assert again.epoch == 2
    assert local.verify(again) == []
    assert unnamed(local) == orphans, "the new attempt did not touch what the crash left"


def test_manifest_last_a_failed_attempt_removes_its_data(store: SnapshotStore) -> None:
    def breaks() -> Iterator[LayerImage]:
        yield next(layers())
        raise RuntimeError("the device is gone")

    generation = store.claim_generation()
    with pytest.raises(RuntimeError, match="the device is gone"):
        store.write(content(layers_=breaks()), generation)
    assert store.latest() is None
    assert unnamed(store) == []
    assert store.write(content(), generation).epoch == 1


def test_manifest_last_a_manifest_is_created_once(store: SnapshotStore) -> None:
    """Two writers that both chose epoch 1 while the other was not there yet: one gets it, the rightful one goes on to the next."""
    generation = store.claim_generation()
    inner: list[Manifest] = []

    def meanwhile() -> Iterator[LayerImage]:
        inner.append(store.write(content(7), generation))
        yield from layers()

    outer = store.write(content(layers_=meanwhile()), generation)
    assert (inner[0].epoch, outer.epoch) == (1, 2)
    assert [store.verify(store.load(epoch)) for epoch in (1, 2)] == [[], []]


def test_manifest_last_temporary_files_are_no_snapshots(local: SnapshotStore) -> None:
    manifest = local.write(content(), local.claim_generation())
    (folder(local) / "epochs/.00000002.json.0123.tmp").write_bytes(b"{")
    assert local.latest() == (manifest, ())


# -------------------------------------------------------------------- ONE-WRITER


def test_one_writer_generations_are_claimed_once(store: SnapshotStore, root: str) -> None:
    other = SnapshotStore(SnapshotConfig.model_construct(root=root), "world-news")
    assert [store.claim_generation(), other.claim_generation(), store.claim_generation()] == [1, 2, 3]


def test_one_writer_replicas_take_over_from_each_other_and_not_from_another_deployment(store: SnapshotStore) -> None:
    assert store.claimed_by() is None
    assert store.claim_generation("ours") == 1
    assert store.claim_generation("ours", after=1) == 2
    assert store.claim_generation("ours", after=1) == 3  # the second was a replica of ours
    assert store.claim_generation("theirs") == 4  # whoever begins anew takes the stream
    assert (store.claimed_by(), store.claimed_by(3), store.claimed_by(99)) == ("theirs", "ours", None)
    with pytest.raises(StaleWriter, match="generation 4 of another deployment has claimed"):
        store.claim_generation("ours", after=3)


def test_one_writer_a_stale_writer_stops_before_it_writes(store: SnapshotStore) -> None:
    old = store.claim_generation()
    new = store.claim_generation()
    untouched = layers()
    with pytest.raises(StaleWriter, match="generation 2 has claimed"):
        store.write(content(layers_=untouched), old)
    assert len(list(untouched)) == 3
    assert store.write(content(), new).generation == new


def test_one_writer_a_writer_replaced_meanwhile_stops_before_it_publishes(store: SnapshotStore, root: str) -> None:
    newer = SnapshotStore(SnapshotConfig.model_construct(root=root), "world-news")

    def claimed_meanwhile() -> Iterator[LayerImage]:
        newer.claim_generation()
        yield from layers()

    with pytest.raises(StaleWriter):
        store.write(content(layers_=claimed_meanwhile()), store.claim_generation())
    assert store.epochs() == []
    assert unnamed(store) == []


def test_one_writer_streams_do_not_disturb_each_other(store: SnapshotStore, root: str) -> None:
    generation = store.claim_generation()
    other = SnapshotStore(SnapshotConfig.model_construct(root=root), "sports")
    other.claim_generation()
    other.claim_generation()
    store.write(content(), generation)
    assert other.latest() is None


# -------------------------------------------------------------------- broken snapshots


def object_path(store: SnapshotStore, manifest: Manifest, name: str) -> Path:
    return folder(store) / manifest.object(name).path


@pytest.mark.parametrize("name", ["pool.arrow", "ledger.arrow"])
@pytest.mark.parametrize("damage", ["flipped", "truncated", "missing"])
def test_a_broken_object_is_reported_and_the_snapshot_before_is_used(local: SnapshotStore, name: str, damage: str) -> None:
    generation = local.claim_generation()
    good, broken = local.write(content(1), generation), local.write(content(2), generation)
    path = object_path(local, broken, name)
    if damage == "flipped":
        flip_a_bit(path, path.stat().st_size // 2)
    elif damage == "truncated":
        path.write_bytes(path.read_bytes()[:-1])
    else:
        path.unlink()
    (problem,) = local.verify(broken)
    assert (problem.epoch, problem.path) == (2, broken.object(name).path)
    assert {"flipped": "SHA-256", "truncated": "the manifest says", "missing": "missing"}[damage] in problem.detail
    assert local.latest() == (good, (problem,))
    with pytest.raises(SnapshotCorrupt):
        _ = [*local.read_pool(broken)], local.read_ledger(broken)


def test_every_flipped_bit_of_a_manifest_is_seen(local: SnapshotStore) -> None:
    generation = local.claim_generation()
    good, _ = local.write(content(1), generation), local.write(content(2), generation)
    path = folder(local) / "epochs/00000002.json"
    whole = path.read_bytes()
    for number in range(0, len(whole) * 8, 61):
        flipped = bytearray(whole)
        flipped[number // 8] ^= 1 << number % 8
        try:
            assert Manifest.from_json(bytes(flipped), "here") == local.load(2), "white space alone may change unseen"
        except SnapshotCorrupt:
            continue
    flip_a_bit(path, whole.index(b'"news/0": 43') + len('"news/0": 4'))
    found = local.latest()
    assert found is not None
    assert found.manifest == good
    assert [problem.path for problem in found.problems] == ["epochs/00000002.json"]


def test_when_all_are_broken_nobody_begins_anew_in_silence(local: SnapshotStore) -> None:
    manifest = local.write(content(), local.claim_generation())
    object_path(local, manifest, "pool.arrow").unlink()
    with pytest.raises(SnapshotCorrupt, match=r"epoch 1: data/.*/pool\.arrow: missing"):
        local.latest()
    assert local.inspect(1, verify=False) == (1, manifest, ())


def test_inspect_tells_all_for_list_and_verify(local: SnapshotStore) -> None:
    generation = local.claim_generation()
    for seed in range(3):
        local.write(content(seed), generation)
    flip_a_bit(object_path(local, local.load(1), "pool.arrow"), 1000)
    (folder(local) / "epochs/00000003.json").write_bytes(b"[]")
    assert [len(local.inspect(epoch).problems) for epoch in local.epochs()] == [1, 0, 1]
    assert [local.inspect(epoch, verify=False).manifest is None for epoch in local.epochs()] == [False, False, True]
    assert str(local.inspect(3).problems[0]).startswith("epoch 3: epochs/00000003.json: ")


def test_a_manifest_in_the_wrong_place_is_refused(local: SnapshotStore) -> None:
    local.write(content(), local.claim_generation())
    epochs = folder(local) / "epochs"
    (epochs / "00000002.json").write_bytes((epochs / "00000001.json").read_bytes())
    with pytest.raises(SnapshotCorrupt, match="manifest of world-news@1"):
        local.load(2)


def test_a_newer_format_is_no_reason_to_fall_back(local: SnapshotStore) -> None:
    local.write(content(), local.claim_generation())
    future = {"schema_version": 5}
    canonical = json.dumps(future, sort_keys=True, separators=(",", ":")).encode()
    path = folder(local) / "epochs/00000002.json"
    path.write_text(json.dumps({**future, "manifest_sha256": hashlib.sha256(canonical).hexdigest()}))
    with pytest.raises(SnapshotError, match="manifest of version 5, this memstream reads 4"):
        local.latest()


def test_an_older_format_is_refused_with_what_to_do(local: SnapshotStore) -> None:
    local.write(content(), local.claim_generation())
    past = {"schema_version": 3, "stream": "world-news", "epoch": 2}
    canonical = json.dumps(past, sort_keys=True, separators=(",", ":")).encode()
    path = folder(local) / "epochs/00000002.json"
    path.write_text(json.dumps({**past, "manifest_sha256": hashlib.sha256(canonical).hexdigest()}))
    with pytest.raises(SnapshotMismatch, match=r"older memstream \(manifest version 3\).*another `stream` name or `snapshots.root`"):
        local.latest()


def test_another_model_is_refused(local: SnapshotStore) -> None:
    manifest = local.write(content(), local.claim_generation())
    manifest.require_model("model-1", manifest.memory)
    with pytest.raises(SnapshotMismatch, match="was written by model model-1, this is model-2"):
        manifest.require_model("model-2", manifest.memory)
    with pytest.raises(SnapshotMismatch, match="L=3 N=8 d=16 K=4 bfloat16, this model has L=3 N=16"):
        manifest.require_model("model-1", manifest.memory.model_copy(update={"num_tokens": 16}))


def test_a_pool_that_was_never_written_fits_any_size(store: SnapshotStore) -> None:
    empty = LayerImage(slots=np.zeros(0, np.int32), updates=np.zeros(0, np.int64), memory=np.zeros((0, 16), np.uint16))
    unwritten = replace(pool(iter([empty] * 3)), num_tokens=0)
    manifest = store.write(replace(content(), memory=unwritten), store.claim_generation())
    manifest.require_model("model-1", pool(layers()).shape)
    assert store.verify(manifest) == []
    assert len(list(store.read_pool(manifest))) == 3


# -------------------------------------------------------------------- no code of ours


def test_plain_pyarrow_reads_it(local: SnapshotStore) -> None:
    """Pyarrow, json and hashlib, nothing of memstream."""
    local.write(content(), local.claim_generation())
    stream = folder(local)
    manifest: dict[str, Any] = json.loads(max((stream / "epochs").glob("*.json")).read_text())

    paths = {}
    for entry in manifest["objects"]:
        path = stream / entry["path"]
        assert hashlib.sha256(path.read_bytes()).hexdigest() == entry["sha256"]
        assert path.stat().st_size == entry["size_bytes"]
        paths[path.name] = path

    said = manifest.pop("manifest_sha256")
    assert hashlib.sha256(json.dumps(manifest, sort_keys=True, separators=(",", ":")).encode()).hexdigest() == said

    values = hashlib.sha256()
    with pa.memory_map(str(paths["pool.arrow"])) as source:
        file = pa.ipc.open_file(source)
        assert file.schema.names == ["layer", "slot", "update", "memory"]
        assert file.schema.metadata[b"memstream.dtype"] == b"bfloat16"
        assert file.num_record_batches == manifest["memory"]["num_layers"]
        for number in range(file.num_record_batches):
            batch = file.get_batch(number)
            assert batch["layer"].unique().to_pylist() == [number]
            values.update(batch["memory"].flatten().to_numpy())
        assert file.read_all()["update"].to_pylist() == ([-1] * 4 + [0] * 4) * 3
    assert values.hexdigest() == manifest["memory_sha256"]

    ledger = pa.ipc.open_file(str(paths["ledger.arrow"])).read_all()
    assert ledger.select(["document_id", "topic", "offset", "title"]).to_pylist() == [
        {"document_id": "a", "topic": "news", "offset": 40, "title": "Vote"}
    ]


# -------------------------------------------------------------------- configuration and store failures


def test_config_describes_every_key_and_refuses_others() -> None:
    assert all(field.description for field in SnapshotConfig.model_fields.values())
    for wrong in ({"evry_s": 1}, {"every_s": 0}, {"every_updates": 0}, {"root": "file://"}):
        with pytest.raises(ValidationError):
            SnapshotConfig.model_validate(wrong)


def test_config_makes_roots_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert SnapshotConfig().root == f"file://{tmp_path}/runs/snapshots"
    assert SnapshotConfig(root="file://~/snapshots").root == f"file://{tmp_path}/home/snapshots"
    assert SnapshotConfig(root="s3://bucket/x/").root == "s3://bucket/x"


@pytest.mark.parametrize("name", ["", "../other", "a/b", ".hidden", "world news"])
def test_stream_names_are_folder_names(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigurationError, match="stream name"):
        SnapshotStore(SnapshotConfig(root=str(tmp_path)), name)


def test_a_store_that_fails_is_unavailable_not_empty(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    store = SnapshotStore(SnapshotConfig(root=f"{tmp_path}/file"), "world-news")
    for call in (store.latest, store.claim_generation, lambda: store.write(content(), 1)):
        with pytest.raises(StoreUnavailable, match="a file lies where a folder should be") as raised:
            call()
        assert raised.value.retriable
