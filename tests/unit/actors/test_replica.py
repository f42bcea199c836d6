"""A replica in this process, its poller scripted: it learns, saves, drains, restores, and stops where it must."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from actors.config import StreamConfig
from actors.messages import Learnable, Phase, Question, ReplicaStatus
from actors.replica import Replica
from model.errors import ModelError
from pipeline.errors import DataLoss, DeadLetterUnacknowledged
from pipeline.fetched import Joined
from pipeline.snapshots.writer import SnapshotStore
from tests.doubles.stream import NEWS, ScriptedPoller, documents

SCRIPT: list[Learnable] = [Joined(partition=NEWS, position=0), *documents(20)]


class Stage:
    """Makes replicas, remembers their pollers, and drains all in the end."""

    def __init__(self) -> None:
        self.pollers: list[ScriptedPoller] = []
        self._replicas: list[Replica] = []

    def start(self, config: StreamConfig, number: int = 0, script: list[Learnable] = SCRIPT) -> Replica:
        def opened(config: StreamConfig, positions: Mapping[str, int], owns_lineage: bool, topic_ids: Mapping[str, str]) -> ScriptedPoller:
            self.pollers.append(ScriptedPoller(script, 20, positions))
            return self.pollers[-1]

        self._replicas.append(Replica(config, number, 1, opened))
        return self._replicas[-1]

    def end(self) -> None:
        for replica in self._replicas:
            replica.drain()


@pytest.fixture
def stage() -> Iterator[Stage]:
    made = Stage()
    yield made
    made.end()


def wait(replica: Replica, enough: Callable[[ReplicaStatus], bool]) -> ReplicaStatus:
    for _ in range(1000):
        status = replica.status()
        if enough(status):
            return status
        time.sleep(0.01)
    raise AssertionError(status)


def test_it_learns_saves_and_drains(stage: Stage, config_with: Callable[..., StreamConfig]) -> None:
    config = config_with()
    replica = stage.start(config)
    wait(replica, lambda status: status.caught_up)
    status = replica.drain()
    assert (status.phase, status.position, status.epoch) == (Phase.DRAINED, {"news/0": 20}, 1)
    assert sum(status.counts.values()) == 20
    manifest = SnapshotStore(config.snapshots, config.stream).load(1)
    assert (manifest.pool_sha256, manifest.update_number) == (status.pool_sha256, status.update_number)
    assert stage.pollers[0].log == ["flush", "commit {'news/0': 20} test@1", "close"]
    assert replica.drain().epoch == 1  # nothing is new


def test_replay_exact_stopping_and_going_on_gives_the_same_as_one_run(
    stage: Stage, config_with: Callable[..., StreamConfig], tmp_path: Path
) -> None:
    unbroken, parts = config_with(), config_with(snapshots={"root": str(tmp_path / "parts")})
    whole = stage.start(unbroken)
    wait(whole, lambda status: status.caught_up)
    for end in (7, 13, 20):
        replica = stage.start(parts, script=SCRIPT[: end + 1])
        wait(replica, lambda status, end=end: status.position == {"news/0": end})  # type: ignore[misc]
        last = replica.drain()
    assert (last.pool_sha256, last.position, last.counts) == (
        whole.drain().pool_sha256,
        whole.status().position,
        whole.status().counts,
    )


def test_snapshots_are_written_while_it_learns(stage: Stage, config_with: Callable[..., StreamConfig]) -> None:
    config = config_with(snapshots={"every_updates": 5})
    replica = stage.start(config)
    wait(replica, lambda status: status.caught_up)
    assert replica.drain().epoch == len(SnapshotStore(config.snapshots, config.stream).epochs()) > 1


def test_another_replica_writes_nothing_and_names_no_sum_that_it_did_not_save(
    stage: Stage, config_with: Callable[..., StreamConfig]
) -> None:
    config = config_with(snapshots={"every_updates": 2})
    replica = stage.start(config, number=1)
    wait(replica, lambda status: status.caught_up)
    assert (replica.drain().pool_sha256, SnapshotStore(config.snapshots, config.stream).epochs()) == (None, [])


def test_questions_are_answered_at_one_version_each(stage: Stage, config_with: Callable[..., StreamConfig]) -> None:
    replica = stage.start(config_with(stream="news"))
    wait(replica, lambda status: status.caught_up)
    answer = replica.answer(Question.of("Who is person 3?", 5))
    known = answer.knowledge
    assert (known.stream, known.position, known.applied, known.version) == ("news", {"news/0": 20}, 20, replica.status().version)
    assert known.staleness_s is not None and answer.completion_tokens <= 5
    with pytest.raises(ValueError, match="must have 1 to 2048"):
        replica.answer(Question.of("x" * 3000))


def test_an_error_that_will_not_pass_ends_the_stream_and_not_the_answers(
    stage: Stage, config_with: Callable[..., StreamConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(self: ScriptedPoller, max_bytes: int, timeout_s: float) -> None:
        raise DataLoss("news/0: the log does not go on")

    monkeypatch.setattr(ScriptedPoller, "poll", lost)
    replica = stage.start(config_with())
    status = wait(replica, lambda status: status.phase is Phase.FAILED)
    assert status.problem == "DataLoss: news/0: the log does not go on"
    assert replica.answer(Question.of("Who?", 2)).knowledge.applied == 0
    assert replica.drain().phase is Phase.FAILED


def test_nothing_silent_no_position_is_saved_before_its_dead_letters(
    stage: Stage, config_with: Callable[..., StreamConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    def unacknowledged(self: ScriptedPoller, timeout_s: float) -> None:
        raise DeadLetterUnacknowledged("no answer")

    config = config_with(snapshots={"every_updates": 5})
    with monkeypatch.context() as patch:
        patch.setattr(ScriptedPoller, "flush", unacknowledged)
        replica = stage.start(config)
        status = wait(replica, lambda status: status.caught_up and status.snapshot_problem is not None)
        assert (status.phase, status.problem) == (Phase.RUNNING, None)  # updates go on, it is tried again
        assert SnapshotStore(config.snapshots, config.stream).epochs() == []
        with pytest.raises(DeadLetterUnacknowledged):
            replica.drain()
    assert replica.drain().epoch == 1


def test_one_writer_a_replaced_one_stops(stage: Stage, config_with: Callable[..., StreamConfig]) -> None:
    config = config_with(snapshots={"every_updates": 1})
    replica = stage.start(config, script=SCRIPT[:1])
    SnapshotStore(config.snapshots, config.stream).claim_generation()
    stage.pollers[0]._items = list(SCRIPT[1:4])
    status = wait(replica, lambda status: status.phase is Phase.FAILED)
    assert status.problem is not None and status.problem.startswith("StaleWriter: generation 2 has claimed")


def test_a_device_that_is_not_there_is_said_at_once(config_with: Callable[..., StreamConfig], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(ModelError, match="sees no GPU"):
        Replica(config_with(replicas={"device": "cuda"}), 0, 1)
