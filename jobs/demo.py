"""`make demo`: a language model learns from a Kafka stream what it could not have known, is saved, restored, and asked again.

    factbook wheel -> documents -> broker of our own -> replica (Ray) -> snapshot
         |                                                |                |
         +-- questions -- before, newest, end ------------+   restored ----+

The text is real: entries of the World Factbook of the end of 2025, newer than the model. First the pool is filled with other entries;
then each question's document is published, and the question asked as soon as the replica has learned it; more entries follow. What
the model gets wrong is shown as wrong.
"""

from __future__ import annotations

import json
import random
import shutil
import sys
import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from actors.config import StreamConfig
from actors.messages import Answer, Question, ReplicaStatus
from actors.supervisor import Supervisor, connect, disconnect
from jobs.broker import EmbeddedBroker
from jobs.command import start
from jobs.corpora.examples import Fit
from jobs.factbook import FactbookDocument, LeaderQuestion, documents, load_entries, questions
from model.catalog import NAME, checkpoint_folder, token_counter
from model.scoring import contains_answer
from pipeline.publish import Publisher
from pipeline.topics import delete_topic

STREAM = TOPIC = "world-factbook"
ANSWER_TOKENS = 16
FILL_DOCUMENTS = 64
"""Documents before the first question's: of a pool of 32 blocks, 87 % is then written by documents after the very first."""
OTHERS_BETWEEN = 2
AGES = ((0, 3), (4, 7), (8, 15), (16, 31), (32, 63), (64, 10**9))
STEP_S = 0.05

app = typer.Typer(add_completion=False)
console = Console(highlight=False, width=None if sys.stdout.isatty() else 150)


@dataclass(slots=True)
class Case:
    """One question through the demo. Answers are the model's own words; `age` is in updates since its document, at the end."""

    asked: LeaderQuestion
    before: str = ""
    newest: str = ""
    end: str = ""
    restored: str = ""
    age: int = 0
    learned_at_update: int = 0
    freshness_s: float = 0.0

    def right(self, answer: str) -> bool:
        return contains_answer(answer, self.asked.answers)

    def as_dict(self) -> dict[str, Any]:
        stages = {stage: getattr(self, stage) for stage in STAGES}
        right = {f"{stage}_right": self.right(text) for stage, text in stages.items()}
        asked = {"question": self.asked.question, "gold": self.asked.gold, "answers": list(self.asked.answers)}
        return {**asked, **stages, **right, "age": self.age, "freshness_s": round(self.freshness_s, 3), "document": self.asked.document_id}


STAGES = ("before", "newest", "end", "restored")


@dataclass(frozen=True, slots=True, kw_only=True)
class Programme:
    """What is published, in order: documents that fill the pool, then for each case its document and some others."""

    fill: Sequence[FactbookDocument]
    cases: Sequence[Case]
    own: Sequence[FactbookDocument]
    others: Sequence[Sequence[FactbookDocument]]

    @property
    def count(self) -> int:
        return len(self.fill) + len(self.own) + sum(map(len, self.others))


def programme(seed: int, fit: Fit) -> Programme:
    """The seed's questions, and other entries of the edition drawn evenly from all of it."""
    entries = load_entries()
    feed = {document.document_id: document for document in documents(entries, fit)}
    asked = questions(entries, fit, seed)
    told = {name for question in asked for name in question.told_in}
    rng = random.Random(f"demo/{seed}")
    rest = rng.sample([document for name, document in feed.items() if name not in told], FILL_DOCUMENTS + OTHERS_BETWEEN * len(asked))
    between = rest[FILL_DOCUMENTS:]
    return Programme(
        fill=rest[:FILL_DOCUMENTS],
        cases=[Case(question) for question in asked],
        own=[feed[question.document_id] for question in asked],
        others=[between[start : start + OTHERS_BETWEEN] for start in range(0, len(between), OTHERS_BETWEEN)],
    )


class Stage:
    """The running system of the demo, as one who publishes and asks sees it."""

    def __init__(self, supervisor: Supervisor, publisher: Publisher | None = None) -> None:
        self._supervisor, self._publisher = supervisor, publisher

    def ask(self, question: str) -> Answer:
        return self._supervisor.ask(Question.of(question, max_new_tokens=ANSWER_TOKENS))

    def publish(self, sent: Iterable[FactbookDocument]) -> tuple[ReplicaStatus, float]:
        """Publish and wait until the replica has learned it: its status then, and the seconds from the one to the other."""
        assert self._publisher is not None
        started = time.monotonic()
        landed = self._publisher.publish([_record(document) for document in sent])
        position = {str(each.partition): each.end for each in landed}
        while True:
            status = self._supervisor.healthy()[0]
            if all(status.position.get(name, 0) >= end for name, end in position.items()):
                return status, time.monotonic() - started
            time.sleep(STEP_S)


def _record(document: FactbookDocument) -> dict[str, object]:
    return {
        "id": document.document_id,
        "title": document.title,
        "source": document.source,
        "time": document.event_time_ms,
        "text": document.text,
    }


def stream_config(bootstrap_servers: str, folder: Path, seed: int, mode: str) -> StreamConfig:
    """The demo's deployment: one replica on all cores, snapshots under `folder`."""
    return StreamConfig.model_validate(
        {
            "stream": STREAM,
            "kafka": {"bootstrap_servers": bootstrap_servers, "topics": [TOPIC], "group_id": "memstream-demo"},
            "model": {"name": NAME, "seed": seed},
            "replicas": {"mode": mode},
            "snapshots": {"root": folder.resolve().as_uri(), "every_s": 60},
        }
    )


def learn(stage: Stage, plan: Programme) -> ReplicaStatus:
    """Stream the programme and ask before, newest and end; returns the last status."""
    for number, case in enumerate(plan.cases):
        case.before = stage.ask(case.asked.question).text
        if number == 0:
            console.print(f"first answer, before anything was streamed: [b]{case.asked.question}[/b] {escape(_line(case.before))}")
    with _progress() as progress:
        task = progress.add_task("streaming", total=plan.count, note="filling the pool")
        for start in range(0, len(plan.fill), 8):
            stage.publish(plan.fill[start : start + 8])
            progress.advance(task, len(plan.fill[start : start + 8]))
        for case, own, others in zip(plan.cases, plan.own, plan.others, strict=True):
            status, case.freshness_s = stage.publish([own])
            case.learned_at_update = status.update_number - 1
            case.newest = stage.ask(case.asked.question).text
            progress.update(task, advance=1, note=f"{own.title}: {case.newest} {_mark(case.right(case.newest))}")
            status, _ = stage.publish(others)
            progress.advance(task, len(others))
        progress.update(task, note="done")
    for case in plan.cases:
        case.age = status.update_number - 1 - case.learned_at_update
        case.end = stage.ask(case.asked.question).text
    return status


def _progress() -> Progress:
    note = TextColumn("{task.fields[note]}")
    columns = (TextColumn("{task.description}"), BarColumn(24), MofNCompleteColumn(), TimeElapsedColumn(), note)
    return Progress(*columns, console=console)


@app.command()
def demo(
    seed: Annotated[int, typer.Option(help="Draws the questions, the other documents and what updates drop.")] = 1,
    out: Annotated[Path, typer.Option(help="Where the results go as JSON.")] = Path("demo.json"),
    folder: Annotated[Path, typer.Option(help="Where the snapshots go; those of an earlier demo are removed.")] = Path("demo-data"),
) -> None:
    """Watch a language model learn from a Kafka stream, come back from its snapshot, and answer."""
    started = time.monotonic()
    console.print("[b]memstream demo[/b]: a language model reads the World Factbook of the end of 2025 from a Kafka stream\n")
    model = checkpoint_folder(NAME)
    plan = programme(seed, Fit(count_tokens=token_counter(model)))
    shutil.rmtree(folder / STREAM, ignore_errors=True)
    with ExitStack() as ending:
        broker = ending.enter_context(EmbeddedBroker())
        config = stream_config(broker.bootstrap_servers, folder, seed, "consume")
        console.print(f"broker on {broker.bootstrap_servers}; starting Ray and a replica of {NAME} ...")
        first, last = run_stream(config, plan)
        delete_topic(config.kafka, TOPIC)
    console.print(f"saved as epoch {last.epoch}; topic deleted, processes ended. Starting fresh ones from the snapshot ...")
    pid = restore(stream_config("127.0.0.1:9", folder, seed, "serve"), plan.cases)
    seconds = time.monotonic() - started
    result = {
        "seed": seed,
        "documents": plan.count,
        "pool_tokens": last.pool_tokens,
        "updates": last.update_number,
        "cases": [case.as_dict() for case in plan.cases],
        "accuracy": {stage: _share(plan.cases, stage) for stage in STAGES},
        "accuracy_by_age": by_age(plan.cases),
        "epoch": last.epoch,
        "position": dict(last.position),
        "pool_sha256": last.pool_sha256,
        "pids": {"learned": first.pid, "restored": pid},
        "seconds": round(seconds, 1),
    }
    out.write_text(json.dumps(result, indent=2) + "\n")
    show(plan.cases, result, config, out)


def run_stream(config: StreamConfig, plan: Programme) -> tuple[ReplicaStatus, ReplicaStatus]:
    """Learn and save; returns the replica's status at the start and after it was drained. All processes have ended then."""
    connect("local")
    try:
        supervisor = Supervisor.start(config)
        first = supervisor.wait_ready()[0]
        with Publisher(config.kafka, TOPIC) as publisher:
            learn(Stage(supervisor, publisher), plan)
        return first, supervisor.drain()[0]
    finally:
        disconnect()


def restore(config: StreamConfig, cases: Sequence[Case]) -> int | None:
    """Ask everything again in fresh processes that know only the snapshot; returns the replica's pid."""
    connect("local")
    try:
        supervisor = Supervisor.start(config)
        (status,) = supervisor.wait_ready()
        stage = Stage(supervisor)
        for case in cases:
            case.restored = stage.ask(case.asked.question).text
        return status.pid
    finally:
        disconnect()


def by_age(cases: Sequence[Case]) -> list[dict[str, Any]]:
    """Accuracy at the end by updates since the document."""
    rows = []
    for low, high in AGES:
        found = [case.right(case.end) for case in cases if low <= case.age <= high]
        if found:
            rows.append({"from": low, "to": high if high < 10**9 else None, "asked": len(found), "right": sum(found)})
    return rows


def _cell(case: Case, answer: str) -> str:
    line = _line(answer)
    return f"{_mark(case.right(answer))} {escape(line if len(line) <= 40 else line[:39] + '…')}"


def _line(answer: str) -> str:
    return " ".join(answer.split())


def _share(cases: Sequence[Case], stage: str) -> float:
    return round(sum(case.right(getattr(case, stage)) for case in cases) / len(cases), 3)


def _mark(right: bool) -> str:
    return "[green]✓[/green]" if right else "[red]✗[/red]"


def show(cases: Sequence[Case], result: dict[str, Any], config: StreamConfig, out: Path) -> None:
    """The table, and what to do next."""
    table = Table("question", "gold", *STAGES, "age", title="what it knew, and when")
    for case in cases:
        cells = [_cell(case, getattr(case, stage)) for stage in STAGES[:-1]]
        table.add_row(case.asked.question, case.asked.gold, *cells, "= end" if case.restored == case.end else case.restored, str(case.age))
    console.print(table)
    console.print("accuracy: " + ", ".join(f"{stage} {share:.0%}" for stage, share in result["accuracy"].items()))
    for row in result["accuracy_by_age"]:
        until = "" if row["to"] is None else f" to {row['to']}"
        console.print(f"  {row['from']}{until} updates after its document: {row['right']} of {row['asked']}")
    same = sum(case.restored == case.end for case in cases)
    waits = sorted(case.freshness_s for case in cases)
    console.print(f"restored answers equal to those at the end: {same} of {len(cases)}")
    console.print(f"freshness, published to answerable: median {waits[len(waits) // 2]:.2f} s, longest {waits[-1]:.2f} s")
    console.print(
        f"{result['documents']} documents, {result['updates']} updates into a pool of {result['pool_tokens']} tokens a layer, "
        f"{result['seconds']:.0f} s; all of it in {out}\n"
    )
    verify = f".venv/bin/memstream snapshots verify --root {config.snapshots.root} --stream {STREAM}"
    steps = {verify: "check the snapshot's digests", "make demo SEED=2": "other questions"}
    steps[".venv/bin/memstream run --help"] = "your own feed: see the README"
    console.print("next:")
    for command, what in steps.items():
        console.print(f"  {command}    [dim]# {what}[/dim]", soft_wrap=True)


if __name__ == "__main__":
    start(app)
