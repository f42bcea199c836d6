"""Text to tokens and back: a feed's, and a conversation's in the model's chat format."""

from __future__ import annotations

import copy
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerBase

EARLIER_TURN = 0.3
"""Weight of a user's turn beside the one after it, where blocks are chosen for a conversation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """A conversation as tokens. `spans`: (first, end, weight) of the users' own words in it, the last turn's with weight 1."""

    tokens: tuple[int, ...]
    spans: tuple[tuple[int, int, float], ...]


class Conversation:
    """One tokenizer, for several threads.

    Args:
        bos_is_memory: a row of the memory stands for the text's own BOS token, which is then left out.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, bos_is_memory: bool = False) -> None:
        self.tokenizer = tokenizer
        # Whether control tokens are read from a text is a flag inside the tokenizer, so feed and questions each have one of their own,
        # and whoever uses one holds its lock.
        self._feed_tokenizer = copy.deepcopy(tokenizer)
        self._feeding, self._asking = threading.Lock(), threading.Lock()
        added = tokenizer.encode("", add_special_tokens=True)
        self._bos = added[0] if added and bos_is_memory else None

    @classmethod
    def of(cls, folder: Path, bos_is_memory: bool = False) -> Conversation:
        return cls(AutoTokenizer.from_pretrained(folder), bos_is_memory)

    @property
    def end(self) -> int | None:
        """The token that ends an answer."""
        found: int | None = self.tokenizer.eos_token_id
        return found

    def encode(self, text: str) -> list[int]:
        """A feed's text: no special tokens, neither added nor read from it."""
        with self._feeding:
            tokens: list[int] = self._feed_tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)
        return tokens

    def decode(self, tokens: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(tokens), skip_special_tokens=True))

    def tokens(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """The conversation in the model's chat format, or plain lines where it has none; ready for the assistant's turn."""
        tokens = self._encode(self._rendered(messages))
        return tokens[1:] if tokens and tokens[0] == self._bos else tokens

    def prompt(self, messages: Sequence[Mapping[str, str]]) -> Prompt:
        """The conversation with the places of the users' words: what blocks are compared with."""
        marks = [(number, message) for number, message in enumerate(messages) if message["role"] == "user"]
        tokens: list[int] = []
        spans = []
        rest = self._rendered(messages)
        for place, (_, message) in enumerate(marks):
            words = message["content"].strip()
            before, found, after = rest.partition(words)
            if not found or not words:
                continue
            tokens += self._encode(before)
            own = self.encode(words)  # nobody writes control tokens by asking
            spans.append((len(tokens), len(tokens) + len(own), EARLIER_TURN ** (len(marks) - 1 - place)))
            tokens += own
            rest = after
        return Prompt(tokens=tuple(tokens + self._encode(rest)), spans=tuple(spans))

    def plain(self, text: str) -> Prompt:
        """A text as it stands, to be continued: blocks are compared with all of it."""
        tokens = self.encode(text)
        return Prompt(tokens=tuple(tokens), spans=((0, len(tokens), 1.0),))

    def _rendered(self, messages: Sequence[Mapping[str, str]]) -> str:
        if self.tokenizer.chat_template:
            return str(self.tokenizer.apply_chat_template([dict(each) for each in messages], tokenize=False, add_generation_prompt=True))
        return "\n".join(message["content"] for message in messages)

    def _encode(self, text: str) -> list[int]:
        with self._asking:
            tokens: list[int] = self.tokenizer.encode(text, add_special_tokens=False)
        return tokens
