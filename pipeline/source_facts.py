"""What a source tells about itself, to metrics and to a watchdog that runs beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.records import Partition


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionFacts:
    """Where one partition stands. Times are of `time.monotonic()`; None: not yet."""

    position: int
    read_to: int
    highwater: int | None = None
    heard_s: float | None = None
    moved_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceFacts:
    """What a watchdog on another thread needs to know. `polling_since_s`: when the poll under way began; None between polls."""

    connected: bool
    polling_since_s: float | None
    rebuilds: int
    partitions: Mapping[Partition, PartitionFacts]

    def hung(self, now_s: float, after_s: float) -> bool:
        """Whether the poll under way has taken longer than any poll should: then only ending the process helps."""
        return self.polling_since_s is not None and now_s - self.polling_since_s > after_s
