"""What a leader hands to its followers: its latest commits, and how far it is.

    leader    applied commit -> window          no follower holds it up: they come and take
    follower  feed(after)    -> commits         waits a moment for the next one; then freshness alone

A window is bounded by bytes. Of a block memory it costs nothing beside that: a commit's arrays are views of where the memory keeps them.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

from pipeline.commits import Commit, Place

MOST_COMMITS = 20_000
"""In a window, however small they are."""

HELD = 4
"""So many times its bytes a window may hold while a follower catches up from a snapshot."""

MOST_WRITERS = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """Which commits count: those of the writer of this `generation`, and of each before it those up to where it was replaced.

    >>> chain = Chain(generation=1).handed_over(Place(1, 17), 2)
    >>> chain.holds(Place(1, 17)), chain.holds(Place(1, 18)), chain.holds(Place(2, 90)), chain.holds(Place(0, 0))
    (True, False, True, True)
    """

    generation: int
    ends: tuple[Place, ...] = ()

    def holds(self, place: Place) -> bool:
        """Whether whoever is there can go on with this writer's commits. Nothing at all is the beginning of every chain."""
        before = any(end.generation == place.generation and place.commits <= end.commits for end in self.ends)
        return place.commits == 0 or place.generation == self.generation or before

    def handed_over(self, place: Place, generation: int) -> Chain:
        """The chain once a writer of a new `generation` goes on from `place`."""
        kept = self.ends if self.holds(place) else ()
        return Chain(generation=generation, ends=(*kept, place)[-MOST_WRITERS:])


@dataclass(slots=True)
class Freshness:
    """How a replica stands to the log's end.

    Attributes:
        highwaters: of each partition, as TOPIC/PARTITION.
        caught_up: all that was in the log is known.
        complete: how many commits there were when the position was last known to be at the log's end, and when that was.
    """

    highwaters: Mapping[str, int] = field(default_factory=dict)
    caught_up: bool = False
    complete: tuple[int, float] | None = None

    @property
    def complete_up_to_s(self) -> float | None:
        return None if self.complete is None else self.complete[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Feed:
    """What a leader says when it is asked for what comes after a place.

    Attributes:
        chain: None where it does not lead.
        head: commits that it has applied.
        updates: that its memory has had.
        gap: why there are no commits for that place: it lies before the window, or belongs to a writer that was replaced.
        commits: the next ones, in order.
        freshness: of the leader.
        acknowledged: dead letters of commits before this number are known to have arrived.
        epoch: its last snapshot.
        ended: it has drained: no more comes.
    """

    chain: Chain | None = None
    head: int = 0
    updates: int = 0
    gap: Literal["behind", "apart"] | None = None
    commits: tuple[Any, ...] = ()
    freshness: Freshness = field(default_factory=Freshness)
    acknowledged: int = 0
    epoch: int | None = None
    ended: bool = False


class LeaderClient(Protocol):
    """The leader, wherever it runs. Raises LeaderLost where it does not answer."""

    def feed(self, after: Place, max_bytes: int, timeout_s: float) -> Feed:
        """What comes after a place: commits of so many bytes, one at least; where there are none yet, it waits a moment for one."""
        ...

    def want_snapshot(self) -> None:
        """A follower is too far behind for the window: a new snapshot would take it there. Does not wait for it."""
        ...


class CommitWindow:
    """The last commits that a replica applied. Filled by the device's thread, read by any."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._commits: deque[Commit] = deque()
        self._bytes = 0
        self._held_until_s = 0.0
        self._changed = threading.Condition()

    @property
    def size_bytes(self) -> int:
        return self._bytes

    def add(self, commit: Commit) -> None:
        """The next commit; the oldest go where there are too many. The last one always stays."""
        if not self._max_bytes:
            return
        with self._changed:
            if self._commits and self._commits[-1].number + 1 != commit.number:
                self._forget()
            self._commits.append(commit)
            self._bytes += commit.size_bytes
            limit = self._max_bytes * (HELD if time.monotonic() < self._held_until_s else 1)
            while len(self._commits) > 1 and (self._bytes > limit or len(self._commits) > MOST_COMMITS):
                self._bytes -= self._commits.popleft().size_bytes
            self._changed.notify_all()

    def clear(self) -> None:
        """The memory was replaced: what was applied before leads nowhere."""
        with self._changed:
            self._forget()

    def _forget(self) -> None:
        self._commits.clear()
        self._bytes = 0

    def hold(self, seconds: float) -> None:
        """Let more stay for a while: a follower comes for it once it has restored a snapshot."""
        self._held_until_s = time.monotonic() + seconds

    def after(self, number: int, max_bytes: int, timeout_s: float = 0.0) -> tuple[Commit, ...] | None:
        """The commits from `number` on, as many as fit, one at least; waits for the first. None: it is not here any more."""
        with self._changed:
            if self._commits and number > self._commits[-1].number:
                self._changed.wait_for(lambda: not self._commits or number <= self._commits[-1].number, timeout_s)
            elif not self._commits:
                self._changed.wait(timeout_s)
            if not self._commits or number > self._commits[-1].number:
                return ()
            first = number - self._commits[0].number
            if first < 0:
                return None
            taken, size = list[Commit](), 0
            for index in range(first, len(self._commits)):
                size += self._commits[index].size_bytes
                if taken and size > max_bytes:
                    break
                taken.append(self._commits[index])
            return tuple(taken)


def fed(feed: Feed, window: CommitWindow, after: Place, max_bytes: int, timeout_s: float) -> Feed:
    """A leader's `feed`, with what its window has for a place."""
    assert feed.chain is not None
    if not feed.chain.holds(after) or after.commits > feed.head:
        return replace(feed, gap="apart")
    commits = window.after(after.commits, max_bytes, timeout_s)
    if commits is None or (not commits and after.commits < feed.head):
        return replace(feed, gap="behind")
    return replace(feed, commits=commits)
