"""What a replica does with its memory, whichever kind it is: learn a document, answer a question. Values and the face; no threads here.

chunks -> prepare -> commit        a document is written beside the memory, then shown to readers at once
messages -> answer                 from exactly one version, first token to last
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from model.turns import DeviceTurns

T = TypeVar("T")
Messages = Sequence[Mapping[str, str]]
Allowed = Callable[[NDArray[np.int64]], NDArray[np.bool_]]
"""Update numbers -> which of them an answer may read; numbers below 0 stand for nothing."""

Boundary = Callable[[], AbstractContextManager[T]]
"""Enters one document boundary: while it is held nothing is committed, and what it gives belongs to the memory of that moment."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Learned:
    """The updates that a commit made, and those of which nothing is remembered any more because of it."""

    updates: tuple[int, ...]
    forgotten: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Asking:
    """How a question is answered: greedily at temperature 0.

    Attributes:
        limit: most new tokens.
        allowed: which updates may be read; None: all.
        most_blocks: that are read; None: as the engine is configured, 0: none.
    """

    limit: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    allowed: Allowed | None = None
    most_blocks: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    """One block that an answer read, and how likely it was the right one (0 to 1, "none of them" among the choices)."""

    update: int
    score: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """Generated text, why it ended (`stop` or `length`), token counts, and what was read for it, best first.

    `grounded`: whether it was read from memory. None: this kind of memory cannot tell.
    """

    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    read: tuple[Read, ...] = ()
    grounded: bool | None = None


class Engine(Protocol):
    """One memory and the model that writes and reads it."""

    turns: DeviceTurns

    @property
    def kind(self) -> Literal["blocks", "tokens"]: ...

    @property
    def update_tokens(self) -> int:
        """K, most tokens of one chunk."""
        ...

    @property
    def min_tokens(self) -> int:
        """Chunks below this disturb more memory than they write."""
        ...

    @property
    def most_updates(self) -> int:
        """That one document may take, so that it does not push everything else out."""
        ...

    @property
    def forgets(self) -> bool:
        """Whether what an update wrote can be taken out again."""
        ...

    @property
    def update_number(self) -> int:
        """Updates so far, and the number of the next one."""
        ...

    @property
    def version(self) -> int:
        """Grows with every commit."""
        ...

    @property
    def remembered(self) -> int:
        """Updates of which something is left."""
        ...

    @property
    def num_tokens(self) -> int:
        """Memory tokens a layer."""
        ...

    def encode(self, text: str) -> list[int]:
        """A feed's text as tokens: control tokens neither added nor read from it."""
        ...

    def prepare(self, chunks: Sequence[Sequence[int]]) -> Any:
        """Write one document's chunks, each behind the one before; readers see nothing of it yet.

        Raises UpdateFailed, and nothing is kept.
        """
        ...

    def commit(self, prepared: Any, forget: Collection[int] = ()) -> Learned:
        """Show readers what was prepared, and take the updates `forget` out, in one step."""
        ...

    def prompt_tokens(self, messages: Messages) -> int:
        """How long a conversation is."""
        ...

    def answer(self, messages: Messages, asking: Asking, boundary: Boundary[T]) -> tuple[Completion, T]:
        """Answer a conversation; what `boundary` gave at the moment that it was read."""
        ...
