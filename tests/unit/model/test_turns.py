"""Who may use the device, and in which order."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from model import turns as turns_module
from model.turns import DeviceTurns


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """No answer is ever taken for stalled."""
    monkeypatch.setattr(turns_module, "STALLED_ANSWER_S", 60.0)


def started(run: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread


def until(condition: Callable[[], bool]) -> None:
    while not condition():
        time.sleep(0.001)


def updating(turns: DeviceTurns, order: list[str]) -> threading.Thread:
    """A thread that waits for an update's turn; returns once it does."""

    def update() -> None:
        with turns.update():
            order.append("update")

    thread = started(update)
    until(lambda: turns._updates_waiting == 1 or not thread.is_alive())
    return thread


def step(turns: DeviceTurns, order: list[str]) -> None:
    with turns.decode_step():
        order.append("step")


def test_with_no_answer_running_an_update_goes_at_once() -> None:
    turns, order = DeviceTurns(decode_steps_per_update=4), list[str]()
    updating(turns, order).join(5)
    assert order == ["update"]


@pytest.mark.usefixtures("patient")
def test_while_an_answer_runs_an_update_gets_its_stated_share() -> None:
    turns, order = DeviceTurns(decode_steps_per_update=2), list[str]()
    with turns.answer():
        update = updating(turns, order)
        for _ in range(3):
            step(turns, order)
        update.join(5)
    assert order == ["step", "step", "update", "step"]


@pytest.mark.usefixtures("patient")
def test_an_update_that_waits_goes_when_the_answer_ends() -> None:
    turns, order = DeviceTurns(decode_steps_per_update=9), list[str]()
    with turns.answer():
        update = updating(turns, order)
        step(turns, order)
        assert order == ["step"]
    update.join(5)
    assert order == ["step", "update"]


def test_an_answer_that_takes_no_step_does_not_hold_updates_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns_module, "STALLED_ANSWER_S", 0.02)
    turns, order = DeviceTurns(decode_steps_per_update=4), list[str]()
    with turns.answer():
        updating(turns, order).join(5)
    assert order == ["update"]


def test_past_the_time_limit_an_update_still_waits_for_the_step_that_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns_module, "STALLED_ANSWER_S", 0.0)
    turns, order = DeviceTurns(decode_steps_per_update=1), list[str]()
    with turns.answer():
        with turns.decode_step():
            update = updating(turns, order)
            time.sleep(0.02)
            order.append("step")
        update.join(5)
    assert order == ["step", "update"]


def test_an_update_that_fails_gives_its_turn_back() -> None:
    turns, order = DeviceTurns(), list[str]()
    with pytest.raises(RuntimeError, match="out of memory"), turns.update():
        raise RuntimeError("out of memory")
    step(turns, order)
    assert order == ["step"]


def test_a_share_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        DeviceTurns(decode_steps_per_update=0)
