"""From a conversation to the text of an answer, with transformers' own generation over a pool's prefix."""

from __future__ import annotations

import copy
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoTokenizer, GenerationConfig, PreTrainedTokenizerBase

from model.memory_llm import MemoryLLM
from model.pool import PoolView


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """Generated text, why it ended (`stop` or `length`), and token counts."""

    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int


class Answerer:
    """Asks one model through views of its pool. Safe for several threads: each answer has a cache of its own."""

    def __init__(self, model: MemoryLLM, tokenizer: PreTrainedTokenizerBase) -> None:
        self.model, self.tokenizer = model, tokenizer
        # Whether control tokens are read from a text is a flag inside the tokenizer, so feed and questions each have one of their own,
        # and whoever uses one holds its lock.
        self._feed_tokenizer = copy.deepcopy(tokenizer)
        self._feeding, self._asking = threading.Lock(), threading.Lock()
        # The text's own BOS token is left out where the tokenizer adds one: the BOS row stands for it.
        added = tokenizer.encode("", add_special_tokens=True)
        self._bos = added[0] if added and model.bos_embedding is not None else None

    @classmethod
    def of(cls, model: MemoryLLM, folder: Path) -> Answerer:
        return cls(model, AutoTokenizer.from_pretrained(folder))

    def encode(self, text: str) -> list[int]:
        """A feed's text: no special tokens, neither added nor read from it."""
        with self._feeding:
            tokens: list[int] = self._feed_tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)
        return tokens

    def prompt(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """The conversation in the model's chat format, or plain lines where it has none; ready for the assistant's turn."""
        if self.tokenizer.chat_template:
            rendered = self.tokenizer.apply_chat_template(
                [dict(message) for message in messages], tokenize=False, add_generation_prompt=True
            )
        else:
            rendered = "\n".join(message["content"] for message in messages)
        with self._asking:
            tokens: list[int] = self.tokenizer.encode(rendered, add_special_tokens=False)
        return tokens[1:] if tokens and tokens[0] == self._bos else tokens

    def complete(
        self, view: PoolView, tokens: Sequence[int], max_new_tokens: int, temperature: float = 0.0, top_p: float = 1.0
    ) -> Completion:
        """Continue `tokens`, greedily at temperature 0.

        Raises:
            VersionEvicted: updates overtook this answer.
        """
        input_ids = torch.tensor([list(tokens)], device=self.model.device)
        sampling: dict[str, Any] = (
            {"do_sample": True, "temperature": temperature, "top_p": top_p} if temperature > 0 else {"do_sample": False}
        )
        end = self.tokenizer.eos_token_id
        generation = GenerationConfig(
            max_new_tokens=max_new_tokens, eos_token_id=end, pad_token_id=end if end is not None else 0, **sampling
        )
        output: Tensor = self.model.reader.generate(  # type: ignore[misc, assignment]
            input_ids,
            attention_mask=torch.ones_like(input_ids),
            past_key_values=view.cache(),
            generation_config=generation,
        )
        new = output[0, len(tokens) :].tolist()
        stopped = bool(new) and new[-1] == end
        text = str(self.tokenizer.decode(new, skip_special_tokens=True)).strip()
        return Completion(text=text, finish_reason="stop" if stopped else "length", prompt_tokens=len(tokens), completion_tokens=len(new))
