"""Running answers side by side: each has keys and values of its own, its memory in front of its text, and all share a pass.

    L  layers     S  layers that see the text alone     R  layers that see memory and text     B  rows of a pass     T  new text tokens
    C  memory tokens of a row     H  key/value heads     e  head dimension

Rows with as much room lie in one *arena*: a tensor with a place for each. Places are taken from the front, so that a pass over all rows
of an arena is one attention call a layer on a view of it; a row that leaves is replaced by the last one. Rows of one arena may have
memory and text of any length: a mask says what each may see, and where no mask is needed none is given, as transformers does it.
Text looks back; a prompt that is read with memory in front of it looks both ways.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.integrations.sdpa_attention import sdpa_attention_forward

STEP = 128
"""Tokens of the smallest room; larger ones are twice, four times ... as large."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What an arena is made for."""

    lower_layers: int
    upper_layers: int
    heads: int
    head_dim: int
    dtype: torch.dtype
    device: torch.device


class Row:
    """The keys and values of one answer: `memory` tokens in front of `length` tokens of text."""

    __slots__ = ("arena", "length", "memory", "place")

    def __init__(self, arena: Arena, place: int, memory: int) -> None:
        self.arena, self.place, self.memory, self.length = arena, place, memory, 0


class Arena:
    """Rows with room for so many tokens of memory and of text."""

    def __init__(self, shape: Shape, memory_room: int, text_room: int) -> None:
        self.shape, self.memory_room, self.text_room = shape, memory_room, text_room
        self.rows: list[Row] = []
        self.lower = self._empty(shape.lower_layers, 0, text_room)
        self.upper = self._empty(shape.upper_layers, 0, memory_room + text_room)

    def _empty(self, layers: int, places: int, room: int) -> Tensor:
        shape = self.shape
        # Zeroed: what is masked still takes part in a product, and 0 x NaN is not 0.
        return torch.zeros(2, layers, places, shape.heads, room, shape.head_dim, dtype=shape.dtype, device=shape.device)

    def add(self, memory: int) -> Row:
        """A new row behind the others."""
        place = len(self.rows)
        if place == self.lower.shape[2]:
            more = max(1, place)
            self.lower = torch.cat((self.lower, self._empty(self.shape.lower_layers, more, self.lower.shape[4])), dim=2)
            self.upper = torch.cat((self.upper, self._empty(self.shape.upper_layers, more, self.upper.shape[4])), dim=2)
        self.rows.append(Row(self, place, memory))
        return self.rows[-1]

    def remove(self, row: Row) -> None:
        """The last row takes its place."""
        last = self.rows.pop()
        if last is not row:
            used = last.memory + last.length
            self.lower[:, :, row.place, :, : last.length] = self.lower[:, :, last.place, :, : last.length]
            self.upper[:, :, row.place, :, :used] = self.upper[:, :, last.place, :, :used]
            last.place = row.place
            self.rows[row.place] = last


class Arenas:
    """All rows of an engine. `group` keeps rows apart that do not share a pass: those that read with adapters and those that don't."""

    def __init__(self, shape: Shape) -> None:
        self.shape = shape
        self._arenas: dict[tuple[int, int, int], Arena] = {}

    def place(self, group: int, memory: int, text: int) -> Row:
        """A row with room for so much memory and at least so much text."""
        return self._arena(group, room_for(memory) if memory else 0, room_for(text)).add(memory)

    def _arena(self, group: int, memory_room: int, text_room: int) -> Arena:
        key = group, memory_room, text_room
        if key not in self._arenas:
            self._arenas[key] = Arena(self.shape, memory_room, text_room)
        return self._arenas[key]

    def remove(self, row: Row) -> None:
        row.arena.remove(row)
        if not row.arena.rows:
            self._arenas = {key: arena for key, arena in self._arenas.items() if arena is not row.arena}

    def make_room(self) -> None:
        """Rows that are full move to an arena with twice the room for text."""
        for (group, memory_room, text_room), arena in list(self._arenas.items()):
            for row in [row for row in arena.rows if row.length == text_room]:
                self._move(row, self._arena(group, memory_room, 2 * text_room))

    def _move(self, row: Row, arena: Arena) -> None:
        old, place, used = row.arena, row.place, row.memory + row.length
        arena.add(row.memory)  # grows the arena; the row itself goes on, since its answer knows it
        new = arena.rows[-1].place
        arena.lower[:, :, new, :, : row.length] = old.lower[:, :, place, :, : row.length]
        arena.upper[:, :, new, :, :used] = old.upper[:, :, place, :, :used]
        self.remove(row)
        arena.rows[new] = row
        row.arena, row.place = arena, new

    def of(self, group: int) -> list[Arena]:
        """The arenas of a group."""
        return [arena for (each, _, _), arena in sorted(self._arenas.items(), key=lambda item: item[0]) if each == group]

    def __iter__(self) -> Iterator[Row]:
        return (row for arena in self._arenas.values() for row in arena.rows)


def room_for(tokens: int) -> int:
    """The smallest room that holds so many tokens.

    >>> room_for(1), room_for(128), room_for(129), room_for(700)
    (128, 128, 256, 1024)
    """
    return STEP * (1 << max(0, -(-tokens // STEP) - 1).bit_length())


class Span:
    """Some neighbouring rows of an arena in one pass, and how many new tokens each of them has; all are padded to `tokens`.

    whole: above, each new token sees all new tokens of its row, those after it too.
    """

    def __init__(self, arena: Arena, first: int, counts: Sequence[int], tokens: int, whole: bool = False) -> None:
        self.arena, self.first, self.counts = arena, first, counts
        self.rows = arena.rows[first : first + len(counts)]
        device = arena.shape.device
        text, memory = [row.length for row in self.rows], [row.memory for row in self.rows]
        self._starts = (text, [start + own for start, own in zip(text, memory, strict=True)])
        self._columns = [torch.tensor(starts, device=device) for starts in self._starts]
        self._places = torch.arange(first, first + len(counts), device=device)
        self._widths = [max(start + count for start, count in zip(starts, counts, strict=True)) for starts in self._starts]
        (below, above), (narrow, wide) = self._starts, self._widths
        self._masks = self._mask(below, narrow, tokens), self._whole_mask() if whole else self._mask(above, wide, tokens)

    def _whole_mask(self) -> Tensor:
        """[B, 1, 1, width]"""
        ends = self._columns[1] + torch.tensor(self.counts, device=self._places.device)
        return (torch.arange(self._widths[1], device=ends.device) < ends[:, None])[:, None, None]

    def _mask(self, starts: list[int], width: int, tokens: int) -> Tensor | None:
        """Who sees which column [B, 1, T, width]; None where a row's own order says it."""
        if len(set(starts)) == 1 and (tokens == 1 or (starts[0] == 0 and width == tokens)):
            return None
        device = self.arena.shape.device
        ends = torch.tensor(starts, device=device)[:, None] + torch.arange(tokens, device=device)
        return (torch.arange(width, device=device) <= ends[:, :, None])[:, None]

    def keep(self, upper: bool, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Keep the new keys and values [B, H, T, e]; returns all that the rows may see [B, H, width, e], and the mask."""
        buffer = self.arena.upper if upper else self.arena.lower
        keys, values = buffer[0, layer], buffer[1, layer]
        if key.shape[2] == 1:
            columns = self._columns[upper]
            keys[self._places, :, columns], values[self._places, :, columns] = key[:, :, 0], value[:, :, 0]
        else:
            for number, count in enumerate(self.counts):
                start, place = self._starts[upper][number], self.first + number
                keys[place, :, start : start + count] = key[number, :, :count]
                values[place, :, start : start + count] = value[number, :, :count]
        end, width = self.first + len(self.counts), self._widths[upper]
        return keys[self.first : end, :, :width], values[self.first : end, :, :width], self._masks[upper]


class Pass:
    """The attention of one pass over several spans, one layer after the other."""

    def __init__(self, spans: Sequence[Span]) -> None:
        self.spans = spans

    def layer(self, upper: bool, layer: int) -> LayerPass:
        return LayerPass(self, upper, layer)

    def positions(self, tokens: int) -> Tensor:
        """Of the new text [B, T]: it stands at 0, 1, ... whatever memory is before it."""
        starts = [row.length for span in self.spans for row in span.rows]
        device = self.spans[0].arena.shape.device
        return torch.tensor(starts, device=device)[:, None] + torch.arange(tokens, device=device)

    def done(self) -> None:
        """The new tokens are the rows' own from here on."""
        for span in self.spans:
            for row, count in zip(span.rows, span.counts, strict=True):
                row.length += count


@dataclass(frozen=True, slots=True)
class LayerPass:
    """An `Attend` of `model.block_llm.layer_step`."""

    passed: Pass
    upper: bool
    index: int

    def __call__(self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        mixed, start = [], 0
        for span in self.passed.spans:
            part = slice(start, start + len(span.counts))
            mixed.append(attention(module, query[part], *span.keep(self.upper, self.index, key[part], value[part])))
            start = part.stop
        return mixed[0] if len(mixed) == 1 else torch.cat(mixed)


class Kept:
    """Attention of a first pass over prompts of any length side by side, padded on the right; their keys and values are kept."""

    def __init__(self) -> None:
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []

    def __call__(self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        self.keys.append(key)
        self.values.append(value)
        return attention(module, query, key, value, None)

    def lay_into(self, row: Row, number: int, count: int) -> None:
        """The first `count` tokens of prompt `number` become the row's text below the layers that see memory."""
        lower = row.arena.lower
        for layer, (keys, values) in enumerate(zip(self.keys, self.values, strict=True)):
            lower[0, layer, row.place, :, :count] = keys[number, :, :count]
            lower[1, layer, row.place, :, :count] = values[number, :, :count]


def attention(module: nn.Module, query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
    """[B, T, heads, e]: without a mask operation for operation as transformers computes it."""
    if mask is None:
        mixed: Tensor = sdpa_attention_forward(module, query, keys, values, None, scaling=module.scaling)[0]  # type: ignore[arg-type]
        return mixed
    scale: float = module.scaling  # type: ignore[assignment]
    return functional.scaled_dot_product_attention(query, keys, values, attn_mask=mask, scale=scale, enable_gqa=True).transpose(1, 2)


def spans_of(arenas: Sequence[Arena]) -> list[Span]:
    """All rows of some arenas, one new token each."""
    return [Span(arena, 0, [1] * len(arena.rows), 1) for arena in arenas if arena.rows]


def side_by_side(rows: Sequence[Row], counts: Sequence[int], tokens: int, whole: bool = False) -> list[Span]:
    """Rows with so many new tokens each, padded to `tokens`; neighbours together. `whole`: see `Span`."""
    spans: list[Span] = []
    start = 0
    for number in range(1, len(rows) + 1):
        if number == len(rows) or rows[number].arena is not rows[start].arena or rows[number].place != rows[number - 1].place + 1:
            spans.append(Span(rows[start].arena, rows[start].place, counts[start:number], tokens, whole))
            start = number
    return spans
