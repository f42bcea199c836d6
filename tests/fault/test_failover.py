"""Followers on a real Ray, and a leader that is killed or suspended: what comes out is what one undisturbed replica knows."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from actors.config import StreamConfig
from actors.messages import Answer, Question, ReplicaStatus, Role
from actors.succession import speaker
from actors.supervisor import Supervisor
from pipeline.publish import Publisher
from pipeline.snapshots.writer import SnapshotReader
from tests.processes import eventually, kill_9

pytestmark = [pytest.mark.fault, pytest.mark.timeout(600)]

WHO = Question.of("Who is it?", 4)
RECORDS = 48
PATIENCE_S = 240.0


def publish(config: StreamConfig, first: int, end: int) -> None:
    """Persons `first` up to and without `end`, and among them a record that is no document and one that was learned before."""
    with Publisher(config.kafka, config.kafka.topics[0], partitions=1) as publisher:
        for number in range(first, end):
            publisher.publish_one({"id": str(number), "text": f"Person {number}.", "time": 1_767_000_000 + number})
            if number % 10 == 5:
                publisher.publish_one({"id": "bad", "text": ["not", "a", "text"]})
                publisher.publish_one({"id": f"again-{number}", "text": f"Person {number}."})


class Asker:
    """Asks without a pause, and remembers what was answered, and when."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self.answers: list[tuple[float, Answer]] = []
        self.errors: list[Exception] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._over.is_set():
            try:
                self.answers.append((time.monotonic(), self._supervisor.ask(WHO)))
            except Exception as error:  # told by the test
                self.errors.append(error)
            time.sleep(0.02)

    def end(self) -> None:
        self._over.set()
        self._thread.join(30)


class Deployment:
    """A running stream whose supervisor watches it."""

    def __init__(self, config: StreamConfig) -> None:
        self.config, self.supervisor = config, Supervisor.start(config)
        self.statuses: list[ReplicaStatus] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        for statuses in self.supervisor.watch(lambda statuses: self._over.is_set()):
            self.statuses = statuses

    def leader(self) -> ReplicaStatus:
        eventually(lambda: any(each.role is Role.LEADER for each in self.statuses), "one leads")
        return speaker(self.statuses)

    def at(self, records: int) -> None:
        def told() -> bool:
            return bool(self.statuses) and all(each.caught_up and sum(each.counts.values()) == records for each in self.statuses)

        try:
            eventually(told, f"all know {records} records", PATIENCE_S)
        except AssertionError as error:
            raise AssertionError(f"{error}: {self.statuses}") from None

    def drain(self) -> list[ReplicaStatus]:
        self._over.set()
        self._thread.join(60)
        return self.supervisor.drain()

    def stop(self) -> None:
        self._over.set()
        self._thread.join(60)
        self.supervisor.stop()


@pytest.fixture
def deploy(ray_address: str) -> Iterator[Callable[[StreamConfig], Deployment]]:
    made: list[Deployment] = []

    def deployed(config: StreamConfig) -> Deployment:
        made.append(Deployment(config))
        return made[-1]

    yield deployed
    for each in made:
        each.stop()


def known(status: ReplicaStatus) -> tuple[object, ...]:
    return status.memory_sha256, status.position, status.counts, status.update_number, status.watermark_ms


def undisturbed(deploy: Callable[[StreamConfig], Deployment], config: StreamConfig) -> ReplicaStatus:
    alone = config.model_copy(update={"stream": f"{config.stream}-alone", "replicas": config.replicas.model_copy(update={"count": 1})})
    one = deploy(alone)
    one.at(RECORDS)
    (status,) = one.drain()
    return status


def test_followers_equal_their_leader_through_its_death_and_their_own(
    deploy: Callable[[StreamConfig], Deployment], stream: Callable[..., StreamConfig]
) -> None:
    config = stream(replicas={"count": 2, "window_bytes": 1 << 20}, snapshots={"every_updates": 7})
    publish(config, 0, 20)
    ours = deploy(config)
    ours.at(24)
    passes = {each.replica: each.forward_passes for each in ours.statuses}
    first = ours.leader()
    assert passes == {first.replica: first.update_number, 1 - first.replica: 0} and first.update_number == 20

    asking = Asker(ours.supervisor)
    eventually(lambda: len(asking.answers) > 2, "it answers")
    assert first.pid is not None
    killed_s = time.monotonic()
    kill_9(first.pid)
    publish(config, 20, 30)
    eventually(lambda: speaker(ours.statuses).generation == 2, "the other one leads")
    second = speaker(ours.statuses)
    print(f"without a leader for {time.monotonic() - killed_s:.1f} s")
    eventually(lambda: any(each.knowledge.applied == 30 for _, each in asking.answers[-1:]), "it answers from what came since")
    assert second.replica == 1 - first.replica
    ours.at(36)
    roles = {each.replica: (each.role, each.pid != first.pid, each.forward_passes) for each in ours.statuses}
    assert roles == {first.replica: (Role.FOLLOWER, True, 0), second.replica: (Role.LEADER, True, 10)}

    (follower,) = (each for each in ours.statuses if each.role is Role.FOLLOWER)
    assert follower.pid is not None
    kill_9(follower.pid)
    publish(config, 30, 40)
    ours.at(RECORDS)
    asking.end()
    assert not asking.errors and len(asking.answers) > 10
    pauses = [later - earlier for (earlier, _), (later, _) in zip(asking.answers, asking.answers[1:], strict=False)]
    print(f"{len(asking.answers)} answers, the longest pause {max(pauses):.1f} s")
    versions = [answer.knowledge.version for _, answer in asking.answers]
    assert versions[-1] == 40

    drained = ours.drain()
    assert known(drained[0]) == known(drained[1]) == known(undisturbed(deploy, config))
    reader = SnapshotReader(config.snapshots.root, config.stream)
    rows = list(reader.read_ledger(reader.load(max(reader.epochs()))))
    assert len({(row.partition, row.offset) for row in rows}) == len(rows) == 40


def test_one_writer_a_leader_that_is_suspended_and_comes_back_follows(
    deploy: Callable[[StreamConfig], Deployment], stream: Callable[..., StreamConfig]
) -> None:
    config = stream(replicas={"count": 2, "leader_silent_s": 2}, snapshots={"every_updates": 5})
    publish(config, 0, 20)
    ours = deploy(config)
    ours.at(24)
    first = ours.leader()
    assert first.pid is not None
    os.kill(first.pid, signal.SIGSTOP)
    try:
        publish(config, 20, 30)
        eventually(lambda: speaker(ours.statuses).generation == 2, "the other one leads")
        eventually(lambda: speaker(ours.statuses).counts["applied"] == 30, "it learns what came since")
    finally:
        os.kill(first.pid, signal.SIGCONT)
    ours.at(36)

    def follows() -> bool:
        back = ours.statuses[first.replica]
        return (back.role, back.pid, back.generation) == (Role.FOLLOWER, first.pid, 2)

    eventually(follows, "the one that was suspended follows")
    publish(config, 30, 40)
    ours.at(RECORDS)
    drained = ours.drain()
    assert known(drained[0]) == known(drained[1]) == known(undisturbed(deploy, config))
    reader = SnapshotReader(config.snapshots.root, config.stream)
    generations = [reader.load(epoch).generation for epoch in reader.epochs()]
    assert generations == sorted(generations)
