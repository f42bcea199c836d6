"""A replica: one model, one memory, one poller; it learns its stream, answers questions meanwhile, and is saved.

    thread        consumes                    produces                          waits for
    ingest        poller.poll()               memory and state                  the device's turn; the broker
    save          a staged memory and state   snapshots                         dead letters acknowledged, the store
    answer (n)    questions                   answers                           the device's turn
    status        the last state              ReplicaStatus                     nothing

The class is plain; `actors.remote_replica` puts it into a process. `__init__` restores: a restart by Ray runs nothing else.
"""

from __future__ import annotations

import logging
import os
import platform
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from actors.config import StreamConfig
from actors.engines import device_of, engine_options
from actors.handles import RemotePoller
from actors.learner import Learner
from actors.messages import Answer, Filter, Knowledge, Phase, Polled, Question, ReplicaStatus, Source
from actors.poller import PollerClient
from actors.saver import Saver
from model.catalog import checkpoint_folder
from model.engine import Allowed, Asking, Completion, Read
from model.loading import load_engine
from pipeline.errors import MemstreamError
from pipeline.ledger import Ledger
from pipeline.positions import StreamState, caught_up, format_positions
from pipeline.snapshots.writer import SnapshotStore

log = logging.getLogger(__name__)

OpenPoller = Callable[[StreamConfig, Mapping[str, int], bool, Mapping[str, str]], PollerClient]
POLL_TIMEOUT_S = 0.5
RETRY_S = 2.0
SAVE_RETRY_S = 10.0
DRAIN_RETRIES = 5


class Replica:
    """One replica of a stream. Number 0 owns the lineage: it alone writes snapshots, dead letters and commits."""

    def __init__(self, config: StreamConfig, number: int, threads: int, open_poller: OpenPoller = RemotePoller) -> None:
        torch.set_num_threads(threads)
        self._config, self._number = config, number
        self._phase: Phase = Phase.STARTING
        self._problem: str | None = None
        self._snapshot_problem: str | None = None
        self._failure: str | None = None
        self._stop = threading.Event()
        self._saving: threading.Thread | None = None
        self._complete_up_to_s: float | None = None
        self._caught_up = False
        self._highwaters: Mapping[str, int] = {}
        self._running_answers = 0
        self._places = threading.BoundedSemaphore(config.replicas.max_answers)
        self._poller: PollerClient | None = None

        device = device_of(config)
        self._engine = load_engine(checkpoint_folder(config.model.name), device, config.model.dtype, engine_options(config))
        self._device = torch.device(device)
        self._saver = Saver(config, SnapshotStore(config.snapshots, config.stream), self._engine, self._device)
        state = self._saver.restore() or StreamState.beginning({})
        self._learner = Learner(config, self._engine, state, lambda letter: self._client.reject(letter))
        self._tried_at_s = time.monotonic()
        self._open_poller = open_poller
        self._ingest: threading.Thread | None = None
        if config.replicas.mode == "serve":
            self._phase = Phase.SERVING
        else:
            if self._owns_lineage:
                self._saver.claim()
            self._ingest = threading.Thread(target=self._run, name="ingest", daemon=True)
            self._ingest.start()

    @property
    def _owns_lineage(self) -> bool:
        return self._number == 0

    @property
    def _client(self) -> PollerClient:
        if self._poller is None:
            raise MemstreamError("the stream has not been reached yet")
        return self._poller

    # ------------------------------------------------------------------ learning

    def _run(self) -> None:
        """The ingest thread: the one place where a failure of the stream ends up."""
        try:
            while not self._stop.is_set():
                self._ingest_once()
        except Exception as error:
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        """It cannot go on learning; what it knows it still answers from."""
        log.error("replica %d of %s stops reading", self._number, self._config.stream, exc_info=error)
        self._failure = f"{type(error).__name__}: {error}"
        self._stop.set()

    def _ingest_once(self) -> None:
        try:
            polled = self._poll()
        except MemstreamError as error:
            if not error.retriable:
                raise
            self._phase, self._problem = Phase.WAITING, str(error)
            self._stop.wait(RETRY_S)
            return
        self._phase, self._problem = Phase.RUNNING, None
        for item in polled.items:
            if self._stop.is_set():
                return  # what was not learned comes again from the position
            self._learner.learn(item)
            self._save_if_due()
        self._learner.note_topics(polled.topic_ids)
        self._heard(polled)
        self._save_if_due()

    def _poll(self) -> Polled:
        if self._poller is None:
            state = self._learner.state
            self._poller = self._open_poller(self._config, format_positions(state.positions), self._owns_lineage, state.topic_ids)
        return self._poller.poll(self._config.replicas.poll_bytes, POLL_TIMEOUT_S)

    def _heard(self, polled: Polled) -> None:
        positions = self._learner.state.positions
        self._highwaters = format_positions(polled.highwaters)
        self._caught_up = caught_up(positions, polled.highwaters)
        if self._caught_up and polled.heard.issuperset(positions):
            self._complete_up_to_s = polled.at_s

    # ------------------------------------------------------------------ saving

    def _save_if_due(self) -> None:
        if not self._owns_lineage or (self._saving is not None and self._saving.is_alive()):
            return
        if self._snapshot_problem and time.monotonic() - self._tried_at_s < SAVE_RETRY_S:
            return
        last, state = self._saver.last, self._learner.state
        updates = state.update_number - (last.update_number if last else 0)
        # The first position of a stream that starts at the end is saved at once: a crash before that would lose what came in between.
        first = last is None and bool(state.positions) and self._config.kafka.start == "latest"
        if self._unsaved() and (first or self._config.snapshots.is_due(time.monotonic() - self._tried_at_s, updates)):
            self._saving = threading.Thread(target=self._save, name="save", daemon=True)
            self._saving.start()

    def _unsaved(self) -> bool:
        last = self._saver.last
        return last is None or format_positions(self._learner.state.positions) != last.position

    def _save(self) -> None:
        """The save thread. The store may be away for a while: updates go on and it is tried again when next due."""
        self._tried_at_s = time.monotonic()
        try:
            self._saver.save(self._learner, self._client)
            self._snapshot_problem = None
        except Exception as error:
            log.error("no snapshot: %s", error)
            self._snapshot_problem = f"{type(error).__name__}: {error}"
            if not (isinstance(error, MemstreamError) and error.retriable):
                self._fail(error)

    def drain(self) -> ReplicaStatus:
        """Finish the document, save, commit, let go of the stream. Answers go on."""
        self._stop.set()
        if self._ingest is not None:
            self._ingest.join()
        if self._saving is not None:
            self._saving.join()
        if self._failure is None and self._phase not in (Phase.SERVING, Phase.DRAINED):
            self._phase = Phase.DRAINING
            if self._owns_lineage and self._poller is not None:
                self._save_last()
            self._phase = Phase.DRAINED
        if self._poller is not None:
            self._poller.close()
            self._poller = None
        return self.status()

    def _save_last(self) -> None:
        if self._unsaved():
            self._persist()

    def _persist(self, tries: int = DRAIN_RETRIES) -> None:
        """The last snapshot before the end: a store or a broker that is away for a moment is waited for."""
        try:
            self._client.renew()
            self._saver.save(self._learner, self._client)
        except MemstreamError as error:
            if not error.retriable or tries == 1:
                raise
            log.warning("no snapshot yet: %s", error)
            time.sleep(RETRY_S)
            self._persist(tries - 1)

    # ------------------------------------------------------------------ answering

    def answer(self, question: Question) -> Answer:
        """Answer from exactly one version of memory (READ-ONE-VERSION).

        Raises:
            ValueError: the prompt is empty or too long, or asks for what this memory cannot do.
            VersionEvicted: (token pools) overtaken by updates again and again: there is too little room for this update rate.
        """
        wanted, most = question.max_new_tokens or 0, self._config.answers.most_new_tokens
        if not 0 <= wanted <= most:
            raise ValueError(f"{wanted} new tokens were asked for; at most {most} are given (answers.most_new_tokens)")
        tokens, limit = self._engine.prompt_tokens(question.messages), self._config.answers.max_prompt_tokens
        if not 0 < tokens <= limit:
            raise ValueError(f"the prompt has {tokens} tokens; it must have 1 to {limit} (answers.max_prompt_tokens)")
        started = time.monotonic()
        complete_s = self._complete_up_to_s  # before anything is read: an answer never claims to know more than it does
        with self._counted():
            done, (version, state) = self._engine.answer(question.messages, self._asking(question), self._boundary)
        return Answer(
            text=done.text,
            finish_reason=done.finish_reason,
            prompt_tokens=done.prompt_tokens,
            completion_tokens=done.completion_tokens,
            knowledge=self._knowledge(version, state, complete_s, done),
            seconds=time.monotonic() - started,
        )

    @contextmanager
    def _boundary(self) -> Iterator[tuple[int, StreamState]]:
        with self._learner.boundary() as state:
            yield self._engine.version, state

    def _asking(self, question: Question) -> Asking:
        only = question.only
        if not only.empty and not self._engine.forgets:
            raise ValueError("this model reads its whole memory at once: answers cannot be kept to some documents")
        return Asking(
            limit=question.max_new_tokens or self._config.answers.max_new_tokens,
            temperature=question.temperature,
            top_p=question.top_p,
            seed=question.seed,
            allowed=None if only.empty else self._allowed(only),
            most_blocks=question.max_blocks,
        )

    def _allowed(self, only: Filter) -> Allowed:
        """A mask over updates: which of them belong to documents that the filter admits."""
        rows = [row for row in self._learner.state.ledger if only.admits(row)]
        updates = np.array([update for row in rows for update in row.updates], dtype=np.int64)
        return lambda numbers: np.isin(numbers, updates)

    @contextmanager
    def _counted(self) -> Iterator[None]:
        self._running_answers += 1
        try:
            with self._places:
                yield
        finally:
            self._running_answers -= 1

    def _knowledge(self, version: int, state: StreamState, complete_s: float | None, done: Completion) -> Knowledge:
        return Knowledge(
            stream=self._config.stream,
            replica=self._number,
            version=version,
            update_number=state.update_number,
            position=format_positions(state.positions),
            watermark_ms=state.watermark_ms,
            applied=state.counts["applied"],  # type: ignore[index]
            **freshness(complete_s),
            grounded=done.grounded,
            sources=_sources(done.read, state.ledger),
        )

    # ------------------------------------------------------------------ watching

    def status(self) -> ReplicaStatus:
        """How it stands; waits for nothing."""
        state, last = self._learner.state, self._saver.last
        complete_s = self._complete_up_to_s
        still = self._phase in (Phase.DRAINED, Phase.SERVING) and last is not None and last.update_number == state.update_number
        return ReplicaStatus(
            replica=self._number,
            phase=Phase.FAILED if self._failure else self._phase,
            problem=self._failure or self._problem,
            pid=os.getpid(),
            node=platform.node(),
            device=str(self._device),
            update_number=state.update_number,
            version=self._engine.version,
            position=format_positions(state.positions),
            highwater=self._highwaters,
            counts={outcome.value: count for outcome, count in state.counts.items()},
            watermark_ms=state.watermark_ms,
            caught_up=self._caught_up,
            **freshness(complete_s),
            remembered_documents=len(state.ledger),
            remembered_updates=self._engine.remembered,
            memory_tokens=self._engine.num_tokens,
            documents_cut=state.documents_cut,
            tokens_left_out=state.tokens_left_out,
            running_answers=self._running_answers,
            epoch=last.epoch if last else None,
            epoch_age_s=time.time() - last.created_at_s if last else None,
            snapshot_problem=self._snapshot_problem,
            memory_sha256=last.memory_sha256 if last and still else None,
        )


def freshness(complete_s: float | None) -> dict[str, Any]:
    """The two fields that say when the position was last known to be at the log's end."""
    if complete_s is None:
        return {"complete_up_to_ms": None, "staleness_s": None}
    return {"complete_up_to_ms": int(complete_s * 1000), "staleness_s": max(0.0, time.time() - complete_s)}


def _sources(read: Sequence[Read], ledger: Ledger) -> tuple[Source, ...]:
    """The documents of the blocks that were read, each once, with the best of its blocks' scores."""
    found: dict[str, Source] = {}
    for each in read:
        row = ledger.owner(each.update)
        if row is not None:
            found.setdefault(row.document_id, Source.of(row, each.score))
    return tuple(found.values())
