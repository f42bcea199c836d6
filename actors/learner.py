"""What a replica learns: one item of the stream after the other into memory and state, as a whole or not at all. No threads, no Kafka.

ONE-STATE: memory and state change together, at document boundaries: between two turns of the device loop they always fit each other.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from actors.config import StreamConfig
from actors.messages import Learnable
from model.engine import Engine
from model.errors import ModelError, UpdateFailed
from pipeline.admission import Verdict, admit, crowds_out, doomed
from pipeline.chunks import Chunked, chunk_document
from pipeline.decode import dead_letter
from pipeline.fetched import Gap, Joined
from pipeline.ledger import LedgerRow
from pipeline.positions import StreamState
from pipeline.records import Chunk, DeadLetter, Document, Outcome, Partition, Reason, Record, Tombstone

log = logging.getLogger(__name__)

MOST_OUTCOMES = 10_000


class Learner:
    """The one writer of a memory and its state.

    Args:
        config: of the stream.
        engine: writes here and nowhere else.
        state: where to begin.
        reject: takes the dead letter of a document that the model failed on.
    """

    def __init__(self, config: StreamConfig, engine: Engine, state: StreamState, reject: Callable[[DeadLetter], None]) -> None:
        self._config, self._engine, self._reject = config, engine, reject
        self._state = state
        self.outcomes: OrderedDict[tuple[Partition, int], Outcome] = OrderedDict()
        self._failures_in_a_row = 0

    @property
    def state(self) -> StreamState:
        return self._state

    def learn(self, item: Learnable) -> Generator[None, None, None]:
        """Pass one item of the stream; gives way after each turn of the device.

        Raises:
            ModelError: too many documents in a row failed: the stream stops instead of emptying itself into dead letters.
        """
        before = self._state.counts
        yield from self._learn(item)
        if isinstance(item, Document | Tombstone | DeadLetter):
            self._remember_outcome(item.record, before)

    def _remember_outcome(self, record: Record, before: Mapping[Outcome, int]) -> None:
        """What became of the latest records, for whoever asks soon; the ledger knows those that are remembered for longer."""
        changed = [outcome for outcome, count in self._state.counts.items() if count != before.get(outcome, 0)]
        if changed:
            self.outcomes[record.partition, record.offset] = changed[0]
            while len(self.outcomes) > MOST_OUTCOMES:
                self.outcomes.popitem(last=False)

    def _learn(self, item: Learnable) -> Generator[None, None, None]:
        if isinstance(item, Document):
            yield from self._learn_document(item)
        elif isinstance(item, Tombstone):
            self._delete(item)
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

    # ------------------------------------------------------------------ documents

    def _learn_document(self, document: Document) -> Generator[None, None, None]:
        verdict = admit(document, self._state.ledger, self._config.admission)
        if verdict.document is None:
            self._state = self._state.passed(document.partition, document.record.end, verdict.outcome, document.event_time_ms)
            return
        chunked = chunk_document(
            verdict.document,
            self._engine.encode,
            self._config.chunks,
            update_tokens=self._engine.update_tokens,
            most_updates=self._engine.most_updates,
            min_tokens=self._engine.min_tokens,
        )
        if not chunked.chunks:
            self._refuse(document, Reason.EMPTY_TEXT, "the text has no tokens")
            return
        if crowds_out(verdict, len(chunked.chunks), self._state.ledger, self._config.admission, self._engine.capacity):
            self._state = self._state.passed(document.partition, document.record.end, Outcome.FILTERED, document.event_time_ms)
            return
        try:
            prepared = yield from self._prepared(chunked.chunks)
        except (UpdateFailed, RuntimeError) as error:
            self._failed(document, error)
            return
        self._failures_in_a_row = 0
        self._commit(verdict, verdict.document, chunked, prepared)

    def _commit(self, verdict: Verdict, document: Document, chunked: Chunked, prepared: Any) -> None:
        """The new blocks come and those of the document that this one replaces go, in one step."""
        replaced = verdict.replaces
        learned = self._engine.commit(prepared, self._taken_out([replaced] if replaced else []))
        state = self._state.applied(
            document,
            learned.updates,
            tokens=chunked.tokens_total - chunked.tokens_left_out,
            tokens_left_out=chunked.tokens_left_out,
            replaces=replaced.document_id if replaced else None,
        )
        self._state = state.forgetting(learned.forgotten)

    def _delete(self, tombstone: Tombstone) -> None:
        rows = doomed(tombstone, self._state.ledger) if self._engine.forgets else ()
        record = tombstone.record
        if rows:
            self._engine.commit((), self._taken_out(rows))
            self._state = self._state.deleted(record, [row.document_id for row in rows])
        else:
            self._state = self._state.passed(record.partition, record.end, Outcome.FILTERED)

    def _taken_out(self, rows: Sequence[LedgerRow]) -> tuple[int, ...]:
        """The updates of some documents, where this memory can take them out: a pool lets them fade."""
        return tuple(update for row in rows for update in row.updates) if self._engine.forgets else ()

    def _prepared(self, chunks: Sequence[Chunk], tries: int = 2) -> Generator[None, None, Any]:
        """All chunks or none. RuntimeError is torch's: out of memory, which may pass, or worse."""
        try:
            return (yield from self._engine.prepare([chunk.token_ids for chunk in chunks]))
        except (UpdateFailed, RuntimeError):
            if tries == 1:
                raise
        return (yield from self._prepared(chunks, tries - 1))

    def _failed(self, document: Document, error: Exception) -> None:
        self._failures_in_a_row += 1
        if self._failures_in_a_row >= self._config.replicas.model_errors_in_a_row:
            raise ModelError(f"{self._failures_in_a_row} documents in a row failed, the last {document.document_id}: {error}") from error
        log.warning("%s could not be learned: %s", document.document_id, error)
        self._refuse(document, Reason.UPDATE_FAILED, str(error))

    def _refuse(self, document: Document, reason: Reason, detail: str) -> None:
        self._reject(dead_letter(document.record, reason, detail))
        self._state = self._state.passed(document.partition, document.record.end, Outcome.DEAD_LETTER)
