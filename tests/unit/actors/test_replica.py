"""A replica in this process, its poller scripted: it learns, saves, drains, restores, and stops where it must."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from actors.config import StreamConfig
from actors.errors import NoSuchTime, NotKnownYet, NotReady
from actors.leading import Leading
from actors.learner import Learner
from actors.messages import Answer, Begun, Demand, DocumentsQuery, Filter, Learnable, Phase, Piece, Question, ReplicaStatus, Role
from actors.replica import Replica
from model.engine import Chunks
from pipeline.errors import DataLoss, DeadLetterUnacknowledged, StoreUnavailable
from pipeline.fetched import Joined, Rewind
from pipeline.records import Outcome, Partition
from pipeline.snapshots.writer import SnapshotStore
from tests.doubles.stream import NEWS, START_MS, ScriptedPoller, document, documents, tombstone

OTHER = Partition("news", 1)
SCRIPT: list[Learnable] = [Joined(partition=NEWS, position=0, topic_id="first"), *documents(20)]


class Stage:
    """Makes replicas, remembers their pollers, and drains all in the end."""

    def __init__(self) -> None:
        self.pollers: list[ScriptedPoller] = []
        self.topic_ids: list[Mapping[str, str]] = []
        self._replicas: list[Replica] = []

    def start(self, config: StreamConfig, number: int = 0, script: list[Learnable] = SCRIPT) -> Replica:
        def opened(config: StreamConfig, positions: Mapping[str, int], owns_lineage: bool, topic_ids: Mapping[str, str]) -> ScriptedPoller:
            self.pollers.append(ScriptedPoller(script, 20, positions))
            self.topic_ids.append(topic_ids)
            return self.pollers[-1]

        self._replicas.append(Replica(config, number, 1, opened))
        return self._replicas[-1]

    def end(self) -> None:
        for replica in self._replicas:
            replica.drain()
            replica.close()


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


MADE_ANEW: list[Learnable] = [
    Joined(partition=NEWS, position=0, topic_id="first"),
    Joined(partition=OTHER, position=0, topic_id="first"),
    *documents(3),
    document(0, "From elsewhere.", OTHER),
    Rewind(partition=NEWS, passed=3, position=0, topic_id="second", reason="made anew"),
    *(document(number, f"From a new topic {number}.") for number in range(20)),
]


def test_one_state_a_drain_between_a_rewind_and_what_comes_with_it_saves_each_position_with_its_topic(
    stage: Stage, config_with: Callable[..., StreamConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of two partitions is known to be in a topic that was made anew: it must not be rewound once more after the restart."""
    learn = Learner.learn

    def stopped_in_between(self: Learner, item: Learnable, coming: Iterable[Learnable] = ()) -> Any:
        commit = yield from learn(self, item, coming)
        if isinstance(item, Rewind):
            replica._stop.set()
        return commit

    monkeypatch.setattr(Learner, "learn", stopped_in_between)
    config = config_with()
    replica = stage.start(config, script=MADE_ANEW)
    wait(replica, lambda status: status.position == {"news/0": 0, "news/1": 1})
    assert replica.drain().position == {"news/0": 0, "news/1": 1}
    found = SnapshotStore(config.snapshots, config.stream).load(1)
    assert (found.positions, found.topic_ids) == ({"news/0": 0, "news/1": 1}, {"news/0": "second", "news/1": "first"})
    again = stage.start(config, script=MADE_ANEW[-20:])
    wait(again, lambda status: status.position == {"news/0": 20, "news/1": 1})
    assert stage.topic_ids == [{}, found.topic_ids]


def test_one_state_whatever_is_saved_while_a_topic_made_anew_is_read_has_its_id(
    stage: Stage, config_with: Callable[..., StreamConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Leading, "_save_if_due", Leading._save)  # after each item, before the next one
    monkeypatch.setattr(Leading, "_between_turns", lambda self, call: call())
    config = config_with(snapshots={"retention": {"last": 100}})
    wait(stage.start(config, script=MADE_ANEW), lambda status: status.position == {"news/0": 20, "news/1": 1})
    store = SnapshotStore(config.snapshots, config.stream)
    found = [store.load(epoch) for epoch in store.epochs()]
    rewound = [each for each in found if each.counts[Outcome.APPLIED] >= 4 and each.positions["news/0"] < 3]
    assert rewound and all(each.topic_ids == {"news/0": "second", "news/1": "first"} for each in rewound)


def test_where_each_reads_for_itself_one_alone_writes_and_all_know_the_same(stage: Stage, config_with: Callable[..., StreamConfig]) -> None:
    config = config_with(snapshots={"every_updates": 2}, replicas={"mode": "consume", "count": 2})
    other = stage.start(config, number=1)
    wait(other, lambda status: status.caught_up)
    drained = other.drain()
    assert (drained.role, drained.forward_passes, SnapshotStore(config.snapshots, config.stream).epochs()) == (Role.READER, 20, [])
    owner = stage.start(config)
    wait(owner, lambda status: status.caught_up)
    assert owner.drain().memory_sha256 == drained.memory_sha256


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
    if replica._ready.engine.kind == "tokens":
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
    if replica._ready.engine.kind == "blocks":
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
    wait(replica, lambda status: status.phase is Phase.RUNNING)
    SnapshotStore(config.snapshots, config.stream).claim_generation()
    stage.pollers[0]._items = list(SCRIPT[1:4])
    status = wait(replica, lambda status: status.phase is Phase.FAILED)
    assert status.problem is not None and status.problem.startswith("StaleWriter: generation 2 has claimed")


def test_a_device_that_is_not_there_is_said_at_once(
    stage: Stage, config_with: Callable[..., StreamConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    replica = stage.start(config_with(replicas={"device": "cuda"}))
    status = wait(replica, lambda status: status.phase is Phase.FAILED)
    assert status.problem is not None and "sees no GPU" in status.problem
    with pytest.raises(NotReady, match="sees no GPU"):
        replica.answer(Question.of("Who?"))


def test_a_store_that_is_away_at_the_start_is_waited_for(
    stage: Stage, config_with: Callable[..., StreamConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray does not start an actor again whose constructor raised: so nothing of it is in there."""
    monkeypatch.setattr("actors.replica.RETRY_S", 0.05)
    whole, is_back = SnapshotStore.latest, threading.Event()

    def away(self: SnapshotStore) -> object:
        if not is_back.is_set():
            raise StoreUnavailable("s3 does not answer")
        return whole(self)

    monkeypatch.setattr(SnapshotStore, "latest", away)
    replica = stage.start(config_with())
    assert wait(replica, lambda status: "s3 does not answer" in (status.problem or "")).phase is Phase.WAITING
    is_back.set()
    assert wait(replica, lambda status: status.caught_up).phase is Phase.RUNNING


def test_a_backlog_that_is_being_learned_is_no_stream_that_is_caught_up(
    stage: Stage, config_with: Callable[..., StreamConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the last poll but one said is not told as now."""
    replica = stage.start(config_with())
    wait(replica, lambda status: status.caught_up)
    stage.pollers[0].may_go_on.clear()
    may_learn, engine = threading.Event(), replica._ready.engine
    prepare = engine.prepare

    def slowly(chunks: Chunks, coming: Iterable[Chunks] = ()) -> object:
        may_learn.wait(20)
        return prepare(chunks, coming)

    monkeypatch.setattr(engine, "prepare", slowly)
    stage.pollers[0]._end = 23
    stage.pollers[0]._items = list(documents(3, 20))
    stage.pollers[0].may_go_on.set()
    status = wait(replica, lambda status: status.highwater == {"news/0": 23})
    assert (status.caught_up, status.position["news/0"]) == (False, 20)
    may_learn.set()
    assert wait(replica, lambda status: status.caught_up).position == {"news/0": 23}


# ---------------------------------------------------------------------- what a question demands


def test_a_question_waits_for_what_it_demands_to_be_known(stage: Stage, config_with: Callable[..., StreamConfig]) -> None:
    replica = stage.start(config_with())
    wait(replica, lambda status: status.caught_up)
    stage.pollers[0].may_go_on.clear()
    demand = Demand(at_least={"news/0": 20}, wait_s=0.05)
    with pytest.raises(NotKnownYet, match="news/0 has been read up to 20, not beyond 20"):
        replica.answer(replace(Question.of("Who?", 2), demand=demand))
    stage.pollers[0]._items = [document(20, "Person 20.")]
    told: list[object] = []
    replica.ask(replace(Question.of("Who?", 2), demand=replace(demand, wait_s=10)), told.append)
    time.sleep(0.1)
    assert not told
    stage.pollers[0].may_go_on.set()
    for _ in range(500):
        if told and isinstance(told[-1], Answer):
            break
        time.sleep(0.01)
    assert isinstance(told[-1], Answer) and told[-1].knowledge.position == {"news/0": 21}


def test_a_question_may_demand_how_stale_the_answer_is_at_most(stage: Stage, config_with: Callable[..., StreamConfig]) -> None:
    replica = stage.start(config_with())
    wait(replica, lambda status: status.caught_up)
    assert replica.answer(replace(Question.of("Who?", 2), demand=Demand(max_staleness_s=30))).knowledge.staleness_s is not None
    stage.pollers[0].may_go_on.clear()
    time.sleep(0.15)
    with pytest.raises(NotKnownYet, match=r"0.05 s are demanded"):
        replica.answer(replace(Question.of("Who?", 2), demand=Demand(max_staleness_s=0.05)))


def test_as_of_an_earlier_snapshot_answers_what_was_known_then(stage: Stage, config_with: Callable[..., StreamConfig]) -> None:
    config = config_with(memory={"margin": -1e6, "read_share": 1e-9})
    replica = stage.start(config, script=SCRIPT[:6])
    wait(replica, lambda status: status.position == {"news/0": 5})
    replica.drain()
    then_ms = int(time.time() * 1000)
    time.sleep(0.02)
    later = stage.start(config)
    wait(later, lambda status: status.caught_up)
    question = Question.of("Person 7.", 2)
    if later._ready.engine.kind == "tokens":
        with pytest.raises(ValueError, match="as_of needs a model of blocks"):
            later.answer(replace(question, demand=Demand(as_of_epoch=1)))
        return
    for demand in (Demand(as_of_epoch=1), Demand(as_of_ms=then_ms)):
        known = later.answer(replace(question, demand=demand)).knowledge
        assert (known.epoch, known.position, {source.offset for source in known.sources} <= set(range(5))) == (1, {"news/0": 5}, True)
    assert later.answer(question).knowledge.sources[0].offset == 7
    with pytest.raises(NoSuchTime, match="no snapshot 9; there are 1 to 1"):
        later.answer(replace(question, demand=Demand(as_of_epoch=9)))
    with pytest.raises(NoSuchTime, match="no snapshot is as old as"):
        later.answer(replace(question, demand=Demand(as_of_ms=then_ms - 10_000_000)))


def test_what_is_remembered_can_be_listed_and_what_became_of_an_offset_is_known(
    stage: Stage, config_with: Callable[..., StreamConfig]
) -> None:
    script = [SCRIPT[0], document(0, "Ada leads.", title="Ada", name="a"), document(1, "Bo.", name="b"), tombstone(2, "unknown")]
    replica = stage.start(config_with(), script=script)
    wait(replica, lambda status: status.position == {"news/0": 3})
    page = replica.documents(DocumentsQuery())
    assert ([each.document_id for each in page.documents], page.total) == (["b", "a"], 2)
    assert [each.document_id for each in replica.documents(DocumentsQuery(text="ADA")).documents] == ["a"]
    assert replica.documents(DocumentsQuery(limit=1, offset=1)).documents[0].document_id == "a"
    fates = [replica.fate("news", 0, offset).state for offset in range(4)]
    assert fates == ["applied", "applied", "filtered", "waiting"]


def test_several_answers_come_from_one_version_and_pieces_make_up_the_text(stage: Stage, config_with: Callable[..., StreamConfig]) -> None:
    replica = stage.start(config_with())
    wait(replica, lambda status: status.caught_up)
    told: list[object] = []
    replica.ask(replace(Question.of("Who?", 6), answers=3, temperature=2.0, seed=4, top_logprobs=2), told.append)
    for _ in range(500):
        if told and isinstance(told[-1], Answer):
            break
        time.sleep(0.01)
    answer = told[-1]
    assert isinstance(answer, Answer) and isinstance(told[0], Begun) and len(answer.choices) == 3
    for index, choice in enumerate(answer.choices):
        pieces = [piece for piece in told if isinstance(piece, Piece) and piece.index == index]
        assert "".join(piece.text for piece in pieces) == choice.text
        assert sum((piece.tokens for piece in pieces), ()) == choice.tokens and len(choice.tokens) == choice.completion_tokens
    assert len({choice.text for choice in answer.choices}) > 1
