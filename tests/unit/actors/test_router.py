"""The replica that knows most answers; when it fails, hangs or is full, the next one does, and the asker is told nothing twice."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, TypeVar

import pytest

from actors.config import AnswerConfig
from actors.errors import Busy, Ended, Interrupted, NoReplica, NotReady, ReplicaLost
from actors.messages import (
    Answer,
    Begun,
    Choice,
    DocumentsPage,
    DocumentsQuery,
    Fate,
    Knowledge,
    Leader,
    Phase,
    Piece,
    Question,
    ReplicaStatus,
    Role,
    Told,
)
from actors.router import Board, Router, knowing_most, whole

T = TypeVar("T")
QUESTION = Question.of("Who?")


def known(number: int) -> Knowledge:
    fields: dict[str, Any] = dict.fromkeys(("watermark_ms", "complete_up_to_ms", "staleness_s"))
    return Knowledge(stream="test", replica=number, version=0, update_number=0, position={}, applied=0, **fields)


class Replica:
    """Says its words one after the other; where a word is an error, it fails there."""

    def __init__(self, number: int, *script: str | Exception) -> None:
        self.number, self.script = number, list(script or ("yes",))
        self.asked = self.closed = 0
        self.pause_s = 0.0

    async def ask(self, question: Question) -> AsyncIterator[Told]:
        self.asked += 1
        text = ""
        try:
            if not isinstance(self.script[0], Exception):
                yield Begun(knowledge=known(self.number))
            for word in self.script:
                await asyncio.sleep(self.pause_s)
                if isinstance(word, Exception):
                    raise word
                text += word
                yield Piece(index=0, text=word)
            choice = Choice(text=text, finish_reason="stop", completion_tokens=len(self.script))
            yield Answer(choices=(choice,), prompt_tokens=1, knowledge=known(self.number), seconds=0.0)
        finally:
            self.closed += 1

    async def documents(self, query: DocumentsQuery) -> DocumentsPage:
        return DocumentsPage(documents=(), total=self.number)

    async def fate(self, topic: str, partition: int, offset: int) -> Fate:
        return Fate(state="waiting")


def status(replica: int, phase: Phase = Phase.RUNNING, watermark_ms: int | None = 5, applied: int = 1, **fields: Any) -> ReplicaStatus:
    return ReplicaStatus(replica=replica, phase=phase, watermark_ms=watermark_ms, counts={"applied": applied}, pid=1, **fields)


def routed(test: Callable[[Router, Board], Coroutine[Any, Any, T]], replicas: list[Replica], statuses: list[ReplicaStatus]) -> T:
    async def run() -> T:
        board = Board(len(replicas), hung_s=60)
        for each in statuses:
            board.report(each)
        return await test(Router({replica.number: replica for replica in replicas}, board, AnswerConfig(timeout_s=5)), board)

    return asyncio.run(run())


async def ask(router: Router, board: Board) -> tuple[list[str], Answer]:
    told = [each async for each in router.ask(QUESTION)]
    assert isinstance(told[0], Begun) and isinstance(told[-1], Answer) and sum(isinstance(each, Begun) for each in told) == 1
    return [each.text for each in told if isinstance(each, Piece)], told[-1]


@pytest.mark.parametrize(
    ("statuses", "order"),
    [
        ([status(0, watermark_ms=5), status(1, watermark_ms=6)], [1, 0]),
        ([status(0, watermark_ms=None), status(1, watermark_ms=0)], [1, 0]),
        ([status(0, watermark_ms=6, applied=1), status(1, watermark_ms=5, applied=9)], [0, 1]),
        ([status(0, applied=1), status(1, applied=2)], [1, 0]),
        ([status(0, running_answers=2), status(1, running_answers=1)], [1, 0]),
        ([status(0, waiting_answers=2), status(1, running_answers=1)], [1, 0]),
        ([status(0, Phase.STARTING, 9), status(1, Phase.DOWN, 9), status(2, Phase.FAILED), status(3, Phase.DRAINED, 9)], [2]),
        ([status(0, Phase.WAITING), status(1, Phase.SERVING), status(2, Phase.DRAINING)], [0, 1, 2]),
    ],
)
def test_most_known_first(statuses: list[ReplicaStatus], order: list[int]) -> None:
    assert [each.replica for each in knowing_most(statuses)] == order


def test_an_answer_is_streamed_from_the_replica_that_knows_most() -> None:
    replicas = [Replica(0), Replica(1, "Ada", " leads", ".")]
    pieces, answer = routed(ask, replicas, [status(0), status(1, applied=2)])
    assert (pieces, answer.text, answer.knowledge.replica) == (["Ada", " leads", "."], "Ada leads.", 1)
    assert [replica.asked for replica in replicas] == [0, 1]


@pytest.mark.parametrize("error", [ReplicaLost("killed"), Ended("ending"), NotReady("restores")])
def test_the_next_one_answers_when_the_best_is_lost(error: Exception) -> None:
    replicas = [Replica(0), Replica(1, error)]
    assert routed(ask, replicas, [status(0), status(1, applied=2)])[1].knowledge.replica == 0


def test_a_stream_goes_on_where_another_replica_says_the_same() -> None:
    replicas = [Replica(0, "Ada le", "ads", "."), Replica(1, "Ada", " leads", ReplicaLost("killed"))]
    pieces, answer = routed(ask, replicas, [status(0), status(1, applied=2)])
    assert (pieces, answer.text) == (["Ada", " leads", "."], "Ada leads.")


def test_a_stream_that_would_go_on_differently_is_said_to_be_interrupted() -> None:
    replicas = [Replica(0, "Bo", " leads."), Replica(1, "Ada", ReplicaLost("killed"))]
    with pytest.raises(Interrupted):
        routed(ask, replicas, [status(0), status(1, applied=2)])


def test_a_full_replica_leaves_its_question_to_another_and_all_full_is_said() -> None:
    replicas = [Replica(0), Replica(1, Busy(9, 3.0))]
    assert routed(ask, replicas, [status(0), status(1, applied=2)])[1].knowledge.replica == 0
    with pytest.raises(Busy, match="9 questions are waiting already"):
        routed(ask, [Replica(0, Busy(9, 3.0))], [status(0)])


def test_what_a_replica_says_of_the_question_itself_is_passed_on() -> None:
    replicas = [Replica(0), Replica(1, ValueError("the prompt has 0 tokens"))]
    with pytest.raises(ValueError, match="0 tokens"):
        routed(ask, replicas, [status(0), status(1, applied=2)])
    assert replicas[0].asked == 0


def test_a_question_waits_for_a_lost_replica_to_come_back() -> None:
    replica = Replica(0, ReplicaLost("killed"))

    async def run(router: Router, board: Board) -> Answer:
        asking = asyncio.ensure_future(whole(router.ask(QUESTION)))
        await asyncio.sleep(0.3)
        assert not asking.done() and board.statuses()[0].phase is Phase.DOWN
        replica.script = ["back"]
        board.report(status(0))
        return await asking

    assert routed(run, [replica], [status(0)]).text == "back"


def test_nobody_left_is_said_with_each_ones_reason() -> None:
    with pytest.raises(NoReplica, match="replica 0 drained: None"):
        routed(ask, [Replica(0)], [status(0, Phase.DRAINED)])


def test_a_replica_that_hangs_loses_its_question_to_another() -> None:
    replicas = [Replica(0), Replica(1, "never")]
    replicas[1].pause_s = 3600

    async def run(router: Router, board: Board) -> Answer:
        asking = asyncio.ensure_future(whole(router.ask(QUESTION)))
        await asyncio.sleep(0.2)
        board.report(status(1, applied=2, turn_s=61.0))
        assert "in one turn of its device for 61 s" in str(board.statuses()[1].problem)
        return await asking

    assert routed(run, replicas, [status(0), status(1, applied=2)]).knowledge.replica == 0
    assert replicas[1].closed == 1


def test_an_asker_who_goes_away_is_passed_on_at_once() -> None:
    replica = Replica(0, "one", "two", "three")
    replica.pause_s = 0.02

    async def run(router: Router, board: Board) -> None:
        stream = router.ask(QUESTION)
        async for told in stream:
            if isinstance(told, Piece):
                break
        await stream.aclose()
        assert replica.closed == 1

    routed(run, [replica], [status(0)])


def test_a_replica_that_ends_again_and_again_is_shown_as_such() -> None:
    async def run(router: Router, board: Board) -> ReplicaStatus:
        for pid in range(4):
            board.report(ReplicaStatus(replica=0, phase=Phase.RUNNING, pid=pid))
            board.lose(0, "killed: out of memory")
        return board.statuses()[0]

    shown = routed(run, [Replica(0)], [])
    assert shown.restarts == 3 and shown.problem == "ended 4 times within the hour, the last time: killed: out of memory"


def test_a_leader_that_was_replaced_is_passed_over_until_it_has_noticed() -> None:
    """It may be suspended: it says nothing of its own, and its questions would wait until it is held to be hung."""

    async def run(router: Router, board: Board) -> None:
        assert board.leader == Leader(0, 1)
        board.report(status(1, role=Role.LEADER, generation=2))
        assert board.leader == Leader(1, 2)
        assert (board.status(0).phase, board.status(0).answers) == (Phase.DOWN, False)
        assert "replica 1 leads in its place" in str(board.status(0).problem)
        board.report(status(0, applied=9, role=Role.FOLLOWER, generation=2))
        assert board.status(0).answers and board.leader == Leader(1, 2)

    first = status(0, applied=9, role=Role.LEADER, generation=1)
    routed(run, [Replica(0), Replica(1)], [first, status(1, role=Role.FOLLOWER, generation=1)])


def test_whoever_watches_the_board_is_told_of_changes() -> None:
    async def run(router: Router, board: Board) -> None:
        number, _ = await board.changes(-1, 1)
        watching = asyncio.ensure_future(board.changes(number, 5))
        await asyncio.sleep(0.05)
        board.report(status(0, applied=7))
        seen, statuses = await watching
        assert seen == number + 1 and statuses[0].counts == {"applied": 7}
        started_s = time.monotonic()
        await board.changes(seen, 0.05)
        assert time.monotonic() - started_s < 2

    routed(run, [Replica(0)], [status(0)])
