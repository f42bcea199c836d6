"""Where hidden states lie until a snapshot has them: append-only files without a name, mapped into memory.

Blocks never change, so a state is written once and read where it lies. The kernel keeps what is used in RAM and writes the rest out;
a file goes when its last block has gone, or with the process, however that ends.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

FILE_BYTES = 64 << 20


class ScratchFile:
    """One file of values of one type, filled from the front. `states(row)` gives what `append` was given as that row."""

    def __init__(self, folder: Path | None, dtype: np.dtype[Any], size: int) -> None:
        with tempfile.TemporaryFile(dir=folder, prefix="memstream-blocks-") as file:
            self._values: NDArray[Any] = np.memmap(file, dtype=dtype, mode="w+", shape=(size,))
        self._used = 0
        self._rows: list[tuple[int, tuple[int, ...]]] = []

    def fits(self, size: int) -> bool:
        return self._used + size <= self._values.size

    def append(self, states: NDArray[Any]) -> int:
        """Copy an array to the end; returns its row."""
        self._values[self._used : self._used + states.size] = states.reshape(-1)
        self._rows.append((self._used, states.shape))
        self._used += states.size
        return len(self._rows) - 1

    def states(self, row: int) -> NDArray[Any]:
        """A view of the row, [R, n, D]."""
        start, shape = self._rows[row]
        return self._values[start : start + int(np.prod(shape))].reshape(shape)


class Scratch:
    """Scratch files, a new one whenever the last is full."""

    def __init__(self, folder: Path | None = None, file_bytes: int = FILE_BYTES) -> None:
        self._folder, self._file_bytes = folder, file_bytes
        self._file: ScratchFile | None = None

    def append(self, states: NDArray[Any]) -> tuple[ScratchFile, int]:
        """Where the states lie now: a file and a row of it."""
        if self._file is None or not self._file.fits(states.size):
            self._file = ScratchFile(self._folder, states.dtype, max(states.size, self._file_bytes // states.itemsize))
        return self._file, self._file.append(states)
