"""Learning and answering with a block memory.

prompt -> trunk -> select -> read the best blocks, or go on as the base model -> first token
                                                   every further token: one pass over all running rows, each with its own memory
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor
from transformers import LogitsProcessorList
from transformers.generation.logits_process import TemperatureLogitsWarper, TopPLogitsWarper

from model.conversation import Conversation, Prompt
from model.engine import Asking, Boundary, Completion, Learned, Messages, Read
from model.memory.blocks import Block, BlockMemory, Scored
from model.reading.rows import Row, lower_pass, upper_pass
from model.turns import DeviceTurns

T = TypeVar("T")
MAX_QUERY_TOKENS = 256
"""Tokens of a conversation that blocks are compared with, the latest ones (BOUNDED)."""

UNKNOWN = "I don't know."
"""What the reader was trained to say where the blocks in front of a question do not tell: such an answer was read from nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadingConfig:
    """How blocks are chosen.

    Attributes:
        most_blocks: that one answer reads.
        share: a block is read if it is at least so likely as this share of the best one.
        margin: nats that the best block must be above the null candidate for anything to be read.
    """

    most_blocks: int = 4
    share: float = 0.1
    margin: float = 0.8


@dataclass(slots=True, eq=False)
class Running:
    """One answer under way."""

    row: Row
    read: tuple[Read, ...]
    prompt_tokens: int
    limit: int
    ends: frozenset[int]
    processors: LogitsProcessorList
    generator: torch.Generator | None
    tokens: list[int] = field(default_factory=list)
    finish_reason: str | None = None

    def take(self, logits_V: Tensor) -> None:
        """Choose the next token, and see whether it is the last."""
        so_far: Any = torch.tensor([self.tokens], dtype=torch.long, device=logits_V.device)
        scores: Tensor = self.processors(so_far, logits_V[None].float())[0]
        drawn = scores.argmax() if self.generator is None else torch.multinomial(scores.softmax(-1), 1, generator=self.generator)
        token = int(drawn)
        self.tokens.append(token)
        if token in self.ends:
            self.finish_reason = "stop"
        elif len(self.tokens) >= self.limit:
            self.finish_reason = "length"


class BlockEngine:
    """One block memory, its model and its tokenizer; an `Engine`."""

    kind: Literal["blocks"] = "blocks"
    forgets = True
    min_tokens = 1

    def __init__(
        self, memory: BlockMemory, conversation: Conversation, config: ReadingConfig | None = None, turns: DeviceTurns | None = None
    ) -> None:
        self.memory, self.conversation = memory, conversation
        self.config, self.turns = config or ReadingConfig(), turns or DeviceTurns()
        self._model = memory.model
        self._ends = frozenset() if conversation.end is None else frozenset((conversation.end,))

    @property
    def update_tokens(self) -> int:
        return self.memory.block

    @property
    def most_updates(self) -> int:
        return self.memory.capacity

    @property
    def update_number(self) -> int:
        return self.memory.update_number

    @property
    def version(self) -> int:
        return self.memory.version

    @property
    def remembered(self) -> int:
        return len(self.memory)

    @property
    def num_tokens(self) -> int:
        return self.memory.num_tokens

    def encode(self, text: str) -> list[int]:
        return self.conversation.encode(text)

    # ------------------------------------------------------------------ learning

    def prepare(self, chunks: Sequence[Sequence[int]]) -> list[Block]:
        contexts: list[Sequence[int]] = [(), *chunks[:-1]]
        with self.turns.update():
            return self.memory.write(chunks, contexts)

    def commit(self, prepared: Sequence[Block], forget: Collection[int] = ()) -> Learned:
        updates, left = self.memory.apply(prepared, forget)
        return Learned(updates=tuple(updates), forgotten=(*forget, *left))

    # ------------------------------------------------------------------ answering

    def prompt_tokens(self, messages: Messages) -> int:
        return len(self.conversation.tokens(messages))

    def answer(self, messages: Messages, asking: Asking, boundary: Boundary[T]) -> tuple[Completion, T]:
        prompt = self.conversation.prompt(messages)
        with self.turns.answer():
            with self.turns.decode_step(), boundary() as at:
                running = self.begin(prompt, asking)
            while running.finish_reason is None:
                with self.turns.decode_step():
                    self.decode([running])
        return self.completion(running), at

    def answer_together(self, conversations: Sequence[Messages], asking: Asking) -> list[Completion]:
        """Several questions side by side, those that read and those that do not: one pass for each token of all of them."""
        with self.turns.answer():
            running = []
            for messages in conversations:
                with self.turns.decode_step():
                    running.append(self.begin(self.conversation.prompt(messages), asking))
            while any(each.finish_reason is None for each in running):
                with self.turns.decode_step():
                    self.decode(running)
        return [self.completion(each) for each in running]

    @torch.no_grad()
    def begin(self, prompt: Prompt, asking: Asking) -> Running:
        """Select, read and give the first token.

        READ-ONE-VERSION: blocks are chosen and copied at one moment, and memory is needed no more.
        """
        row = Row(self._model, len(prompt.tokens) + asking.limit)
        trunk = lower_pass(self._model, [row], torch.tensor([prompt.tokens], device=self._model.device))
        read = self._select(prompt, trunk[0], row, asking)
        hidden = upper_pass(self._model, [row], trunk)
        generator, processors = self._sampling(asking)
        running = Running(row, read, len(prompt.tokens), asking.limit, self._ends, processors, generator)
        running.take(self._model.logits(hidden[:, -1:])[0, 0])
        return running

    @torch.no_grad()
    def decode(self, running: Sequence[Running]) -> None:
        """One token more for each answer that is not finished, in one pass."""
        going = [each for each in running if each.finish_reason is None]
        if going:
            rows = [each.row for each in going]
            tokens = torch.tensor([[each.tokens[-1]] for each in going], device=self._model.device)
            logits = self._model.logits(upper_pass(self._model, rows, lower_pass(self._model, rows, tokens)))
            for number, each in enumerate(going):
                each.take(logits[number, -1])

    def completion(self, running: Running) -> Completion:
        """What a finished answer is. One that says it does not know was read from nothing."""
        text = self.conversation.decode(running.tokens)
        grounded = running.row.grounded and text != UNKNOWN
        return Completion(
            text=text,
            finish_reason=running.finish_reason or "length",
            prompt_tokens=running.prompt_tokens,
            completion_tokens=len(running.tokens),
            read=running.read if grounded else (),
            grounded=grounded,
        )

    def _sampling(self, asking: Asking) -> tuple[torch.Generator | None, LogitsProcessorList]:
        processors = LogitsProcessorList()
        if asking.temperature <= 0:
            return None, processors
        processors.append(TemperatureLogitsWarper(asking.temperature))
        if asking.top_p < 1:
            processors.append(TopPLogitsWarper(asking.top_p))
        generator = torch.Generator(device=self._model.device)
        if asking.seed is None:
            generator.seed()
        else:
            generator.manual_seed(asking.seed)
        return generator, processors

    def score(self, prompt: Prompt, trunk_TD: Tensor, most: int, asking: Asking) -> Scored:
        """The best blocks for a conversation whose trunk states these are."""
        asked = [(place, weight) for first, end, weight in prompt.spans for place in range(first, end)][-MAX_QUERY_TOKENS:]
        if not asked or most == 0:
            return Scored(updates=(), scores=(), null=0.0)
        weights = torch.tensor([weight for _, weight in asked], device=trunk_TD.device)
        return self.memory.score(trunk_TD[[place for place, _ in asked]], weights, most, asking.allowed)

    def _select(self, prompt: Prompt, trunk_TD: Tensor, row: Row, asking: Asking) -> tuple[Read, ...]:
        most = self.config.most_blocks if asking.most_blocks is None else asking.most_blocks
        with self.memory.steady():
            chosen = chosen_blocks(self.score(prompt, trunk_TD, most, asking), self.config)
            if chosen:
                keys, values = self.memory.projected(sorted(each.update for each in chosen))
                row.remember(keys, values, len(prompt.tokens))
        return chosen


def chosen_blocks(scored: Scored, config: ReadingConfig) -> tuple[Read, ...]:
    """The blocks that are read, best first; none where the null candidate wins.

    >>> scored = Scored(updates=(7, 3, 5), scores=(12.0, 11.0, 4.0), null=9.0)
    >>> [read.update for read in chosen_blocks(scored, ReadingConfig())]
    [7, 3]
    """
    if not scored.scores or scored.scores[0] <= scored.null + config.margin:
        return ()
    best = scored.scores[0]
    total = sum(math.exp(score - best) for score in scored.scores) + math.exp(scored.null - best)
    kept = [(update, score) for update, score in zip(scored.updates, scored.scores, strict=True) if score - best >= math.log(config.share)]
    return tuple(Read(update=update, score=round(math.exp(score - best) / total, 4)) for update, score in kept)
