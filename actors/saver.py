"""Writes a replica's snapshots while it goes on learning, restores from them, and follows those that others write.

SNAPSHOT-IS-TRUTH: the numbered steps of `Saver.save` are the only way a position becomes durable.
"""

from __future__ import annotations

import logging
import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, NamedTuple, Protocol

import torch
import transformers

from actors.config import StreamConfig
from actors.images import images_of
from actors.learner import Learner
from actors.messages import Saved
from model.engine import Engine
from pipeline.errors import MemstreamError
from pipeline.positions import StreamState
from pipeline.snapshots.collector import Collector
from pipeline.snapshots.manifest import Manifest
from pipeline.snapshots.writer import SnapshotContent, SnapshotStore

log = logging.getLogger(__name__)

BetweenTurns = Callable[[Callable[[], Any]], Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Lineage:
    """What a snapshot says of its maker besides the state: two of the same lineage give the same memory from the same records."""

    build: dict[str, str]
    device: str
    threads: int

    @classmethod
    def of(cls, device: torch.device, threads: int) -> Lineage:
        cpu = f"cpu/{torch.backends.cpu.get_cpu_capability()}"
        name = cpu if device.type == "cpu" else f"{device.type}/{torch.cuda.get_device_name(device)}"
        build = {
            "memstream": version("memstream"),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "python": platform.python_version(),
        }
        return cls(build=build, device=name, threads=threads)


class Settles(Protocol):
    """What a save needs of a poller."""

    def flush(self, timeout_s: float) -> None: ...

    def commit(self, positions: Mapping[str, int], metadata: str) -> None: ...


class Loaded(NamedTuple):
    """A snapshot that is at hand: `install` puts it in the memory's place, between two turns, while no answer reads that."""

    install: Callable[[], None]
    state: StreamState
    saved: Saved


class Saver:
    """Snapshots of one replica: the leader writes them, all restore from them."""

    def __init__(self, config: StreamConfig, store: SnapshotStore, engine: Engine, device: torch.device) -> None:
        self._config, self._store = config, store
        self._collector = Collector(store, config.snapshots.retention)
        self._images = images_of(engine)
        self._lineage = Lineage.of(device, engine.threads)
        self._generation: int | None = None
        self.last: Saved | None = None

    def claim(self, deployment: str = "", after: int | None = None) -> int:
        """Become the stream's one writer, as `SnapshotStore.claim_generation`; returns the generation."""
        self._generation = self._store.claim_generation(deployment, after)
        return self._generation

    def claimed_by(self) -> str | None:
        """The deployment of the newest writer."""
        return self._store.claimed_by()

    def restore(self) -> StreamState | None:
        """Load the latest whole snapshot into memory, which nobody reads yet; None if there is none.

        Raises:
            SnapshotMismatch: it belongs to another model, or an older memstream wrote it.
            SnapshotError: none of the snapshots is whole, or the store does not answer.
        """
        manifest = self.latest()
        if manifest is None:
            return None
        loaded = self.load(manifest)
        loaded.install()
        return loaded.state

    def newer(self) -> Manifest | None:
        """The latest whole snapshot, if it is another than the last one that is known here; raises as `restore`."""
        known = None if self.last is None else self.last.epoch
        if max(self._store.epochs(), default=None) == known:
            return None  # without reading it: a pool's is as large as the pool
        manifest = self.latest()
        return None if manifest is None or manifest.epoch == known else manifest

    def latest(self) -> Manifest | None:
        """The latest whole snapshot, None if there is none; raises as `restore`."""
        latest = self._store.latest()
        if latest is None:
            return None
        for problem in latest.problems:
            log.error("snapshot not used: %s", problem)
        latest.manifest.require_model(self._images.fingerprint, self._images.shape())
        return latest.manifest

    def load(self, manifest: Manifest) -> Loaded:
        """Fetch what can be fetched of a snapshot while the memory is still in use; raises as `restore`."""
        self._warn_if_other_lineage(manifest)
        if self._config.model.seed != manifest.seed and manifest.memory.kind == "tokens":
            log.warning("model.seed %d is not used: this stream goes on with its own, %d", self._config.model.seed, manifest.seed)
        restore, state = self._images.restoring(manifest, self._store), self._store.read_state(manifest)
        saved = _saved(manifest)

        def install() -> None:
            restore()
            self._store.adopt(manifest)
            self.last = saved

        return Loaded(install, state, saved)

    def adopt(self, epoch: int, between_turns: BetweenTurns) -> None:
        """Somebody else has saved this memory: its blocks lie in his segments now, and whoever leads next does not write them again."""
        manifest = self._store.load(epoch)
        settled = self._images.adopt(manifest, self._store)
        between_turns(settled)
        self._store.adopt(manifest)
        self.last = _saved(manifest)

    def sha256(self) -> str:
        """Of the memory as it is. Between two turns."""
        return self._images.sha256()

    def save(self, learner: Learner, poller: Settles, between_turns: BetweenTurns, *, merge: bool = True) -> Saved:
        """Write one snapshot while updates go on; `between_turns` calls a function where memory and state fit each other.

        `merge`: write some old blocks anew beside it, see `SnapshotStore.write`.

        1. Stage: memory and state of one document boundary. Learning goes on from here, however slow the store is.
        2. Wait for the dead letters: none of those before the position may be lost.
        3. Write memory, ledger and, last, the manifest. From here on the position is durable.
        4. Tell the consumer group, for lag tools; a failure here is only logged.
        """
        if self._generation is None:
            raise ValueError("only who has claimed the stream writes snapshots")
        image, state = between_turns(lambda: (self._images.stage(), learner.state))  # 1
        poller.flush(self._config.dead_letters.flush_timeout_s)  # 2
        manifest = self._store.write(self._content(image, state), self._generation, merge=merge)  # 3
        settled = self._images.saved(manifest, image, self._store)
        between_turns(settled)
        self.last = _saved(manifest)
        try:
            poller.commit(manifest.positions, f"{self._config.stream}@{manifest.epoch}")  # 4
        except MemstreamError as error:
            log.warning("positions were not committed to the consumer group: %s", error)
        return self.last

    def tidy(self) -> None:
        """Remove snapshots that `snapshots.retention` does not keep, and what none names any more. A failure is for the next time."""
        try:
            done = self._collector.collect(self._generation)
        except Exception as error:  # whatever lies in the store, learning goes on
            log.warning("old snapshots were not removed, which is tried again after the next one: %s: %s", type(error).__name__, error)
            return
        if done.expired or done.removed:
            log.info("removed %d snapshots and %d objects (%.1f MB)", len(done.expired), len(done.removed), done.freed_bytes / 1e6)

    def _content(self, image: Any, state: StreamState) -> SnapshotContent:
        return SnapshotContent(
            memory=image,
            state=state,
            fingerprint=self._images.fingerprint,
            seed=self._images.seed,
            config=self._config.effective(),
            build=self._lineage.build,
            device=self._lineage.device,
            threads=self._lineage.threads,
        )

    def _warn_if_other_lineage(self, manifest: Manifest) -> None:
        ours, theirs = (self._lineage.device, self._lineage.threads), (manifest.device, manifest.threads)
        if ours != theirs:
            log.warning(
                "the snapshot was computed on %s with %d threads, this is %s with %d: memories may differ in the last bits", *theirs, *ours
            )


def _saved(manifest: Manifest) -> Saved:
    return Saved(
        epoch=manifest.epoch,
        memory_sha256=manifest.memory_sha256,
        position=dict(manifest.positions),
        counts={outcome.value: count for outcome, count in manifest.counts.items()},
        update_number=manifest.update_number,
        created_at_s=manifest.created_at.timestamp(),
        generation=manifest.generation,
        commits=manifest.commits,
    )
