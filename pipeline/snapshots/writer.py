"""Snapshots: a stream's whole state, written so that it exists entirely or not at all.

    <root>/<stream>/generations/<g>.json                    ONE-WRITER: created if absent by each new writer
                    epochs/<n>.json                         the manifest, MANIFEST-LAST: created if absent, once
                    blocks/<first>-<last>-<g>-<attempt>.arrow   a segment: blocks that no snapshot before had, see segments.py
                    pins/<n>.json, garbage/<id>.json        what is kept and what is to go, see pins.py and collector.py
                    data/<n>-<g>-<attempt>/index.arrow      which blocks of which segments are alive
                                           pool.arrow       instead of both, a token pool, see pool_image.py
                                           ledger.arrow     what is remembered, see ledger.py

Each attempt writes into a data folder and a segment of its own, and nothing is ever written twice. Blocks never change, so a snapshot is
incremental by nature: it writes the blocks since the last one and names the segments that hold the rest; some of those it may write anew,
so that segments stay few and full (merging.py). So whatever goes wrong (a crash, a request whose answer is lost, a writer that does not
know yet that it was replaced), nobody can touch a byte that a manifest names; what no manifest names is garbage, harmless, and collected
(collector.py).

What a stale writer can still do: pass its last check, be suspended, and create its manifest after a newer writer claimed the stream.
It chose its epoch before that check, so the epoch lies at or below the newer writer's first one. If both want it, one creation fails:
the stale writer stops, the newer one goes on to the next epoch. If the stale one gets it, that is a true earlier state, and never the
latest once the newer writer has published. (If it slept for longer than `retention.garbage_after_s`, its objects may be gone: a broken
snapshot that is passed over and, in time, removed.)
"""

from __future__ import annotations

import json
import logging
import os
import platform
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.errors import SnapshotCorrupt, StaleWriter
from pipeline.positions import StreamState, format_positions, format_topic_ids
from pipeline.snapshots.checksums import Digest
from pipeline.snapshots.config import SnapshotConfig
from pipeline.snapshots.manifest import BlockShape, Manifest, ObjectEntry, PoolShape
from pipeline.snapshots.merging import blocks_to_move
from pipeline.snapshots.pool_image import PoolImage, write_pool
from pipeline.snapshots.reader import Inspected, Latest, Problem, SnapshotReader, manifest_name
from pipeline.snapshots.segments import BlockImage, BlocksImage, index_table, memory_sha256, write_segment
from pipeline.strict_json import strict_json

__all__ = ["Inspected", "Latest", "Problem", "SnapshotConfig", "SnapshotContent", "SnapshotReader", "SnapshotStore"]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SnapshotContent:
    """All of a snapshot, of one moment (ONE-STATE): staged, so that the stream goes on while it is written."""

    memory: PoolImage | BlocksImage
    state: StreamState
    fingerprint: str
    seed: int
    config: Mapping[str, Any]
    build: Mapping[str, Any]
    device: str
    threads: int


class SnapshotStore(SnapshotReader):
    """The snapshots of one stream, to read and to write. Every method may raise StoreUnavailable, which is retriable."""

    def __init__(self, config: SnapshotConfig, stream: str) -> None:
        super().__init__(config.root, stream, config.signing_keys)
        self._merge_bytes = config.merge_bytes
        self._published: dict[str, ObjectEntry] = {}
        self._restored: int | None = None

    def adopt(self, manifest: Manifest) -> None:
        """Go on from a snapshot that was restored: the next one may name its segments, and it is kept until then."""
        self._published = {entry.path: entry for entry in manifest.segments}
        self._restored = manifest.epoch

    def claim_generation(self, deployment: str = "", after: int | None = None) -> int:
        """Become the stream's writer: all earlier ones stop when they next look.

        Args:
            deployment: whose replicas may take over from each other.
            after: the newest generation that the deployment knows to be its own; another one's newer claim is respected. None: no claim is.

        Raises:
            ConfigurationError: the store cannot tell two writers apart.
            StaleWriter: another deployment has claimed the stream since `after`.
        """
        self.objects.require_create_if_absent()
        while True:
            newest = max(self._numbers("generations"), default=0)
            if after is not None and newest > after and self.claimed_by(newest) != deployment:
                raise StaleWriter(
                    f"generation {newest} of another deployment has claimed {self.url}: this one, of {after}, does not take over"
                )
            try:
                self.objects.create(f"generations/{newest + 1:08d}.json", _claim(newest + 1, deployment, self._restored))
                return newest + 1
            except FileExistsError:
                continue

    def claimed_by(self, generation: int | None = None) -> str | None:
        """The deployment that has made a claim, the newest one if none is named; None where that cannot be known."""
        numbers = [generation] if generation is not None else self._numbers("generations")
        try:
            claim = strict_json(self.objects.read(f"generations/{max(numbers, default=0):08d}.json").decode())
            return str(claim["deployment"])
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None

    def require_writer(self, generation: int) -> None:
        """ONE-WRITER: raises StaleWriter if a newer generation than `generation` has claimed the stream."""
        newest = max(self._numbers("generations"), default=0)
        if newest > generation:
            raise StaleWriter(f"generation {newest} has claimed {self.url}, this writer holds {generation}: it stops without a snapshot")

    def write(self, content: SnapshotContent, generation: int, *, merge: bool = True) -> Manifest:
        """Write a snapshot; it exists when this returns. A pool is streamed one layer at a time, blocks one batch at a time.

        `merge`: write some blocks anew, `snapshots.merge_bytes` of them at most; False where time is short.

        1. Prove that the state's counts add up, and that this writer is the newest.
        2. Choose the epoch: one past the last.
        3. Write memory and ledger under names that no other attempt uses; they are durable before the next step.
        4. Look again whether this writer is the newest: step 3 may have taken minutes.
        5. Create the manifest (MANIFEST-LAST).

        Raises StaleWriter before step 5, ValueError where the content contradicts itself. Until step 5 begins a failed attempt's objects
        are removed; from then on the manifest may have landed although the answer was lost, so they stay.
        """
        content.state.check()  # 1
        self.require_writer(generation)
        epoch = max(self.epochs(), default=0) + 1  # 2
        attempt = f"{generation}-{uuid4().hex[:8]}"
        folder = f"data/{epoch:08d}-{attempt}"
        with ExitStack() as undo:
            undo.callback(self.objects.discard, folder)
            shape, sha256, objects = self._write_memory(folder, attempt, content, undo, self._merge_bytes if merge else 0)  # 3
            ledger = self._write_table(f"{folder}/ledger.arrow", content.state.ledger.to_table())
            self.require_writer(generation)  # 4
            manifest = _manifest(self.stream, epoch, generation, content, shape, sha256, (*objects, ledger))
            undo.pop_all()
        manifest = self.publish(manifest)  # 5
        self._published = {entry.path: entry for entry in manifest.segments}
        return manifest

    def _write_memory(
        self, folder: str, attempt: str, content: SnapshotContent, undo: ExitStack, merge_bytes: int
    ) -> tuple[PoolShape | BlockShape, str, tuple[ObjectEntry, ...]]:
        image = content.memory
        if isinstance(image, PoolImage):
            path = f"{folder}/pool.arrow"
            with self.objects.writer(path) as sink:
                rows, sha256 = write_pool(sink, image, content.fingerprint)
            return image.shape, sha256, (_entry(path, rows, sink.digest),)
        homes, rows_, segments = self._write_blocks(image, attempt, content.fingerprint, undo, merge_bytes)
        index = self._write_table(f"{folder}/index.arrow", index_table(image.updates, image.documents, homes, rows_, image.digests))
        return image.shape.model_copy(update={"blocks": len(image.updates)}), memory_sha256(image.digests), (*segments, index)

    def _write_blocks(
        self, image: BlocksImage, attempt: str, fingerprint: str, undo: ExitStack, merge_bytes: int
    ) -> tuple[NDArray[np.int32], NDArray[np.int32], tuple[ObjectEntry, ...]]:
        """Where each block lies now, and the segments that still hold something, the new one last."""
        known = [self._published.get(path) for path in image.segments]
        homes, rows = image.homes.copy(), image.rows.copy()
        # What lies where the last manifest does not name it any more may go at any time: it is written like what is new.
        homes[np.isin(homes, [number for number, entry in enumerate(known) if entry is None])] = -1
        written_rows = [0 if entry is None else entry.rows for entry in known]
        moving = blocks_to_move(homes, image.tokens.astype(np.int64) * image.shape.token_bytes, written_rows, merge_bytes)
        segments: list[ObjectEntry | None] = list(known)
        chosen = np.union1d(np.flatnonzero(homes < 0), moving)
        if len(chosen):
            entry, written = self._write_segment(image, chosen, homes, attempt, fingerprint, undo)
            homes[written], rows[written] = len(segments), np.arange(len(written), dtype=np.int32)
            segments.append(entry)
        used, homes_ = np.unique(homes, return_inverse=True)
        left = [segments[number] for number in used.tolist()]
        return homes_.astype(np.int32).reshape(-1), rows, tuple(entry for entry in left if entry is not None)

    def _write_segment(
        self, image: BlocksImage, chosen: NDArray[np.int64], homes: NDArray[np.int32], attempt: str, fingerprint: str, undo: ExitStack
    ) -> tuple[ObjectEntry, list[int]]:
        written: list[int] = []

        def blocks() -> Iterator[BlockImage]:
            for index in chosen.tolist():
                try:
                    block = image.block(index)
                except SnapshotCorrupt as error:
                    if homes[index] < 0:
                        raise
                    log.warning("block %d stays where it is: %s", image.updates[index], error)
                    continue
                written.append(index)
                yield block

        path = f"blocks/{image.updates[chosen[0]]:010d}-{image.updates[chosen[-1]]:010d}-{attempt}.arrow"
        undo.callback(self.objects.discard, path)
        with self.objects.writer(path) as sink:
            rows = write_segment(sink, blocks(), image.shape, fingerprint)
        return _entry(path, rows, sink.digest), written

    def _write_table(self, path: str, table: pa.Table) -> ObjectEntry:
        with self.objects.writer(path) as sink, pa.ipc.new_file(pa.PythonFile(sink, mode="w"), table.schema) as writer:
            writer.write_table(table)
        return _entry(path, table.num_rows, sink.digest)

    def publish(self, manifest: Manifest) -> Manifest:
        """MANIFEST-LAST: create it, under the next number where that one is taken. Raises StaleWriter where a newer writer took it."""
        while True:
            try:
                self.objects.create(manifest_name(manifest.epoch), manifest.to_json(self._keys))
                return manifest
            except FileExistsError:
                self.require_writer(manifest.generation)
                manifest = manifest.model_copy(update={"epoch": manifest.epoch + 1})


def now() -> datetime:
    """When a snapshot is made, by its writer's clock."""
    return datetime.now(UTC)


def _claim(generation: int, deployment: str, restored: int | None) -> bytes:
    claim = {
        "generation": generation,
        "deployment": deployment,
        "restored": restored,
        "claimed_at": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "host": platform.node(),
        "pid": os.getpid(),
        "token": uuid4().hex,  # makes it unlike any other claim, see ObjectStore.create
    }
    return json.dumps(claim, indent=2).encode() + b"\n"


def _entry(path: str, rows: int, digest: Digest) -> ObjectEntry:
    return ObjectEntry(path=path, size_bytes=digest.size_bytes, rows=rows, sha256=digest.sha256)


def _manifest(
    stream: str,
    epoch: int,
    generation: int,
    content: SnapshotContent,
    shape: PoolShape | BlockShape,
    sha256: str,
    objects: tuple[ObjectEntry, ...],
) -> Manifest:
    state = content.state
    return Manifest(
        stream=stream,
        epoch=epoch,
        generation=generation,
        created_at=now(),
        model_fingerprint=content.fingerprint,
        memory=shape,
        memory_sha256=sha256,
        seed=content.seed,
        update_number=state.update_number,
        commits=state.commits,
        origin=format_positions(state.origin),
        positions=format_positions(state.positions),
        topic_ids=format_topic_ids(state.topic_ids),
        tokens_left_out=state.tokens_left_out,
        documents_cut=state.documents_cut,
        watermark_ms=state.watermark_ms,
        counts=dict(state.counts),
        config=dict(content.config),
        build=dict(content.build),
        device=content.device,
        threads=content.threads,
        objects=objects,
    )
