"""The store at a root: objects of a bucket, or files under a folder that are made durable by hand."""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

from pipeline.snapshots.objects import ObjectStore, Seen
from pipeline.snapshots.roots import absolute_root, is_local

_NO_LINKS = frozenset({errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EINVAL, errno.EACCES})
"""What `link` says where a folder has none: SMB, FAT, object stores mounted as folders."""


def open_store(root: str) -> ObjectStore:
    """The store at `root`: a folder, `file://`, `s3://`, `gs://` or another URL that fsspec knows. Raises ConfigurationError."""
    root = absolute_root(root)
    return LocalStore(root) if is_local(root) else ObjectStore(root)


class LocalStore(ObjectStore):
    """Files under a folder, made durable by hand. The folder is created."""

    def local_path(self, name: str, sha256: str, cache: Path) -> Path:
        path = Path(self._at(name))
        if not path.is_file():
            raise FileNotFoundError(errno.ENOENT, "no such file", str(path))
        return path

    def remove(self, name: str) -> None:
        super().remove(name)
        if name.count("/") > 1:  # in a folder of its own, as an attempt's: that goes with its last file
            with suppress(OSError):
                Path(self._at(name)).parent.rmdir()

    def _find(self) -> dict[str, Seen]:
        """By hand: fsspec leaves a whole folder out when one of its files goes meanwhile."""
        found = {}
        for folder, _, names in os.walk(self._path, onerror=_unless_gone):
            for path in (f"{folder}/{name}" for name in names):
                with suppress(FileNotFoundError):
                    status = os.stat(path)
                    found[path] = Seen(status.st_size, status.st_mtime)
        return found

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


def _unless_gone(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error


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
