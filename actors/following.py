"""A replica that applies its leader's commits, so that it knows what the leader knows without computing it.

    feed(after) -> commits checked -> (device) apply, one by one
       |-- behind the window    -> the latest snapshot, if the window goes on from it; else the leader is asked for a new one
       |-- of a writer that was replaced -> the same; meanwhile it answers nothing

It pulls, so a slow follower holds nobody up; every wait has an end, after which the caller looks whether anything has changed.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future
from typing import Any

from actors.device_loop import DeviceLoop
from actors.errors import FallenBehind, LeaderLost
from actors.feed import Chain, CommitWindow, Feed, Freshness, LeaderClient
from actors.leading import CALL_TIMEOUT_S
from actors.learner import Learner
from actors.messages import Role
from actors.saver import Loaded, Saver
from pipeline.commits import Place
from pipeline.errors import MemstreamError
from pipeline.records import DeadLetter

log = logging.getLogger(__name__)

FETCH_BYTES = 128 << 20
"""Of commits that are fetched at once; one comes however large it is."""

FEED_WAIT_S = 0.5
"""So long a leader waits for a commit before it says that there is none."""

LOST_S = 5.0
"""Whoever drains gives up a leader that was not heard of for so long."""


class Following:
    """Follows whoever leads.

    Args:
        leader: who leads as far as is known; raises LeaderLost where nobody does.
        freshness: is kept up here, as the leader has it.
        replace_memory: puts a snapshot into the memory's place.
        chain: of the writer that was followed before; an older one is not heard any more.
    """

    role = Role.FOLLOWER

    def __init__(
        self,
        learner: Learner,
        loop: DeviceLoop,
        saver: Saver,
        window: CommitWindow,
        freshness: Freshness,
        leader: Callable[[], LeaderClient],
        replace_memory: Callable[[Loaded], None],
        chain: Chain,
    ) -> None:
        self._learner, self._loop, self._saver, self._window = learner, loop, saver, window
        self._freshness, self._leader, self._replace_memory = freshness, leader, replace_memory
        self.chain = chain
        self.apart = False
        """What is known here is a writer's that was replaced: nobody else knows it so, and it is not answered from."""
        self.letters: deque[tuple[int, DeadLetter]] = deque()
        self.head = self.updates = 0
        self._received: Place | None = None
        self._pending: Future[None] | None = None
        self._level_at_s = time.monotonic()
        self._too_old: int | None = None
        self._adopting: threading.Thread | None = None
        self.reached_end = False
        """The leader has drained, and all that it knew is known here."""

    # ------------------------------------------------------------------ how far

    @property
    def behind_commits(self) -> int:
        return max(0, self.head - self._learner.state.commits)

    def standing(self) -> dict[str, Any]:
        """What the status says of this role."""
        return {
            "generation": self.chain.generation,
            "behind_commits": self.behind_commits,
            "behind_updates": max(0, self.updates - self._learner.state.update_number),
            "behind_s": max(0.0, time.monotonic() - self._level_at_s),  # since it last knew what its leader knew
        }

    # ------------------------------------------------------------------ following

    def step(self) -> None:
        """Fetch what is next, while what was fetched before is applied.

        Raises:
            LeaderLost: nobody leads, or whoever did does not answer, or is known to have been replaced.
            FallenBehind: a snapshot is needed that is not there yet.
            SnapshotError: one is needed that cannot be read.
        """
        try:
            feed = self._fetched()
        except (MemstreamError, ValueError):
            self.settle()
            raise
        if feed.gap is not None:
            self.settle()
            if self._learner.place == (self._received or self._learner.place):
                self._catch_up(feed)
            self._received = None
            return
        self._received = _after(feed, self._received or self._learner.place)
        work = self._loop.learn(self._apply(feed))
        self.settle()
        self._pending = work
        if not feed.commits:
            self.settle()

    def _fetched(self) -> Feed:
        place = self._received or self._learner.place
        feed = self._leader().feed(place, FETCH_BYTES, FEED_WAIT_S)
        if feed.chain is None or feed.chain.generation < self.chain.generation:
            raise LeaderLost("who led before does not lead any more")
        try:
            for commit in feed.commits:
                commit.check()
        except ValueError as error:
            raise LeaderLost(f"{error}; it is fetched again") from error
        return feed

    def settle(self) -> None:
        """Wait until what was fetched is applied. What does not fit is fetched anew."""
        pending, self._pending = self._pending, None
        if pending is None:
            return
        try:
            pending.result()
        except ValueError as error:
            self._received = None
            raise LeaderLost(f"what was fetched does not go on from here ({error}): it is fetched again") from error
        except Exception:
            self._received = None
            raise

    def _apply(self, feed: Feed) -> Generator[None, None, None]:
        """On the device's thread: the commits, and then what the leader says of itself."""
        for commit in feed.commits:
            yield from self._learner.apply(commit)
            if commit.letter is not None:
                self.letters.append((commit.number, commit.letter))
        assert feed.chain is not None
        self.chain, self.head, self.updates, self.apart = feed.chain, feed.head, feed.updates, False
        while self.letters and self.letters[0][0] < feed.acknowledged:
            self.letters.popleft()
        here, complete = self._learner.state.commits, feed.freshness.complete
        self._freshness.highwaters = feed.freshness.highwaters
        if complete is not None and here >= complete[0]:
            self._freshness.complete = complete
        level = here >= feed.head
        self._freshness.caught_up = level and feed.freshness.caught_up
        self.reached_end = level and feed.ended
        if level:
            self._level_at_s = time.monotonic()
        self._adopt_if_new(feed.epoch)

    def _adopt_if_new(self, epoch: int | None) -> None:
        """The leader has saved: its segments hold what is remembered here, too."""
        last = self._saver.last
        busy = self._adopting is not None and self._adopting.is_alive()
        if epoch is not None and not busy and (last is None or last.epoch < epoch):
            self._adopting = threading.Thread(target=self._adopt, args=(epoch,), name="adopt", daemon=True)
            self._adopting.start()

    def _adopt(self, epoch: int) -> None:
        try:
            self._saver.adopt(epoch, lambda call: self._loop.call(call).result(CALL_TIMEOUT_S))
        except Exception as error:  # the failure boundary of this thread: the blocks stay where they are, and the next snapshot comes
            log.warning("snapshot %d is not used here: %s", epoch, error)

    # ------------------------------------------------------------------ catching up

    def _catch_up(self, feed: Feed) -> None:
        """By the latest snapshot, if the leader's window goes on from it."""
        assert feed.chain is not None
        self.head, self.updates = feed.head, feed.updates
        self.apart = feed.gap == "apart"
        what = "what it knows is a writer's that was replaced" if self.apart else f"it is {self.behind_commits} commits behind"
        leader = self._leader()
        if feed.epoch is not None and feed.epoch != self._too_old:
            manifest = self._saver.latest()
            if manifest is not None:
                there = leader.feed(Place(manifest.generation, manifest.commits), 0, 0.0)
                if there.chain is not None and there.gap is None:
                    self._replace_memory(self._saver.load(manifest))
                    self.chain, self.apart = there.chain, False
                    self.letters.clear()
                    return
            self._too_old = feed.epoch
        leader.want_snapshot()
        raise FallenBehind(f"{what}, and the last snapshot is too old to go on from: it has asked for a new one")

    def wait_for_end(self, deadline_s: float) -> None:
        """Until all that the leader knew in the end is known here, or until a time on the monotonic clock."""
        lost_s: float | None = None
        while not self.reached_end and time.monotonic() < min(deadline_s, (lost_s or deadline_s) + LOST_S):
            try:
                self.step()
                lost_s = None
            except LeaderLost:
                lost_s = lost_s or time.monotonic()
                time.sleep(FEED_WAIT_S)
            except MemstreamError as error:
                if not error.retriable:
                    raise
                time.sleep(FEED_WAIT_S)
        self.settle()

    def leave(self) -> None:
        """Follow nobody any more: this replica is to lead."""
        try:
            self.settle()
        except LeaderLost as error:
            log.warning("%s", error)
        if self._adopting is not None:
            self._adopting.join(CALL_TIMEOUT_S)


def _after(feed: Feed, place: Place) -> Place:
    """Where the commits of a feed lead."""
    last: Any = feed.commits[-1] if feed.commits else None
    return place if last is None else Place(last.generation, last.number + 1)
