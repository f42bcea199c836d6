"""Learning and answering with the pool of the paper: read densely, nothing can be taken out of it again.

All answers of one version share its prefix in a pass; those of other versions, whose updates overtook them, run beside them.
"""

from __future__ import annotations

from collections.abc import Collection, Generator, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from model.block_llm import layer_step
from model.conversation import Conversation, Prompt
from model.engine import Asked, Chunks, Completion, Learned, Messages
from model.errors import UpdateFailed
from model.memory.tokens import MemoryPool, PoolLayer, PoolView
from model.reading.answering import Running, take_next
from model.reading.prefix_cache import attend_to_both
from model.reading.rows import Arenas, Row, Shape, Span, attention, side_by_side, spans_of

POOL_SHARE = 4
"""One document may overwrite a quarter of the pool."""


class PoolEngine:
    """One token pool, its model and its tokenizer; an `Engine`."""

    kind: Literal["tokens"] = "tokens"
    forgets = False
    min_tokens = 16

    def __init__(self, pool: MemoryPool, conversation: Conversation) -> None:
        self.pool, self.conversation = pool, conversation
        self._alive = set(pool.alive_updates().tolist()) if pool.num_tokens else set()
        self._wanted = 1
        self._arenas = Arenas(_shape(pool))
        self._running: dict[Row, tuple[Running, PoolView]] = {}
        end = conversation.end
        self._ends = frozenset() if end is None else frozenset((end,))

    @property
    def update_tokens(self) -> int:
        return self.pool.block

    @property
    def capacity(self) -> int:
        return self.pool.capacity // self.pool.block

    @property
    def most_updates(self) -> int:
        return max(1, self.capacity // POOL_SHARE)

    @property
    def update_number(self) -> int:
        return self.pool.update_number

    @property
    def threads(self) -> int:
        return torch.get_num_threads()

    @property
    def remembered(self) -> int:
        return len(self._alive)

    @property
    def num_tokens(self) -> int:
        return self.pool.num_tokens

    def encode(self, text: str) -> list[int]:
        return self.conversation.encode(text)

    def compose(self, messages: Messages) -> Prompt:
        return Prompt(tokens=tuple(self.conversation.tokens(messages)), spans=())

    def plain(self, text: str) -> Prompt:
        return self.conversation.plain(text)

    def decode_tokens(self, tokens: Sequence[int]) -> str:
        return self.conversation.decode(tokens)

    # ------------------------------------------------------------------ learning

    def can_learn(self) -> bool:
        return self.pool.has_room(self._wanted)

    def prepare(self, chunks: Chunks, coming: Iterable[Chunks] = ()) -> Generator[None, None, tuple[Tensor, ...]]:
        """The deltas, [L, K, D] each, on the host. Each is computed from the one before: nothing is written ahead."""
        deltas, tail_LKD = [], self.pool.tail_LKD
        for chunk in chunks:
            delta = self.pool.delta(torch.tensor(chunk), tail_LKD)
            tail_LKD = delta[:, -self.pool.block :]
            deltas.append(delta.cpu())
            yield
        return tuple(deltas)

    def room(self, updates: int) -> Generator[None, None, None]:
        if not self.pool.has_room(updates):
            self._wanted = updates
            try:
                yield
            finally:
                self._wanted = 1

    def commit(self, prepared: Sequence[Tensor], forget: Collection[int] = ()) -> Learned:
        try:
            numbers = tuple(self.pool.apply(delta, publish=False) for delta in prepared)
        except (UpdateFailed, RuntimeError):  # torch's own: out of memory, or worse
            self.pool.rollback()
            raise
        self.pool.publish()
        known, self._alive = {*self._alive, *numbers}, set(self.pool.alive_updates().tolist())
        return Learned(updates=numbers, forgotten=tuple(sorted(known - self._alive)))

    def load(self, layers: Iterable[PoolLayer], update_number: int) -> None:
        """Replace the whole pool."""
        self.pool.load(layers, update_number)
        self._alive = set(self.pool.alive_updates().tolist()) if self.pool.num_tokens else set()

    # ------------------------------------------------------------------ answering

    def can_begin(self) -> bool:
        return self.pool.can_pin()

    @torch.no_grad()
    def begin(self, asked: Sequence[Asked]) -> list[Running]:
        views = [self.pool.pin() for _ in asked]
        rows: list[Row] = []
        try:
            group = views[0].version.number
            rows.extend(self._arenas.place(group, 0, len(each.prompt.tokens) + min(each.asking.limit, 64)) for each in asked)
            running = self._begun(views[0], rows, asked)
        except Exception:
            for row in rows:  # nothing is left of questions that could not be begun
                self._arenas.remove(row)
            for view in views:
                self.pool.unpin(view)
            raise
        self._running |= {row: (each, view) for row, each, view in zip(rows, running, views, strict=True)}
        self._end_finished()
        return running

    def _begun(self, view: PoolView, rows: Sequence[Row], asked: Sequence[Asked]) -> list[Running]:
        prompts = [each.prompt.tokens for each in asked]
        order = sorted(range(len(rows)), key=lambda number: (rows[number].arena.text_room, rows[number].place))
        tokens = pad_sequence([torch.tensor(prompts[number]) for number in order], batch_first=True).to(self.pool.model.device)
        spans = side_by_side([rows[number] for number in order], [len(prompts[number]) for number in order], tokens.shape[1])
        hidden = self._pass(view, spans, tokens)
        last = torch.tensor([len(prompts[number]) - 1 for number in order], device=tokens.device)
        running = [Running(prompts[number], asked[number].asking, self._ends, self.conversation, device=tokens.device) for number in order]
        take_next(running, self._logits(hidden[torch.arange(len(order), device=tokens.device), last]))
        return [running[order.index(number)] for number in range(len(rows))]

    @torch.no_grad()
    def decode(self) -> None:
        self._arenas.make_room()
        for view in {view.version.number: view for _, view in self._running.values()}.values():
            spans = spans_of(self._arenas.of(view.version.number))
            running = [self._running[row][0] for span in spans for row in span.rows]
            tokens = torch.tensor([[each.tokens[-1]] for each in running], device=self.pool.model.device)
            take_next(running, self._logits(self._pass(view, spans, tokens)[:, -1]))
        self._end_finished()

    def _end_finished(self) -> None:
        for running, _ in list(self._running.values()):
            if running.finish_reason is not None:
                self.end(running)

    def end(self, running: Running) -> None:
        for row, (each, view) in list(self._running.items()):
            if each is running:
                del self._running[row]
                self._arenas.remove(row)
                self.pool.unpin(view)

    def completion(self, running: Running) -> Completion:
        return running.completion()

    def _pass(self, view: PoolView, spans: Sequence[Span], tokens_BT: Tensor) -> Tensor:
        """The reader over new tokens of rows that read one version: what comes out of the last layer, [B, T, D]."""
        model = self.pool.model
        written = view.version.slots_LN.shape[1] > 0
        hidden: Tensor = model.reader.model.embed_tokens(tokens_BT)
        starts = torch.tensor([row.length for span in spans for row in span.rows], device=tokens_BT.device)
        positions = starts[:, None] + torch.arange(tokens_BT.shape[1], device=tokens_BT.device)
        rotary = model.reader.model.rotary_emb(hidden, positions + (view.length if written else 0))
        for index, layer in enumerate(model.reader.model.layers):
            hidden = layer_step(layer, hidden, rotary, _Attend(view if written else None, spans, index))
        for span in spans:
            for row, count in zip(span.rows, span.counts, strict=True):
                row.length += count
        return hidden

    def _logits(self, hidden_BD: Tensor) -> Tensor:
        reader: Any = self.pool.model.reader
        logits: Tensor = reader.lm_head(reader.model.norm(hidden_BD))
        return logits


@dataclass(frozen=True, slots=True)
class _Attend:
    """The attention of one layer: one softmax over a version's prefix and the rows' own text."""

    view: PoolView | None
    spans: Sequence[Span]
    index: int

    def __call__(self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        mixed, start = [], 0
        for span in self.spans:
            part = slice(start, start + len(span.counts))
            keys, values, mask = span.keep(True, self.index, key[part], value[part])
            mixed.append(self._attend(module, query[part], keys, values, mask))
            start = part.stop
        return mixed[0] if len(mixed) == 1 else torch.cat(mixed)

    def _attend(self, module: nn.Module, query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
        if self.view is None:
            return attention(module, query, keys, values, mask)
        asked, seen = query.shape[2], keys.shape[2]
        if mask is None and asked > 1:
            mask = torch.ones(asked, seen, dtype=torch.bool, device=query.device).tril(seen - asked)[None, None]
        added = None if mask is None else torch.zeros_like(mask, dtype=query.dtype).masked_fill(~mask, torch.finfo(query.dtype).min)
        scaling: float = module.scaling  # type: ignore[assignment]
        return attend_to_both(query, keys, values, added, scaling, self.view.layer(self.index)).transpose(1, 2)


def _shape(pool: MemoryPool) -> Shape:
    keys = pool._keys_LHRE
    return Shape(
        lower_layers=0, upper_layers=pool.num_layers, heads=keys.shape[1], head_dim=keys.shape[3], dtype=keys.dtype, device=keys.device
    )
