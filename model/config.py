"""The configuration of a MemoryLLM checkpoint, as published ones write it.

Fields the published files may lack are derived here, in one place, so that the rest of the package never asks twice.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, LlamaConfig

from model.errors import CheckpointError

ARCHITECTURE = "MemoryLLM"

_DERIVED = frozenset({"num_memory_tokens", "model_type", "transformers_version", "use_cache"})
"""Fields that are not believed: N is blocks x K (the authors' code writes a default beside it), and a question always has a cache."""

_STATIC_ROPE = frozenset({"default", "linear", "llama3", "yarn"})
"""Kinds of rope under which a key's rotation hangs on its position alone, so that keys can be kept unrotated."""


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
        reading_layer: S, the first layer that reads memory, of a model of blocks (`model.block_llm`); None: the paper's pool, read by
            every layer.
        key_size: values of one key that questions are compared with; None: the paper's pool.
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
    reading_layer: int | None = None
    key_size: int | None = None

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
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{path} is not JSON: {error}") from error
    if not isinstance(fields, dict):
        raise CheckpointError(f"{path} holds no JSON object")
    return config_from_dict(fields, str(path))


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
    for name in ("rope_parameters", "rope_scaling", "lora_config"):
        if not isinstance(fields.get(name), dict | None):
            raise CheckpointError(f"{where}: {name} must be an object, not {fields[name]!r}")
    kept = {key: value for key, value in fields.items() if key not in _DERIVED}
    kept["rope_parameters"] = _rope_parameters(kept, where)
    kept["lora_config"] = _lora_config(kept.get("lora_config"), where)
    for name in ("rope_scaling", "rope_theta"):
        kept.pop(name, None)
    try:
        config = MemoryLLMConfig(**kept)
    except (StrictDataclassError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError) as error:
        raise CheckpointError(f"{where}: {' '.join(str(error).split())}") from error
    config.architectures = [ARCHITECTURE]
    return config


def _rope_parameters(fields: dict[str, Any], where: str) -> dict[str, Any]:
    """Rope as transformers 5 writes it, whatever the spelling in the file; interpolated positions are linear scaling by another name."""
    stated = {**(fields.get("rope_parameters") or {}), **(fields.get("rope_scaling") or {})}
    kind = stated.get("rope_type", stated.pop("type", "default"))
    stated |= {"rope_type": kind, "rope_theta": stated.get("rope_theta", fields.get("rope_theta") or 10000.0)}
    if kind not in _STATIC_ROPE:
        raise CheckpointError(f"{where}: rope of type {kind!r} is not supported, only {', '.join(sorted(_STATIC_ROPE))}")
    if fields.get("interpolate_position_ids") and kind == "default":
        # (blocks + 1) x K positions are squeezed into the base model's window.
        window = fields.get("max_position_embeddings", LlamaConfig.max_position_embeddings)
        squeezed = max(1.0, (fields["num_blocks"] + 1) * fields["num_tokens"] / window)
        return stated | {"rope_type": "linear", "factor": squeezed}
    if kind == "linear":
        if not isinstance(stated.get("factor"), int | float) or stated["factor"] <= 0:
            raise CheckpointError(f"{where}: linear rope scaling needs a positive factor, not {stated.get('factor')!r}")
        stated["factor"] = float(stated["factor"])
    return stated


def _lora_config(fields: dict[str, Any] | None, where: str) -> dict[str, Any] | None:
    """The adapters' fields with bare projection names as targets (PEFT also takes the end of a module's path)."""
    if not fields:
        return None
    if missing := [name for name in ("r", "lora_alpha", "target_modules") if not fields.get(name)]:
        raise CheckpointError(f"{where}: lora_config has no {missing[0]}")
    if not isinstance(fields["target_modules"], list):
        raise CheckpointError(f"{where}: lora_config.target_modules must be a list of names, not {fields['target_modules']!r}")
    return {**fields, "target_modules": [name.rpartition(".")[2] for name in fields["target_modules"]]}


# So that a tokenizer can be loaded from a checkpoint folder without transformers warning of a model type it does not know.
AutoConfig.register(MemoryLLMConfig.model_type, MemoryLLMConfig)
