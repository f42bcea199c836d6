"""Text to tokens and back: a feed's, and a conversation's in the model's chat format."""

from __future__ import annotations

import copy
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from model.errors import CheckpointError

ROLES = ("system", "user", "assistant")

_OPEN, _CLOSE = "\ue000", "\ue001"
"""Around a message's number, in place of its content, while the template is filled in: the content is not there to contain them."""

_SURROGATE = re.compile("[\ud800-\udfff]")
_MARK = re.compile(f"{_OPEN}([0-9]+){_CLOSE}")

UNKNOWN = "I don't know."
"""What the reader was trained to say where the blocks in front of a question do not tell: such an answer was read from nothing."""

OPENING = " "
"""What an answer from memory begins with, and what is not shown of it: a tokenizer makes other tokens of a word that stands behind a
space. So the first word of an answer is the very tokens that the document has, too, and can be copied like all others."""

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
        self._require_safe_feed()

    @classmethod
    def of(cls, folder: Path, bos_is_memory: bool = False) -> Conversation:
        return cls(AutoTokenizer.from_pretrained(folder, trust_remote_code=False), bos_is_memory)

    def _require_safe_feed(self) -> None:
        """Raises CheckpointError where a text could write one of the template's control tokens: they must be marked special."""
        used = f"{self.tokenizer.chat_template or ''} {self.tokenizer.eos_token or ''} {self.tokenizer.bos_token or ''}"
        for number, token in self.tokenizer.added_tokens_decoder.items():
            if token.content in used and number in self.encode(token.content):
                raise CheckpointError(
                    f"the tokenizer does not mark {token.content!r} as special, so any document or question could write it; set its"
                    ' "special": true in tokenizer.json and tokenizer_config.json'
                )

    @property
    def end(self) -> int | None:
        """The token that ends an answer."""
        found: int | None = self.tokenizer.eos_token_id
        return found

    def encode(self, text: str) -> list[int]:
        """A feed's text: no special tokens, neither added nor read from it."""
        text = _SURROGATE.sub("\ufffd", text)  # half a character, which no UTF-8 can hold
        with self._feeding:
            tokens: list[int] = self._feed_tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)
        return tokens

    def decode(self, tokens: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(tokens), skip_special_tokens=True))

    def tokens(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """The conversation in the model's chat format, or plain lines where it has none; ready for the assistant's turn."""
        tokens = list(self.prompt(messages).tokens)
        return tokens[1:] if tokens and tokens[0] == self._bos else tokens

    def prompt(self, messages: Sequence[Mapping[str, str]]) -> Prompt:
        """The conversation with the places of the users' words: what blocks are compared with.

        What people write is encoded without control tokens; those stand only where the model's own template has them.

        Raises ValueError for a role that is none.
        """
        for message in messages:
            if message["role"] not in ROLES:
                raise ValueError(f"there is no role {message['role'][:40]!r}: {', '.join(ROLES)}")
        users = [number for number, message in enumerate(messages) if message["role"] == "user"]
        tokens: list[int] = []
        spans = []
        for piece in self._pieces(messages):
            if isinstance(piece, str):
                tokens += self._encode(piece)
                continue
            own = self.encode(messages[piece]["content"].strip())
            if own and messages[piece]["role"] == "user":
                spans.append((len(tokens), len(tokens) + len(own), EARLIER_TURN ** (len(users) - 1 - users.index(piece))))
            tokens += own
        return Prompt(tokens=tuple(tokens), spans=tuple(spans))

    def plain(self, text: str) -> Prompt:
        """A text as it stands, to be continued: blocks are compared with all of it."""
        tokens = self.encode(text)
        return Prompt(tokens=tuple(tokens), spans=((0, len(tokens), 1.0),))

    def _pieces(self, messages: Sequence[Mapping[str, str]]) -> Iterator[str | int]:
        """The template's own text, and between it the numbers of the messages whose contents stand there."""
        marked = [{**message, "content": f"{_OPEN}{number}{_CLOSE}"} for number, message in enumerate(messages)]
        if self.tokenizer.chat_template:
            text = str(self.tokenizer.apply_chat_template(marked, tokenize=False, add_generation_prompt=True))
        else:
            text = "\n".join(message["content"] for message in marked)
        for number, piece in enumerate(_MARK.split(text)):
            if number % 2:
                yield int(piece)
            elif piece:
                yield piece

    def _encode(self, text: str) -> list[int]:
        with self._asking:
            tokens: list[int] = self.tokenizer.encode(text, add_special_tokens=False)
        return tokens
