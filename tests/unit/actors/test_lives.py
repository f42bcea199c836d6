"""What is said of a replica whose processes end, or that never had one."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from actors import lives as module
from actors.lives import MOST_ENDS, STEADY_S, Life, Lives, told
from actors.messages import Phase, ReplicaStatus


class Cluster:
    """Ray's control store, and a clock."""

    def __init__(self) -> None:
        self.life: Life | None = Life(state="PENDING_CREATION", ends=0, pid=0)
        self.now_s = 0.0
        self.cores: Mapping[str, float] = {"CPU": 1.0}

    def begin(self, pid: int) -> None:
        assert self.life is not None
        self.life = Life(state="ALIVE", ends=self.life.ends, pid=pid)

    def end(self) -> None:
        assert self.life is not None
        self.life = Life(state="RESTARTING", ends=self.life.ends + 1, pid=self.life.pid)


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


def watched(cluster: Cluster) -> Lives:
    return Lives(
        needs=(2, 0),
        look=lambda: cluster.life,
        why=lambda pids: f"process {max(pids)} was killed: low on memory",
        left=lambda: cluster.cores,
        clock=lambda: cluster.now_s,
    )


def silent() -> ReplicaStatus:
    return ReplicaStatus(replica=0, phase=Phase.STARTING, problem="does not answer yet")


def alive(pid: int, version: int) -> ReplicaStatus:
    return ReplicaStatus(replica=0, phase=Phase.RUNNING, pid=pid, version=version)


def test_one_that_was_never_placed_says_what_it_waits_for(cluster: Cluster) -> None:
    lives = watched(cluster)
    shown = lives.seen(silent())
    assert (shown.phase, lives.placed) == (Phase.STARTING, False)
    assert shown.problem == "waits for 2 free cores on one node: 1 cores are free, other streams or jobs hold the rest"
    cluster.cores = {"CPU": 2.0}
    assert lives.seen(silent()).problem == "is being placed"
    cluster.begin(7)
    assert lives.seen(alive(7, 0)).problem is None and lives.placed


def test_the_reason_of_the_last_end_is_shown_while_it_starts_again(cluster: Cluster) -> None:
    lives = watched(cluster)
    cluster.begin(7)
    lives.seen(alive(7, 1))
    cluster.end()
    shown = lives.seen(silent())
    assert shown.restarts == 1
    assert shown.problem == "starts again after it ended once, the last time: process 7 was killed: low on memory"


def test_a_crash_loop_has_an_end_and_is_named_as_such(cluster: Cluster) -> None:
    lives = watched(cluster)
    cluster.begin(0)
    lives.seen(silent())
    for number in range(1, MOST_ENDS + 1):
        assert lives.over is None
        cluster.end()
        shown = lives.seen(silent())
        cluster.begin(number)
    assert shown.phase is Phase.FAILED
    assert (
        shown.problem
        == f"its process ended {MOST_ENDS} times without getting any further, the last time: process 4 was killed: low on memory"
    )


def test_one_that_learns_between_its_ends_goes_on(cluster: Cluster) -> None:
    lives = watched(cluster)
    for number in range(20):
        cluster.begin(number)
        assert lives.seen(alive(number, version=number)).phase is Phase.RUNNING
        cluster.end()
        lives.seen(silent())
    assert lives.over is None


def test_ends_of_a_quiet_stream_are_far_between_and_no_loop(cluster: Cluster) -> None:
    lives = watched(cluster)
    for number in range(20):
        cluster.begin(number)
        lives.seen(alive(number, version=3))
        cluster.now_s += STEADY_S + 1
        lives.seen(alive(number, version=3))
        cluster.end()
        lives.seen(silent())
    assert lives.over is None


def test_where_ray_tells_nothing_the_status_stays_as_it_is(cluster: Cluster) -> None:
    cluster.life = None
    lives = watched(cluster)
    assert lives.seen(silent()) == silent() and lives.placed


def test_a_long_report_becomes_the_line_that_matters() -> None:
    report = "\n\nThe actor died unexpectedly before finishing this task.\n\tclass_name: A\n\tpid: 2\nThe worker exited because..."
    assert told(report) == "The actor died unexpectedly before finishing this task."
    assert told('error_message: "The actor is dead because it was killed"') == "The actor is dead because it was killed"
    assert told("") == "no reason is known"
    assert len(told("memory " * 200)) == 300


def test_private_calls_that_a_ray_lacks_tell_nothing() -> None:
    class NoActor:
        pass

    assert module.life_of(NoActor()) is None
