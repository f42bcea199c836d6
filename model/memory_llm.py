"""MemoryLLM (Wang et al., ICML 2024) on today's transformers: how a text becomes memory, and how memory is read.

    L  layers     N  memory tokens a layer     K  memory tokens written by one update     D  width
    B  batch      T  text tokens               H  key/value heads                         E  head dimension

Two stacks of Llama layers share one set of base weights. The *writer* carries the injection adapter, the *reader* the generation
adapter, and an adapter is part of a layer, not a switch: nothing global says which role is active, so a text may be injected while
an answer is generated. Where the checkpoint has no adapters, or one, both roles are the same stack.

    write:  rows = [bos | last K memory tokens | text], through every layer; the last K rows of its output are the layer's delta
    read:   an ordinary Llama forward whose attention sees [bos | memory] as a prefix of keys and values
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import LlamaForCausalLM
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaRotaryEmbedding, rotate_half

from model.config import MemoryLLMConfig
from model.reading.prefix_cache import ATTENTION, PrefixCache


class AdaptedLinear(nn.Module):
    """A linear projection with a low-rank adapter beside it: y = W x + (alpha / r) B A x. The base weight may be shared."""

    def __init__(self, base: nn.Linear, rank: int, scale: float) -> None:
        super().__init__()
        self.weight, self.bias, self.scale = base.weight, base.bias, scale
        self.lora_A = nn.Parameter(base.weight.new_zeros(rank, base.in_features))
        self.lora_B = nn.Parameter(base.weight.new_zeros(base.out_features, rank))

    def forward(self, x: Tensor) -> Tensor:
        low = functional.linear(functional.linear(x, self.lora_A.to(x.dtype)), self.lora_B.to(x.dtype))
        return torch.add(functional.linear(x, self.weight, self.bias), low, alpha=self.scale)


def adapt(layers: nn.ModuleList, config: MemoryLLMConfig) -> None:
    """Put an adapter on every projection that `lora_config` targets."""
    fields = config.lora_config or {}
    rank, scale = fields["r"], fields["lora_alpha"] / fields["r"]
    for layer in layers:
        for parent in map(layer.get_submodule, ("self_attn", "mlp")):
            for name, child in list(parent.named_children()):
                if name in fields["target_modules"] and isinstance(child, nn.Linear):
                    setattr(parent, name, AdaptedLinear(child, rank, scale))


class MemoryReader(LlamaForCausalLM):
    """The role that answers: transformers' Llama, whose `generate` reads memory when it is given a `PrefixCache`."""

    config_class = MemoryLLMConfig

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: PrefixCache | None = None,
        inputs_embeds: Tensor | None = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Llama's forward; positions count from the prompt's first token and are moved behind the memory here."""
        prefix = getattr(past_key_values, "prefix", None)
        if prefix is None:
            plain: CausalLMOutputWithPast = super().forward(
                input_ids, attention_mask, position_ids, past_key_values, inputs_embeds, **kwargs
            )
            return plain
        tokens = input_ids if input_ids is not None else inputs_embeds
        if tokens is None or past_key_values is None:
            raise ValueError("a question needs input_ids or inputs_embeds")
        if position_ids is None:
            start = past_key_values.get_seq_length()
            position_ids = torch.arange(start, start + tokens.shape[1], device=tokens.device)[None]
        output: CausalLMOutputWithPast = super().forward(
            input_ids,
            attention_mask,
            position_ids + prefix.length,
            past_key_values,
            inputs_embeds,
            memory_prefix=prefix,
            **kwargs,
        )
        return output


class MemoryLLM(nn.Module):
    """The model: reader, writer and what MemoryLLM adds to Llama. It holds no pool; see `model.memory.tokens.MemoryPool`."""

    def __init__(self, config: MemoryLLMConfig) -> None:
        super().__init__()
        config._attn_implementation = ATTENTION
        self.config = config
        self.reader = MemoryReader(config)
        self.writer = self.reader.model.layers
        if len(config.adapters) == 2:
            self.writer = shared_copy(self.reader.model.layers)
            adapt(self.writer, config)
        if config.adapters:
            adapt(self.reader.model.layers, config)
        width = config.hidden_size
        self.bos_embedding = nn.Parameter(torch.zeros(config.num_hidden_layers, 1, width)) if config.add_bos_embedding else None
        self.new_memory_positional_emb = nn.Parameter(torch.zeros(1, 1, width))

    @property
    def device(self) -> torch.device:
        return self.new_memory_positional_emb.device

    @property
    def dtype(self) -> torch.dtype:
        return self.new_memory_positional_emb.dtype

    @property
    def num_bos(self) -> int:
        """Rows in front of the memory: 1 with a BOS embedding, else 0."""
        return 0 if self.bos_embedding is None else 1

    def reset_rotary(self) -> None:
        """Compute the rotary frequencies anew: they are no part of a checkpoint, so a model built without storage has none."""
        self.reader.model.rotary_emb = LlamaRotaryEmbedding(self.config)

    @torch.no_grad()
    def inject(self, tokens_BT: Tensor, tail_LKD: Tensor | None) -> Tensor:
        """The new memory tokens of B texts, each injected from the same pool. Builds no graph, no logits, no cache.

        Args:
            tokens_BT: token ids, unpadded.
            tail_LKD: the last K memory tokens of each layer; None for a pool that was never written.

        Returns:
            delta_BLKD. Of a first update (`tail_LKD` is None) and T < K it has T rows only.
        """
        return self.write(tokens_BT, None if tail_LKD is None else tail_LKD[None].expand(tokens_BT.shape[0], -1, -1, -1))

    def write(self, tokens_BT: Tensor, tail_BLKD: Tensor | None) -> Tensor:
        """`inject`, differentiable, each text with a tail of its own (paper, section 3.1)."""
        size = self.config.num_tokens
        text_BTD = self.reader.model.embed_tokens(tokens_BT)
        context = 0 if tail_BLKD is None else self.num_bos + size
        rotary = self.rotary(torch.arange(context + tokens_BT.shape[1], device=tokens_BT.device))
        deltas = []
        for index, layer in enumerate(self.writer):
            rows = text_BTD if tail_BLKD is None else torch.cat((self._context(index, tail_BLKD), text_BTD), dim=1)
            marked = min(size, rows.shape[1])
            rows = torch.cat((rows[:, :-marked], rows[:, -marked:] + self.new_memory_positional_emb), dim=1)
            asked = rows.shape[1] if tail_BLKD is None else max(tokens_BT.shape[1], size)
            output = layer_forward(layer, rows, asked, rotary)
            delta = output[:, -marked:]
            if tail_BLKD is None and index + 1 < len(self.writer):
                # The authors' first update adds the next layer's mark in place, to the rows that it has just handed out as delta.
                delta = delta + self.new_memory_positional_emb
            deltas.append(delta)
            text_BTD = output[:, -tokens_BT.shape[1] :]
        return torch.stack(deltas, dim=1)

    def _context(self, index: int, tail_BLKD: Tensor) -> Tensor:
        tail = tail_BLKD[:, index]
        if self.bos_embedding is None:
            return tail
        return torch.cat((self.bos_embedding[index].expand(tail.shape[0], -1, -1), tail), dim=1)

    def project(self, index: int, states_MD: Tensor) -> tuple[Tensor, Tensor]:
        """Memory tokens of layer `index` as its reader sees them: unrotated keys and values, each [H, M, E]."""
        layer = self.reader.model.layers[index]
        normed = layer.input_layernorm(states_MD)
        attention = layer.self_attn
        shape = (states_MD.shape[0], -1, attention.head_dim)
        return attention.k_proj(normed).view(shape).transpose(0, 1), attention.v_proj(normed).view(shape).transpose(0, 1)

    def rotary(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """cos and sin, each [1, len(positions), E], for any positions."""
        cos, sin = self.reader.model.rotary_emb(self.new_memory_positional_emb, positions[None])
        return cos, sin


def rotate(states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Keys or queries [..., n, E] at the n positions of `MemoryLLM.rotary`."""
    rotated: Tensor = (states * cos) + (rotate_half(states) * sin)
    return rotated


def layer_forward(layer: LlamaDecoderLayer, rows_BRD: Tensor, asked: int, rotary: tuple[Tensor, Tensor]) -> Tensor:
    """One Llama layer, causal, keys and values from all R rows and queries for the last `asked`: returns those rows' outputs."""
    attention, (cos, sin) = layer.self_attn, rotary
    normed = layer.input_layernorm(rows_BRD)
    shape = (*rows_BRD.shape[:2], -1, attention.head_dim)
    query = attention.q_proj(normed[:, -asked:]).view(shape[0], asked, -1, attention.head_dim).transpose(1, 2)
    key = attention.k_proj(normed).view(shape).transpose(1, 2)
    value = attention.v_proj(normed).view(shape).transpose(1, 2)
    query, key = rotate(query, cos[:, -asked:], sin[:, -asked:]), rotate(key, cos, sin)
    mask = torch.ones(asked, rows_BRD.shape[1], dtype=torch.bool, device=rows_BRD.device).tril(rows_BRD.shape[1] - asked)
    mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=attention.scaling, enable_gqa=True)
    residual = rows_BRD[:, -asked:] + attention.o_proj(mixed.transpose(1, 2).flatten(2))
    output: Tensor = residual + layer.mlp(layer.post_attention_layernorm(residual))
    return output


def shared_copy(layers: nn.ModuleList) -> nn.ModuleList:
    """The same layers as separate modules over the same parameters: no second copy of the weights."""
    return copy.deepcopy(layers, memo={id(parameter): parameter for parameter in layers.parameters()})
