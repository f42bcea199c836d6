"""Running answers: each row has keys and values of its own, its memory in front of its text; rows of any length share a pass.

    L  layers     S  the reading layer     C  memory tokens of a row     T  text tokens of a pass     H  key/value heads
    e  head dimension

A row's buffers are allocated ahead and doubled when full; a pass appends to them in place, so neither a token nor a row copies what is
there. Text lies from column C on in every layer; below layer S nobody looks at the columns before it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from model.block_llm import BlockLLM, layer_step
from model.memory_llm import rotate

STEP = 128


class Row:
    """One question and its answer so far."""

    def __init__(self, model: BlockLLM, room: int) -> None:
        self._model = model
        self.memory, self.length, self.grounded = 0, 0, False
        attention = model.base.model.layers[0].self_attn
        heads = model.config.num_attention_heads // attention.num_key_value_groups
        shape = (2, model.config.num_hidden_layers, heads, -(-room // STEP) * STEP, attention.head_dim)
        self._buffer = torch.empty(shape, dtype=model.dtype, device=model.device)

    def remember(self, keys: Sequence[Tensor], values: Sequence[Tensor], text: int) -> None:
        """Put selected blocks, oldest first, in front of the `text` tokens that went through the trunk.

        `keys` (unrotated) and `values` are [R, H, n, e] for each block.
        """
        size = sum(each.shape[2] for each in keys)
        room = size + self._buffer.shape[3]
        old, first = self._buffer, self._model.first
        self._buffer = old.new_empty((*old.shape[:3], -(-room // STEP) * STEP, old.shape[4]))
        self._buffer[:, :first, :, size : size + text] = old[:, :first, :, :text]
        cos, sin = self._model.rotary(torch.arange(-size, 0, device=old.device)[None])
        self._buffer[0, first:, :, :size] = rotate(torch.cat(list(keys), dim=2), cos[0], sin[0])
        self._buffer[1, first:, :, :size] = torch.cat(list(values), dim=2)
        self.memory, self.grounded = size, True

    def append(self, layer: int, key_1HTe: Tensor, value_1HTe: Tensor) -> tuple[Tensor, Tensor]:
        """Keep one pass's keys and values in a layer; returns all that the layer may look at, [1, H, C + text, e] each."""
        start, count = self.memory + self.length, key_1HTe.shape[2]
        if start + count > self._buffer.shape[3]:
            more = self._buffer.new_empty((*self._buffer.shape[:3], max(STEP, self._buffer.shape[3]), self._buffer.shape[4]))
            self._buffer = torch.cat((self._buffer, more), dim=3)
        self._buffer[0, layer, :, start : start + count] = key_1HTe[0]
        self._buffer[1, layer, :, start : start + count] = value_1HTe[0]
        first = 0 if layer >= self._model.first else self.memory
        seen = self._buffer[:, layer, :, first : start + count]
        return seen[0][None], seen[1][None]


class Passing:
    """The attention of one layer in one pass over some rows, T new tokens each."""

    def __init__(self, rows: Sequence[Row], layer: int) -> None:
        self._rows, self._layer = rows, layer

    def __call__(self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        mixed = []
        for number, row in enumerate(self._rows):
            keys, values = row.append(self._layer, key[number : number + 1], value[number : number + 1])
            mixed.append(_attend(module, query[number : number + 1], keys, values))
        return torch.cat(mixed) if len(mixed) > 1 else mixed[0]


def _attend(module: nn.Module, query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """As transformers computes it: without a mask where none is needed."""
    asked, seen = query.shape[2], keys.shape[2]
    mask = None
    if asked > 1 and seen > asked:
        mask = torch.ones(asked, seen, dtype=torch.bool, device=query.device).tril(seen - asked)[None, None]
    mixed: Tensor = sdpa_attention_forward(module, query, keys, values, mask, scaling=module.scaling)[0]  # type: ignore[arg-type]
    return mixed


def lower_pass(model: BlockLLM, rows: Sequence[Row], tokens_BT: Tensor) -> Tensor:
    """The trunk over new tokens of some rows: states before layer S."""
    hidden: Tensor = model.base.model.embed_tokens(tokens_BT)
    rotary = _rotary(model, rows, tokens_BT.shape[1])
    for index, layer in enumerate(model.trunk_layers):
        hidden = layer_step(layer, hidden, rotary, Passing(rows, index))  # type: ignore[arg-type]
    return hidden


def upper_pass(model: BlockLLM, rows: Sequence[Row], trunk_BTD: Tensor) -> Tensor:
    """From layer S to the end: rows that read memory through the reader's layers, the others through the base model's own.

    The rows' new tokens count as theirs from here on. Returns what came out of the last layer, [B, T, D].
    """
    length = trunk_BTD.shape[1]
    output = torch.empty_like(trunk_BTD)
    for grounded, layers in ((True, model.reader), (False, model.own_layers)):
        members = [number for number, row in enumerate(rows) if row.grounded is grounded]
        if members:
            chosen = [rows[number] for number in members]
            hidden = trunk_BTD[members] if len(members) < len(rows) else trunk_BTD
            rotary = _rotary(model, chosen, length)
            for index, layer in enumerate(layers):
                hidden = layer_step(layer, hidden, rotary, Passing(chosen, model.first + index))  # type: ignore[arg-type]
            output[members] = hidden
    for row in rows:
        row.length += length
    return output


def _rotary(model: BlockLLM, rows: Sequence[Row], length: int) -> tuple[Tensor, Tensor]:
    starts = torch.tensor([row.length for row in rows], device=model.device)
    return model.rotary(starts[:, None] + torch.arange(length, device=model.device)[None])
