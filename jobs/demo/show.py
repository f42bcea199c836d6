"""How the demo looks: a bar while it streams, a table of what was answered when and from where, and what to do next."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from actors.config import StreamConfig
from jobs.demo.programme import STAGES, STREAM, Case, Reply

MAX_CELL = 34


@contextmanager
def progress_bar(console: Console, total: int) -> Iterator[Callable[[int, str], None]]:
    """`advance(count, note)`; an empty note leaves the last one."""
    note = TextColumn("{task.fields[note]}")
    columns = (TextColumn("{task.description}"), BarColumn(24), MofNCompleteColumn(), TimeElapsedColumn(), note)
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("streaming", total=total, note="")

        def advance(count: int, note: str) -> None:
            shown = {"note": escape(_line(note))} if note else {}
            progress.update(task, advance=count, **shown)  # type: ignore[arg-type]

        yield advance
        progress.update(task, note="done")


def show(console: Console, cases: Sequence[Case], result: dict[str, Any], config: StreamConfig, out: Path) -> None:
    """The tables, and what to do next."""
    table = Table("question", "gold", *STAGES, "age", "read from", title="what it knew, when, and from where")
    for case in cases:
        replies = [getattr(case, stage) for stage in STAGES]
        same = case.restored is not None and case.end is not None and case.restored.text == case.end.text
        cells = [_cell(case, reply) for reply in replies[:3]] + ["= end" if same else _cell(case, replies[3])]
        table.add_row(case.asked.question, case.asked.gold, *cells, str(case.age), _cited(case))
    console.print(table)
    count = len(cases)
    for stage in STAGES:
        replies = [getattr(case, stage) for case in cases]
        right = sum(case.right(reply) for case, reply in zip(cases, replies, strict=True))
        cited = sum(case.right(reply) and case.source_right(reply) for case, reply in zip(cases, replies, strict=True))
        source = f", the right source cited in {cited} of {right}" if stage != "before" else ""
        console.print(f"  {stage:>8}: {right} of {count} right{source}")
    equal = sum(case.restored == case.end for case in cases)
    waits = sorted(case.freshness_s for case in cases)
    console.print(f"restored answers and sources equal to those at the end: {equal} of {count}")
    console.print(f"freshness, published to answerable: median {waits[count // 2]:.2f} s, longest {waits[-1]:.2f} s\n")
    _show_changes(console, result)
    counts = f"{result['documents']} documents are {result['blocks']} blocks of memory"
    console.print(f"{counts}; {result['seconds']:.0f} s in all; everything is in {out}\n")
    _show_next(console, config)


def _show_changes(console: Console, result: dict[str, Any]) -> None:
    corrected, deleted = result["corrected"], result["deleted"]
    console.print(f"corrected live ({corrected['old']} is now {corrected['new']}): [b]{escape(corrected['question'])}[/b]")
    console.print(f"  before: {escape(_line(corrected['before']['answer']))}")
    console.print(f"  after:  {escape(_line(corrected['after']['answer']))} {_mark(corrected['after']['correct'])}")
    console.print(f"deleted live: [b]{escape(deleted['question'])}[/b]")
    console.print(f"  before: {escape(_line(deleted['before']['answer']))}")
    console.print(f"  after:  {escape(_line(deleted['after']['answer']))} {_mark(not deleted['after']['still_known'])}")
    console.print("what no document tells, the base model answers:")
    for general in result["general"]:
        grounded = "" if general["grounded"] is False else "  [yellow](read from memory)[/yellow]"
        console.print(f"  [b]{general['question']}[/b] {escape(_line(general['answer']))}{grounded}")
    console.print()


def _show_next(console: Console, config: StreamConfig) -> None:
    verify = f".venv/bin/memstream snapshots verify --root {config.snapshots.root} --stream {STREAM}"
    steps = {verify: "check the snapshot's digests", "make demo SEED=2": "other questions"}
    steps[".venv/bin/memstream run --help"] = "your own feed: see the README"
    console.print("next:")
    for command, what in steps.items():
        console.print(f"  {command}    [dim]# {what}[/dim]", soft_wrap=True)


def _cell(case: Case, reply: Reply | None) -> str:
    line = _line(reply.text if reply else "")
    return f"{_mark(case.right(reply))} {escape(line if len(line) <= MAX_CELL else line[: MAX_CELL - 1] + '…')}"


def _cited(case: Case) -> str:
    reply = case.end
    if reply is None or not reply.sources:
        return "[dim]nothing[/dim]"
    name, title = reply.sources[0]
    return f"{_mark(case.source_right(reply))} {escape(title or name)}"


def _line(answer: str) -> str:
    return " ".join(answer.split())


def _mark(right: bool) -> str:
    return "[green]✓[/green]" if right else "[red]✗[/red]"
