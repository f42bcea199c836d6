"""What a memory holds, computed from its bytes: not from the digests that it remembers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from actors.images import images_of
from model.engine import Engine
from pipeline.snapshots.pool_image import PoolImage, pool_sha256
from pipeline.snapshots.segments import BlocksImage, block_sha256, memory_sha256


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """`sha256` as a manifest's `memory_sha256`; of a memory of blocks also each block's digest, oldest first, and its update."""

    sha256: str
    updates: tuple[int, ...] = ()
    digests: tuple[bytes, ...] = ()


def memory_of(engine: Engine, *, trusting: bool = False) -> Memory:
    """Between two turns of whoever changes it. Raises ValueError where a block's bytes are not those that its digest is of.

    `trusting`: take the digests as they are; for a memory of which a part was damaged on purpose.
    """
    image = images_of(engine).stage()
    if isinstance(image, PoolImage):
        return Memory(sha256=pool_sha256(image.layers))
    return _of_blocks(image, engine, trusting)


def _of_blocks(image: BlocksImage, engine: Engine, trusting: bool) -> Memory:
    updates, kept = tuple(image.updates.tolist()), tuple(row.tobytes() for row in image.digests)
    if trusting:
        return Memory(sha256=memory_sha256(image.digests), updates=updates, digests=kept)
    staged = cast(Any, engine).memory.stage()
    homes: Sequence[Any] = [getattr(place.home, "segment", place.home) for place in staged.places]
    states = [home.states(place.row) for home, place in zip(homes, staged.places, strict=True)]
    digests = tuple(block_sha256(each, keys) for each, keys in zip(states, staged.keys, strict=True))
    if digests != kept:
        raise ValueError("a block of the memory is not what its digest says")
    joined = np.frombuffer(b"".join(digests), dtype=np.uint8).reshape(-1, 32)
    return Memory(sha256=memory_sha256(joined), updates=updates, digests=digests)
