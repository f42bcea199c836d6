"""From a question to the device, and from the device's events to an answer with its sources and freshness."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import replace
from queue import SimpleQueue
from typing import Any, Protocol

import numpy as np

from actors import device_loop
from actors.config import StreamConfig
from actors.device_loop import DeviceLoop, Event, Request
from actors.errors import NotKnownYet
from actors.history import History, Moment
from actors.learner import Learner
from actors.messages import (
    Answer,
    Begun,
    Choice,
    DocumentsPage,
    DocumentsQuery,
    Fate,
    Filter,
    Knowledge,
    Piece,
    Question,
    Remembered,
    Source,
    Token,
    Told,
)
from model.conversation import Prompt
from model.engine import Allowed, Asking, Completion, Engine, Logprob, Read
from pipeline.ledger import Ledger
from pipeline.names import same_name
from pipeline.positions import StreamState, format_positions, parse_positions
from pipeline.records import Outcome, Partition

Emit = Callable[[Told | Exception], None]

MOST_CHARS_A_TOKEN = 32
"""No tokenizer's words are longer on average, white space and rows of dashes apart."""


class Asked(Protocol):
    """What can be asked and told that nobody waits any more: a replica."""

    def ask(self, question: Question, emit: Emit) -> Request: ...

    def cancel(self, request: Request) -> None: ...


async def told_by(replica: Asked, question: Question, begun: Callable[[Request], Any] | None = None) -> AsyncGenerator[Told, None]:
    """The events of an answer, as they come; closed before its end, it is cancelled. `begun` gets the request. Raises what `ask` does."""
    loop, told = asyncio.get_running_loop(), asyncio.Queue[Told | Exception]()

    def tell(each: Told | Exception) -> None:
        loop.call_soon_threadsafe(told.put_nowait, each)

    request = await asyncio.to_thread(replica.ask, question, tell)
    try:
        if begun is not None:
            begun(request)
        while True:
            each = await told.get()
            if isinstance(each, Exception):
                raise each
            yield each
            if isinstance(each, Answer):
                return
    finally:
        replica.cancel(request)


class Answering:
    """The asking side of a replica; its methods may be called from any thread.

    Args:
        number: of the replica.
        complete_up_to_s: when the position was last known to be at the log's end; None: never.
    """

    def __init__(
        self,
        config: StreamConfig,
        number: int,
        engine: Engine,
        learner: Learner,
        loop: DeviceLoop,
        history: History,
        complete_up_to_s: Callable[[], float | None],
    ) -> None:
        self._config, self._number, self._engine, self._learner = config, number, engine, learner
        self._loop, self._history, self._complete_up_to_s = loop, history, complete_up_to_s
        self.answered = 0

    # ------------------------------------------------------------------ answering

    def ask(self, question: Question, emit: Emit) -> Request:
        """Put a question to the device; `emit` is told what becomes of it, the last time with an `Answer` or an error. It must not wait.

        READ-ONE-VERSION: an answer is given from exactly one version of memory.

        Raises:
            ValueError: the prompt is empty or too long, or asks for what this memory cannot do.
            NoSuchTime: as_of names a snapshot that there is not.
            Busy: too many are waiting.
        """
        prompt, timeout_s = self._prompt(question), question.timeout_s or self._config.answers.timeout_s
        moment = self._history.at(question.demand) if question.demand.past else None
        asking = self._asking(question, self._learner.state if moment is None else moment.state)
        now_s = time.monotonic()
        request = Request(
            prompt=prompt,
            askings=[replace(asking, seed=None if asking.seed is None else asking.seed + number) for number in range(question.answers)],
            emit=_Telling(self, emit, moment),
            deadline_s=now_s + timeout_s,
            ready_by_s=now_s + min(question.demand.wait_s, timeout_s),
            memory=None if moment is None else moment.memory,
            known=None if moment is None else lambda: (moment.state, None),
        )
        if question.demand.at_least or question.demand.max_staleness_s is not None:
            request.ready = lambda: self._missing(question) is None
            request.not_ready = lambda: NotKnownYet(self._missing(question) or "it was not known in time")
        self._loop.ask(request)
        return request

    def cancel(self, request: Request) -> None:
        """Nobody waits for the answer any more."""
        self._loop.cancel(request)

    def answer(self, question: Question) -> Answer:
        """`ask`, and wait for the whole answer."""
        told: SimpleQueue[Told | Exception] = SimpleQueue()
        self.ask(question, told.put)
        while True:
            each = told.get()
            if isinstance(each, Answer):
                return each
            if isinstance(each, Exception):
                raise each

    def _prompt(self, question: Question) -> Prompt:
        wanted, answers = question.max_new_tokens or 0, self._config.answers
        if not 0 <= wanted <= answers.most_new_tokens:
            raise ValueError(f"{wanted} new tokens were asked for; at most {answers.most_new_tokens} are given (answers.most_new_tokens)")
        if not 1 <= question.answers <= answers.most_running:
            raise ValueError(
                f"{question.answers} answers were asked for; 1 to {answers.most_running} are given at once (answers.most_running)"
            )
        engine = self._engine
        chars = len(question.text or "") + sum(len(message["content"]) for message in question.messages)
        if chars > answers.max_prompt_tokens * MOST_CHARS_A_TOKEN:  # before it is cut into tokens, which takes time
            raise ValueError(f"the prompt has {chars} characters, more than {answers.max_prompt_tokens} tokens (answers.max_prompt_tokens)")
        prompt = engine.compose(question.messages) if question.text is None else engine.plain(question.text)
        tokens, limit = len(prompt.tokens), answers.max_prompt_tokens
        if not 0 < tokens <= limit:
            raise ValueError(f"the prompt has {tokens} tokens; it must have 1 to {limit} (answers.max_prompt_tokens)")
        return prompt

    def _missing(self, question: Question) -> str | None:
        """What the question demands and this replica does not know; None: it knows enough."""
        positions = self._learner.state.positions
        for partition, offset in parse_positions(question.demand.at_least).items():
            if positions.get(partition, 0) <= offset:
                return f"{partition} has been read up to {positions.get(partition, 0)}, not beyond {offset}"
        most_s, complete_s = question.demand.max_staleness_s, self._complete_up_to_s()
        if most_s is not None and (complete_s is None or time.time() - complete_s > most_s):
            age = "never yet" if complete_s is None else f"{time.time() - complete_s:.1f} s ago"
            return f"the position was last at the log's end {age}; {most_s:g} s are demanded"
        return None

    def _asking(self, question: Question, state: StreamState) -> Asking:
        only = question.only
        if not only.empty and not self._engine.forgets:
            raise ValueError("this model reads its whole memory at once: answers cannot be kept to some documents")
        return Asking(
            limit=question.max_new_tokens or self._config.answers.max_new_tokens,
            temperature=question.temperature,
            top_p=question.top_p,
            top_k=question.top_k,
            repetition_penalty=question.repetition_penalty,
            seed=question.seed,
            stop=question.stop,
            top_logprobs=question.top_logprobs,
            allowed=None if only.empty else self._allowed(only, state),
            most_blocks=question.max_blocks,
        )

    def _allowed(self, only: Filter, state: StreamState) -> Allowed:
        """A mask over updates: which of them belong to documents that the filter admits."""
        updates = only.updates(state.ledger)
        return lambda numbers: np.isin(numbers, updates)

    def told(self, event: Event, begun: tuple[float, Any], moment: Moment | None) -> Told | Exception | None:
        """An event of the loop as it is told outside."""
        started_s, known = begun
        if isinstance(event, device_loop.Piece):
            return Piece(index=event.index, text=event.text, tokens=self._tokens(event.logprobs))
        if isinstance(event, device_loop.Failed):
            return event.error
        if isinstance(event, device_loop.Begun):
            return Begun(knowledge=self._knowledge(known, moment, ()))
        self.answered += 1
        choices = tuple(
            Choice(
                text=done.text,
                finish_reason=done.finish_reason,
                completion_tokens=done.completion_tokens,
                tokens=self._tokens(done.logprobs),
            )
            for done in event.completions
        )
        return Answer(
            choices=choices,
            prompt_tokens=event.completions[0].prompt_tokens,
            knowledge=self._knowledge(known, moment, event.completions),
            seconds=time.monotonic() - started_s,
        )

    def _tokens(self, logprobs: Sequence[Logprob]) -> tuple[Token, ...]:
        text = self._engine.decode_tokens
        return tuple(
            Token(text=text([each.token]), logprob=each.logprob, top=tuple((text([token]), value) for token, value in each.top))
            for each in logprobs
        )

    def _knowledge(self, known: tuple[StreamState, float | None], moment: Moment | None, done: Sequence[Completion]) -> Knowledge:
        state, complete_s = known
        grounded = [each.grounded for each in done if each.grounded is not None]
        return Knowledge(
            stream=self._config.stream,
            replica=self._number,
            version=version_of(state),
            update_number=state.update_number,
            position=format_positions(state.positions),
            watermark_ms=seen_watermark_ms(state),
            applied=state.counts.get(Outcome.APPLIED, 0),
            **freshness(complete_s),
            grounded=any(grounded) if grounded else None,
            sources=_sources([read for each in done for read in each.read], state.ledger),
            epoch=None if moment is None else moment.epoch,
        )

    # ------------------------------------------------------------------ what it remembers

    def documents(self, query: DocumentsQuery) -> DocumentsPage:
        """Remembered documents, the newest learned first."""
        words, source, rows = query.text.casefold(), same_name(query.source), tuple(self._learner.state.ledger)
        alike = {name for name in {row.source for row in rows} if not source or same_name(name) == source}
        found = [
            row
            for row in reversed(rows)
            if row.source in alike
            and (not words or any(words in (text or "").casefold() for text in (row.title, row.source, row.document_id)))
        ]
        page = found[query.offset : query.offset + query.limit]
        return DocumentsPage(documents=tuple(map(Remembered.of, page)), total=len(found))

    def fate(self, topic: str, partition: int, offset: int) -> Fate:
        """What became of an offset."""
        learner = self._learner
        place, state = Partition(topic, partition), learner.state
        row = state.ledger.at(place, offset)
        if row is not None:
            return Fate(state=Outcome.APPLIED.value, document=Remembered.of(row))
        if place not in state.positions or state.positions[place] <= offset:
            return Fate(state="waiting")
        outcome = learner.outcomes.get((place, offset))
        return Fate(state="passed" if outcome is None else outcome.value)


class _Telling:
    """Tells one asker of the loop's events."""

    def __init__(self, asking: Answering, emit: Emit, moment: Moment | None) -> None:
        self._asking, self._emit, self._moment = asking, emit, moment
        self._started_s, self._known = time.monotonic(), None

    def __call__(self, event: Event) -> None:
        if isinstance(event, device_loop.Begun):
            self._known = event.known
        told = self._asking.told(event, (self._started_s, self._known), self._moment)
        if told is not None:
            self._emit(told)


def seen_watermark_ms(state: StreamState) -> int | None:
    """The latest event time learned, and never one that is still to come: a feed that dates its news ahead is no fresher for it.

    By this machine's clock, as staleness is, and for show alone: what is remembered hangs on no clock.
    """
    return None if state.watermark_ms is None else min(state.watermark_ms, round(time.time() * 1000))


def version_of(state: StreamState) -> int:
    """Documents learned and deleted since the stream began: with each of them memory changed, and with nothing else."""
    return state.counts.get(Outcome.APPLIED, 0) + state.counts.get(Outcome.DELETED, 0)


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
