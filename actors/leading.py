"""The replica that reads the stream: it polls, learns, and saves.

poll -> items -> (device) learn, commit by commit -> save when due: stage, letters acknowledged, store, consumer group
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Generator, Iterable, Mapping
from concurrent.futures import Future
from itertools import islice
from typing import Any

from actors.config import StreamConfig
from actors.device_loop import DeviceLoop
from actors.feed import CommitWindow, Freshness
from actors.learner import Learner
from actors.messages import Polled, Role
from actors.poller import PollerClient
from actors.saver import Saver
from pipeline.errors import MemstreamError
from pipeline.fetched import OVERHEAD_BYTES
from pipeline.positions import caught_up, format_positions, format_topic_ids, parse_positions
from pipeline.records import DeadLetter

log = logging.getLogger(__name__)

OpenPoller = Callable[[StreamConfig, Mapping[str, int], bool, Mapping[str, str]], PollerClient]
POLL_TIMEOUT_S = 0.5
RETRY_S = 2.0
SAVE_RETRY_S = 10.0
DRAIN_RETRIES = 5
CALL_TIMEOUT_S = 300.0
"""A turn of the device takes seconds at most, so whoever waits so long for one waits for something that hangs."""

JOIN_S = 120.0
"""How long a follower may take to restore the snapshot that was written for it."""


class Leading:
    """Reads and, where it owns the lineage, saves.

    Args:
        freshness: is kept up here.
        letters: dead letters that another leader sent and nobody is known to have acknowledged: they are sent once more.
        stop: no item is begun any more once it is set.
    """

    def __init__(
        self,
        config: StreamConfig,
        learner: Learner,
        loop: DeviceLoop,
        saver: Saver,
        window: CommitWindow,
        freshness: Freshness,
        open_poller: OpenPoller,
        stop: threading.Event,
        *,
        role: Role,
        owns_lineage: bool,
        letters: Iterable[DeadLetter] = (),
    ) -> None:
        self._config, self._learner, self._loop, self._saver, self._window = config, learner, loop, saver, window
        self._freshness, self._open_poller, self._stop, self._owns_lineage = freshness, open_poller, stop, owns_lineage
        self.role = role
        self._letters = list(letters)
        self._letter_bytes = 0
        self._poller: PollerClient | None = None
        self._pending: Future[None] | None = None
        self._saving: threading.Thread | None = None
        self._tried_at_s = time.monotonic()
        self._wanted = False
        self._broken: Exception | None = None
        self._over = False
        self.snapshot_problem: str | None = None
        self.acknowledged = 0
        """Dead letters of commits before this number have arrived."""

    def step(self) -> None:
        """One poll; what it brings is learned while the next one is under way.

        Raises what polling, learning and saving raise; after a retriable error the next call goes on.
        """
        try:
            if self._broken is not None:
                raise self._broken
            if self._letter_bytes > self._config.dead_letters.max_pending_bytes // 2:
                self.flush(self._config.dead_letters.flush_timeout_s)
            polled = self._poll()
        except MemstreamError:
            self.settle()
            raise
        self._sees(polled)
        work = self._loop.learn(self._learn(polled))
        # The device has the next batch at hand when it is through with this one; no more than one waits.
        self.settle()
        self._pending = work
        if not polled.items:
            self.settle()

    def standing(self) -> dict[str, Any]:
        """What the status says of this role."""
        poller = self._poller
        return {"snapshot_problem": self.snapshot_problem, "poller_deaths": poller.deaths if poller else 0}

    def settle(self) -> None:
        """Wait until what was polled is learned."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    # ------------------------------------------------------------------ learning

    def _learn(self, polled: Polled) -> Generator[None, None, None]:
        """On the device's thread: what was polled, item by item."""
        for number, item in enumerate(polled.items, 1):
            if self._stop.is_set() or self._over:
                return  # what was not learned comes again from the position
            commit = yield from self._learner.learn(item, coming=islice(polled.items, number, None))
            if commit.letter is not None:
                self._letter_bytes += commit.letter.record.size_bytes + OVERHEAD_BYTES
            self._save_if_due()
        self._heard(polled)
        self._save_if_due()

    @property
    def client(self) -> PollerClient:
        if self._poller is None:
            raise MemstreamError("the stream has not been reached yet")
        return self._poller

    def _poll(self) -> Polled:
        if self._poller is None:
            state = self._learner.state
            positions, topic_ids = format_positions(state.positions), format_topic_ids(state.topic_ids)
            self._poller = self._open_poller(self._config, positions, self._owns_lineage, topic_ids)
            for letter in self._letters:
                self._poller.reject(letter)
            self._letters.clear()
        return self._poller.poll(self._config.replicas.poll_bytes, POLL_TIMEOUT_S)

    def _sees(self, polled: Polled) -> None:
        """How far the log goes, as soon as that is known: what was polled is not learned yet."""
        self._freshness.highwaters = format_positions(polled.highwaters)
        self._freshness.caught_up = caught_up(self._learner.state.positions, polled.highwaters)

    def _heard(self, polled: Polled) -> None:
        """All that was polled is learned."""
        state, freshness = self._learner.state, self._freshness
        freshness.caught_up = caught_up(state.positions, parse_positions(freshness.highwaters))
        # Everything that was in the log when this was polled is known now, whatever came since.
        if caught_up(state.positions, polled.highwaters) and polled.heard.issuperset(state.positions):
            freshness.complete = state.commits, polled.at_s

    # ------------------------------------------------------------------ dead letters; what a save needs of a poller

    def flush(self, timeout_s: float) -> None:
        """Return once all dead letters so far are acknowledged."""
        number, size = self._learner.state.commits, self._letter_bytes
        self.client.flush(timeout_s)
        self.acknowledged = max(self.acknowledged, number)
        self._letter_bytes -= size

    def commit(self, positions: Mapping[str, int], metadata: str) -> None:
        self.client.commit(positions, metadata)

    # ------------------------------------------------------------------ saving

    def want_snapshot(self) -> None:
        """Save as soon as that is possible, whatever is configured: a follower waits for it."""
        self._wanted = True

    def _save_if_due(self) -> None:
        if not self._owns_lineage or (self._saving is not None and self._saving.is_alive()):
            return
        if self.snapshot_problem and time.monotonic() - self._tried_at_s < SAVE_RETRY_S:
            return
        last, state = self._saver.last, self._learner.state
        updates = state.update_number - (last.update_number if last else 0)
        # The first position of a stream that starts at the end is saved at once: a crash before that would lose what came in between.
        first = last is None and bool(state.positions) and self._config.kafka.start == "latest"
        due = first or self._wanted or self._config.snapshots.is_due(time.monotonic() - self._tried_at_s, updates)
        if due and self._unsaved():
            self._saving = threading.Thread(target=self._save, name="save", daemon=True)
            self._saving.start()

    def _unsaved(self) -> bool:
        last = self._saver.last
        return (
            last is None or last.commits != self._learner.state.commits or last.position != format_positions(self._learner.state.positions)
        )

    def _save(self) -> None:
        """The save thread. The store may be away for a while: updates go on and it is tried again when next due."""
        self._tried_at_s = time.monotonic()
        wanted, self._wanted = self._wanted, False
        if wanted:
            self._window.hold(CALL_TIMEOUT_S)
        try:
            self._saver.save(self._learner, self, self._between_turns)
            self.snapshot_problem = None
            self._saver.tidy()
        except Exception as error:
            log.error("no snapshot: %s", error)
            self.snapshot_problem = f"{type(error).__name__}: {error}"
            self._wanted = self._wanted or wanted
            if not (isinstance(error, MemstreamError) and error.retriable):
                self._broken = error
        if wanted:
            self._window.hold(JOIN_S)

    def _between_turns(self, call: Callable[[], Any]) -> Any:
        return self._loop.call(call).result(CALL_TIMEOUT_S)

    # ------------------------------------------------------------------ ending

    def drain(self) -> None:
        """What was begun is finished and saved."""
        self.settle()
        if self._saving is not None:
            self._saving.join()
        if self._owns_lineage and self._poller is not None and self._unsaved():
            self._persist()

    def _persist(self, tries: int = DRAIN_RETRIES) -> None:
        """The last snapshot before the end: a store or a broker that is away for a moment is waited for."""
        try:
            self.client.renew()
            self._saver.save(self._learner, self, self._between_turns, merge=False)
        except MemstreamError as error:
            if not error.retriable or tries == 1:
                raise
            log.warning("no snapshot yet: %s", error)
            time.sleep(RETRY_S)
            self._persist(tries - 1)

    def abandon(self) -> None:
        """Another one leads: begin nothing more, save nothing, and let go of the stream."""
        self._over = True
        try:
            self.settle()
        except Exception as error:
            log.warning("what was begun is given up: %s", error)
        if self._saving is not None:
            self._saving.join(CALL_TIMEOUT_S)  # it finds out by itself
        self.close()

    def close(self) -> None:
        """Let go of the stream."""
        poller, self._poller = self._poller, None
        if poller is not None:
            poller.close()
