"""Notices a partition that is alive but does not move: the fault that people who run streams complain about most.

Only time spent polling counts: a source that is not asked, or a partition that is paused because its buffer is full, does not stall.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from pipeline.records import Partition


@dataclass(slots=True)
class _Watched:
    silent_s: float = 0.0
    stuck_s: float = 0.0
    rebuilds: int = 0


@dataclass(slots=True, kw_only=True)
class Watchdog:
    """Polling time in vain for each partition.

    `silence_s`: no answer came for the partition. `stall_s`: answers say that there is more, yet its position stands still.

    >>> watchdog = Watchdog(silence_s=10.0, stall_s=5.0)
    >>> watchdog.observe(Partition("news", 0), polled_s=6.0, progressed=False, heard=True, behind=True)
    >>> watchdog.stuck()
    (Partition(topic='news', number=0),)
    """

    silence_s: float
    stall_s: float
    _watched: dict[Partition, _Watched] = field(default_factory=dict)

    def observe(self, partition: Partition, *, polled_s: float, progressed: bool, heard: bool, behind: bool) -> None:
        """Take in what one poll of `polled_s` brought for a partition that was not paused."""
        if progressed or (heard and not behind):
            self._watched[partition] = _Watched()
            return
        watched = self._watched.setdefault(partition, _Watched())
        watched.silent_s = 0.0 if heard else watched.silent_s + polled_s
        watched.stuck_s += polled_s if behind else 0.0

    def excuse(self, partition: Partition) -> None:
        """It stands still for a good reason; begin anew."""
        self._watched[partition] = _Watched()

    def silent(self) -> tuple[Partition, ...]:
        return tuple(partition for partition, watched in self._watched.items() if watched.silent_s >= self.silence_s)

    def stuck(self) -> tuple[Partition, ...]:
        """Those that were answered, but did not move."""
        return tuple(
            partition for partition, watched in self._watched.items() if watched.stuck_s >= self.stall_s and watched.silent_s < self.stall_s
        )

    def rebuilt(self, partitions: Iterable[Partition]) -> int:
        """Start the clocks again after a rebuild for `partitions`; how many rebuilds in vain the worst of them has seen."""
        worst = 0
        for partition in partitions:
            rebuilds = self._watched[partition].rebuilds + 1
            self._watched[partition] = _Watched(rebuilds=rebuilds)
            worst = max(worst, rebuilds)
        return worst
