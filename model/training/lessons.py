"""Documents and questions as tokens, and documents as they have been written: what the stages of training hand to each other."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """A question as the model gets it.

    `prompt` is the whole conversation up to the assistant's turn, `content` the bounds of the question's own tokens in it, `answer` what
    shall be said, `chunks` the numbers of the document's chunks that tell it (none: it cannot be answered from memory).
    """

    prompt: tuple[int, ...]
    content: tuple[int, int]
    answer: tuple[int, ...]
    chunks: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesson:
    """One document as the stream would cut it, and what can be asked about it.

    `subject` tells documents apart that say different things of the same matter: none of them is a wrong block for the other's question.
    `near` are questions that it nearly tells, of another name or year or of what it leaves open: with this document in front the answer is
    that nobody knows.
    """

    kind: str
    subject: str
    chunks: tuple[tuple[int, ...], ...]
    queries: tuple[Query, ...]
    near: tuple[Query, ...] = ()

    def context(self, number: int) -> tuple[int, ...]:
        """What is read in front of a chunk: the one before it."""
        return self.chunks[number - 1] if number else ()


@dataclass(slots=True, eq=False)
class Written:
    """A chunk's block, and whose it is."""

    lesson: Lesson
    number: int
    states_RnD: Tensor
