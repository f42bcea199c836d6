"""A stream by hand: documents and items without a broker, and a poller that gives what a test wrote down."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from actors.config import StreamConfig
from actors.messages import Learnable, Polled
from pipeline.decode import content_sha256
from pipeline.fetched import Joined, end_of
from pipeline.positions import format_positions, parse_positions
from pipeline.records import DeadLetter, Document, Partition, Record, Tombstone

NEWS = Partition("news", 0)
START_MS = 1_767_000_000_000


def stream_config(checkpoint: Path, root: Path, brokers: Sequence[str], topics: Sequence[str], **sections: object) -> StreamConfig:
    """A tiny model on one CPU. A keyword argument is a section, laid over the one given here."""
    tree: dict[str, object] = {
        "stream": "test",
        "kafka": {"bootstrap_servers": list(brokers), "topics": list(topics), "request_timeout_s": 5.0},
        "model": {"name": str(checkpoint)},
        "replicas": {"num_cpus": 1},
        "chunks": {"header": ["title"]},
        "snapshots": {"root": str(root), "every_s": None},
    }
    for name, section in sections.items():
        base = tree.get(name)
        tree[name] = {**base, **section} if isinstance(base, Mapping) and isinstance(section, Mapping) else section
    return StreamConfig.model_validate(tree)


def document(offset: int, text: str, partition: Partition = NEWS, title: str | None = None, name: str | None = None) -> Document:
    """With an id that the feed gave, if `name` is one; its record's key is the id."""
    value = json.dumps({"text": text}).encode()
    key = None if name is None else name.encode()
    record = Record(partition=partition, offset=offset, timestamp_ms=START_MS + offset, key=key, value=value)
    return Document(
        record=record,
        document_id=name or f"{partition}/{offset}",
        text=text,
        event_time_ms=record.timestamp_ms,
        content_sha256=content_sha256(title, text),
        title=title,
        has_feed_id=name is not None,
    )


def tombstone(offset: int, name: str, partition: Partition = NEWS) -> Tombstone:
    return Tombstone(record=Record(partition=partition, offset=offset, timestamp_ms=START_MS + offset, key=name.encode()))


def documents(count: int, first: int = 0) -> list[Document]:
    """Different ones, of one update each."""
    return [document(offset, f"Person {offset}.") for offset in range(first, first + count)]


class ScriptedPoller:
    """Gives `script` item by item, several a poll, and writes down what it is asked to do. `log` may be shared with others."""

    deaths = 0

    def __init__(self, script: Iterable[Learnable], end: int, positions: Mapping[str, int] | None = None, *, batch: int = 4) -> None:
        begun = bool(positions)
        self._items = [item for item in script if not (begun and isinstance(item, Joined))]
        self._positions = parse_positions(positions or {})
        self._items = [item for item in self._items if self._ahead(item)]
        self._end, self._batch = end, batch
        self.log: list[str] = []
        self.letters: list[DeadLetter] = []
        self.may_go_on = threading.Event()
        self.may_go_on.set()

    def _ahead(self, item: Learnable) -> bool:
        return _end(item) > self._positions.get(_partition(item), -1)

    def poll(self, max_bytes: int, timeout_s: float) -> Polled:
        self.may_go_on.wait(10)
        items, self._items = self._items[: self._batch], self._items[self._batch :]
        if not items:
            time.sleep(0.005)
        self._positions.update({_partition(item): _end(item) for item in items})
        highwaters = {NEWS: self._end}
        return Polled(
            items=tuple(items),
            positions=format_positions(self._positions),
            highwaters=highwaters,
            heard=frozenset(highwaters),
            at_s=time.time(),
        )

    def reject(self, letter: DeadLetter) -> None:
        self.letters.append(letter)

    def flush(self, timeout_s: float) -> None:
        self.log.append("flush")

    def commit(self, positions: Mapping[str, int], metadata: str) -> None:
        self.log.append(f"commit {dict(positions)} {metadata}")

    def renew(self) -> None:
        pass

    def close(self) -> None:
        self.log.append("close")


def _partition(item: Learnable) -> Partition:
    return item.record.partition if isinstance(item, DeadLetter | Tombstone) else item.partition


def _end(item: Learnable) -> int:
    if isinstance(item, Document | DeadLetter | Tombstone):
        return item.record.end
    return end_of(item)
