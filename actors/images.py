"""Memories as snapshots have them, and back: between the model's tensors and the pipeline's arrays, for either kind of memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import torch

from model.block_checkpoint import memory_fingerprint
from model.block_engine import BlockEngine
from model.checkpoint import fingerprint
from model.engine import Engine
from model.memory.blocks import BlockMemory, Held, Place, Staged
from model.memory.tokens import MemoryPool, PoolLayer
from model.pool_engine import PoolEngine
from pipeline.errors import SnapshotCorrupt
from pipeline.snapshots.manifest import BlockShape, Dtype, Manifest, PoolShape
from pipeline.snapshots.pool_image import LayerImage, PoolImage, pool_sha256
from pipeline.snapshots.segments import BlockImage, BlocksImage, MappedSegment
from pipeline.snapshots.writer import SnapshotStore


class Images(Protocol):
    """What the saver needs of a memory."""

    @property
    def fingerprint(self) -> str:
        """Of what decides which memory a text becomes."""
        ...

    @property
    def seed(self) -> int: ...

    def shape(self) -> PoolShape | BlockShape: ...

    def stage(self) -> PoolImage | BlocksImage:
        """The memory of this moment, so that it goes on while the image is written. Called between two turns."""
        ...

    def saved(self, manifest: Manifest, image: PoolImage | BlocksImage, store: SnapshotStore) -> Callable[[], None]:
        """The image is durable as this manifest has it. What is returned tells the memory so, between two turns."""
        ...

    def adopt(self, manifest: Manifest, store: SnapshotStore) -> Callable[[], None]:
        """Somebody else saved a snapshot of this stream. What is returned tells the memory where its blocks lie now, between two turns."""
        ...

    def restoring(self, manifest: Manifest, store: SnapshotStore) -> Callable[[], None]:
        """What replaces the memory by a snapshot's, between two turns, while no answer reads it; what can be fetched before, is."""
        ...

    def sha256(self) -> str:
        """Of the memory as it is, as a manifest would have it. Between two turns."""
        ...


def images_of(engine: Engine) -> Images:
    if isinstance(engine, BlockEngine):
        return BlockImages(engine.memory)
    if isinstance(engine, PoolEngine):
        return PoolImages(engine)
    raise TypeError(f"no snapshots are known of {type(engine).__name__}")


class CheckedHome:
    """A mapped segment whose blocks are compared with their digests when they are first used."""

    def __init__(self, path: str, segment: MappedSegment) -> None:
        self.path, self.segment = path, segment
        self._checked: set[int] = set()

    def states(self, row: int) -> Any:
        if row not in self._checked:
            self.segment.check(row)
            self._checked.add(row)
        return self.segment.states(row)


class BlockImages:
    """Snapshots of a block memory: segments of what is new, and an index of what is alive."""

    seed = 0

    def __init__(self, memory: BlockMemory) -> None:
        self._memory = memory
        self.fingerprint = memory_fingerprint(memory.model)

    def shape(self) -> BlockShape:
        config = self._memory.model.config
        return BlockShape(
            num_layers=self._memory.model.layers_kept,
            first_layer=self._memory.model.first,
            hidden_size=config.hidden_size,
            update_tokens=config.num_tokens,
            key_size=self._memory.key_size,
        )

    def stage(self) -> BlocksImage:
        staged = self._memory.stage()
        homes, rows = np.full(len(staged.updates), -1, dtype=np.int32), np.zeros(len(staged.updates), dtype=np.int32)
        segments: dict[str, int] = {}
        for index, place in enumerate(staged.places):
            if isinstance(place.home, CheckedHome):
                homes[index], rows[index] = segments.setdefault(place.home.path, len(segments)), place.row
        return BlocksImage(
            shape=self.shape(),
            updates=staged.updates,
            documents=staged.documents,
            tokens=np.fromiter((len(keys) for keys in staged.keys), dtype=np.int32, count=len(staged.keys)),
            digests=staged.digests,
            homes=homes,
            rows=rows,
            segments=tuple(segments),
            block=lambda index: _block(staged, index),
        )

    def saved(self, manifest: Manifest, image: PoolImage | BlocksImage, store: SnapshotStore) -> Callable[[], None]:
        """The blocks that were written lie in the new segment now; where they lay before is let go."""
        if not isinstance(image, BlocksImage) or not isinstance(manifest.memory, BlockShape):
            return _nothing
        written = [entry for entry in manifest.segments if entry.path not in image.segments]
        homes = [CheckedHome(entry.path, store.open_segment(entry, manifest.memory)) for entry in written]
        updates = [update for home in homes for update in home.segment.updates.tolist()]
        held = [Held(Place(home, row), home.segment.keys(row)) for home in homes for row in range(len(home.segment))]
        return lambda: self._memory.rehome(updates, held)

    def adopt(self, manifest: Manifest, store: SnapshotStore) -> Callable[[], None]:
        blocks = store.read_blocks(manifest)
        homes = [CheckedHome(path, segment) for path, segment in blocks.segments]
        moved = {
            update: Held(Place(homes[home], row), homes[home].segment.keys(row))
            for update, home, row in zip(blocks.updates.tolist(), blocks.homes.tolist(), blocks.rows.tolist(), strict=True)
            if not self._lies_in(update, homes[home].path)
        }
        return lambda: self._memory.rehome(list(moved), list(moved.values()))

    def _lies_in(self, update: int, path: str) -> bool:
        held = self._memory.held(update)
        return held is None or (isinstance(held.place.home, CheckedHome) and held.place.home.path == path)

    def restoring(self, manifest: Manifest, store: SnapshotStore) -> Callable[[], None]:
        blocks = store.read_blocks(manifest)
        homes = [CheckedHome(path, segment) for path, segment in blocks.segments]
        places = [Place(homes[home], row) for home, row in zip(blocks.homes.tolist(), blocks.rows.tolist(), strict=True)]
        keys = [homes[home].segment.keys(row) for home, row in zip(blocks.homes.tolist(), blocks.rows.tolist(), strict=True)]
        return lambda: self._memory.load(blocks.updates, blocks.documents, blocks.digests, keys, places, manifest.update_number)

    def sha256(self) -> str:
        return self._memory.digest()


def _nothing() -> None:
    """Nothing is to be told."""


def _block(staged: Staged, index: int) -> BlockImage:
    place = staged.places[index]
    return BlockImage(
        update=int(staged.updates[index]),
        states=place.home.states(place.row),
        keys=staged.keys[index],
        sha256=staged.digests[index].tobytes(),
    )


class PoolImages:
    """Snapshots of a token pool: whole, copied first."""

    def __init__(self, engine: PoolEngine) -> None:
        self._engine = engine
        self.fingerprint = fingerprint(engine.pool.model)

    @property
    def seed(self) -> int:
        return self._engine.pool.seed

    @property
    def _pool(self) -> MemoryPool:
        return self._engine.pool

    def shape(self) -> PoolShape:
        return self._shape(self._pool.capacity)

    def _shape(self, num_tokens: int) -> PoolShape:
        config = self._pool.model.config
        dtype: Any = str(self._pool.model.dtype).removeprefix("torch.")
        checked: Dtype = dtype
        return PoolShape(
            num_layers=config.num_hidden_layers,
            num_tokens=num_tokens,
            hidden_size=config.hidden_size,
            update_tokens=config.num_tokens,
            dtype=checked,
        )

    def stage(self) -> PoolImage:
        version = self._pool.published
        layers = [_layer_image(layer) for layer in self._pool.layers(version)]
        shape = self._shape(version.slots_LN.shape[1])
        fields = {name: getattr(shape, name) for name in ("num_layers", "num_tokens", "update_tokens", "hidden_size", "dtype")}
        return PoolImage(layers=layers, **fields)

    def saved(self, manifest: Manifest, image: PoolImage | BlocksImage, store: SnapshotStore) -> Callable[[], None]:
        """Nothing: the copy is let go."""
        return _nothing

    def adopt(self, manifest: Manifest, store: SnapshotStore) -> Callable[[], None]:
        """Nothing: a pool lies where it is computed."""
        return _nothing

    def restoring(self, manifest: Manifest, store: SnapshotStore) -> Callable[[], None]:
        if not isinstance(manifest.memory, PoolShape):
            raise SnapshotCorrupt(f"{manifest.stream}@{manifest.epoch} holds blocks, not a pool")
        return lambda: self._restore(manifest, store)

    def _restore(self, manifest: Manifest, store: SnapshotStore) -> None:
        written = isinstance(manifest.memory, PoolShape) and manifest.memory.num_tokens > 0
        layers = (_pool_layer(layer, self._pool.model.dtype) for layer in store.read_pool(manifest)) if written else ()
        self._engine.load(layers, manifest.update_number)
        self._pool.seed = manifest.seed

    def sha256(self) -> str:
        return pool_sha256(_layer_image(layer) for layer in self._pool.layers(self._pool.published))


def _layer_image(layer: PoolLayer) -> LayerImage:
    memory = layer.memory_ND
    # numpy has no bfloat16: its 16 bits go as they are.
    values = memory.view(torch.uint16).numpy() if memory.dtype == torch.bfloat16 else memory.numpy()
    return LayerImage(slots=layer.slots_N, updates=layer.updates_N, memory=values)


def _pool_layer(image: LayerImage, dtype: torch.dtype) -> PoolLayer:
    memory = torch.from_numpy(image.memory)
    return PoolLayer(image.slots, image.updates, memory.view(torch.bfloat16) if dtype == torch.bfloat16 else memory)
