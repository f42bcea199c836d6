"""The device loop: one thread owns the device and the memory, and gives each turn to one of those who want it.

    who               puts into the inbox               gets
    front             questions, cancellations          events of each question, as they happen
    ingest            work: documents to learn          a future that ends when all of it is learned
    saver             calls: stage, rehome              a future with what the call returned

A turn is one of: admit some questions (select, read, first token), one token more for every answer that runs, or one update. Which one is
a function of values (`next_turn`): while both answers and updates want the device, each gets its stated share of the time; what one of them
leaves, the other takes. Calls run between turns. Nothing waits for a lock on the model, and nothing waits without a deadline.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from actors.errors import Busy, Ended, Overdue
from actors.turns import Shares, Turn, fitting, next_turn
from model.conversation import Prompt
from model.engine import Asked, Asking, Completion, Engine, Logprob, is_poisoned
from model.reading.answering import Running

log = logging.getLogger(__name__)
T = TypeVar("T")

IDLE_S = 0.2
"""An idle loop looks at its deadlines at least so often."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Begun:
    """The question is being answered; `known` is what the loop's `known` gave at that moment."""

    known: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """More text of answer `index`, and the log-probabilities of its tokens where they were asked for."""

    index: int
    text: str
    logprobs: tuple[Logprob, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """All answers are whole."""

    completions: tuple[Completion, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """There will be no answer."""

    error: Exception


Event = Begun | Piece | Answered | Failed


@dataclass(slots=True, eq=False, kw_only=True)
class Request:
    """A question on its way through the loop.

    Attributes:
        askings: one for each answer that is wanted.
        emit: takes the events; called by the loop, so it must not wait.
        deadline_s: on the monotonic clock; until then it must be answered.
        ready: whether it can be answered already; until `ready_by_s` it waits for that, then `not_ready` says what is missing.
        memory: another memory than the engine's own.
        known: what it is answered from; None: what the loop's own `known` says when it begins.
    """

    prompt: Prompt
    askings: Sequence[Asking]
    emit: Callable[[Event], None]
    deadline_s: float
    ready: Callable[[], bool] | None = None
    ready_by_s: float = 0.0
    not_ready: Callable[[], Exception] | None = None
    memory: Any = None
    known: Callable[[], Any] | None = None
    running: list[Running] = field(default_factory=list)
    shown: list[int] = field(default_factory=list)
    begun_s: float = 0.0
    cancelled: bool = False


@dataclass(slots=True, eq=False)
class _Work(Generic[T]):
    turns: Generator[None, None, T]
    future: Future[T]


def _end_process() -> None:
    """At once: nothing of this process can be trusted, and what is not saved is learned again."""
    os._exit(os.EX_SOFTWARE)


class DeviceLoop:
    """The loop of one replica.

    Args:
        engine: nobody else calls it.
        known: what an answer that begins now is given from.
        share: of the device's time that answers get while there is something to learn, above 0 and below 1.
        most_running, most_waiting: questions at once, and behind them.
        prefill_tokens: read side by side in one turn.
        on_poisoned: what happens when the device can do nothing more in this process; by default the process ends, to be started again.
    """

    def __init__(
        self,
        engine: Engine,
        known: Callable[[], Any],
        *,
        share: float = 0.5,
        most_running: int = 32,
        most_waiting: int = 256,
        prefill_tokens: int = 512,
        on_poisoned: Callable[[], Any] = _end_process,
    ) -> None:
        self._engine, self._known, self._on_poisoned = engine, known, on_poisoned
        self.shares = Shares(answering=share)
        self._most_running, self._most_waiting, self._prefill_tokens = most_running, most_waiting, prefill_tokens
        self._changed = threading.Condition()
        self._waiting: deque[Request] = deque()
        self._active: list[Request] = []
        self._work: deque[_Work[Any]] = deque()
        self._calls: deque[tuple[Callable[[], Any], Future[Any]]] = deque()
        self._closing = False
        self._just_admitted = False
        self._turn_began_s: float | None = None
        self._answer_s = 1.0
        self.turns = dict.fromkeys(Turn, 0)
        self.seconds = dict.fromkeys(Turn, 0.0)
        self._thread = threading.Thread(target=self._run, name="device", daemon=True)

    def start(self) -> None:
        self._thread.start()

    # ------------------------------------------------------------------ from any thread

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def running(self) -> int:
        return len(self._active)

    @property
    def turn_s(self) -> float:
        """For how long the turn of this moment has lasted; 0 between turns."""
        began_s = self._turn_began_s
        return 0.0 if began_s is None else time.monotonic() - began_s

    def ask(self, request: Request) -> None:
        """Put a question into the inbox; its events say what becomes of it.

        Raises:
            Busy: too many are waiting.
        """
        with self._changed:
            if self._closing:
                raise Ended("the replica is ending")
            if len(self._waiting) >= self._most_waiting:
                raise Busy(len(self._waiting), self._retry_after_s())
            self._waiting.append(request)
            self._changed.notify()

    def _retry_after_s(self) -> float:
        """When there is a place again, as far as the last answers tell."""
        return max(1.0, self._answer_s * len(self._waiting) / self._most_running)

    def cancel(self, request: Request) -> None:
        """Nobody waits for it any more: its place is free at the next turn."""
        with self._changed:
            request.cancelled = True
            self._changed.notify()

    def learn(self, turns: Generator[None, None, T]) -> Future[T]:
        """Work that gives way after each turn of the device; pieces of it are done in the order in which they came."""
        work = _Work(turns, Future[T]())
        self._put(self._work, work, work.future)
        return work.future

    def call(self, function: Callable[[], T]) -> Future[T]:
        """Something that takes no time, between two turns: memory and state are of one moment there."""
        future = Future[T]()
        self._put(self._calls, (function, future), future)
        return future

    def _put(self, queue: deque[Any], item: Any, future: Future[Any]) -> None:
        with self._changed:
            if self._closing:
                future.set_exception(Ended("the replica is ending"))
                return
            queue.append(item)
            self._changed.notify()

    def close(self, timeout_s: float = 10.0) -> None:
        """End after the turn of this moment; whoever still waits is told so."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    # ------------------------------------------------------------------ the loop

    def _run(self) -> None:
        while not self._closing:
            self._settle()
            turn = self._next()
            if turn is Turn.NOTHING:
                with self._changed:
                    if not (self._closing or self._calls) and self._next() is Turn.NOTHING:
                        self._changed.wait(IDLE_S)
                continue
            self._take(turn)
        self._end()

    def _take(self, turn: Turn) -> None:
        contested = self._wants_answers() and self._wants_learning()
        self._turn_began_s = started_s = time.monotonic()
        {Turn.ADMIT: self._admit, Turn.DECODE: self._decode, Turn.LEARN: self._learn}[turn]()
        self._turn_began_s = None
        self.turns[turn] += 1
        seconds = time.monotonic() - started_s
        self.seconds[turn] += seconds
        self.shares.spent(turn, seconds, contested)
        if turn is not Turn.LEARN:
            self._just_admitted = turn is Turn.ADMIT

    def _next(self) -> Turn:
        return next_turn(
            admissible=self._admissible(),
            running=bool(self._active),
            learnable=self._wants_learning() and self._engine.can_learn(),
            just_admitted=self._just_admitted,
            shares=self.shares,
        )

    def _wants_answers(self) -> bool:
        return bool(self._active) or self._admissible()

    def _wants_learning(self) -> bool:
        return bool(self._work)

    def _places(self) -> int:
        return self._most_running - sum(len(each.askings) for each in self._active)

    def _admissible(self) -> bool:
        return self._engine.can_begin() and any(self._startable(each) for each in list(self._waiting))

    def _startable(self, request: Request) -> bool:
        places = self._places()
        fits = len(request.askings) <= places or (not self._active and places > 0)
        return fits and (request.ready is None or request.ready())

    def _settle(self) -> None:
        """Calls, cancellations and deadlines: between turns, at once."""
        while self._calls:
            function, future = self._calls.popleft()
            _settle_future(future, function)
        now_s = time.monotonic()
        for request in list(self._waiting):
            error = self._over(request, now_s)
            if request.cancelled or error is not None:
                with self._changed:
                    self._waiting.remove(request)
                if error is not None and not request.cancelled:
                    request.emit(Failed(error=error))
        for request in list(self._active):
            if request.cancelled or now_s > request.deadline_s:
                self._let_go(request)
                if not request.cancelled:
                    request.emit(Failed(error=Overdue("the answer was not finished in time")))

    def _over(self, request: Request, now_s: float) -> Exception | None:
        if now_s > request.deadline_s:
            return Overdue("the question waited for its turn until its time was over")
        if request.ready is not None and request.not_ready is not None and now_s > request.ready_by_s and not request.ready():
            return request.not_ready()
        return None

    # ------------------------------------------------------------------ turns

    def _admit(self) -> None:
        with self._changed:
            startable = [each for each in self._waiting if self._startable(each)]
        if not startable:
            return
        chosen = self._fitting(startable)
        with self._changed:
            for request in chosen:
                self._waiting.remove(request)
        try:
            self._begin(chosen)
        except Exception as error:  # the failure boundary of an admission: these questions fail, the replica does not
            log.exception("questions could not be begun")
            self._look_at(error)
            if len(chosen) == 1:
                chosen[0].emit(Failed(error=error))
                return
            for request in chosen:
                self._begin_alone(request)

    def _fitting(self, startable: Sequence[Request]) -> list[Request]:
        places, chosen = self._places(), list[Request]()
        for request in startable:
            if chosen and len(request.askings) > places:
                break
            chosen.append(request)
            places -= len(request.askings)
        lengths = [len(request.prompt.tokens) * len(request.askings) for request in chosen]
        return list(chosen[: fitting(lengths, len(chosen), self._prefill_tokens)])

    def _begin_alone(self, request: Request) -> None:
        try:
            self._begin([request])
        except Exception as error:  # as above, of one question
            request.emit(Failed(error=error))

    def _begin(self, requests: Sequence[Request]) -> None:
        asked = [Asked(prompt=request.prompt, asking=asking, memory=request.memory) for request in requests for asking in request.askings]
        running = self._engine.begin(asked)
        for request in requests:
            count = len(request.askings)
            request.running, running = running[:count], running[count:]
            request.shown, request.begun_s = [0] * count, time.monotonic()
            self._active.append(request)
            request.emit(Begun(known=(request.known or self._known)()))
        for request in requests:
            self._report(request)

    def _decode(self) -> None:
        try:
            self._engine.decode()
        except Exception as error:  # the failure boundary of a pass: the answers in it fail, the replica does not
            log.exception("answers could not go on")
            for request in list(self._active):
                self._let_go(request)
                request.emit(Failed(error=error))
            self._look_at(error)
            return
        for request in list(self._active):
            self._report(request)

    def _report(self, request: Request) -> None:
        for index, running in enumerate(request.running):
            text, logprobs = running.new_text(), tuple(running.logprobs[request.shown[index] :])
            request.shown[index] = len(running.logprobs)
            if text or logprobs:
                request.emit(Piece(index=index, text=text, logprobs=logprobs))
        if all(running.finish_reason is not None for running in request.running):
            self._active.remove(request)
            self._answer_s += 0.2 * (time.monotonic() - request.begun_s - self._answer_s)
            request.emit(Answered(completions=tuple(map(self._engine.completion, request.running))))

    def _let_go(self, request: Request) -> None:
        self._active.remove(request)
        for running in request.running:
            self._engine.end(running)

    def _learn(self) -> None:
        work = self._work[0]
        try:
            next(work.turns)
        except StopIteration as done:
            self._work.popleft()
            work.future.set_result(done.value)
        except Exception as error:  # whoever brought the work decides what that means
            self._look_at(error)
            self._work.popleft()
            work.future.set_exception(error)

    def _look_at(self, error: Exception) -> None:
        if is_poisoned(error):
            log.critical("the device is of no more use to this process: %s", error)
            self._on_poisoned()

    def _end(self) -> None:
        """Nobody is left waiting."""
        with self._changed:
            waiting, self._waiting = list(self._waiting), deque()
        for request in list(self._active):
            self._let_go(request)
            waiting.append(request)
        for request in waiting:
            request.emit(Failed(error=Ended("the replica ended before it could answer")))
        for work in self._work:
            work.turns.close()
            work.future.set_exception(Ended("the replica is ending"))
        for _, future in self._calls:
            future.set_exception(Ended("the replica is ending"))


def _settle_future(future: Future[Any], function: Callable[[], Any]) -> None:
    try:
        future.set_result(function())
    except Exception as error:  # it is for whoever called
        future.set_exception(error)
