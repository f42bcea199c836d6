"""What can be asked of the snapshots of one stream without writing any: which there are, whether they are whole, and what they hold."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from pipeline.errors import ConfigurationError, NoSuchSnapshot, SnapshotCorrupt
from pipeline.ledger import LEDGER_SCHEMA, Ledger
from pipeline.positions import StreamState, parse_positions, parse_topic_ids
from pipeline.snapshots.arrow import corrupt_if_unreadable, read_batches
from pipeline.snapshots.cache import prune, segment_cache
from pipeline.snapshots.checksums import Digest
from pipeline.snapshots.manifest import BlockShape, Manifest, ObjectEntry, PoolShape
from pipeline.snapshots.pool_image import LayerImage, read_layers
from pipeline.snapshots.segments import INDEX_SCHEMA, MappedSegment, RestoredBlocks, memory_sha256, read_index
from pipeline.snapshots.signing import Keyring
from pipeline.snapshots.stores import open_store

_STREAM_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_NUMBERED = re.compile(r"(\d{8,18})\.json")


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """What is wrong with one object of one snapshot."""

    epoch: int
    path: str
    detail: str

    def __str__(self) -> str:
        return f"epoch {self.epoch}: {self.path}: {self.detail}"


class Inspected(NamedTuple):
    """One snapshot and what is wrong with it; no manifest if that is what is wrong."""

    epoch: int
    manifest: Manifest | None
    problems: tuple[Problem, ...]


class Latest(NamedTuple):
    """The newest good snapshot, and the problems of newer ones that were passed over."""

    manifest: Manifest
    problems: tuple[Problem, ...]


class SnapshotReader:
    """The snapshots of one stream, to read. Every method may raise StoreUnavailable, which is retriable.

    Args:
        root: where snapshots lie.
        stream: whose.
        signing_keys: where the keys are, one of which must have signed a manifest; none: signatures are not looked at.
    """

    def __init__(self, root: str, stream: str, signing_keys: Sequence[str] = ()) -> None:
        if not _STREAM_NAME.fullmatch(stream):
            raise ConfigurationError(f"stream name {stream!r}: use letters, digits, '.', '_' and '-', beginning with a letter or digit")
        self.stream, self._keys = stream, Keyring(signing_keys)
        self.objects = open_store(f"{root}/{stream}")

    @property
    def url(self) -> str:
        return self.objects.root

    def epochs(self) -> list[int]:
        """Numbers of all snapshots, ascending; whether they are whole is for `inspect` to say."""
        return self._numbers("epochs")

    def load(self, epoch: int) -> Manifest:
        """Raises SnapshotCorrupt, or NoSuchSnapshot."""
        name = manifest_name(epoch)
        try:
            manifest = Manifest.from_json(self.objects.read(name), self.objects.url(name), self._keys)
        except FileNotFoundError:
            raise NoSuchSnapshot(f"no snapshot {epoch} in {self.url}; there are: {self.epochs() or 'none'}") from None
        if (manifest.stream, manifest.epoch) != (self.stream, epoch):
            raise SnapshotCorrupt(f"{self.objects.url(name)}: this is the manifest of {manifest.stream}@{manifest.epoch}")
        return manifest

    def latest(self) -> Latest | None:
        """The newest snapshot that is whole, or None if there is none at all.

        Every object is read and compared with its digest, but for segments of blocks: those are mapped and compared with the index, and
        each of their blocks is checked when it is first used. A broken snapshot is passed over, and told in `problems`.
        Raises SnapshotCorrupt if there are snapshots and all are broken: beginning anew is not for us to decide.
        """
        problems: tuple[Problem, ...] = ()
        for epoch in reversed(self.epochs()):
            try:
                found = self.inspect(epoch, segments=False)
            except NoSuchSnapshot:
                continue  # retention has just removed it
            faults = found.problems or self._unmappable(found.manifest)
            if found.manifest is not None and not faults:
                return Latest(found.manifest, problems)
            problems += faults
        if problems:
            told = "; ".join(map(str, problems))
            raise SnapshotCorrupt(f"no snapshot in {self.url} is whole: {told}; restore one, or use another stream name or snapshots.root")
        return None

    def _unmappable(self, manifest: Manifest | None) -> tuple[Problem, ...]:
        """What is wrong inside segments whose size is right: their footers, their small columns."""
        if manifest is not None and isinstance(manifest.memory, BlockShape):
            try:
                self.read_blocks(manifest)
            except SnapshotCorrupt as error:
                return (Problem(epoch=manifest.epoch, path="blocks", detail=str(error)),)
        return ()

    def inspect(self, epoch: int, verify: bool = True, segments: bool = True) -> Inspected:
        """A snapshot with all its problems, for `memstream snapshots list` (`verify=False`: the manifest alone) and `verify`.

        Raises NoSuchSnapshot, also where retention removes it meanwhile.
        """
        try:
            manifest = self.load(epoch)
        except SnapshotCorrupt as error:
            return Inspected(epoch, None, (Problem(epoch=epoch, path=manifest_name(epoch), detail=str(error)),))
        problems = tuple(self.verify(manifest, segments)) if verify else ()
        if problems:
            self.load(epoch)  # what is no snapshot any more may miss anything
        return Inspected(epoch, manifest, problems)

    def verify(self, manifest: Manifest, segments: bool = True) -> list[Problem]:
        """Read every object and compare it with the manifest; nothing found, nothing wrong. `segments=False`: only look at their sizes."""
        found = [(entry, self._fault(entry) if segments or not entry.is_segment else self._size_fault(entry)) for entry in manifest.objects]
        return [Problem(epoch=manifest.epoch, path=entry.path, detail=fault) for entry, fault in found if fault is not None]

    def read_pool(self, manifest: Manifest) -> Iterator[LayerImage]:
        """The pool, one layer at a time, as writable copies.

        The digest is known after the last layer: SnapshotCorrupt then means that what was read so far must not be used.
        """
        entry = manifest.object("pool.arrow")
        if not isinstance(manifest.memory, PoolShape):
            raise SnapshotCorrupt(f"{self.stream}@{manifest.epoch} holds blocks, not a pool")
        try:
            with self.objects.reader(entry.path) as source:
                yield from read_layers(source, manifest.memory)
                self._require(entry, source.drain())
        except FileNotFoundError:
            raise SnapshotCorrupt(f"{self.objects.url(entry.path)} is missing") from None

    def open_segment(self, entry: ObjectEntry, shape: BlockShape) -> MappedSegment:
        """Map a segment; one of another store than this machine's disk is fetched into the cache folder first. Raises SnapshotCorrupt."""
        try:
            path = self.objects.local_path(entry.path, entry.sha256, segment_cache(self.url))
        except FileNotFoundError:
            raise SnapshotCorrupt(f"{self.objects.url(entry.path)} is missing") from None
        segment = MappedSegment(path, shape)
        if len(segment) != entry.rows:
            raise SnapshotCorrupt(f"{self.objects.url(entry.path)} has {len(segment)} blocks, the manifest says {entry.rows}")
        return segment

    def read_blocks(self, manifest: Manifest) -> RestoredBlocks:
        """All blocks of a snapshot, mapped; no states are read. Raises SnapshotCorrupt."""
        shape = manifest.memory
        if not isinstance(shape, BlockShape):
            raise SnapshotCorrupt(f"{self.stream}@{manifest.epoch} holds a pool, not blocks")
        updates, documents, homes, rows, digests = read_index(self._table(manifest.object("index.arrow"), INDEX_SCHEMA))
        segments = tuple((entry.path, self.open_segment(entry, shape)) for entry in manifest.segments)
        wrong = len(updates) != shape.blocks or memory_sha256(digests) != manifest.memory_sha256
        if wrong or (len(homes) and (homes.min() < 0 or homes.max() >= len(segments))):
            raise SnapshotCorrupt(f"{self.stream}@{manifest.epoch}: index.arrow and the manifest do not agree")
        for number, (path, segment) in enumerate(segments):
            own = rows[homes == number]
            if len(own) and (own.min() < 0 or own.max() >= len(segment) or (segment.digests[own] != digests[homes == number]).any()):
                raise SnapshotCorrupt(f"{self.objects.url(path)} and index.arrow of epoch {manifest.epoch} do not agree")
        prune(segment_cache(self.url), {entry.sha256 for entry in manifest.segments})
        return RestoredBlocks(updates=updates, documents=documents, digests=digests, homes=homes, rows=rows, segments=segments)

    def alive(self, manifest: Manifest) -> list[int]:
        """How many blocks of each of its segments are remembered. Raises SnapshotCorrupt."""
        _, _, homes, _, _ = read_index(self._table(manifest.object("index.arrow"), INDEX_SCHEMA))
        counts: list[int] = np.bincount(homes, minlength=len(manifest.segments)).tolist()
        return counts

    def read_ledger(self, manifest: Manifest) -> Ledger:
        """Raises SnapshotCorrupt."""
        entry = manifest.object("ledger.arrow")
        with corrupt_if_unreadable(self.objects.url(entry.path)):
            return Ledger.from_table(self._table(entry, LEDGER_SCHEMA))

    def _table(self, entry: ObjectEntry, schema: pa.Schema) -> pa.Table:
        try:
            data = self.objects.read(entry.path)
        except FileNotFoundError:
            raise SnapshotCorrupt(f"{self.objects.url(entry.path)} is missing") from None
        self._require(entry, Digest.of(data))
        return pa.Table.from_batches(read_batches(pa.py_buffer(data), schema, self.objects.url(entry.path)), schema)

    def read_state(self, manifest: Manifest) -> StreamState:
        """SNAPSHOT-IS-TRUTH: where the stream goes on. The state that `write` was given, with its ledger."""
        return StreamState(
            origin=parse_positions(manifest.origin),
            positions=parse_positions(manifest.positions),
            topic_ids=parse_topic_ids(manifest.topic_ids),
            watermark_ms=manifest.watermark_ms,
            counts=manifest.counts,
            update_number=manifest.update_number,
            commits=manifest.commits,
            ledger=self.read_ledger(manifest),
            tokens_left_out=manifest.tokens_left_out,
            documents_cut=manifest.documents_cut,
        )

    def _fault(self, entry: ObjectEntry) -> str | None:
        try:
            with self.objects.reader(entry.path) as source:
                return _difference(entry, source.drain())
        except FileNotFoundError:
            return "missing"
        except SnapshotCorrupt as error:  # the store noticed it first
            return str(error)

    def _size_fault(self, entry: ObjectEntry) -> str | None:
        try:
            size_bytes = self.objects.size_bytes(entry.path)
        except FileNotFoundError:
            return "missing"
        return None if size_bytes == entry.size_bytes else f"{size_bytes} bytes, the manifest says {entry.size_bytes}"

    def _require(self, entry: ObjectEntry, found: Digest) -> None:
        difference = _difference(entry, found)
        if difference is not None:
            raise SnapshotCorrupt(f"{self.objects.url(entry.path)}: {difference}")

    def _numbers(self, folder: str) -> list[int]:
        names = map(_NUMBERED.fullmatch, self.objects.names(folder))
        return sorted(int(name[1]) for name in names if name is not None)


def manifest_name(epoch: int) -> str:
    return f"epochs/{epoch:08d}.json"


def _difference(entry: ObjectEntry, found: Digest) -> str | None:
    if found.size_bytes != entry.size_bytes:
        return f"{found.size_bytes} bytes, the manifest says {entry.size_bytes}"
    if found.sha256 != entry.sha256:
        return f"its SHA-256 is {found.sha256}, the manifest says {entry.sha256}"
    return None
