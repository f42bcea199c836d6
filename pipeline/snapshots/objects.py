"""Objects under one root: the few things that a snapshot needs of a store, on any file system that fsspec knows.

    create    whole object at once, once: the loser of a race gets FileExistsError      (manifests, generations)
    writer    a large object as a stream, hashed on the way; durable when it returns    (pool, ledger)
    reader    the same stream back, hashed on the way                                   (restore, verify)
    listing   all objects with size and time, by the store's own clock                  (retention)

What the two kinds of store do differently: object stores refuse a second `create` on the server (`If-None-Match: *` on S3) and make an
object visible only when it is whole. A local file system does neither, so there `create` is a temporary file, fsync, link, fsync of the
folder, and a stream is fsynced, with its folder, before it counts as written.

Every failure of the store is StoreUnavailable and says what to do; FileNotFoundError and FileExistsError are answers, where they say so.
Where the store itself tells that an object is not what was written, that is SnapshotCorrupt.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple
from uuid import uuid4

from fsspec import AbstractFileSystem
from fsspec.core import url_to_fs

from pipeline.errors import ConfigurationError, SnapshotCorrupt, StoreUnavailable
from pipeline.paths import private_folder
from pipeline.snapshots.checksums import BLOCK_BYTES, HashingReader, HashingWriter
from pipeline.snapshots.roots import BUCKET_PROTOCOLS
from pipeline.snapshots.store_errors import has_wrong_checksum, http_status, store_errors, what_to_do

MOST_SMALL_BYTES = 512 << 20
"""Of what is read whole: manifests, and the ledger and index of a million documents."""

CREATE_TRIES, CREATE_PAUSE_S = 6, 0.3
HTTP_EXISTS, HTTP_CONFLICT = 412, 409


class Seen(NamedTuple):
    """What a listing says of an object: its size, and when it was made by the store's own clock, seconds since the epoch."""

    size_bytes: int
    modified_s: float


class ObjectStore:
    """Objects under `root`, named by relative paths such as `epochs/00000012.json`.

    >>> store = ObjectStore("memory://example/world-news")
    >>> store.create("epochs/00000001.json", b"{}")
    >>> store.names("epochs"), store.read("epochs/00000001.json")
    (['00000001.json'], b'{}')
    """

    def __init__(self, root: str) -> None:
        self.root = root.rstrip("/")
        self._fs, self._path = _file_system(self.root)

    def url(self, name: str) -> str:
        return f"{self.root}/{name}"

    def create(self, name: str, data: bytes) -> None:
        """Create an object if there is none of that name; raises FileExistsError if there is.

        `data` must be unique to its writer: where the same bytes are there already, they are this writer's own, put there by a request
        whose answer was lost and which the store's client then repeated, so that is success.
        """
        for left in reversed(range(CREATE_TRIES)):
            try:
                with self._reaching("create", name, FileExistsError):
                    self._create(self._at(name), data)
                return
            except (FileExistsError, StoreUnavailable) as error:
                status = http_status(error)
                # Two creations at once: S3 refuses one of them with a conflict, and to be asked again is what it wants.
                if status == HTTP_CONFLICT and left:
                    time.sleep(CREATE_PAUSE_S)
                    continue
                if not isinstance(error, FileExistsError) and status != HTTP_EXISTS:
                    raise
                if self.read(name) != data:
                    raise FileExistsError(errno.EEXIST, "exists", self.url(name)) from error
                return

    def read(self, name: str) -> bytes:
        """The whole of a small object; raises FileNotFoundError, and SnapshotCorrupt where it is larger than any of ours."""
        with self._reaching("read", name, FileNotFoundError):
            data = bytes(self._fs.cat_file(self._at(name), start=0, end=MOST_SMALL_BYTES + 1))
        if len(data) > MOST_SMALL_BYTES:
            raise SnapshotCorrupt(f"{self.url(name)}: more than {MOST_SMALL_BYTES >> 20} MB, which nothing of this kind has")
        return data

    def names(self, folder: str) -> list[str]:
        """What lies directly in `folder`, sorted; nothing if it is not there. Never answered from a cache."""
        with self._reaching("list", folder):
            self._fs.invalidate_cache()
            try:
                found = self._fs.ls(self._at(folder), detail=False)
            except FileNotFoundError:
                self._require_bucket()
                return []
        return sorted(path.rstrip("/").rpartition("/")[2] for path in found)

    def listing(self) -> dict[str, Seen]:
        """Everything under the root, whatever its folder; never answered from a cache. What comes or goes meanwhile may be missed."""
        with self._reaching("list", ""):
            self._fs.invalidate_cache()
            found = self._find()
        return {path.removeprefix(f"{self._path}/"): seen for path, seen in found.items()}

    def modified_s(self, name: str) -> float:
        """When an object was made, by the store's own clock; raises FileNotFoundError."""
        with self._reaching("look at", name, FileNotFoundError):
            self._fs.invalidate_cache()
            return _seen(self._fs.info(self._at(name))).modified_s

    @contextmanager
    def writer(self, name: str) -> Iterator[HashingWriter]:
        """A new object as a stream. It is durable when the block ends; if the block raises, what was written means nothing: remove it."""
        reaching = partial(self._reaching, "write", name)
        with reaching():
            file = self._open_new(self._at(name))
        try:
            yield HashingWriter(file, reaching)
        except BaseException:
            with suppress(StoreUnavailable), reaching():
                file.close()
            raise
        with reaching():
            self._seal(file, self._at(name))

    @contextmanager
    def reader(self, name: str) -> Iterator[HashingReader]:
        """An object as a stream; raises FileNotFoundError."""
        with self._reaching("read", name, FileNotFoundError):
            file = self._fs.open(self._at(name), "rb")
        try:
            yield HashingReader(file, partial(self._reaching, "read", name))
        finally:
            file.close()

    def size_bytes(self, name: str) -> int:
        """How large an object is; raises FileNotFoundError."""
        with self._reaching("look at", name, FileNotFoundError):
            self._fs.invalidate_cache()
            return int(self._fs.size(self._at(name)))

    def local_path(self, name: str, sha256: str, cache: Path) -> Path:
        """A file of this machine that holds the object, to be mapped; a remote store's is fetched into `cache` once, under its digest.

        Raises FileNotFoundError, and SnapshotCorrupt where what arrived has another digest.
        """
        private_folder(cache.parent)  # of all streams, in which this one's lies
        kept = private_folder(cache) / f"{sha256}.arrow"
        with suppress(FileNotFoundError):
            os.utime(kept)  # who prunes looks when it was last asked for
            return kept
        arriving = cache / f".{sha256}.{uuid4().hex}.tmp"
        try:
            with self.reader(name) as source, arriving.open("xb") as target:
                while part := source.read(BLOCK_BYTES):
                    target.write(part)
                found = source.drain()
            if found.sha256 != sha256:
                raise SnapshotCorrupt(f"{self.url(name)}: its SHA-256 is {found.sha256}, the manifest says {sha256}")
            return arriving.replace(kept)
        finally:
            arriving.unlink(missing_ok=True)

    def discard(self, name: str) -> None:
        """Remove an object, or a folder with all that is in it, as far as the store lets us: what stays is garbage, not an error."""
        with suppress(StoreUnavailable), self._reaching("remove", name), suppress(FileNotFoundError):
            self._fs.rm(self._at(name), recursive=True)

    def remove(self, name: str) -> None:
        """Remove one object; nothing if it is not there."""
        with self._reaching("remove", name), suppress(FileNotFoundError):
            self._fs.rm_file(self._at(name))

    def require_create_if_absent(self) -> None:
        """Raises ConfigurationError if this store lets a second `create` overwrite the first: ONE-WRITER cannot hold there."""
        probe = f"generations/.probe-{uuid4().hex}"
        self.create(probe, b"first")
        try:
            self.create(probe, b"second")
        except FileExistsError:
            return
        finally:
            self.discard(probe)
        raise ConfigurationError(
            f"snapshots.root: {self.root} overwrites objects that it was asked to create only if absent, so two writers could not be told"
            " apart; use a store with conditional writes (S3: If-None-Match)"
        )

    def _at(self, name: str) -> str:
        return f"{self._path}/{name}"

    def _create(self, path: str, data: bytes) -> None:
        self._fs.pipe_file(path, data, mode="create")

    def _open_new(self, path: str) -> BinaryIO:
        file: BinaryIO = self._fs.open(path, "wb")
        return file

    def _seal(self, file: BinaryIO, path: str) -> None:
        file.close()

    def _find(self) -> dict[str, Seen]:
        return {path: _seen(info) for path, info in self._fs.find(self._path, detail=True).items()}

    def _require_bucket(self) -> None:
        """An empty folder and a missing bucket look the same in a listing; only the first means that there are no snapshots yet."""
        bucket = self._path.partition("/")[0]
        if not BUCKET_PROTOCOLS.isdisjoint(_protocols(self._fs)) and not self._fs.exists(bucket):
            raise FileNotFoundError(errno.ENOENT, "no such bucket", bucket)

    @contextmanager
    def _reaching(self, verb: str, name: str, *answers: type[OSError]) -> Iterator[None]:
        try:
            yield
        except answers:
            raise
        except store_errors() as error:
            reason = str(error) or type(error).__name__
            if has_wrong_checksum(error):
                raise SnapshotCorrupt(f"{self.url(name)}: {reason}, says the store's client") from error
            raise StoreUnavailable(f"cannot {verb} {self.url(name)}: {reason} ({what_to_do(error)})") from error


def _seen(info: Mapping[str, Any]) -> Seen:
    """Each file system has its own name and type for the time."""
    made = next(info[name] for name in ("LastModified", "mtime", "updated", "created") if info.get(name) is not None)
    made = datetime.fromisoformat(made) if isinstance(made, str) else made
    return Seen(int(info["size"]), made.timestamp() if isinstance(made, datetime) else float(made))


def _file_system(root: str) -> tuple[AbstractFileSystem, str]:
    try:
        fs, path = url_to_fs(root, use_listings_cache=False)
    except (ImportError, ValueError) as error:
        raise ConfigurationError(f"snapshots.root: {root}: {error} (for s3:// install memstream[s3], for gs:// memstream[gcs])") from error
    return fs, str(path).rstrip("/")


def _protocols(fs: AbstractFileSystem) -> tuple[str, ...]:
    return (fs.protocol,) if isinstance(fs.protocol, str) else tuple(fs.protocol)
