"""What a stream's configuration says of the engine: on which device, and built with what."""

from __future__ import annotations

from pathlib import Path

import torch

from actors.config import StreamConfig
from model.block_engine import ReadingConfig
from model.errors import ModelError
from model.loading import EngineOptions


def device_of(config: StreamConfig) -> str:
    """The device that a replica's model goes to."""
    chosen = config.replicas.device
    if chosen == "auto":
        chosen = "cuda" if config.replicas.num_gpus > 0 else "cpu"
    if chosen == "cuda" and not torch.cuda.is_available():
        raise ModelError("replicas.device is cuda, but this process sees no GPU: set replicas.num_gpus, or device: cpu")
    return chosen


def engine_options(config: StreamConfig) -> EngineOptions:
    """What an engine is built with."""
    memory, replicas = config.memory, config.replicas
    return EngineOptions(
        seed=config.model.seed,
        spare_blocks=max(replicas.spare_blocks, config.chunks.max_blocks + 2),
        max_versions=replicas.max_versions,
        blocks=memory.blocks,
        scratch=None if memory.scratch is None else Path(memory.scratch),
        projected_bytes=memory.projected_bytes,
        reading=ReadingConfig(
            most_blocks=memory.most_read, share=memory.read_share, margin=memory.margin, doubt=memory.doubt, evidence=memory.evidence
        ),
    )
