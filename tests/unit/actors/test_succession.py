"""Who is told to lead, look by look."""

from __future__ import annotations

from dataclasses import replace

import pytest

from actors.lives import Life
from actors.messages import Leader, Phase, ReplicaStatus, Role
from actors.succession import CALL_S, Succession, speaker


def follower(number: int, commits: int = 0, generation: int = 0, **more: object) -> ReplicaStatus:
    fields: dict[str, object] = {"phase": Phase.RUNNING, "role": Role.FOLLOWER, "pid": 100 + number, **more}
    return ReplicaStatus(replica=number, commits=commits, generation=generation, **fields)  # type: ignore[arg-type]


def leader(number: int, generation: int, **more: object) -> ReplicaStatus:
    return replace(follower(number, 50, generation), role=Role.LEADER, **more)  # type: ignore[arg-type]


def silent(number: int) -> ReplicaStatus:
    return ReplicaStatus(replica=number, phase=Phase.STARTING, problem="does not answer yet")


def living(number: int) -> Life:
    return Life(state="ALIVE", ends=0, pid=100 + number)


ALIVE = [living(0), living(1), living(2)]
GONE = [Life(state="RESTARTING", ends=1, pid=100), living(1), living(2)]


class Clock:
    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def succession(clock: Clock) -> Succession:
    return Succession(10.0, clock)


def test_the_first_that_is_ready_leads_and_is_given_time_for_it(succession: Succession, clock: Clock) -> None:
    assert succession.next([silent(0), silent(1)], ALIVE) is None
    found = [silent(0), follower(1)]
    assert succession.next(found, ALIVE) == 1
    assert succession.next([follower(0, 90), follower(1)], ALIVE) is None
    clock.now_s += CALL_S
    assert succession.next([follower(0, 90), follower(1)], ALIVE) == 0


def test_nobody_else_is_told_while_one_leads(succession: Succession) -> None:
    for phase in (Phase.RUNNING, Phase.WAITING, Phase.DRAINED):
        assert succession.next([leader(0, 1, phase=phase), follower(1, 50, 1)], ALIVE) is None
    assert succession.leader == Leader(0, 1)


@pytest.mark.parametrize("after", [silent(0), follower(0, 40, 1, pid=777)])
def test_the_furthest_leads_at_once_when_the_leaders_process_ended(succession: Succession, after: ReplicaStatus) -> None:
    succession.next([leader(0, 1), follower(1, 49, 1), follower(2, 50, 1)], ALIVE)
    assert succession.next([after, follower(1, 49, 1), follower(2, 50, 1)], GONE) == 2
    assert succession.next([after, follower(1, 49, 1), leader(2, 2)], GONE) is None
    assert succession.leader == Leader(2, 2)


def test_a_leader_that_lives_and_is_silent_is_waited_for_a_while(succession: Succession, clock: Clock) -> None:
    succession.next([leader(0, 1), follower(1, 49, 1)], ALIVE)
    clock.now_s += 9
    assert succession.next([silent(0), follower(1, 49, 1)], ALIVE) is None
    clock.now_s += 2
    assert succession.next([silent(0), follower(1, 49, 1)], ALIVE) == 1
    succession.next([silent(0), leader(1, 2)], ALIVE)
    assert succession.next([leader(0, 1), leader(1, 2)], ALIVE) is None  # it has not noticed yet
    assert succession.leader == Leader(1, 2)


def test_a_leader_that_cannot_go_on_is_replaced_and_one_that_failed_is_not_told(succession: Succession) -> None:
    succession.next([leader(0, 1), follower(1, 49, 1)], ALIVE)
    assert succession.next([leader(0, 1, phase=Phase.FAILED), follower(1, 49, 1, phase=Phase.FAILED)], ALIVE) is None
    assert succession.next([leader(0, 1, phase=Phase.FAILED), follower(1, 49, 1)], ALIVE) == 1


def test_a_newer_writers_follower_comes_before_a_further_one_of_an_older(succession: Succession) -> None:
    assert succession.next([follower(0, 60, 1), follower(1, 40, 2), follower(2, 90, 2, loading=True)], ALIVE) == 1
    assert Succession(10.0).next([silent(0), silent(1), follower(2, 90, 2, loading=True)], ALIVE) == 2


def test_where_ray_tells_nothing_silence_decides(succession: Succession, clock: Clock) -> None:
    unknown = [None, None]
    succession.next([leader(0, 1), follower(1, 49, 1)], unknown)
    assert succession.next([silent(0), follower(1, 49, 1)], unknown) is None
    clock.now_s += 11
    assert succession.next([silent(0), follower(1, 49, 1)], unknown) == 1


def test_who_has_claimed_the_stream_last_speaks_for_it() -> None:
    assert speaker([follower(0), leader(1, 2), leader(2, 3)]).replica == 2


def test_one_that_was_told_is_given_its_time_though_the_failed_leader_is_still_there(succession: Succession) -> None:
    succession.next([leader(0, 1), follower(1, 49, 1), follower(2, 49, 1)], ALIVE)
    failed = leader(0, 1, phase=Phase.FAILED)
    assert succession.next([failed, follower(1, 49, 1), follower(2, 49, 1)], ALIVE) == 1
    assert succession.next([failed, follower(1, 49, 1), follower(2, 50, 1)], ALIVE) is None
