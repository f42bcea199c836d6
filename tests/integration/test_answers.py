"""Questions while the stream goes on, and replicas that do not know the same."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator

import pytest

from actors.config import StreamConfig
from actors.messages import Answer, Phase, Question, ReplicaStatus
from actors.supervisor import Supervisor
from pipeline.publish import Publisher
from tests.processes import eventually, kill_9, pids_of_pollers

pytestmark = pytest.mark.integration

WHO = Question.of("Who is it?", 8)


@pytest.fixture
def start(ray_address: str) -> Iterator[Callable[[StreamConfig], Supervisor]]:
    """Starts streams on the session's Ray, and ends them."""
    started: list[Supervisor] = []

    def starting(config: StreamConfig) -> Supervisor:
        started.append(Supervisor.start(config))
        started[-1].wait_ready()
        return started[-1]

    yield starting
    for supervisor in started:
        supervisor.stop()


def text(number: int) -> dict[str, object]:
    return {"id": str(number), "text": f"Person {number}."}


def test_read_one_version_questions_are_answered_while_updates_go_on(
    start: Callable[[StreamConfig], Supervisor], stream: Callable[..., StreamConfig]
) -> None:
    config = stream()
    topic = config.kafka.topics[0]
    with Publisher(config.kafka, topic) as publisher:
        publisher.publish_one(text(0))
        supervisor = start(config)
        answers: list[Answer] = []
        for batch in range(8):
            publisher.publish(text(1 + 10 * batch + number) for number in range(10))
            answers += [supervisor.ask(WHO) for _ in range(3)]
        for _ in supervisor.watch(lambda statuses: statuses[0].position == {f"{topic}/0": 81}):
            answers.append(supervisor.ask(WHO))
        last = supervisor.ask(WHO)
    known = [answer.knowledge for answer in (*answers, last)]
    assert [each.version for each in known] == sorted(each.version for each in known)
    assert len({each.version for each in known}) > 1  # updates went on meanwhile
    # ONE-STATE: version, update number and position of one moment. Each document here is one update and one version.
    assert all(sum(each.position.values()) == each.applied == each.update_number for each in known)
    assert all(other.text == answer.text for answer in answers for other in answers if answer.knowledge.version == other.knowledge.version)
    assert (last.knowledge.applied, last.knowledge.staleness_s is not None) == (81, True)


def test_the_replica_that_knows_more_answers_and_the_other_one_when_it_is_killed(
    start: Callable[[StreamConfig], Supervisor], stream: Callable[..., StreamConfig]
) -> None:
    config = stream(replicas={"count": 2, "mode": "consume"})
    with Publisher(config.kafka, config.kafka.topics[0]) as publisher:
        publisher.publish(map(text, range(5)))
        others = pids_of_pollers()
        supervisor = start(config)
        for _ in supervisor.watch(lambda statuses: all(status.caught_up for status in statuses)):
            pass
        slow, _ = pids_of_pollers() - others
        os.kill(slow, signal.SIGSTOP)  # one of the two hears nothing more
        try:
            publisher.publish(map(text, range(5, 30)))
            ahead, behind = wait_for_a_lead(supervisor)
            eventually(lambda: supervisor.ask(WHO).knowledge.replica == ahead.replica, "its status has been pushed")
            assert [supervisor.ask(WHO).knowledge.replica for _ in range(3)] == [ahead.replica] * 3
            assert supervisor.ask(WHO).knowledge.applied == 30

            assert ahead.pid is not None
            kill_9(ahead.pid)
            meanwhile = supervisor.ask(WHO).knowledge
            assert (meanwhile.replica, meanwhile.applied) == (behind.replica, behind.counts["applied"])
        finally:
            os.kill(slow, signal.SIGCONT)
        for _ in supervisor.watch(lambda statuses: all(status.caught_up and status.phase is Phase.RUNNING for status in statuses)):
            pass
    back = supervisor.statuses()
    assert [sum(status.counts.values()) for status in back] == [status.counts["applied"] for status in back] == [30, 30]
    assert back[ahead.replica].pid != ahead.pid
    assert supervisor.ask(WHO).knowledge.applied == 30


def wait_for_a_lead(supervisor: Supervisor) -> list[ReplicaStatus]:
    eventually(lambda: max(status.counts.get("applied", 0) for status in supervisor.statuses()) == 30, "one replica is ahead")
    statuses = sorted(supervisor.statuses(), key=lambda status: -status.counts["applied"])
    assert statuses[1].counts["applied"] < 30
    return statuses


def test_a_question_waits_for_no_one_and_says_when_nobody_can_answer(
    start: Callable[[StreamConfig], Supervisor], stream: Callable[..., StreamConfig]
) -> None:
    supervisor = start(stream())
    assert supervisor.ask(WHO).knowledge.position == {}  # there is no topic yet: it knows nothing, and answers
    (status,) = supervisor.statuses()
    assert status.phase in (Phase.STARTING, Phase.WAITING, Phase.RUNNING)
    with pytest.raises(ValueError, match="must have 1 to 2048"):
        supervisor.ask(Question.of("x" * 3000))
