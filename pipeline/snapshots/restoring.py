"""Going back, and going past: an earlier snapshot, or the last with some offsets left out, becomes the newest one.

Nothing is copied and nothing is taken away: the new manifest names the objects of the old one. It has a generation of its own, so a
writer that runs meanwhile is orphaned and stops, and whoever starts next goes on from here.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

from pipeline.errors import ConfigurationError, NoSuchSnapshot, SnapshotCorrupt
from pipeline.positions import StreamState, format_positions
from pipeline.records import Partition
from pipeline.snapshots.manifest import Manifest
from pipeline.snapshots.writer import SnapshotStore


def skipped(state: StreamState, to: Mapping[Partition, int]) -> StreamState:
    """The state at later positions; the offsets in between count as gap (NOTHING-SILENT).

    Raises ConfigurationError for a partition that the stream does not read, or a position that it has passed.
    """
    for partition, position in to.items():
        if partition not in state.positions:
            there = ", ".join(format_positions(state.positions)) or "none yet"
            raise ConfigurationError(f"{partition} is not part of this stream; its partitions are: {there}")
        stands = state.positions[partition]
        if position < stands:
            raise ConfigurationError(f"{partition} stands at {stands}, which is past {position}: go back with --epoch instead")
        if position > stands:
            state = state.gap(partition, stands, position)
    state.check()
    return state


def restore(store: SnapshotStore, base: Manifest, to: Mapping[Partition, int]) -> Manifest:
    """Make `base` the newest snapshot, at later positions where `to` says so; returns the new manifest.

    Raises SnapshotError, NoSuchSnapshot where retention was quicker, or ConfigurationError as `skipped`.
    """
    state = skipped(store.read_state(base), to)
    store.adopt(base)
    generation = store.claim_generation()  # from here on retention keeps `base`, and every other writer stops
    if base.epoch not in store.epochs():
        raise NoSuchSnapshot(f"retention has just removed snapshot {base.epoch} of {store.url}: choose another one")
    changed = {
        "epoch": max(store.epochs()) + 1,
        "generation": generation,
        "created_at": datetime.now(UTC),
        "restored_from": base.epoch,
        "positions": format_positions(state.positions),
        "counts": dict(state.counts),
    }
    manifest = store.publish(base.model_copy(update=changed))
    if problems := store.verify(manifest, segments=False):
        told = "; ".join(map(str, problems))
        raise SnapshotCorrupt(f"what was restored is not whole any more: {told}. Restore another one; nothing goes on from this")
    return manifest
