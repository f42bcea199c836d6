"""What lies in a stream's folder, and what each manifest there names: all that retention decides from.

Only what has the name of something of ours is ever looked at; a file that somebody put there stays.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from pydantic import ValidationError

from pipeline.errors import NoSuchSnapshot, SnapshotCorrupt
from pipeline.snapshots.objects import Seen
from pipeline.snapshots.reader import SnapshotReader, manifest_name
from pipeline.strict_json import strict_json

MOST_READ: Final = 512
"""Manifests read in one run; a stream that has more of them is surveyed in several."""

_EPOCH: Final = re.compile(r"epochs/(\d{8,18})\.json")
_CLAIM: Final = re.compile(r"generations/(\d{8,18})\.json")
_PIN: Final = re.compile(r"pins/(\d{8,18})\.json")
_WRITTEN: Final = re.compile(r"(?:blocks/\d+-\d+|data/\d+)-(\d{1,18})-[0-9a-f]+(?:/[a-z]+)?\.arrow")
_LEFT_OVER: Final = re.compile(r"(?:[a-z]+/|data/[0-9a-f-]+/)\.[^/]+\.tmp|generations/\.probe-[0-9a-f]+")
_PATH: Final = re.compile(rb"(?:data/[A-Za-z0-9-]+/[a-z]+|blocks/[A-Za-z0-9-]+)\.arrow")


@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    """One manifest: what it names. Of one that cannot be read, what looks like a name in it, and no generation."""

    epoch: int
    created_at: datetime
    generation: int | None
    sizes: Mapping[str, int | None]
    digests: frozenset[str]

    def is_whole(self, seen: Mapping[str, Seen]) -> bool:
        return self.generation is not None and all(path in seen and seen[path].size_bytes == size for path, size in self.sizes.items())


class Manifests:
    """The manifests of a stream, each read once, since none ever changes."""

    def __init__(self, reader: SnapshotReader) -> None:
        self._reader = reader
        self._known: dict[tuple[int, Seen], Named] = {}

    def named(self, seen: Mapping[str, Seen]) -> tuple[dict[int, Named], bool]:
        """What the manifests in a listing name, the newest first; and whether some are still to be read.

        Raises SnapshotError for one that another version of memstream wrote.
        """
        there = {(int(match[1]), info): None for name, info in seen.items() if (match := _EPOCH.fullmatch(name))}
        self._known = {key: known for key, known in self._known.items() if key in there}
        found: dict[int, Named] = {}
        reads = 0
        for key in sorted(there, reverse=True):
            if key not in self._known:
                if reads == MOST_READ:
                    return found, True
                reads += 1
                try:
                    self._known[key] = self._read(*key)
                except (NoSuchSnapshot, FileNotFoundError):
                    continue
            found[key[0]] = self._known[key]
        return found, False

    def _read(self, epoch: int, info: Seen) -> Named:
        try:
            manifest = self._reader.load(epoch)
        except SnapshotCorrupt:
            made_at = datetime.fromtimestamp(info.modified_s, UTC)
            return Named(epoch=epoch, created_at=made_at, generation=None, sizes=dict.fromkeys(self._paths_in(epoch)), digests=frozenset())
        return Named(
            epoch=epoch,
            created_at=manifest.created_at,
            generation=manifest.generation,
            sizes={entry.path: entry.size_bytes for entry in manifest.objects},
            digests=frozenset(entry.sha256 for entry in manifest.segments),
        )

    def _paths_in(self, epoch: int) -> list[str]:
        try:
            return [path.decode() for path in _PATH.findall(self._reader.objects.read(manifest_name(epoch)))]
        except SnapshotCorrupt:
            return []


def newest_generation(seen: Mapping[str, Seen]) -> int:
    """0 if nobody has ever claimed the stream."""
    return max((int(match[1]) for name in seen if (match := _CLAIM.fullmatch(name))), default=0)


def pinned(seen: Mapping[str, Seen]) -> set[int]:
    return {int(match[1]) for name in seen if (match := _PIN.fullmatch(name))}


def restored_by(reader: SnapshotReader, generation: int) -> int | None:
    """The snapshot that the newest writer went on from, which it may be the only one to know."""
    try:
        claim = strict_json(reader.objects.read(f"generations/{generation:08d}.json").decode())
    except (FileNotFoundError, SnapshotCorrupt, ValidationError, ValueError):
        return None
    epoch = claim.get("restored") if isinstance(claim, dict) else None
    return epoch if type(epoch) is int else None


def unnamed(seen: Mapping[str, Seen], named: Mapping[int, Named]) -> tuple[list[str], list[str]]:
    """What no manifest names: garbage, and what may yet be named, since it belongs to an attempt that may be under way.

    A writer makes one attempt at a time, so whatever the newest generation wrote before its last manifest is settled.
    """
    newest = newest_generation(seen)
    settled_s = [seen[manifest_name(epoch)].modified_s for epoch, each in named.items() if each.generation == newest]
    settled_before_s = max(settled_s, default=float("-inf"))
    generations = {each.generation for each in named.values()}
    paths = {path for each in named.values() for path in each.sizes}
    garbage: list[str] = []
    under_way: list[str] = []
    for name, info in _unnamed(seen, paths, generations, named, newest):
        match = _WRITTEN.fullmatch(name)
        recent = match is not None and int(match[1]) >= newest and info.modified_s >= settled_before_s
        (under_way if recent else garbage).append(name)
    return sorted(garbage), sorted(under_way)


def _unnamed(
    seen: Mapping[str, Seen], paths: set[str], generations: set[int | None], named: Mapping[int, Named], newest: int
) -> Iterator[tuple[str, Seen]]:
    for name, info in seen.items():
        if name in paths:
            continue
        claim, pin = _CLAIM.fullmatch(name), _PIN.fullmatch(name)
        old_claim = claim is not None and int(claim[1]) < newest and int(claim[1]) not in generations
        lost_pin = pin is not None and int(pin[1]) not in named
        if old_claim or lost_pin or _WRITTEN.fullmatch(name) or _LEFT_OVER.fullmatch(name):
            yield name, info
