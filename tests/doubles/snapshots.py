"""Snapshots by hand: blocks of random bits, a memory that takes and drops them, and a stream that saves itself without any model."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import BinaryIO
from uuid import uuid4

import numpy as np

from pipeline.errors import StoreUnavailable
from pipeline.ledger import Ledger, LedgerRow
from pipeline.positions import StreamState
from pipeline.records import Document, Partition, Record
from pipeline.snapshots.config import SnapshotConfig
from pipeline.snapshots.manifest import BlockShape, Manifest
from pipeline.snapshots.objects import ObjectStore, Seen
from pipeline.snapshots.segments import BlockImage, BlocksImage, MappedSegment, block_sha256
from pipeline.snapshots.writer import SnapshotContent, SnapshotStore

NEWS = Partition("news", 0)
SHAPE = BlockShape(num_layers=2, first_layer=1, hidden_size=8, update_tokens=4, key_size=4)


def block(update: int, shape: BlockShape = SHAPE) -> BlockImage:
    """The block of an update; always the same."""
    generator = np.random.default_rng(update)
    tokens = 1 + update % shape.update_tokens
    states = generator.integers(0, 1 << 16, (shape.num_layers, tokens, shape.hidden_size), dtype=np.uint16)
    keys = generator.integers(0, 1 << 16, (tokens, shape.key_size), dtype=np.uint16)
    return BlockImage(update=update, states=states, keys=keys, sha256=block_sha256(states, keys))


class Stream:
    """What a replica is to snapshots: blocks of which the oldest leave, a state whose counts add up, and where each block lies.

    Restores when it is made. Blocks that no snapshot has are made anew; the others are read where the last snapshot put them.
    """

    def __init__(self, config: SnapshotConfig, name: str = "news", capacity: int = 16, clock: Clock | None = None) -> None:
        self.store = SnapshotStore(config, name)
        self._clock = clock
        if clock is not None:
            self.store.objects = ClockedStore(self.store.url, clock)
        self.capacity = capacity
        self.state = StreamState.beginning({}).joined(NEWS, 0, "first")
        self._places: dict[int, tuple[str, MappedSegment, int] | None] = {}
        latest = self.store.latest()
        if latest is not None:
            self.state = self.store.read_state(latest.manifest)
            self._map(latest.manifest)
            self.store.adopt(latest.manifest)
        self.generation = self.store.claim_generation()

    @property
    def updates(self) -> list[int]:
        return sorted(self._places)

    def learn(self, count: int = 1) -> None:
        for _ in range(count):
            update, offset = self.state.update_number, self.state.positions[NEWS]
            record = Record(partition=NEWS, offset=offset, timestamp_ms=offset, value=b"{}")
            document = Document(record=record, document_id=f"d{offset}", text="-", event_time_ms=offset, content_sha256=f"{offset}")
            self.state = self.state.applied(LedgerRow.of(document, [update], tokens=1))
            self._places[update] = None
        self.forget(self.updates[: -self.capacity])

    def forget(self, updates: Sequence[int]) -> None:
        for update in updates:
            del self._places[update]
        self.state = self.state.forgetting(updates)

    def correct(self, offset: int) -> None:
        """Learn a document anew, if it is still remembered: the old block leaves."""
        row = self.state.ledger.document(f"d{offset}")
        if row is None:
            return
        end, update = self.state.positions[NEWS], self.state.update_number
        record = Record(partition=NEWS, offset=end, timestamp_ms=end, value=b"{}")
        again = Document(record=record, document_id=row.document_id, text="+", event_time_ms=end, content_sha256=f"{end}")
        self.state = self.state.applied(LedgerRow.of(again, [update], tokens=1), replaces=row.document_id)
        for old in row.updates:
            del self._places[old]
        self._places[update] = None

    def content(self) -> SnapshotContent:
        return SnapshotContent(
            memory=self.image(), state=self.state, fingerprint="model-1", seed=0, config={}, build={}, device="cpu/AVX2", threads=1
        )

    def image(self) -> BlocksImage:
        places = [self._places[update] for update in self.updates]
        segments = tuple(dict.fromkeys(place[0] for place in places if place is not None))
        updates, blocks = self.updates, list(map(block, self.updates))

        def read(index: int) -> BlockImage:
            place = places[index]
            if place is None:
                return blocks[index]
            _, segment, row = place
            segment.check(row)
            return BlockImage(
                update=updates[index], states=segment.states(row), keys=segment.keys(row), sha256=segment.digests[row].tobytes()
            )

        return BlocksImage(
            shape=SHAPE,
            updates=np.array(updates, dtype=np.int64),
            documents=np.array(updates, dtype=np.int64),
            tokens=np.array([each.keys.shape[0] for each in blocks], dtype=np.int32),
            digests=np.array([np.frombuffer(each.sha256, dtype=np.uint8) for each in blocks], dtype=np.uint8).reshape(-1, 32),
            homes=np.array([-1 if place is None else segments.index(place[0]) for place in places], dtype=np.int32),
            rows=np.array([0 if place is None else place[2] for place in places], dtype=np.int32),
            segments=segments,
            block=read,
        )

    def save(self) -> Manifest:
        manifest = self.store.write(self.content(), self.generation)
        if self._clock is not None:
            self._clock.pass_(1)
        known = {place[0] for place in self._places.values() if place is not None}
        for entry in manifest.segments:
            if entry.path not in known:
                segment = self.store.open_segment(entry, SHAPE)
                self._places |= {update: (entry.path, segment, row) for row, update in enumerate(segment.updates.tolist())}
        return manifest

    def _map(self, manifest: Manifest) -> None:
        blocks = self.store.read_blocks(manifest)
        for update, home, row in zip(blocks.updates.tolist(), blocks.homes.tolist(), blocks.rows.tolist(), strict=True):
            path, segment = blocks.segments[home]
            self._places[update] = (path, segment, row)


def verified(store: SnapshotStore, manifest: Manifest) -> tuple[list[int], Ledger]:
    """Read a snapshot whole, every block of it, as a restore and its answers would; its updates and its ledger."""
    assert store.verify(manifest) == []
    blocks = store.read_blocks(manifest)
    for update, home, row in zip(blocks.updates.tolist(), blocks.homes.tolist(), blocks.rows.tolist(), strict=True):
        segment = blocks.segments[home][1]
        segment.check(row)
        assert segment.updates[row] == update and segment.digests[row].tobytes() == block(update).sha256
    state = store.read_state(manifest)
    state.check()
    return blocks.updates.tolist(), state.ledger


def in_memory(**fields: object) -> SnapshotConfig:
    """Snapshots in this process's memory, in a place of their own."""
    return SnapshotConfig.model_construct(root=f"memory://{uuid4().hex}", **fields)  # type: ignore[arg-type]


class Clock:
    """The store's time, and the writers'; it stands still unless it is moved."""

    def __init__(self) -> None:
        self.now_s = 1_767_000_000.0

    def now(self) -> datetime:
        return datetime.fromtimestamp(self.now_s, UTC)

    def pass_(self, seconds: float) -> None:
        self.now_s += seconds


class ClockedStore(ObjectStore):
    """A store in memory that stamps objects by a clock of its own, and may refuse to remove."""

    def __init__(self, root: str, clock: Clock) -> None:
        super().__init__(root)
        self._clock = clock
        self.removals_left: int | None = None
        self.writes_left: int | None = None

    def _stamp(self, path: str) -> None:
        _STAMPS[path] = self._clock.now_s

    def _create(self, path: str, data: bytes) -> None:
        self._count()
        super()._create(path, data)
        self._stamp(path)

    def _seal(self, file: BinaryIO, path: str) -> None:
        super()._seal(file, path)
        self._stamp(path)
        self._count()

    def _count(self) -> None:
        if self.writes_left is not None:
            self.writes_left -= 1
            if self.writes_left < 0:
                raise OSError("the store is away")

    def discard(self, name: str) -> None:
        if self.writes_left is None or self.writes_left >= 0:  # a process that is killed tidies nothing up
            super().discard(name)

    def _find(self) -> dict[str, Seen]:
        return {path: seen._replace(modified_s=_STAMPS[path]) for path, seen in super()._find().items()}

    def modified_s(self, name: str) -> float:
        return _STAMPS[self._at(name)]

    def remove(self, name: str) -> None:
        if self.removals_left is not None:
            self.removals_left -= 1
            if self.removals_left < 0:
                raise StoreUnavailable("the store is away")
        super().remove(name)


_STAMPS: dict[str, float] = {}
"""By path: all stores of this process share one memory."""
