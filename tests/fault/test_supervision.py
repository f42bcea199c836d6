"""Replicas that find no place, and replicas that are killed at each start: both are named, and both have an end."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from actors.config import StreamConfig
from actors.lives import MOST_ENDS
from actors.messages import Phase
from actors.supervisor import ReplicaFailed, Supervisor
from tests.processes import eventually


@pytest.fixture
def start(ray_address: str) -> Iterator[Callable[[StreamConfig], Supervisor]]:
    started: list[Supervisor] = []

    def starting(config: StreamConfig) -> Supervisor:
        started.append(Supervisor.start(config))
        return started[-1]

    yield starting
    for supervisor in started:
        supervisor.stop()


def test_a_stream_without_free_cores_says_so_and_can_be_stopped_at_once(
    start: Callable[[StreamConfig], Supervisor], stream: Callable[..., StreamConfig]
) -> None:
    config = stream(replicas={"num_cpus": 15})
    first = start(config)
    first.wait_ready()
    second = start(config.model_copy(update={"stream": f"{config.stream}-2"}))
    eventually(lambda: "waits for 15 free cores" in str(second.statuses()[0].problem), "it says what it waits for")
    began_s = time.monotonic()
    (status,) = second.drain()
    assert time.monotonic() - began_s < 10
    assert status.phase is Phase.STARTING and "other streams or jobs hold the rest" in str(status.problem)


def test_a_replica_that_is_killed_at_each_start_ends_the_run_with_the_reason(
    start: Callable[[StreamConfig], Supervisor], stream: Callable[..., StreamConfig]
) -> None:
    supervisor = start(stream(replicas={"num_cpus": 1}))
    with pytest.raises(ReplicaFailed, match=f"ended {MOST_ENDS} times without getting any further, the last time: .*(died|exit|killed)"):
        kill_at_each_start(supervisor)
    (status,) = supervisor.drain()
    assert status.phase is Phase.FAILED


def kill_at_each_start(supervisor: Supervisor, patience_s: float = 240.0) -> None:
    """Until its supervisor has enough of it: five starts, of which each may take half a minute on a busy core."""
    (replica,), killed = supervisor._replicas, set[int]()
    deadline_s = time.monotonic() + patience_s
    while time.monotonic() < deadline_s:
        life = replica.life()
        if life is not None and life.pid not in killed and life.state == "ALIVE":
            with suppress(ProcessLookupError):
                os.kill(life.pid, signal.SIGKILL)
            killed.add(life.pid)
        supervisor.healthy()
