"""The memory pool: slots on the device, versions over them, and updates that move K tokens and nothing else.

    L  layers     N  memory tokens a layer     K  tokens written by one update     M  tokens of a delta     D  width
    H  key/value heads     E  head dimension     C  slots (N and some spare blocks)     R  rows (C, and one for the BOS row)

A slot holds one memory token of one layer: its unrotated key and value on the device, its hidden state on the host (for snapshots;
injection needs only the last K, kept apart on the device). A *version* is, for each layer, the slots in age order. An update writes
into free slots and publishes a new version; slots of a version that somebody still reads stay until it lets go. Where the spare
slots run out there is no room for an update until an answer has ended (`has_room`); where too many versions are read already, no other
one can be pinned (`can_pin`). Nobody is evicted: whoever calls decides what goes first (BOUNDED).

The writer's version runs ahead of the readers': a document of several chunks is several updates, `publish` shows them to readers as
one, and `rollback` takes them back (ONE-STATE).
Rotation to current positions is done once for each version that a question reads, into one of a bounded number of buffers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.errors import UpdateFailed
from model.memory.draw import SHARED_LAYER, kept_tokens
from model.memory_llm import MemoryLLM, rotate
from model.reading.prefix_cache import PrefixCache, PrefixLayer

Draw = Callable[[int, int, int, int, int], NDArray[np.int64]]
"""(seed, update, layer, tokens, dropped) -> ages that survive, as `model.memory.draw.kept_tokens`."""

FROM_CHECKPOINT = -1
"""The update number of tokens that came with the checkpoint."""


class PoolLayer(NamedTuple):
    """One layer of a version, oldest token first."""

    slots_N: NDArray[np.int32]
    updates_N: NDArray[np.int64]
    memory_ND: Tensor


@dataclass(slots=True, eq=False)
class Version:
    """Which slots make up the pool after `update_number` updates, and how many answers still read them."""

    number: int
    update_number: int
    slots_LN: NDArray[np.int32]
    readers: int = 0
    rotated: Rotated | None = field(default=None, repr=False)


class Rotated(NamedTuple):
    """Keys of all slots rotated to the positions that one version gives them, and the rows it does not hold."""

    keys_LHRE: Tensor
    masked_LR: Tensor


class MemoryPool:
    """The pool of one replica.

    Args:
        model: projects new tokens; gives shapes, device and dtype.
        seed: of the draw of what an update drops.
        spare_blocks: blocks of K slots beyond N, which bound how many updates a reader may outlive.
        max_versions: versions read at once.
        draw: which tokens survive an update; replaying somebody else's updates needs theirs.
    """

    def __init__(
        self,
        model: MemoryLLM,
        seed: int = 0,
        spare_blocks: int = 16,
        max_versions: int = 3,
        draw: Draw = kept_tokens,
    ) -> None:
        if spare_blocks < 1 or max_versions < 1:
            raise ValueError("spare_blocks and max_versions must be at least 1")
        config = model.config
        self.model, self.seed, self.max_versions = model, seed, max_versions
        self._draw = draw
        self.num_layers, self.capacity, self.block = config.num_hidden_layers, config.num_memory_tokens, config.num_tokens
        slots = self.capacity + spare_blocks * self.block
        rows = slots + model.num_bos
        attention = model.reader.model.layers[0].self_attn
        shape = (self.num_layers, config.num_attention_heads // attention.num_key_value_groups, rows, attention.head_dim)
        # Zeroed, because a masked row still takes part in a product: its weight is 0, and 0 x NaN is not.
        self._keys_LHRE = torch.zeros(shape, dtype=model.dtype, device=model.device)
        self._values_LHRE = torch.zeros(shape, dtype=model.dtype, device=model.device)
        self._hidden_LCD = torch.zeros(self.num_layers, slots, config.hidden_size, dtype=model.dtype)
        self._written_LC = np.full((self.num_layers, slots), FROM_CHECKPOINT, dtype=np.int64)
        self._references_LC = np.zeros((self.num_layers, slots), dtype=np.int16)
        self._tail_LKD: Tensor | None = None
        self._published_tail_LKD: Tensor | None = None
        self._free_buffers: list[Rotated] = []
        self._head = self._published = Version(0, 0, np.zeros((self.num_layers, 0), dtype=np.int32))
        self._versions: list[Version] = [self._head]
        if model.bos_embedding is not None:
            with torch.no_grad():
                for index in range(self.num_layers):
                    self._write_rows(index, torch.zeros(1, dtype=torch.long), model.bos_embedding[index])

    # ------------------------------------------------------------------ what it holds

    @property
    def head(self) -> Version:
        """The writer's version, which may be ahead of what readers see."""
        return self._head

    @property
    def published(self) -> Version:
        """The version that readers get."""
        return self._published

    @property
    def update_number(self) -> int:
        """Updates applied since the checkpoint; the number of the next one."""
        return self._head.update_number

    @property
    def num_tokens(self) -> int:
        """Memory tokens a layer: 0 before the first update, else N."""
        return int(self._head.slots_LN.shape[1])

    @property
    def tail_LKD(self) -> Tensor | None:
        """The last K tokens, which the next injection sees."""
        return self._tail_LKD

    def alive_updates(self) -> NDArray[np.int64]:
        """Numbers of the updates of which at least one token is still remembered, ascending."""
        slots_LN = self._head.slots_LN
        return np.unique(np.take_along_axis(self._written_LC, slots_LN.astype(np.int64), axis=1))

    def layers(self, version: Version) -> Iterator[PoolLayer]:
        """The layers of a version that is alive, one at a time; the tensors are copies on the host."""
        for index in range(self.num_layers):
            slots = version.slots_LN[index]
            yield PoolLayer(slots, self._written_LC[index, slots], self._hidden_LCD[index, torch.from_numpy(slots.astype(np.int64))])

    # ------------------------------------------------------------------ writing

    def delta(self, tokens_T: Tensor, tail_LKD: Tensor | None) -> Tensor:
        """What a text writes, [L, K, D], behind the last K tokens `tail_LKD`; the pool stays as it is.

        Raises:
            UpdateFailed: no tokens, or states that are not finite.
        """
        if tokens_T.numel() == 0:
            raise UpdateFailed("a text without tokens")
        delta = self.model.inject(tokens_T[None].to(self.model.device), tail_LKD)[0]
        if not torch.isfinite(delta).all():
            raise UpdateFailed("the new memory tokens are not finite")
        return delta

    def update(self, tokens_T: Tensor, publish: bool = True) -> int:
        """`delta` behind what was written last, and `apply`; returns the number of this update."""
        return self.apply(self.delta(tokens_T, self._tail_LKD), publish)

    def apply(self, delta_LMD: Tensor, publish: bool = True) -> int:
        """Apply a delta that was computed elsewhere: K tokens, or several updates' laid end to end as one."""
        number = self._apply(delta_LMD)
        if publish:
            self.publish()
        return number

    def publish(self) -> Version:
        """Show readers all updates so far; returns the version they now get."""
        previous, self._published = self._published, self._head
        self._published_tail_LKD = self._tail_LKD
        self._drop_if_unused(previous)
        return self._published

    def rollback(self) -> None:
        """Take back the updates since the last `publish`."""
        abandoned, self._head = self._head, self._published
        self._drop_if_unused(abandoned)
        self._tail_LKD = self._published_tail_LKD

    def _tail_of(self, version: Version) -> Tensor | None:
        if version.slots_LN.shape[1] == 0:
            return None
        last_LK = torch.from_numpy(version.slots_LN[:, -self.block :].astype(np.int64))
        return torch.stack([self._hidden_LCD[index, last] for index, last in enumerate(last_LK)]).to(self.model.device)

    @torch.no_grad()
    def _apply(self, delta_LMD: Tensor) -> int:
        if not torch.isfinite(delta_LMD).all():
            raise UpdateFailed("the new memory tokens are not finite")
        delta_LMD = delta_LMD.to(self.model.device)
        if self.num_tokens == 0:
            delta_LMD = repeated(delta_LMD, self.capacity)
        if delta_LMD.shape[1] < self.block:
            raise ValueError(f"a delta of {delta_LMD.shape[1]} tokens is less than one block of {self.block}")
        kept = self._survivors(delta_LMD.shape[1])
        number = self.update_number
        slots_LM = self._take_slots(delta_LMD.shape[1])
        self._fill(slots_LM, delta_LMD, np.full(slots_LM.shape, number, dtype=np.int64))
        survivors = np.take_along_axis(self._head.slots_LN, kept, axis=1)
        self._advance(np.concatenate((survivors, slots_LM), axis=1), number + 1)
        self._tail_LKD = delta_LMD[:, -self.block :].clone()
        return number

    @torch.no_grad()
    def load(self, layers: Iterable[PoolLayer], update_number: int) -> None:
        """Replace the whole pool, token for token and slot for slot (so answers are the same to the last bit). No layers: unwritten.

        Slots beyond this pool's own (another `spare_blocks`) and repeated ones are assigned anew.
        """
        if len(self._versions) > 1 or self._head.readers:
            raise ValueError("a pool that somebody reads cannot be replaced")
        slots_LN: list[NDArray[np.int32]] = []
        for index, layer in enumerate(layers):
            slots_LN.append(self._usable(layer.slots_N))
            self._fill_layer(index, slots_LN[-1], layer.memory_ND, layer.updates_N)
        self._advance(np.stack(slots_LN) if slots_LN else np.zeros((self.num_layers, 0), dtype=np.int32), update_number)
        self._tail_LKD = self._tail_of(self._head)
        self.publish()

    def _usable(self, slots_N: NDArray[np.int32]) -> NDArray[np.int32]:
        inside = slots_N.size == np.unique(slots_N).size and slots_N.min() >= 0 and slots_N.max() < self._written_LC.shape[1]
        return slots_N if inside else np.arange(slots_N.size, dtype=np.int32)

    def _survivors(self, num_new: int) -> NDArray[np.int64]:
        dropped = max(0, self.num_tokens + num_new - self.capacity)
        per_layer = self.model.config.drop_memory_per_layer
        draws = range(self.num_layers) if per_layer else [SHARED_LAYER]
        kept = np.stack([self._draw(self.seed, self.update_number, layer, self.num_tokens, dropped) for layer in draws])
        return kept if per_layer else np.broadcast_to(kept, (self.num_layers, kept.shape[1]))

    def has_room(self, updates: int = 1) -> bool:
        """Whether so many updates find free slots now."""
        return self.num_tokens == 0 or self._free_slots() >= updates * self.block

    def _take_slots(self, count: int) -> NDArray[np.int32]:
        """Free slots for `count` tokens of each layer."""
        if self._free_slots() < count:
            spare = self._written_LC.shape[1] - self.capacity
            raise UpdateFailed(f"{count} more tokens do not fit into {spare} spare slots: raise replicas.spare_blocks, or let answers end")
        return np.stack([np.flatnonzero(layer == 0)[:count] for layer in self._references_LC]).astype(np.int32)

    def _free_slots(self) -> int:
        return int((self._references_LC == 0).sum(axis=1).min())

    def _fill(self, slots_LM: NDArray[np.int32], states_LMD: Tensor, updates_LM: NDArray[np.int64]) -> None:
        for index in range(self.num_layers):
            self._fill_layer(index, slots_LM[index], states_LMD[index], updates_LM[index])

    def _fill_layer(self, index: int, slots_M: NDArray[np.int32], states_MD: Tensor, updates_M: NDArray[np.int64]) -> None:
        slots = torch.from_numpy(slots_M.astype(np.int64))
        self._hidden_LCD[index, slots] = states_MD.to(self._hidden_LCD.device, self._hidden_LCD.dtype)
        self._written_LC[index, slots_M] = updates_M
        self._write_rows(index, slots + self.model.num_bos, states_MD)

    def _write_rows(self, index: int, rows: Tensor, states_MD: Tensor) -> None:
        # In blocks of K and never fewer, so that a token's key and value have the same bits whether it is projected in its own
        # update or with the whole pool after a restore: a matrix product's rounding may depend on its number of rows.
        device = self.model.device
        for start in range(0, rows.shape[0], self.block):
            part = states_MD[start : start + self.block].to(device, self.model.dtype)
            count = part.shape[0]
            keys, values = self.model.project(index, torch.nn.functional.pad(part, (0, 0, 0, self.block - count)))
            where = rows[start : start + count].to(device)
            self._keys_LHRE[index].index_copy_(1, where, keys[:, :count])
            self._values_LHRE[index].index_copy_(1, where, values[:, :count])

    # ------------------------------------------------------------------ versions

    def _advance(self, slots_LN: NDArray[np.int32], update_number: int) -> None:
        self._count_references(slots_LN, 1)
        previous, self._head = self._head, Version(self._head.number + 1, update_number, slots_LN)
        self._versions.append(self._head)
        self._drop_if_unused(previous)

    def _drop_if_unused(self, version: Version) -> None:
        if version is self._head or version is self._published or version.readers:
            return
        self._versions.remove(version)
        self._count_references(version.slots_LN, -1)
        if version.rotated is not None:
            self._free_buffers.append(version.rotated)
            version.rotated = None

    def _count_references(self, slots_LN: NDArray[np.int32], by: int) -> None:
        for index in range(slots_LN.shape[0]):
            self._references_LC[index, slots_LN[index]] += by

    def can_pin(self) -> bool:
        """Whether the published version can be read: at most `max_versions` are at once."""
        read = [version for version in self._versions if version.readers]
        return self._published in read or len(read) < self.max_versions

    def pin(self) -> PoolView:
        """READ-ONE-VERSION: the published version for one answer, which lets it go by `unpin`."""
        if not self.can_pin():
            raise ValueError(f"{self.max_versions} versions are read already")
        self._published.readers += 1
        return PoolView(self, self._published)

    def unpin(self, view: PoolView) -> None:
        view.version.readers -= 1
        self._drop_if_unused(view.version)

    @contextmanager
    def read(self) -> Iterator[PoolView]:
        """`pin`, until the block ends."""
        view = self.pin()
        try:
            yield view
        finally:
            self.unpin(view)

    def rotated(self, version: Version) -> Rotated:
        """The version's rotated keys, built on first use."""
        if version.rotated is None:
            version.rotated = self._rotate(version, self._free_buffers.pop() if self._free_buffers else self._new_buffer())
        return version.rotated

    def _new_buffer(self) -> Rotated:
        rows = self._keys_LHRE.shape[2]
        return Rotated(torch.empty_like(self._keys_LHRE), torch.empty(self.num_layers, rows, dtype=torch.bool, device=self.model.device))

    @torch.no_grad()
    def _rotate(self, version: Version, buffer: Rotated) -> Rotated:
        bos, count = self.model.num_bos, version.slots_LN.shape[1]
        cos, sin = self.model.rotary(torch.arange(bos + count, device=self.model.device))
        for index in range(self.num_layers):
            rows = torch.from_numpy(version.slots_LN[index].astype(np.int64) + bos).to(self.model.device)
            rows = torch.cat((torch.arange(bos, device=self.model.device), rows))
            keys = self._keys_LHRE[index, :, rows]
            # Rows of other versions keep whatever is there: the scores of masked rows are replaced.
            buffer.keys_LHRE[index, :, rows] = rotate(keys, cos, sin)
            buffer.masked_LR[index] = True
            buffer.masked_LR[index, rows] = False
        return buffer


class PoolView:
    """What one answer reads: a version's prefix, and the cache to hand to `generate`."""

    def __init__(self, pool: MemoryPool, version: Version) -> None:
        self.version = version
        self._pool = pool

    @property
    def length(self) -> int:
        return self._pool.model.num_bos + int(self.version.slots_LN.shape[1])

    def layer(self, index: int) -> PrefixLayer:
        rotated = self._pool.rotated(self.version)
        return PrefixLayer(rotated.keys_LHRE[index], self._pool._values_LHRE[index], rotated.masked_LR[index])

    def cache(self) -> PrefixCache:
        """A fresh cache for one prompt or one batch. A pool that was never written has no prefix at all, not even the BOS row."""
        return PrefixCache(self if self.version.slots_LN.shape[1] else None)


def repeated(delta_LMD: Tensor, capacity: int) -> Tensor:
    """The first update of an unwritten pool: its delta end to end until the pool is full, the remainder filled with its tail."""
    times, rest = divmod(capacity, delta_LMD.shape[1])
    return torch.cat([delta_LMD] * times + ([delta_LMD[:, -rest:]] if rest else []), dim=1)
