"""Snapshots on a real S3 server: versitygw, which Go builds from its module; the binary is kept in build/versitygw."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.errors import SnapshotCorrupt, StoreUnavailable
from pipeline.snapshots.objects import ObjectStore, open_store
from tests.processes import free_port

pytestmark = [pytest.mark.slow, pytest.mark.fault]

ROOT = Path(__file__).parents[2]
BINARY = Path(os.environ.get("MEMSTREAM_VERSITYGW", ROOT / "build" / "versitygw" / "versitygw"))
MODULE = "github.com/versity/versitygw/cmd/versitygw@v1.8.0"


class Gateway:
    """One server over a folder; it may be killed and started again."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        environ = {**os.environ, "ROOT_ACCESS_KEY": "reader", "ROOT_SECRET_KEY": "s3cret-s3cret"}
        command = [str(BINARY), "--port", f"127.0.0.1:{self.port}", "posix", str(self.folder)]
        self._process = subprocess.Popen(command, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline_s = time.monotonic() + 20
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            except OSError:
                assert time.monotonic() < deadline_s and self._process.poll() is None
                time.sleep(0.05)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    if not BINARY.is_file():
        go = shutil.which("go")
        if go is None:
            pytest.skip("builds an S3 server, which needs Go (or MEMSTREAM_VERSITYGW)")
        BINARY.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run([go, "install", MODULE], env={**os.environ, "GOBIN": str(BINARY.parent)}, check=True, timeout=900)
    made = Gateway(tmp_path_factory.mktemp("s3"))
    made.start()
    yield made
    made.kill()


@pytest.fixture
def root(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> str:
    bucket = f"b{uuid.uuid4().hex[:12]}"
    (gateway.folder / bucket).mkdir()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{gateway.port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "reader")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s3cret-s3cret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    return f"s3://{bucket}/memstream"


def test_one_of_many_creators_wins(root: str) -> None:
    store, won = open_store(root), list[int]()
    store.require_create_if_absent()

    def create(number: int) -> None:
        try:
            open_store(root).create("epochs/1.json", b"%d" % number)
            won.append(number)
        except FileExistsError:
            pass

    racing = [threading.Thread(target=create, args=(number,)) for number in range(8)]
    for each in racing:
        each.start()
    for each in racing:
        each.join()
    assert len(won) == 1 and store.read("epochs/1.json") == b"%d" % won[0]


def test_large_objects_go_as_streams_and_are_mapped_from_a_copy(root: str, tmp_path: Path) -> None:
    store = open_store(root)
    with store.writer("blocks/1.arrow") as file:
        for _ in range(12):
            file.write(os.urandom(1 << 20))
    digest = file.digest
    assert store.size_bytes("blocks/1.arrow") == 12 << 20
    with store.reader("blocks/1.arrow") as source:
        assert source.drain().sha256 == digest.sha256
    assert store.local_path("blocks/1.arrow", digest.sha256, tmp_path).stat().st_size == 12 << 20
    assert store.names("blocks") == ["1.arrow"]
    store.discard("blocks")
    assert store.names("blocks") == []


def test_a_server_that_is_away_is_unavailable_and_comes_back(root: str, gateway: Gateway) -> None:
    store: ObjectStore = open_store(root)
    store.create("a/1", b"one")
    gateway.kill()
    try:
        with pytest.raises(StoreUnavailable):
            store.read("a/1")
    finally:
        gateway.start()
    assert store.read("a/1") == b"one"


def test_an_object_that_rotted_in_the_store_is_corrupt_and_not_waited_for(root: str, gateway: Gateway) -> None:
    """The store keeps a checksum of its own, and its client compares it before we compare ours."""
    store = open_store(root)
    store.create("a/1", b"as it was written")
    (gateway.folder / root.removeprefix("s3://") / "a" / "1").write_bytes(b"as it was_written")
    with pytest.raises(SnapshotCorrupt, match="checksum"):
        store.read("a/1")


def test_a_bucket_that_is_not_there_and_a_wrong_password_say_so(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StoreUnavailable, match="create the bucket"):
        open_store("s3://no-such-bucket-here/x").names("epochs")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    from s3fs import S3FileSystem

    S3FileSystem.clear_instance_cache()
    with pytest.raises(StoreUnavailable, match="credentials"):
        open_store(root).names("epochs")
