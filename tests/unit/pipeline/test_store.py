"""The object-store primitives, on a folder and on fsspec's memory store."""

from __future__ import annotations

import errno
import hashlib
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

import pyarrow as pa
import pytest

from pipeline.errors import ConfigurationError, StoreUnavailable
from pipeline.snapshots import objects
from pipeline.snapshots.checksums import Digest
from pipeline.snapshots.objects import ObjectStore
from pipeline.snapshots.roots import absolute_root, checked_root
from pipeline.snapshots.stores import LocalStore, open_store


@pytest.fixture(params=["file", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    return open_store(f"file://{tmp_path}/root" if request.param == "file" else f"memory://{uuid4().hex}")


def test_create_is_once(store: ObjectStore) -> None:
    store.create("epochs/00000001.json", b"first")
    with pytest.raises(FileExistsError):
        store.create("epochs/00000001.json", b"second")
    assert store.read("epochs/00000001.json") == b"first"


def test_create_again_with_the_same_bytes_is_the_own_request_repeated(store: ObjectStore) -> None:
    store.create("epochs/00000001.json", b"token 1")
    store.create("epochs/00000001.json", b"token 1")
    assert store.names("epochs") == ["00000001.json"]


def test_one_of_many_creators_wins_and_its_object_is_whole(tmp_path: Path) -> None:
    barrier, won = threading.Barrier(8), []
    payloads = [bytes([number]) * 100_000 for number in range(8)]

    def create(payload: bytes) -> None:
        barrier.wait()
        try:
            open_store(str(tmp_path)).create("generations/00000001.json", payload)
        except FileExistsError:
            return
        won.append(payload)

    threads = [threading.Thread(target=create, args=(payload,)) for payload in payloads]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [open_store(str(tmp_path)).read("generations/00000001.json")] == won
    assert os.listdir(tmp_path / "generations") == ["00000001.json"], "temporary files are gone"


def test_writer_and_reader_hash_what_goes_through(store: ObjectStore) -> None:
    data = os.urandom(100_000)
    with store.writer("data/1/pool.arrow") as sink:
        sink.write(data[:70_000])
        sink.write(memoryview(data)[70_000:])
    assert sink.tell() == len(data)
    assert sink.digest == Digest(size_bytes=len(data), sha256=hashlib.sha256(data).hexdigest()) == Digest.of(data)
    with store.reader("data/1/pool.arrow") as source:
        assert source.read(10) == data[:10]
        assert source.drain() == sink.digest


def test_pyarrow_closing_the_file_does_not_end_it(store: ObjectStore) -> None:
    with store.writer("data/1/x.arrow") as sink:
        pa.PythonFile(sink, mode="w").close()
        sink.write(b"more")
    assert store.read("data/1/x.arrow") == b"more"


def test_an_object_is_not_written_over(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    with store.writer("data/1/pool.arrow") as sink:
        sink.write(b"first")
    with pytest.raises(StoreUnavailable), store.writer("data/1/pool.arrow"):
        pytest.fail("a second writer of the same object was let in")
    assert store.read("data/1/pool.arrow") == b"first"


def test_absent_things(store: ObjectStore) -> None:
    assert store.names("epochs") == []
    with pytest.raises(FileNotFoundError):
        store.read("epochs/00000001.json")
    with pytest.raises(FileNotFoundError), store.reader("data/1/pool.arrow"):
        pytest.fail("there is nothing to read")
    store.discard("data/1")


def test_names_sees_what_others_wrote_since(store: ObjectStore) -> None:
    assert store.names("epochs") == []
    open_store(store.root).create("epochs/00000002.json", b"{}")
    store.create("epochs/00000001.json", b"{}")
    store.create("epochs/more/x.json", b"{}")
    assert store.names("epochs") == ["00000001.json", "00000002.json", "more"]


def test_discard_takes_a_folder_or_an_object(store: ObjectStore) -> None:
    for name in ("data/1/pool.arrow", "data/1/ledger.arrow", "data/2/pool.arrow"):
        store.create(name, name.encode())
    store.discard("data/1")
    assert store.names("data") == ["2"]
    store.discard("data/2/pool.arrow")
    assert store.names("data/2") == []


def test_probe_accepts_a_store_that_creates_once_and_leaves_nothing(store: ObjectStore) -> None:
    store.require_create_if_absent()
    assert store.names("generations") == []


def test_one_writer_refuses_a_store_that_overwrites() -> None:
    class Overwriting(ObjectStore):
        """What a store without conditional writes does with the same request."""

        def _create(self, path: str, data: bytes) -> None:
            self._fs.pipe_file(path, data)

    with pytest.raises(ConfigurationError, match="conditional writes"):
        Overwriting(f"memory://{uuid4().hex}").require_create_if_absent()


CALLS: dict[str, Callable[[ObjectStore], object]] = {
    "create": lambda store: store.create("epochs/1.json", b"{}"),
    "write": lambda store: store.writer("data/1/pool.arrow").__enter__(),
    "list": lambda store: store.names("epochs"),
    "read": lambda store: store.read("epochs/1.json"),
}


@pytest.mark.parametrize("call", CALLS)
def test_a_file_in_the_way_is_store_unavailable_and_says_what_to_do(tmp_path: Path, call: str) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(StoreUnavailable, match=f"cannot {call} .*a file lies where a folder should be"):
        CALLS[call](open_store(f"{tmp_path}/file"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may do everything")
@pytest.mark.parametrize("call", CALLS)
def test_no_permission_is_store_unavailable_and_says_what_to_do(tmp_path: Path, call: str) -> None:
    tmp_path.chmod(0)
    try:
        with pytest.raises(StoreUnavailable, match="let them read, list, create and remove"):
            CALLS[call](open_store(f"{tmp_path}/x"))
    finally:
        tmp_path.chmod(0o700)


def test_a_full_disk_is_store_unavailable_and_says_what_to_do(tmp_path: Path) -> None:
    store = FullDisk(str(tmp_path))
    with pytest.raises(StoreUnavailable, match=r"cannot write .*No space left on device \(make room there"), store.writer("data/x") as sink:
        sink.write(bytes(1 << 20))


class FullDisk(LocalStore):
    """Writes go to the kernel's own full device."""

    def __init__(self, root: str) -> None:
        super().__init__(absolute_root(root))

    def _open_new(self, path: str) -> BinaryIO:
        return open("/dev/full", "wb")


def test_roots_without_a_client_or_a_meaning_are_configuration_errors() -> None:
    with pytest.raises(ConfigurationError, match=r"snapshots\.root: nonsense://x"):
        open_store("nonsense://x")


def test_relative_and_home_roots_are_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/reader")
    for root in (
        "file://./snapshots",
        "file://snapshots",
        "./snapshots",
        "snapshots",
        "file:snapshots",
        f"file://{tmp_path}/x/../snapshots/",
    ):
        assert absolute_root(root) == f"file://{tmp_path}/snapshots"
    monkeypatch.setenv("DATA", str(tmp_path))
    for root in ("$DATA/snapshots", "file://${DATA}/snapshots", f"file://localhost{tmp_path}/snapshots"):
        assert absolute_root(root) == f"file://{tmp_path}/snapshots"
    assert absolute_root("file://~/snapshots") == absolute_root("~/snapshots") == "file:///home/reader/snapshots"
    open_store("file://./snapshots").create("a/b", b"here")
    assert (tmp_path / "snapshots/a/b").read_bytes() == b"here"


@pytest.mark.parametrize(
    ("root", "said"),
    [
        ("memory://x", "keeps nothing"),
        ("ftp://host/x", "none that snapshots can lie on"),
        ("simplecache::s3://bucket/x", "chains file systems"),
        ("file://nas.example.com/share", "another machine"),
        ("$NOWHERE_SET/x", "NOWHERE_SET is not set"),
        ("s3://", "no bucket"),
        ("s3:///x", "no bucket"),
        ("", "empty path"),
        ("a\0b", "NUL"),
    ],
)
def test_roots_that_mean_something_else_are_refused_and_nothing_is_made(
    root: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=said):
        checked_root(root)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK])
def test_a_folder_without_links_still_creates_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def no_link(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", no_link)
    store = open_store(str(tmp_path / "share"))
    store.require_create_if_absent()
    store.create("epochs/1.json", b"mine")
    with pytest.raises(FileExistsError):
        store.create("epochs/1.json", b"another's")
    assert store.read("epochs/1.json") == b"mine" and store.names("epochs") == ["1.json"]


def test_a_folder_that_cannot_be_synced_is_no_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sync = os.fsync

    def only_files(descriptor: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):
            raise OSError(errno.EINVAL, "no sync of folders")
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", only_files)
    open_store(str(tmp_path / "share")).create("a/b", b"here")
    assert (tmp_path / "share/a/b").read_bytes() == b"here"


def test_an_endpoint_that_is_no_address_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("s3fs")
    for name, value in (("AWS_ENDPOINT_URL", "localhost:9000"), ("AWS_ACCESS_KEY_ID", "a"), ("AWS_SECRET_ACCESS_KEY", "b")):
        monkeypatch.setenv(name, value)
    with pytest.raises(StoreUnavailable, match="AWS_ENDPOINT_URL begins with http"):
        open_store("s3://bucket/x").names("epochs")


def test_what_is_written_is_its_owners_alone_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        store = open_store(str(tmp_path / "snapshots"))
        store.create("epochs/1.json", b"{}")
        with store.writer("blocks/1.arrow") as file:
            file.write(b"x")
    finally:
        os.umask(before)
    modes = {path.relative_to(tmp_path).as_posix(): path.stat().st_mode & 0o777 for path in (tmp_path / "snapshots").rglob("*")}
    assert modes == {
        "snapshots/epochs": 0o700,
        "snapshots/epochs/1.json": 0o600,
        "snapshots/blocks": 0o700,
        "snapshots/blocks/1.arrow": 0o600,
    }


class Refused(Exception):
    """As botocore's ClientError: the answer of a server."""

    def __init__(self, status: int) -> None:
        super().__init__(f"HTTP {status}")
        self.response = {"ResponseMetadata": {"HTTPStatusCode": status}, "Error": {"Code": "Unheard-of"}}


class Answering(ObjectStore):
    """A store in memory whose server answers creations with these statuses first; OSErrors with the client's error behind, as s3fs's."""

    def __init__(self, *statuses: int) -> None:
        super().__init__(f"memory://{uuid4().hex}")
        self.statuses = list(statuses)

    def _create(self, path: str, data: bytes) -> None:
        if self.statuses:
            raise OSError(errno.EIO, "answered") from Refused(self.statuses.pop(0))
        super()._create(path, data)


def test_a_conflict_of_two_creations_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects, "CREATE_PAUSE_S", 0.0)
    store = Answering(409, 409)
    store.create("epochs/1.json", b"mine")
    assert store.read("epochs/1.json") == b"mine"
    with pytest.raises(StoreUnavailable):
        Answering(*[409] * 20).create("epochs/1.json", b"mine")


def test_what_exists_is_told_by_the_status_whatever_the_stores_words() -> None:
    store = Answering()
    store.create("epochs/1.json", b"theirs")
    store.statuses = [412]
    with pytest.raises(FileExistsError):
        store.create("epochs/1.json", b"mine")
    store.statuses = [412]
    store.create("epochs/1.json", b"theirs")  # its own request, whose answer was lost
    store.statuses = [500]
    with pytest.raises(StoreUnavailable):
        store.create("epochs/1.json", b"mine")
