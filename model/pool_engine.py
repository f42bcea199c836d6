"""Learning and answering with the pool of the paper: read densely, nothing can be taken out of it again."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from contextlib import ExitStack
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor
from transformers import GenerationConfig

from model.conversation import Conversation
from model.engine import Asking, Boundary, Completion, Learned, Messages
from model.errors import UpdateFailed, VersionEvicted
from model.memory.tokens import MemoryPool, PoolLayer, PoolView

T = TypeVar("T")
TRIES_PER_ANSWER = 3
POOL_SHARE = 4
"""One document may overwrite a quarter of the pool."""


class PoolEngine:
    """One token pool, its model and its tokenizer; an `Engine`."""

    kind: Literal["tokens"] = "tokens"
    forgets = False
    min_tokens = 16

    def __init__(self, pool: MemoryPool, conversation: Conversation) -> None:
        self.pool, self.conversation, self.turns = pool, conversation, pool.turns
        self._alive = set(pool.alive_updates().tolist()) if pool.num_tokens else set()

    @property
    def update_tokens(self) -> int:
        return self.pool.block

    @property
    def most_updates(self) -> int:
        return max(1, self.pool.capacity // self.pool.block // POOL_SHARE)

    @property
    def update_number(self) -> int:
        return self.pool.update_number

    @property
    def version(self) -> int:
        return self.pool.published.number

    @property
    def remembered(self) -> int:
        return len(self._alive)

    @property
    def num_tokens(self) -> int:
        return self.pool.num_tokens

    def encode(self, text: str) -> list[int]:
        return self.conversation.encode(text)

    # ------------------------------------------------------------------ learning

    def prepare(self, chunks: Sequence[Sequence[int]]) -> tuple[int, ...]:
        """The numbers of the updates; they are part of the writer's version, which readers do not see before `commit`."""
        try:
            return tuple(self.pool.update(torch.tensor(chunk), publish=False) for chunk in chunks)
        except (UpdateFailed, RuntimeError):  # torch's own: out of memory, which may pass, or worse
            self.pool.rollback()
            raise

    def commit(self, prepared: tuple[int, ...], forget: Collection[int] = ()) -> Learned:
        self.pool.publish()
        known, self._alive = {*self._alive, *prepared}, set(self.pool.alive_updates().tolist())
        return Learned(updates=prepared, forgotten=tuple(sorted(known - self._alive)))

    def load(self, layers: Iterable[PoolLayer], update_number: int) -> None:
        """Replace the whole pool."""
        self.pool.load(layers, update_number)
        self._alive = set(self.pool.alive_updates().tolist())

    # ------------------------------------------------------------------ answering

    def prompt_tokens(self, messages: Messages) -> int:
        return len(self.conversation.tokens(messages))

    def answer(self, messages: Messages, asking: Asking, boundary: Boundary[T]) -> tuple[Completion, T]:
        """An answer that updates overtook begins anew on the latest version.

        Raises:
            VersionEvicted: overtaken again and again: there is too little room for this update rate.
        """
        tokens = self.conversation.tokens(messages)
        for left in reversed(range(TRIES_PER_ANSWER)):
            try:
                with ExitStack() as held:
                    with boundary() as at:
                        view = held.enter_context(self.pool.read())
                    return self.complete(view, tokens, asking), at
            except VersionEvicted:
                if not left:
                    raise
        raise AssertionError("unreachable")

    def complete(self, view: PoolView, tokens: Sequence[int], asking: Asking) -> Completion:
        """Continue `tokens` with one version of the pool."""
        input_ids = torch.tensor([list(tokens)], device=self.pool.model.device)
        sampling: dict[str, Any] = {"do_sample": False}
        if asking.temperature > 0:
            sampling = {"do_sample": True, "temperature": asking.temperature, "top_p": asking.top_p}
        end = self.conversation.end
        generation = GenerationConfig(max_new_tokens=asking.limit, eos_token_id=end, pad_token_id=end if end is not None else 0, **sampling)
        output: Tensor = self.pool.model.reader.generate(  # type: ignore[misc, assignment]
            input_ids, attention_mask=torch.ones_like(input_ids), past_key_values=view.cache(), generation_config=generation
        )
        new = output[0, len(tokens) :].tolist()
        stopped = bool(new) and new[-1] == end
        return Completion(
            text=self.conversation.decode(new),
            finish_reason="stop" if stopped else "length",
            prompt_tokens=len(tokens),
            completion_tokens=len(new),
        )
