"""Where training begins: the base model's weights, adapters that change nothing, and what is saved of it."""

from __future__ import annotations

import json
import math
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from model.block_llm import BlockLLM
from model.config import MemoryLLMConfig


def fresh_model(base: Path, config: MemoryLLMConfig, seed: int, dtype: torch.dtype, device: str) -> BlockLLM:
    """The base model's weights in `dtype`; adapters and selector in float32, ready to be trained."""
    model = BlockLLM(config)
    weights: dict[str, Tensor] = {}
    for file in sorted(base.glob("*.safetensors")):
        with safe_open(file, framework="pt") as source:
            weights |= {f"base.{name}": source.get_tensor(name) for name in source.keys()}
    missing = model.load_state_dict(weights, strict=False)
    assert not missing.unexpected_keys
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(False)
        if name.endswith("lora_A"):
            bound = 1 / math.sqrt(parameter.shape[1])
            parameter.data.uniform_(-bound, bound, generator=generator)
        elif name.endswith("lora_B"):
            parameter.data.zero_()
        elif not name.startswith("selector"):
            parameter.data = parameter.data.to(dtype)
    if config.tie_word_embeddings:
        model.base.lm_head.weight = model.base.model.embed_tokens.weight
    model.selector.start(generator)
    return model.to(device)


def trained(model: BlockLLM) -> dict[str, Tensor]:
    """What training changes, by name: adapters and selector."""
    return {name: value for name, value in model.named_parameters() if "lora_" in name or name.startswith("selector.")}


def load_trained(model: BlockLLM, tensors: dict[str, Tensor]) -> None:
    """Put saved tensors back; those of `tensors` that the model does not have are an error, missing ones keep what they are."""
    places = trained(model)
    for name, value in tensors.items():
        places[name].data.copy_(value)


def base_config(base: Path, fields: dict[str, object]) -> MemoryLLMConfig:
    """The base model's config with the memory's fields."""
    from model.config import config_from_dict

    return config_from_dict({**json.loads((base / "config.json").read_text()), **fields}, str(base))
