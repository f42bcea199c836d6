"""A replica in this process, its poller scripted: it learns, saves, drains, restores, and stops where it must."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from actors.config import StreamConfig
from actors.messages import Filter, Learnable, Phase, Question, ReplicaStatus
from actors.replica import Replica
from model.errors import ModelError
from pipeline.errors import DataLoss, DeadLetterUnacknowledged
from pipeline.fetched import Joined
from pipeline.snapshots.writer import SnapshotStore
from tests.doubles.stream import NEWS, START_MS, ScriptedPoller, document, documents, tombstone

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
    assert (manifest.memory_sha256, manifest.update_number) == (status.memory_sha256, status.update_number)
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
    assert (last.memory_sha256, last.position, last.counts) == (
        whole.drain().memory_sha256,
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
    assert (replica.drain().memory_sha256, SnapshotStore(config.snapshots, config.stream).epochs()) == (None, [])


def test_questions_are_answered_at_one_version_each(stage: Stage, config_with: Callable[..., StreamConfig]) -> None:
    replica = stage.start(config_with(stream="news"))
    wait(replica, lambda status: status.caught_up)
    answer = replica.answer(Question.of("Who is person 3?", 5))
    known = answer.knowledge
    assert (known.stream, known.position, known.applied, known.version) == ("news", {"news/0": 20}, 20, replica.status().version)
    assert known.staleness_s is not None and answer.completion_tokens <= 5
    with pytest.raises(ValueError, match="must have 1 to 2048"):
        replica.answer(Question.of("x" * 3000))


def test_an_answer_names_the_documents_it_was_read_from_and_a_filter_holds(stage: Stage, config_with: Callable[..., StreamConfig]) -> None:
    replica = stage.start(config_with(memory={"margin": -1e6, "read_share": 1e-9}))
    wait(replica, lambda status: status.caught_up)
    question = Question.of("Person 7.", 2)
    if replica._engine.kind == "tokens":
        assert replica.answer(question).knowledge.grounded is None
        with pytest.raises(ValueError, match="cannot be kept to some documents"):
            replica.answer(Question.of("Who?", 2, Filter(sources=("AFP",))))
        return
    read = replica.answer(question).knowledge.sources
    assert (read[0].document_id, read[0].topic, read[0].offset, len(read)) == ("news/0/7", "news", 7, 4)
    assert 0 < read[0].score <= 1
    for only, allowed in (
        (Filter(exclude=("news/0/7",)), set(range(20)) - {7}),
        (Filter(since_ms=START_MS + 15), set(range(15, 20))),
        (Filter(until_ms=START_MS + 3), {0, 1, 2}),
        (Filter(before_update=2), {0, 1}),
        (Filter(sources=("AFP",)), set()),
    ):
        known = replica.answer(Question.of("Person 7.", 2, only)).knowledge
        assert {source.offset for source in known.sources} <= allowed
        assert bool(known.sources) == bool(allowed)


def test_a_correction_and_a_deletion_change_what_is_remembered(stage: Stage, config_with: Callable[..., StreamConfig]) -> None:
    script = [
        SCRIPT[0],
        document(0, "Ada leads.", name="a"),
        document(1, "Bo leads.", name="b"),
        document(2, "Cy leads.", name="a"),
        tombstone(3, "b"),
        tombstone(4, "unknown"),
    ]
    replica = stage.start(config_with(), script=script)
    status = wait(replica, lambda status: status.position == {"news/0": 5})
    if replica._engine.kind == "blocks":
        assert (status.counts["applied"], status.counts["deleted"], status.counts["filtered"]) == (3, 1, 1)
        assert (status.remembered_updates, status.remembered_documents) == (1, 1)
    else:  # nothing can be taken out of a pool, and a tombstone is passed over
        assert (status.counts["applied"], status.counts["deleted"], status.counts["filtered"]) == (3, 0, 2)


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
