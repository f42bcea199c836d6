"""Between what an engine writes and what a commit carries, for either kind of memory. Nothing is copied on the way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.engine import Engine
from model.memory.blocks import Block, BlockMemory, from_bits
from pipeline.commits import Commit
from pipeline.snapshots.segments import BlockImage


class Carriage(Protocol):
    """What a learner needs of a memory to make commits and to apply them."""

    def packed(self, prepared: Any, first_update: int) -> dict[str, Any]:
        """What an engine prepared, as fields of a commit whose first update has this number."""
        ...

    def unpacked(self, commit: Commit) -> Sequence[Any]:
        """What the engine's `commit` takes."""
        ...

    def at_rest(self, commit: Commit) -> Commit:
        """The same commit once it is applied, its arrays where the memory keeps them: whoever keeps it costs no memory beside that."""
        ...


def carriage_of(engine: Engine) -> Carriage:
    held: Any = engine
    return BlockCarriage(held.memory) if engine.kind == "blocks" else DeltaCarriage()


class BlockCarriage:
    """Blocks: their bits as they are at rest."""

    def __init__(self, memory: BlockMemory) -> None:
        self._memory = memory

    def packed(self, prepared: Sequence[Block], first_update: int) -> dict[str, Any]:
        blocks = [
            BlockImage(update=first_update + number, states=each.states, keys=each.keys, sha256=each.sha256)
            for number, each in enumerate(prepared)
        ]
        return {"blocks": tuple(blocks)}

    def unpacked(self, commit: Commit) -> Sequence[Block]:
        return [Block(states=each.states, keys=each.keys, sha256=each.sha256) for each in commit.blocks]

    def at_rest(self, commit: Commit) -> Commit:
        return replace(commit, blocks=tuple(map(self._lying, commit.blocks))) if commit.blocks else commit

    def _lying(self, block: BlockImage) -> BlockImage:
        held = self._memory.held(block.update)
        if held is None:
            return block
        # As a plain array: pickle hands those on where they lie, and copies the mapped ones.
        return replace(block, states=np.asarray(held.place.home.states(held.place.row)), keys=held.keys)


class DeltaCarriage:
    """Deltas of a token pool, in the model's type."""

    def packed(self, prepared: Sequence[Tensor], first_update: int) -> dict[str, Any]:
        return {"deltas": tuple(map(_array, prepared))}

    def unpacked(self, commit: Commit) -> Sequence[Tensor]:
        return [from_bits(each) if each.dtype == np.uint16 else torch.from_numpy(np.array(each)) for each in commit.deltas]

    def at_rest(self, commit: Commit) -> Commit:
        """As it is: nothing of a delta can be read from a pool."""
        return commit


def _array(delta: Tensor) -> NDArray[Any]:
    array: NDArray[Any] = (delta.view(torch.uint16) if delta.dtype == torch.bfloat16 else delta).numpy()
    return array
