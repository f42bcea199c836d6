"""ONE-STATE: a document changes pool and state together, or neither."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from actors.config import StreamConfig
from actors.learner import Learner
from model.conversation import Answerer
from model.checkpoint import load_model
from model.errors import ModelError
from model.memory.tokens import MemoryPool, Version
from pipeline.decode import dead_letter
from pipeline.fetched import Gap, GapReason, Joined, Rewind
from pipeline.positions import StreamState
from pipeline.records import DeadLetter, Outcome, Reason, Record
from tests.doubles.stream import NEWS, START_MS, document, documents

BEGINNING = Joined(partition=NEWS, position=0)
LONG = "first update..! then the second"
"""31 bytes, so two updates; the second one can be spoilt."""


class FlakyPool(MemoryPool):
    """Runs out of memory at the updates that it is told."""

    fails_at: tuple[int, ...] = ()
    updates_tried = 0

    def update(self, tokens_T: torch.Tensor, publish: bool = True) -> int:
        self.updates_tried += 1
        if self.updates_tried in self.fails_at:
            raise RuntimeError("out of memory")
        return super().update(tokens_T, publish)


class Lesson:
    """A learner on a tiny model, what it rejected, and what it knows as one number."""

    def __init__(self, config: StreamConfig, checkpoint: Path) -> None:
        self.model = load_model(checkpoint)
        self.answerer = Answerer.of(self.model, checkpoint)
        self.pool = FlakyPool(self.model, seed=3)
        self.rejected: list[DeadLetter] = []
        self.learner = Learner(config, self.pool, self.answerer.encode, StreamState.beginning({}), self.rejected.append)
        self.learner.learn(BEGINNING)

    @property
    def state(self) -> StreamState:
        return self.learner.state

    def counts(self) -> dict[str, int]:
        self.state.check()
        return {outcome.value: count for outcome, count in self.state.counts.items() if count}

    def spoil(self, letter: str) -> None:
        """From now on a text with this letter gives states that are not finite."""
        with torch.no_grad():
            self.model.reader.model.embed_tokens.weight[self.answerer.encode(letter)] = float("nan")


def digest(pool: MemoryPool, version: Version | None = None) -> str:
    sha256 = hashlib.sha256()
    for layer in pool.layers(version or pool.head):
        sha256.update(layer.memory_ND.numpy().tobytes())
    return sha256.hexdigest()


@pytest.fixture
def lesson(config_with: Callable[..., StreamConfig], checkpoint: Path) -> Lesson:
    return Lesson(config_with(chunks={"header": []}), checkpoint)


def test_each_item_moves_the_state_by_what_it_is(lesson: Lesson) -> None:
    for item in documents(3):
        lesson.learner.learn(item)
    bad = Record(partition=NEWS, offset=3, timestamp_ms=START_MS, value=b"{")
    lesson.learner.learn(dead_letter(bad, Reason.BAD_JSON, "no end"))
    lesson.learner.learn(Gap(partition=NEWS, first=4, end=6, reason=GapReason.ABSENT))
    assert lesson.counts() == {"applied": 3, "dead_letter": 1, "gap": 2}
    assert (lesson.state.positions, lesson.state.update_number, lesson.state.watermark_ms) == ({NEWS: 6}, 3, START_MS + 2)
    lesson.learner.learn(Rewind(partition=NEWS, passed=6, position=0, reason="made anew"))
    lesson.learner.learn(document(0, "another log"))
    assert (lesson.counts()["applied"], lesson.state.positions) == (4, {NEWS: 1})
    assert lesson.rejected == []  # a record that cannot be decoded is the poller's to send


def test_a_text_that_is_still_remembered_is_a_duplicate(lesson: Lesson) -> None:
    lesson.learner.learn(document(0, "the same story"))
    before = digest(lesson.pool)
    lesson.learner.learn(document(1, "the same story"))
    assert lesson.counts() == {"applied": 1, "duplicate": 1}
    assert digest(lesson.pool) == before


def test_a_story_that_was_forgotten_may_be_learned_again(lesson: Lesson) -> None:
    lesson.learner.learn(document(0, "the same story"))
    offset = 1
    while document(0, "the same story").content_sha256 in lesson.state.ledger:
        lesson.learner.learn(document(offset, f"other {offset}"))
        offset += 1
    lesson.learner.learn(document(offset, "the same story"))
    assert lesson.counts() == {"applied": offset + 1}


def test_one_state_a_chunk_that_fails_takes_the_whole_document_back(lesson: Lesson) -> None:
    for item in documents(2):
        lesson.learner.learn(item)
    before, state, version = digest(lesson.pool), lesson.state, lesson.pool.published
    lesson.spoil("~")
    lesson.learner.learn(document(2, LONG.replace("second", "sec~nd")))
    assert lesson.pool.published is lesson.pool.head is version and digest(lesson.pool) == before
    assert lesson.state == state.passed(NEWS, 3, Outcome.DEAD_LETTER)
    assert [(letter.reason, letter.record.offset) for letter in lesson.rejected] == [(Reason.UPDATE_FAILED, 2)]


def test_replay_exact_a_document_after_a_failed_one_is_learned_as_if_it_had_not_been_there(
    lesson: Lesson, config_with: Callable[..., StreamConfig], checkpoint: Path
) -> None:
    other = Lesson(config_with(chunks={"header": []}), checkpoint)
    for each in (lesson, other):
        each.learner.learn(document(0, "a beginning"))
        each.spoil("~")
    lesson.learner.learn(document(1, LONG.replace("second", "sec~nd")))
    other.learner.learn(Gap(partition=NEWS, first=1, end=2, reason=GapReason.ABSENT))
    for each in (lesson, other):
        each.learner.learn(document(2, LONG))
    assert digest(lesson.pool) == digest(other.pool)


def test_what_fails_once_is_tried_again_to_the_same_result(
    lesson: Lesson, config_with: Callable[..., StreamConfig], checkpoint: Path
) -> None:
    other = Lesson(config_with(chunks={"header": []}), checkpoint)
    lesson.pool.fails_at = (3,)
    for each in (lesson, other):
        each.learner.learn(document(0, "a beginning"))
        each.learner.learn(document(1, LONG))
    assert lesson.rejected == [] and lesson.pool.updates_tried == other.pool.updates_tried + 2
    assert digest(lesson.pool) == digest(other.pool) and lesson.state == other.state


def test_too_many_failures_in_a_row_stop_the_stream(lesson: Lesson) -> None:
    lesson.spoil("~")
    lesson.learner.learn(document(0, "~ one"))
    lesson.learner.learn(document(1, "~ two"))
    lesson.learner.learn(document(2, "good"))
    lesson.learner.learn(document(3, "~ four"))
    lesson.learner.learn(document(4, "~ five"))
    before = lesson.state
    with pytest.raises(ModelError, match="3 documents in a row failed, the last news/0/5"):
        lesson.learner.learn(document(5, "~ six"))
    assert lesson.state is before and len(lesson.rejected) == 4


def test_one_state_readers_see_pool_and_state_of_one_moment(lesson: Lesson, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("model.turns.STALLED_ANSWER_S", 0.01)  # this reader takes no steps
    lesson.learner.learn(document(0, "a beginning"))
    with lesson.learner.read() as (view, state):
        lesson.learner.learn(document(1, LONG))
        assert (view.version.update_number, state.update_number, state.positions) == (1, 1, {NEWS: 1})
    with lesson.learner.hold() as (version, state):
        assert (version.update_number, state.update_number) == (3, 3)


def test_a_feed_cannot_write_control_tokens(lesson: Lesson) -> None:
    assert lesson.answerer.tokenizer.eos_token_id not in lesson.answerer.encode("an <|im_end|> in the text")
