"""Checkpoints of models of blocks: the base model's tensors under their own names, `writer.*`, `reader.*` and `selector.*` beside them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from model.block_llm import BlockLLM
from model.checkpoint import SHAPE_FIELDS, CheckpointFiles, missing_or_unknown
from model.config import MemoryLLMConfig, read_config
from model.errors import CheckpointError
from model.memory_llm import AdaptedLinear

BLOCK_FIELDS = ("reading_layer", "key_size")


def load_block_model(folder: Path, device: torch.device | str = "cpu", dtype: torch.dtype | None = None) -> BlockLLM:
    """Load the weights of a model of blocks, for inference. The selector stays in float32: it is small, and its scores are compared.

    Raises:
        CheckpointError: a tensor is missing, unknown, or of another shape.
    """
    config, files = read_config(folder), CheckpointFiles(folder)
    with torch.device("meta"):
        model = BlockLLM(config)
    places = tensor_places(model)
    missing_or_unknown(files.names(), set(places), {"lm_head.weight"} if config.tie_word_embeddings else set())
    dtype = dtype or files.read("model.embed_tokens.weight").dtype
    for name, owners in places.items():
        tensor = files.read(name)
        expected = owners[0][0]._parameters[owners[0][1]]
        if expected is None or tensor.shape != expected.shape:
            raise CheckpointError(f"tensor {name} has shape {list(tensor.shape)}, the config wants {list(getattr(expected, 'shape', []))}")
        kept = torch.float32 if name.startswith("selector.") else dtype
        parameter = nn.Parameter(tensor.to(device, kept), requires_grad=False)
        for module, attribute in owners:
            module._parameters[attribute] = parameter
    if config.tie_word_embeddings:
        model.base.lm_head.weight = model.base.model.embed_tokens.weight
    with torch.device(device):
        model.reset_rotary()
    return model.eval()


def tensor_places(model: BlockLLM) -> dict[str, list[tuple[nn.Module, str]]]:
    """For each tensor of a checkpoint the places in our modules that share it."""
    places: dict[str, list[tuple[nn.Module, str]]] = {}

    def add(name: str, module: nn.Module, attribute: str) -> None:
        places.setdefault(name, []).append((module, attribute))

    for name, module in model.base.named_modules():
        for attribute, parameter in module._parameters.items():
            if parameter is not None and not (name == "lm_head" and model.config.tie_word_embeddings):
                add(f"{name}.{attribute}", module, attribute)
    for stack, layers in (("writer", model.writer), ("reader", model.reader)):
        for name, module in layers.named_modules():
            number, _, path = name.partition(".")
            base = f"model.layers.{model.first + int(number)}.{path}" if number else ""
            for attribute, parameter in module._parameters.items():
                if parameter is not None:
                    adapter = isinstance(module, AdaptedLinear) and attribute.startswith("lora_")
                    add(f"{stack}.{name}.{attribute}" if adapter else f"{base}.{attribute}", module, attribute)
    for name, _ in model.selector.named_parameters():
        add(f"selector.{name}", model.selector, name)
    return places


def value_of(owners: list[tuple[nn.Module, str]]) -> Tensor:
    module, attribute = owners[0]
    value = module._parameters[attribute]
    if value is None:
        raise CheckpointError(f"parameter {attribute} was never set")
    return value


def save_block_model(model: BlockLLM, folder: Path) -> None:
    """Write a model as `load_block_model` reads it."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: value_of(owners).detach().to("cpu").contiguous() for name, owners in tensor_places(model).items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    model.config.save_pretrained(folder)


def memory_fingerprint(model: BlockLLM) -> str:
    """SHA-256 over what decides which blocks a text becomes: base weights, writer and key projection.

    The reader is no part of it: one that was trained on to read the same blocks may take its place.
    """
    digest = hashlib.sha256()
    config: MemoryLLMConfig = model.config
    shape = {name: getattr(config, name) for name in (*SHAPE_FIELDS, *BLOCK_FIELDS) if name not in ("num_blocks", "drop_memory_per_layer")}
    shape["lora"] = [(config.lora_config or {}).get(name) for name in ("r", "lora_alpha")]
    digest.update(json.dumps(shape, sort_keys=True).encode())
    for name, owners in sorted(tensor_places(model).items()):
        if name.startswith("reader.") or (name.startswith("selector.") and name != "selector.key"):
            continue
        value = value_of(owners).detach().to("cpu").contiguous()
        digest.update(f"{name} {value.dtype} {list(value.shape)}".encode())
        digest.update(value.view(torch.uint8).numpy().data)
    return digest.hexdigest()
