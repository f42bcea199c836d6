"""What a replica does with its memory, whichever kind it is: the body of the device loop, as values and plain calls. No threads here.

chunks -> prepare (in turns) -> commit                 a document is written beside the memory, then shown to readers at once
questions -> begin -> decode, decode, ... -> end       each from exactly one version, first token to last; all that run share a pass
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from model.conversation import Prompt

if TYPE_CHECKING:
    from model.reading.answering import Running

Messages = Sequence[Mapping[str, str]]
Chunks = Sequence[Sequence[int]]
"""Token ids of a document's chunks, in order."""

Allowed = Callable[[NDArray[np.int64]], NDArray[np.bool_]]
"""Update numbers -> which of them an answer may read; numbers below 0 stand for nothing."""


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
        stop: strings that end an answer; they are not part of it.
        top_logprobs: alternatives whose log-probabilities are wanted beside each token's own; None: no log-probabilities.
        allowed: which updates may be read; None: all.
        most_blocks: that are read; None: as the engine is configured, 0: none.
    """

    limit: int
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    repetition_penalty: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    top_logprobs: int | None = None
    allowed: Allowed | None = None
    most_blocks: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A question as the engine gets it. `memory`: another memory than the engine's own, of its kind: what was known at another time."""

    prompt: Prompt
    asking: Asking
    memory: Any = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    """One block that an answer read, and how likely it was the right one (0 to 1, "none of them" among the choices).

    The score is 0 for what is read because it stands beside such a one in its document.
    """

    update: int
    score: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Logprob:
    """Log-probability of a token that was chosen, as the model gave it, and (token, log-probability) of the likeliest ones."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


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
    logprobs: tuple[Logprob, ...] = field(default=())


class Engine(Protocol):
    """One memory and the model that writes and reads it. Whoever calls it is its only caller at that moment."""

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
    def capacity(self) -> int:
        """Updates that the memory holds."""
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
    def remembered(self) -> int:
        """Updates of which something is left."""
        ...

    @property
    def num_tokens(self) -> int:
        """Memory tokens a layer."""
        ...

    @property
    def threads(self) -> int:
        """That one product is split over, where memory is written: its last bits hang on it."""
        ...

    # ------------------------------------------------------------------ text; these may be called from any thread

    def encode(self, text: str) -> list[int]:
        """A feed's text as tokens: control tokens neither added nor read from it."""
        ...

    def compose(self, messages: Messages) -> Prompt:
        """A conversation in the model's chat format."""
        ...

    def plain(self, text: str) -> Prompt:
        """A text that is to be continued as it stands."""
        ...

    def decode_tokens(self, tokens: Sequence[int]) -> str:
        """Tokens as text, control tokens left out."""
        ...

    # ------------------------------------------------------------------ learning

    def can_learn(self) -> bool:
        """Whether there is room for an update now; if not, there is when answers have ended."""
        ...

    def prepare(self, chunks: Chunks, coming: Iterable[Chunks] = ()) -> Generator[None, None, Any]:
        """What one document's chunks write, each behind the one before; the memory stays as it is.

        Gives way after each turn of the device, and returns what `commit` takes, a sequence of one for each chunk. Raises UpdateFailed.

        `coming`: the documents that are likely to be prepared next, in order; as many are taken as can be written beside this one. What
        each writes is the same, bit for bit, whatever comes.
        """
        ...

    def room(self, updates: int) -> Generator[None, None, None]:
        """Gives way where a commit of so many updates finds no room now: `can_learn` is about them until it is taken up again."""
        ...

    def commit(self, prepared: Any, forget: Collection[int] = ()) -> Learned:
        """Write what was prepared, here or on another replica, and take the updates `forget` out, in one step."""
        ...

    # ------------------------------------------------------------------ answering

    def can_begin(self) -> bool:
        """Whether another question can begin now; if not, it can when answers have ended."""
        ...

    def begin(self, asked: Sequence[Asked]) -> list[Running]:
        """Read for some questions, side by side, and give each its first token. They run until they are ended.

        READ-ONE-VERSION: what they read of the memory is theirs from here on.
        """
        ...

    def decode(self) -> None:
        """One token more for every answer that runs and is not finished, in one pass."""
        ...

    def end(self, running: Running) -> None:
        """Let go of an answer, finished or not."""
        ...

    def completion(self, running: Running) -> Completion:
        """What an answer is. `grounded` is for this to say: an answer may turn out to know nothing."""
        ...


def answer_together(engine: Engine, conversations: Sequence[Messages], asking: Asking) -> list[Completion]:
    """Several questions side by side, for whoever has the engine to himself."""
    running = engine.begin([Asked(prompt=engine.compose(messages), asking=asking) for messages in conversations])
    while any(each.finish_reason is None for each in running):
        engine.decode()
    for each in running:
        engine.end(each)
    return [engine.completion(each) for each in running]


def answer(engine: Engine, messages: Messages, asking: Asking) -> Completion:
    """One question."""
    return answer_together(engine, [messages], asking)[0]


def prepared(engine: Engine, chunks: Chunks, coming: Iterable[Chunks] = ()) -> Any:
    """A document written in one go, for whoever has the engine to himself."""
    turns = engine.prepare(chunks, coming)
    while True:
        try:
            next(turns)
        except StopIteration as done:
            return done.value


def is_poisoned(error: BaseException) -> bool:
    """Whether a device error leaves its process useless, as an assert on a GPU does: every later call fails. Memory used up does not."""
    import torch  # whoever only asks needs none

    return isinstance(error, torch.AcceleratorError) and not isinstance(error, torch.OutOfMemoryError)
