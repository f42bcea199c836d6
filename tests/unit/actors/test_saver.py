"""SNAPSHOT-IS-TRUTH: what was saved comes back bit for bit, and goes on as if nothing had happened."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from actors.config import StreamConfig
from actors.learner import Learner
from actors.messages import Learnable, Saved
from actors.saver import Saver
from model.engine import Asking, Read, answer
from model.loading import EngineOptions, load_engine
from pipeline.errors import SnapshotMismatch, StaleWriter, StoreUnavailable
from pipeline.positions import StreamState
from pipeline.snapshots.writer import SnapshotStore
from tests.doubles.stream import NEWS, ScriptedPoller, document, documents, tombstone
from tests.doubles.tiny import tiny_block_checkpoint, tiny_checkpoint


class Brain:
    """All of a replica that a snapshot is about. Restores when it is made, as a replica does."""

    def __init__(self, config: StreamConfig, folder: Path, seed: int = 0) -> None:
        self.store = SnapshotStore(config.snapshots, config.stream)
        self.engine = load_engine(folder, "cpu", "float32", EngineOptions(seed=seed, blocks=16))
        self.saver = Saver(config, self.store, self.engine, torch.device("cpu"))
        self.restored = self.saver.restore()
        state = self.restored or StreamState.beginning({}).joined(NEWS, 0, "first")
        self.learner = Learner(config, self.engine, state, lambda letter: None)
        self.poller = ScriptedPoller([], 0)

    def learn(self, first: int, count: int) -> None:
        for item in documents(count, first):
            self.learn_item(item)

    def learn_item(self, item: Learnable) -> None:
        for _ in self.learner.learn(item):
            pass

    def save(self, poller: ScriptedPoller | None = None) -> Saved:
        return self.saver.save(self.learner, poller or self.poller, lambda call: call())

    def answer(self) -> tuple[str, tuple[Read, ...]]:
        done = answer(self.engine, [{"role": "user", "content": "Who is Person 7?"}], Asking(limit=12))
        return done.text, done.read


@pytest.fixture
def config(config_with: Callable[..., StreamConfig]) -> StreamConfig:
    return config_with()


@pytest.fixture
def saved(config: StreamConfig, checkpoint: Path) -> Brain:
    brain = Brain(config, checkpoint, seed=5)
    brain.saver.claim()
    brain.learn(0, 11)
    brain.save()
    return brain


def test_a_restored_replica_is_the_same_in_pool_state_and_answers(config: StreamConfig, checkpoint: Path, saved: Brain) -> None:
    back = Brain(config, checkpoint)
    assert back.restored == saved.learner.state
    assert back.answer() == saved.answer()
    assert back.answer()[0] != ""
    assert back.saver.last == saved.saver.last
    back.saver.claim()
    again = back.save()
    assert saved.saver.last is not None
    assert (again.epoch, again.memory_sha256) == (2, saved.saver.last.memory_sha256)


def test_replay_exact_a_restored_replica_goes_on_to_the_same_pool(config: StreamConfig, checkpoint: Path, saved: Brain) -> None:
    back = Brain(config, checkpoint)
    for brain in (saved, back):
        brain.learn(11, 9)
    back.saver.claim()
    assert saved.learner.state == back.learner.state
    restored = back.save()
    assert back.answer() == saved.answer()
    with pytest.raises(StaleWriter):  # ONE-WRITER
        saved.save()
    saved.saver.claim()
    assert saved.save().memory_sha256 == restored.memory_sha256


def test_dead_letters_are_acknowledged_before_the_position_and_the_commit_comes_last(config: StreamConfig, saved: Brain) -> None:
    assert saved.poller.log == ["flush", "commit {'news/0': 11} test@1"]
    saved.poller.log.clear()
    epochs: list[list[int]] = []

    class Watching(ScriptedPoller):
        def flush(self, timeout_s: float) -> None:
            epochs.append(saved.store.epochs())

        def commit(self, positions: object, metadata: str) -> None:
            epochs.append(saved.store.epochs())

    saved.save(Watching([], 0))
    assert epochs == [[1], [1, 2]]


def test_another_model_is_refused(config: StreamConfig, saved: Brain, tmp_path: Path) -> None:
    same = tiny_block_checkpoint if saved.engine.kind == "blocks" else tiny_checkpoint
    other = same(tmp_path / "other", K=16, seed=1)
    with pytest.raises(SnapshotMismatch, match="was written by model"):
        Brain(config, other)


def test_a_snapshot_names_every_version_that_the_memory_hangs_on(saved: Brain) -> None:
    manifest = saved.store.load(1)
    assert set(manifest.build) == {"memstream", "torch", "transformers", "python"} and all(manifest.build.values())


def test_a_broken_snapshot_is_told_and_the_one_before_is_used(
    config: StreamConfig, checkpoint: Path, saved: Brain, caplog: pytest.LogCaptureFixture
) -> None:
    saved.learn(11, 1)
    saved.save()
    entry = saved.store.load(2).object("index.arrow" if saved.engine.kind == "blocks" else "pool.arrow")
    file = Path(saved.store.url.removeprefix("file://")) / entry.path
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    with caplog.at_level(logging.ERROR):
        back = Brain(config, checkpoint)
    assert back.restored is not None and back.restored.positions == {NEWS: 11}
    assert "epoch 2" in caplog.text and "SHA-256" in caplog.text


def test_a_segment_that_cannot_be_mapped_is_told_and_the_snapshot_before_is_used(
    config: StreamConfig, checkpoint: Path, saved: Brain, caplog: pytest.LogCaptureFixture
) -> None:
    if saved.engine.kind != "blocks":
        pytest.skip("a pool is read whole, and compared with its digest")
    saved.learn(11, 3)
    saved.save()
    entry = saved.store.load(2).segments[-1]
    file = Path(saved.store.url.removeprefix("file://")) / entry.path
    data = bytearray(file.read_bytes())
    data[-10:-6] = b"\xff" * 4  # the length of its footer: as large a file as before, and none that Arrow reads
    file.write_bytes(data)
    with caplog.at_level(logging.ERROR):
        back = Brain(config, checkpoint)
    assert back.restored is not None and back.restored.positions == {NEWS: 11}
    assert "snapshot not used: epoch 2" in caplog.text and Path(entry.path).name in caplog.text


def test_nothing_saved_nothing_restored(config: StreamConfig, checkpoint: Path) -> None:
    assert Brain(config, checkpoint).restored is None


def test_an_empty_memory_can_be_saved_and_restored(config: StreamConfig, checkpoint: Path) -> None:
    empty = Brain(config, checkpoint)
    empty.saver.claim()
    empty.save()
    back = Brain(config, checkpoint)
    assert back.restored == StreamState.beginning({}).joined(NEWS, 0, "first") and back.engine.num_tokens == 0


def test_a_snapshot_of_blocks_writes_only_what_is_new_and_is_restored_with_corrections_and_deletions(
    config: StreamConfig, checkpoint: Path
) -> None:
    brain = Brain(config, checkpoint)
    if brain.engine.kind != "blocks":
        pytest.skip("a pool is written whole")
    brain.saver.claim()
    for offset, name in enumerate("abcd"):
        brain.learn_item(document(offset, f"Person {name}.", name=name))
    brain.save()
    brain.learn_item(document(4, "Someone else.", name="b"))
    brain.learn_item(tombstone(5, "c"))
    brain.save()
    first, second = brain.store.load(1), brain.store.load(2)
    assert [entry.rows for entry in second.segments] == [4, 1] and second.segments[0] == first.segments[0]
    back = Brain(config, checkpoint)
    assert back.learner.state == brain.learner.state
    assert [(row.document_id, row.updates) for row in back.learner.state.ledger] == [("a", (0,)), ("d", (3,)), ("b", (4,))]
    assert back.answer() == brain.answer()


def test_blocks_that_a_snapshot_merged_are_read_from_where_they_lie_now(config: StreamConfig, checkpoint: Path) -> None:
    """Thirty snapshots of one block each, in a memory of 16: few segments, the same memory, the same answers."""
    brain, whole = Brain(config, checkpoint), Brain(config, checkpoint)
    if brain.engine.kind != "blocks":
        pytest.skip("a pool is written whole")
    brain.saver.claim()
    for number in range(30):
        brain.learn(number, 1)
        brain.save()
    whole.learn(0, 30)
    last = brain.store.load(30)
    assert len(last.segments) <= 16 and sum(entry.rows for entry in last.segments) <= 2 * 16
    assert brain.answer() == whole.answer() == Brain(config, checkpoint).answer()
    whole.saver.claim()
    assert whole.save().memory_sha256 == last.memory_sha256


def test_what_retention_does_not_keep_goes_and_a_store_that_fails_meanwhile_is_no_failure(
    config_with: Callable[..., StreamConfig], checkpoint: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_with(snapshots={"retention": {"last": 2, "hourly": 0, "daily": 0, "garbage_after_s": 0}})
    brain = Brain(config, checkpoint)
    brain.saver.claim()
    for number in range(4):
        brain.learn(number, 1)
        brain.save()
    monkeypatch.setattr(brain.store.objects, "listing", refuses)
    brain.saver.tidy()
    assert "tried again" in caplog.text and brain.store.epochs() == [1, 2, 3, 4]
    monkeypatch.undo()
    for _ in range(2):
        brain.saver.tidy()
    assert brain.store.epochs() == [3, 4] and brain.store.verify(brain.store.load(3)) == []
    Brain(config, checkpoint).saver.claim()
    brain.saver.tidy()
    assert "generation 2 has claimed" in caplog.text


def refuses() -> None:
    raise StoreUnavailable("the store is away")


def test_learning_goes_on_while_the_store_is_slow(config: StreamConfig, checkpoint: Path) -> None:
    """More updates than any spare room, in the middle of an upload; what is saved is the moment of staging."""
    brain = Brain(config, checkpoint)
    brain.saver.claim()
    brain.learn(0, 3)

    class Slow(ScriptedPoller):
        def flush(self, timeout_s: float) -> None:
            brain.learn(3, 40)

    saved = brain.save(Slow([], 0))
    assert (saved.position, brain.learner.state.positions) == ({"news/0": 3}, {NEWS: 43})
    back = Brain(config, checkpoint)
    assert back.restored is not None and back.restored.positions == {NEWS: 3}
    back.learn(3, 40)
    for each in (brain, back):
        each.saver.claim()
        last = each.save()
        assert last.memory_sha256 == brain.store.load(2).memory_sha256
