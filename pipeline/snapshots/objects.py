"""Objects under one root: the few things that a snapshot needs of a store, on any file system that fsspec knows.

    create    whole object at once, once: the loser of a race gets FileExistsError      (manifests, generations)
    writer    a large object as a stream, hashed on the way; durable when it returns    (pool, ledger)
    reader    the same stream back, hashed on the way                                   (restore, verify)

What the two kinds of store do differently: object stores refuse a second `create` on the server (`If-None-Match: *` on S3) and make an
object visible only when it is whole. A local file system does neither, so there `create` is a temporary file, fsync, link, fsync of the
folder, and a stream is fsynced, with its folder, before it counts as written.

Every failure of the store is StoreUnavailable and says what to do; FileNotFoundError and FileExistsError are answers, where they say so.
Where the store itself tells that an object is not what was written, that is SnapshotCorrupt.
"""

from __future__ import annotations

import errno
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

from fsspec import AbstractFileSystem
from fsspec.core import url_to_fs

from pipeline.errors import ConfigurationError, SnapshotCorrupt, StoreUnavailable
from pipeline.paths import absolute, expanded
from pipeline.snapshots.checksums import BLOCK_BYTES, HashingReader, HashingWriter

BUCKET_PROTOCOLS = frozenset({"s3", "s3a", "gs", "gcs"})
"""Where the first part of a path is a bucket, which memstream does not create."""

MOST_SMALL_BYTES = 512 << 20
"""Of what is read whole: manifests, and the ledger and index of a million documents."""

CREATE_TRIES, CREATE_PAUSE_S = 6, 0.3
HTTP_EXISTS, HTTP_CONFLICT = 412, 409

FOLDERS = frozenset({"file", "local"})

_NO_LINKS = frozenset({errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EINVAL, errno.EACCES})
"""What `link` says where a folder has none: SMB, FAT, object stores mounted as folders."""


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
        kept = cache / f"{sha256}.arrow"
        if kept.is_file():
            return kept
        cache.mkdir(mode=0o700, parents=True, exist_ok=True)
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
        except _store_errors() as error:
            reason = str(error) or type(error).__name__
            if _has_wrong_checksum(error):
                raise SnapshotCorrupt(f"{self.url(name)}: {reason}, says the store's client") from error
            raise StoreUnavailable(f"cannot {verb} {self.url(name)}: {reason} ({_what_to_do(error)})") from error


class LocalStore(ObjectStore):
    """Files under a folder, made durable by hand. The folder is created."""

    def local_path(self, name: str, sha256: str, cache: Path) -> Path:
        path = Path(self._at(name))
        if not path.is_file():
            raise FileNotFoundError(errno.ENOENT, "no such file", str(path))
        return path

    def _create(self, path: str, data: bytes) -> None:
        target = Path(path)
        temporary = target.with_name(f".{target.name}.{uuid4().hex}.tmp")
        try:
            file = self._open_new(str(temporary))
            with file:
                file.write(data)
                _sync(file)
            _link(temporary, target, data)
        finally:
            temporary.unlink(missing_ok=True)
        _sync_folder(target.parent)

    def _open_new(self, path: str) -> BinaryIO:
        _make_folder(Path(path).parent)
        return open(path, "xb", opener=_private)

    def _seal(self, file: BinaryIO, path: str) -> None:
        with file:
            _sync(file)
        _sync_folder(Path(path).parent)


def open_store(root: str) -> ObjectStore:
    """The store at `root`: a folder, `file://`, `s3://`, `gs://` or another URL that fsspec knows. Raises ConfigurationError."""
    root = absolute_root(root)
    return LocalStore(root) if is_local(root) else ObjectStore(root)


def is_local(root: str) -> bool:
    """Whether only this machine sees what is written there.

    >>> is_local("file:///var/lib/memstream"), is_local("~/snapshots"), is_local("s3://bucket/memstream")
    (True, True, False)
    """
    return absolute_root(root).startswith("file://")


def absolute_root(root: str) -> str:
    """A root that means the same from any working directory (`pipeline.paths`); folders may be written with or without `file://`.

    Raises ValueError for what is no root, or one of a kind that cannot hold snapshots.

    >>> absolute_root("s3://bucket/memstream/"), absolute_root("file:///var/lib/../memstream"), absolute_root("file://localhost/var")
    ('s3://bucket/memstream', 'file:///var/memstream', 'file:///var')
    """
    root = expanded(root.strip())
    if "::" in root:
        raise ValueError(f"{root!r} chains file systems; name one store")
    scheme, separator, path = root.partition("://")
    if separator and scheme not in FOLDERS:
        return f"{scheme}://{path.rstrip('/')}"
    if separator and (host := _host(path)):
        raise ValueError(f"{root!r} names another machine, {host}; mount its folder here and name that")
    folder = path.removeprefix("localhost") if separator and path.startswith("localhost/") else path if separator else root
    return f"file://{absolute(folder.removeprefix('file:'))}"


def _host(path: str) -> str:
    """What looks like a machine's name in file://HOST/path: dots in it, and no such folder here."""
    first, slash, _ = path.partition("/")
    return first if slash and "." in first.strip(".") and not os.path.isdir(first) else ""


def checked_root(root: str) -> str:
    """`absolute_root` of a root that snapshots may have: a folder, or a store that all machines of a cluster reach. Raises ValueError."""
    root = absolute_root(root)
    scheme = root.partition("://")[0]
    if scheme not in FOLDERS and scheme not in BUCKET_PROTOCOLS:
        kept = "keeps nothing when its process ends" if scheme == "memory" else "is none that snapshots can lie on"
        raise ValueError(f"{scheme}:// {kept}: use a folder, s3:// or gs://")
    if scheme in BUCKET_PROTOCOLS and "@" in root.partition("://")[2].partition("/")[0]:
        raise ValueError(f"a {scheme}:// URL with credentials in it: they belong into the environment, since this one is shown and stored")
    if scheme in BUCKET_PROTOCOLS and not root.partition("://")[2].partition("/")[0]:
        raise ValueError(f"{root!r} names no bucket")
    return root


def _file_system(root: str) -> tuple[AbstractFileSystem, str]:
    try:
        fs, path = url_to_fs(root, use_listings_cache=False)
    except (ImportError, ValueError) as error:
        raise ConfigurationError(f"snapshots.root: {root}: {error} (for s3:// install memstream[s3], for gs:// memstream[gcs])") from error
    return fs, str(path).rstrip("/")


def _protocols(fs: AbstractFileSystem) -> tuple[str, ...]:
    return (fs.protocol,) if isinstance(fs.protocol, str) else tuple(fs.protocol)


def _make_folder(folder: Path) -> None:
    """`mkdir -p`, each new entry made durable in its parent: a file is only as durable as the way to it."""
    if folder.is_dir():
        return
    _make_folder(folder.parent)
    folder.mkdir(mode=0o700, exist_ok=True)
    _sync_folder(folder.parent)


def _link(temporary: Path, target: Path, data: bytes) -> None:
    """The file under its name, whole: unlike rename a link fails where the name is taken.

    Where there are no links, it is made under its name at once (O_EXCL). A crash may leave a part of it there, which its digest tells.
    """
    try:
        os.link(temporary, target)
    except FileExistsError:
        raise
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        with open(target, "xb", opener=_private) as file:
            file.write(data)
            _sync(file)


def _private(path: str, flags: int) -> int:
    """Whatever the umask: a snapshot holds all that was read. Its owner may open it to others."""
    return os.open(path, flags, 0o600)


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    """Some mounted stores know no sync of a folder; their names are durable when the file is."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF):
            raise
    finally:
        os.close(descriptor)


_CLIENT_ERRORS = (
    ("botocore.exceptions", "BotoCoreError"),
    ("botocore.exceptions", "ClientError"),
    ("aiohttp.client_exceptions", "ClientError"),
    ("gcsfs.retry", "HttpError"),
    ("google.auth.exceptions", "GoogleAuthError"),
)


def _store_errors() -> tuple[type[BaseException], ...]:
    """OSError, and what clients raise besides (missing credentials, for one). Only modules already loaded are asked: none is needed.

    ValueError is what they make of an endpoint's address or a bucket's name that cannot be one.
    """
    return (OSError, ValueError, *(getattr(sys.modules[module], name) for module, name in _CLIENT_ERRORS if module in sys.modules))


def http_status(error: BaseException | None) -> int | None:
    """The status with which a store's server answered, wherever its client has put it."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        response = getattr(error, "response", None)
        told = response.get("ResponseMetadata", {}).get("HTTPStatusCode") if isinstance(response, dict) else None
        for status in (told, getattr(error, "code", None), getattr(error, "status", None)):
            if str(status).isdigit():
                return int(str(status))
        error = error.__cause__ or error.__context__
    return None


def _has_wrong_checksum(error: BaseException | None) -> bool:
    """Whether what came is not what the store was given. It will not be at the next try either: to wait for it would be in vain."""
    wrong = getattr(sys.modules.get("botocore.exceptions"), "FlexibleChecksumError", None)
    while error is not None and wrong is not None:
        if isinstance(error, wrong):
            return True
        error = error.__cause__ or error.__context__
    return False


def _what_to_do(error: BaseException) -> str:
    number = error.errno if isinstance(error, OSError) else None
    if isinstance(error, ValueError):
        return "check snapshots.root and, for S3, that AWS_ENDPOINT_URL begins with http:// or https://"
    if isinstance(error, PermissionError):
        return "check the credentials, and let them read, list, create and remove there"
    if number in (errno.ENOSPC, errno.EDQUOT):
        return "make room there; snapshots are tried again"
    if isinstance(error, NotADirectoryError | FileExistsError):
        return "a file lies where a folder should be: move it, or choose another snapshots.root"
    if isinstance(error, FileNotFoundError):
        return "create the bucket, or mount the folder, that snapshots.root names"
    return "check snapshots.root, its credentials and the network; snapshots are tried again"
