"""One answer under way: which token comes next, what may be shown of it so far, and when it ends.

    V  vocabulary     B  answers that run together

Sampling is transformers' own: its processors, in its order. What is here is text: tokens become text as soon as they cannot change any
more, and nothing is shown that might turn out to be the beginning of a stop string.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import LogitsProcessorList
from transformers.generation.logits_process import (
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from model.conversation import OPENING
from model.engine import Asking, Completion, Logprob, Read

GREEDY_BELOW = 1e-3
"""Logits divided by less overflow, and what is left to draw from is the best token anyway."""

UNFINISHED = "\ufffd"
"""What a tokenizer shows of a character of which bytes are missing still."""


class Decoder(Protocol):
    """Tokens to text."""

    def decode(self, tokens: Sequence[int]) -> str: ...


class Running:
    """An answer under way.

    Args:
        prompt: its tokens.
        asking: how it is to be answered.
        ends: tokens that end an answer.
        decoder: makes text of tokens.
        read: the blocks that it reads.
        grounded: whether it reads any; None: this memory cannot tell.
        never: tokens that it does not begin with.
    """

    def __init__(
        self,
        prompt: Sequence[int],
        asking: Asking,
        ends: Collection[int],
        decoder: Decoder,
        read: tuple[Read, ...] = (),
        grounded: bool | None = None,
        device: torch.device | None = None,
        never: Sequence[int] = (),
    ) -> None:
        self.prompt, self.asking = tuple(prompt), asking
        self._ends, self._decoder = frozenset(ends), decoder
        self.read, self.grounded, self._never = read, grounded, list(never)
        self.tokens: list[int] = []
        self.logprobs: list[Logprob] = []
        self.finish_reason: str | None = None
        self.text = ""
        self._shown, self._from, self._decoded = 0, 0, 0
        self._processors = _processors(asking)
        self._generator: torch.Generator | None = None
        if asking.temperature > GREEDY_BELOW:
            self._generator = torch.Generator(device=device or torch.device("cpu"))
            if asking.seed is None:
                self._generator.seed()
            else:
                self._generator.manual_seed(asking.seed)

    @property
    def barred(self) -> int | None:
        """The token that must not come next."""
        return self._never[-1] if self._never and self.tokens == self._never[:-1] else None

    @property
    def greedy(self) -> bool:
        """Whether the likeliest token is the next one, with nothing else to do."""
        return self._generator is None and not self._processors and self.asking.top_logprobs is None

    def choose(self, logits_V: Tensor) -> int:
        """The next token, by this answer's own processors; its log-probability is noted where asked for."""
        logits = logits_V.float()
        scores = logits
        if self._processors:
            so_far: Any = torch.tensor([[*self.prompt, *self.tokens]], dtype=torch.long, device=logits.device)
            scores = self._processors(so_far, logits[None])[0]
        drawn = scores.argmax() if self._generator is None else torch.multinomial(scores.softmax(-1), 1, generator=self._generator)
        token = int(drawn)
        if self.asking.top_logprobs is not None:
            self.logprobs.append(_logprob(logits, token, self.asking.top_logprobs))
        return token

    def take(self, token: int) -> None:
        """Append a token, and see whether it is the last."""
        self.tokens.append(token)
        if token in self._ends:
            self._finish("stop")
            return
        self._decode(last=False)
        if (cut := self._stopped_at()) is not None:
            self.text = self.text[:cut]
            self.finish_reason = "stop"
        elif len(self.tokens) >= self.asking.limit:
            self._finish("length")

    def _finish(self, reason: str) -> None:
        self._decode(last=True)
        if (cut := self._stopped_at()) is not None:
            self.text, reason = self.text[:cut], "stop"
        self.finish_reason = reason

    def _decode(self, last: bool) -> None:
        """Tokens to text with some of what was decoded before in front, since a token's text hangs on the one before it."""
        before = self._decoder.decode(self.tokens[self._from : self._decoded])
        now = self._decoder.decode(self.tokens[self._from :])
        if len(now) > len(before) and (last or not now.endswith(UNFINISHED)):
            more = now[len(before) :]
            self.text += more if self.text or not self.read else more.lstrip(OPENING)
            self._from, self._decoded = self._decoded, len(self.tokens)

    def _stopped_at(self) -> int | None:
        found = [place for stop in self.asking.stop if (place := self.text.find(stop, max(0, self._shown - len(stop)))) >= 0]
        return min(found, default=None)

    def new_text(self) -> str:
        """What can be shown that was not shown yet."""
        end = len(self.text)
        if self.finish_reason is None:
            end -= max((_overlap(self.text, stop) for stop in self.asking.stop), default=0)
        shown, self._shown = self._shown, max(self._shown, end)
        return self.text[shown:end]

    def completion(self) -> Completion:
        """The answer as it stands."""
        return Completion(
            text=self.text,
            finish_reason=self.finish_reason or "length",
            prompt_tokens=len(self.prompt),
            completion_tokens=len(self.tokens),
            read=self.read,
            grounded=self.grounded,
            logprobs=tuple(self.logprobs),
        )


def take_next(running: Sequence[Running], logits_BV: Tensor) -> None:
    """Give each answer its next token."""
    for number, each in enumerate(running):
        if (barred := each.barred) is not None:
            logits_BV[number, barred] = -torch.inf
    likeliest = logits_BV.argmax(-1).tolist()
    for number, each in enumerate(running):
        each.take(likeliest[number] if each.greedy else each.choose(logits_BV[number]))


def _processors(asking: Asking) -> LogitsProcessorList:
    """transformers' processors in the order in which its `generate` applies them."""
    processors = LogitsProcessorList()
    if asking.repetition_penalty != 1:
        processors.append(RepetitionPenaltyLogitsProcessor(asking.repetition_penalty))
    if asking.temperature > GREEDY_BELOW:
        if asking.temperature != 1:
            processors.append(TemperatureLogitsWarper(asking.temperature))
        if asking.top_k > 0:
            processors.append(TopKLogitsWarper(asking.top_k))
        if asking.top_p < 1:
            processors.append(TopPLogitsWarper(asking.top_p))
    return processors


def _logprob(logits_V: Tensor, token: int, alternatives: int) -> Logprob:
    values = logits_V.log_softmax(-1)
    best = values.topk(alternatives) if alternatives else None
    top = () if best is None else tuple(zip(best.indices.tolist(), best.values.tolist(), strict=True))
    return Logprob(token=token, logprob=float(values[token]), top=top)


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` with which `stop` may begin.

    >>> _overlap("one, tw", "two"), _overlap("one, tw", "three")
    (2, 0)
    """
    for size in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:size]):
            return size
    return 0
