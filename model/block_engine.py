"""Learning and answering with a block memory.

prompts side by side -> trunk -> select, each for itself -> read the best blocks, or go on as the base model -> judge -> first tokens
every running answer -> trunk -> reader, or the base model's own layers -> one token more each
"""

from __future__ import annotations

import math
from collections.abc import Collection, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from model.block_llm import BlockLLM, layer_step
from model.conversation import OPENING, UNKNOWN, Conversation, Prompt
from model.engine import Asked, Asking, Chunks, Completion, Learned, Messages, Read
from model.memory.blocks import Block, BlockMemory, Scored
from model.memory.writing import MOST_CORES, SideBySide
from model.reading.answering import Running, take_next
from model.reading.rows import Arenas, Kept, Pass, Row, Shape, Span, side_by_side, spans_of

MAX_QUERY_TOKENS = 256
"""Tokens of a conversation that blocks are compared with, the latest ones (BOUNDED)."""

NARROW = 1024
"""Width below which a CPU writes one document a core: products of one chunk are too small to be split (docs/results.md)."""

BASE, READER = 0, 1
"""Rows that read nothing and go on through the base model's own layers, and rows that read."""

SURE = 20.0
"""Nats above the next one: at any temperature in use it is drawn."""

LIKELY = 0.05
"""The chance of the first token of "I don't know." from which the second is looked at."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadingConfig:
    """How blocks are chosen.

    Attributes:
        most_blocks: that one answer reads.
        share: a block is read if it is at least so likely as this share of the best one, and what stands around it in its document, while
            there is room.
        margin: nats that the best block must lead by (`Scored.lead`) to be trusted: if it then does not tell, that is said.
        doubt: nats from which blocks are read on trial: if they do not tell, the base model answers, as if nothing had been read.
            Below, nothing is read.
        evidence: nats that selector and reader together must give for an answer: what the best block leads by, and the reader's
            log-odds against beginning with "I don't know.". Below, it says that, and else never.
    """

    most_blocks: int = 4
    share: float = 0.1
    margin: float = 0.8
    doubt: float = -8.0
    evidence: float = -1.5


@dataclass(slots=True, eq=False)
class _Begun:
    """A question, the blocks that were chosen for it, and the row that they and its text stand in."""

    asked: Asked
    scored: Scored
    read: tuple[Read, ...]
    row: Row
    is_left: bool = False
    """The blocks were read on trial and do not tell."""

    never: tuple[int, ...] = ()
    """Tokens that the answer must not begin with."""


class BlockEngine:
    """One block memory, its model and its tokenizer; an `Engine`."""

    kind: Literal["blocks"] = "blocks"
    forgets = True
    min_tokens = 1

    def __init__(self, memory: BlockMemory, conversation: Conversation, config: ReadingConfig | None = None) -> None:
        self.memory, self.conversation, self.config = memory, conversation, config or ReadingConfig()
        self._model = memory.model
        self._ends = frozenset() if conversation.end is None else frozenset((conversation.end,))
        threads = torch.get_num_threads()
        is_narrow = self._model.device.type == "cpu" and self._model.config.hidden_size < NARROW
        # Cores that write side by side, threads that each of their products has, chunks in one product.
        self.cores, self.threads, together = (min(threads, MOST_CORES), 1, 2) if is_narrow else (1, threads, 4)
        self._writing = SideBySide(memory.write, self.cores, together)
        self._arenas = Arenas(_shape(self._model))
        self._running: dict[Row, Running] = {}

    @property
    def update_tokens(self) -> int:
        return self.memory.block

    @property
    def capacity(self) -> int:
        return self.memory.capacity

    @property
    def most_updates(self) -> int:
        return self.memory.capacity

    @property
    def update_number(self) -> int:
        return self.memory.update_number

    @property
    def remembered(self) -> int:
        return len(self.memory)

    @property
    def num_tokens(self) -> int:
        return self.memory.num_tokens

    def encode(self, text: str) -> list[int]:
        return self.conversation.encode(text)

    def compose(self, messages: Messages) -> Prompt:
        return self.conversation.prompt(messages)

    def plain(self, text: str) -> Prompt:
        return self.conversation.plain(text)

    def decode_tokens(self, tokens: Sequence[int]) -> str:
        return self.conversation.decode(tokens)

    # ------------------------------------------------------------------ learning

    def can_learn(self) -> bool:
        return True

    def prepare(self, chunks: Chunks, coming: Iterable[Chunks] = ()) -> Generator[None, None, list[Block]]:
        return (yield from self._writing.prepare(chunks, coming))

    def room(self, updates: int) -> Generator[None, None, None]:
        yield from ()

    def commit(self, prepared: Sequence[Block], forget: Collection[int] = ()) -> Learned:
        updates, left = self.memory.apply(prepared, forget)
        return Learned(updates=tuple(updates), forgotten=(*forget, *left))

    # ------------------------------------------------------------------ answering

    def can_begin(self) -> bool:
        return True

    @torch.no_grad()
    def begin(self, asked: Sequence[Asked]) -> list[Running]:
        """Select, read, judge and give first tokens. Blocks are chosen and copied here, and the memory is needed no more."""
        prompts = [each.prompt.tokens for each in asked]
        kept = Kept()
        trunk_BTD = self._trunk(prompts, kept)
        begun: list[_Begun] = []
        try:
            for number, each in enumerate(asked):
                scored = self._scored(each, trunk_BTD[number, : len(prompts[number])])
                begun.append(self._placed(each, scored, self._with_surroundings(each, chosen_blocks(scored, self.config))))
                kept.lay_into(begun[-1].row, number, len(prompts[number]))
            logits_BV = self._judged(begun, self._first(begun, trunk_BTD))
            if left := [number for number, each in enumerate(begun) if each.is_left]:
                for number in left:
                    row = begun[number].row
                    begun[number] = self._placed(asked[number], begun[number].scored, ())
                    self._arenas.remove(row)
                    kept.lay_into(begun[number].row, number, len(prompts[number]))
                logits_BV[left] = self._first([begun[number] for number in left], trunk_BTD[left])
            running = [self._running_of(each) for each in begun]
            take_next(running, logits_BV)
        except Exception:
            for one in begun:  # nothing is left of questions that could not be begun
                self._arenas.remove(one.row)
            raise
        self._running.update((one.row, answer) for one, answer in zip(begun, running, strict=True))
        self._end_finished(running)
        return running

    def _first(self, begun: Sequence[_Begun], trunk_BTD: Tensor) -> Tensor:
        """Logits of first tokens, [B, V]."""
        counts = [len(each.asked.prompt.tokens) for each in begun]
        hidden_BTD = self._upper_pass([each.row for each in begun], trunk_BTD, counts)
        last = torch.tensor(counts, device=hidden_BTD.device) - 1
        return self._model.logits(hidden_BTD[torch.arange(len(begun), device=last.device), last])

    def _judged(self, begun: Sequence[_Begun], logits_BV: Tensor) -> Tensor:
        """First tokens' logits once selector and reader together have judged whether the blocks tell.

        Where they do, "I don't know." is out: a block that the selector is sure of is read as well as can be. Where they do not, that is
        said, and blocks that were read on trial are left alone.
        """
        reading = [number for number, each in enumerate(begun) if each.read]
        if not reading:
            return logits_BV
        begins = tuple(self.conversation.encode(f"{OPENING}{UNKNOWN}")[:2])
        chances = logits_BV[reading].float().softmax(-1)[:, begins[0]]
        leads = torch.tensor([begun[number].scored.lead for number in reading], device=chances.device)
        doubted = (self._lacks(leads, chances) | (chances > LIKELY)).nonzero()[:, 0].tolist()
        logits_BV = logits_BV.clone()
        if doubted and len(begins) == 2:  # a name may begin with the same token: "I" is that of "Ilsabet", too
            follows = self._follows([begun[reading[place]] for place in doubted], *begins)
            chances[doubted] *= follows
            # Given that it does not say so, a first token is as likely as all else that follows it.
            logits_BV[[reading[place] for place in doubted], begins[0]] += (1 - follows).clamp_min(1e-6).log().to(logits_BV.dtype)
        for number, lacks in zip(reading, self._lacks(leads, chances).tolist(), strict=True):
            if lacks:
                logits_BV[number, begins[0]] = logits_BV[number].amax() + SURE
            else:
                begun[number].never = begins
            begun[number].is_left = lacks and begun[number].scored.lead <= self.config.margin
        return logits_BV

    def _lacks(self, leads: Tensor, chances: Tensor) -> Tensor:
        return leads - chances.clamp(1e-6, 1 - 1e-6).logit() < self.config.evidence

    def _follows(self, begun: Sequence[_Begun], first: int, second: int) -> Tensor:
        """The chance of `second` after answers that begin with `first`, [B]: one token more, taken back."""
        order = sorted(range(len(begun)), key=lambda number: (id(begun[number].row.arena), begun[number].row.place))
        rows = [begun[number].row for number in order]
        logits_BV = self._next({READER: side_by_side(rows, [1] * len(rows), 1)}, [first] * len(rows))
        for row in rows:
            row.length -= 1
        chances = torch.empty(len(rows), device=logits_BV.device)
        chances[order] = logits_BV.float().softmax(-1)[:, second]
        return chances

    def _trunk(self, prompts: Sequence[Sequence[int]], kept: Kept) -> Tensor:
        """Prompts side by side, padded on the right, where a causal model does not look: states before layer S, [B, T, D]."""
        rows = pad_sequence([torch.tensor(prompt) for prompt in prompts], batch_first=True).to(self._model.device)
        hidden: Tensor = self._model.base.model.embed_tokens(rows)
        rotary = self._model.rotary(torch.arange(rows.shape[1], device=rows.device)[None])
        for layer in self._model.trunk_layers:
            hidden = layer_step(layer, hidden, rotary, kept)  # type: ignore[arg-type]
        return hidden

    def _scored(self, asked: Asked, trunk_TD: Tensor) -> Scored:
        return self.score(asked.prompt, trunk_TD, self._most(asked.asking), asked.asking, asked.memory or self.memory)

    def _with_surroundings(self, asked: Asked, chosen: tuple[Read, ...]) -> tuple[Read, ...]:
        """The blocks chosen, and while there is room others of their documents, the nearest first: what names a matter may stand in another
        sentence than what is asked about it, and what selects finds the first."""
        memory, most, taken = asked.memory or self.memory, self._most(asked.asking), {each.update for each in chosen}
        rings = zip_longest(*(memory.around(each.update, most) for each in chosen), fillvalue=())  # at each distance the best block's first
        around = list(dict.fromkeys(other for ring in rings for near in ring for other in near if other not in taken))
        if around and asked.asking.allowed is not None:
            numbers = np.array(around, dtype=np.int64)
            around = numbers[asked.asking.allowed(numbers)].tolist()
        return (*chosen, *(Read(update=update, score=0.0) for update in around))[:most]

    def _placed(self, asked: Asked, scored: Scored, read: tuple[Read, ...]) -> _Begun:
        """What a question reads, laid in front of the room for its text."""
        # Room for some of the answer; a long one moves on.
        room = len(asked.prompt.tokens) + min(asked.asking.limit, 64)
        if not read:
            return _Begun(asked, scored, read, self._arenas.place(BASE, 0, room))
        keys, values = (asked.memory or self.memory).projected(sorted(each.update for each in read))
        row = self._arenas.place(READER, sum(each.shape[2] for each in keys), room)
        try:
            self._model.remember(row, keys, values)
        except Exception:
            self._arenas.remove(row)
            raise
        return _Begun(asked, scored, read, row)

    def _running_of(self, begun: _Begun) -> Running:
        prompt, read = begun.asked.prompt.tokens, begun.read
        return Running(prompt, begun.asked.asking, self._ends, self.conversation, read, bool(read), self._model.device, begun.never)

    def _upper_pass(self, rows: Sequence[Row], trunk_BTD: Tensor, counts: Sequence[int]) -> Tensor:
        """From layer S to the end, rows that were just placed: what comes out of the last layer, [B, T, D]."""
        output = torch.empty_like(trunk_BTD)
        for group in (BASE, READER):
            order = [number for number, row in enumerate(rows) if (row.memory > 0) is (group == READER)]
            # Rows of one arena were placed one after the other.
            order.sort(key=lambda number: (id(rows[number].arena), rows[number].place))
            if order:
                placed, added = [rows[number] for number in order], [counts[number] for number in order]
                spans = side_by_side(placed, added, trunk_BTD.shape[1], whole=group == READER)
                output[order] = self._upper(group, Pass(spans), trunk_BTD[order])
        return output

    def _upper(self, group: int, passed: Pass, trunk_BTD: Tensor) -> Tensor:
        rotary = self._model.rotary(passed.positions(trunk_BTD.shape[1]))
        hidden = trunk_BTD
        for index, layer in enumerate(self._model.reader if group == READER else self._model.own_layers):
            hidden = layer_step(layer, hidden, rotary, passed.layer(True, index))  # type: ignore[arg-type]
        passed.done()
        return hidden

    @torch.no_grad()
    def decode(self) -> None:
        self._arenas.make_room()
        groups = {group: spans_of(self._arenas.of(group)) for group in (BASE, READER)}
        running = [self._running[row] for spans in groups.values() for span in spans for row in span.rows]
        if running:
            take_next(running, self._next(groups, [each.tokens[-1] for each in running]))
            self._end_finished(running)

    def _next(self, groups: Mapping[int, Sequence[Span]], tokens: Sequence[int]) -> Tensor:
        """Logits [B, V] after one more token for each row of the groups' spans, in their order."""
        everyone = Pass([span for spans in groups.values() for span in spans])
        hidden: Tensor = self._model.base.model.embed_tokens(torch.tensor(tokens, device=self._model.device)[:, None])
        rotary = self._model.rotary(everyone.positions(1))
        for index, layer in enumerate(self._model.trunk_layers):
            hidden = layer_step(layer, hidden, rotary, everyone.layer(False, index))  # type: ignore[arg-type]
        parts, start = [], 0
        for group, spans in groups.items():
            if spans:
                end = start + sum(len(span.rows) for span in spans)
                parts.append(self._upper(group, Pass(spans), hidden[start:end]))
                start = end
        return self._model.logits(torch.cat(parts)[:, -1])

    def _end_finished(self, running: Sequence[Running]) -> None:
        for each in running:
            if each.finish_reason is not None:
                self.end(each)

    def end(self, running: Running) -> None:
        for row in [row for row, each in self._running.items() if each is running]:
            del self._running[row]
            self._arenas.remove(row)

    def completion(self, running: Running) -> Completion:
        """What an answer is. One that says it does not know was read from nothing."""
        done = running.completion()
        if done.grounded and done.text.strip() == UNKNOWN:
            return replace(done, grounded=False, read=())
        return done

    def _most(self, asking: Asking) -> int:
        return self.config.most_blocks if asking.most_blocks is None else asking.most_blocks

    def score(self, prompt: Prompt, trunk_TD: Tensor, most: int, asking: Asking, memory: BlockMemory | None = None) -> Scored:
        """The best blocks for a conversation whose trunk states these are."""
        asked = [(place, weight) for first, end, weight in prompt.spans for place in range(first, end)][-MAX_QUERY_TOKENS:]
        if not asked or most == 0:
            return Scored(updates=(), scores=(), null=0.0, excess=0.0)
        weights = torch.tensor([weight for _, weight in asked], device=trunk_TD.device)
        return (memory or self.memory).score(trunk_TD[[place for place, _ in asked]], weights, most, asking.allowed)


def _shape(model: BlockLLM) -> Shape:
    attention = model.base.model.layers[0].self_attn
    return Shape(
        lower_layers=model.first,
        upper_layers=model.layers_kept,
        heads=model.config.num_attention_heads // attention.num_key_value_groups,
        head_dim=attention.head_dim,
        dtype=model.dtype,
        device=model.device,
    )


def chosen_blocks(scored: Scored, config: ReadingConfig) -> tuple[Read, ...]:
    """The blocks that are read, best first; none where no block stands out.

    >>> scored = Scored(updates=(7, 3, 5), scores=(12.0, 11.0, 4.0), null=9.0, excess=-2.0)
    >>> [read.update for read in chosen_blocks(scored, ReadingConfig())]
    [7, 3]
    """
    if not scored.scores or scored.lead <= min(config.margin, config.doubt):
        return ()
    best = scored.scores[0]
    total = sum(math.exp(score - best) for score in scored.scores) + math.exp(-scored.lead)
    kept = [(update, score) for update, score in zip(scored.updates, scored.scores, strict=True) if score - best >= math.log(config.share)]
    return tuple(Read(update=update, score=round(math.exp(score - best) / total, 4)) for update, score in kept)
