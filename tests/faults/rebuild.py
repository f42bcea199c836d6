"""What a stream must have come to: one plain read of its topic, record by record, with the model and without any actor.

consumer.poll -> decode -> admit -> chunk -> update -> count
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from kafka import KafkaConsumer, TopicPartition

from actors.config import StreamConfig
from actors.engines import engine_options
from model.engine import Engine, prepared
from model.loading import load_engine
from pipeline.admission import admit, doomed
from pipeline.chunks import chunk_document
from pipeline.decode import decode
from pipeline.ledger import Ledger, LedgerRow
from pipeline.records import DeadLetter, Document, Outcome, Partition, Record, Tombstone
from tests.faults.memories import Memory, memory_of

PATIENCE_S = 30.0


def plain_read(servers: Sequence[str], topic: str, ends: dict[int, int]) -> list[Record]:
    """All records of a topic up to `ends`, by partition: its last offsets, as whoever published was told."""
    if not ends:
        return []
    consumer = KafkaConsumer(bootstrap_servers=list(servers), auto_offset_reset="earliest", enable_auto_commit=False)
    assigned = {TopicPartition(topic, number): end for number, end in ends.items()}
    consumer.assign(list(assigned))
    consumer.seek_to_beginning()
    found, deadline_s = list[Record](), time.monotonic() + PATIENCE_S
    try:
        while any(consumer.position(each) < end for each, end in assigned.items()):
            if time.monotonic() > deadline_s:
                raise TimeoutError(f"{topic} was not read to {ends}")
            for each, batch in consumer.poll(timeout_ms=200).items():
                found.extend(_record(each, consumed) for consumed in batch)
    finally:
        consumer.close()
    return sorted(found, key=lambda record: (record.partition, record.offset))


def _record(where: Any, consumed: Any) -> Record:
    return Record(
        partition=Partition(where.topic, where.partition),
        offset=consumed.offset,
        timestamp_ms=consumed.timestamp,
        key=consumed.key,
        value=consumed.value,
        headers=tuple((name, value or b"") for name, value in consumed.headers),
    )


@dataclass(slots=True, kw_only=True)
class Rebuilt:
    """What the records came to. `letters`: the records that must be in the topic of dead letters."""

    counts: Counter[Outcome] = field(default_factory=Counter)
    letters: list[Record] = field(default_factory=list)
    ledger: Ledger = field(default_factory=Ledger)
    updates: int = 0
    watermark_ms: int | None = None
    memory: Memory


def rebuild(config: StreamConfig, records: Sequence[Record]) -> Rebuilt:
    """Learn the records one after the other, in the order in which they are given."""
    torch.set_num_threads(1)
    engine = load_engine(Path(config.model.name), "cpu", config.model.dtype, engine_options(config))
    rebuilt = Rebuilt(memory=Memory(sha256=""))
    for record in records:
        rebuilt.counts[_passed(record, rebuilt, engine, config)] += 1
    rebuilt.memory = memory_of(engine)
    return rebuilt


def _passed(record: Record, rebuilt: Rebuilt, engine: Engine, config: StreamConfig) -> Outcome:
    item = decode(record, config.decode)
    if isinstance(item, DeadLetter):
        rebuilt.letters.append(record)
        return Outcome.DEAD_LETTER
    if isinstance(item, Tombstone):
        rows = doomed(item, rebuilt.ledger) if engine.forgets else ()
        if rows:
            engine.commit((), [update for row in rows for update in row.updates])
            rebuilt.ledger = rebuilt.ledger.without([row.document_id for row in rows])
        return Outcome.DELETED if rows else Outcome.FILTERED
    rebuilt.watermark_ms = max(rebuilt.watermark_ms or 0, item.event_time_ms)
    return _learned(item, rebuilt, engine, config)


def _learned(document: Document, rebuilt: Rebuilt, engine: Engine, config: StreamConfig) -> Outcome:
    verdict = admit(document, rebuilt.ledger, config.admission)
    if verdict.document is None:
        return verdict.outcome
    sizes = {"update_tokens": engine.update_tokens, "most_updates": engine.most_updates, "min_tokens": engine.min_tokens}
    chunked = chunk_document(verdict.document, engine.encode, config.chunks, **sizes)
    old = verdict.replaces
    gone = old.updates if old is not None and engine.forgets else ()
    learned = engine.commit(prepared(engine, chunked.token_ids), gone)
    kept = chunked.tokens_total - chunked.tokens_left_out
    row = LedgerRow.of(verdict.document, learned.updates, tokens=kept, tokens_left_out=chunked.tokens_left_out)
    ledger = rebuilt.ledger if old is None else rebuilt.ledger.without([old.document_id])
    rebuilt.ledger = ledger.with_row(row).forgetting(learned.forgotten)
    rebuilt.updates += len(learned.updates)
    return Outcome.APPLIED
