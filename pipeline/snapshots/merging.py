"""Which blocks a snapshot writes anew, so that segments stay few and full. Blocks never change; only where they lie does.

- A segment of which more than half is dead: its blocks move, as many as the budget allows, the rest with the next snapshots. What is
  moved is never more than what is freed, so a block is written twice on average, whatever the order in which blocks die.
- Segments of like size, FANOUT of them or more: they become one. So a block moves log(n) times at most, and there are FANOUT * log(n)
  segments, however often a snapshot is taken; those beyond half the budget stay as they are.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

FANOUT: Final = 8


def blocks_to_move(homes: NDArray[np.int32], sizes_bytes: NDArray[np.int64], rows: Sequence[int], budget_bytes: int) -> NDArray[np.int64]:
    """Indexes of the blocks that move, ascending; of no more than `budget_bytes` together, but for a single one that is larger.

    Args:
        homes: [B] the segment that each block alive lies in; -1: none yet.
        sizes_bytes: [B] of each block.
        rows: of each segment, how many blocks were written into it.
        budget_bytes: 0: nothing moves.
    """
    inside = homes >= 0
    alive = np.bincount(homes[inside], minlength=len(rows))
    bytes_alive = np.bincount(homes[inside], weights=sizes_bytes[inside], minlength=len(rows)).astype(np.int64)
    sparse = [number for number in range(len(rows)) if 0 < 2 * alive[number] < rows[number]]
    moving = np.zeros(0, dtype=np.int64)
    if sparse and budget_bytes:
        emptiest = sorted(sparse, key=lambda number: alive[number] / rows[number])
        candidates = np.concatenate([np.flatnonzero(homes == number) for number in emptiest])
        moving = candidates[: max(1, _fitting(sizes_bytes[candidates], budget_bytes))]
        bytes_alive[sparse] = 0
    together = _like_sized(bytes_alive, budget_bytes - int(sizes_bytes[moving].sum()))
    return np.union1d(moving, np.flatnonzero(np.isin(homes, together)))


def _fitting(sizes_bytes: NDArray[np.int64], budget_bytes: int) -> int:
    """How many of them, from the first on, fit."""
    return int((np.cumsum(sizes_bytes) <= budget_bytes).sum())


def _like_sized(bytes_alive: NDArray[np.int64], budget_bytes: int) -> list[int]:
    """The smallest group of like-sized segments that is due, as much of it as the budget allows."""
    tiers: defaultdict[int, list[int]] = defaultdict(list)
    for number, size_bytes in enumerate(bytes_alive.tolist()):
        if size_bytes:
            tiers[int(math.log(size_bytes, FANOUT))].append(number)
    for _, members in sorted(tiers.items()):
        if len(members) < FANOUT:
            continue
        fitting = _fitting(bytes_alive[members], budget_bytes)
        if fitting > 1:
            return members[:fitting]
    return []
