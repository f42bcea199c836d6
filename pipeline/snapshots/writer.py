"""Snapshots: a stream's whole state, written so that it exists entirely or not at all.

    <root>/<stream>/generations/<g>.json                    ONE-WRITER: created if absent by each new writer
                    epochs/<n>.json                         the manifest, MANIFEST-LAST: created if absent, once
                    blocks/<first>-<last>-<g>-<attempt>.arrow   a segment: blocks that no snapshot before had, see segments.py
                    data/<n>-<g>-<attempt>/index.arrow      which blocks of which segments are alive
                                           pool.arrow       instead of both, a token pool, see pool_image.py
                                           ledger.arrow     what is remembered, see ledger.py

Each attempt writes into a data folder and a segment of its own, and nothing is ever written twice. Blocks never change, so a snapshot is
incremental by nature: it writes the blocks since the last one and names the segments that hold the rest. So whatever goes wrong (a crash,
a request whose answer is lost, a writer that does not know yet that it was replaced), nobody can touch a byte that a manifest names; what
no manifest names is garbage and harmless.

What a stale writer can still do: pass its last check, be suspended, and create its manifest after a newer writer claimed the stream.
It chose its epoch before that check, so the epoch lies at or below the newer writer's first one. If both want it, one creation fails:
the stale writer stops, the newer one goes on to the next epoch. If the stale one gets it, that is a whole and true earlier state, and
never the latest once the newer writer has published.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, field_validator

from pipeline.decode import strict_json
from pipeline.errors import StaleWriter
from pipeline.positions import StreamState, format_positions
from pipeline.snapshots.checksums import Digest
from pipeline.snapshots.manifest import BlockShape, Manifest, ObjectEntry, PoolShape
from pipeline.snapshots.objects import checked_root
from pipeline.snapshots.pool_image import PoolImage, write_pool
from pipeline.snapshots.reader import Inspected, Latest, Problem, SnapshotReader, manifest_name
from pipeline.snapshots.segments import BlocksImage, index_table, memory_sha256, write_segment

__all__ = ["Inspected", "Latest", "Problem", "SnapshotConfig", "SnapshotContent", "SnapshotReader", "SnapshotStore"]


class SnapshotConfig(BaseModel):
    """Where a stream's snapshots lie, and how often one is written."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    root: str = Field(
        default="file://./runs/snapshots",
        validate_default=True,
        description="where snapshots lie: s3://, gs://, or file:// (one node only; relative to the working directory, ~ is home)",
    )
    every_s: float | None = Field(default=300.0, gt=0, description="seconds between snapshots while anything changes; null: not by time")
    every_updates: int | None = Field(default=None, gt=0, description="updates between snapshots; null: not by updates")

    @field_validator("root")
    @classmethod
    def _absolute(cls, root: str) -> str:
        return checked_root(root)

    def is_due(self, elapsed_s: float, updates: int) -> bool:
        """Whether a snapshot is due, `elapsed_s` and `updates` after the last one.

        >>> config = SnapshotConfig(every_s=300, every_updates=50)
        >>> config.is_due(10, 49), config.is_due(10, 50), config.is_due(300, 0)
        (False, True, True)
        """
        by_time = self.every_s is not None and elapsed_s >= self.every_s
        return by_time or (self.every_updates is not None and updates >= self.every_updates)


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
        super().__init__(config.root, stream)
        self._published: dict[str, ObjectEntry] = {}

    def adopt(self, manifest: Manifest) -> None:
        """Know the segments of a snapshot that was restored, so that the next one may name them."""
        self._published = {entry.path: entry for entry in manifest.segments}

    def claim_generation(self, deployment: str = "", after: int | None = None) -> int:
        """Become the stream's writer: all earlier ones stop when they next look.

        Args:
            deployment: whose replicas may take over from each other.
            after: the newest generation that the deployment knows to be its own; another one's newer claim is respected. None: no claim is.

        Raises:
            ConfigurationError: the store cannot tell two writers apart.
            StaleWriter: another deployment has claimed the stream since `after`.
        """
        self._objects.require_create_if_absent()
        while True:
            newest = max(self._numbers("generations"), default=0)
            if after is not None and newest > after and self.claimed_by(newest) != deployment:
                raise StaleWriter(
                    f"generation {newest} of another deployment has claimed {self.url}: this one, of {after}, does not take over"
                )
            try:
                self._objects.create(f"generations/{newest + 1:08d}.json", _claim(newest + 1, deployment))
                return newest + 1
            except FileExistsError:
                continue

    def claimed_by(self, generation: int | None = None) -> str | None:
        """The deployment that has made a claim, the newest one if none is named; None where that cannot be known."""
        numbers = [generation] if generation is not None else self._numbers("generations")
        try:
            claim = strict_json(self._objects.read(f"generations/{max(numbers, default=0):08d}.json").decode())
            return str(claim["deployment"])
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None

    def require_writer(self, generation: int) -> None:
        """ONE-WRITER: raises StaleWriter if a newer generation than `generation` has claimed the stream."""
        newest = max(self._numbers("generations"), default=0)
        if newest > generation:
            raise StaleWriter(f"generation {newest} has claimed {self.url}, this writer holds {generation}: it stops without a snapshot")

    def write(self, content: SnapshotContent, generation: int) -> Manifest:
        """Write a snapshot; it exists when this returns. A pool is streamed one layer at a time, new blocks one batch at a time.

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
            undo.callback(self._objects.discard, folder)
            shape, sha256, objects = self._write_memory(folder, attempt, content, undo)  # 3
            ledger = self._write_table(f"{folder}/ledger.arrow", content.state.ledger.to_table())
            self.require_writer(generation)  # 4
            manifest = _manifest(self.stream, epoch, generation, content, shape, sha256, (*objects, ledger))
            undo.pop_all()
        return self._publish(manifest)  # 5

    def _write_memory(
        self, folder: str, attempt: str, content: SnapshotContent, undo: ExitStack
    ) -> tuple[PoolShape | BlockShape, str, tuple[ObjectEntry, ...]]:
        image = content.memory
        if isinstance(image, PoolImage):
            path = f"{folder}/pool.arrow"
            with self._objects.writer(path) as sink:
                rows, sha256 = write_pool(sink, image, content.fingerprint)
            return image.shape, sha256, (_entry(path, rows, sink.digest),)
        segments = tuple(self._published[path] for path in image.segments)
        fresh = image.updates[image.homes < 0]
        if len(fresh):
            path = f"blocks/{fresh[0]:010d}-{fresh[-1]:010d}-{attempt}.arrow"
            undo.callback(self._objects.discard, path)
            with self._objects.writer(path) as sink:
                rows = write_segment(sink, image.new, image.shape, content.fingerprint)
            if rows != len(fresh):
                raise ValueError(f"the image announces {len(fresh)} new blocks and holds {rows}")
            entry = _entry(path, rows, sink.digest)
            self._published[path] = entry
            segments += (entry,)
        index = self._write_table(f"{folder}/index.arrow", index_table(image, len(image.segments)))
        return image.shape.model_copy(update={"blocks": len(image.updates)}), memory_sha256(image.digests), (*segments, index)

    def _write_table(self, path: str, table: pa.Table) -> ObjectEntry:
        with self._objects.writer(path) as sink, pa.ipc.new_file(pa.PythonFile(sink, mode="w"), table.schema) as writer:
            writer.write_table(table)
        return _entry(path, table.num_rows, sink.digest)

    def _publish(self, manifest: Manifest) -> Manifest:
        while True:
            try:
                self._objects.create(manifest_name(manifest.epoch), manifest.to_json())
                return manifest
            except FileExistsError:
                self.require_writer(manifest.generation)
                manifest = manifest.model_copy(update={"epoch": manifest.epoch + 1})


def _claim(generation: int, deployment: str) -> bytes:
    claim = {
        "generation": generation,
        "deployment": deployment,
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
        created_at=datetime.now(UTC),
        model_fingerprint=content.fingerprint,
        memory=shape,
        memory_sha256=sha256,
        seed=content.seed,
        update_number=state.update_number,
        commits=state.commits,
        origin=format_positions(state.origin),
        positions=format_positions(state.positions),
        topic_ids=dict(state.topic_ids),
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
