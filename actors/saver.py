"""Writes a replica's snapshots while it goes on learning, and restores from them.

SNAPSHOT-IS-TRUTH: the numbered steps of `Saver.save` are the only way a position becomes durable.
"""

from __future__ import annotations

import logging
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import transformers

from actors.config import StreamConfig
from actors.learner import Learner
from actors.messages import Saved
from actors.poller import PollerClient
from model.checkpoint import fingerprint
from model.memory_llm import MemoryLLM
from model.pool import MemoryPool, PoolLayer, Version
from pipeline.errors import MemstreamError
from pipeline.manifest import Dtype, Manifest, PoolShape
from pipeline.pool_image import LayerImage, PoolImage
from pipeline.positions import StreamState, format_positions
from pipeline.snapshots import SnapshotContent, SnapshotStore

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lineage:
    """What a snapshot says of its maker besides the state: two of the same lineage give the same pool from the same records."""

    fingerprint: str
    build: dict[str, str]
    device: str
    threads: int

    @classmethod
    def of(cls, model: MemoryLLM) -> Lineage:
        cpu = f"cpu/{torch.backends.cpu.get_cpu_capability()}"
        device = cpu if model.device.type == "cpu" else f"{model.device.type}/{torch.cuda.get_device_name(model.device)}"
        build = {"torch": torch.__version__, "transformers": transformers.__version__, "python": platform.python_version()}
        return cls(fingerprint=fingerprint(model), build=build, device=device, threads=torch.get_num_threads())


class Saver:
    """Snapshots of one replica: the owner of the lineage writes them, all restore from them."""

    def __init__(self, config: StreamConfig, store: SnapshotStore, pool: MemoryPool) -> None:
        self._config, self._store, self._pool = config, store, pool
        self._lineage = Lineage.of(pool.model)
        self._generation: int | None = None
        self.last: Saved | None = None

    def claim(self) -> None:
        """Become the stream's one writer."""
        self._generation = self._store.claim_generation()

    def restore(self) -> StreamState | None:
        """Load the latest whole snapshot into the pool; None if there is none.

        Raises:
            SnapshotMismatch: it belongs to another model.
            SnapshotError: none of the snapshots is whole, or the store does not answer.
        """
        latest = self._store.latest()
        if latest is None:
            return None
        for problem in latest.problems:
            log.error("snapshot not used: %s", problem)
        manifest = latest.manifest
        manifest.require_model(self._lineage.fingerprint, self._shape(self._pool.capacity))
        self._warn_if_other_lineage(manifest)
        if manifest.pool.num_tokens:
            layers = (_pool_layer(layer, self._pool.model.dtype) for layer in self._store.read_pool(manifest))
            self._pool.load(layers, manifest.update_number)
        if self._pool.seed != manifest.seed:
            log.warning("model.seed %d is not used: this stream goes on with its own, %d", self._pool.seed, manifest.seed)
        self._pool.seed = manifest.seed
        state = self._store.read_state(manifest)
        self.last = _saved(manifest, state)
        return state

    def save(self, learner: Learner, poller: PollerClient) -> Saved:
        """Write one snapshot while updates go on.

        1. Hold the pool's version and the state of the same moment.
        2. Wait for the dead letters: none of those before the position may be lost.
        3. Write pool, ledger and, last, the manifest. From here on the position is durable.
        4. Tell the consumer group, for lag tools; a failure here is only logged.
        """
        if self._generation is None:
            raise ValueError("only the owner of the lineage writes snapshots")
        with learner.hold() as (version, state):  # 1
            poller.flush(self._config.dead_letters.flush_timeout_s)  # 2
            manifest = self._store.write(self._content(version, state), self._generation)  # 3
        self.last = _saved(manifest, state)
        try:
            poller.commit(manifest.positions, f"{self._config.stream}@{manifest.epoch}")  # 4
        except MemstreamError as error:
            log.warning("positions were not committed to the consumer group: %s", error)
        return self.last

    def _content(self, version: Version, state: StreamState) -> SnapshotContent:
        shape = self._shape(version.slots_LN.shape[1])
        fields = {name: getattr(shape, name) for name in ("num_layers", "num_tokens", "update_tokens", "hidden_size", "dtype")}
        return SnapshotContent(
            pool=PoolImage(layers=_images(self._pool, version), **fields),
            state=state,
            fingerprint=self._lineage.fingerprint,
            seed=self._pool.seed,
            config=self._config.effective(),
            build=self._lineage.build,
            device=self._lineage.device,
            threads=self._lineage.threads,
        )

    def _shape(self, num_tokens: int) -> PoolShape:
        config = self._pool.model.config
        dtype: Any = str(self._pool.model.dtype).removeprefix("torch.")
        checked: Dtype = dtype
        return PoolShape(
            num_layers=config.num_hidden_layers,
            num_tokens=num_tokens,
            hidden_size=config.hidden_size,
            update_tokens=config.num_tokens,
            dtype=checked,
        )

    def _warn_if_other_lineage(self, manifest: Manifest) -> None:
        ours, theirs = (self._lineage.device, self._lineage.threads), (manifest.device, manifest.threads)
        if ours != theirs:
            log.warning(
                "the snapshot was computed on %s with %d threads, this is %s with %d: pools may differ in the last bits", *theirs, *ours
            )


def _images(pool: MemoryPool, version: Version) -> Iterator[LayerImage]:
    for layer in pool.layers(version):
        memory = layer.memory_ND
        # numpy has no bfloat16: its 16 bits go as they are.
        values = memory.view(torch.uint16).numpy() if memory.dtype == torch.bfloat16 else memory.numpy()
        yield LayerImage(slots=layer.slots_N, updates=layer.updates_N, memory=values)


def _pool_layer(image: LayerImage, dtype: torch.dtype) -> PoolLayer:
    memory = torch.from_numpy(image.memory)
    return PoolLayer(image.slots, image.updates, memory.view(torch.bfloat16) if dtype == torch.bfloat16 else memory)


def _saved(manifest: Manifest, state: StreamState) -> Saved:
    return Saved(
        epoch=manifest.epoch,
        pool_sha256=manifest.pool_sha256,
        position=format_positions(state.positions),
        counts={outcome.value: count for outcome, count in state.counts.items()},
        update_number=manifest.update_number,
        created_at_s=manifest.created_at.timestamp(),
    )
