"""Snapshots on a real S3 server: versitygw, which Go builds from its module."""

from __future__ import annotations

import os
import threading
import time
import uuid
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest
from s3fs import S3FileSystem

from pipeline.errors import ConfigurationError, SnapshotCorrupt, StoreUnavailable
from pipeline.snapshots.collector import Collector
from pipeline.snapshots.config import RetentionConfig, SnapshotConfig
from pipeline.snapshots.objects import ObjectStore
from pipeline.snapshots.pins import Pins
from pipeline.snapshots.stores import open_store
from tests.doubles.snapshots import Stream, verified
from tests.fault.servers import Server, built, winners

pytestmark = [pytest.mark.slow, pytest.mark.fault]

GATEWAY = "MEMSTREAM_VERSITYGW", "github.com/versity/versitygw/cmd/versitygw@v1.8.0"


class Gateway(Server):
    """An S3 server over a folder."""

    def __init__(self, folder: Path) -> None:
        keys = {"ROOT_ACCESS_KEY": "reader", "ROOT_SECRET_KEY": "s3cret-s3cret"}
        super().__init__([str(built(*GATEWAY)), "--port", "127.0.0.1:{port}", "posix", str(folder)], keys)
        self.folder = folder


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    made = Gateway(tmp_path_factory.mktemp("s3"))
    made.start()
    yield made
    made.kill()


@pytest.fixture
def root(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> str:
    S3FileSystem.clear_instance_cache()  # clients are kept, whatever the environment says by now
    bucket = f"b{uuid.uuid4().hex[:12]}"
    (gateway.folder / bucket).mkdir()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{gateway.port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "reader")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s3cret-s3cret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    return f"s3://{bucket}/memstream"


def test_one_of_many_creators_wins(root: str) -> None:
    store = open_store(root)
    store.require_create_if_absent()
    won = winners(root, "epochs/1.json")
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
    S3FileSystem.clear_instance_cache()
    with pytest.raises(StoreUnavailable, match="credentials"):
        open_store(root).names("epochs")


def test_snapshots_are_kept_collected_and_merged(root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Thirty snapshots of a document each, retention after each of them; what it keeps is whole, and nothing else is left."""
    monkeypatch.setenv("MEMSTREAM_CACHE", str(tmp_path))
    retention = RetentionConfig(last=3, hourly=1, daily=1, garbage_after_s=0)
    stream = Stream(SnapshotConfig(root=root))
    for number in range(30):
        stream.learn()
        stream.save()
        if number == 4:
            Pins(stream.store.objects).pin(3)
        Collector(stream.store, retention).collect(stream.generation)
    assert stream.store.epochs() == [3, 28, 29, 30]
    assert verified(stream.store, stream.store.load(3))[0] == [0, 1, 2]
    assert verified(stream.store, stream.store.load(30))[0] == stream.updates == list(range(14, 30))
    time.sleep(1.1)  # times of an S3 server are whole seconds
    stream.save()
    for _ in range(2):
        Collector(stream.store, retention).collect(stream.generation)
    named = {entry.path for epoch in stream.store.epochs() for entry in stream.store.load(epoch).objects}
    there = {name for name in stream.store.objects.listing() if name.startswith(("blocks/", "data/"))}
    assert there == named
    back = Stream(SnapshotConfig(root=root))
    assert back.updates == stream.updates and back.state == stream.state


class Obliging(BaseHTTPRequestHandler):
    """An S3 server that takes no notice of conditions: each PUT succeeds."""

    objects: ClassVar[dict[str, bytes]] = {}
    protocol_version = "HTTP/1.1"

    def do_PUT(self) -> None:
        self.objects[self.path.partition("?")[0]] = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self._answer(200)

    def do_HEAD(self) -> None:
        self._answer(200 if self.path.partition("?")[0] in self.objects else 404)

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        if "list-type" in query or (not query and path.count("/") < 2):
            self._answer(200, b"<?xml version='1.0'?><ListBucketResult><KeyCount>0</KeyCount></ListBucketResult>")
        else:
            self._answer(200 if path in self.objects else 404, self.objects.get(path, b""))

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.objects.clear()
        self._answer(200, b"<?xml version='1.0'?><DeleteResult></DeleteResult>")

    def do_DELETE(self) -> None:
        self.objects.pop(self.path.partition("?")[0], None)
        self._answer(204)

    def _answer(self, status: int, body: bytes = b"") -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", '"0"')
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


def test_a_server_that_ignores_create_if_absent_is_refused_when_the_stream_is_claimed(monkeypatch: pytest.MonkeyPatch) -> None:
    S3FileSystem.clear_instance_cache()
    with ThreadingHTTPServer(("127.0.0.1", 0), Obliging) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        for name, value in (
            ("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}"),
            ("AWS_ACCESS_KEY_ID", "reader"),
            ("AWS_SECRET_ACCESS_KEY", "s3cret-s3cret"),
            ("AWS_DEFAULT_REGION", "us-east-1"),
        ):
            monkeypatch.setenv(name, value)
        try:
            with pytest.raises(ConfigurationError, match=r"overwrites objects .* use a store with conditional writes"):
                open_store("s3://obliging/x").require_create_if_absent()
            assert Obliging.objects == {}, "the probe is taken away"
        finally:
            server.shutdown()
            serving.join()
