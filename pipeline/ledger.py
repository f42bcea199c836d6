"""The ledger: what is still remembered, and where it came from.

One row for each document that has something left in memory. It answers: has this story been learned and not yet forgotten
(`content_sha256 in ledger`), which document wrote this update (`owner`), what was published under this id or key. Being pruned with the
memory it is bounded by it, and a story that was forgotten may be learned again.

Immutable and shared: each change gives a new ledger in O(log n), by way of hash array mapped tries, so that a snapshot can be written
from one while the stream goes on with the next, with 100,000 rows as with ten.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Self, TypeAlias

import pyarrow as pa
from immutables import Map

from pipeline.columns import Columns
from pipeline.names import same_name
from pipeline.near_duplicates import SCHEME, Likenesses, likenesses
from pipeline.records import Document, Partition

LEDGER_SCHEMA = pa.schema(
    [
        pa.field("updates", pa.list_(pa.field("update", pa.int64(), nullable=False)), nullable=False),
        pa.field("document_id", pa.string(), nullable=False),
        pa.field("topic", pa.string(), nullable=False),
        pa.field("partition", pa.int32(), nullable=False),
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("key", pa.binary()),
        pa.field("timestamp", pa.timestamp("ms", tz="UTC"), nullable=False),
        pa.field("event_time", pa.timestamp("ms", tz="UTC"), nullable=False),
        pa.field("title", pa.string()),
        pa.field("source", pa.string()),
        pa.field("link", pa.string()),
        pa.field("tokens", pa.int64(), nullable=False),
        pa.field("tokens_left_out", pa.int64(), nullable=False),
        pa.field("content_sha256", pa.string(), nullable=False),
        pa.field("signature", pa.binary()),
    ],
    metadata={"signatures": SCHEME},
)
"""The columns of `ledger.arrow`, one row for each remembered document, the first learned first."""

RecordKey: TypeAlias = tuple[str, bytes]
"""A topic, and the key of a record in it."""

MINUTE_MS: Final = 60_000


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerRow:
    """One remembered document and the numbers of the updates of which something is left.

    `timestamp_ms` is its record's own, -1 where it has none. `signature`: see `pipeline.near_duplicates`; None: none was made.

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
    timestamp_ms: int = -1
    signature: bytes | None = None
    key: bytes | None = None
    title: str | None = None
    source: str | None = None
    link: str | None = None
    tokens: int = 0
    tokens_left_out: int = 0

    @classmethod
    def of(cls, document: Document, updates: Sequence[int], *, tokens: int, tokens_left_out: int = 0) -> Self:
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
            timestamp_ms=document.record.timestamp_ms,
            signature=document.signature,
            key=document.record.key,
            title=document.title,
            source=document.source,
            link=document.link,
            tokens=tokens,
            tokens_left_out=tokens_left_out,
        )

    @property
    def place(self) -> tuple[Partition, int]:
        return self.partition, self.offset

    @property
    def record_key(self) -> RecordKey | None:
        return None if self.key is None else (self.partition.topic, self.key)

    @property
    def minute(self) -> tuple[str, int]:
        """Its source, and the minute of its record's timestamp (of its event time where the record has none)."""
        return same_name(self.source), (self.timestamp_ms if self.timestamp_ms > 0 else self.event_time_ms) // MINUTE_MS


@dataclass(frozen=True, slots=True, eq=False)
class Ledger:
    """All rows, found by id, content, record key, update and likeness, counted by source and minute, and as columns of updates.

    >>> row = LedgerRow(updates=(7,), document_id="a", partition=Partition("news", 0), offset=3, event_time_ms=0, content_sha256="f00")
    >>> ledger = Ledger().with_row(row)
    >>> "f00" in ledger, ledger.owner(7).document_id, "f00" in ledger.forgetting([7])
    (True, 'a', False)
    """

    _rows: Map[str, LedgerRow] = field(default_factory=Map)
    _contents: Map[str, frozenset[str]] = field(default_factory=Map)
    _keys: Map[RecordKey, frozenset[str]] = field(default_factory=Map)
    _owners: Map[int, str] = field(default_factory=Map)
    _sources: Map[str, int] = field(default_factory=Map)
    _minutes: Map[tuple[str, int], int] = field(default_factory=Map)
    _likenesses: Likenesses = field(default_factory=Likenesses)
    _places: Map[tuple[Partition, int], str] = field(default_factory=Map)
    columns: Columns = field(default_factory=Columns)

    def __contains__(self, content_sha256: object) -> bool:
        return content_sha256 in self._contents

    def __iter__(self) -> Iterator[LedgerRow]:
        """The first learned first."""
        return iter(sorted(self._rows.values(), key=lambda row: row.updates[0]))

    def __len__(self) -> int:
        return len(self._rows)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Ledger) and self._rows == other._rows

    def __hash__(self) -> int:
        return hash(self._rows)

    def document(self, document_id: str) -> LedgerRow | None:
        return self._rows.get(document_id)

    def at(self, partition: Partition, offset: int) -> LedgerRow | None:
        """The document that was read there."""
        name = self._places.get((partition, offset))
        return None if name is None else self._rows[name]

    def with_key(self, topic: str, key: bytes) -> tuple[LedgerRow, ...]:
        """The documents that were published in a topic under a key."""
        found = self._keys.get((topic, key), frozenset())
        return tuple(sorted((self._rows[name] for name in found), key=lambda row: row.updates[0]))

    def updates_of(self, source: str | None) -> int:
        """How many updates a source's documents have in memory; sources are compared as `same_name` has them."""
        return self._sources.get(same_name(source), 0)

    def documents_of(self, source: str | None, minutes: range) -> int:
        """How many documents of a source have a record of one of these minutes since 1970."""
        name = same_name(source)
        return sum(self._minutes.get((name, minute), 0) for minute in minutes)

    def most_like(self, signature: bytes, least: float) -> LedgerRow | None:
        """The document that is most like a signature, the first learned of several; None where none is as like as `least`."""
        rows = [self._rows[name] for name in self._likenesses.candidates(signature)]
        like = likenesses([row.signature or b"" for row in rows], signature)
        found = [(share, -row.updates[0], row) for share, row in zip(like, rows, strict=True) if share >= least]
        return max(found, key=lambda each: each[:2])[2] if found else None

    def owner(self, update: int) -> LedgerRow | None:
        """The document that an update belongs to."""
        name = self._owners.get(update)
        return None if name is None else self._rows[name]

    def with_row(self, row: LedgerRow) -> Ledger:
        """With one document more; a row of the same id is replaced."""
        cleared = self.without((row.document_id,))
        owners = cleared._owners.mutate()
        for update in row.updates:
            owners[update] = row.document_id
        keys = cleared._keys if row.record_key is None else _added(cleared._keys, row.record_key, row.document_id)
        signed = cleared._likenesses
        return Ledger(
            cleared._rows.set(row.document_id, row),
            _added(cleared._contents, row.content_sha256, row.document_id),
            keys,
            owners.finish(),
            _counted(cleared._sources, same_name(row.source), len(row.updates)),
            _counted(cleared._minutes, row.minute, 1),
            signed if row.signature is None else signed.added(row.document_id, row.signature),
            cleared._places.set(row.place, row.document_id),
            cleared.columns.added(row.updates, row.event_time_ms, row.source),
        )

    def without(self, document_ids: Collection[str]) -> Ledger:
        """Without these documents; ids that are not known are passed over."""
        ledger = self
        for name in document_ids:
            row = ledger._rows.get(name)
            if row is None:
                continue
            owners = ledger._owners.mutate()
            for update in row.updates:
                del owners[update]
            keys = ledger._keys if row.record_key is None else _removed(ledger._keys, row.record_key, name)
            contents = _removed(ledger._contents, row.content_sha256, name)
            sources = _counted(ledger._sources, same_name(row.source), -len(row.updates))
            minutes, signed = _counted(ledger._minutes, row.minute, -1), ledger._likenesses
            if row.signature is not None:
                signed = signed.removed(name, row.signature)
            # A topic that was made anew has other documents at the same places.
            places = ledger._places.delete(row.place) if ledger._places.get(row.place) == name else ledger._places
            columns = ledger.columns.removed(row.updates)
            ledger = Ledger(ledger._rows.delete(name), contents, keys, owners.finish(), sources, minutes, signed, places, columns)
        return ledger

    def forgetting(self, updates: Collection[int]) -> Ledger:
        """Without these updates; documents that have none left go."""
        ledger = self
        for update in updates:
            row = ledger.owner(update)
            if row is None:
                continue
            left = tuple(each for each in row.updates if each != update)
            if not left:
                ledger = ledger.without((row.document_id,))
                continue
            rows = ledger._rows.set(row.document_id, replace(row, updates=left))
            sources = _counted(ledger._sources, same_name(row.source), -1)
            columns = ledger.columns.removed((update,))
            ledger = replace(ledger, _rows=rows, _owners=ledger._owners.delete(update), _sources=sources, columns=columns)
        return ledger

    def to_table(self) -> pa.Table:
        """As a table of `LEDGER_SCHEMA`."""
        return pa.Table.from_pylist([_cells(row) for row in self], schema=LEDGER_SCHEMA)

    @classmethod
    def from_table(cls, table: pa.Table) -> Self:
        """The ledger that `to_table` made the table from. Raises ValueError where its columns are not those of `LEDGER_SCHEMA`."""
        if not table.schema.equals(LEDGER_SCHEMA):
            raise ValueError(f"not a ledger: columns {table.schema.names}, want {LEDGER_SCHEMA.names} with their types")
        scheme = (table.schema.metadata or {}).get(b"signatures", b"").decode("utf-8", "replace")
        if scheme != SCHEME and table.column("signature").null_count < len(table):
            raise ValueError(f"its signatures of near-duplicates were made by {scheme!r}, here they are made by {SCHEME!r}")
        times_ms = (table.column(name).cast(pa.int64()).to_pylist() for name in ("event_time", "timestamp"))
        cells = table.drop_columns(["event_time", "timestamp"]).to_pylist()
        return cls.of(_row(row, event_time_ms, timestamp_ms) for row, event_time_ms, timestamp_ms in zip(cells, *times_ms, strict=True))

    @classmethod
    def of(cls, rows: Iterator[LedgerRow]) -> Self:
        """A ledger of many rows at once. Raises ValueError where two have the same id or share an update."""
        by_id, contents, keys, owners = Map[str, LedgerRow]().mutate(), dict[str, set[str]](), dict[RecordKey, set[str]](), dict[int, str]()
        sources, minutes = Counter[str](), Counter[tuple[str, int]]()
        places: dict[tuple[Partition, int], str] = {}
        for row in rows:
            if row.document_id in by_id or any(update in owners for update in row.updates) or not row.updates:
                raise ValueError(f"not a ledger: {row.document_id!r} or one of its updates {row.updates} stands in it twice")
            by_id[row.document_id] = row
            contents.setdefault(row.content_sha256, set()).add(row.document_id)
            owners |= dict.fromkeys(row.updates, row.document_id)
            sources[same_name(row.source)] += len(row.updates)
            places[row.place] = row.document_id
            minutes[row.minute] += 1
            if row.record_key is not None:
                keys.setdefault(row.record_key, set()).add(row.document_id)
        found = by_id.finish()
        signed = Likenesses.of((row.document_id, row.signature) for row in found.values() if row.signature is not None)
        columns = Columns.of((row.updates, row.event_time_ms, row.source) for row in found.values())
        return cls(found, _frozen(contents), _frozen(keys), Map(owners), Map(sources), Map(minutes), signed, Map(places), columns)


def _counted(index: Map[Any, int], name: Any, more: int) -> Map[Any, int]:
    count = index.get(name, 0) + more
    return index.set(name, count) if count else index.delete(name)


def _frozen(found: Mapping[Any, set[str]]) -> Map[Any, frozenset[str]]:
    return Map({name: frozenset(ids) for name, ids in found.items()})


def _added(index: Map[Any, frozenset[str]], name: Any, document_id: str) -> Map[Any, frozenset[str]]:
    return index.set(name, index.get(name, frozenset()) | {document_id})


def _removed(index: Map[Any, frozenset[str]], name: Any, document_id: str) -> Map[Any, frozenset[str]]:
    left = index[name] - {document_id}
    return index.set(name, left) if left else index.delete(name)


def _cells(row: LedgerRow) -> dict[str, Any]:
    return {
        "updates": row.updates,
        "document_id": row.document_id,
        "topic": row.partition.topic,
        "partition": row.partition.number,
        "offset": row.offset,
        "key": row.key,
        "timestamp": row.timestamp_ms,
        "event_time": row.event_time_ms,
        "title": row.title,
        "source": row.source,
        "link": row.link,
        "tokens": row.tokens,
        "tokens_left_out": row.tokens_left_out,
        "content_sha256": row.content_sha256,
        "signature": row.signature,
    }


def _row(cells: dict[str, Any], event_time_ms: int, timestamp_ms: int) -> LedgerRow:
    own = {name: value for name, value in cells.items() if name not in ("updates", "topic", "partition")}
    return LedgerRow(
        updates=tuple(cells["updates"]),
        partition=Partition(cells["topic"], cells["partition"]),
        event_time_ms=event_time_ms,
        timestamp_ms=timestamp_ms,
        **own,
    )
