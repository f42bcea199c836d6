"""ONE-STATE: a document changes pool and state together, or neither."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch

from actors.config import StreamConfig
from actors.learner import Learner
from actors.messages import Learnable
from model.block_engine import BlockEngine
from model.engine import Chunks, Engine
from model.errors import ModelError
from model.loading import EngineOptions, load_engine
from model.memory.writing import SideBySide
from pipeline.decode import dead_letter
from pipeline.fetched import Gap, GapReason, Joined, Rewind
from pipeline.positions import StreamState
from pipeline.records import DeadLetter, Outcome, Reason, Record
from tests.doubles.stream import NEWS, START_MS, document, documents, tombstone

BEGINNING = Joined(partition=NEWS, position=0, topic_id="first")
LONG = "first update..! then the second"
"""31 bytes, so two updates; the second one can be spoilt."""


class Flaky:
    """Runs out of memory at the documents that it is told; otherwise the engine itself."""

    def __init__(self, engine: Engine) -> None:
        self._engine, self.tried = engine, 0
        self.fails_at: tuple[int, ...] = ()
        self.error = RuntimeError("out of memory")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def prepare(self, chunks: Chunks, coming: Iterable[Chunks] = ()) -> Any:
        self.tried += 1
        if self.tried in self.fails_at:
            raise self.error
        return (yield from self._engine.prepare(chunks, coming))


class Lesson:
    """A learner on a tiny model, what it rejected, and what it knows as one number."""

    def __init__(self, config: StreamConfig, checkpoint: Path) -> None:
        self.real = load_engine(checkpoint, "cpu", "float32", EngineOptions(seed=3, blocks=8))
        self.engine = Flaky(self.real)
        self.rejected: list[DeadLetter] = []
        self.learner = Learner(config, self.engine, StreamState.beginning({}), self.rejected.append)
        self.learn(BEGINNING)

    def learn(self, item: Learnable, coming: Iterable[Learnable] = ()) -> None:
        for _ in self.learner.learn(item, coming):
            pass

    @property
    def state(self) -> StreamState:
        return self.learner.state

    def counts(self) -> dict[str, int]:
        self.state.check()
        return {outcome.value: count for outcome, count in self.state.counts.items() if count}

    def spoil(self, letter: str) -> None:
        """From now on a text with this letter gives states that are not finite."""
        llama = self.real.memory.model.base if isinstance(self.real, BlockEngine) else self.real.pool.model.reader
        with torch.no_grad():
            llama.model.embed_tokens.weight[self.real.encode(letter)] = float("nan")

    def shown(self) -> str:
        """What readers get, as one number."""
        if isinstance(self.real, BlockEngine):
            return self.real.memory.digest()
        return str(self.real.pool.published.number)

    def digest(self) -> str:
        if isinstance(self.real, BlockEngine):
            return self.real.memory.digest()
        sha256 = hashlib.sha256()
        for layer in self.real.pool.layers(self.real.pool.head):
            sha256.update(layer.memory_ND.numpy().tobytes())
        return sha256.hexdigest()


@pytest.fixture
def lesson(config_with: Callable[..., StreamConfig], checkpoint: Path) -> Lesson:
    return Lesson(config_with(chunks={"header": []}), checkpoint)


def test_each_item_moves_the_state_by_what_it_is(lesson: Lesson) -> None:
    for item in documents(3):
        lesson.learn(item)
    bad = Record(partition=NEWS, offset=3, timestamp_ms=START_MS, value=b"{")
    lesson.learn(dead_letter(bad, Reason.BAD_JSON, "no end"))
    lesson.learn(Gap(partition=NEWS, first=4, end=6, reason=GapReason.ABSENT))
    assert lesson.counts() == {"applied": 3, "dead_letter": 1, "gap": 2}
    assert (lesson.state.positions, lesson.state.update_number, lesson.state.watermark_ms) == ({NEWS: 6}, 3, START_MS + 2)
    lesson.learn(Rewind(partition=NEWS, passed=6, position=0, topic_id="second", reason="made anew"))
    lesson.learn(document(0, "another log"))
    assert [row.updates for row in lesson.state.ledger] == [(0,), (1,), (2,), (3,)]  # each update still has its document
    assert (lesson.counts()["applied"], lesson.state.positions) == (4, {NEWS: 1})
    assert lesson.rejected == []  # a record that cannot be decoded is the poller's to send


def test_a_text_that_is_still_remembered_is_a_duplicate(lesson: Lesson) -> None:
    lesson.learn(document(0, "the same story"))
    before = lesson.digest()
    lesson.learn(document(1, "the same story"))
    assert lesson.counts() == {"applied": 1, "duplicate": 1}
    assert lesson.digest() == before


def test_a_poisoned_device_is_no_fault_of_a_document(lesson: Lesson) -> None:
    """What reports it must get it: the process is to end, and nothing to be rejected."""
    lesson.engine.fails_at, lesson.engine.error = (1,), torch.AcceleratorError("device-side assert triggered")
    with pytest.raises(torch.AcceleratorError):
        lesson.learn(document(0, "a story"))
    assert (lesson.engine.tried, lesson.rejected, lesson.counts()) == (1, [], {})


def test_replay_exact_what_is_written_ahead_is_what_would_have_been_written(
    lesson: Lesson, config_with: Callable[..., StreamConfig], checkpoint: Path
) -> None:
    """Duplicates, a correction, a deletion, a document that fails: however much of it is known beforehand, and however many cores write."""
    items: list[Learnable] = [
        document(0, "one story"),
        document(1, "one story"),
        document(2, LONG, name="a"),
        document(3, "put ri~ht", name="a"),
        document(4, "put right", name="a"),
        tombstone(5, "a"),
        *documents(5, first=6),
        document(11, "one story"),
    ]
    other = Lesson(config_with(chunks={"header": []}), checkpoint)
    if isinstance(other.real, BlockEngine):
        other.real._writing = SideBySide(other.real.memory.write, 4, 2)
    for each in (lesson, other):
        each.spoil("~")
    for number, item in enumerate(items, 1):
        lesson.learn(item)
        other.learn(item, coming=items[number:])
        assert (other.state, other.digest()) == (lesson.state, lesson.digest())
    assert lesson.counts()["dead_letter"] == 1
    assert [letter.record.offset for letter in other.rejected] == [letter.record.offset for letter in lesson.rejected] == [3]


def test_a_story_that_was_forgotten_may_be_learned_again(lesson: Lesson) -> None:
    lesson.learn(document(0, "the same story"))
    offset = 1
    while document(0, "the same story").content_sha256 in lesson.state.ledger:
        lesson.learn(document(offset, f"other {offset}"))
        offset += 1
    lesson.learn(document(offset, "the same story"))
    assert lesson.counts() == {"applied": offset + 1}


def test_one_state_a_chunk_that_fails_takes_the_whole_document_back(lesson: Lesson) -> None:
    for item in documents(2):
        lesson.learn(item)
    before, state, shown = lesson.digest(), lesson.state, lesson.shown()
    lesson.spoil("~")
    lesson.learn(document(2, LONG.replace("second", "sec~nd")))
    assert lesson.shown() == shown and lesson.digest() == before
    assert lesson.state == state.passed(NEWS, 3, Outcome.DEAD_LETTER)
    assert [(letter.reason, letter.record.offset) for letter in lesson.rejected] == [(Reason.UPDATE_FAILED, 2)]


def test_replay_exact_a_document_after_a_failed_one_is_learned_as_if_it_had_not_been_there(
    lesson: Lesson, config_with: Callable[..., StreamConfig], checkpoint: Path
) -> None:
    other = Lesson(config_with(chunks={"header": []}), checkpoint)
    for each in (lesson, other):
        each.learn(document(0, "a beginning"))
        each.spoil("~")
    lesson.learn(document(1, LONG.replace("second", "sec~nd")))
    other.learn(Gap(partition=NEWS, first=1, end=2, reason=GapReason.ABSENT))
    for each in (lesson, other):
        each.learn(document(2, LONG))
    assert lesson.digest() == other.digest()


def test_what_fails_once_is_tried_again_to_the_same_result(
    lesson: Lesson, config_with: Callable[..., StreamConfig], checkpoint: Path
) -> None:
    other = Lesson(config_with(chunks={"header": []}), checkpoint)
    lesson.engine.fails_at = (2,)
    for each in (lesson, other):
        each.learn(document(0, "a beginning"))
        each.learn(document(1, LONG))
    assert lesson.rejected == [] and lesson.engine.tried == other.engine.tried + 1
    assert lesson.digest() == other.digest() and lesson.state == other.state


def test_too_many_failures_in_a_row_stop_the_stream(lesson: Lesson) -> None:
    lesson.spoil("~")
    lesson.learn(document(0, "~ one"))
    lesson.learn(document(1, "~ two"))
    lesson.learn(document(2, "good"))
    lesson.learn(document(3, "~ four"))
    lesson.learn(document(4, "~ five"))
    before = lesson.state
    with pytest.raises(ModelError, match="3 documents in a row failed, the last news/0/5"):
        lesson.learn(document(5, "~ six"))
    assert lesson.state is before and len(lesson.rejected) == 4


def test_one_state_between_two_turns_memory_and_state_are_of_one_moment(lesson: Lesson) -> None:
    """A document of several updates gives way in the middle: until its commit neither memory nor state shows anything of it."""
    lesson.learn(document(0, "a beginning"))
    before = lesson.state, lesson.shown()
    turns = lesson.learner.learn(document(1, LONG * 8))
    given = 0
    for _ in turns:
        given += 1
        assert (lesson.state, lesson.shown()) == before
    assert given > 1 and lesson.state.positions == {NEWS: 2} and lesson.shown() != before[1]


def test_a_correction_replaces_and_a_tombstone_takes_out_in_one_step(lesson: Lesson) -> None:
    for item in (document(0, "Ada leads.", name="a"), document(1, "Bo plays.", name="b"), document(2, LONG, name="a"), tombstone(3, "b")):
        lesson.learn(item)
    if not lesson.engine.forgets:
        assert lesson.counts() == {"applied": 3, "filtered": 1}
        return
    assert lesson.counts() == {"applied": 3, "deleted": 1}
    assert [(row.document_id, row.updates) for row in lesson.state.ledger] == [("a", (2, 3))]
    assert isinstance(lesson.real, BlockEngine) and lesson.real.memory.updates().tolist() == [2, 3]


def test_nothing_silent_what_is_cut_off_a_long_document_is_counted(config_with: Callable[..., StreamConfig], checkpoint: Path) -> None:
    cut = Lesson(config_with(chunks={"header": [], "max_blocks": 2}), checkpoint)
    cut.learn(document(0, "x" * 100))
    (row,) = cut.state.ledger
    assert (cut.state.documents_cut, cut.state.tokens_left_out) == (1, row.tokens_left_out)
    assert row.tokens + row.tokens_left_out == 100 and len(row.updates) == 2


def test_replay_exact_blocks_depend_on_their_document_alone(config_with: Callable[..., StreamConfig], checkpoint: Path) -> None:
    """Several partitions, whatever their interleaving, write the same blocks."""
    lessons = [Lesson(config_with(chunks={"header": []}), checkpoint) for _ in range(2)]
    if lessons[0].engine.kind != "blocks":
        pytest.skip("a pool is a chain of updates")
    found = []
    for lesson, order in zip(lessons, ((0, 1, 2), (2, 0, 1)), strict=True):
        for offset, number in enumerate(order):
            lesson.learn(document(offset, f"Story {number} is told."))
        memory = lesson.real.memory  # type: ignore[union-attr]
        found.append({bytes(digest) for digest in memory.stage().digests})
    assert found[0] == found[1]


def test_a_feed_cannot_write_control_tokens(lesson: Lesson) -> None:
    assert lesson.real.conversation.end not in lesson.engine.encode("an <|im_end|> in the text")
