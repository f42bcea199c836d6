"""What must hold after a run, whatever was done to it: each sentence that comes out says what does not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from actors.engines import engine_options
from actors.images import images_of
from model.loading import load_engine
from pipeline.ledger import Ledger
from pipeline.positions import StreamState
from pipeline.records import Outcome, Partition, Record
from pipeline.snapshots.reader import Latest
from pipeline.snapshots.writer import SnapshotConfig, SnapshotStore
from tests.faults.memories import Memory, memory_of
from tests.faults.rebuild import Rebuilt, rebuild
from tests.faults.world import World


def problems_of(world: World, drained: Sequence[Mapping[str, Any]]) -> list[str]:
    """Everything that is wrong, the worst first; nothing found, nothing wrong."""
    rebuilt = rebuild(world.config, [*world.lost, *world.records()])
    return [
        *_counts(world, drained, rebuilt),
        *_durable(world, drained, rebuilt),
        *_letters(world, rebuilt),
        *_manifests(world),
        *_replicas(drained),
    ]


def _counts(world: World, drained: Sequence[Mapping[str, Any]], rebuilt: Rebuilt) -> Iterator[str]:
    """NOTHING-SILENT: each offset is exactly one of six, and the one that it must be."""
    want = {outcome.value: rebuilt.counts.get(outcome, 0) for outcome in Outcome}
    for status in drained:
        who, counts = f"replica {status['replica']}", dict(status["counts"])
        if sum(counts.values()) != world.published:
            yield f"{who} counts {sum(counts.values())} offsets, {world.published} were published: {counts}"
        if counts != want:
            yield f"{who} counts {counts}, a plain read of the topic gives {want}"
        if status["position"] != world.position():
            yield f"{who} stands at {status['position']}, the topic ends at {world.position()}"
        if status["watermark_ms"] != rebuilt.watermark_ms:
            yield f"{who} has watermark {status['watermark_ms']}, a plain read gives {rebuilt.watermark_ms}"


def _durable(world: World, drained: Sequence[Mapping[str, Any]], rebuilt: Rebuilt) -> Iterator[str]:
    """SNAPSHOT-IS-TRUTH, REPLAY-EXACT: what a restart would find is what one plain read gives."""
    latest = world.reader().latest()
    if latest is None:
        yield "there is no snapshot"
        return
    try:
        memory, state = restored(world, latest)
    except ValueError as error:
        yield f"epoch {latest.manifest.epoch}: {error}"
        return
    try:
        state.check()
    except ValueError as error:
        yield f"the state of epoch {latest.manifest.epoch} contradicts itself: {error}"
    if {str(partition): at for partition, at in state.positions.items()} != world.position():
        yield f"epoch {latest.manifest.epoch} stands at {latest.manifest.positions}, the topic ends at {world.position()}"
    if memory.sha256 != latest.manifest.memory_sha256:
        yield f"the memory of epoch {latest.manifest.epoch} is {memory.sha256}, its manifest says {latest.manifest.memory_sha256}"
    yield from _same_memory(world, memory, state, rebuilt)
    for status in drained if world.schedule.one_order or world.follows else drained[:1]:
        live = status.get("live_memory_sha256") or status["memory_sha256"] or memory.sha256
        if live != memory.sha256:
            yield f"the live memory of replica {status['replica']} is {live}, the durable one {memory.sha256}"


def _same_memory(world: World, memory: Memory, state: StreamState, rebuilt: Rebuilt) -> Iterator[str]:
    if state.update_number != rebuilt.updates:
        yield f"{state.update_number} updates were made, a plain read makes {rebuilt.updates}"
    if world.schedule.one_order and memory.sha256 != rebuilt.memory.sha256:
        yield f"the memory is {memory.sha256}, a plain read of the topic gives {rebuilt.memory.sha256}"
    elif Counter(memory.digests) != Counter(rebuilt.memory.digests):
        more, less = (Counter(a.digests) - Counter(b.digests) for a, b in ((memory, rebuilt.memory), (rebuilt.memory, memory)))
        yield f"{more.total()} blocks are in memory that a plain read does not give, {less.total()} are missing"
    ours, theirs = _documents(state.ledger), _documents(rebuilt.ledger)
    if ours != theirs:
        yield f"documents remembered that should not be: {sorted(ours - theirs)}; missing: {sorted(theirs - ours)}"
    if world.schedule.one_order and state.ledger != rebuilt.ledger:
        yield "the ledger is not that of a plain read"
    owned = {update for row in state.ledger for update in row.updates}
    if memory.updates and owned != set(memory.updates):
        alone, missing = set(memory.updates) - owned, owned - set(memory.updates)
        yield f"blocks that belong to no document: {sorted(alone)}; blocks of documents that are not there: {sorted(missing)}"


def _documents(ledger: Ledger) -> set[tuple[str, str, int, str, int]]:
    return {(row.document_id, str(row.partition), row.offset, row.content_sha256, len(row.updates)) for row in ledger}


def restored(world: World, latest: Latest) -> tuple[Memory, StreamState]:
    """Memory and state as a fresh replica would have them."""
    store = SnapshotStore(SnapshotConfig(root=world.root), world.name)
    engine = load_engine(Path(world.config.model.name), "cpu", world.config.model.dtype, engine_options(world.config))
    images_of(engine).restoring(latest.manifest, store)()
    return memory_of(engine, trusting=world.has_broken_blocks), store.read_state(latest.manifest)


def _letters(world: World, rebuilt: Rebuilt) -> Iterator[str]:
    """Each dead letter counted is in the topic of dead letters, at least once, with key and value untouched; and no other record is."""
    want = {(record.partition, record.offset, record.timestamp_ms): record for record in rebuilt.letters}
    found = dict(map(_origin, _letter_records(world)))
    if lost := want.keys() - found.keys():
        yield f"dead letters that never arrived: {sorted((str(partition), offset) for partition, offset, _ in lost)}"
    if foreign := found.keys() - want.keys():
        yield f"dead letters of records that are fine: {sorted((str(partition), offset) for partition, offset, _ in foreign)}"
    for origin in want.keys() & found.keys():
        if (want[origin].key, want[origin].value) != (found[origin].key, found[origin].value):
            yield f"the dead letter of {origin[0]}@{origin[1]} has another key or value"


def _letter_records(world: World) -> list[Record]:
    from pipeline.topics import describe_topics
    from tests.topics import read_all

    if world.letters_topic not in describe_topics(world.kafka, [world.letters_topic]):
        return []
    return read_all(world.kafka, world.letters_topic)


def _origin(letter: Record) -> tuple[tuple[Partition, int, int], Record]:
    headers = {name.removeprefix("memstream."): value.decode() for name, value in letter.headers}
    return (Partition(headers["topic"], int(headers["partition"])), int(headers["offset"]), int(headers["timestamp_ms"])), letter


def _manifests(world: World) -> Iterator[str]:
    """MANIFEST-LAST, ONE-WRITER: each manifest that is there verifies, but for what was damaged on purpose; the lineage is one line."""
    reader, generation, position = world.reader(), 0, -1
    for epoch in reader.epochs():
        inspected = reader.inspect(epoch)
        for problem in inspected.problems:
            if problem.path not in world.damaged:
                yield f"{problem}"
        manifest = inspected.manifest
        if manifest is None:
            continue
        missed = {entry.path for entry in manifest.objects} & world.damaged - {problem.path for problem in inspected.problems}
        if missed:
            yield f"epoch {epoch}: {sorted(missed)} was damaged, and verifying it finds nothing"
        passed = sum(manifest.counts.values())
        if manifest.generation < generation:
            yield f"epoch {epoch} was written by generation {manifest.generation} after one of generation {generation}"
        if manifest.generation == generation and passed < position:
            yield f"epoch {epoch} goes back within its generation: {passed} offsets after {position}"
        generation, position = manifest.generation, passed


def _replicas(drained: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Followers equal the leader."""
    leader = drained[0]
    for status in drained[1:]:
        for what in ("position", "counts", "update_number", "watermark_ms", "remembered_documents"):
            if status[what] != leader[what]:
                yield f"replica {status['replica']}: {what} is {status[what]}, the leader's {leader[what]}"
