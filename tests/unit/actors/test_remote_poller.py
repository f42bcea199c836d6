"""What a replica knows of its poller's process, so that the next one goes on where the last one was."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
from ray.exceptions import RayActorError

import actors.remote_poller
from actors.config import StreamConfig
from actors.messages import Learnable, Polled
from actors.remote_poller import RemotePoller
from pipeline.errors import PartitionStalled
from pipeline.fetched import Joined, Rewind
from tests.doubles.stream import NEWS, ScriptedPoller, document, documents

MADE_ANEW: list[Learnable] = [
    Joined(partition=NEWS, position=0, topic_id="first"),
    *documents(3),
    Rewind(partition=NEWS, passed=3, position=0, topic_id="second", reason="made anew"),
    *(document(number, f"From a new topic {number}.") for number in range(3)),
]


class Mortal(ScriptedPoller):
    """As many polls as it has lives."""

    lives = 0

    def poll(self, max_bytes: int, timeout_s: float) -> Polled:
        if not Mortal.lives:
            raise RayActorError
        Mortal.lives -= 1
        return super().poll(max_bytes, timeout_s)


class Actor:
    """Calls come when their answer is asked for."""

    def __init__(self, served: object) -> None:
        self._served = served

    def __getattr__(self, name: str) -> Any:
        return type("Method", (), {"remote": lambda _, *given: lambda: getattr(self._served, name)(*given)})()


class Processes:
    """In place of `PollerActor`; remembers what each process was begun with."""

    def __init__(self) -> None:
        self.begun: list[tuple[Mapping[str, int], Mapping[str, str]]] = []

    def options(self, **_: object) -> Processes:
        return self

    def remote(self, config: StreamConfig, positions: Mapping[str, int], owns_lineage: bool, topic_ids: Mapping[str, str]) -> Actor:
        self.begun.append((dict(positions), dict(topic_ids)))
        return Actor(Mortal(MADE_ANEW, 3, positions))


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> Processes:
    made = Processes()
    monkeypatch.setattr(actors.remote_poller, "PollerActor", made)
    monkeypatch.setattr(actors.remote_poller, "here", lambda: None)
    monkeypatch.setattr(actors.remote_poller, "result_of", lambda reference, timeout_s: reference())
    monkeypatch.setattr("ray.kill", lambda actor: None)
    return made


@pytest.mark.parametrize(("polls", "topic_ids"), [(1, {"news/0": "first"}), (2, {"news/0": "second"})])
def test_one_state_the_next_process_begins_in_the_topic_that_its_positions_are_in(
    processes: Processes, config_with: Callable[..., StreamConfig], monkeypatch: pytest.MonkeyPatch, polls: int, topic_ids: dict[str, str]
) -> None:
    """Whether the topic was made anew is told by its id, so a rewind that was not handed over must be found once more."""
    monkeypatch.setattr(Mortal, "lives", polls)
    poller = RemotePoller(config_with(), {}, True, {})
    for _ in range(polls):
        poller.poll(1, 0.1)
    with pytest.raises(PartitionStalled):
        poller.poll(1, 0.1)
    poller.renew()
    assert processes.begun == [({}, {}), ({"news/0": 3}, topic_ids)]
