"""A Llama that writes documents as blocks of memory and reads the blocks that a question selects.

    L  layers     S  the reading layer: layers below it are the base model for everyone     R  layers from S on (L - S)
    B  batch      T  text tokens     C  memory tokens in front of a prompt     D  width     H  key/value heads     E  head dimension

Below layer S, text and question run through the plain base model: the *trunk*. From S on there are three stacks over one set of base
weights: the base model's own layers, and two whose adapters are part of their layers, the *writer* and the *reader*.

    write:   trunk -> writer; a block is what stands BEFORE each of the R layers at the chunk's own tokens
    select:  the trunk's states of the question against the trunk's states of every block (`model.reading.selection`)
    read:    trunk -> reader, whose attention sees the selected blocks in front of the prompt
    no block: trunk -> the base model's own layers: transformers' Llama, bit for bit

Writer and reader look both ways: each token of a chunk sees all of it, each token of a prompt all of the prompt, as a prefix language
model does (Raffel et al. 2020, section 3.2). Who won a race is known to the winner's name only if the name sees what follows it. The
trunk looks back alone, and so does an answer.

Text stands at positions 0, 1, ...; memory stands before it, at -C .. -1. Rotary embeddings are relative, so that is what putting the
memory in front and the text behind it means, and the trunk's states serve whether something is read or not.

The paper (section 3.1) hands out the OUTPUT of layer l to stand in front of the INPUT of layer l. Here a block holds the inputs: what
the reader's layer would have seen with the text in its prompt, so reading starts from what the base model can do already.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from transformers import LlamaForCausalLM
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaRotaryEmbedding, apply_rotary_pos_emb

from model.config import MemoryLLMConfig
from model.memory_llm import adapt, rotate, shared_copy
from model.reading.rows import Row
from model.reading.selection import Selector

Rotary: TypeAlias = tuple[Tensor, Tensor]
Attend: TypeAlias = Callable[[nn.Module, Tensor, Tensor, Tensor], Tensor]
"""(attention module, query [B, heads, T, E], key and value [B, H, T, E], rotated) -> [B, T, heads, E]"""


class BlockLLM(nn.Module):
    """The model: base, writer, reader, selector. It holds no memory; see `model.memory.blocks.BlockMemory`."""

    def __init__(self, config: MemoryLLMConfig) -> None:
        super().__init__()
        if config.reading_layer is None or config.key_size is None:
            raise ValueError("a model of blocks needs reading_layer and key_size")
        config._attn_implementation = "sdpa"
        self.config = config
        self.first = config.reading_layer
        self.base = LlamaForCausalLM(config)
        upper = nn.ModuleList(self.base.model.layers[self.first :])
        # What comes out of the last layer nobody reads.
        self.writer, self.reader = shared_copy(upper[:-1]), shared_copy(upper)
        adapt(self.writer, config)
        adapt(self.reader, config)
        self.selector = Selector(config.hidden_size, config.key_size)

    @property
    def device(self) -> torch.device:
        return self._embedding.device

    @property
    def dtype(self) -> torch.dtype:
        return self._embedding.dtype

    @property
    def _embedding(self) -> Tensor:
        weight: Tensor = self.base.model.embed_tokens.weight
        return weight

    @property
    def layers_kept(self) -> int:
        """R: layers whose inputs a block holds."""
        return self.config.num_hidden_layers - self.first

    @property
    def trunk_layers(self) -> nn.ModuleList:
        layers: nn.ModuleList = self.base.model.layers[: self.first]
        return layers

    @property
    def own_layers(self) -> nn.ModuleList:
        """The base model's layers from S on."""
        layers: nn.ModuleList = self.base.model.layers[self.first :]
        return layers

    def reset_rotary(self) -> None:
        """Compute the rotary frequencies anew: they are no part of a checkpoint, so a model built without storage has none."""
        self.base.model.rotary_emb = LlamaRotaryEmbedding(self.config)

    def rotary(self, positions_BT: Tensor) -> Rotary:
        """cos and sin, each [B, T, E], for any positions, negative ones too."""
        cos, sin = self.base.model.rotary_emb(self._embedding[:1], positions_BT)
        return cos, sin

    # ------------------------------------------------------------------ writing

    def trunk(self, tokens_BT: Tensor) -> Tensor:
        """States [B, T, D] that stand before layer S when the base model reads these tokens from position 0 on."""
        hidden: Tensor = self.base.model.embed_tokens(tokens_BT)
        rotary = self.rotary(torch.arange(tokens_BT.shape[1], device=tokens_BT.device)[None])
        for layer in self.trunk_layers:
            hidden = layer_step(layer, hidden, rotary, causal)  # type: ignore[arg-type]
        return hidden

    def write(self, trunk_BTD: Tensor, lengths_B: Tensor) -> Tensor:
        """What stands before each of the R layers as the writer reads texts of these lengths: [B, R, T, D], the trunk's states first."""
        places = torch.arange(trunk_BTD.shape[1], device=trunk_BTD.device)
        rotary, whole = self.rotary(places[None]), Whole((places < lengths_B[:, None])[:, None, None])
        states = [trunk_BTD]
        for layer in self.writer:
            states.append(layer_step(layer, states[-1], rotary, whole))  # type: ignore[arg-type]
        return torch.stack(states, dim=1)

    def inject(self, chunks: Sequence[Sequence[int]], contexts: Sequence[Sequence[int]]) -> list[Tensor]:
        """The blocks of some chunks, each read behind its context (what came before it in its document), which is not kept.

        Returns:
            For each chunk [R, n, D], n the chunk's own number of tokens. Chunks are computed side by side: texts are padded on the
            right, where nobody looks. Gradients flow to the writer where they are enabled, never to the trunk.
        """
        starts = [1 + len(context) for context in contexts]
        rows = [[self.bos_token, *context, *chunk] for context, chunk in zip(contexts, chunks, strict=True)]
        lengths = [len(row) for row in rows]
        tokens = torch.tensor([row + [self.bos_token] * (max(lengths) - len(row)) for row in rows], device=self.device)
        with torch.no_grad():
            trunk_BTD = self.trunk(tokens)
        states_BRTD = self.write(trunk_BTD, torch.tensor(lengths, device=self.device))
        return [states[:, start:end] for states, start, end in zip(states_BRTD.unbind(), starts, lengths, strict=True)]

    @property
    def bos_token(self) -> int:
        token = self.config.bos_token_id
        return int(token if token is not None else 0)

    # ------------------------------------------------------------------ reading

    def project(self, index: int, states_MD: Tensor) -> tuple[Tensor, Tensor]:
        """Memory tokens as the reader's layer S + `index` sees them: unrotated keys and values, each [H, M, E]."""
        layer: Any = self.reader[index]
        normed = layer.input_layernorm(states_MD)
        attention = layer.self_attn
        shape = (states_MD.shape[0], -1, attention.head_dim)
        return attention.k_proj(normed).view(shape).transpose(0, 1), attention.v_proj(normed).view(shape).transpose(0, 1)

    def remember(self, row: Row, keys: Sequence[Tensor], values: Sequence[Tensor]) -> None:
        """Put selected blocks in front of a row's text, oldest first: `keys` (unrotated) and `values` are [R, H, n, e] for each block."""
        cos, sin = self.rotary(torch.arange(-row.memory, 0, device=self.device)[None])
        upper = row.arena.upper
        upper[0, :, row.place, :, : row.memory] = rotate(torch.cat(list(keys), dim=2), cos[0], sin[0])
        upper[1, :, row.place, :, : row.memory] = torch.cat(list(values), dim=2)

    def logits(self, hidden_BTD: Tensor) -> Tensor:
        """[B, T, vocabulary] from what came out of the last layer."""
        logits: Tensor = self.base.lm_head(self.base.model.norm(hidden_BTD))
        return logits


def layer_step(layer: LlamaDecoderLayer, hidden_BTD: Tensor, rotary: Rotary, attend: Attend) -> Tensor:
    """One Llama layer, operation for operation as transformers computes it, with the attention left to `attend`."""
    attention, (cos, sin) = layer.self_attn, rotary
    normed = layer.input_layernorm(hidden_BTD)
    shape = (*normed.shape[:-1], -1, attention.head_dim)
    query = attention.q_proj(normed).view(shape).transpose(1, 2)
    key = attention.k_proj(normed).view(shape).transpose(1, 2)
    value = attention.v_proj(normed).view(shape).transpose(1, 2)
    query, key = apply_rotary_pos_emb(query, key, cos, sin)
    mixed = attend(attention, query, key, value)
    hidden: Tensor = hidden_BTD + attention.o_proj(mixed.reshape(*hidden_BTD.shape[:-1], -1).contiguous())
    output: Tensor = hidden + layer.mlp(layer.post_attention_layernorm(hidden))
    return output


def causal(module: nn.Module, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attention among the rows themselves, as transformers calls it where no mask is needed."""
    mixed: Tensor = sdpa_attention_forward(module, query, key, value, None, scaling=module.scaling)[0]  # type: ignore[arg-type]
    return mixed


@dataclass(frozen=True, slots=True)
class Whole:
    """Attention of texts side by side, padded on the right: every token sees all of its own text, [B, 1, 1, T]."""

    mask: Tensor

    def __call__(self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return grouped_attention(module, query, key, value, self.mask)


def grouped_attention(module: nn.Module, query: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
    """[B, T, heads, e] under a mask [B, 1, T or 1, C] of who sees whom: the heads that share keys in one product.

    With gradients on a CPU in some 0.4 of the time of PyTorch's fused attention under a mask.
    """
    batch, shared, width, size = keys.shape
    scale: float = module.scaling  # type: ignore[assignment]
    scores = query.reshape(batch, shared, -1, size) @ keys.transpose(2, 3) * scale
    scores = scores.view(batch, shared, -1, query.shape[2], width).masked_fill(~mask[:, None], -torch.inf)
    weights = scores.float().softmax(-1).to(values.dtype).view(batch, shared, -1, width)
    return (weights @ values).view(batch, -1, query.shape[2], size).transpose(1, 2)
