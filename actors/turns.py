"""Whose turn it is on the device: functions of values, with no thread in them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum


class Turn(StrEnum):
    ADMIT = "admit"
    DECODE = "decode"
    LEARN = "learn"
    NOTHING = "nothing"


@dataclass(slots=True)
class Shares:
    """How much of the device each side had, so that a contested one is divided as stated.

    Time is counted in units of each side's share: whoever is behind is next. A side that wanted nothing for a while starts level with
    the other one: what it left is gone.

    >>> shares = Shares(answering=0.75)
    >>> shares.answers_next()
    True
    >>> shares.spent(Turn.DECODE, 3.0, contested=True); shares.spent(Turn.LEARN, 0.5, contested=True)
    >>> shares.answers_next()
    False
    """

    answering: float = 0.5
    answered: float = 0.0
    learned: float = 0.0

    def answers_next(self) -> bool:
        return self.answered <= self.learned

    def spent(self, turn: Turn, seconds: float, contested: bool) -> None:
        if not contested:
            self.answered = self.learned = 0.0
        elif turn is Turn.LEARN:
            self.learned += seconds / (1 - self.answering)
        else:
            self.answered += seconds / self.answering


def next_turn(*, admissible: bool, running: bool, learnable: bool, just_admitted: bool, shares: Shares) -> Turn:
    """What the device does next.

    Args:
        admissible: a question waits and there is a place for it.
        running: answers that are not finished.
        learnable: an update waits and there is room for it.
        just_admitted: the last turn of the answers was an admission: those that run get a token before the next one.
    """
    if (admissible or running) and (not learnable or shares.answers_next()):
        return Turn.ADMIT if admissible and not (running and just_admitted) else Turn.DECODE
    return Turn.LEARN if learnable else Turn.NOTHING


def fitting(lengths: Sequence[int], places: int, most_tokens: int) -> int:
    """How many of the prompts that wait are read side by side: what they take when padded stays bounded; one always fits.

    >>> fitting([20, 30, 500], 8, 512), fitting([900, 10], 8, 512), fitting([5, 5, 5], 2, 512)
    (2, 1, 2)
    """
    longest = 0
    for count, length in enumerate(lengths[:places]):
        longest = max(longest, length)
        if count and longest * (count + 1) > most_tokens:
            return count
    return min(len(lengths), places)
