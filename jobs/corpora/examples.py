"""One training document and its questions, and what all generators share: the header, the fit into one chunk, the held-out split."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import TypeAlias

Question: TypeAlias = tuple[str, tuple[str, ...]]
"""What is asked, and the accepted answers; the first is the string as it stands in the text."""

HELD_OUT_SHARE = 0.12


class Split(StrEnum):
    """Training never sees the countries, articles and templates of HELD_OUT."""

    TRAIN = "train"
    HELD_OUT = "held_out"


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One document that fits one chunk, and what can be asked once it is remembered.

    >>> Example(kind="stories", title=None, source=None, date_ms=0, text="Ana won.", questions=(("Who won?", ("Ana",)),)).header
    '1 Jan 1970\\n'
    """

    kind: str
    title: str | None
    source: str | None
    date_ms: int | None
    text: str
    questions: tuple[Question, ...]
    untold: tuple[str, ...] = ()
    """Questions of the same matter that this text leaves open."""
    subject: str | None = None

    @property
    def event_time_ms(self) -> int | None:
        return self.date_ms

    @property
    def header(self) -> str:
        return header_line(self.title, self.source, self.date_ms)

    @property
    def chunk_text(self) -> str:
        """Header line and text: what one update reads."""
        return self.header + self.text


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """How much text one chunk holds, in the tokens of the model at hand. Header and text are counted apart, as they are encoded."""

    count_tokens: Callable[[str], int]
    max_tokens: int = 64

    def __call__(self, text: str, header: str = "") -> bool:
        return self.count_tokens(header) + self.count_tokens(text) <= self.max_tokens


def estimate_tokens(text: str) -> int:
    """A cautious count where no tokenizer is at hand: 3.4 characters a token, each digit and each two capitals one of their own."""
    digits = sum(character.isdigit() for character in text)
    capitals = sum(character.isupper() for character in text)
    return round((len(text) - digits - capitals) / 3.4 + digits + capitals / 2)


def header_line(title: str | None, source: str | None, date_ms: int | None) -> str:
    """The line in front of every chunk.

    >>> header_line("Algeria", "World Factbook", 1_767_139_200_000)
    'Algeria | World Factbook | 31 Dec 2025\\n'
    """
    date = None if date_ms is None else datetime.fromtimestamp(date_ms / 1000, UTC)
    parts = [title, source, None if date is None else f"{date.day} {date:%b %Y}"]
    line = " | ".join(part for part in parts if part)
    return line + "\n" if line else ""


def split_of(key: str, share: float = HELD_OUT_SHARE) -> Split:
    """The same key always falls into the same part, in every process and every run."""
    drawn = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") / 2**64
    return Split.HELD_OUT if drawn < share else Split.TRAIN


def day_ms(year: int, month: int, day: int) -> int:
    """Midnight UTC of a day, in milliseconds since the epoch."""
    return int(datetime(year, month, day, tzinfo=UTC).timestamp() * 1000)
