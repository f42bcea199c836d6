"""`transformers.generate` on a reading, for people who use `model/` alone: greedy, sampled or by beams, with blocks in front of the prompt.

    model, cache = reading(llm, *memory.projected([3, 7]))
    model.generate(input_ids, attention_mask=..., past_key_values=cache, max_new_tokens=16)

What is read first is the prompt, and sees itself whole: so one prompt for one cache, and none of the ways that put more or less than it
into the first pass (assisted and prompt-lookup decoding, chunked prefill, scoring a given answer). A replica does not come this way: there
many questions share a pass (`model.reading.rows`).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AttentionInterface, LlamaForCausalLM
from transformers.cache_utils import Cache, DynamicLayer
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, eager_mask

from model.block_llm import BlockLLM
from model.memory_llm import rotate

ATTENTION = "block_reading"
TRUNK_ATTENTION = "sdpa"


class ReadingLayer(DynamicLayer):
    """Text as transformers counts it, behind memory that it does not count."""

    def __init__(self, keys_HCe: Tensor, values_HCe: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._memory = keys_HCe[None], values_HCe[None]

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Keys and values of memory and all text so far."""
        text = super().update(key_states, value_states, *args, **kwargs)
        keys, values = (
            torch.cat((memory.expand(len(own), -1, -1, -1), own), dim=2) for memory, own in zip(self._memory, text, strict=True)
        )
        return keys, values


def reading(model: BlockLLM, keys: Sequence[Tensor], values: Sequence[Tensor]) -> tuple[LlamaForCausalLM, Cache]:
    """A Llama that reads, and the cache that holds what it reads.

    Args:
        model: shares its weights with what is returned.
        keys, values: of each block, oldest first, [R, H, n, e], as `BlockMemory.projected` gives them.
    """
    size = sum(each.shape[2] for each in keys)
    cos, sin = model.rotary(torch.arange(-size, 0, device=model.device)[None])
    turned, plain = rotate(torch.cat(list(keys), dim=2), cos[0], sin[0]), torch.cat(list(values), dim=2)
    upper = [ReadingLayer(turned[index], plain[index]) for index in range(model.layers_kept)]
    return reader_of(model), Cache(layers=[*(DynamicLayer() for _ in range(model.first)), *upper])


def reader_of(model: BlockLLM) -> LlamaForCausalLM:
    """The trunk and the reader's layers as one Llama of transformers'; no weight is copied."""
    config, trunk_config = copy.deepcopy(model.config), copy.deepcopy(model.config)
    config._attn_implementation, trunk_config._attn_implementation = ATTENTION, TRUNK_ATTENTION
    with torch.device("meta"):
        llama = LlamaForCausalLM(config)
    base = model.base.model
    llama.model.layers = nn.ModuleList([*_attending(model.trunk_layers, trunk_config), *_attending(model.reader, config)])
    llama.model.embed_tokens, llama.model.norm, llama.model.rotary_emb = base.embed_tokens, base.norm, base.rotary_emb
    llama.lm_head = model.base.lm_head
    llama.eval()
    return llama


def _attending(layers: nn.ModuleList, config: Any) -> nn.ModuleList:
    """The same layers over the same parameters, which look up their attention in another config."""
    memo: dict[int, Any] = {id(parameter): parameter for parameter in layers.parameters()}
    made = copy.deepcopy(layers, memo)
    for layer in made:
        layer.self_attn.config = config  # type: ignore[union-attr]
    return made


def _attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, scaling: float, **kwargs: Any
) -> tuple[Tensor, None]:
    """Attention whose mask knows the text alone: every row sees all of the memory in front of it, and a prompt all of itself."""
    if attention_mask is not None:
        if query.shape[2] == attention_mask.shape[-1]:  # the prompt: what its last token sees
            attention_mask = attention_mask[:, :, -1:].expand(-1, -1, query.shape[2], -1)
        attention_mask = functional.pad(attention_mask, (key.shape[2] - attention_mask.shape[-1], 0))
    output, _ = sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, is_causal=False)
    return output, None


AttentionInterface.register(ATTENTION, _attention)
AttentionMaskInterface.register(ATTENTION, eager_mask)
