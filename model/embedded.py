"""`memoryllm-smol-135m`: SmolLM2-135M-Instruct with a memory, small enough for a laptop's CPU.

The base weights are other people's and are fetched; what `jobs.train` produced (two adapters, the BOS row, the positional embedding)
lies beside this file. Both together are written once as a checkpoint in the published layout, which `model.checkpoint` loads like any
other.
"""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from model.checkpoint import load_model, published_names
from model.config import ARCHITECTURE
from model.errors import CheckpointError
from model.memory_llm import MemoryLLM, layer_forward

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
MEMORY_FIELDS = {
    "architectures": [ARCHITECTURE],
    "num_tokens": 64,
    "num_blocks": 32,
    "drop_memory_per_layer": True,
    "add_bos_embedding": True,
    "add_decoder_lora": True,
    "lora_config": {"r": 32, "lora_alpha": 64, "target_modules": list(PROJECTIONS)},
}
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""SmolLM2's, without the system prompt that it puts in front of every question: the memory was trained to be read without it."""


def convert_gguf(gguf: Path, out: Path) -> None:
    """Write a GGUF file's weights as bfloat16 safetensors with config and tokenizer.

    The quantised values lie on a grid that bfloat16 holds to 0.14 %, and the file is half as large.
    """
    model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    out.mkdir(parents=True, exist_ok=True)
    tied = model.config.tie_word_embeddings
    kept = {name: tensor for name, tensor in model.state_dict().items() if not (tied and name == "lm_head.weight")}
    tensors = {name: tensor.to(torch.bfloat16).contiguous() for name, tensor in kept.items()}
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    fields = {key: value for key, value in model.config.to_dict().items() if key not in ("quantization_config", "_name_or_path")}
    (out / "config.json").write_text(json.dumps(fields, indent=2))
    tokenizer.save_pretrained(out)


def assemble(base: Path, memory: dict[str, Tensor], out: Path) -> None:
    """Write base weights and memory tensors as one checkpoint in the published layout, with its tokenizer.

    Raises:
        CheckpointError: a tensor of the memory does not belong to this base.
    """
    tensors: dict[str, Tensor] = {"initialized": torch.zeros((), dtype=torch.uint8)}
    for file in sorted(base.glob("*.safetensors")):
        with safe_open(file, framework="pt") as source:
            for name in source.keys():
                tensors[_published(name)] = source.get_tensor(name)
    adapted = {name.split(".lora_")[0] for name in memory if ".lora_" in name}
    if lost := sorted(name for name in adapted if f"{name}.base_layer.weight" not in tensors):
        raise CheckpointError(f"{base} has no projection {lost[0]}, which the adapters need")
    tensors |= {name: tensor.to(torch.bfloat16) for name, tensor in memory.items()}
    out.mkdir(parents=True, exist_ok=True)
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    fields = json.loads((base / "config.json").read_text()) | MEMORY_FIELDS
    (out / "config.json").write_text(json.dumps(fields, indent=2))
    for file in base.glob("*token*"):
        shutil.copy(file, out / file.name)
    tokenizer = AutoTokenizer.from_pretrained(out)
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.save_pretrained(out)


def _published(name: str) -> str:
    parent, _, attribute = name.rpartition(".")
    return f"{parent}.base_layer.{attribute}" if parent.rpartition(".")[2] in PROJECTIONS else name


def memory_tensors(model: MemoryLLM) -> dict[str, Tensor]:
    """What training changes, by published names: adapters, BOS row, positional embedding."""
    found: dict[str, Tensor] = {}
    for name, owners in published_names(model).items():
        module, attribute = owners[0]
        value = module._parameters[attribute]
        if value is not None and (".lora_" in name or name in ("bos_embedding", "new_memory_positional_emb")):
            found[name] = value
    return found


def fresh_memory(base: Path, seed: int) -> dict[str, Tensor]:
    """Memory tensors to start training from: adapters that change nothing, and an empty BOS row for `start_bos_row` to fill."""
    config = json.loads((base / "config.json").read_text())
    generator = torch.Generator().manual_seed(seed)
    rank, width = MEMORY_FIELDS["lora_config"]["r"], config["hidden_size"]  # type: ignore[index]
    tensors: dict[str, Tensor] = {"new_memory_positional_emb": torch.zeros(1, 1, width)}
    for file in sorted(base.glob("*.safetensors")):
        with safe_open(file, framework="pt") as source:
            for name in source.keys():
                parent = name.removesuffix(".weight")
                if parent.rpartition(".")[2] not in PROJECTIONS:
                    continue
                rows, columns = source.get_slice(name).get_shape()
                for adapter in ("default", "decoder_adapter"):
                    bound = 1 / math.sqrt(columns)
                    tensors[f"{parent}.lora_A.{adapter}.weight"] = torch.empty(rank, columns).uniform_(-bound, bound, generator=generator)
                    tensors[f"{parent}.lora_B.{adapter}.weight"] = torch.zeros(rows, rank)
    tensors["bos_embedding"] = torch.zeros(config["num_hidden_layers"], 1, width)
    return tensors


@torch.no_grad()
def start_bos_row(model: MemoryLLM, token: int) -> None:
    """Fill the BOS row with what stands before each layer when the base model reads its first token alone: its attention sink."""
    state = model.reader.model.embed_tokens(torch.tensor([[token]], device=model.device))
    rotary = model.rotary(torch.zeros(1, dtype=torch.long, device=model.device))
    assert model.bos_embedding is not None
    for index, layer in enumerate(model.reader.model.layers):
        model.bos_embedding[index] = state[0]
        state = layer_forward(layer, state, 1, rotary)


def load_for_training(checkpoint: Path, memory: dict[str, Tensor] | None, device: str) -> MemoryLLM:
    """A checkpoint in float32 whose memory tensors, given or its own, take gradients."""
    model = load_model(checkpoint, device, torch.float32)
    for name, parameter in memory_tensors(model).items():
        if memory is not None:
            parameter.data.copy_(memory[name])
        parameter.requires_grad_(True)
    return model
