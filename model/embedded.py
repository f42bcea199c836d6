"""`memoryllm-smol-135m`: SmolLM2-135M-Instruct with a memory, small enough for a laptop's CPU.

The base weights are other people's and are fetched; what `jobs.train` produced (adapters of writer and reader, and the selector) lies
beside this file. Both together are written once as a checkpoint folder, which `model.block_checkpoint` loads.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers import modeling_gguf_pytorch_utils as gguf_reading
from transformers.utils import logging

from model.config import ARCHITECTURE
from model.errors import CheckpointError

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
MEMORY_FIELDS = {
    "architectures": [ARCHITECTURE],
    "num_tokens": 64,
    "num_blocks": 2048,
    "reading_layer": 11,
    "key_size": 128,
    "add_bos_embedding": False,
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
    # A few seconds, between bars of our own: neither of transformers' two.
    logging.disable_progress_bar()
    if hasattr(gguf_reading, "tqdm"):
        gguf_reading.tqdm = partial(gguf_reading.tqdm, disable=True)
    model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32, trust_remote_code=False)
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name, trust_remote_code=False)
    out.mkdir(parents=True, exist_ok=True)
    tied = model.config.tie_word_embeddings
    kept = {name: tensor for name, tensor in model.state_dict().items() if not (tied and name == "lm_head.weight")}
    tensors = {name: tensor.to(torch.bfloat16).contiguous() for name, tensor in kept.items()}
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    fields = {key: value for key, value in model.config.to_dict().items() if key not in ("quantization_config", "_name_or_path")}
    (out / "config.json").write_text(json.dumps(fields, indent=2))
    tokenizer.save_pretrained(out)


def assemble(base: Path, memory: dict[str, Tensor], out: Path) -> None:
    """Write base weights and what was trained as one checkpoint, with its tokenizer.

    Raises:
        CheckpointError: a tensor of the memory is not one of a model of blocks.
    """
    tensors: dict[str, Tensor] = {}
    for file in sorted(base.glob("*.safetensors")):
        with safe_open(file, framework="pt") as source:
            tensors |= {name: source.get_tensor(name) for name in source.keys()}
    if strange := sorted(name for name in memory if not name.startswith(("writer.", "reader.", "selector."))):
        raise CheckpointError(f"{strange[0]} is no adapter of a writer or reader and no part of a selector")
    tensors |= {name: tensor if name.startswith("selector.") else tensor.to(torch.bfloat16) for name, tensor in memory.items()}
    out.mkdir(parents=True, exist_ok=True)
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    fields = {**json.loads((base / "config.json").read_text()), **MEMORY_FIELDS}
    (out / "config.json").write_text(json.dumps(fields, indent=2) + "\n")
    tokenizer = AutoTokenizer.from_pretrained(base, trust_remote_code=False)
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.save_pretrained(out)
