"""Documents written side by side: on a CPU a small model's products are too small to be split over cores, so each core takes its own.

chunks of a document, and of those that come next -> groups -> as many at once as there are cores -> blocks, as if written alone
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from queue import SimpleQueue

import torch

from model.engine import Chunks
from model.memory.blocks import Block

MOST_CORES = 16
"""That write at once: what Python does of a group is done by one of them at a time."""

START_S = 60.0
"""For the threads to begin."""

Write = Callable[[Chunks, Chunks], list[Block]]
"""(chunks, what stands before each) -> blocks, as `BlockMemory.write`. Called from several threads at once."""


@dataclass(slots=True)
class _Group:
    chunks: Chunks
    contexts: Chunks
    blocks: list[Block] | None = None
    error: Exception | None = None

    def write(self, write: Write) -> None:
        try:
            self.blocks = write(self.chunks, self.contexts)
        except Exception as error:  # the failure boundary of a document: raised where that one is prepared, not where another is
            self.error = error.with_traceback(None)  # whose frames hold what the arithmetic had allocated


@dataclass(frozen=True, slots=True)
class _Draft:
    """A document and what is written of it so far."""

    groups: Sequence[_Group]

    @classmethod
    def of(cls, chunks: Chunks, together: int) -> _Draft:
        contexts: list[Sequence[int]] = [(), *chunks[:-1]]
        parts = (slice(start, start + together) for start in range(0, len(chunks), together))
        return cls([_Group(chunks[part], contexts[part]) for part in parts])

    @property
    def error(self) -> Exception | None:
        return next((group.error for group in self.groups if group.error is not None), None)

    @property
    def left(self) -> list[_Group]:
        return [] if self.error else [group for group in self.groups if group.blocks is None]

    @property
    def blocks(self) -> list[Block]:
        return [block for group in self.groups for block in group.blocks or ()]


class SideBySide:
    """Writes documents in turns, each of at most `cores` groups of `together` chunks, each group on one core.

    Args:
        write: computes blocks.
        cores: 1: everything on the caller's thread, with whatever threads its arithmetic has.
        together: part of what a memory is, bit for bit: never a matter of load.
    """

    def __init__(self, write: Write, cores: int, together: int) -> None:
        self._write, self.cores, self._together = write, cores, together
        self._ahead: OrderedDict[tuple[tuple[int, ...], ...], _Draft] = OrderedDict()
        self._threads = _threads(cores) if cores > 1 else None

    def prepare(self, chunks: Chunks, coming: Iterable[Chunks] = ()) -> Generator[None, None, list[Block]]:
        """The blocks of a document, in one turn at least; cores that a turn leaves idle write the documents that come next, in order."""
        draft, coming = self._ahead.pop(_name(chunks), None) or _Draft.of(chunks, self._together), iter(coming)
        if not draft.left:
            yield  # written already: a turn of its own all the same, for answers that wait
        while groups := draft.left[: self.cores]:
            idle = self.cores - len(groups)
            self._turn([*groups, *(self._left_of_those_to_come(coming, idle) if idle else ())])
            for name in [name for name, each in self._ahead.items() if each.error]:
                del self._ahead[name]  # it may have failed for what ran beside it: its own first try is still to come
            yield
        if draft.error is not None:
            raise draft.error
        return draft.blocks

    def _left_of_those_to_come(self, coming: Iterator[Chunks], count: int) -> list[_Group]:
        """Up to so many groups. No more is taken of `coming` than they need."""
        groups = [group for each in self._ahead.values() for group in each.left]
        while len(groups) < count and (chunks := next(coming, None)) is not None:
            name = _name(chunks)
            if name not in self._ahead:
                self._ahead[name] = draft = _Draft.of(chunks, self._together)
                groups += draft.left
        while len(self._ahead) > self.cores:  # BOUNDED: the first of them did not come after all
            self._ahead.popitem(last=False)
        return groups[:count]

    def _turn(self, groups: Sequence[_Group]) -> None:
        calls = [partial(group.write, self._write) for group in groups]
        if self._threads is None:
            for call in calls:
                call()
        else:
            self._threads.run(calls)


def _name(chunks: Chunks) -> tuple[tuple[int, ...], ...]:
    return tuple(map(tuple, chunks))


class OneCoreEach:
    """Threads whose arithmetic stays on one core; they live as long as the process.

    torch keeps the number of threads of its products for each thread apart, and takes it over from the last one set when the thread first
    asks for it: so all ask before the number is set back for whoever comes later.

    Raises:
        RuntimeError: the system has no thread left.
    """

    def __init__(self, count: int) -> None:
        self._calls: SimpleQueue[tuple[Callable[[], None], SimpleQueue[None]]] = SimpleQueue()
        ours, ready = torch.get_num_threads(), threading.Barrier(count + 1)
        try:
            for number in range(count):
                threading.Thread(target=self._run, args=(ready,), name=f"writer-{number}", daemon=True).start()
            ready.wait(START_S)
        except RuntimeError:
            ready.abort()
            raise
        finally:
            torch.set_num_threads(ours)

    def run(self, calls: Sequence[Callable[[], None]]) -> None:
        """Call them side by side, and return when all have returned. None of them may raise."""
        done: SimpleQueue[None] = SimpleQueue()
        for call in calls:
            self._calls.put((call, done))
        for _ in calls:
            done.get()

    def _run(self, ready: threading.Barrier) -> None:
        torch.set_num_threads(1)
        torch.get_num_threads()
        try:
            ready.wait(START_S)
        except threading.BrokenBarrierError:
            return
        while True:
            call, done = self._calls.get()
            call()
            del call  # and with it the document that it wrote
            done.put(None)


@cache
def _threads(count: int) -> OneCoreEach:
    """The same for all engines of a process."""
    return OneCoreEach(count)
