"""Finds out what kills the process that reads a stream: which record, or which batch. Functions of values, no Ray.

A process that died may have been at anything that it had read ahead. So the next one is led: one partition at a time, one record at a time,
and first read, then decoded. Whoever leads it outlives it, and knows at which place and step it was when it died. Twice at the same one is
no accident: a record is then a dead letter, and a batch that cannot even be read a gap.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from enum import StrEnum
from typing import NamedTuple

from pipeline.records import Record

DEATHS_TO_CONVICT = 2
DEATHS_AT_START = 5
MOST_IN_A_ROW = 3
"""Places passed over with nothing good between them. More are not the records' fault, but this machine's."""

FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 60.0


class Step(StrEnum):
    """What the process was told to do."""

    OPEN = "connect to the broker"
    READ = "read a record"
    DECODE = "decode a record"


class Place(NamedTuple):
    """A step at an offset of a partition (TOPIC/PARTITION)."""

    step: Step
    partition: str
    offset: int

    def __str__(self) -> str:
        return self.step if self.step is Step.OPEN else f"{self.step}: {self.partition} at {self.offset}"


class Careful:
    """How far a stream was read carefully since a process died, and at which places others died since.

    `window_bytes`: what a process may have had of a partition beyond the position that is known of it. When so much of each was read, or
    its end was reached, whatever killed the first one has been passed.

    >>> careful = Careful(window_bytes=100)
    >>> careful.accuse(Place(Step.READ, "news/0", 7)); careful.convicted is None
    True
    >>> careful.accuse(Place(Step.READ, "news/0", 7)); careful.convicted.offset
    7
    """

    def __init__(self, window_bytes: int) -> None:
        self._window_bytes = window_bytes
        self._deaths: Counter[Place] = Counter()
        self._read_bytes: Counter[str] = Counter()
        self._at_end: set[str] = set()
        self._turn = 0
        self.passed_over = 0
        """Places in a row, since something good came."""
        self.record: Record | None = None
        """The last one that was read."""

    @property
    def convicted(self) -> Place | None:
        """The place that killed as often as is needed, at which something can be passed over."""
        return next((place for place, count in self._deaths.items() if place.step is not Step.OPEN and count >= DEATHS_TO_CONVICT), None)

    @property
    def cannot_start(self) -> bool:
        """Whether it dies before it reads anything: nothing can be passed over then."""
        return any(count >= DEATHS_AT_START for place, count in self._deaths.items() if place.step is Step.OPEN)

    def accuse(self, place: Place) -> None:
        """A process died there."""
        self._deaths[place] += 1

    def acquit(self, place: Place) -> None:
        """It was passed."""
        self._deaths.pop(place, None)

    def next_partition(self, positions: Mapping[str, int]) -> str | None:
        """Whose turn it is; None while there is none."""
        if not positions:
            return None
        self._turn += 1
        return sorted(positions)[self._turn % len(positions)]

    def passed(self, partition: str, size_bytes: int) -> None:
        """So much of a partition was read and decoded."""
        self.passed_over = 0
        self._read_bytes[partition] += size_bytes

    def reached_end(self, partition: str) -> None:
        """There is nothing more in it."""
        self._at_end.add(partition)

    def is_over(self, positions: Mapping[str, int]) -> bool:
        return bool(positions) and all(each in self._at_end or self._read_bytes[each] >= self._window_bytes for each in positions)


def pause_s(deaths_in_a_row: int) -> float:
    """How long to wait before the next process is started.

    >>> pause_s(1), pause_s(3), pause_s(20)
    (1.0, 4.0, 60.0)
    """
    return float(min(FIRST_PAUSE_S * 2 ** min(deaths_in_a_row - 1, 10), LONGEST_PAUSE_S))
