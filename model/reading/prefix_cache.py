"""Attention over a shared, read-only prefix and a private tail, as a transformers cache.

    B  prompts in the batch       H  key/value heads      C  rows of the prefix (BOS row and memory slots)
    T  rows asked now             S  rows of the tail so far      E  head dimension

The prefix is the pool as one version shows it: rotated keys and values of every slot, in place, with the slots that the version
does not hold masked. Attention does not care for the order of keys, so nothing is gathered and no question copies the pool. The
tail is what transformers thinks the cache is: its length counts the prompt alone, so masks, padding and `generate` need no
knowledge of the prefix.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.cache_utils import Cache, DynamicLayer
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, eager_mask

ATTENTION = "memory_prefix"
MAX_SCORE_ELEMENTS = 1 << 25
"""Attention scores held at once: longer prompts are taken in pieces, so that a question's memory is bounded."""


class PrefixLayer(NamedTuple):
    """What one layer reads of the pool: rotated keys and values, and which rows are not there (True = masked)."""

    keys_HCE: Tensor
    values_HCE: Tensor
    masked_C: Tensor | None


class Prefix(Protocol):
    """One version of a pool, ready to be attended to."""

    @property
    def length(self) -> int:
        """Positions the prefix takes: the prompt's first token stands here."""
        ...

    def layer(self, index: int) -> PrefixLayer: ...


class TailLayer(DynamicLayer):
    """Keys and values of the prompt and the answer, in a buffer that is allocated ahead and doubles when full."""

    STEP = 128

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        super().lazy_initialization(key_states, value_states)
        self._buffers = [key_states.new_empty((*key_states.shape[:2], 0, key_states.shape[3])) for _ in range(2)]

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append [B, H, T, E] rows; returns views of all S rows."""
        if torch.is_grad_enabled() and (key_states.requires_grad or value_states.requires_grad):
            return super().update(key_states, value_states)
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start = self.get_seq_length()
        end = start + key_states.shape[2]
        self._reserve(start, end, key_states.shape[0])
        self._buffers[0][:, :, start:end] = key_states
        self._buffers[1][:, :, start:end] = value_states
        self.keys, self.values = self._buffers[0][:, :, :end], self._buffers[1][:, :, :end]
        return self.keys, self.values

    def _reserve(self, start: int, end: int, batch: int) -> None:
        old = self._buffers[0]
        # Beam search and repeated samples select or repeat rows of `keys`: then the views no longer belong to the buffer.
        moved = self.keys is not None and start > 0 and self.keys.data_ptr() != old.data_ptr()
        if old.shape[0] == batch and old.shape[2] >= end and not moved:
            return
        room = max(self.STEP, -(-end // self.STEP) * self.STEP, 2 * start)
        fresh = [old.new_empty((batch, old.shape[1], room, old.shape[3])) for _ in range(2)]
        if start and self.keys is not None and self.values is not None:
            fresh[0][:, :, :start], fresh[1][:, :, :start] = self.keys, self.values
        self._buffers = fresh


class PrefixCache(Cache):
    """The cache of one question (or a batch of them): a pool version read by all, and a tail of its own."""

    def __init__(self, prefix: Prefix | None) -> None:
        super().__init__(layer_class_to_replicate=TailLayer)
        self.prefix = prefix


def prefix_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    memory_prefix: Prefix | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention of [B, heads, T, E] queries over the prefix and the [B, H, S, E] tail: one softmax over both parts.

    Returns:
        [B, T, heads, E], as transformers wants it, and no weights.
    """
    if memory_prefix is None:
        output, _ = sdpa_attention_forward(module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs)
        return output, None
    prefix = memory_prefix.layer(module.layer_idx)  # type: ignore[arg-type]
    batch, _, length, _ = query.shape
    rows = max(1, MAX_SCORE_ELEMENTS // (batch * query.shape[1] * (prefix.keys_HCE.shape[1] + key.shape[2])))
    if rows >= length:
        return attend_to_both(query, key, value, attention_mask, scaling, prefix).transpose(1, 2), None
    pieces = []
    for start in range(0, length, rows):
        piece = slice(start, start + rows)
        mask = None if attention_mask is None else attention_mask[:, :, piece]
        pieces.append(attend_to_both(query[:, :, piece], key, value, mask, scaling, prefix))
    return torch.cat(pieces, dim=2).transpose(1, 2), None


def attend_to_both(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float, prefix: PrefixLayer) -> Tensor:
    """Queries [B, heads, T, E] over the prefix and the tail [B, H, S, E], with `mask` [B, 1, T, S] added to the tail's scores."""
    batch, heads, length, width = query.shape
    groups = key.shape[1]
    per_group = heads // groups
    grouped = (query * scaling).reshape(batch, groups, per_group * length, width)
    # The whole batch shares one prefix: its queries are laid end to end, so the prefix is neither repeated nor copied.
    flat = grouped.transpose(0, 1).reshape(groups, batch * per_group * length, width)
    to_prefix = torch.matmul(flat, prefix.keys_HCE.transpose(1, 2)).view(groups, batch, per_group, length, -1).transpose(0, 1)
    if prefix.masked_C is not None:
        to_prefix = to_prefix.masked_fill(prefix.masked_C, torch.finfo(query.dtype).min)
    to_tail = torch.matmul(grouped, key.transpose(2, 3)).view(batch, groups, per_group, length, -1)
    if mask is not None:
        to_tail = to_tail + mask[:, :, None]
    columns = to_prefix.shape[-1]
    weights = torch.softmax(torch.cat((to_prefix, to_tail), dim=-1), dim=-1, dtype=torch.float32).to(query.dtype)
    on_prefix = weights[..., :columns].transpose(0, 1).reshape(groups, batch * per_group * length, columns)
    from_prefix = torch.matmul(on_prefix, prefix.values_HCE).view(groups, batch, per_group, length, width).transpose(0, 1)
    from_tail = torch.matmul(weights[..., columns:].reshape(batch, groups, per_group * length, -1), value)
    return (from_prefix + from_tail.view_as(from_prefix)).reshape(batch, heads, length, width)


AttentionInterface.register(ATTENTION, prefix_attention)
AttentionMaskInterface.register(ATTENTION, eager_mask)
