"""Blocks that were read lately, ready to be read again: bounded, the least lately used dropped first."""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor


class Projected:
    """Projected blocks by update, the least lately used dropped first. At least the last few stay, however large they are."""

    FEWEST = 8

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes, self._size_bytes = limit_bytes, 0
        self._kept: OrderedDict[int, tuple[Tensor, Tensor]] = OrderedDict()

    def get(self, update: int) -> tuple[Tensor, Tensor] | None:
        found = self._kept.get(update)
        if found is not None:
            self._kept.move_to_end(update)
        return found

    def put(self, update: int, pair: tuple[Tensor, Tensor]) -> None:
        self._kept[update] = pair
        self._size_bytes += 2 * pair[0].nbytes
        while self._size_bytes > self._limit_bytes and len(self._kept) > self.FEWEST:
            self.drop(next(iter(self._kept)))

    def drop(self, update: int) -> None:
        pair = self._kept.pop(update, None)
        if pair is not None:
            self._size_bytes -= 2 * pair[0].nbytes

    def clear(self) -> None:
        self._kept.clear()
        self._size_bytes = 0
