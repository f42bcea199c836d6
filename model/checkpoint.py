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
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from model.config import MemoryLLMConfig, read_config
from model.errors import CheckpointError
from model.memory.tokens import FROM_CHECKPOINT, MemoryPool, PoolLayer
from model.memory_llm import AdaptedLinear, MemoryLLM


class CheckpointFiles:
    """The tensors of a checkpoint folder by name, whatever file they lie in."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        index = folder / "model.safetensors.index.json"
        single = folder / "model.safetensors"
        if index.is_file():
            self._files = _sharded(index)
        elif single.is_file():
            self._files = dict.fromkeys(_names_in(single), single)
        else:
            raise CheckpointError(f"no model.safetensors and no model.safetensors.index.json in {folder}")

    def names(self) -> set[str]:
        return set(self._files)

    def read(self, name: str) -> Tensor:
        with self._open(name) as tensors:
            tensor: Tensor = tensors.get_tensor(name)
            return tensor

    def read_rows(self, name: str, count: int) -> Iterator[Tensor]:
        """The first `count` slices of a tensor along its first axis, one at a time."""
        with self._open(name) as tensors:
            rows = tensors.get_slice(name)
            for row in range(count):
                yield rows[row]

    def shape(self, name: str) -> list[int]:
        with self._open(name) as tensors:
            return list(tensors.get_slice(name).get_shape())

    def _open(self, name: str) -> safe_open:
        if name not in self._files:
            raise CheckpointError(f"tensor {name} is missing from {self.folder}")
        return safe_open(self._files[name], framework="pt")


def _sharded(index: Path) -> dict[str, Path]:
    """The file of each tensor, by what the shards hold; a tensor that the index promises and no shard has is an error."""
    try:
        promised = {name: index.parent / file for name, file in json.loads(index.read_text(encoding="utf-8"))["weight_map"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{index} is not an index of shards: {error!r}") from error
    held: dict[str, Path] = {}
    for path in sorted(set(promised.values())):
        if not path.is_file():
            raise CheckpointError(f"{index.name} names {path.name}, which is missing from {index.parent}")
        held |= dict.fromkeys(_names_in(path), path)
    if missing := sorted(set(promised) - set(held)):
        raise CheckpointError(f"tensor {missing[0]} is missing from {promised[missing[0]].name}" + _and_more(missing))
    return held


def _names_in(path: Path) -> list[str]:
    try:
        with safe_open(path, framework="pt") as tensors:
            return list(tensors.keys())
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error


def load_model(folder: Path, device: torch.device | str = "cpu", dtype: torch.dtype | None = None) -> MemoryLLM:
    """Load the weights of a published checkpoint, for inference.

    Args:
        folder: see `resolve`.
        device: where the weights go.
        dtype: None = that of the file's embedding.

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
    _check_pool(files, config)
    dtype = dtype or files.read("model.embed_tokens.weight").dtype
    for name, owners in places.items():
        tensor = files.read(name)
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


def _check_pool(files: CheckpointFiles, config: MemoryLLMConfig) -> None:
    """A pool that was written must be there, and a pool that is there must have the config's shape."""
    if int(files.read("initialized")) and "memory" not in files.names():
        raise CheckpointError("tensor memory is missing, though `initialized` says that it was written")
    expected = [config.num_hidden_layers, config.num_memory_tokens, config.hidden_size]
    if "memory" in files.names() and files.shape("memory") != expected:
        raise CheckpointError(f"tensor memory has shape {files.shape('memory')}, the config wants {expected}")


def load_pool(folder: Path, model: MemoryLLM, pool: MemoryPool) -> None:
    """Put the checkpoint's own memory into a pool; a checkpoint that was never written leaves it empty."""
    files = CheckpointFiles(folder)
    _check_pool(files, model.config)
    if int(files.read("initialized")):
        rows = files.read_rows("memory", model.config.num_hidden_layers)
        pool.load((_from_checkpoint(memory_ND) for memory_ND in rows), update_number=0)


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
    """Every tensor the model wants is there, and nothing else but the pool, a tied head and what is computed from the config."""
    missing_or_unknown(found, wanted | {"initialized"}, {"memory"} | ({"lm_head.weight"} if config.tie_word_embeddings else set()))


def missing_or_unknown(found: set[str], wanted: set[str], ignored: set[str]) -> None:
    """Raises CheckpointError where a wanted tensor is not there, or one is there that nobody knows."""
    if missing := sorted(wanted - found):
        raise CheckpointError(f"tensor {missing[0]} is missing" + _and_more(missing))
    # Llama checkpoints from before transformers 4.32 hold the rotary frequencies of each layer.
    unknown = sorted(name for name in found - wanted - ignored if not name.endswith("rotary_emb.inv_freq"))
    if unknown:
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


SHAPE_FIELDS = (
    "num_tokens",
    "num_blocks",
    "drop_memory_per_layer",
    "num_attention_heads",
    "num_key_value_heads",
    "hidden_act",
    "rms_norm_eps",
    "rope_parameters",
)
"""Fields of the config that change what is computed and do not show in the tensors' shapes."""


def fingerprint(model: MemoryLLM) -> str:
    """SHA-256 over the config's shape and all weights: two models with the same one give the same pool from the same records."""
    digest = hashlib.sha256()
    config = model.config
    lora = config.lora_config or {}
    shape = {name: getattr(config, name) for name in SHAPE_FIELDS} | {"lora": [lora.get("r"), lora.get("lora_alpha")]}
    digest.update(json.dumps(shape, sort_keys=True).encode())
    for name, owners in sorted(published_names(model).items()):
        value = _value(owners).detach().to("cpu").contiguous()
        digest.update(f"{name} {value.dtype} {list(value.shape)}".encode())
        digest.update(value.view(torch.uint8).numpy().data)
    return digest.hexdigest()
