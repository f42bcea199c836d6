"""One carrier: whoever applies a stream's commits knows what its leader knows, bit for bit."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from actors.config import StreamConfig
from actors.images import images_of
from actors.learner import Learner
from actors.messages import Learnable
from model.block_engine import BlockEngine
from model.loading import EngineOptions, load_engine
from pipeline.commits import Commit, Place
from pipeline.decode import dead_letter
from pipeline.fetched import Gap, GapReason, Identified, Joined, Rewind
from pipeline.positions import StreamState
from pipeline.records import Outcome, Partition, Reason, Record
from tests.doubles.stream import NEWS, START_MS, document, documents, tombstone

OTHER = Partition("news", 1)
BAD = dead_letter(Record(partition=NEWS, offset=10, timestamp_ms=START_MS, value=b"{"), Reason.BAD_JSON, "no end")
LONG = "A text that is longer than one update of sixteen bytes."
ITEMS: list[Learnable] = [
    Joined(partition=NEWS, position=0, topic_id="first"),
    *documents(5),
    document(5, LONG, name="a"),
    document(6, "Person 3."),  # a duplicate
    document(7, "Short.", name="a"),  # a correction
    document(8, "Bo plays.", name="b"),
    tombstone(9, "b"),
    BAD,
    Gap(partition=NEWS, first=11, end=14, reason=GapReason.ABSENT),
    Joined(partition=OTHER, position=3, topic_id=None),
    document(3, "From elsewhere.", OTHER),
    Identified(partition=OTHER, position=4, topic_id="first"),
    Rewind(partition=NEWS, passed=14, position=0, topic_id="second", reason="made anew"),
    *(document(number, f"More than fits {number}.") for number in range(12)),
]


class Pupil:
    """A learner with a memory of its own, and the commits that it made or applied, as a wire would carry them."""

    def __init__(self, config: StreamConfig, checkpoint: Path) -> None:
        self.engine = load_engine(checkpoint, "cpu", "float32", EngineOptions(seed=3, blocks=8))
        self.sent: list[bytes] = []
        self.kept: list[Commit] = []
        self.learner = Learner(config, self.engine, StreamState.beginning({}), lambda letter: None, applied=self.kept.append)

    def learn(self, item: Learnable) -> None:
        turns = self.learner.learn(item)
        while True:
            try:
                next(turns)
            except StopIteration as done:
                self.sent.append(pickle.dumps(done.value, protocol=5))
                return

    def apply(self, commit: Commit) -> None:
        for _ in self.learner.apply(commit):
            pass

    def known(self) -> tuple[StreamState, str]:
        return self.learner.state, images_of(self.engine).sha256()


@pytest.fixture
def pupil(config_with: Callable[..., StreamConfig], checkpoint: Path) -> Callable[[], Pupil]:
    return lambda: Pupil(config_with(chunks={"header": []}), checkpoint)


def test_one_carrier_each_commit_makes_a_follower_what_its_leader_was_then(pupil: Callable[[], Pupil]) -> None:
    leader, follower = pupil(), pupil()
    leader.learner.leads_as(4)
    for number, item in enumerate(ITEMS):
        leader.learn(item)
        follower.apply(pickle.loads(leader.sent[-1]))
        assert follower.known() == leader.known()
        assert follower.learner.place == leader.learner.place == Place(4, number + 1)
    assert follower.learner.state.topic_ids == {NEWS: "second", OTHER: "first"}
    assert follower.learner.outcomes == leader.learner.outcomes
    follower.learner.state.check()
    assert (follower.learner.passes, leader.learner.passes) == (0, leader.engine.update_number)


def test_what_is_kept_of_a_commit_is_what_was_sent(pupil: Callable[[], Pupil]) -> None:
    """The window's copy lies where the memory keeps its blocks: a follower of it ends at the same."""
    leader, follower = pupil(), pupil()
    for item in ITEMS:
        leader.learn(item)
    for commit in leader.kept:
        commit.check()
        follower.apply(commit)
    assert follower.known() == leader.known()


def test_a_commit_travels_without_a_copy_of_its_arrays(pupil: Callable[[], Pupil]) -> None:
    leader, follower = pupil(), pupil()
    for item in ITEMS[:7]:
        leader.learn(item)
    buffers: list[pickle.PickleBuffer] = []
    data = pickle.dumps(leader.kept, protocol=5, buffer_callback=buffers.append)
    arrays = sum(each.raw().nbytes for each in buffers)
    assert arrays == sum(_arrays(commit) for commit in leader.kept) > 0
    received: list[Commit] = pickle.loads(data, buffers=[bytes(each.raw()) for each in buffers])  # read-only, as shared memory is
    for commit in received:
        follower.apply(commit)
    assert follower.known() == leader.known()


def _arrays(commit: Commit) -> int:
    return sum(each.states.nbytes + each.keys.nbytes for each in commit.blocks) + sum(each.nbytes for each in commit.deltas)


def test_a_commit_that_is_not_the_next_one_is_refused_and_changes_nothing(pupil: Callable[[], Pupil]) -> None:
    leader, follower = pupil(), pupil()
    for item in ITEMS[:4]:
        leader.learn(item)
    follower.apply(leader.kept[0])
    before = follower.known()
    with pytest.raises(ValueError, match="commit 2 does not go on from 1"):
        follower.apply(leader.kept[2])
    with pytest.raises(ValueError, match=r"updates \[1\] do not go on from 0"):
        follower.apply(replace(leader.kept[2], number=1))
    assert follower.known() == before


def test_a_flipped_bit_of_a_block_is_seen(pupil: Callable[[], Pupil]) -> None:
    leader = pupil()
    for item in ITEMS[:2]:
        leader.learn(item)
    if not isinstance(leader.engine, BlockEngine):
        pytest.skip("deltas bear no digest")
    commit = leader.kept[-1]
    states: np.ndarray[Any, Any] = commit.blocks[0].states.copy()
    states[0, 0, 0] ^= 1
    with pytest.raises(ValueError, match="block 0 of commit 1 is not what was written"):
        replace(commit, blocks=(replace(commit.blocks[0], states=states),)).check()


def test_the_outcome_of_the_record_is_part_of_its_commit(pupil: Callable[[], Pupil]) -> None:
    leader = pupil()
    for item in ITEMS[:12]:
        leader.learn(item)
    passed = [commit.passed for commit in leader.kept if commit.passed is not None]
    assert [offset for _, offset, _ in passed] == list(range(11))
    taken = Outcome.DELETED if leader.engine.forgets else Outcome.FILTERED
    assert [outcome for _, _, outcome in passed][5:] == [
        Outcome.APPLIED,
        Outcome.DUPLICATE,
        Outcome.APPLIED,
        Outcome.APPLIED,
        taken,
        Outcome.DEAD_LETTER,
    ]
    assert leader.kept[-1].letter is BAD
