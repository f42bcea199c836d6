"""What a replica learns: one item of the stream after the other into pool and state, as a whole or not at all. No threads, no Kafka.

ONE-STATE: readers see (pool version, state) change together, at document boundaries.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from typing import TypeVar

import torch

from actors.config import StreamConfig
from actors.messages import Learnable
from model.errors import ModelError, UpdateFailed
from model.pool import MemoryPool, PoolView, Version
from pipeline.admission import admit
from pipeline.chunks import chunk_document
from pipeline.decode import dead_letter
from pipeline.fetched import Gap, Joined
from pipeline.positions import StreamState
from pipeline.records import Chunk, DeadLetter, Document, Outcome, Reason

log = logging.getLogger(__name__)
T = TypeVar("T")


class Learner:
    """The one writer of a pool and its state.

    Args:
        config: of the stream.
        pool: written here and nowhere else.
        encode: the tokenizer, with control tokens switched off: a feed must not be able to write them.
        state: where to begin.
        reject: takes the dead letter of a document that the model failed on.
    """

    def __init__(
        self,
        config: StreamConfig,
        pool: MemoryPool,
        encode: Callable[[str], list[int]],
        state: StreamState,
        reject: Callable[[DeadLetter], None],
    ) -> None:
        self._config, self._pool, self._encode, self._reject = config, pool, encode, reject
        self._state = state
        self._together = threading.Lock()
        self._failures_in_a_row = 0

    @property
    def state(self) -> StreamState:
        return self._state

    def learn(self, item: Learnable) -> None:
        """Pass one item of the stream.

        Raises:
            ModelError: too many documents in a row failed: the stream stops instead of emptying itself into dead letters.
        """
        if isinstance(item, Document):
            self._learn_document(item)
        elif isinstance(item, DeadLetter):
            self._state = self._state.passed(item.record.partition, item.record.end, Outcome.DEAD_LETTER)
        elif isinstance(item, Gap):
            self._state = self._state.gap(item.partition, item.first, item.end)
        elif isinstance(item, Joined):
            self._state = self._state.joined(item.partition, item.position)
        else:
            self._state = self._state.rewound(item.partition, item.position)

    def note_topics(self, topic_ids: Mapping[str, str]) -> None:
        """Which topics the positions belong to, once everything that was read of them has been passed."""
        if topic_ids != self._state.topic_ids:
            self._state = replace(self._state, topic_ids=dict(topic_ids))

    def _learn_document(self, document: Document) -> None:
        verdict = admit(document, self._state.ledger, self._config.admission)
        if verdict.outcome is not Outcome.APPLIED:
            self._state = self._state.passed(document.partition, document.record.end, verdict.outcome, document.event_time_ms)
            return
        sizes = self._pool.capacity, self._pool.block
        chunks = chunk_document(document, self._encode, self._config.chunks, *sizes).chunks
        if not chunks:
            self._refuse(document, Reason.EMPTY_TEXT, "the text has no tokens")
            return
        try:
            updates = self._update(chunks)
        except (UpdateFailed, RuntimeError) as error:
            self._failed(document, error)
            return
        self._failures_in_a_row = 0
        state = self._state.applied(document, updates).remembering(self._pool.alive_updates())
        with self._together:
            self._pool.publish()
            self._state = state

    def _update(self, chunks: Sequence[Chunk], tries: int = 2) -> list[int]:
        """All chunks or none. RuntimeError is torch's: out of memory, which may pass, or worse."""
        try:
            return [self._pool.update(torch.tensor(chunk.token_ids), publish=False) for chunk in chunks]
        except (UpdateFailed, RuntimeError):
            self._pool.rollback()
            if tries == 1:
                raise
        return self._update(chunks, tries - 1)

    def _failed(self, document: Document, error: Exception) -> None:
        self._failures_in_a_row += 1
        if self._failures_in_a_row >= self._config.replicas.model_errors_in_a_row:
            raise ModelError(f"{self._failures_in_a_row} documents in a row failed, the last {document.document_id}: {error}") from error
        log.warning("%s could not be learned: %s", document.document_id, error)
        self._refuse(document, Reason.UPDATE_FAILED, str(error))

    def _refuse(self, document: Document, reason: Reason, detail: str) -> None:
        self._reject(dead_letter(document.record, reason, detail))
        self._state = self._state.passed(document.partition, document.record.end, Outcome.DEAD_LETTER)

    def read(self) -> AbstractContextManager[tuple[PoolView, StreamState]]:
        """One document boundary to answer from: what readers see of the pool, and the state of that moment."""
        return self._at_boundary(self._pool.read())

    def hold(self) -> AbstractContextManager[tuple[Version, StreamState]]:
        """One document boundary to save: it stays whole until the block ends."""
        return self._at_boundary(self._pool.hold())

    @contextmanager
    def _at_boundary(self, taking: AbstractContextManager[T]) -> Iterator[tuple[T, StreamState]]:
        with ExitStack() as held:
            with self._together:
                taken, state = held.enter_context(taking), self._state
            yield taken, state
