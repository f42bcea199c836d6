"""Which dead letters a user means, and what a replay of them came to."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import typer

from pipeline.event_time import parse_ms
from pipeline.letters import Letter, LetterState, Marks
from pipeline.records import Reason
from pipeline.replay import Replayed

MOST_NAMED = 100

_AGO = re.compile(r"(\d+)\s*([smhd])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_PLACE = re.compile(r"(?:(?P<partition>\d+)/)?(?P<first>\d+)(?:-(?P<last>\d+))?")


class Places(NamedTuple):
    """Some offsets of the topic of dead letters; of every partition where `partition` is None."""

    partition: int | None
    first: int
    last: int

    @classmethod
    def parse(cls, text: str) -> Places:
        """[PARTITION/]OFFSET or [PARTITION/]FIRST-LAST.

        >>> Places.parse("7"), Places.parse("2/5-9")
        (Places(partition=None, first=7, last=7), Places(partition=2, first=5, last=9))
        """
        match = _PLACE.fullmatch(text)
        if match is None:
            raise typer.BadParameter(f"{text!r}: want [PARTITION/]OFFSET or [PARTITION/]FIRST-LAST, as `memstream dlq list` shows them")
        first = int(match["first"])
        return cls(None if match["partition"] is None else int(match["partition"]), first, int(match["last"] or first))

    def hold(self, letter: Letter) -> bool:
        return self.partition in (None, letter.place.number) and self.first <= letter.offset <= self.last


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which letters."""

    reasons: frozenset[str] = frozenset()
    since_ms: int = 0
    topics: frozenset[str] = frozenset()
    places: tuple[Places, ...] = ()

    def holds(self, letter: Letter) -> bool:
        return (
            (not self.reasons or letter.reason in self.reasons)
            and letter.timestamp_ms >= self.since_ms
            and (not self.topics or letter.origin.topic in self.topics)
            and (not self.places or any(places.hold(letter) for places in self.places))
        )


def wanted_of(reasons: Sequence[str] | None, since: str | None, topics: Sequence[str] | None, places: Sequence[str]) -> Wanted:
    """What the options of a command say. Raises typer.BadParameter."""
    known = {reason.value for reason in Reason}
    if unknown := sorted(set(reasons or ()) - known):
        raise typer.BadParameter(f"--reason {unknown[0]}: no dead letter has it; there are {', '.join(sorted(known))}")
    return Wanted(
        reasons=frozenset(reasons or ()),
        since_ms=_since_ms(since) if since else 0,
        topics=frozenset(topics or ()),
        places=tuple(Places.parse(place) for place in places),
    )


def _since_ms(text: str) -> int:
    if match := _AGO.fullmatch(text.strip()):
        return int((time.time() - int(match[1]) * _SECONDS[match[2]]) * 1000)
    try:
        return parse_ms(text)
    except ValueError as error:
        raise typer.BadParameter(f"--since {text}: {error}; or 30m, 2h, 7d") from error


@dataclass(slots=True, kw_only=True)
class Tally:
    """What a replay came to. BOUNDED: names of the first hundred refused only."""

    dry_run: bool
    published: Counter[str] = field(default_factory=Counter)
    passed_over: Counter[LetterState] = field(default_factory=Counter)
    refused: list[Replayed] = field(default_factory=list)
    refusals: int = 0

    def due(
        self, letters: Iterator[Letter], wanted: Wanted, marks: Marks, retries: int, force: bool, limit: int | None
    ) -> Iterator[Letter]:
        """The letters that are wanted and may be replayed, `limit` of them at most."""
        count = 0
        for letter in letters:
            if not wanted.holds(letter):
                continue
            state = letter.state(marks, retries)
            if state is LetterState.WAITING or (state is LetterState.EXHAUSTED and force):
                yield letter
                count += 1
                if count == limit:
                    return
            else:
                self.passed_over[state] += 1

    def note(self, done: Replayed) -> None:
        if done.problem is None:
            self.published[done.letter.origin.topic] += 1
            return
        self.refusals += 1
        if len(self.refused) < MOST_NAMED:
            self.refused.append(done)

    def told(self) -> str:
        """In words."""
        verb = "would be replayed" if self.dry_run else "replayed"
        into = ", ".join(f"{count} to {topic}" for topic, count in sorted(self.published.items()))
        hints = {
            LetterState.REPLAYED: "replayed before",
            LetterState.EXHAUSTED: "failed after each of their replays (--force replays them once more)",
            LetterState.INCOMPLETE: "not whole here (the record is, or was, at its origin)",
        }
        parts = [f"{self.published.total()} {verb}{': ' + into if into else ''}"]
        return "; ".join(parts + [f"{count} {hints[state]}" for state, count in self.passed_over.items()])

    def as_json(self) -> dict[str, Any]:
        return {
            "dry_run": self.dry_run,
            "replayed": dict(self.published),
            "passed_over": {state.value: count for state, count in self.passed_over.items()},
            "refused": [{"place": each.letter.name, "problem": each.problem} for each in self.refused],
        }
