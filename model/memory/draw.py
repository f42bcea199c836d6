"""Which memory tokens an update drops: a function of (seed, update number, layer) and nothing else (REPLAY-EXACT).

The bits are Philox's raw output, whose stream numpy keeps stable across versions (its permutations are not), ranked here.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

SHARED_LAYER = 0
"""The layer whose draw all layers use where the checkpoint does not draw for each layer."""


def kept_tokens(seed: int, update: int, layer: int, num_tokens: int, num_dropped: int) -> NDArray[np.int64]:
    """The ages that survive an update, oldest first.

    Args:
        seed: of the stream's lineage.
        update: number of the update that drops, from 0.
        layer: the layer, or `SHARED_LAYER`.
        num_tokens: N, tokens in the layer before the update.
        num_dropped: how many of them go.

    Returns:
        int64[N - num_dropped], ascending indices into the age order.

    >>> kept_tokens(seed=7, update=0, layer=0, num_tokens=6, num_dropped=2).shape
    (4,)
    """
    if not 0 <= num_dropped <= num_tokens:
        raise ValueError(f"cannot drop {num_dropped} of {num_tokens} tokens")
    bits = np.random.Philox(key=[seed, update], counter=[0, 0, 0, layer]).random_raw(num_tokens)
    order = np.argsort(bits, kind="stable")
    return np.sort(order[num_dropped:])
