"""Retention and garbage: what is kept, what goes, and when what nobody names any more goes after it.

    survey    list the stream's folder, read the manifests that are new: what is kept, and what no manifest names
    announce  `garbage/<id>.json`: snapshots that go now, objects that go once they have waited (mark)
    survey    once more: what was pinned, claimed or published meanwhile counts
    remove    manifests that are not kept; then marked objects that have waited long enough and that still no manifest names (sweep)

Safe beside a running writer: an attempt's objects are written before its manifest, so what the newest generation wrote since its last
manifest is never garbage, however long it takes. Safe beside a reader: from when a manifest goes, its objects stay for
`retention.garbage_after_s`, and a file that is mapped outlives its name. Safe beside another collector: removing is all that either does.
All times are the store's own, so clocks that differ do no harm; marks lie in the store, so whoever collects next finds them.

What a forged list, pin or claim can do: nothing is removed that a manifest names, or that is younger than `garbage_after_s`.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import uuid4

from pipeline.errors import StaleWriter
from pipeline.snapshots.cache import prune, segment_cache
from pipeline.snapshots.config import RetentionConfig
from pipeline.snapshots.objects import Seen
from pipeline.snapshots.pins import GarbageList
from pipeline.snapshots.reader import SnapshotReader, manifest_name
from pipeline.snapshots.retention import Dated, Why, kept
from pipeline.snapshots.survey import Manifests, Named, newest_generation, pinned, restored_by, unnamed

MOST_REMOVED: Final = 512
"""Objects, and as many manifests, that one run removes; what is left goes in the next."""

MOST_MARKED: Final = 20_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """What is kept of the snapshots there are, and for what; what goes; and those that are broken."""

    why: Mapping[int, Why]
    expired: tuple[int, ...] = ()
    broken: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Collected:
    """What one run did, or would do. `unfinished`: there is more to do than one run does."""

    kept: Kept
    expired: tuple[int, ...] = ()
    removed: tuple[str, ...] = ()
    freed_bytes: int = 0
    waiting: int = 0
    waiting_bytes: int = 0
    under_way: tuple[str, ...] = ()
    unfinished: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class _Survey:
    seen: Mapping[str, Seen]
    named: Mapping[int, Named]
    kept: Kept
    garbage: tuple[str, ...]
    under_way: tuple[str, ...]
    unfinished: bool


class Collector:
    """Applies `snapshots.retention` to one stream. Only its newest writer, or a person, may. Every method may raise StoreUnavailable."""

    def __init__(self, reader: SnapshotReader, retention: RetentionConfig) -> None:
        self._reader, self._objects, self._retention = reader, reader.objects, retention
        self._manifests = Manifests(reader)

    def kept(self) -> Kept:
        """Which snapshots are kept now, and for what. Nothing is changed."""
        return self._survey().kept

    def unnamed(self) -> list[str]:
        """Objects that no manifest names, those of an attempt under way included."""
        seen = self._objects.listing()
        garbage, under_way = unnamed(seen, self._manifests.named(seen)[0])
        return sorted(garbage + under_way)

    def plan(self) -> Collected:
        """What `collect` would do now, by this machine's clock."""
        found = self._survey()
        expiring = found.kept.expired[:MOST_REMOVED]
        marks = self._marks(found, expiring)
        due = self._due(found, marks, found.garbage, datetime.now(UTC).timestamp())
        return self._collected(found, marks, expiring, due, found.unfinished)

    def collect(self, generation: int | None = None) -> Collected:
        """One run: bounded work. `generation`: the writer that asks; it must be the newest, else StaleWriter is raised."""
        first = self._survey(generation)
        expiring = first.kept.expired[:MOST_REMOVED]
        marks = self._marks(first, expiring)
        if not expiring and not marks and not any(name.startswith("garbage/") for name in first.seen):
            return self._collected(first, marks, (), (), first.unfinished)
        announced = self._announce(first, marks, expiring)
        now_s = self._objects.modified_s(announced)
        second = self._survey(generation)
        # What is kept, named or pinned by now stays.
        expired = tuple(epoch for epoch in expiring if epoch in second.kept.expired)
        due = self._due(first, marks, second.garbage, now_s)
        older = [name for name, info in second.seen.items() if name.startswith("garbage/") and info.modified_s < now_s]
        for name in (*map(manifest_name, expired), *due, *older):
            self._objects.remove(name)
        self._prune_cache(each for epoch, each in second.named.items() if epoch not in expired)
        more = first.unfinished or second.unfinished or len(second.kept.expired) > len(expired) or len(due) == MOST_REMOVED
        return self._collected(first, marks, expired, due, more)

    def _prune_cache(self, named: Iterable[Named]) -> None:
        digests = {digest for each in named for digest in each.digests}
        prune(segment_cache(self._reader.url), digests, self._retention.garbage_after_s)

    def _survey(self, generation: int | None = None) -> _Survey:
        seen = self._objects.listing()
        newest = newest_generation(seen)
        if generation is not None and newest > generation:
            raise StaleWriter(f"generation {newest} has claimed {self._reader.url}, this writer holds {generation}: it collects nothing")
        named, unfinished = self._manifests.named(seen)
        decided = self._decided(seen, named, newest)
        garbage, under_way = unnamed(seen, named)
        # Where nothing is whole, nothing is removed: somebody must look at it first. Nor before all manifests were read.
        return _Survey(
            seen=seen,
            named=named,
            kept=decided,
            garbage=tuple(garbage) if decided.why and not unfinished else (),
            under_way=tuple(under_way),
            unfinished=unfinished,
        )

    def _decided(self, seen: Mapping[str, Seen], named: Mapping[int, Named], newest_writer: int) -> Kept:
        whole = [each for each in named.values() if each.is_whole(seen)]
        broken = [each for each in named.values() if not each.is_whole(seen)]
        if not whole:
            return Kept(why={}, broken=tuple(sorted(each.epoch for each in broken)))
        why = kept((Dated(each.epoch, each.created_at) for each in whole), self._retention)
        held = pinned(seen)
        if all(each.generation != newest_writer for each in named.values()):
            restored = restored_by(self._reader, newest_writer)
            why |= {each.epoch: "restored" for each in named.values() if each.epoch == restored and each.epoch not in why}
        why |= {each.epoch: "pinned" for each in named.values() if each.epoch in held}
        newest = max(whole, key=lambda each: each.epoch)
        # A broken one is left to be looked at for as long as the oldest that is kept by time.
        until = newest.created_at - self._horizon
        old = [each.epoch for each in broken if each.epoch < newest.epoch and each.created_at < until and not self._retention.keep_all]
        expired = [each.epoch for each in whole if each.epoch not in why] + [epoch for epoch in old if epoch not in why]
        return Kept(why=why, expired=tuple(sorted(expired)), broken=tuple(sorted(each.epoch for each in broken)))

    @property
    def _horizon(self) -> timedelta:
        return max(
            timedelta(days=self._retention.daily),
            timedelta(hours=self._retention.hourly),
            timedelta(seconds=self._retention.garbage_after_s),
        )

    def _marks(self, found: _Survey, expiring: Collection[int]) -> dict[str, float | None]:
        """When each object that nothing names, or nothing will right after this, was first seen so; None: now."""
        if found.unfinished or not found.kept.why:
            return {}
        garbage, _ = unnamed(found.seen, {epoch: each for epoch, each in found.named.items() if epoch not in expiring})
        lists = sorted((info.modified_s, name) for name, info in found.seen.items() if name.startswith("garbage/"))
        before = next((each for _, name in reversed(lists) if (each := GarbageList.read(self._objects, name)) is not None), None)
        made_s = lists[-1][0] if lists else 0.0
        since = {name: made_s if first_s is None else first_s for name, first_s in (before.marked if before else {}).items()}
        ordered = sorted(garbage, key=lambda name: since.get(name, made_s))
        return {name: since.get(name) for name in ordered[:MOST_MARKED]}

    def _due(self, first: _Survey, marks: Mapping[str, float | None], still: Collection[str], now_s: float) -> tuple[str, ...]:
        """What has waited long enough: since it was first seen unnamed, and since it was written."""
        garbage, before_s = set(still), now_s - self._retention.garbage_after_s
        waited = [
            name
            for name, first_s in marks.items()
            if name in garbage and (now_s if first_s is None else first_s) <= before_s and first.seen[name].modified_s <= before_s
        ]
        return tuple(waited[:MOST_REMOVED])

    def _announce(self, found: _Survey, marks: Mapping[str, float | None], expiring: tuple[int, ...]) -> str:
        content = GarbageList(made_at=datetime.now(UTC), by=platform.node(), token=uuid4().hex, expired=expiring, marked=dict(marks))
        name = f"garbage/{content.token}.json"
        self._objects.create(name, json.dumps(content.model_dump(mode="json")).encode() + b"\n")
        return name

    def _collected(
        self, found: _Survey, marks: Collection[str], expired: tuple[int, ...], removed: tuple[str, ...], unfinished: bool
    ) -> Collected:
        waiting = set(marks) - set(removed)
        return Collected(
            kept=found.kept,
            expired=expired,
            removed=removed,
            freed_bytes=sum(found.seen[name].size_bytes for name in removed),
            waiting=len(waiting),
            waiting_bytes=sum(found.seen[name].size_bytes for name in waiting),
            under_way=found.under_way,
            unfinished=unfinished,
        )
