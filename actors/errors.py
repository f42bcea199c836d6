"""What can go wrong between a question and its answer. Light to import: whoever asks needs neither torch nor Ray for it.

MemstreamError
├── Busy           too many wait already (retriable, 429)
├── Overdue        not answered in time (retriable)
├── NotKnownYet    what the question demands is not known yet (retriable)
├── NoSuchTime     there is no such snapshot
├── NoReplica      none can answer (retriable)
├── LeaderLost     no leader is heard (retriable)
├── FallenBehind   a follower waits for a snapshot (retriable)
└── NotReady, Ended, ReplicaLost, Interrupted    what befell one replica (retriable)
"""

from __future__ import annotations

from typing import Any

from pipeline.errors import MemstreamError


class Busy(MemstreamError):
    """There are as many questions waiting as may wait. Ask again after `retry_after_s` seconds."""

    retriable = True

    def __init__(self, waiting: int, retry_after_s: float) -> None:
        super().__init__(f"{waiting} questions are waiting already: ask again in {retry_after_s:.0f} s")
        self.waiting, self.retry_after_s = waiting, retry_after_s

    def __reduce__(self) -> Any:
        return Busy, (self.waiting, self.retry_after_s)


class Overdue(MemstreamError):
    """An answer was not finished, or not begun, within its time. Ask for less, allow more time, or add replicas."""

    retriable = True


class Ended(MemstreamError):
    """The replica ended before it could answer. Ask again: another one answers, or this one when it is back."""

    retriable = True


class NotReady(MemstreamError):
    """The replica loads or restores still. Ask another one, or this one again."""

    retriable = True


class NotKnownYet(MemstreamError):
    """What the question demands to be known is not known here yet. Ask again, or allow more `wait_s`."""

    retriable = True


class NoSuchTime(MemstreamError):
    """There is no snapshot of that number, or none so old. The message says which there are."""


class NoReplica(MemstreamError):
    """No replica of the stream can answer now. They may be starting; `memstream status` says what each one waits for."""

    retriable = True


class LeaderLost(MemstreamError):
    """A follower hears no leader. It answers from what it knows; one of the followers leads next, by itself."""

    retriable = True


class FallenBehind(MemstreamError):
    """A follower is further behind than the leader keeps commits for. It waits for the next snapshot, which it has asked for."""

    retriable = True


class ReplicaLost(MemstreamError):
    """A replica ended, or was not heard of, while it had a question. It is asked again elsewhere."""

    retriable = True


class Interrupted(MemstreamError):
    """The replica was lost in the middle of a streamed answer, and another one would go on differently. Ask again."""

    retriable = True
