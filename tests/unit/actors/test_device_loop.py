"""The device loop: whose turn it is, as a function of values; and what its thread makes of cancellations, deadlines and failures."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest
import torch

from actors.device_loop import Answered, Begun, DeviceLoop, Event, Failed, Piece, Request
from actors.errors import Busy, Ended, Overdue
from actors.turns import Shares, Turn, fitting, next_turn
from model.engine import Asked, Asking, Engine, prepared
from model.loading import EngineOptions, load_engine


def turn(admissible: bool, running: bool, learnable: bool, *, admitted: bool = False, shares: Shares | None = None) -> Turn:
    return next_turn(admissible=admissible, running=running, learnable=learnable, just_admitted=admitted, shares=shares or Shares())


@pytest.mark.parametrize(
    ("admissible", "running", "learnable", "expected"),
    [
        (False, False, False, Turn.NOTHING),
        (False, False, True, Turn.LEARN),
        (True, False, False, Turn.ADMIT),
        (False, True, False, Turn.DECODE),
        (True, True, False, Turn.ADMIT),
    ],
)
def test_whoever_is_alone_has_the_device(admissible: bool, running: bool, learnable: bool, expected: Turn) -> None:
    behind = Shares(answered=100.0)  # the other side's claim counts only where there is another side
    assert turn(admissible, running, learnable) is expected
    assert turn(admissible, running, learnable, shares=behind) is expected


def test_those_that_run_get_a_token_before_the_next_ones_are_admitted() -> None:
    assert turn(True, True, False, admitted=True) is Turn.DECODE
    assert turn(True, False, False, admitted=True) is Turn.ADMIT


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_a_contested_device_is_divided_as_stated_whatever_the_turns_take(share: float) -> None:
    shares, spent = Shares(answering=share), {True: 0.0, False: 0.0}
    for number in range(4000):
        answers = turn(False, True, True, shares=shares) is Turn.DECODE
        seconds = 0.08 + 0.01 * (number % 3) if answers else 0.3
        shares.spent(Turn.DECODE if answers else Turn.LEARN, seconds, contested=True)
        spent[answers] += seconds
    assert spent[True] / sum(spent.values()) == pytest.approx(share, abs=0.01)


def test_what_a_side_left_is_gone() -> None:
    shares = Shares()
    for _ in range(100):
        shares.spent(Turn.LEARN, 1.0, contested=False)
    assert shares.answers_next()
    shares.spent(Turn.DECODE, 0.1, contested=True)
    assert not shares.answers_next(), "a hundred seconds of learning alone are no debt"


def test_prompts_that_are_read_side_by_side_are_bounded() -> None:
    assert [fitting([10] * 20, places, 100) for places in (0, 3, 50)] == [0, 3, 10]
    assert fitting([60, 60], 9, 100) == 1


class Stage:
    """A loop over a tiny model, and the events of what was asked."""

    def __init__(self, engine: Engine, **bounds: Any) -> None:
        self.engine = engine
        self.loop = DeviceLoop(engine, lambda: "now", **bounds)

    def ask(self, text: str, limit: int = 5, timeout_s: float = 20.0, answers: int = 1) -> tuple[Request, SimpleQueue[Event]]:
        events: SimpleQueue[Event] = SimpleQueue()
        request = Request(
            prompt=self.engine.compose([{"role": "user", "content": text}]),
            askings=[Asking(limit=limit)] * answers,
            emit=events.put,
            deadline_s=time.monotonic() + timeout_s,
        )
        self.loop.ask(request)
        return request, events


def end_of(events: SimpleQueue[Event]) -> Event:
    while True:
        event = events.get(timeout=20)
        if isinstance(event, Answered | Failed):
            return event


@pytest.fixture
def stage(checkpoint: Path) -> Iterator[Stage]:
    engine = load_engine(checkpoint, "cpu", "float32", EngineOptions(blocks=64))
    engine.commit(prepared(engine, [engine.encode("Ada leads Oslo.")]))
    made = Stage(engine, most_running=4, most_waiting=6)
    made.loop.start()
    yield made
    made.loop.close()


def learning(stage: Stage, count: int) -> Generator[None, None, int]:
    for number in range(count):
        blocks = yield from stage.engine.prepare([stage.engine.encode(f"Person {number} won.")])
        stage.engine.commit(blocks)
    return count


def test_questions_are_answered_while_documents_are_learned(stage: Stage) -> None:
    work = stage.loop.learn(learning(stage, 60))
    asked = [stage.ask(f"Who is {number}?", limit=8)[1] for number in range(5)]
    ends = [end_of(events) for events in asked]
    assert all(isinstance(end, Answered) for end in ends) and work.result(timeout=60) == 60
    assert stage.loop.turns[Turn.LEARN] >= 60 and stage.loop.turns[Turn.DECODE] > 0


def test_the_events_of_an_answer_come_in_order_and_make_up_its_text(stage: Stage) -> None:
    _, events = stage.ask("Who leads?", limit=9, answers=2)
    first = events.get(timeout=20)
    assert isinstance(first, Begun) and first.known == "now"
    texts = ["", ""]
    while not isinstance(event := events.get(timeout=20), Answered):
        assert isinstance(event, Piece)
        texts[event.index] += event.text
    assert texts == [done.text for done in event.completions] and texts[0] == texts[1]


def test_a_cancelled_question_frees_its_place_within_a_turn(stage: Stage) -> None:
    running = [stage.ask(f"{number}?", limit=100_000) for number in range(4)]
    for _, events in running:
        assert isinstance(events.get(timeout=20), Begun)
    _, waiting = stage.ask("And me?")
    stage.loop.cancel(running[2][0])
    assert isinstance(end_of(waiting), Answered)
    assert stage.loop.running == 3
    for request, _ in running:
        stage.loop.cancel(request)
    for _ in range(200):
        if not stage.loop.running:
            break
        time.sleep(0.01)
    assert stage.loop.running == 0


def test_bounded_too_many_waiting_are_told_to_come_again(stage: Stage) -> None:
    requests: list[Request] = []
    with pytest.raises(Busy) as refused:
        requests.extend(stage.ask(f"{number}?", limit=100_000)[0] for number in range(40))
    assert len(requests) >= 6 and refused.value.retry_after_s >= 1
    for request in requests:
        stage.loop.cancel(request)


def test_an_answer_and_a_place_in_the_queue_have_a_deadline(stage: Stage) -> None:
    _, running = stage.ask("Who?", limit=100_000, timeout_s=0.3)
    end = end_of(running)
    assert isinstance(end, Failed) and isinstance(end.error, Overdue) and "not finished" in str(end.error)
    blocking = [stage.ask("Who?", limit=100_000) for _ in range(4)]
    _, waiting = stage.ask("Me?", timeout_s=0.2)
    end = end_of(waiting)
    assert isinstance(end, Failed) and "waited for its turn" in str(end.error)
    for request, _ in blocking:
        stage.loop.cancel(request)


def test_a_question_that_fails_costs_nobody_else_anything(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    begin = stage.engine.begin

    def flaky(asked: Sequence[Asked]) -> object:
        if any("0!" in stage.engine.decode_tokens(each.prompt.tokens) for each in asked):
            raise RuntimeError("out of memory")
        return begin(asked)

    monkeypatch.setattr(stage.engine, "begin", flaky)
    bad, good = stage.ask("0!")[1], stage.ask("Who?")[1]
    failed = end_of(bad)
    assert isinstance(failed, Failed) and "out of memory" in str(failed.error)
    assert isinstance(end_of(good), Answered)


def test_work_that_fails_says_so_to_whoever_brought_it_and_the_loop_goes_on(stage: Stage) -> None:
    def broken() -> Generator[None, None, None]:
        yield
        raise ValueError("no such thing")

    with pytest.raises(ValueError, match="no such thing"):
        stage.loop.learn(broken()).result(timeout=20)
    assert stage.loop.call(lambda: 7).result(timeout=20) == 7
    with pytest.raises(ZeroDivisionError):
        stage.loop.call(lambda: 1 // 0).result(timeout=20)


def test_whoever_waits_when_it_ends_is_told(stage: Stage) -> None:
    running = [stage.ask("Who?", limit=100_000)[1] for _ in range(6)]
    stage.loop.close()
    for events in running:
        end = end_of(events)
        assert isinstance(end, Failed) and isinstance(end.error, Ended)
    with pytest.raises(Ended):
        stage.ask("Late?")
    with pytest.raises(Ended):
        stage.loop.learn(learning(stage, 1)).result(timeout=5)


class Poisoned:
    """An engine whose device has failed for good at the first pass; everything else as the tiny model's."""

    def __init__(self, engine: Engine, error: Exception) -> None:
        self._engine, self._error = engine, error

    def __getattr__(self, name: str) -> object:
        return getattr(self._engine, name)

    def decode(self) -> None:
        raise self._error


@pytest.mark.parametrize(
    ("error", "ends"),
    [
        (torch.AcceleratorError("CUDA error: device-side assert triggered"), 1),
        (torch.OutOfMemoryError("CUDA out of memory"), 0),
        (ValueError("something else"), 0),
    ],
)
def test_a_device_that_is_of_no_more_use_ends_the_process_after_its_questions_are_told(
    checkpoint: Path, error: Exception, ends: int
) -> None:
    ended: list[bool] = []
    engine: Any = Poisoned(load_engine(checkpoint, "cpu", "float32", EngineOptions(blocks=64)), error)
    broken = Stage(engine, on_poisoned=lambda: ended.append(True))
    broken.loop.start()
    _, events = broken.ask("Who?")
    told = end_of(events)
    broken.loop.close()
    assert isinstance(told, Failed) and told.error is error
    assert len(ended) == ends
