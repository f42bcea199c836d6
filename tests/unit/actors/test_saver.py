"""SNAPSHOT-IS-TRUTH: what was saved comes back bit for bit, and goes on as if nothing had happened."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from actors.config import StreamConfig
from actors.learner import Learner
from actors.saver import Saver
from model.conversation import Answerer
from model.checkpoint import load_model
from model.memory.tokens import MemoryPool
from pipeline.errors import SnapshotMismatch, StaleWriter
from pipeline.positions import StreamState
from pipeline.snapshots.writer import SnapshotStore
from tests.doubles.stream import NEWS, ScriptedPoller, documents
from tests.doubles.tiny import tiny_checkpoint


class Brain:
    """All of a replica that a snapshot is about. Restores when it is made, as a replica does."""

    def __init__(self, config: StreamConfig, folder: Path, seed: int = 0) -> None:
        model = load_model(folder)
        self.store = SnapshotStore(config.snapshots, config.stream)
        self.pool = MemoryPool(model, seed)
        self.answerer = Answerer.of(model, folder)
        self.saver = Saver(config, self.store, self.pool)
        self.restored = self.saver.restore()
        state = self.restored or StreamState.beginning({}).joined(NEWS, 0)
        self.learner = Learner(config, self.pool, self.answerer.encode, state, lambda letter: None)
        self.poller = ScriptedPoller([], 0)

    def learn(self, first: int, count: int) -> None:
        for item in documents(count, first):
            self.learner.learn(item)

    def answer(self) -> str:
        with self.learner.read() as (view, _):
            return self.answerer.complete(view, self.answerer.encode("Who is it?"), 12).text


@pytest.fixture
def config(config_with: Callable[..., StreamConfig]) -> StreamConfig:
    return config_with()


@pytest.fixture
def saved(config: StreamConfig, checkpoint: Path) -> Brain:
    brain = Brain(config, checkpoint, seed=5)
    brain.saver.claim()
    brain.learn(0, 11)
    brain.saver.save(brain.learner, brain.poller)
    return brain


def test_a_restored_replica_is_the_same_in_pool_state_and_answers(config: StreamConfig, checkpoint: Path, saved: Brain) -> None:
    back = Brain(config, checkpoint)
    assert back.restored == saved.learner.state
    assert back.answer() == saved.answer() != ""
    assert back.saver.last == saved.saver.last
    back.saver.claim()
    again = back.saver.save(back.learner, back.poller)
    assert saved.saver.last is not None
    assert (again.epoch, again.pool_sha256) == (2, saved.saver.last.pool_sha256)


def test_replay_exact_a_restored_replica_goes_on_to_the_same_pool(config: StreamConfig, checkpoint: Path, saved: Brain) -> None:
    back = Brain(config, checkpoint)
    for brain in (saved, back):
        brain.learn(11, 9)
    back.saver.claim()
    sums = [brain.saver._content(brain.pool.head, brain.learner.state) for brain in (saved, back)]
    assert sums[0].state == sums[1].state and sums[0].seed == sums[1].seed == 5
    restored = back.saver.save(back.learner, back.poller)
    assert back.answer() == saved.answer()
    with pytest.raises(StaleWriter):  # ONE-WRITER
        saved.saver.save(saved.learner, saved.poller)
    saved.saver.claim()
    assert saved.saver.save(saved.learner, saved.poller).pool_sha256 == restored.pool_sha256


def test_dead_letters_are_acknowledged_before_the_position_and_the_commit_comes_last(config: StreamConfig, saved: Brain) -> None:
    assert saved.poller.log == ["flush", "commit {'news/0': 11} test@1"]
    saved.poller.log.clear()
    epochs: list[list[int]] = []

    class Watching(ScriptedPoller):
        def flush(self, timeout_s: float) -> None:
            epochs.append(saved.store.epochs())

        def commit(self, positions: object, metadata: str) -> None:
            epochs.append(saved.store.epochs())

    saved.saver.save(saved.learner, Watching([], 0))
    assert epochs == [[1], [1, 2]]


def test_another_model_is_refused(config: StreamConfig, saved: Brain, tmp_path: Path) -> None:
    other = tiny_checkpoint(tmp_path / "other", K=16, blocks=8, seed=1)
    with pytest.raises(SnapshotMismatch, match="was written by model"):
        Brain(config, other)


def test_a_broken_snapshot_is_told_and_the_one_before_is_used(
    config: StreamConfig, checkpoint: Path, saved: Brain, caplog: pytest.LogCaptureFixture
) -> None:
    saved.learn(11, 1)
    saved.saver.save(saved.learner, saved.poller)
    entry = saved.store.load(2).object("pool.arrow")
    file = Path(saved.store.url.removeprefix("file://")) / entry.path
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    with caplog.at_level(logging.ERROR):
        back = Brain(config, checkpoint)
    assert back.restored is not None and back.restored.positions == {NEWS: 11}
    assert "epoch 2" in caplog.text and "SHA-256" in caplog.text


def test_nothing_saved_nothing_restored(config: StreamConfig, checkpoint: Path) -> None:
    assert Brain(config, checkpoint).restored is None


def test_an_empty_pool_can_be_saved_and_restored(config: StreamConfig, checkpoint: Path) -> None:
    empty = Brain(config, checkpoint)
    empty.saver.claim()
    empty.saver.save(empty.learner, empty.poller)
    back = Brain(config, checkpoint)
    assert back.restored == StreamState.beginning({}).joined(NEWS, 0) and back.pool.num_tokens == 0
