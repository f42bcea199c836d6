"""A MemoryLLM that fits into a few hundred kilobytes: random weights in the published layout, and a tokenizer that reads bytes.

Every path of the product runs on it in milliseconds on a CPU. It knows nothing, but its answers hang on its question and on its
memory, so two pools that differ do not answer alike.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from model.block_checkpoint import save_block_model, tensor_places
from model.block_llm import BlockLLM
from model.checkpoint import published_names, save_model
from model.config import ARCHITECTURE, config_from_dict
from model.embedded import CHAT_TEMPLATE
from model.memory_llm import MemoryLLM

START, END = "<|im_start|>", "<|im_end|>"
VOCABULARY = 256 + len((START, END))
ADAPTED = ("q_proj", "k_proj", "v_proj", "up_proj", "down_proj", "gate_proj")
EMBEDDING_SCALE = 0.1
"""Small beside what the layers add: a tied head would otherwise repeat the token that it has just read."""


def tiny_checkpoint(
    folder: Path,
    *,
    adapters: int = 2,
    per_layer: bool = True,
    bos: bool = True,
    tied: bool = True,
    layers: int = 2,
    hidden: int = 32,
    K: int = 8,
    blocks: int = 4,
    seed: int = 0,
    initialized: bool = False,
) -> Path:
    """Write a checkpoint with its tokenizer into `folder`.

    Args:
        folder: made if it is not there.
        adapters: 0, 1 for both roles, or 2 (injection and generation).
        per_layer: each layer draws its own survivors.
        bos: with a BOS embedding.
        tied: the head is the embedding.
        hidden: width, a multiple of 8; four heads, two of them for keys and values.
        K: tokens of one update.
        blocks: N / K.
        seed: of the weights; the same arguments give the same bytes.
        initialized: with a pool that was written, as published checkpoints have it.

    Returns:
        `folder`.

    >>> from tempfile import mkdtemp
    >>> sorted(path.name for path in tiny_checkpoint(Path(mkdtemp())).iterdir())
    ['chat_template.jinja', 'config.json', 'model.safetensors', 'tokenizer.json', 'tokenizer_config.json']
    """
    fields = _shape(layers, hidden) | {
        "num_tokens": K,
        "num_blocks": blocks,
        "drop_memory_per_layer": per_layer,
        "add_bos_embedding": bos,
        "tie_word_embeddings": tied,
        "add_decoder_lora": adapters == 2,
        "lora_config": {"r": 4, "lora_alpha": 8, "target_modules": list(ADAPTED)} if adapters else None,
    }
    model = MemoryLLM(config_from_dict(fields, "tiny"))
    draw = torch.Generator().manual_seed(seed)
    _randomise(model, draw)
    save_model(model, folder)
    if initialized:
        _write_pool(folder / "model.safetensors", torch.randn(layers, blocks * K, hidden, generator=draw))
    tiny_tokenizer().save_pretrained(folder)
    return folder


def tiny_block_checkpoint(
    folder: Path, *, layers: int = 4, reading_layer: int = 2, hidden: int = 32, K: int = 16, key_size: int = 32, seed: int = 0
) -> Path:
    """Like `tiny_checkpoint`, of a model of blocks.

    Its trunk adds little to the letters' embeddings and its selector compares them as they are, so a question finds the blocks that have
    its letters; the null candidate wants most of them.
    """
    fields = _shape(layers, hidden) | {
        "num_tokens": K,
        "num_blocks": 1,
        "tie_word_embeddings": True,
        "reading_layer": reading_layer,
        "key_size": key_size,
        "lora_config": {"r": 4, "lora_alpha": 8, "target_modules": list(ADAPTED)},
    }
    model = BlockLLM(config_from_dict(fields, "tiny"))
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, owners in sorted(tensor_places(model).items()):
            module, attribute = owners[0]
            parameter = module._parameters[attribute]
            assert parameter is not None
            if not name.startswith("selector."):
                parameter.copy_(_values(name, parameter.shape, draw))
        for layer in model.trunk_layers:
            layer.self_attn.o_proj.weight *= 0.01  # type: ignore[union-attr, operator]
            layer.mlp.down_proj.weight *= 0.01  # type: ignore[union-attr, operator]
    model.selector.start(draw)
    model.selector.query.data.copy_(torch.eye(key_size, hidden))
    model.selector.key.data.copy_(model.selector.query)
    model.selector.null_bias.data.fill_(1.1)
    save_block_model(model, folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """256 bytes, then `<|im_start|>` (BOS) and `<|im_end|>` (EOS): a text has as many tokens as UTF-8 bytes."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: number for number, letter in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=START, eos_token=END, pad_token=END, chat_template=CHAT_TEMPLATE, model_max_length=4096
    )


def _shape(layers: int, hidden: int) -> dict[str, object]:
    return {
        "architectures": [ARCHITECTURE],
        "vocab_size": VOCABULARY,
        "hidden_size": hidden,
        "intermediate_size": 2 * hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 4096,
        "rope_theta": 10000.0,
        "bos_token_id": 256,
        "eos_token_id": 257,
        "torch_dtype": "float32",
    }


@torch.no_grad()
def _randomise(model: MemoryLLM, draw: torch.Generator) -> None:
    for name, owners in sorted(published_names(model).items()):
        module, attribute = owners[0]
        parameter = module._parameters[attribute]
        assert parameter is not None
        parameter.copy_(_values(name, parameter.shape, draw))


def _values(name: str, shape: torch.Size, draw: torch.Generator) -> Tensor:
    noise = torch.randn(shape, generator=draw)
    if "norm" in name:
        return 1 + 0.1 * noise
    if "embed_tokens" in name or name == "new_memory_positional_emb":
        return EMBEDDING_SCALE * noise
    if name == "bos_embedding":
        return noise
    scale = 0.5 if "lora_" in name else 1.5
    return noise * scale / math.sqrt(shape[-1])


def _write_pool(file: Path, memory_LND: Tensor) -> None:
    tensors = load_file(file) | {"memory": memory_LND, "initialized": torch.ones((), dtype=torch.uint8)}
    save_file(tensors, file, metadata={"format": "pt"})
