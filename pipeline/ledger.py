"""The ledger: what is still remembered, and where it came from.

One row for each document that has tokens left in the pool. It answers two questions: has this text been learned and not yet forgotten
(`content_sha256 in ledger`), and which documents do the pool's tokens belong to (`LedgerRow.updates` joined with the pool's own column
of update numbers). Being pruned with the pool it is bounded by it, and a story that was forgotten may be learned again.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import InitVar, dataclass, field
from typing import Any, Self

import pyarrow as pa

from pipeline.records import Document, Partition

LEDGER_SCHEMA = pa.schema(
    [
        pa.field("updates", pa.list_(pa.field("update", pa.int64(), nullable=False)), nullable=False),
        pa.field("document_id", pa.string(), nullable=False),
        pa.field("topic", pa.string(), nullable=False),
        pa.field("partition", pa.int32(), nullable=False),
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("event_time", pa.timestamp("ms", tz="UTC"), nullable=False),
        pa.field("title", pa.string()),
        pa.field("source", pa.string()),
        pa.field("content_sha256", pa.string(), nullable=False),
    ]
)
"""The columns of `ledger.arrow`, one row for each remembered document, the first learned first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerRow:
    """One remembered document and the numbers of the updates that wrote it.

    >>> row = LedgerRow(
    ...     updates=(7, 8), document_id="a", partition=Partition("news", 0), offset=3, event_time_ms=0, content_sha256="..."
    ... )
    >>> row.updates
    (7, 8)
    """

    updates: tuple[int, ...]
    document_id: str
    partition: Partition
    offset: int
    event_time_ms: int
    content_sha256: str
    title: str | None = None
    source: str | None = None

    @classmethod
    def of(cls, document: Document, updates: Sequence[int]) -> Self:
        """The row of a document that was learned by `updates`, at least one."""
        if not updates:
            raise ValueError(f"document {document.document_id!r} was learned by no update")
        return cls(
            updates=tuple(updates),
            document_id=document.document_id,
            partition=document.partition,
            offset=document.offset,
            event_time_ms=document.event_time_ms,
            content_sha256=document.content_sha256,
            title=document.title,
            source=document.source,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Ledger:
    """All rows, the first learned first; immutable, so that a snapshot can be written from it while updates go on.

    >>> row = LedgerRow(updates=(7,), document_id="a", partition=Partition("news", 0), offset=3, event_time_ms=0, content_sha256="f00")
    >>> ledger = Ledger().with_row(row)
    >>> "f00" in ledger, "f00" in ledger.remembering({8, 9})
    (True, False)
    """

    rows: tuple[LedgerRow, ...] = ()
    known_hashes: InitVar[frozenset[str] | None] = None
    _hashes: frozenset[str] = field(init=False, repr=False, compare=False)

    def __post_init__(self, known_hashes: frozenset[str] | None) -> None:
        hashes = frozenset(row.content_sha256 for row in self.rows) if known_hashes is None else known_hashes
        object.__setattr__(self, "_hashes", hashes)

    def __contains__(self, content_sha256: object) -> bool:
        return content_sha256 in self._hashes

    def __iter__(self) -> Iterator[LedgerRow]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def with_row(self, row: LedgerRow) -> Ledger:
        """This ledger and one document more."""
        return Ledger(rows=(*self.rows, row), known_hashes=self._hashes | {row.content_sha256})

    def remembering(self, alive_updates: Collection[int]) -> Ledger:
        """Without the rows that have no token left. `alive_updates`: the updates with at least one token in some layer of the pool."""
        alive = alive_updates if isinstance(alive_updates, (set, frozenset)) else frozenset(alive_updates)
        rows = tuple(row for row in self.rows if not alive.isdisjoint(row.updates))
        return self if len(rows) == len(self.rows) else Ledger(rows=rows)

    def to_table(self) -> pa.Table:
        """As a table of `LEDGER_SCHEMA`."""
        return pa.Table.from_pylist([_cells(row) for row in self.rows], schema=LEDGER_SCHEMA)

    @classmethod
    def from_table(cls, table: pa.Table) -> Self:
        """The ledger that `to_table` made the table from. Raises ValueError where its columns are not those of `LEDGER_SCHEMA`."""
        if not table.schema.equals(LEDGER_SCHEMA):
            raise ValueError(f"not a ledger: columns {table.schema.names}, want {LEDGER_SCHEMA.names} with their types")
        times_ms = table.column("event_time").cast(pa.int64()).to_pylist()
        cells = table.drop_columns(["event_time"]).to_pylist()
        return cls(rows=tuple(_row(row, time_ms) for row, time_ms in zip(cells, times_ms, strict=True)))


def _cells(row: LedgerRow) -> dict[str, Any]:
    return {
        "updates": row.updates,
        "document_id": row.document_id,
        "topic": row.partition.topic,
        "partition": row.partition.number,
        "offset": row.offset,
        "event_time": row.event_time_ms,
        "title": row.title,
        "source": row.source,
        "content_sha256": row.content_sha256,
    }


def _row(cells: dict[str, Any], event_time_ms: int) -> LedgerRow:
    return LedgerRow(
        updates=tuple(cells["updates"]),
        document_id=cells["document_id"],
        partition=Partition(cells["topic"], cells["partition"]),
        offset=cells["offset"],
        event_time_ms=event_time_ms,
        content_sha256=cells["content_sha256"],
        title=cells["title"],
        source=cells["source"],
    )
