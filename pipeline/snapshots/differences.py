"""What changed between two snapshots of a stream, as their manifests and ledgers tell."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.ledger import Ledger, LedgerRow
from pipeline.snapshots.manifest import Manifest


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """From one snapshot to another. `moved` and `counted` hold what differs, as (before, after); None: not there.

    Attributes:
        came, went: documents that only the second, or the first, remembers.
        replaced: documents of the same id that were learned anew, as they are now.
        thinned: documents of which less is remembered than before.
    """

    moved: dict[str, tuple[int | None, int | None]]
    counted: dict[str, tuple[int, int]]
    updates: tuple[int, int]
    same_memory: bool
    came: tuple[LedgerRow, ...]
    went: tuple[LedgerRow, ...]
    replaced: tuple[LedgerRow, ...]
    thinned: tuple[LedgerRow, ...]


def difference(first: Manifest, before: Ledger, second: Manifest, after: Ledger) -> Difference:
    """From the first snapshot, with its ledger, to the second."""
    positions = {name: (first.positions.get(name), second.positions.get(name)) for name in sorted({*first.positions, *second.positions})}
    counts = {outcome.value: (first.counts.get(outcome, 0), second.counts.get(outcome, 0)) for outcome in {*first.counts, *second.counts}}
    both = [(old, new) for new in after if (old := before.document(new.document_id)) is not None]
    return Difference(
        moved={name: each for name, each in positions.items() if each[0] != each[1]},
        counted={name: each for name, each in sorted(counts.items()) if each[0] != each[1]},
        updates=(first.update_number, second.update_number),
        same_memory=first.memory_sha256 == second.memory_sha256,
        came=tuple(row for row in after if before.document(row.document_id) is None),
        went=tuple(row for row in before if after.document(row.document_id) is None),
        replaced=tuple(new for old, new in both if _learned(old) != _learned(new)),
        thinned=tuple(new for old, new in both if _learned(old) == _learned(new) and len(new.updates) < len(old.updates)),
    )


def _learned(row: LedgerRow) -> tuple[object, ...]:
    """Which learning of a document this is: what is forgotten of it later takes nothing from this."""
    return row.partition, row.offset, row.content_sha256
