"""Files that know the digest of what went through them, in the shape in which pyarrow takes a file.

They are read and written once, from front to back. pyarrow may close them as it likes: only the store that opened a file ends it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import BinaryIO, Protocol, Self

BLOCK_BYTES = 8 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Digest:
    """What an object is known by: its size, and the SHA-256 of its bytes as `sha256sum` prints it."""

    size_bytes: int
    sha256: str

    @classmethod
    def of(cls, data: bytes) -> Self:
        return cls(size_bytes=len(data), sha256=hashlib.sha256(data).hexdigest())


class Hash(Protocol):
    def update(self, data: memoryview, /) -> None: ...
    def hexdigest(self) -> str: ...


Reaching = Callable[[], AbstractContextManager[None]]
"""Makes the context in which a call to the store is made: it turns the store's errors into ours."""


class HashingWriter:
    """A write-only file that knows the digest of what went through it. Meant for `pyarrow.PythonFile(writer, mode="w")`."""

    closed = False

    def __init__(self, file: BinaryIO, reaching: Reaching) -> None:
        self._file = file
        self._reaching = reaching
        self._sha256: Hash = hashlib.sha256()
        self._size_bytes = 0

    def write(self, data: bytes | memoryview) -> int:
        view = memoryview(data).cast("B")
        with self._reaching():
            self._file.write(view)
        self._sha256.update(view)
        self._size_bytes += view.nbytes
        return view.nbytes

    def tell(self) -> int:
        return self._size_bytes

    def flush(self) -> None:
        """Nothing: the store seals the object once it is whole."""

    def close(self) -> None:
        """Nothing: pyarrow closes what it is given, and an object must not be sealed because its writer failed."""

    @property
    def digest(self) -> Digest:
        return Digest(size_bytes=self._size_bytes, sha256=self._sha256.hexdigest())


class HashingReader:
    """A read-only file, read once from front to back, that knows the digest of what went through it."""

    closed = False

    def __init__(self, file: BinaryIO, reaching: Reaching) -> None:
        self._file = file
        self._reaching = reaching
        self._sha256: Hash = hashlib.sha256()
        self._size_bytes = 0

    def read(self, size_bytes: int = -1) -> bytes:
        with self._reaching():
            data = self._file.read(size_bytes)
        self._sha256.update(memoryview(data))
        self._size_bytes += len(data)
        return data

    def tell(self) -> int:
        return self._size_bytes

    def close(self) -> None:
        """Nothing: the rest is still to be hashed when pyarrow has read what it needs."""

    def drain(self) -> Digest:
        """Read what is left; the digest of the whole object."""
        while self.read(BLOCK_BYTES):
            pass
        return Digest(size_bytes=self._size_bytes, sha256=self._sha256.hexdigest())
