"""`python -m jobs.evaluate CASES.jsonl --json OUT`: what does a model still know after so many other documents?

    pool, full of unrelated text -> "before"
        -> the case's documents -> N unrelated ones -> "after" -> back to the full pool, bit for bit

A case is one line of JSON: {"documents": ["..."], "question": "...", "answers": ["..."]}. An answer is right if one of `answers`,
normalised, stands in at most 16 greedy tokens.
"""

from __future__ import annotations

import hashlib
import json
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from pydantic import BaseModel, ConfigDict, StrictStr, StringConstraints, ValidationError
from rich.console import Console

from jobs.command import start
from jobs.corpora.examples import Fit
from jobs.factbook import filler_texts, load_entries
from model.answering import Answerer
from model.catalog import NAME, checkpoint_folder
from model.checkpoint import load_model, load_pool
from model.pool import MemoryPool, PoolView
from model.scoring import contains_answer, normalise
from pipeline.chunks import ChunkConfig, chunk_document
from pipeline.errors import MemstreamError
from pipeline.records import Document, Partition, Record

ANSWER_TOKENS = 16
FILLS = 4
"""The pool is filled this many times over, so that the first document, which fills it alone, has all but gone: e^-4 of it is left."""

NO_HEADER = ChunkConfig(header=())
Text = Annotated[StrictStr, StringConstraints(strip_whitespace=True, min_length=1)]

app = typer.Typer(add_completion=False)
console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)


class CasesError(MemstreamError):
    """The cases cannot be read. The message names file and line; correct it."""


class Case(BaseModel):
    """One line of the file; further keys are ignored."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    documents: tuple[Text, ...]
    question: Text
    answers: tuple[Text, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What one case gave. `correct` is the answer after; `tokens_left_out` were cut off, because one document may not fill the pool."""

    question: str
    answers: tuple[str, ...]
    before: str
    after: str
    before_correct: bool
    correct: bool
    updates: int
    tokens_left_out: int


@app.command()
def evaluate(
    cases_file: Annotated[Path, typer.Argument(metavar="CASES.jsonl", help="One case a line, as JSON.")],
    out: Annotated[Path | None, typer.Option("--json", help="Where to write the result.")] = None,
    checkpoint: Annotated[str, typer.Option(help="The embedded model, a folder in the published layout, or a hub name.")] = NAME,
    after: Annotated[int, typer.Option(min=0, help="Unrelated documents between a case's documents and its question.")] = 0,
    seed: Annotated[int, typer.Option(help="Of the unrelated documents, and of what updates drop.")] = 0,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads; those of the process if not given.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1 ...")] = "cpu",
) -> None:
    """Ask questions before and after a model has read what answers them, in a full pool."""
    cases = read_cases(cases_file)
    if threads is not None:
        torch.set_num_threads(threads)
    started_s = time.monotonic()
    exam = examiner(checkpoint_folder(checkpoint), device, seed, after, cases)
    exam.fill()
    verdicts = []
    for number, case in enumerate(cases, 1):
        verdicts.append(exam.examine(case))
        right = sum(verdict.correct for verdict in verdicts)
        console.print(f"case {number} of {len(cases)}: {'right' if verdicts[-1].correct else 'wrong'}, {right} right so far")
    config = {
        "checkpoint": checkpoint,
        "after": after,
        "seed": seed,
        "pool_tokens": exam.pool.capacity,
        "update_tokens": exam.pool.block,
        "updates_before": exam.pool.update_number,
        "answer_tokens": ANSWER_TOKENS,
        "device": device,
        "threads": torch.get_num_threads(),
        "seconds": round(time.monotonic() - started_s, 1),
    }
    report = {"cases": [asdict(verdict) for verdict in verdicts], "totals": totals(verdicts), "config": config}
    write_report(report, out)


def write_report(report: dict[str, Any], out: Path | None) -> None:
    """The whole report into a file; the totals on standard output."""
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    typer.echo(json.dumps(report["totals"]))


def read_cases(path: Path) -> list[Case]:
    """All cases of a file; empty lines are passed over. Raises CasesError."""
    try:
        lines = path.read_bytes().decode("utf-8-sig").splitlines()
    except OSError as error:
        raise CasesError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise CasesError(f"{path} is not UTF-8: {error.reason} at byte {error.start}") from error
    cases = [_case(text, f"{path}, line {number}") for number, text in enumerate(lines, 1) if text.strip()]
    if not cases:
        raise CasesError(f"{path} holds no case")
    return cases


def _case(text: str, where: str) -> Case:
    try:
        case = Case.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(map(str, first["loc"]))
        raise CasesError(f"{where}: {field + ': ' if field else ''}{first['msg']}") from error
    if not case.documents:
        raise CasesError(f"{where}: documents: there is none")
    if not any(map(normalise, case.answers)):
        raise CasesError(f"{where}: answers: none has a word in it")
    return case


class Examiner:
    """One model, its full pool, and the unrelated documents.

    Args:
        pool: its published version is the full pool that every case starts from; a case is learned ahead of it and taken back.
        answerer: asks, and encodes what is learned.
        unrelated: what fills the pool, and then comes after each case; begun anew where they run out.
        after: how many of them come after each case.
    """

    def __init__(self, pool: MemoryPool, answerer: Answerer, unrelated: Sequence[Document], after: int) -> None:
        self.pool, self.answerer, self.unrelated, self.after = pool, answerer, unrelated, after
        self.filling = FILLS * pool.capacity // pool.block

    def fill(self) -> None:
        """Learn unrelated documents until hardly anything else is left."""
        for done, document in enumerate(self._others(0, self.filling), 1):
            self.learn(document, ChunkConfig())
            self.pool.publish()
            if done % 16 == 0 or done == self.filling:
                console.print(f"filling the pool: {done} of {self.filling} documents")

    def examine(self, case: Case) -> Verdict:
        """Ask, learn, ask again, and forget."""
        with self.pool.read() as view:
            before = self.ask(view, case.question)
        left_out = sum(self.learn(_document(text), NO_HEADER) for text in case.documents)
        for document in self._others(self.filling, self.after):
            self.learn(document, ChunkConfig())
        # The head is read without being published, so that `rollback` brings back the full pool, slot for slot.
        after = self.ask(PoolView(self.pool, self.pool.head), case.question)
        updates = self.pool.update_number - self.pool.published.update_number
        self.pool.rollback()
        return Verdict(
            question=case.question,
            answers=case.answers,
            before=before,
            after=after,
            before_correct=contains_answer(before, case.answers),
            correct=contains_answer(after, case.answers),
            updates=updates,
            tokens_left_out=left_out,
        )

    def learn(self, document: Document, config: ChunkConfig) -> int:
        """One document, cut as the stream cuts it; returns how many of its tokens were left out."""
        chunked = chunk_document(document, self.answerer.encode, config, self.pool.capacity, self.pool.block)
        for chunk in chunked.chunks:
            self.pool.update(torch.tensor(chunk.token_ids), publish=False)
        return chunked.tokens_left_out

    def ask(self, view: PoolView, question: str) -> str:
        prompt = self.answerer.prompt([{"role": "user", "content": question}])
        return self.answerer.complete(view, prompt, ANSWER_TOKENS).text

    def _others(self, first: int, count: int) -> Iterator[Document]:
        return islice(cycle(self.unrelated), first, first + count)


def examiner(folder: Path, device: str, seed: int, after: int, cases: Sequence[Case]) -> Examiner:
    """Load a checkpoint, with room beside its pool for the largest case; the pool is not filled yet."""
    model = load_model(folder, device, torch.float32 if device == "cpu" else torch.bfloat16)
    answerer, config = Answerer.of(model, folder), model.config

    def updates(text: str) -> int:
        return len(chunk_document(_document(text), answerer.encode, NO_HEADER, config.num_memory_tokens, config.num_tokens).chunks)

    largest = max(sum(map(updates, case.documents)) for case in cases) + after
    # However many updates a case takes, it holds one pool's worth of new tokens at most.
    pool = MemoryPool(model, seed, spare_blocks=min(largest, config.num_blocks) + 1)
    load_pool(folder, model, pool)
    fit = Fit(count_tokens=lambda text: len(answerer.encode(text)), max_tokens=config.num_tokens)
    return Examiner(pool, answerer, unrelated_documents(fit, seed, cases), after)


def unrelated_documents(fit: Fit, seed: int, cases: Sequence[Case]) -> list[Document]:
    """The World Factbook's documents that name no person and tell none of the cases' answers, in the seed's order."""
    answers = [answer for case in cases for answer in case.answers]
    found = [document for document in filler_texts(load_entries(), fit) if not contains_answer(document.text, answers)]
    if not found:
        raise CasesError("each unrelated document holds an answer of some case: give longer answers, or fewer cases at once")
    random.Random(f"unrelated/{seed}").shuffle(found)
    return [_document(each.text, title=each.title, source=each.source, event_time_ms=each.event_time_ms) for each in found]


def _document(text: str, title: str | None = None, source: str | None = None, event_time_ms: int = 0) -> Document:
    record = Record(partition=Partition("evaluation", 0), offset=0, timestamp_ms=event_time_ms)
    digest = hashlib.sha256(text.encode()).hexdigest()
    return Document(
        record=record, document_id="", text=text, event_time_ms=event_time_ms, content_sha256=digest, title=title, source=source
    )


def totals(verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """Counts and shares over all cases."""
    count = len(verdicts)
    before, after = sum(verdict.before_correct for verdict in verdicts), sum(verdict.correct for verdict in verdicts)
    return {"n": count, "before_correct": before, "correct": after, "accuracy_before": before / count, "accuracy_after": after / count}


if __name__ == "__main__":
    start(app)
