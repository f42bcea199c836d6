"""What is asked of many updates at once: their documents' times and sources, as columns.

A row for each update that is remembered, ascending. Immutable, in parts of some hundred rows that versions share: a change copies one,
and a question about all of 100,000 updates is a few comparisons of arrays.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from pipeline.names import same_name

Part: TypeAlias = NDArray[np.int64]
"""[3, n]: update numbers, event times in ms, sources (`source_number`)."""

PART_ROWS: Final = 512


def source_number(name: str | None) -> int:
    """64 bits of a name's hash, the same for names that `same_name` takes for one.

    >>> source_number("AFP") == source_number("afp"), source_number("AFP") == source_number("dpa")
    (True, False)
    """
    return int.from_bytes(hashlib.blake2b(same_name(name).encode("utf-8", "replace"), digest_size=8).digest(), "big", signed=True)


@dataclass(frozen=True, slots=True, eq=False)
class Columns:
    """All rows.

    >>> columns = Columns().added((3, 4), 1000, "AFP").added((5,), 2000, "dpa")
    >>> columns.updates(sources=("afp",)).tolist(), columns.removed((3,)).updates(until_ms=2000).tolist()
    ([3, 4], [4])
    """

    _parts: tuple[Part, ...] = ()
    _from: tuple[int, ...] = ()
    """Of each part: no update in it is before this one."""

    @classmethod
    def of(cls, rows: Iterable[tuple[Sequence[int], int, str | None]]) -> Columns:
        """Of many documents at once: each one's updates, event time and source."""
        numbers: dict[str | None, int] = {}
        cells = [
            (update, time_ms, numbers.setdefault(source, source_number(source))) for updates, time_ms, source in rows for update in updates
        ]
        whole = np.array(cells, dtype=np.int64).reshape(-1, 3).T
        return cls()._with(0, whole[:, whole[0].argsort()])

    def added(self, updates: Sequence[int], time_ms: int, source: str | None) -> Columns:
        """With one document more."""
        number = source_number(source)
        rows = np.array([(update, time_ms, number) for update in sorted(updates)], dtype=np.int64).T
        last = len(self._parts) - 1
        if last < 0 or rows[0, 0] > self._parts[last][0, -1]:  # the youngest, as nearly always
            return self._with(max(last, 0), np.concatenate((*self._parts[last:], rows), axis=1))
        together = np.concatenate((*self._parts, rows), axis=1)
        return self._with(0, together[:, together[0].argsort()])

    def removed(self, updates: Collection[int]) -> Columns:
        """Without these updates; those that are not known are passed over."""
        columns = self
        for update in updates:
            columns = columns._without(update)
        return columns

    def _without(self, update: int) -> Columns:
        place = bisect_right(self._from, update) - 1
        if place < 0:
            return self
        part = self._parts[place]
        row = int(part[0].searchsorted(update))
        if row == part.shape[1] or part[0, row] != update:
            return self
        # What is forgotten is mostly the oldest, and the rest of its part is a view.
        left = part[:, 1:] if row == 0 else np.delete(part, row, axis=1)
        if not left.shape[1]:
            return Columns(self._parts[:place] + self._parts[place + 1 :], self._from[:place] + self._from[place + 1 :])
        return Columns((*self._parts[:place], left, *self._parts[place + 1 :]), self._from)

    def _with(self, place: int, rows: Part) -> Columns:
        """With these rows in the place of the parts from `place` on."""
        parts = tuple(rows[:, start : start + PART_ROWS] for start in range(0, rows.shape[1], PART_ROWS))
        return Columns(self._parts[:place] + parts, self._from[:place] + tuple(int(part[0, 0]) for part in parts))

    def updates(
        self,
        sources: Collection[str] = (),
        since_ms: int | None = None,
        until_ms: int | None = None,
        before_update: int | None = None,
    ) -> NDArray[np.int64]:
        """The numbers of those that are of one of these sources (none given: of any), and of these times; ascending."""
        if not self._parts:
            return np.empty(0, dtype=np.int64)
        numbers, times_ms, found = (np.concatenate(column) for column in zip(*self._parts, strict=True))
        wanted = np.ones(len(numbers), dtype=np.bool_)
        if sources:
            wanted &= np.isin(found, [source_number(name) for name in sources])
        if since_ms is not None:
            wanted &= times_ms >= since_ms
        if until_ms is not None:
            wanted &= times_ms < until_ms
        if before_update is not None:
            wanted &= numbers < before_update
        chosen: NDArray[np.int64] = numbers[wanted]
        return chosen
