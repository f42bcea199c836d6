"""The same exam for retrieval-augmented generation: the untouched base model, with the best passages by BM25 in its prompt."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import bm25s

from jobs.evaluation.students import ANSWER_TOKENS, Reply
from model.block_engine import BlockEngine
from model.engine import Asking, answer
from model.loading import EngineOptions, load_engine
from pipeline.errors import ConfigurationError
from pipeline.records import Document

PASSAGES = 4
PROMPT = "Answer the question in a few words, using the passages.\n\n{passages}\n\nQuestion: {question}"


class Rag:
    """Passages are whole documents; the index is built when the first question comes."""

    def __init__(self, folder: Path, device: str, most: int | None = None) -> None:
        engine = load_engine(folder, device, options=EngineOptions(blocks=1))
        if not isinstance(engine, BlockEngine):
            raise ConfigurationError("--rag asks the base model of a checkpoint of blocks; this one has a token pool")
        self._engine, self._most = engine, most or PASSAGES
        self.documents, self.seconds_learning = 0, 0.0
        self._texts: dict[str, str] = {}
        self._index: bm25s.BM25 | None = None

    @property
    def updates(self) -> int:
        return self.documents

    @property
    def bytes_at_rest(self) -> int:
        return sum(len(text.encode()) for text in self._texts.values())

    def learn(self, document: Document, coming: Iterable[Document] = ()) -> None:
        self._texts[document.document_id] = document.text
        self.documents += 1
        self._index = None

    def forget(self, document_ids: Sequence[str]) -> None:
        for name in document_ids:
            self._texts.pop(name, None)
        self._index = None

    def ask(self, question: str) -> Reply:
        started = time.monotonic()
        best = self._best(question)
        passages = "\n\n".join(self._texts[name] for name in best)
        messages = [{"role": "user", "content": PROMPT.format(passages=passages, question=question)}]
        done = answer(self._engine, messages, Asking(limit=ANSWER_TOKENS, most_blocks=0))
        return Reply(
            text=done.text, sources=best, grounded=bool(best), prompt_tokens=done.prompt_tokens, seconds=time.monotonic() - started
        )

    def _best(self, question: str) -> tuple[str, ...]:
        names = list(self._texts)
        if not names:
            return ()
        if self._index is None:
            self._index = bm25s.BM25()
            self._index.index(bm25s.tokenize(list(self._texts.values()), stopwords="en", show_progress=False), show_progress=False)
        found, scores = self._index.retrieve(
            bm25s.tokenize(question, stopwords="en", show_progress=False), k=min(self._most, len(names)), show_progress=False
        )
        return tuple(names[place] for place, score in zip(found[0].tolist(), scores[0].tolist(), strict=True) if score > 0)

    def facts(self) -> dict[str, Any]:
        return {"memory": "passages", "passages": self._most}
