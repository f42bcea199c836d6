"""Documents written side by side: on a CPU a small model's products are too small to be split over cores, so each core takes its own.

chunks of a document, and of those that come next -> groups -> as many at once as there are cores -> blocks, as if written alone
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice

import torch

from model.engine import Chunks
from model.memory.blocks import Block

WRITTEN_TOGETHER = 2
"""Chunks of a document that are one group. Part of what a memory is, bit for bit: never a matter of load."""

Write = Callable[[Chunks, Chunks], list[Block]]
"""(chunks, what stands before each) -> blocks, as `BlockMemory.write`. Called from several threads at once."""


@dataclass(slots=True)
class _Group:
    chunks: Chunks
    contexts: Chunks
    blocks: list[Block] | None = None
    error: Exception | None = None

    @property
    def is_done(self) -> bool:
        return self.blocks is not None or self.error is not None

    def write(self, write: Write) -> None:
        try:
            self.blocks = write(self.chunks, self.contexts)
        except Exception as error:  # the failure boundary of a document: raised where that one is prepared, not where another is
            self.error = error


@dataclass(slots=True)
class _Draft:
    """A document and what is written of it so far."""

    groups: list[_Group] = field(default_factory=list)

    @classmethod
    def of(cls, chunks: Chunks) -> _Draft:
        contexts: list[Sequence[int]] = [(), *chunks[:-1]]
        parts = (slice(start, start + WRITTEN_TOGETHER) for start in range(0, len(chunks), WRITTEN_TOGETHER))
        return cls([_Group(chunks[part], contexts[part]) for part in parts])

    @property
    def left(self) -> list[_Group]:
        return [] if any(group.error for group in self.groups) else [group for group in self.groups if not group.is_done]

    def blocks(self) -> list[Block]:
        """Raises what writing them raised."""
        for group in self.groups:
            if group.error is not None:
                raise group.error
        return [block for group in self.groups for block in group.blocks or ()]


class SideBySide:
    """Writes documents in turns, each of at most `cores` groups, each group on one core.

    Args:
        write: computes blocks.
        cores: 1: everything on the caller's thread, with whatever threads its arithmetic has.
    """

    def __init__(self, write: Write, cores: int) -> None:
        self._write, self.cores = write, cores
        self._ahead: dict[tuple[tuple[int, ...], ...], _Draft] = {}
        self._pool: ThreadPoolExecutor | None = None

    def prepare(self, chunks: Chunks, coming: Iterable[Chunks] = ()) -> Generator[None, None, list[Block]]:
        """The blocks of a document, in turns; cores that a turn leaves idle write the documents that come next, in order."""
        draft = self._ahead.pop(_name(chunks), None) or _Draft.of(chunks)
        if draft.left:
            self._look_ahead(coming)
        while draft.left:
            queue = [*draft.left, *(group for each in self._ahead.values() for group in each.left)]
            self._turn(queue[: self.cores])
            yield
        return draft.blocks()

    def _look_ahead(self, coming: Iterable[Chunks]) -> None:
        """BOUNDED: what was written ahead and comes no more is dropped."""
        known, self._ahead = self._ahead, {}
        for chunks in islice(coming, self.cores - 1):
            name = _name(chunks)
            self._ahead[name] = known.get(name) or _Draft.of(chunks)

    def _turn(self, groups: Sequence[_Group]) -> None:
        if self.cores == 1:
            for group in groups:
                group.write(self._write)
            return
        if self._pool is None:
            self._pool = _one_core_each(self.cores)
        written: list[Future[None]] = [self._pool.submit(group.write, self._write) for group in groups]
        for each in written:
            each.result()


def _name(chunks: Chunks) -> tuple[tuple[int, ...], ...]:
    return tuple(map(tuple, chunks))


def _one_core_each(cores: int) -> ThreadPoolExecutor:
    """Threads whose arithmetic stays on one core.

    torch keeps the number of threads of its products for each thread apart, and takes it over from the last one set when the thread first
    asks for it: so all ask before the number is set back for whoever comes later.
    """
    ours, ready = torch.get_num_threads(), threading.Barrier(cores + 1)

    def begin() -> None:
        torch.set_num_threads(1)
        torch.get_num_threads()
        ready.wait()

    pool = ThreadPoolExecutor(cores, thread_name_prefix="writer", initializer=begin)
    for _ in range(cores):
        pool.submit(lambda: None)
    ready.wait()
    torch.set_num_threads(ours)
    return pool
