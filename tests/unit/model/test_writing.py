"""Documents that are written side by side are what they would be alone."""

from __future__ import annotations

import random
import threading
import weakref
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from model.block_checkpoint import load_block_model
from model.block_engine import BlockEngine
from model.conversation import Conversation
from model.engine import Chunks, prepared
from model.errors import UpdateFailed
from model.memory.blocks import Block, BlockMemory
from model.memory.writing import OneCoreEach, SideBySide
from tests.doubles.tiny import tiny_block_checkpoint


def drained(desk: SideBySide, chunks: Chunks, coming: Iterable[Chunks] = ()) -> tuple[list[Block], int]:
    """The blocks, and the turns that they took."""
    turns, count = desk.prepare(chunks, coming), 0
    while True:
        try:
            next(turns)
        except StopIteration as done:
            return done.value, count
        count += 1


class Pen:
    """Writes a block for each chunk, and remembers what it wrote. `fails`: on groups with this token, as often as it says."""

    def __init__(self) -> None:
        self.written: list[tuple[int, ...]] = []
        self.fails: dict[int, int] = {}
        self.threads: set[int] = set()

    def __call__(self, chunks: Chunks, contexts: Chunks) -> list[Block]:
        self.written += map(tuple, chunks)
        self.threads.add(torch.get_num_threads())
        for token in {token for chunk in chunks for token in chunk}:
            if self.fails.get(token, 0) > 0:
                self.fails[token] -= 1
                raise UpdateFailed(f"token {token}")
        return [block(chunk, context) for chunk, context in zip(chunks, contexts, strict=True)]


def block(chunk: Sequence[int], context: Sequence[int]) -> Block:
    return Block(states=np.zeros((1, 1, 1), np.uint16), keys=np.array([*context, 0, *chunk], np.uint16)[None], sha256=bytes(32))


def tokens_of(blocks: Sequence[Block]) -> list[list[int]]:
    return [each.keys[0].tolist() for each in blocks]


def test_a_stream_gives_the_same_memory_however_many_cores_write_it(tmp_path: Path) -> None:
    folder = tiny_block_checkpoint(tmp_path, K=24)
    rng, digests = random.Random(4), set()
    words = ["Ada", "Bo", "Cy", "river", "prize", "chess", "bank", "rose", "won", "sold", "Oslo", "Lima", "1931", "seventeen"]
    texts = [[" ".join(rng.choices(words, k=3)) for _ in range(rng.choice((1, 1, 2, 5)))] for _ in range(14)]
    for cores in (1, 2, 5):
        engine = BlockEngine(BlockMemory(load_block_model(folder), capacity=99), Conversation.of(folder))
        engine._writing = SideBySide(engine.memory.write, cores, 2)
        documents = [[engine.encode(part)[:24] for part in parts] for parts in texts]
        for number, chunks in enumerate(documents, 1):
            engine.commit(prepared(engine, chunks, iter(documents[number:])))
        digests.add((engine.memory.digest(), engine.update_number))
    assert len(digests) == 1


def test_a_narrow_model_has_a_core_for_each_document_and_a_wide_one_all_for_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tiny_block_checkpoint(tmp_path)
    memory = BlockMemory(load_block_model(folder))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    assert BlockEngine(memory, Conversation.of(folder)).cores == 3
    monkeypatch.setattr("model.block_engine.NARROW", memory.model.config.hidden_size)
    assert BlockEngine(memory, Conversation.of(folder)).cores == 1


def test_as_many_are_written_at_once_as_there_are_cores() -> None:
    """Each waits for two others: one after the other would never end."""
    together = threading.Barrier(3)

    def write(chunks: Chunks, contexts: Chunks) -> list[Block]:
        together.wait(20)
        return [block(chunk, ()) for chunk in chunks]

    desk = SideBySide(write, 3, 2)
    assert drained(desk, [[1]], [[[2]], [[3]], [[4]]])[1] == 1
    assert tokens_of(drained(desk, [[2]], [[[3]], [[4]]])[0]) == [[0, 2]], "it is written already"


def test_a_long_document_has_all_cores() -> None:
    pen = Pen()
    blocks, turns = drained(SideBySide(pen, 3, 2), [[number] for number in range(1, 7)])
    assert turns == 1
    assert tokens_of(blocks) == [[0, 1], *([number - 1, 0, number] for number in range(2, 7))]


def test_a_document_that_fails_fails_where_it_is_prepared_and_not_for_what_was_beside_it() -> None:
    """Written ahead it may have failed for want of memory: its own tries are still to come."""
    pen = Pen()
    pen.fails = {2: 2}
    desk = SideBySide(pen, 3, 2)
    assert tokens_of(drained(desk, [[1]], [[[2]], [[3]]])[0]) == [[0, 1]]
    with pytest.raises(UpdateFailed, match="token 2"):
        drained(desk, [[2]], [[[3]]])
    assert tokens_of(drained(desk, [[2]])[0]) == [[0, 2]]
    assert tokens_of(drained(desk, [[3]])[0]) == [[0, 3]]
    assert sorted(pen.written) == [(1,), (2,), (2,), (2,), (3,)]


def test_what_an_error_had_allocated_is_let_go() -> None:
    held = list[weakref.ref[torch.Tensor]]()

    def write(chunks: Chunks, contexts: Chunks) -> list[Block]:
        allocated = torch.zeros(9)
        held.append(weakref.ref(allocated))
        raise UpdateFailed(f"out of memory after {allocated.sum()}")

    for cores in (1, 2):
        with pytest.raises(UpdateFailed):
            drained(SideBySide(write, cores, 2), [[1]], [[[2]]])
    assert [each() for each in held] == [None] * 3


def test_what_does_not_come_after_all_is_dropped() -> None:
    pen = Pen()
    desk = SideBySide(pen, 2, 2)
    for number in range(1, 9):
        drained(desk, [[number]], [[[100 + number]]])
    assert len(desk._ahead) <= 2
    pen.written.clear()
    drained(desk, [[101]])
    assert pen.written == [(101,)]


def test_no_more_of_what_comes_is_looked_at_than_idle_cores_can_write() -> None:
    looked = list[int]()

    def coming() -> Iterator[Chunks]:
        for number in range(100, 200):
            looked.append(number)
            yield [[number]]

    desk = SideBySide(Pen(), 4, 2)
    drained(desk, [[number] for number in range(1, 9)], coming())
    assert looked == [], "a long document leaves no core idle"
    drained(desk, [[1]], coming())
    assert looked == [100, 101, 102]
    drained(desk, [[100]], coming())
    assert looked == [100, 101, 102]


def test_each_document_gives_way_once_at_least() -> None:
    desk = SideBySide(Pen(), 4, 2)
    assert drained(desk, [[1]], [[[2]], [[3]]])[1] == 1
    assert drained(desk, [[2]])[1] == drained(desk, [[3]])[1] == 1


def test_where_the_system_has_no_thread_left_that_is_said_and_nothing_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    begin, begun = threading.Thread.start, list[threading.Thread]()

    def start(thread: threading.Thread) -> None:
        if len(begun) == 2:
            raise RuntimeError("can't start new thread")
        begun.append(thread)
        begin(thread)

    ours = torch.get_num_threads()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        with pytest.raises(RuntimeError, match="can't start"):
            OneCoreEach(3)
    for each in begun:
        each.join(20)
        assert not each.is_alive()
    assert torch.get_num_threads() == ours


def test_arithmetic_keeps_to_one_core_each_and_nobody_elses_changes() -> None:
    torch.set_num_threads(2)
    try:
        pen, later = Pen(), list[int]()
        drained(SideBySide(pen, 4, 2), [[1], [2], [3], [4], [5]])
        assert (pen.threads, torch.get_num_threads()) == ({1}, 2)
        other = threading.Thread(target=lambda: later.append(torch.get_num_threads()))
        other.start()
        other.join()
        assert later == [2]
    finally:
        torch.set_num_threads(1)
