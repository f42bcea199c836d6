"""Which snapshots are kept, as a function of their numbers and times."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Literal, NamedTuple, TypeAlias

from pipeline.snapshots.config import RetentionConfig

Why: TypeAlias = Literal["last", "hourly", "daily", "pinned", "restored", "all"]
"""`restored`: the newest writer went on from it and has not saved anything since."""


class Dated(NamedTuple):
    """A snapshot that is whole, and when it was made."""

    epoch: int
    created_at: datetime


def kept(snapshots: Iterable[Dated], config: RetentionConfig) -> dict[int, Why]:
    """The numbers of those that are kept, newest first, and for what.

    Hours and days that have no snapshot are not counted, so a stream that stood still loses nothing by it. Whether one is kept hangs on
    newer ones alone: what was not kept once never is again.

    >>> at = lambda hour, minute: datetime(2026, 1, 31, hour, minute, tzinfo=UTC)
    >>> made = [Dated(1, at(9, 5)), Dated(2, at(9, 55)), Dated(3, at(10, 5)), Dated(4, at(12, 0)), Dated(5, at(12, 5))]
    >>> kept(made, RetentionConfig(last=2, hourly=3, daily=0))
    {5: 'last', 4: 'last', 3: 'hourly', 2: 'hourly'}
    """
    chosen: dict[int, Why] = {}
    hours, days = set[datetime](), set[datetime]()
    for number, snapshot in enumerate(sorted(snapshots, reverse=True)):
        hour = snapshot.created_at.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
        hourly = _first(hour, hours, config.hourly)
        daily = _first(hour.replace(hour=0), days, config.daily)
        if config.keep_all:
            chosen[snapshot.epoch] = "all"
        elif number < config.last:
            chosen[snapshot.epoch] = "last"
        elif hourly or daily:
            chosen[snapshot.epoch] = "hourly" if hourly else "daily"
    return chosen


def _first(period: datetime, known: set[datetime], most: int) -> bool:
    """Whether this is the first snapshot of one of the `most` periods, and note it."""
    if period in known or len(known) >= most:
        return False
    known.add(period)
    return True
