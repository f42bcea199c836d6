"""Checkpoints in the published layout: `config.json` and safetensors, one file or shards.

Tensors are read one at a time into their place, so that nothing is held twice: the published 8B is 39 GB of float32, 6.7 GB of them
the pool. What the files hold beyond the model, or lack, is an error that names the tensor.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from model.config import MemoryLLMConfig, read_config
from model.errors import CheckpointError
from model.memory_llm import AdaptedLinear, MemoryLLM
from model.pool import FROM_CHECKPOINT, MemoryPool, PoolLayer

POOL_TENSORS = ("memory", "initialized")


def resolve(name: str) -> Path:
    """The folder of a checkpoint: a path, or a name on the Hugging Face hub, which is fetched.

    Raises:
        CheckpointError: neither.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if path.is_absolute() or name.startswith(".") or name.count("/") != 1:
        raise CheckpointError(f"{name}: no such folder, and not a hub name like OWNER/MODEL")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=["*.json", "*.safetensors", "*.model", "tokenizer*"]))
    except Exception as error:  # the hub's client raises many kinds, from httpx's to its own
        raise CheckpointError(f"{name}: no such folder, and the hub did not give it: {error}") from error


class CheckpointFiles:
    """The tensors of a checkpoint folder by name, whatever file they lie in."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        index = folder / "model.safetensors.index.json"
        single = folder / "model.safetensors"
        if index.is_file():
            self._files = {name: folder / file for name, file in json.loads(index.read_text())["weight_map"].items()}
        elif single.is_file():
            with safe_open(single, framework="pt") as tensors:
                self._files = dict.fromkeys(tensors.keys(), single)
        else:
            raise CheckpointError(f"no model.safetensors and no model.safetensors.index.json in {folder}")
        for path in set(self._files.values()):
            if not path.is_file():
                raise CheckpointError(f"{index.name} names {path.name}, which is missing from {folder}")

    def names(self) -> set[str]:
        return set(self._files)

    def read(self, name: str) -> Tensor:
        with safe_open(self._files[name], framework="pt") as tensors:
            if name not in tensors.keys():
                raise CheckpointError(f"tensor {name} is missing from {self._files[name].name}")
            return tensors.get_tensor(name)

    def read_rows(self, name: str, count: int) -> Iterator[Tensor]:
        """The first `count` slices of a tensor along its first axis, one at a time."""
        with safe_open(self._files[name], framework="pt") as tensors:
            rows = tensors.get_slice(name)
            for row in range(count):
                yield rows[row]

    def shape(self, name: str) -> list[int]:
        with safe_open(self._files[name], framework="pt") as tensors:
            return list(tensors.get_slice(name).get_shape())


def load_model(folder: Path, device: torch.device | str = "cpu", dtype: torch.dtype | None = None) -> MemoryLLM:
    """Load the weights of a published checkpoint, for inference.

    Args:
        folder: see `resolve`.
        device: where the weights go.
        dtype: None = as the files have them.

    Raises:
        CheckpointError: a tensor is missing, unknown, or of another shape.
    """
    config, files = read_config(folder), CheckpointFiles(folder)
    if config.add_bos_embedding is None:
        config.add_bos_embedding = "bos_embedding" in files.names()
    with torch.device("meta"):
        model = MemoryLLM(config)
    places = published_names(model)
    check_names(files.names(), set(places), config)
    for name, owners in places.items():
        tensor = files.read(name) if name in files.names() else files.read("model.embed_tokens.weight")
        expected = owners[0][0]._parameters[owners[0][1]]
        if expected is None or tensor.shape != expected.shape:
            raise CheckpointError(f"tensor {name} has shape {list(tensor.shape)}, the config wants {list(getattr(expected, 'shape', []))}")
        parameter = nn.Parameter(tensor.to(device, dtype), requires_grad=False)
        for module, attribute in owners:
            module._parameters[attribute] = parameter
    if config.tie_word_embeddings:
        model.reader.lm_head.weight = model.reader.model.embed_tokens.weight
    with torch.device(device):
        model.reset_rotary()
    return model.eval()


def load_pool(folder: Path, model: MemoryLLM, pool: MemoryPool) -> None:
    """Put the checkpoint's own memory into a pool; a checkpoint that was never written leaves it empty."""
    files = CheckpointFiles(folder)
    if "initialized" not in files.names() or not int(files.read("initialized")):
        return
    config = model.config
    expected = [config.num_hidden_layers, config.num_memory_tokens, config.hidden_size]
    if files.shape("memory") != expected:
        raise CheckpointError(f"tensor memory has shape {files.shape('memory')}, the config wants {expected}")
    pool.load((_from_checkpoint(memory_ND) for memory_ND in files.read_rows("memory", config.num_hidden_layers)), update_number=0)


def _from_checkpoint(memory_ND: Tensor) -> PoolLayer:
    count = memory_ND.shape[0]
    return PoolLayer(np.arange(count, dtype=np.int32), np.full(count, FROM_CHECKPOINT, dtype=np.int64), memory_ND)


def published_names(model: MemoryLLM) -> dict[str, list[tuple[nn.Module, str]]]:
    """For each tensor of the published layout (without the pool) the places in our modules that share it."""
    places: dict[str, list[tuple[nn.Module, str]]] = {}

    def add(name: str, module: nn.Module, attribute: str) -> None:
        places.setdefault(name, []).append((module, attribute))

    adapters = model.config.adapters
    stacks = {"reader": (model.reader.model.layers, adapters[-1] if adapters else "")}
    if model.writer is not model.reader.model.layers:
        stacks["writer"] = (model.writer, adapters[0])
    for layers, adapter in stacks.values():
        for name, module in layers.named_modules():
            full = f"model.layers.{name}"
            if isinstance(module, AdaptedLinear):
                add(f"{full}.base_layer.weight", module, "weight")
                add(f"{full}.lora_A.{adapter}.weight", module, "lora_A")
                add(f"{full}.lora_B.{adapter}.weight", module, "lora_B")
                if module.bias is not None:
                    add(f"{full}.base_layer.bias", module, "bias")
                continue
            for attribute, parameter in module._parameters.items():
                if parameter is not None:
                    add(f"{full}.{attribute}", module, attribute)
    base = model.reader.model
    add("model.embed_tokens.weight", base.embed_tokens, "weight")
    add("model.norm.weight", base.norm, "weight")
    if not model.config.tie_word_embeddings:
        add("lm_head.weight", model.reader.lm_head, "weight")
    add("new_memory_positional_emb", model, "new_memory_positional_emb")
    if model.bos_embedding is not None:
        add("bos_embedding", model, "bos_embedding")
    return places


def check_names(found: set[str], wanted: set[str], config: MemoryLLMConfig) -> None:
    """Every tensor the model wants is there, and nothing else but the pool and a tied head."""
    ignored = {*POOL_TENSORS} | ({"lm_head.weight"} if config.tie_word_embeddings else set())
    if missing := sorted(wanted - found):
        raise CheckpointError(f"tensor {missing[0]} is missing" + _and_more(missing))
    if unknown := sorted(found - wanted - ignored):
        raise CheckpointError(f"tensor {unknown[0]} is not known to this config" + _and_more(unknown))


def _and_more(names: list[str]) -> str:
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""


def save_model(model: MemoryLLM, folder: Path, dtype: torch.dtype | None = None) -> None:
    """Write a model in the published layout, without a pool (`initialized` 0)."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: _value(owners).detach().to("cpu", dtype).contiguous() for name, owners in published_names(model).items()}
    tensors["initialized"] = torch.zeros((), dtype=torch.uint8)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    model.config.save_pretrained(folder)


def _value(owners: list[tuple[nn.Module, str]]) -> Tensor:
    module, attribute = owners[0]
    value = module._parameters[attribute]
    if value is None:
        raise CheckpointError(f"parameter {attribute} was never set")
    return value


def fingerprint(model: MemoryLLM) -> str:
    """SHA-256 over the config's shape and all weights: two models with the same one give the same pool from the same records."""
    digest = hashlib.sha256()
    config = model.config
    digest.update(f"{config.num_blocks} {config.num_tokens} {config.drop_memory_per_layer} {config.rope_parameters}".encode())
    for name, owners in sorted(published_names(model).items()):
        value = _value(owners).detach().to("cpu").contiguous()
        digest.update(f"{name} {value.dtype} {list(value.shape)}".encode())
        digest.update(value.view(torch.uint8).numpy())
    return digest.hexdigest()
