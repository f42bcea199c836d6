"""What kills the process that reads the topics is passed over, and nothing beside it. Real processes, a real replica, a real broker."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence

import pytest
import ray
from kafka import KafkaProducer

import actors.careful
import actors.remote_poller
import actors.replica
from actors.config import StreamConfig
from actors.messages import Phase, ReplicaStatus
from actors.replica import Replica
from pipeline.dead_letters import DeadLetterSink
from pipeline.letters import read_letters
from pipeline.publish import ensure_topic
from tests.doubles import process_actors
from tests.doubles.poison import DEADLY_BATCH, DEADLY_RECORD, PoisonedPoller, StillbornPoller
from tests.processes import eventually

pytestmark = pytest.mark.fault

Start = Callable[[StreamConfig], Replica]
PATIENCE_S = 240.0


@pytest.fixture(params=["processes", pytest.param("ray", marks=pytest.mark.slow)])
def actors_of(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[[type], None]:
    """Makes a kind of poller the one that replicas start: as plain processes, or as Ray's actors."""
    if request.param == "ray":
        request.getfixturevalue("ray_address")
        return lambda kind: monkeypatch.setattr(actors.remote_poller, "PollerActor", ray.remote(kind))
    monkeypatch.setattr(actors.remote_poller, "ray", process_actors.InPlaceOfRay)
    monkeypatch.setattr(actors.remote_poller, "result_of", process_actors.InPlaceOfRay.get)
    monkeypatch.setattr(actors.remote_poller, "here", lambda: None)
    return lambda kind: monkeypatch.setattr(actors.remote_poller, "PollerActor", process_actors.actors_of(kind))


@pytest.fixture
def replica(actors_of: Callable[[type], None], monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    actors_of(PoisonedPoller)
    monkeypatch.setattr(actors.careful, "FIRST_PAUSE_S", 0.1)
    monkeypatch.setattr(actors.replica, "RETRY_S", 0.1)
    started: list[Replica] = []

    def start(config: StreamConfig) -> Replica:
        started.append(Replica(config, 0, 1))
        return started[-1]

    yield start
    for each in started:
        each.drain()
        each.close()


def text(number: int, more: bytes = b"") -> bytes:
    return b'{"id": "%d", "text": "Person %d. %s"}' % (number, number, more)


def send(config: StreamConfig, batches: Sequence[Sequence[bytes]], partition: int = 0) -> None:
    """Each list in a batch of its own, the batches of several records compressed."""
    for batch in batches:
        folding = KafkaProducer(
            bootstrap_servers=list(config.kafka.bootstrap_servers),
            compression_type="gzip" if len(batch) > 1 else None,
            acks="all",
            linger_ms=500 if len(batch) > 1 else 0,
            batch_size=1 << 20,
        )
        try:
            for future in [folding.send(config.kafka.topics[0], key=b"k", value=value, partition=partition) for value in batch]:
                future.get(timeout=10)
        finally:
            folding.close()


def until(replica: Replica, passed: int) -> ReplicaStatus:
    eventually(
        lambda: sum(replica.status().position.values()) >= passed or replica.status().phase is Phase.FAILED,
        f"{passed} were passed",
        PATIENCE_S,
    )
    return replica.status()


def counted(status: ReplicaStatus) -> dict[str, int]:
    return {name: count for name, count in status.counts.items() if count}


def test_a_record_that_kills_whoever_decodes_it_is_a_dead_letter_and_its_neighbours_are_learned(
    replica: Start, stream: Callable[..., StreamConfig]
) -> None:
    config = stream()
    ensure_topic(config.kafka, config.kafka.topics[0], partitions=2)
    send(config, [[text(0)], [text(1)], [text(2, DEADLY_RECORD)], [text(3)]])
    send(config, [[text(4)], [text(5)]], partition=1)
    running = replica(config)
    status = until(running, 6)
    assert (status.phase, counted(status)) == (Phase.RUNNING, {"applied": 5, "dead_letter": 1}), status.problem
    assert status.poller_deaths >= 2
    running.drain()
    letters = list(read_letters(config.kafka, DeadLetterSink(config.kafka, config.dead_letters).topic))
    found = {(letter.reason, letter.origin.number, letter.origin_offset, letter.value) for letter in letters}
    assert found == {("kills_reader", 0, 2, text(2, DEADLY_RECORD))}


def test_a_batch_that_kills_whoever_unfolds_it_is_one_gap_and_its_neighbours_are_learned(
    replica: Start, stream: Callable[..., StreamConfig]
) -> None:
    config = stream()
    ensure_topic(config.kafka, config.kafka.topics[0])
    deadly = [text(number, DEADLY_BATCH) for number in range(10, 60)]
    send(config, [[text(0)], [text(1)], deadly, [text(2)], [text(3)]])
    running = replica(config)
    status = until(running, 54)
    assert (status.phase, counted(status)) == (Phase.RUNNING, {"applied": 4, "gap": 50}), status.problem
    assert 2 <= status.poller_deaths <= 4
    send(config, [[text(4)]])
    assert counted(until(running, 55)) == {"applied": 5, "gap": 50}


def test_on_unreadable_fail_stops_at_such_a_batch_and_says_where(replica: Start, stream: Callable[..., StreamConfig]) -> None:
    config = stream(kafka={"on_unreadable": "fail"})
    ensure_topic(config.kafka, config.kafka.topics[0])
    send(config, [[text(0)], [text(number, DEADLY_BATCH) for number in (1, 2)], [text(3)]])
    running = replica(config)
    status = until(running, 4)
    assert (status.phase, counted(status)) == (Phase.FAILED, {"applied": 1})
    assert "/0: what lies at 1 ends every process that reads it; kafka.on_unreadable: skip" in str(status.problem)


def test_processes_that_die_before_they_read_anything_pass_over_nothing(
    replica: Start, stream: Callable[..., StreamConfig], actors_of: Callable[[type], None]
) -> None:
    actors_of(StillbornPoller)
    config = stream()
    ensure_topic(config.kafka, config.kafka.topics[0])
    send(config, [[text(0)]])
    running = replica(config)
    eventually(lambda: running.status().phase is Phase.FAILED, "it gives up")
    status = running.status()
    assert counted(status) == {} and "before it read anything" in str(status.problem)


def test_where_everything_kills_the_stream_stops_instead_of_passing_it_all_over(
    replica: Start, stream: Callable[..., StreamConfig]
) -> None:
    config = stream()
    ensure_topic(config.kafka, config.kafka.topics[0])
    send(config, [[text(number, DEADLY_RECORD)] for number in range(6)])
    running = replica(config)
    began_s = time.monotonic()
    eventually(lambda: running.status().phase is Phase.FAILED, "it stops")
    status = running.status()
    assert counted(status) == {"dead_letter": 3} and "with nothing good between" in str(status.problem), time.monotonic() - began_s
