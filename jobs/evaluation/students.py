"""Who takes the exam: something that learns documents and answers questions, whatever it does in between."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from model.block_engine import BlockEngine, ReadingConfig
from model.engine import Asking, Engine, answer, prepared
from model.loading import EngineOptions, load_engine
from pipeline.chunks import ChunkConfig, Chunked, chunk_document
from pipeline.decode import content_sha256
from pipeline.records import Document, Partition, Record

ANSWER_TOKENS = 16
DENSE_BLOCKS = 32
"""Blocks that `--dense` reads at once, the newest ones: as many as the first memory of the embedded model held."""

BLOCKS_PER_DOCUMENT = 6
PLAIN = ChunkConfig(header=())


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """An answer, the ids of the documents that it was read from (the likeliest first), and what it cost."""

    text: str
    sources: tuple[str, ...]
    grounded: bool | None
    prompt_tokens: int
    seconds: float


class Student(Protocol):
    """Learns and answers. `updates` counts what it has written so far; `coming` are the documents that it will learn next."""

    documents: int
    seconds_learning: float

    @property
    def updates(self) -> int: ...

    @property
    def bytes_at_rest(self) -> int: ...

    def learn(self, document: Document, coming: Iterable[Document] = ()) -> None: ...

    def forget(self, document_ids: Sequence[str]) -> None: ...

    def ask(self, question: str) -> Reply: ...

    def facts(self) -> dict[str, Any]: ...


class EngineStudent:
    """A model with its memory, as a replica has it."""

    def __init__(self, engine: Engine, dense: bool) -> None:
        self.engine, self.dense = engine, dense
        self.documents, self.seconds_learning, self.tokens_left_out = 0, 0.0, 0
        self._owners: dict[int, str] = {}

    @property
    def updates(self) -> int:
        return self.engine.update_number

    @property
    def bytes_at_rest(self) -> int:
        return self.engine.memory.bytes_at_rest if isinstance(self.engine, BlockEngine) else 0

    def learn(self, document: Document, coming: Iterable[Document] = ()) -> None:
        started = time.monotonic()
        chunked = self._chunked(document)
        learned = self.engine.commit(prepared(self.engine, chunked.token_ids, (each.token_ids for each in map(self._chunked, coming))))
        self._owners |= dict.fromkeys(learned.updates, document.document_id)
        self.documents += 1
        self.tokens_left_out += chunked.tokens_left_out
        self.seconds_learning += time.monotonic() - started

    def _chunked(self, document: Document) -> Chunked:
        return chunk_document(
            document,
            self.engine.encode,
            PLAIN if document.title is None else ChunkConfig(),
            update_tokens=self.engine.update_tokens,
            most_updates=self.engine.most_updates,
            min_tokens=self.engine.min_tokens,
        )

    def forget(self, document_ids: Sequence[str]) -> None:
        """Take them back, where the memory can: a pool lets them fade."""
        if self.engine.forgets:
            self.engine.commit(prepared(self.engine, ()), [update for update, owner in self._owners.items() if owner in document_ids])
        self._owners = {update: owner for update, owner in self._owners.items() if owner not in document_ids}

    def ask(self, question: str) -> Reply:
        started = time.monotonic()
        newest = self.engine.update_number - DENSE_BLOCKS
        asking = Asking(limit=ANSWER_TOKENS, allowed=(lambda numbers: numbers >= np.int64(newest)) if self.dense else None)
        done = answer(self.engine, [{"role": "user", "content": question}], asking)
        sources = dict.fromkeys(self._owners[each.update] for each in done.read if each.update in self._owners)
        return Reply(
            text=done.text,
            sources=tuple(sources),
            grounded=done.grounded,
            prompt_tokens=done.prompt_tokens,
            seconds=time.monotonic() - started,
        )

    def facts(self) -> dict[str, Any]:
        return {"memory": self.engine.kind, "updates": self.updates, "tokens_left_out": self.tokens_left_out}


def engine_student(folder: Path, device: str, documents: int, seed: int, dense: bool, most: int | None) -> EngineStudent:
    """A checkpoint with a memory that holds so many documents."""
    reading = ReadingConfig()
    if dense:
        reading = ReadingConfig(most_blocks=DENSE_BLOCKS, share=1e-300, margin=-1e9, doubt=-1e9, evidence=-1e9)
    if most is not None:
        reading = replace(reading, most_blocks=most)
    options = EngineOptions(seed=seed, blocks=max(2048, BLOCKS_PER_DOCUMENT * documents), reading=reading)
    return EngineStudent(load_engine(folder, device, options=options), dense)


def document_of(text: str, name: str, title: str | None = None, source: str | None = None, event_time_ms: int = 0) -> Document:
    """A document that came from no stream."""
    record = Record(partition=Partition("evaluation", 0), offset=0, timestamp_ms=event_time_ms)
    return Document(
        record=record,
        document_id=name,
        text=text,
        event_time_ms=event_time_ms,
        content_sha256=content_sha256(title, text),
        title=title,
        source=source,
    )
