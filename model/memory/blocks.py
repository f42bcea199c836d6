"""The block memory: whole blocks, immutable, numbered by their updates; the oldest leaves first.

    B  places for blocks     K  most tokens of a block     n  a block's own tokens     R  layers kept     D  width     E  size of a key
    H  key/value heads       e  head dimension

A block is R layers of hidden states, on the host, wherever its *home* has them (a mapped snapshot segment, a scratch file), and n keys
on the device. The places are a table of arrays, so that nothing here loops over blocks: what is remembered is a column of update
numbers, what may be read is a mask over it. Applying a change takes some blocks out and puts others in, at once.

Nothing is pinned: a reading copies the few blocks that it wants, so updates never wait for answers and never spoil one.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.block_llm import BlockLLM
from model.errors import UpdateFailed
from model.memory.projected import Projected
from model.memory.scratch import Scratch
from model.reading.selection import Documents, lead

FREE = -1
SCORED_TOGETHER = 2048
"""Blocks scored at once: what a question needs beside the keys is bounded by it."""

MATCHES_AT_ONCE = 1 << 23
"""Matches, one for each token of a question and each block, that are there at once (BOUNDED)."""


class Home(Protocol):
    """Where hidden states of blocks lie."""

    def states(self, row: int) -> NDArray[Any]:
        """[R, n, D]: bfloat16 as its 16 bits; a view."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Block:
    """What one update wrote: states [R, n, D] and keys [n, E], both bfloat16 as its 16 bits, and the digest of both."""

    states: NDArray[np.uint16]
    keys: NDArray[np.uint16]
    sha256: bytes


class Place(NamedTuple):
    """Where a block lies."""

    home: Home
    row: int


class Held(NamedTuple):
    """Where a block's states lie, and its keys as they are saved."""

    place: Place
    keys: NDArray[np.uint16]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Staged:
    """All blocks at one moment, oldest first: immutable, since blocks are.

    Block `updates[i]` is of the document whose first update was `documents[i]`, lies at `places[i]` and has `keys[i]`.
    """

    updates: NDArray[np.int64]
    documents: NDArray[np.int64]
    digests: NDArray[np.uint8]
    places: Sequence[Place]
    keys: Sequence[NDArray[np.uint16]]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Scored:
    """The best blocks for a question, best first, and what competes with them (`model.reading.selection.Selector.competing`).

    `updates` and `scores` are of the same length; scores are in nats: a block that scores ln 10 more than another is ten times as likely.
    """

    updates: tuple[int, ...]
    scores: tuple[float, ...]
    null: float
    excess: float

    @property
    def lead(self) -> float:
        """Nats by which the best block stands out (`model.reading.selection.lead`); minus infinity where there is none."""
        return lead(self.scores[0], self.null, self.excess) if self.scores else -math.inf


class BlockMemory:
    """The memory of one replica.

    Args:
        model: writes blocks and gives shapes, device and dtype.
        capacity: blocks remembered; the oldest leaves when there are more.
        scratch: folder for the states of blocks that no snapshot has yet; None: the system's own for temporary files.
        projected_bytes: bound of the cache of projected blocks.
    """

    def __init__(self, model: BlockLLM, capacity: int = 2048, scratch: Path | None = None, projected_bytes: int = 256 << 20) -> None:
        if capacity < 1:
            raise ValueError("a memory needs room for one block at least")
        self.model, self.capacity = model, capacity
        self.block, self.key_size = model.config.num_tokens, int(model.config.key_size or 0)
        self.update_number = 0
        self.version = 0
        self._keys_BKE = torch.zeros(0, self.block, self.key_size, dtype=model.dtype, device=model.device)
        self._updates_B = np.zeros(0, dtype=np.int64)
        self._documents_B = np.zeros(0, dtype=np.int64)
        self._numbered: Documents | None = None
        self._tokens_B = np.zeros(0, dtype=np.int32)
        self._digests_B = np.zeros((0, 32), dtype=np.uint8)
        self._held: list[Held | None] = []
        self._where: dict[int, int] = {}
        self._scratch = Scratch(scratch)
        self._projected = Projected(projected_bytes)

    # ------------------------------------------------------------------ what it holds

    def __len__(self) -> int:
        """Blocks remembered."""
        return len(self._where)

    @property
    def num_tokens(self) -> int:
        """Memory tokens a layer."""
        return int(self._tokens_B[self._updates_B != FREE].sum())

    @property
    def bytes_at_rest(self) -> int:
        """Of all blocks: states and keys."""
        return self.num_tokens * 2 * (self.model.layers_kept * self.model.config.hidden_size + self.key_size)

    def updates(self) -> NDArray[np.int64]:
        """Numbers of the blocks remembered, ascending."""
        return np.sort(self._updates_B[self._updates_B != FREE])

    def digest(self) -> str:
        """SHA-256 over the blocks' digests, oldest first: equal memories have equal ones."""
        order = self._order()
        return hashlib.sha256(self._digests_B[order].tobytes()).hexdigest()

    def stage(self) -> Staged:
        """What a snapshot saves, in no time: nothing of a block is copied."""
        order = self._order()
        held = [self._held[index] for index in order.tolist()]
        updates, documents, digests = self._updates_B[order], self._documents_B[order], self._digests_B[order]
        kept = [each for each in held if each is not None]
        return Staged(
            updates=updates, documents=documents, digests=digests, places=[each.place for each in kept], keys=[each.keys for each in kept]
        )

    def held(self, update: int) -> Held | None:
        """Where a block lies; None where it has left."""
        index = self._where.get(update)
        return None if index is None else self._held[index]

    def around(self, update: int, most: int) -> list[list[int]]:
        """Blocks of this one's document, the nearest first: for each distance in turn the one after and the one before, as far as they are
        remembered, until there are `most`."""
        document, found = self._documents_B[self._where[update]], list[list[int]]()
        while sum(map(len, found)) < most:
            distance = len(found) + 1
            near = [
                other
                for other in (update + distance, update - distance)
                if (index := self._where.get(other)) is not None and self._documents_B[index] == document
            ]
            if not near:
                break
            found.append(near)
        return found

    def _order(self) -> NDArray[np.int64]:
        alive = np.flatnonzero(self._updates_B != FREE)
        ordered: NDArray[np.int64] = alive[np.argsort(self._updates_B[alive], kind="stable")]
        return ordered

    # ------------------------------------------------------------------ writing

    @torch.no_grad()
    def write(self, chunks: Sequence[Sequence[int]], contexts: Sequence[Sequence[int]]) -> list[Block]:
        """The blocks of some chunks of a document, computed side by side; the memory stays as it is. Several threads may call this at once.

        Raises:
            UpdateFailed: a chunk without tokens or with too many, or states that are not finite.
        """
        for chunk in chunks:
            if not 0 < len(chunk) <= self.block:
                raise UpdateFailed(f"a chunk of {len(chunk)} tokens; a block takes 1 to {self.block}")
        blocks = []
        for states in self.model.inject(chunks, contexts):
            if not torch.isfinite(states).all():
                raise UpdateFailed("the new memory tokens are not finite")
            blocks.append(self._block(states))
        return blocks

    @torch.no_grad()
    def _block(self, states_RnD: Tensor) -> Block:
        rest = states_RnD.to(torch.bfloat16)
        keys = self.model.selector.keys(rest[0]).to(torch.bfloat16)
        states_bits, keys_bits = bits(rest.cpu().contiguous()), bits(keys.cpu().contiguous())
        return Block(states=states_bits, keys=keys_bits, sha256=block_sha256(states_bits, keys_bits))

    def apply(self, blocks: Sequence[Block], forget: Collection[int] = ()) -> tuple[list[int], list[int]]:
        """Take the blocks of some updates out and put those of a document in, in one step; what is too much leaves, the oldest first.

        Returns:
            The numbers of the new updates, and of all that left to make room.
        """
        for update in forget:
            self._remove(update)
        numbers, document = [], self.update_number
        for block in blocks:
            self._place(self.update_number, document, block)
            numbers.append(self.update_number)
            self.update_number += 1
        left = self._evict()
        self._changed()
        return numbers, left

    def load(
        self,
        updates: NDArray[np.int64],
        documents: NDArray[np.int64],
        digests: NDArray[np.uint8],
        keys: Sequence[NDArray[np.uint16]],
        places: Sequence[Place],
        update_number: int,
    ) -> None:
        """Replace everything by blocks that lie somewhere already, oldest first; their states are not read.

        `documents`: the number of the first update of each block's document.
        """
        count = len(updates)
        self._clear()
        self._reserve(count)
        self._updates_B[:count], self._documents_B[:count], self._digests_B[:count] = updates, documents, digests
        self._tokens_B[:count] = [len(each) for each in keys]
        self._held[:count] = map(Held, places, keys)
        self._where = {int(update): index for index, update in enumerate(updates)}
        for index, each in enumerate(keys):
            self._set_keys(index, torch.from_numpy(each.copy()).view(torch.bfloat16))
        self.update_number = update_number
        self._evict()
        self._changed()

    def _changed(self) -> None:
        self.version += 1
        self._numbered = None

    def rehome(self, updates: Sequence[int], held: Sequence[Held]) -> None:
        """Blocks lie somewhere else now, where a snapshot put them; what is remembered does not change."""
        for update, each in zip(updates, held, strict=True):
            if update in self._where:
                self._held[self._where[update]] = each

    def _clear(self) -> None:
        self._updates_B[:] = FREE
        self._held = [None] * len(self._held)
        self._where.clear()
        self._projected.clear()

    def _place(self, number: int, document: int, block: Block) -> None:
        free = np.flatnonzero(self._updates_B == FREE)
        if not free.size:
            self._reserve(min(max(64, 2 * len(self._updates_B)), max(self.capacity + self.block, len(self._updates_B) + 64)))
            free = np.flatnonzero(self._updates_B == FREE)
        index = int(free[0])
        file, row = self._scratch.append(block.states)
        keys = np.array(block.keys)  # a block that came from elsewhere may lie in memory that is not ours to keep
        self._updates_B[index], self._documents_B[index], self._tokens_B[index] = number, document, block.keys.shape[0]
        self._digests_B[index] = np.frombuffer(block.sha256, dtype=np.uint8)
        self._held[index] = Held(Place(file, row), keys)
        self._where[number] = index
        self._set_keys(index, from_bits(keys))

    def _set_keys(self, index: int, keys_nE: Tensor) -> None:
        # What is missing to K repeats a key of the block's own: the best match among them is the same.
        count = keys_nE.shape[0]
        self._keys_BKE[index, :count] = keys_nE.to(self._keys_BKE)
        self._keys_BKE[index, count:] = self._keys_BKE[index, :1]

    def _remove(self, update: int) -> None:
        index = self._where.pop(update, None)
        if index is not None:
            self._updates_B[index] = FREE
            self._held[index] = None
            self._projected.drop(update)

    def _evict(self) -> list[int]:
        excess = len(self._where) - self.capacity
        if excess <= 0:
            return []
        oldest: list[int] = self.updates()[:excess].tolist()
        for update in oldest:
            self._remove(update)
        return oldest

    def _reserve(self, count: int) -> None:
        more = count - len(self._updates_B)
        if more > 0:
            self._keys_BKE = torch.cat((self._keys_BKE, self._keys_BKE.new_zeros(more, self.block, self.key_size)))
            self._updates_B = np.concatenate((self._updates_B, np.full(more, FREE, dtype=np.int64)))
            self._documents_B = np.concatenate((self._documents_B, np.full(more, FREE, dtype=np.int64)))
            self._tokens_B = np.concatenate((self._tokens_B, np.zeros(more, dtype=np.int32)))
            self._digests_B = np.concatenate((self._digests_B, np.zeros((more, 32), dtype=np.uint8)))
            self._held += [None] * more

    # ------------------------------------------------------------------ reading

    @torch.no_grad()
    def score(
        self, states_TD: Tensor, weights_T: Tensor, most: int, allowed: Callable[[NDArray[np.int64]], NDArray[np.bool_]] | None = None
    ) -> Scored:
        """The blocks that a question is about.

        Args:
            states_TD: the trunk's states of the question's own tokens.
            weights_T: how much each of them counts beside what the selector says: less for earlier turns.
            most: how many blocks are wanted.
            allowed: update numbers (FREE where a place is empty) -> which may be read; None: all.
        """
        queries, strength, null = self.model.selector.queries(states_TD)
        strength = strength * weights_T
        nothing_1 = (strength * null).sum()[None]
        usable = self._updates_B != FREE
        if allowed is not None:
            usable &= allowed(self._updates_B)
        if not usable.any():
            return Scored(updates=(), scores=(), null=float(nothing_1 + self.model.selector.margin), excess=0.0)
        total_B = self._scores(queries.to(self._keys_BKE.dtype), strength)
        total_B = total_B.masked_fill(torch.from_numpy(~usable).to(total_B.device), -torch.inf)
        best = total_B.topk(min(most, int(usable.sum())))
        competing = torch.cat(self.model.selector.competing(total_B[None], nothing_1, self._documents()))
        null, excess, *scores = torch.cat((competing, best.values)).tolist()
        updates = tuple(int(self._updates_B[index]) for index in best.indices.tolist())
        return Scored(updates=updates, scores=tuple(scores), null=null, excess=excess)

    def _scores(self, queries_TE: Tensor, strength_T: Tensor) -> Tensor:
        documents, total_B = self._documents(), torch.zeros(len(self._keys_BKE), device=self._keys_BKE.device)
        together = max(1, MATCHES_AT_ONCE // len(total_B))
        for start in range(0, len(queries_TE), together):
            part = slice(start, start + together)
            total_B += strength_T[part] @ self.model.selector.in_context(self._matches(queries_TE[part]), documents)
        return total_B

    def _matches(self, queries_TE: Tensor) -> Tensor:
        """The best match of each token in each block, [T, B]."""
        parts = []
        for start in range(0, len(self._keys_BKE), SCORED_TOGETHER):
            keys = self._keys_BKE[start : start + SCORED_TOGETHER]
            matches = queries_TE @ keys.flatten(0, 1).T
            parts.append(matches.view(len(queries_TE), keys.shape[0], self.block).amax(-1).float())
        return torch.cat(parts, dim=1)

    def _documents(self) -> Documents:
        """The document of each place; places where no block lies are one of their own."""
        if self._numbered is None:
            names, numbers = np.unique(np.where(self._updates_B == FREE, FREE, self._documents_B), return_inverse=True)
            self._numbered = Documents(torch.from_numpy(numbers).to(self._keys_BKE.device), len(names))
        return self._numbered

    def projected(self, updates: Sequence[int]) -> tuple[list[Tensor], list[Tensor]]:
        """Unrotated keys and values of some blocks as the reader sees them, each [R, H, n, e], in the order of `updates`.

        Raises:
            KeyError: a block has left.
        """
        states = {}
        for update in updates:
            if self._projected.get(update) is None:
                held = self._held[self._where[update]]
                assert held is not None
                states[update] = from_bits(held.place.home.states(held.place.row)).to(self.model.device, self.model.dtype)
        for update, states_RnD in states.items():
            self._projected.put(update, self._project(states_RnD))
        found = [each for update in updates if (each := self._projected.get(update)) is not None]
        return [keys for keys, _ in found], [values for _, values in found]

    @torch.no_grad()
    def _project(self, states_RnD: Tensor) -> tuple[Tensor, Tensor]:
        pairs = [self.model.project(index, states_RnD[index]) for index in range(self.model.layers_kept)]
        return torch.stack([keys for keys, _ in pairs]), torch.stack([values for _, values in pairs])


def bits(tensor: Tensor) -> NDArray[np.uint16]:
    """A bfloat16 tensor on the host as its 16 bits: numpy has no bfloat16."""
    found: NDArray[np.uint16] = tensor.view(torch.uint16).numpy()
    return found


def from_bits(values: NDArray[Any]) -> Tensor:
    """The bfloat16 tensor of these bits, a copy."""
    return torch.from_numpy(np.array(values, dtype=np.uint16)).view(torch.bfloat16)


def block_sha256(states_RnD: NDArray[np.uint16], keys_nE: NDArray[np.uint16]) -> bytes:
    """SHA-256 over the states' bits, then the keys', little-endian."""
    digest = hashlib.sha256(np.ascontiguousarray(states_RnD).data)
    digest.update(np.ascontiguousarray(keys_nE).data)
    return digest.digest()
