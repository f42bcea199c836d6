"""A dozen seeds, and the checker itself: faults of the product that are planted on purpose must not get past it."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.feed import Feed
from tests.faults.parts import Parts, has_gateway
from tests.faults.planted import FAULTS
from tests.faults.run import run
from tests.faults.schedule import Able, Schedule, Step, schedule_of

SEEDS = 12
ALL = Able()


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Parts]:
    """Those that are quick to start: `make test-fault` takes Apache Kafka."""
    with Parts(tmp_path_factory.mktemp("faults"), apache=False, s3=has_gateway(), ray=False) as found:
        yield found


@pytest.mark.fault
@pytest.mark.parametrize("seed", range(SEEDS))
def test_nothing_is_lost_and_nothing_twice_whatever_happens(seed: int, parts: Parts) -> None:
    verdict = run(schedule_of(seed, parts.able), parts)
    assert verdict.problems == [], json.dumps(verdict.as_dict(), indent=2)


@pytest.mark.fault
@pytest.mark.parametrize(
    ("fault", "caught"),
    [
        ("commit_before_the_snapshot", "a plain read of the topic gives"),
        ("lose_a_dead_letter", "dead letters that never arrived"),
        ("apply_twice", "documents remembered that should not be"),
        ("drop_an_offset", "offsets, .* were published"),
        ("skip_in_a_follower", "the live memory of replica . is"),
        ("save_a_flipped_bit", "its SHA-256 is .*, the manifest says"),
    ],
)
def test_a_planted_fault_is_caught(fault: str, caught: str, parts: Parts) -> None:
    verdict = run(calm(follow=fault == "skip_in_a_follower"), parts, plant=fault)
    assert not verdict.passed
    assert any(re.search(caught, problem) for problem in verdict.problems), verdict.problems


@pytest.mark.fault
@pytest.mark.parametrize("follow", [False, True])
def test_without_a_planted_fault_the_same_run_passes(follow: bool, parts: Parts) -> None:
    assert run(calm(follow=follow), parts).problems == []


def calm(*, follow: bool) -> Schedule:
    """Two replicas, one order, and all kinds of records; nothing is done to them."""
    feed = Feed(random.Random(1), 1)
    steps = [step for _ in range(3) for step in (Step(action="publish", records=tuple(feed.take(16))), Step(action="learned"))]
    return Schedule(
        seed=-1,
        processes="nursery",
        memory="blocks",
        store="file",
        partitions=1,
        replicas=2,
        blocks=1_000,
        every_updates=4,
        group=True,
        mode="follow" if follow else "consume",
        last=24,
        steps=tuple(steps),
    )


def test_a_seed_is_a_schedule() -> None:
    assert schedule_of(5, ALL) == schedule_of(5, ALL) != schedule_of(6, ALL)


def test_200_seeds_hold_every_fault_many_times() -> None:
    schedules = [schedule_of(seed, ALL) for seed in range(200)]
    done = [step.action for schedule in schedules for step in schedule.steps]
    quiet = {"publish", "pause", "learned"}
    assert {each: done.count(each) for each in set(done) - quiet if done.count(each) < 3} == {}
    assert {
        *("kill_replica", "kill_poller", "kill_query", "kill_supervisor", "kill_broker", "term", "stop_replica", "stop_poller"),
        *("freeze_broker", "add_partitions", "recreate", "store_errors", "store_slow", "store_lost", "store_cut", "disk_full"),
        *("damage", "second_writer", "change_leader"),
    } == set(done) - quiet
    kinds = {record.kind for schedule in schedules for step in schedule.steps for record in step.records}
    assert kinds == {"plain", "named", "long", "again", "correction", "deletion", "stranger", "short", "bad"}


def test_every_planted_fault_has_its_test() -> None:
    source = Path(__file__).read_text()
    assert [fault for fault in FAULTS if f'("{fault}", ' not in source] == []
