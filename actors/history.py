"""What was known at another time: earlier snapshots, opened beside the live memory to answer from."""

from __future__ import annotations

import sys
import threading
from collections import OrderedDict
from dataclasses import dataclass
from datetime import UTC, datetime

from actors.errors import NoSuchTime
from actors.images import BlockImages
from actors.messages import Demand
from model.engine import Engine
from model.memory.blocks import BlockMemory
from pipeline.errors import NoSuchSnapshot
from pipeline.positions import StreamState
from pipeline.snapshots.manifest import Manifest
from pipeline.snapshots.writer import SnapshotStore

KEPT = 2
"""Snapshots open at once: their keys are in memory, their blocks are mapped (BOUNDED)."""

PROJECTED_BYTES = 32 << 20


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Moment:
    """A memory and a state as a snapshot has them."""

    epoch: int
    memory: BlockMemory
    state: StreamState


class History:
    """The earlier snapshots of a stream; called from any thread."""

    def __init__(self, store: SnapshotStore, engine: Engine) -> None:
        self._store, self._engine = store, engine
        self._open: OrderedDict[int, Moment] = OrderedDict()
        self._opening = threading.Lock()

    def at(self, demand: Demand) -> Moment:
        """The snapshot that was asked for, or the last one before the time that was.

        Raises:
            NoSuchTime: there is none.
            ValueError: the model's memory cannot be read at another time.
            SnapshotError: it is not whole, or belongs to another model.
        """
        memory = getattr(self._engine, "memory", None)
        if not isinstance(memory, BlockMemory):
            raise ValueError("this model reads its whole memory at once: as_of needs a model of blocks")
        with self._opening:
            try:
                epoch = self._chosen(demand)
            except NoSuchSnapshot:  # retention has just removed one that was looked at
                epoch = self._chosen(demand)
            if epoch not in self._open:
                self._open[epoch] = self._opened(epoch, memory)
                while len(self._open) > KEPT:
                    self._open.popitem(last=False)
            self._open.move_to_end(epoch)
            return self._open[epoch]

    def _chosen(self, demand: Demand) -> int:
        return demand.as_of_epoch if demand.as_of_epoch is not None else self._before(demand.as_of_ms or 0)

    def _opened(self, epoch: int, live: BlockMemory) -> Moment:
        try:
            manifest = self._store.load(epoch)
        except NoSuchSnapshot:
            raise NoSuchTime(f"there is no snapshot {epoch}; there are {_listed(self._store.epochs())}") from None
        memory = BlockMemory(live.model, capacity=sys.maxsize, projected_bytes=PROJECTED_BYTES)
        images = BlockImages(memory)
        manifest.require_model(images.fingerprint, images.shape())
        images.restoring(manifest, self._store)()
        return Moment(epoch=epoch, memory=memory, state=self._store.read_state(manifest))

    def _before(self, time_ms: int) -> int:
        """The newest snapshot that was there at a time: numbers and times grow together."""
        epochs = self._store.epochs()
        low, high = 0, len(epochs)
        while low < high:
            middle = (low + high) // 2
            low, high = (middle + 1, high) if _made_ms(self._store.load(epochs[middle])) <= time_ms else (low, middle)
        if low == 0:
            when = datetime.fromtimestamp(time_ms / 1000, UTC).isoformat(timespec="seconds")
            raise NoSuchTime(f"no snapshot is as old as {when}; there are {_listed(epochs)}")
        return epochs[low - 1]


def _made_ms(manifest: Manifest) -> int:
    return int(manifest.created_at.timestamp() * 1000)


def _listed(epochs: list[int]) -> str:
    if not epochs:
        return "none yet"
    all_of_them = len(epochs) == epochs[-1] - epochs[0] + 1
    return f"{epochs[0]} to {epochs[-1]}" if all_of_them else f"{len(epochs)} between {epochs[0]} and {epochs[-1]}"
