"""The configuration of a MemoryLLM checkpoint, as published ones write it.

Fields the published files may lack are derived here, in one place, so that the rest of the package never asks twice.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers import LlamaConfig

from model.errors import CheckpointError

ARCHITECTURE = "MemoryLLM"


class MemoryLLMConfig(LlamaConfig):
    """A Llama config with the shape of the memory.

    Attributes beside Llama's:
        num_tokens: K, memory tokens written by one update.
        num_blocks: N / K.
        drop_memory_per_layer: each layer draws its own survivors.
        add_bos_embedding: a learned row stands in front of the memory in place of the text's own BOS token.
        lora_config: PEFT's fields `r`, `lora_alpha`, `target_modules`, or None.
        add_decoder_lora: a second adapter for generation.
        interpolate_position_ids: positions divided so that memory and text fit the base model's window.
    """

    model_type = "memoryllm"

    # transformers' configs are dataclasses since 5.0: annotated class attributes are their fields.
    num_tokens: int = 256
    num_blocks: int = 50
    drop_memory_per_layer: bool = False
    add_bos_embedding: bool | None = None
    lora_config: dict[str, Any] | None = None
    add_decoder_lora: bool = False
    interpolate_position_ids: bool = False

    @property
    def num_memory_tokens(self) -> int:
        """N, the memory tokens of one layer."""
        return self.num_blocks * self.num_tokens

    @property
    def adapters(self) -> tuple[str, ...]:
        """The adapters' names as the published files spell them: none, one for both roles, or one for each."""
        if not self.lora_config:
            return ()
        return ("default", "decoder_adapter") if self.add_decoder_lora else ("default",)


def read_config(folder: Path) -> MemoryLLMConfig:
    """Read `config.json` of a published checkpoint.

    Raises:
        CheckpointError: it is not a MemoryLLM, or one of a kind that is not supported yet.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise CheckpointError(f"no config.json in {folder}")
    return config_from_dict(json.loads(path.read_text()), str(path))


def config_from_dict(fields: dict[str, Any], where: str) -> MemoryLLMConfig:
    """Like `read_config`, from the parsed file; `where` names it in errors."""
    architectures = fields.get("architectures") or []
    if any(name.lower().startswith("mplus") for name in architectures) or "num_ltm_blocks" in fields:
        raise CheckpointError(f"{where}: M+ keeps a long-term memory beside the pool, which is not supported yet")
    if ARCHITECTURE not in architectures:
        raise CheckpointError(f"{where}: architectures {architectures} names no {ARCHITECTURE}")
    for name in ("num_blocks", "num_tokens"):
        if not isinstance(fields.get(name), int) or fields[name] < 1:
            raise CheckpointError(f"{where}: {name} must be a positive integer, not {fields.get(name)!r}")
    stated = fields.get("num_memory_tokens")
    if stated is not None and stated != fields["num_blocks"] * fields["num_tokens"]:
        raise CheckpointError(f"{where}: num_memory_tokens {stated} is not num_blocks x num_tokens")
    kept = {key: value for key, value in fields.items() if key not in ("num_memory_tokens", "model_type", "transformers_version")}
    config = MemoryLLMConfig(**_with_interpolation(kept))
    config.architectures = [ARCHITECTURE]
    return config


def _with_interpolation(fields: dict[str, Any]) -> dict[str, Any]:
    """Interpolated positions are linear rope scaling by another name: (blocks + 1) x K positions squeezed into the base model's window."""
    if not fields.get("interpolate_position_ids") or fields.get("rope_scaling"):
        return fields
    window = fields["max_position_embeddings"]
    factor = max(1.0, (fields["num_blocks"] + 1) * fields["num_tokens"] / window)
    return {**fields, "rope_scaling": {"rope_type": "linear", "factor": factor}}
