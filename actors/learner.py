"""What a replica learns: one item of the stream after the other becomes a commit, and commits change memory and state. No threads here.

    the leader    item -> commit -> apply
    a follower            commit -> apply

ONE-STATE: memory and state change together, at document boundaries: between two turns of the device loop they always fit each other. And
they change by `apply` alone, on every replica, so what followers know is what the leader knows, bit for bit.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

from actors.carriage import carriage_of
from actors.config import StreamConfig
from actors.messages import Learnable
from model.engine import Chunks, Engine, is_poisoned
from model.errors import ModelError, UpdateFailed
from pipeline.admission import Verdict, admit, crowds_out, doomed
from pipeline.chunks import Chunked, chunk_document
from pipeline.commits import Applied, Change, Commit, Passed, Place, after
from pipeline.decode import dead_letter
from pipeline.ledger import LedgerRow
from pipeline.positions import StreamState
from pipeline.records import DeadLetter, Document, Outcome, Partition, Reason, Tombstone

log = logging.getLogger(__name__)

MOST_OUTCOMES = 10_000

MOST_FORESEEN = 64
"""Items that are looked at for what can be written ahead."""


class Learner:
    """The one writer of a memory and its state.

    Args:
        config: of the stream.
        engine: writes here and nowhere else.
        state: where to begin.
        reject: takes the dead letter of a document that the model failed on.
        generation: of the writer whose state this is; the commits that are made here bear it, see `leads_as`.
        applied: takes each commit once it is applied.
    """

    def __init__(
        self,
        config: StreamConfig,
        engine: Engine,
        state: StreamState,
        reject: Callable[[DeadLetter], None],
        generation: int = 0,
        applied: Callable[[Commit], None] = lambda commit: None,
    ) -> None:
        self._config, self._engine, self._reject, self._applied = config, engine, reject, applied
        self._carriage = carriage_of(engine)
        self._state, self._generation = state, generation
        self.outcomes: OrderedDict[tuple[Partition, int], Outcome] = OrderedDict()
        self.passes = 0
        """Chunks that went through the model in order to be learned."""
        self._failures_in_a_row = 0

    @property
    def state(self) -> StreamState:
        return self._state

    @property
    def place(self) -> Place:
        return Place(self._generation, self._state.commits)

    def leads_as(self, generation: int) -> None:
        """From here on this replica is the writer."""
        self._generation = generation

    def begin_at(self, state: StreamState, generation: int) -> None:
        """The memory was replaced by another one, of this state. Between two turns."""
        self._state, self._generation = state, generation
        self.outcomes.clear()

    def learn(self, item: Learnable, coming: Iterable[Learnable] = ()) -> Generator[None, None, Commit]:
        """Pass one item of the stream; gives way after each turn of the device.

        `coming`: what follows it, as far as that is known: the engine may write it beside this one.

        Raises:
            ModelError: too many documents in a row failed: the stream stops instead of emptying itself into dead letters.
        """
        commit = yield from self._made(item, coming)
        yield from self.apply(commit)
        return commit

    def apply(self, commit: Commit) -> Generator[None, None, None]:
        """Change memory and state by a commit, in one step; before it gives way until the memory has room.

        Raises:
            ValueError: it does not fit this state: it is another than the next one. Nothing is changed.
        """
        if commit.number != self._state.commits:
            raise ValueError(f"commit {commit.number} does not go on from {self._state.commits}")
        if commit.generation < self._generation:
            raise ValueError(f"commit {commit.number} is of writer {commit.generation}, which {self._generation} has replaced")
        yield from self._engine.room(commit.updates)
        state = after(self._state, commit.change)
        if commit.updates or commit.taken_out:
            learned = self._engine.commit(self._carriage.unpacked(commit), commit.taken_out)
            state = state.forgetting(learned.forgotten)
        self._state, self._generation = state, commit.generation
        self._remember_outcome(commit)
        self._applied(self._carriage.at_rest(commit))

    def _remember_outcome(self, commit: Commit) -> None:
        """What became of the latest records, for whoever asks soon; the ledger knows those that are remembered for longer."""
        if commit.passed is not None:
            partition, offset, outcome = commit.passed
            self.outcomes[partition, offset] = outcome
            while len(self.outcomes) > MOST_OUTCOMES:
                self.outcomes.popitem(last=False)

    def _commit(self, change: Change, **fields: Any) -> Commit:
        return Commit(number=self._state.commits, generation=self._generation, change=change, **fields)

    def _made(self, item: Learnable, coming: Iterable[Learnable]) -> Generator[None, None, Commit]:
        if isinstance(item, Document):
            return (yield from self._document(item, coming))
        if isinstance(item, Tombstone):
            return self._deletion(item)
        if isinstance(item, DeadLetter):
            passed = Passed(partition=item.record.partition, end=item.record.end, outcome=Outcome.DEAD_LETTER)
            return self._commit(passed, letter=item)
        return self._commit(item)

    # ------------------------------------------------------------------ documents

    def _document(self, document: Document, coming: Iterable[Learnable]) -> Generator[None, None, Commit]:
        verdict = self._admitted(document)
        if verdict.document is None:
            return self._passed(document, verdict.outcome)
        chunked = self._chunked(verdict.document)
        if not chunked.chunks:
            return self._refused(document, Reason.EMPTY_TEXT, "the text has no tokens")
        if self._crowds_out(verdict, len(chunked.chunks)):
            return self._passed(document, Outcome.FILTERED)
        try:
            prepared = yield from self._prepared(chunked.token_ids, coming)
        except (UpdateFailed, RuntimeError) as error:
            if is_poisoned(error):
                raise  # nothing that this process does can be told from a document's fault any more
            return self._failed(document, error)
        self._failures_in_a_row = 0
        first, replaced = self._state.update_number, verdict.replaces
        row = LedgerRow.of(
            verdict.document,
            range(first, first + len(prepared)),
            tokens=chunked.tokens_total - chunked.tokens_left_out,
            tokens_left_out=chunked.tokens_left_out,
        )
        # The new blocks come and those of the document that this one replaces go, in one step.
        return self._commit(
            Applied(row=row, replaces=replaced.document_id if replaced else None),
            taken_out=self._taken_out([replaced] if replaced else []),
            **self._carriage.packed(prepared, first),
        )

    def _admitted(self, document: Document) -> Verdict:
        return admit(document, self._state.ledger, self._config.admission)

    def _crowds_out(self, verdict: Verdict, updates: int) -> bool:
        return crowds_out(verdict, updates, self._state.ledger, self._config.admission, self._engine.capacity)

    def _chunked(self, document: Document) -> Chunked:
        return chunk_document(
            document,
            self._engine.encode,
            self._config.chunks,
            update_tokens=self._engine.update_tokens,
            most_updates=self._engine.most_updates,
            min_tokens=self._engine.min_tokens,
        )

    def _foreseen(self, coming: Iterable[Learnable]) -> Iterator[Chunks]:
        """What is to be written next, as things stand: each is admitted and cut again when its turn comes, and fails then if it does."""
        for item in islice(coming, MOST_FORESEEN):
            if isinstance(item, Document):
                try:
                    verdict = self._admitted(item)
                    chunks = () if verdict.document is None else self._chunked(verdict.document).token_ids
                except Exception:  # the failure boundary of a look ahead
                    log.warning("%s cannot be written ahead", item.document_id, exc_info=True)
                    return
                if chunks and not self._crowds_out(verdict, len(chunks)):
                    yield chunks

    def _passed(self, document: Document, outcome: Outcome) -> Commit:
        record, time_ms = document.record, document.event_time_ms
        return self._commit(Passed(partition=record.partition, end=record.end, outcome=outcome, event_time_ms=time_ms))

    def _deletion(self, tombstone: Tombstone) -> Commit:
        rows = doomed(tombstone, self._state.ledger) if self._engine.forgets else ()
        record, outcome = tombstone.record, Outcome.DELETED if rows else Outcome.FILTERED
        removed = tuple(row.document_id for row in rows)
        passed = Passed(partition=record.partition, end=record.end, outcome=outcome, removed=removed)
        return self._commit(passed, taken_out=self._taken_out(rows))

    def _taken_out(self, rows: Sequence[LedgerRow]) -> tuple[int, ...]:
        """The updates of some documents, where this memory can take them out: a pool lets them fade."""
        return tuple(update for row in rows for update in row.updates) if self._engine.forgets else ()

    def _prepared(self, chunks: Chunks, coming: Iterable[Learnable], tries: int = 2) -> Generator[None, None, Any]:
        """All chunks or none. RuntimeError is torch's: out of memory, which may pass, or worse."""
        self.passes += len(chunks)
        try:
            return (yield from self._engine.prepare(chunks, self._foreseen(coming)))
        except (UpdateFailed, RuntimeError) as error:
            if tries == 1 or is_poisoned(error):
                raise
        return (yield from self._prepared(chunks, (), tries - 1))  # with nothing beside it

    def _failed(self, document: Document, error: Exception) -> Commit:
        self._failures_in_a_row += 1
        if self._failures_in_a_row >= self._config.replicas.model_errors_in_a_row:
            raise ModelError(f"{self._failures_in_a_row} documents in a row failed, the last {document.document_id}: {error}") from error
        log.warning("%s could not be learned: %s", document.document_id, error)
        return self._refused(document, Reason.UPDATE_FAILED, str(error))

    def _refused(self, document: Document, reason: Reason, detail: str) -> Commit:
        letter = dead_letter(document.record, reason, detail)
        self._reject(letter)
        passed = Passed(partition=document.partition, end=document.record.end, outcome=Outcome.DEAD_LETTER)
        return self._commit(passed, letter=letter)
