"""A replica: one model, one memory, one poller; it learns its stream, answers questions meanwhile, and is saved.

    thread     consumes                      produces                            waits for
    device     questions, documents, calls   memory, state, pieces of answers    its inbox
    ingest     poller.poll()                 work for the device                 the device; the broker; at the start, the store
    save       a staged memory and state     snapshots                           dead letters acknowledged, the store
    status     the last state                ReplicaStatus                       nothing

The class is plain; `actors.remote_replica` puts it into a process. Nothing is loaded by `__init__`: what a replica needs may be away for a
while, so it is fetched by the ingest thread, which tries again, and `status` says what it waits for.
"""

from __future__ import annotations

import logging
import os
import platform
import threading
import time
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import torch

from actors.answering import Answering, Emit, freshness, seen_watermark_ms, version_of
from actors.config import StreamConfig
from actors.device_loop import DeviceLoop, Request
from actors.engines import device_of, engine_options
from actors.errors import NotReady
from actors.history import History
from actors.learner import Learner
from actors.messages import (
    Answer,
    DocumentsPage,
    DocumentsQuery,
    Fate,
    Phase,
    Polled,
    Question,
    ReplicaStatus,
)
from actors.poller import PollerClient
from actors.remote_poller import RemotePoller
from actors.saver import Saver
from model.catalog import checkpoint_folder
from model.engine import Engine
from model.loading import load_engine
from pipeline.errors import MemstreamError
from pipeline.positions import StreamState, caught_up, format_positions, parse_positions
from pipeline.snapshots.writer import SnapshotStore

log = logging.getLogger(__name__)

OpenPoller = Callable[[StreamConfig, Mapping[str, int], bool, Mapping[str, str]], PollerClient]
POLL_TIMEOUT_S = 0.5
RETRY_S = 2.0
SAVE_RETRY_S = 10.0
DRAIN_RETRIES = 5
CALL_TIMEOUT_S = 300.0
"""A turn of the device takes seconds at most, so whoever waits so long for one waits for something that hangs."""


class Replica:
    """One replica of a stream. Number 0 owns the lineage: it alone writes snapshots, dead letters and commits."""

    def __init__(self, config: StreamConfig, number: int, threads: int, open_poller: OpenPoller = RemotePoller) -> None:
        torch.set_num_threads(threads)
        self._config, self._number = config, number
        self._phase: Phase = Phase.STARTING
        self._problem: str | None = "loads the model"
        self._snapshot_problem: str | None = None
        self._failure: str | None = None
        self._stop = threading.Event()
        self._saving: threading.Thread | None = None
        self._complete_up_to_s: float | None = None
        self._caught_up = False
        self._highwaters: Mapping[str, int] = {}
        self._poller: PollerClient | None = None
        self._pending: Future[None] | None = None
        self._tried_at_s = time.monotonic()
        self._open_poller = open_poller
        self._device = ""
        self._parts: _Parts | None = None
        self._ingest = threading.Thread(target=self._run, name="ingest", daemon=True)
        self._ingest.start()

    @property
    def _owns_lineage(self) -> bool:
        return self._number == 0

    @property
    def _ready(self) -> _Parts:
        if self._parts is None:
            raise NotReady(f"replica {self._number} is not ready: {self._failure or self._problem}")
        return self._parts

    @property
    def _client(self) -> PollerClient:
        if self._poller is None:
            raise MemstreamError("the stream has not been reached yet")
        return self._poller

    # ------------------------------------------------------------------ starting

    def _run(self) -> None:
        """The ingest thread: the one place where a failure of the stream ends up."""
        try:
            self._start()
            while not self._stop.is_set():
                self._ingest_once()
        except Exception as error:
            self._fail(error)

    def _start(self) -> None:
        config, device = self._config, device_of(self._config)
        self._device = device
        engine = load_engine(
            checkpoint_folder(config.model.name, config.model.revision), device, config.model.dtype, engine_options(config)
        )
        store = SnapshotStore(config.snapshots, config.stream)
        saver = Saver(config, store, engine, torch.device(device))
        state = self._patiently(saver.restore, "restores the latest snapshot") or StreamState.beginning({})
        if config.replicas.mode != "serve" and self._owns_lineage:
            self._patiently(saver.claim, "claims the stream")
        if self._stop.is_set():
            return
        learner = Learner(config, engine, state, lambda letter: self._client.reject(letter))
        answers = config.answers
        loop = DeviceLoop(
            engine,
            lambda: (learner.state, self._complete_up_to_s),
            share=answers.share,
            most_running=answers.most_running,
            most_waiting=answers.most_waiting,
            prefill_tokens=answers.prefill_tokens,
        )
        loop.start()
        history = History(store, engine)
        answering = Answering(config, self._number, engine, learner, loop, history, lambda: self._complete_up_to_s)
        self._parts = _Parts(engine, learner, saver, loop, answering)
        self._problem = None
        if config.replicas.mode == "serve":
            self._phase = Phase.SERVING
            self._stop.wait()

    def _patiently(self, call: Callable[[], Any], doing: str) -> Any:
        """What the store gives, as soon as it is there."""
        self._problem = doing
        while not self._stop.is_set():
            try:
                return call()
            except MemstreamError as error:
                if not error.retriable:
                    raise
                self._phase, self._problem = Phase.WAITING, f"{doing}: {error}"
                log.warning("replica %d of %s waits: %s", self._number, self._config.stream, error)
                self._stop.wait(RETRY_S)
        return None

    def _fail(self, error: Exception) -> None:
        """It cannot go on learning; what it knows it still answers from."""
        log.error("replica %d of %s stops reading", self._number, self._config.stream, exc_info=error)
        self._failure = f"{type(error).__name__}: {error}"
        self._stop.set()

    # ------------------------------------------------------------------ learning

    def _ingest_once(self) -> None:
        try:
            polled = self._poll()
        except MemstreamError as error:
            self._settle_pending()
            if not error.retriable:
                raise
            self._phase, self._problem = Phase.WAITING, str(error)
            self._stop.wait(RETRY_S)
            return
        self._phase, self._problem = Phase.RUNNING, None
        self._sees(polled)
        work = self._ready.loop.learn(self._learn(polled))
        # The device has the next batch at hand when it is through with this one; no more than one waits.
        self._settle_pending()
        self._pending = work
        if not polled.items:
            self._settle_pending()

    def _settle_pending(self) -> None:
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def _learn(self, polled: Polled) -> Generator[None, None, None]:
        """On the device's thread: what was polled, item by item."""
        learner = self._ready.learner
        for item in polled.items:
            if self._stop.is_set():
                return  # what was not learned comes again from the position
            yield from learner.learn(item)
            self._save_if_due()
        learner.note_topics(polled.topic_ids)
        self._heard(polled)
        self._save_if_due()

    def _poll(self) -> Polled:
        if self._poller is None:
            state = self._ready.learner.state
            self._poller = self._open_poller(self._config, format_positions(state.positions), self._owns_lineage, state.topic_ids)
        return self._poller.poll(self._config.replicas.poll_bytes, POLL_TIMEOUT_S)

    def _sees(self, polled: Polled) -> None:
        """How far the log goes, as soon as that is known: what was polled is not learned yet."""
        self._highwaters = format_positions(polled.highwaters)
        self._caught_up = caught_up(self._ready.learner.state.positions, polled.highwaters)

    def _heard(self, polled: Polled) -> None:
        """All that was polled is learned."""
        positions = self._ready.learner.state.positions
        self._caught_up = caught_up(positions, parse_positions(self._highwaters))
        # Everything that was in the log when this was polled is known now, whatever came since.
        if caught_up(positions, polled.highwaters) and polled.heard.issuperset(positions):
            self._complete_up_to_s = polled.at_s

    # ------------------------------------------------------------------ saving

    def _save_if_due(self) -> None:
        if not self._owns_lineage or (self._saving is not None and self._saving.is_alive()):
            return
        if self._snapshot_problem and time.monotonic() - self._tried_at_s < SAVE_RETRY_S:
            return
        last, state = self._ready.saver.last, self._ready.learner.state
        updates = state.update_number - (last.update_number if last else 0)
        # The first position of a stream that starts at the end is saved at once: a crash before that would lose what came in between.
        first = last is None and bool(state.positions) and self._config.kafka.start == "latest"
        if self._unsaved() and (first or self._config.snapshots.is_due(time.monotonic() - self._tried_at_s, updates)):
            self._saving = threading.Thread(target=self._save, name="save", daemon=True)
            self._saving.start()

    def _unsaved(self) -> bool:
        last = self._ready.saver.last
        return last is None or format_positions(self._ready.learner.state.positions) != last.position

    def _save(self) -> None:
        """The save thread. The store may be away for a while: updates go on and it is tried again when next due."""
        self._tried_at_s = time.monotonic()
        try:
            self._ready.saver.save(self._ready.learner, self._client, self._between_turns)
            self._snapshot_problem = None
            self._ready.saver.tidy()
        except Exception as error:
            log.error("no snapshot: %s", error)
            self._snapshot_problem = f"{type(error).__name__}: {error}"
            if not (isinstance(error, MemstreamError) and error.retriable):
                self._fail(error)

    def _between_turns(self, call: Callable[[], Any]) -> Any:
        return self._ready.loop.call(call).result(CALL_TIMEOUT_S)

    def drain(self) -> ReplicaStatus:
        """Finish the document, save, commit, let go of the stream. Answers go on."""
        self._stop.set()
        self._ingest.join()
        if self._failure is None and self._parts is not None and self._phase not in (Phase.SERVING, Phase.DRAINED):
            self._settle_pending()
            if self._saving is not None:
                self._saving.join()
            self._phase = Phase.DRAINING
            if self._owns_lineage and self._poller is not None:
                self._save_last()
        if self._failure is None and self._phase is not Phase.SERVING:
            self._phase = Phase.DRAINED
        if self._poller is not None:
            self._poller.close()
            self._poller = None
        return self.status()

    def close(self) -> None:
        """End the device's thread; whoever still waits for an answer is told so."""
        self._stop.set()
        if self._parts is not None:
            self._parts.loop.close()

    def _save_last(self) -> None:
        if self._unsaved():
            self._persist()

    def _persist(self, tries: int = DRAIN_RETRIES) -> None:
        """The last snapshot before the end: a store or a broker that is away for a moment is waited for."""
        try:
            self._client.renew()
            self._ready.saver.save(self._ready.learner, self._client, self._between_turns, merge=False)
        except MemstreamError as error:
            if not error.retriable or tries == 1:
                raise
            log.warning("no snapshot yet: %s", error)
            time.sleep(RETRY_S)
            self._persist(tries - 1)

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
        if self._parts is None:
            return ReplicaStatus(**common, loading=True)
        parts, state, last = self._parts, self._parts.learner.state, self._parts.saver.last
        complete_s, poller = self._complete_up_to_s, self._poller
        still = self._phase in (Phase.DRAINED, Phase.SERVING) and last is not None and last.update_number == state.update_number
        return ReplicaStatus(
            **common,
            update_number=state.update_number,
            version=version_of(state),
            position=format_positions(state.positions),
            highwater=self._highwaters,
            counts={outcome.value: count for outcome, count in state.counts.items()},
            watermark_ms=seen_watermark_ms(state),
            caught_up=self._caught_up,
            **freshness(complete_s),
            remembered_documents=len(state.ledger),
            remembered_updates=parts.engine.remembered,
            memory_tokens=parts.engine.num_tokens,
            documents_cut=state.documents_cut,
            tokens_left_out=state.tokens_left_out,
            running_answers=parts.loop.running,
            waiting_answers=parts.loop.waiting,
            answered=parts.answering.answered,
            turns={turn.value: count for turn, count in parts.loop.turns.items()},
            turn_s=parts.loop.turn_s,
            seconds={turn.value: seconds for turn, seconds in parts.loop.seconds.items()},
            epoch=last.epoch if last else None,
            epoch_age_s=time.time() - last.created_at_s if last else None,
            snapshot_problem=self._snapshot_problem,
            poller_deaths=poller.deaths if poller else 0,
            memory_sha256=last.memory_sha256 if last and still else None,
        )


@dataclass(frozen=True, slots=True, eq=False)
class _Parts:
    """What a replica has once it is ready."""

    engine: Engine
    learner: Learner
    saver: Saver
    loop: DeviceLoop
    answering: Answering
