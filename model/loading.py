"""From a checkpoint folder to an engine: which kind of memory a checkpoint has is its configuration's to say."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch

from model.block_checkpoint import load_block_model
from model.block_engine import BlockEngine, ReadingConfig
from model.checkpoint import load_model, load_pool
from model.config import read_config
from model.conversation import Conversation
from model.memory.blocks import BlockMemory
from model.memory.tokens import MemoryPool
from model.pool_engine import PoolEngine


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """What the memories need beside the checkpoint; each takes its own part.

    Attributes:
        seed, spare_blocks, max_versions: of a token pool, see `MemoryPool`.
        blocks, scratch, projected_bytes: of a block memory, see `BlockMemory`.
        reading: how blocks are chosen.
    """

    seed: int = 0
    spare_blocks: int = 16
    max_versions: int = 3
    blocks: int = 2048
    scratch: Path | None = None
    projected_bytes: int = 256 << 20
    reading: ReadingConfig = field(default_factory=ReadingConfig)


def load_engine(folder: Path, device: str, dtype: str = "auto", options: EngineOptions | None = None) -> BlockEngine | PoolEngine:
    """Load a checkpoint with the memory that it brings: none for blocks, its own pool where one was written.

    Raises:
        CheckpointError: the folder holds no such model.
    """
    options = options or EngineOptions()
    if read_config(folder).reading_layer is not None:
        blocks = load_block_model(folder, device, compute_dtype(dtype, device))
        memory = BlockMemory(blocks, options.blocks, options.scratch, options.projected_bytes)
        return BlockEngine(memory, Conversation.of(folder), options.reading)
    model = load_model(folder, device, compute_dtype(dtype, device))
    pool = MemoryPool(model, options.seed, min(options.spare_blocks, model.config.num_blocks + 2), options.max_versions)
    load_pool(folder, model, pool)
    return PoolEngine(pool, Conversation.of(folder, model.bos_embedding is not None))


def compute_dtype(name: str, device: str) -> torch.dtype:
    """The type of weights and arithmetic. "auto": bfloat16 on a GPU and on CPUs that compute it, float32 on others."""
    if name != "auto":
        dtype: torch.dtype = getattr(torch, name)
        return dtype
    fast = device != "cpu" or bool(torch.cpu._is_avx512_bf16_supported()) or bool(torch.cpu._is_amx_tile_supported())
    return torch.bfloat16 if fast else torch.float32
