"""Snapshots on gs://: fake-gcs-server, an emulator of Google Cloud Storage that Go builds from its module."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from pipeline.errors import StoreUnavailable
from pipeline.snapshots.collector import Collector
from pipeline.snapshots.config import RetentionConfig, SnapshotConfig
from pipeline.snapshots.stores import open_store
from tests.doubles.snapshots import Stream, verified
from tests.fault.servers import Server, built, winners

pytestmark = [pytest.mark.slow, pytest.mark.fault]

MODULE = "github.com/fsouza/fake-gcs-server@v1.56.1"


class Emulator(Server):
    def __init__(self) -> None:
        binary = str(built("MEMSTREAM_FAKE_GCS_SERVER", MODULE))
        super().__init__([binary, "-scheme", "http", "-host", "127.0.0.1", "-port", "{port}", "-backend", "memory"], {})

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@pytest.fixture(scope="module")
def emulator() -> Iterator[Emulator]:
    made = Emulator()
    made.start()
    yield made
    made.kill()


@pytest.fixture
def root(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> str:
    bucket = f"b{uuid.uuid4().hex[:12]}"
    httpx.post(f"{emulator.url}/storage/v1/b", json={"name": bucket}).raise_for_status()
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", emulator.url)
    monkeypatch.setenv("FSSPEC_GS_TOKEN", "anon")
    return f"gs://{bucket}/memstream"


def test_one_of_many_creators_wins(root: str) -> None:
    store = open_store(root)
    store.require_create_if_absent()
    assert store.names("generations") == []
    won = winners(root, "epochs/1.json")
    assert len(won) == 1 and store.read("epochs/1.json") == b"%d" % won[0]


@pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning")  # what gcsfs hands to aiohttp
def test_large_objects_go_as_streams_and_are_mapped_from_a_copy(root: str, tmp_path: Path) -> None:
    store = open_store(root)
    with store.writer("blocks/1.arrow") as file:
        for _ in range(12):
            file.write(os.urandom(1 << 20))
    assert store.size_bytes("blocks/1.arrow") == 12 << 20
    with store.reader("blocks/1.arrow") as source:
        assert source.drain() == file.digest
    assert store.local_path("blocks/1.arrow", file.digest.sha256, tmp_path).stat().st_size == 12 << 20


def test_snapshots_are_kept_and_collected(root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEMSTREAM_CACHE", str(tmp_path))
    stream = Stream(SnapshotConfig(root=root))
    for _ in range(12):
        stream.learn()
        stream.save()
        Collector(stream.store, RetentionConfig(last=2, hourly=0, daily=0, garbage_after_s=0)).collect(stream.generation)
    Collector(stream.store, RetentionConfig(last=2, hourly=0, daily=0, garbage_after_s=0)).collect(stream.generation)
    assert stream.store.epochs() == [11, 12]
    named = {entry.path for epoch in (11, 12) for entry in stream.store.load(epoch).objects}
    there = {name for name in stream.store.objects.listing() if name.startswith(("blocks/", "data/"))}
    assert there == named
    back = Stream(SnapshotConfig(root=root))
    assert back.state == stream.state and verified(back.store, back.store.load(12))[0] == stream.updates


def test_a_bucket_that_is_not_there_says_so(root: str) -> None:
    with pytest.raises(StoreUnavailable, match="create the bucket"):
        open_store("gs://no-such-bucket-here/x").names("epochs")
