"""A replica: one model and one memory; it knows its stream, answers questions meanwhile, and has one of four roles, which may change.

    thread     consumes                      produces                            waits for
    device     questions, commits, calls     memory, state, pieces of answers    its inbox
    ingest     what its role brings          work for the device                 the device; the broker or the leader; the store
    save       a staged memory and state     snapshots                           dead letters acknowledged, the store
    status     the last state                ReplicaStatus                       nothing

    leader     the stream    -> commits -> its own memory, and a window for followers; saves
    follower   the leader    -> commits -> its own memory; is called to lead when the leader is lost
    reader     the stream    -> commits -> its own memory (mode: consume)
    server     the snapshots -> memory (mode: serve)

The class is plain; `actors.remote_replica` puts it into a process. Nothing is loaded by `__init__`: what a replica needs may be away for a
while, so it is fetched by the ingest thread, which tries again, and `status` says what it waits for.
"""

from __future__ import annotations

import logging
import os
import platform
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from actors.answering import Emit
from actors.config import StreamConfig
from actors.device_loop import Request
from actors.engines import device_of
from actors.errors import LeaderLost, NotReady
from actors.feed import Chain, CommitWindow, Feed, Freshness, LeaderClient, fed
from actors.following import Following
from actors.handles import RemoteLeader
from actors.leading import CALL_TIMEOUT_S, RETRY_S, Leading, OpenPoller
from actors.messages import Answer, DocumentsPage, DocumentsQuery, Fate, Leader, Phase, Question, ReplicaStatus, Role
from actors.parts import Parts, loaded_engine
from actors.remote_poller import RemotePoller
from actors.saver import Loaded, Saver
from actors.serving import Serving
from pipeline.commits import Place
from pipeline.errors import MemstreamError, StaleWriter
from pipeline.positions import StreamState
from pipeline.records import DeadLetter
from pipeline.snapshots.writer import SnapshotStore

log = logging.getLogger(__name__)

OpenLeader = Callable[[StreamConfig, Leader], LeaderClient]
DRAIN_FOLLOWER_S = 60.0
"""So long a follower that drains waits for the last of its leader's commits."""

QUIET_S = 0.05


class Replica:
    """One replica of a stream.

    Args:
        number: of the replica. In mode `consume` number 0 owns the lineage: it alone writes snapshots, dead letters and commits.
        threads: of torch.
        deployment: whose replicas take over from each other.
    """

    def __init__(
        self,
        config: StreamConfig,
        number: int,
        threads: int,
        open_poller: OpenPoller = RemotePoller,
        open_leader: OpenLeader = RemoteLeader,
        deployment: str = "",
    ) -> None:
        torch.set_num_threads(threads)
        self._config, self._number, self._deployment = config, number, deployment
        self._open_poller, self._open_leader = open_poller, open_leader
        self._phase: Phase = Phase.STARTING
        self._problem: str | None = "loads the model"
        self._failure: str | None = None
        self._stop, self._news = threading.Event(), threading.Event()
        self._freshness = Freshness()
        self._window = CommitWindow(config.replicas.window_bytes if self._has_followers else 0)
        self._device = ""
        self._parts: Parts | None = None
        self._restoring: str | None = None
        self._role: Leading | Following | Serving | None = None
        self._chain = Chain(generation=0)
        self._called: tuple[int | None] | None = None
        self._leader: Leader | None = None
        self._client: tuple[Leader, LeaderClient] | None = None
        self._final_sha256: str | None = None
        self._ingest = threading.Thread(target=self._run, name="ingest", daemon=True)
        self._ingest.start()

    @property
    def _has_followers(self) -> bool:
        return self._config.replicas.mode == "follow" and self._config.replicas.count > 1

    @property
    def _ready(self) -> Parts:
        reason = self._failure or self._problem if self._parts is None else self._unfit()
        if self._parts is None or reason is not None:
            raise NotReady(f"replica {self._number} is not ready: {reason}")
        return self._parts

    def _unfit(self) -> str | None:
        """Why it may not answer although it has a memory."""
        apart = isinstance(self._role, Following) and self._role.apart
        return self._restoring or ("it restores, since its writer was replaced" if apart else None)

    # ------------------------------------------------------------------ starting

    def _run(self) -> None:
        """The ingest thread: the one place where a failure of the stream ends up."""
        try:
            self._start()
            while not self._stop.is_set():
                self._step()
        except Exception as error:
            self._fail(error)

    def _start(self) -> None:
        config = self._config
        self._device = device_of(config)
        engine, device = loaded_engine(config)
        store = SnapshotStore(config.snapshots, config.stream)
        saver = Saver(config, store, engine, device)
        state = self._patiently(saver.restore, "restores the latest snapshot") or StreamState.beginning({})
        if self._stop.is_set():
            return
        self._parts = Parts.made(config, self._number, engine, (saver, state), store, self._reject, self._window, self._freshness)
        self._chain = Chain(generation=self._parts.learner.place.generation)
        self._problem = None
        self._begin()

    def _begin(self) -> None:
        """The role that the configuration gives it."""
        mode = self._config.replicas.mode
        if mode == "serve":
            self._role, self._phase = Serving(self._own.saver, self._replace_memory, self._stop), Phase.SERVING
        elif self._has_followers:
            self._follow()
        elif mode == "follow" or self._number == 0:
            self._lead(None)
        else:
            self._read(owns_lineage=False)

    @property
    def _own(self) -> Parts:
        if self._parts is None:
            raise NotReady(f"replica {self._number} is not ready: {self._problem}")
        return self._parts

    def _reject(self, letter: DeadLetter) -> None:
        if isinstance(self._role, Leading):
            self._role.client.reject(letter)

    def _patiently(self, call: Callable[[], Any], doing: str) -> Any:
        """What the store gives, as soon as it is there."""
        self._problem = doing
        while not self._stop.is_set():
            try:
                return call()
            except MemstreamError as error:
                if not error.retriable:
                    raise
                self._waits(f"{doing}: {error}")
        return None

    def _waits(self, problem: str) -> None:
        if self._parts is None or self._phase is not Phase.SERVING:
            self._phase = Phase.WAITING
        if problem != self._problem:  # once, not at every try
            log.warning("replica %d of %s waits: %s", self._number, self._config.stream, problem)
        self._problem = problem
        self._news.wait(RETRY_S)
        self._news.clear()

    def _fail(self, error: Exception) -> None:
        """It cannot go on learning; what it knows it still answers from."""
        log.error("replica %d of %s stops reading", self._number, self._config.stream, exc_info=error)
        self._failure = f"{type(error).__name__}: {error}"
        self._stop.set()

    # ------------------------------------------------------------------ roles

    def lead(self, after: int | None) -> None:
        """Claim the stream and lead it, from the place that this replica is at. Returns at once; `status` says when it does.

        `after`: the newest generation that is known to be of this deployment; another deployment's newer one is respected.
        """
        self._called = (after,)
        self._news.set()

    def hear(self, leader: Leader | None) -> None:
        """Who leads, as far as is known: a follower asks it for commits, and a leader that was replaced stops."""
        if leader is not None and (self._leader is None or leader.generation > self._leader.generation):
            self._leader = leader
            self._news.set()

    def feed(self, after: Place, max_bytes: int, timeout_s: float) -> Feed:
        """As `LeaderClient.feed`."""
        role, parts = self._role, self._parts
        if not isinstance(role, Leading) or parts is None:
            return Feed()
        last, state = parts.saver.last, parts.learner.state
        feed = Feed(
            chain=self._chain,
            head=state.commits,
            updates=state.update_number,
            freshness=replace(self._freshness),
            acknowledged=role.acknowledged,
            epoch=last.epoch if last else None,
            ended=self._phase is Phase.DRAINED or self._failure is not None,
        )
        return fed(feed, self._window, after, max_bytes, timeout_s)

    def want_snapshot(self) -> None:
        """As `LeaderClient.want_snapshot`."""
        if isinstance(self._role, Leading):
            self._role.want_snapshot()

    def _step(self) -> None:
        try:
            called, self._called = self._called, None
            if called is not None and isinstance(self._role, Following):
                self._lead(*called)
            elif isinstance(self._role, Leading) and self._was_replaced():
                self._give_way("another replica leads now")
            if self._role is not None:
                self._role.step()
        except StaleWriter as error:
            self._orphaned(error)
        except MemstreamError as error:
            if not error.retriable:
                raise
            self._waits(str(error))
        else:
            self._phase, self._problem = (Phase.SERVING if isinstance(self._role, Serving) else Phase.RUNNING), None

    def _was_replaced(self) -> bool:
        return self._leader is not None and self._leader.replica != self._number and self._leader.generation > self._chain.generation

    def _orphaned(self, error: StaleWriter) -> None:
        """A newer writer has claimed the stream: one of this deployment is followed, another's ends this one."""
        ours = self._deployment and self._patiently(self._own.saver.claimed_by, "asks who has claimed the stream") == self._deployment
        if not (ours and self._has_followers):
            raise error
        self._give_way(str(error))

    def _give_way(self, why: str) -> None:
        log.warning("replica %d of %s follows: %s", self._number, self._config.stream, why)
        if isinstance(self._role, Leading):
            self._role.abandon()
        self._follow(apart=True)

    def _follow(self, apart: bool = False) -> None:
        """`apart`: it may know what nobody else does, until the leader says that it does not."""
        parts = self._own
        following = Following(
            parts.learner, parts.loop, parts.saver, self._window, self._freshness, self._who_leads, self._replace_memory, self._chain
        )
        following.apart = apart
        self._role = following

    def _who_leads(self) -> LeaderClient:
        if self._leader is None or self._leader.replica == self._number:
            raise LeaderLost("no replica leads yet")
        if self._client is None or self._client[0] != self._leader:
            self._client = self._leader, self._open_leader(self._config, self._leader)
        return self._client[1]

    def _lead(self, after: int | None) -> None:
        """ONE-WRITER: claim the stream; then go on from the place of this memory, or of the latest snapshot if that is further."""
        parts, letters = self._own, list[Any]()
        if isinstance(self._role, Following):
            self._role.leave()
            self._chain, letters = self._role.chain, [letter for _, letter in self._role.letters]
        generation = self._patiently(lambda: parts.saver.claim(self._deployment, after), "claims the stream")
        manifest = self._patiently(parts.saver.newer, "looks for the latest snapshot")
        if self._stop.is_set():
            return
        if manifest is not None and Place(manifest.generation, manifest.commits) > parts.learner.place:
            self._replace_memory(self._patiently(lambda: parts.saver.load(manifest), "restores the latest snapshot"))
            letters = []
        elif manifest is not None and self._has_followers:
            self._patiently(lambda: parts.saver.adopt(manifest.epoch, self._between_turns), "looks where blocks lie")
        self._chain = self._chain.handed_over(parts.learner.place, generation)
        parts.learner.leads_as(generation)
        self._leader = Leader(self._number, generation)
        self._read(owns_lineage=True, letters=letters)

    def _read(self, owns_lineage: bool, letters: list[Any] | None = None) -> None:
        parts = self._own
        self._role = Leading(
            self._config,
            parts.learner,
            parts.loop,
            parts.saver,
            self._window,
            self._freshness,
            self._open_poller,
            self._stop,
            role=Role.READER if self._config.replicas.mode == "consume" else Role.LEADER,
            owns_lineage=owns_lineage,
            letters=letters or (),
        )

    def _between_turns(self, call: Callable[[], Any]) -> Any:
        return self._own.loop.call(call).result(CALL_TIMEOUT_S)

    def _replace_memory(self, loaded: Loaded) -> None:
        """Put a snapshot into the memory's place. Answers from a pool end first, since they read it; others ask elsewhere meanwhile."""
        parts = self._own
        read_in_place = parts.engine.kind == "tokens"

        def install() -> bool:
            if read_in_place and parts.loop.running:
                return False
            loaded.install()
            parts.learner.begin_at(loaded.state, loaded.saved.generation)
            self._window.clear()
            self._freshness.complete, self._freshness.caught_up = None, False
            return True

        self._restoring = f"restores snapshot {loaded.saved.epoch}" if read_in_place else None
        try:
            deadline_s = time.monotonic() + self._config.answers.timeout_s + CALL_TIMEOUT_S
            while not self._between_turns(install):
                if time.monotonic() > deadline_s:
                    raise MemstreamError("answers did not end in time to restore a snapshot")
                time.sleep(QUIET_S)
        finally:
            self._restoring = None

    # ------------------------------------------------------------------ ending

    def drain(self) -> ReplicaStatus:
        """Finish the document, save, commit, let go of the stream. A follower takes the last of its leader's commits. Answers go on."""
        self._stop.set()
        self._news.set()
        self._ingest.join()
        role = self._role
        if self._failure is None and self._phase not in (Phase.SERVING, Phase.DRAINED) and role is not None:
            self._phase = Phase.DRAINING
            if isinstance(role, Leading):
                role.drain()
            elif isinstance(role, Following):
                role.wait_for_end(time.monotonic() + DRAIN_FOLLOWER_S)
            self._final_sha256 = self._between_turns(self._own.saver.sha256)
        if isinstance(role, Leading):
            role.close()
        if self._failure is None and self._phase is not Phase.SERVING:
            self._phase = Phase.DRAINED
        return self.status()

    def close(self) -> None:
        """End the device's thread; whoever still waits for an answer is told so."""
        self._stop.set()
        self._news.set()
        if self._parts is not None:
            self._parts.loop.close()

    # ------------------------------------------------------------------ answering

    def ask(self, question: Question, emit: Emit) -> Request:
        """As `Answering.ask`; raises NotReady while it loads."""
        return self._ready.answering.ask(question, emit)

    def cancel(self, request: Request) -> None:
        """Nobody waits for the answer any more."""
        self._ready.answering.cancel(request)

    def answer(self, question: Question) -> Answer:
        """`ask`, and wait for the whole answer."""
        return self._ready.answering.answer(question)

    def documents(self, query: DocumentsQuery) -> DocumentsPage:
        """Remembered documents, the newest learned first."""
        return self._ready.answering.documents(query)

    def fate(self, topic: str, partition: int, offset: int) -> Fate:
        """What became of an offset."""
        return self._ready.answering.fate(topic, partition, offset)

    # ------------------------------------------------------------------ watching

    def status(self) -> ReplicaStatus:
        """How it stands; waits for nothing."""
        common: dict[str, Any] = {
            "replica": self._number,
            "phase": Phase.FAILED if self._failure else self._phase,
            "problem": self._failure or self._problem,
            "pid": os.getpid(),
            "node": platform.node(),
            "device": self._device,
            "at_s": time.time(),
        }
        parts, role = self._parts, self._role
        if parts is None:
            return ReplicaStatus(**common, loading=True)
        fields = common | {"generation": self._chain.generation} | parts.figures(self._freshness)
        if role is not None:
            fields |= {"role": role.role, **role.standing()}
        last = parts.saver.last
        saved = last.memory_sha256 if last is not None and self._phase is Phase.SERVING else None
        return ReplicaStatus(**fields, loading=self._unfit() is not None, memory_sha256=saved or self._final_sha256)
