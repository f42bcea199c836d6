"""Which replica answers a question, and what happens to the question when that one is lost.

Statuses are pushed here (`report`); nothing is asked before a question is sent. It goes to the replica that knows most among those that
live, and its answer is streamed from there. A replica that fails, hangs or ends costs the questions it had a retry elsewhere, on itself
when it is back, until their time is over; nobody else notices.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, field, replace
from typing import Protocol

from actors.config import AnswerConfig
from actors.errors import Busy, Ended, Interrupted, NoReplica, NotReady, Overdue, ReplicaLost
from actors.messages import Answer, Begun, DocumentsPage, DocumentsQuery, Fate, Leader, Phase, Piece, Question, ReplicaStatus, Role, Told
from pipeline.positions import parse_positions

log = logging.getLogger(__name__)

LOOK_AGAIN_S = 0.1
ANSWER_GRACE_S = 5.0
"""A replica ends an overdue answer itself; one that does not even say so is lost."""


class ReplicaClient(Protocol):
    """A replica, wherever it runs."""

    def ask(self, question: Question) -> AsyncIterator[Told]:
        """What it tells of an answer. Closed before its end, the question is cancelled.

        Raises what `Replica.ask` and its events raise, and ReplicaLost.
        """
        ...

    async def documents(self, query: DocumentsQuery) -> DocumentsPage: ...

    async def fate(self, topic: str, partition: int, offset: int) -> Fate: ...


@dataclass(slots=True)
class _Heard:
    """The last that was heard of a replica, and when, on the monotonic clock."""

    status: ReplicaStatus
    at_s: float
    lives: list[float] = field(default_factory=list)
    lost: str | None = None


class Board:
    """The statuses of all replicas of a stream as they were pushed; those that fell silent are said to be lost."""

    def __init__(self, count: int, hung_s: float) -> None:
        self._hung_s = hung_s
        starting = [ReplicaStatus(replica=number, phase=Phase.STARTING, problem="its process starts") for number in range(count)]
        self._heard = [_Heard(status, time.monotonic()) for status in starting]
        self.number = 0
        self._changed = asyncio.Event()

    def report(self, status: ReplicaStatus) -> None:
        """A replica says how it stands."""
        heard, now_s = self._heard[status.replica], time.monotonic()
        if status.pid != heard.status.pid:
            heard.lives = [*(at_s for at_s in heard.lives if now_s - at_s < 3600), now_s]
        heard.status, heard.at_s, heard.lost = status, now_s, None
        self._tell()

    @property
    def leader(self) -> Leader | None:
        """Who leads: of those that say so, the one that has claimed the stream last."""
        leaders = [Leader(each.status.replica, each.status.generation) for each in self._heard if each.status.role is Role.LEADER]
        return max(leaders, key=lambda leader: leader.generation, default=None)

    def lose(self, number: int, reason: str) -> None:
        """A replica did not answer: it is passed over until it is heard of again."""
        self._heard[number].lost = reason
        self._tell()

    def _tell(self) -> None:
        self.number += 1
        self._changed.set()
        self._changed = asyncio.Event()

    async def changes(self, seen: int, timeout_s: float) -> tuple[int, list[ReplicaStatus]]:
        """The statuses, as soon as they are others than those of number `seen`."""
        if self.number == seen:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), timeout_s)
        return self.number, self.statuses()

    def statuses(self) -> list[ReplicaStatus]:
        return [self.status(number) for number in range(len(self._heard))]

    def status(self, number: int) -> ReplicaStatus:
        heard, now_s = self._heard[number], time.monotonic()
        restarts = max(0, len(heard.lives) - 1)
        status = replace(heard.status, restarts=restarts)
        leader = self.leader
        if status.role is Role.LEADER and leader is not None and leader.generation > status.generation:
            return replace(status, phase=Phase.DOWN, problem=f"replica {leader.replica} leads in its place, and it has not noticed yet")
        silent_s = now_s - heard.at_s
        if heard.lost is not None:
            return replace(status, phase=Phase.DOWN, problem=crash_looping(restarts, heard.lost))
        if silent_s > self._hung_s or status.turn_s > self._hung_s:
            what = (
                f"not heard of for {silent_s:.0f} s" if silent_s > self._hung_s else f"in one turn of its device for {status.turn_s:.0f} s"
            )
            return replace(status, phase=Phase.DOWN, problem=what)
        return status


def crash_looping(restarts: int, reason: str) -> str:
    """What is said of a replica that is lost.

    >>> crash_looping(0, "its process ended"), crash_looping(4, "killed by the system: out of memory")
    ('its process ended', 'ended 5 times within the hour, the last time: killed by the system: out of memory')
    """
    return reason if restarts < 2 else f"ended {restarts + 1} times within the hour, the last time: {reason}"


def knowing_most(statuses: Sequence[ReplicaStatus], question: Question | None = None) -> list[ReplicaStatus]:
    """Those that can answer, best first: what the question demands, greatest watermark, most records applied, least busy.

    >>> ahead = ReplicaStatus(replica=1, phase=Phase.RUNNING, watermark_ms=7, counts={"applied": 3})
    >>> behind = ReplicaStatus(replica=0, phase=Phase.RUNNING, watermark_ms=7, counts={"applied": 2})
    >>> [status.replica for status in knowing_most([behind, ahead])]
    [1, 0]
    """

    def ignorance(status: ReplicaStatus) -> tuple[bool, int, int, int]:
        watermark_ms = -1 if status.watermark_ms is None else status.watermark_ms
        busy = status.running_answers + status.waiting_answers
        return not _has_passed(status, question), -watermark_ms, -status.counts.get("applied", 0), busy

    return sorted((status for status in statuses if status.answers), key=ignorance)


def _has_passed(status: ReplicaStatus, question: Question | None) -> bool:
    if question is None:
        return True
    wanted = parse_positions(question.demand.at_least).items()
    return all(status.position.get(str(partition), 0) > offset for partition, offset in wanted)


class Router:
    """Sends questions to the replicas of one stream.

    Args:
        replicas: by their numbers.
        board: what is known of them.
    """

    def __init__(self, replicas: Mapping[int, ReplicaClient], board: Board, config: AnswerConfig) -> None:
        self._replicas, self.board, self._config = replicas, board, config

    async def ask(self, question: Question) -> AsyncGenerator[Told, None]:
        """What the best replica tells of its answer, the whole `Answer` last.

        Raises:
            NoReplica: none can answer, and none is about to.
            Busy: all that can have too many waiting.
            Overdue: it was not answered in time.
            Interrupted: see there.
            What a replica says of the question itself: ValueError, NotKnownYet, NoSuchTime.
        """
        deadline_s = time.monotonic() + (question.timeout_s or self._config.timeout_s)
        told, full = _ToldSoFar(), dict[int, Busy]()
        while True:
            left_s = deadline_s - time.monotonic()
            if left_s <= 0:
                raise Overdue("no replica gave the answer in time")
            number = self._choose(question, full)
            if number is None:
                await asyncio.sleep(LOOK_AGAIN_S)
                continue
            try:
                async with aclosing(self._from(number, replace(question, timeout_s=left_s))) as stream:
                    async for each in stream:
                        for piece in told.new(each):
                            yield piece
                return
            except Busy as busy:
                full[number] = busy
                if told.begun or not any(each.replica not in full for each in knowing_most(self.board.statuses())):
                    raise
            except (ReplicaLost, Ended, NotReady) as error:
                log.warning("replica %d did not answer: %s", number, error)
                self.board.lose(number, str(error))
                told.again()

    def _choose(self, question: Question | None, full: Collection[int] = ()) -> int | None:
        """The replica that knows most, those that are full left out; None: none can answer now, but one may soon."""
        statuses = self.board.statuses()
        best = [status for status in knowing_most(statuses, question) if status.replica not in full]
        if best:
            return best[0].replica
        if not any(status.loading or status.phase in (Phase.STARTING, Phase.WAITING, Phase.DOWN) for status in statuses):
            raise NoReplica("; ".join(f"replica {each.replica} {each.phase}: {each.problem}" for each in statuses))
        return None

    async def _from(self, number: int, question: Question) -> AsyncGenerator[Told, None]:
        """One replica's answer; ReplicaLost where it hangs."""
        stream = self._replicas[number].ask(question)
        over_s = time.monotonic() + (question.timeout_s or self._config.timeout_s) + ANSWER_GRACE_S
        try:
            while True:
                try:
                    yield await self._next(stream, number, over_s)
                except StopAsyncIteration:
                    return
        finally:
            close = getattr(stream, "aclose", None)
            if close is not None:
                await close()

    async def _next(self, stream: AsyncIterator[Told], number: int, over_s: float) -> Told:
        waiting = asyncio.ensure_future(anext(stream))
        try:
            while True:
                done, _ = await asyncio.wait({waiting}, timeout=1.0)
                if done:
                    return waiting.result()
                status = self.board.status(number)
                if not status.answers:
                    raise ReplicaLost(f"replica {number}: {status.problem}")
                if time.monotonic() > over_s:
                    raise ReplicaLost(f"replica {number} does not end an answer that is overdue")
        finally:
            if not waiting.done():
                waiting.cancel()
                await asyncio.wait({waiting})

    async def documents(self, query: DocumentsQuery) -> DocumentsPage:
        """Remembered documents, of the replica that knows most."""
        return await self._best().documents(query)

    async def fate(self, topic: str, partition: int, offset: int) -> Fate:
        """What became of an offset, for the replica that knows most."""
        return await self._best().fate(topic, partition, offset)

    def _best(self) -> ReplicaClient:
        number = self._choose(None)
        if number is None:
            raise NoReplica("; ".join(f"replica {each.replica} {each.phase}: {each.problem}" for each in self.board.statuses()))
        return self._replicas[number]


class _ToldSoFar:
    """What the asker was told already: another replica's answer goes on from there, if it says the same."""

    def __init__(self) -> None:
        self.begun = False
        self._sent: dict[int, str] = {}
        self._now: dict[int, str] = {}

    def again(self) -> None:
        """Another attempt begins."""
        self._now = {}

    def new(self, told: Told) -> list[Told]:
        """What of it the asker does not know. Raises Interrupted where it contradicts what he knows."""
        if isinstance(told, Begun):
            first, self.begun = not self.begun, True
            return [told] if first else []
        if isinstance(told, Answer):
            for index, sent in self._sent.items():
                if not told.choices[index].text.startswith(sent):
                    raise Interrupted("the replica was lost, and another one would go on differently")
            return [told]
        now = self._now[told.index] = self._now.get(told.index, "") + told.text
        sent = self._sent.get(told.index, "")
        if not (now.startswith(sent) or sent.startswith(now)):
            raise Interrupted("the replica was lost, and another one would go on differently")
        if len(now) <= len(sent) and told.text:
            return []
        self._sent[told.index] = now if len(now) > len(sent) else sent
        return [Piece(index=told.index, text=now[len(sent) :], tokens=told.tokens)]


async def whole(stream: AsyncIterator[Told]) -> Answer:
    """The answer at the end of what is told of it."""
    answer: Answer | None = None
    async for told in stream:
        if isinstance(told, Answer):
            answer = told
    if answer is None:
        raise Ended("the answer has no end")
    return answer
