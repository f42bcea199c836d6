"""What an exam comes to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean
from typing import Any

from jobs.evaluation.students import Student

QUARTERS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What one case gave.

    `age`: updates since the last of its documents. `source_rank`: place of its document among the sources, from 1.
    """

    question: str
    answers: tuple[str, ...]
    answer: str
    age: int | None
    correct: bool
    grounded: bool | None
    source_correct: bool | None
    source_rank: int | None
    prompt_tokens: int
    seconds: float
    answerable: bool

    def as_dict(self) -> dict[str, Any]:
        names = ("question", "answers", "answer", "age", "correct", "grounded", "source_correct", "source_rank", "prompt_tokens")
        return {**{name: getattr(self, name) for name in names}, "seconds": round(self.seconds, 3)}


def totals(verdicts: Sequence[Verdict], student: Student) -> dict[str, Any]:
    """Shares over all cases; `source_accuracy` over those that have documents, and `unread` over those that have none."""
    told = [each for each in verdicts if each.answerable]
    untold = [each for each in verdicts if not each.answerable]
    return {
        "n": len(verdicts),
        "accuracy": share([each.correct for each in verdicts]),
        "source_accuracy": share([bool(each.source_correct) for each in told]),
        "grounded": share([each.grounded is not False for each in told]),
        "unread": {"n": len(untold), "grounded": share([each.grounded is not False for each in untold])},
        "by_age": by_age(told),
        "prompt_tokens": round(fmean(each.prompt_tokens for each in verdicts), 1),
        "seconds_per_question": round(fmean(each.seconds for each in verdicts), 3),
        "seconds_per_document": round(student.seconds_learning / max(1, student.documents), 4),
        "bytes_per_document": round(student.bytes_at_rest / max(1, student.documents)),
    }


def by_age(verdicts: Sequence[Verdict]) -> list[dict[str, Any]]:
    """Accuracy by quarters of the cases, the youngest first."""
    aged = sorted((each for each in verdicts if each.age is not None), key=lambda each: each.age or 0)
    bounds = [number * len(aged) // QUARTERS for number in range(QUARTERS + 1)]
    parts = [aged[first:end] for first, end in pairwise(bounds)]
    return [
        {"from": part[0].age, "to": part[-1].age, "n": len(part), "accuracy": share([each.correct for each in part])}
        for part in parts
        if part
    ]


def share(found: Sequence[bool]) -> float | None:
    """None where there is nothing to take a share of.

    >>> share([True, False]), share([])
    (0.5, None)
    """
    return round(sum(found) / len(found), 4) if found else None
