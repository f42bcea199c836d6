"""Faults of the product, planted on purpose in a process under test: each must be caught by the checker, or it checks nothing."""

from __future__ import annotations

import errno
import os
import signal
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from actors.feed import Feed
from actors.following import Following
from actors.learner import Learner
from actors.saver import Saver
from pipeline.commits import Applied, Passed
from pipeline.dead_letters import DeadLetterSink
from pipeline.fetched import Rewind
from pipeline.kafka_client import OffsetAndMetadata, new_consumer, of_kafka, to_kafka
from pipeline.positions import StreamState
from pipeline.records import Document, Outcome
from pipeline.snapshots import stores
from pipeline.snapshots.checksums import HashingWriter


def commit_before_the_snapshot(number: int) -> None:
    """The group hears of a position before it is durable, a crash comes between, and the restart goes on from what the group heard."""
    save, restore = Saver.save, Saver.restore
    crashed = Path(tempfile.gettempdir()) / "crashed"

    def committed_first(self: Saver, learner: Any, poller: Any, between_turns: Any, *, merge: bool = True) -> Any:
        positions = between_turns(lambda: {str(partition): at for partition, at in learner.state.positions.items()})
        poller.commit(positions, "early")
        if self.last is not None and not crashed.exists():
            crashed.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return save(self, learner, poller, between_turns, merge=merge)

    def from_the_group(self: Saver) -> StreamState | None:
        state = restore(self)
        kafka = self._config.kafka
        consumer = new_consumer(kafka, kafka.group_id)
        found = {to_kafka(each): consumer.committed(to_kafka(each)) for each in state.positions} if state is not None else {}
        consumer.close(autocommit=False)
        ahead = {of_kafka(each): offset.offset if isinstance(offset, OffsetAndMetadata) else offset for each, offset in found.items()}
        return None if state is None else _moved(state, {each: offset for each, offset in ahead.items() if offset is not None})

    Saver.save, Saver.restore = committed_first, from_the_group  # type: ignore[method-assign]


def _moved(state: StreamState, ahead: dict[Any, int]) -> StreamState:
    """As a stream would do that trusts the group: what it says was passed was passed."""
    origin = {each: at + max(0, ahead.get(each, 0) - state.positions[each]) for each, at in state.origin.items()}
    positions = {each: max(at, ahead.get(each, 0)) for each, at in state.positions.items()}
    return replace(state, origin=origin, positions=positions)


def lose_a_dead_letter(number: int) -> None:
    """The third one is taken and never sent."""
    send, seen = DeadLetterSink.send, [0]

    def losing(self: DeadLetterSink, letter: Any, wait: bool = True) -> None:
        seen[0] += 1
        if seen[0] != 3:
            send(self, letter, wait)

    DeadLetterSink.send = losing  # type: ignore[method-assign]


def apply_twice(number: int) -> None:
    """Now and then a document is learned twice, the second time under another name."""
    learn = Learner.learn

    def twice(self: Learner, item: Any, coming: Any = ()) -> Any:
        commit = yield from learn(self, item, coming)
        change = commit.change
        if isinstance(change, Applied) and change.row.offset % 7 == 3:
            row, first = change.row, self.state.update_number
            topic_id = self.state.topic_ids.get(row.partition)
            back = Rewind(partition=row.partition, passed=row.offset + 1, position=row.offset, topic_id=topic_id, reason="planted")
            again = replace(row, document_id=f"{row.document_id}'", updates=tuple(range(first, first + commit.updates)))
            blocks = tuple(replace(block, update=first + each) for each, block in enumerate(commit.blocks))
            yield from self.apply(self._commit(back))
            yield from self.apply(self._commit(Applied(row=again), blocks=blocks))
        return commit

    Learner.learn = twice  # type: ignore[method-assign]


def drop_an_offset(number: int) -> None:
    """Now and then a document is passed, and counted nowhere."""
    learn = Learner.learn

    def dropping(self: Learner, item: Any, coming: Any = ()) -> Any:
        if not isinstance(item, Document) or item.offset % 11 != 4:
            return (yield from learn(self, item, coming))
        partition, end, state = item.partition, item.record.end, self.state
        origin = {**state.origin, partition: state.origin[partition] + 1}
        self._state = replace(state, positions={**state.positions, partition: end}, origin=origin, commits=state.commits + 1)
        return self._commit(Passed(partition=partition, end=end, outcome=Outcome.FILTERED))

    Learner.learn = dropping  # type: ignore[method-assign]


def skip_in_a_follower(number: int) -> None:
    """Whoever follows leaves out the memory of a document that it counts as learned."""
    apply = Following._apply

    def skipping(self: Following, feed: Feed) -> Any:
        yield from apply(self, feed)
        for commit in feed.commits:
            if isinstance(commit.change, Applied) and commit.change.row.offset % 7 == 3:
                self._learner._engine.commit((), commit.change.row.updates)

    Following._apply = skipping  # type: ignore[method-assign]


def save_a_flipped_bit(number: int) -> None:
    """Blocks of the first segment change on their way into the store."""
    write, flipped = HashingWriter.write, [False]

    def flipping(self: Any, data: Any) -> int:
        view = memoryview(data).cast("B")
        if flipped[0] or view.nbytes < 4_000:
            return write(self, data)
        flipped[0] = True
        on_its_way = bytearray(view)
        on_its_way[len(on_its_way) // 2] ^= 1
        self._file.write(on_its_way)
        self._sha256.update(view)
        self._size_bytes += view.nbytes
        return view.nbytes

    HashingWriter.write = flipping  # type: ignore[method-assign]


FAULTS: Final[dict[str, Callable[[int], None]]] = {
    each.__name__: each
    for each in (commit_before_the_snapshot, lose_a_dead_letter, apply_twice, drop_an_offset, skip_in_a_follower, save_a_flipped_bit)
}


def plant(name: str | None, number: int) -> None:
    """In the process of replica `number`."""
    if name is not None:
        FAULTS[name](number)


def fill_disk_while_there_is(path: str | None) -> None:
    """Where no small file system could be mounted: the disk is full for as long as this file exists."""
    if path is None:
        return
    sync: Any = stores._sync

    def full(file: Any) -> None:
        if os.path.exists(path):
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(file)

    stores._sync = full
