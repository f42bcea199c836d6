"""`python -m jobs.dlq list|show|replay`: what a stream could not learn, why, and once more. Needs Kafka, but neither Ray nor the model."""

from __future__ import annotations

import json
import sys
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any, TypeAlias

import typer
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from jobs.command import start
from jobs.config import load_config
from jobs.dlq_selection import Places, Tally, wanted_of
from jobs.dlq_view import content_json, described, letter_json, letter_table
from jobs.options import AsJson, ConfigFile, OneStream, Overrides
from pipeline.errors import StreamError
from pipeline.letters import Letter, LetterState, read_letter, read_letters, read_marks
from pipeline.records import Reason
from pipeline.replay import Replayed, Replayer
from pipeline.source import KafkaConfig

app = typer.Typer(add_completion=False, no_args_is_help=True, help="List, show and replay the dead letters of a stream.")

TABLE_ROWS = 100
_REASONS = ", ".join(reason.value for reason in Reason)

Reasons: TypeAlias = Annotated[list[str] | None, typer.Option("--reason", metavar="REASON", help=f"Only these: {_REASONS}. Repeatable.")]
Since: TypeAlias = Annotated[
    str | None, typer.Option(metavar="TIME", help="Only letters written since then: 30m, 2h, 7d ago, or a time as in 2026-01-31T08:00:00Z.")
]
Topics: TypeAlias = Annotated[list[str] | None, typer.Option("--topic", help="Only records of these topics. Repeatable.")]


@app.command("list")
def list_(
    reasons: Reasons = None,
    since: Since = None,
    topics: Topics = None,
    limit: Annotated[int | None, typer.Option(min=1, help=f"The newest so many; a table shows {TABLE_ROWS}, --json all.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Also those that were replayed.")] = False,
    config: ConfigFile = None,
    overrides: Overrides = None,
    stream: OneStream = None,
    as_json: AsJson = False,
) -> None:
    """The dead letters of a stream, oldest first: where each lies, why it is one, where it came from, whether it may be replayed."""
    kafka, topic, retries, own = _stream(config, overrides, stream)
    wanted = wanted_of(reasons, since, topics or own, [])
    found = Counter[str]()
    with _reading("reading") as passed:
        marks = read_marks(kafka, topic, passed)
        rows = ((letter, letter.state(marks, retries)) for letter in read_letters(kafka, topic, passed) if wanted.holds(letter))
        chosen = _counted(((letter, state) for letter, state in rows if everything or state is not LetterState.REPLAYED), found)
        if as_json and limit is None:
            _print_array(letter_json(letter, state) for letter, state in chosen)
            return
        newest = deque(chosen, maxlen=limit or TABLE_ROWS)
    if as_json:
        _print_array(letter_json(letter, state) for letter, state in newest)
        return
    if newest:
        Console(highlight=False).print(letter_table(newest))
    told = f", the newest {len(newest)} of them above" if found.total() > len(newest) else ""
    counts = "; ".join(f"{count} {name}" for name, count in found.most_common())
    typer.echo(f"{found.total()} dead letters in {topic}{told}{': ' + counts if counts else ''}", err=True)


@app.command()
def show(
    place: Annotated[str, typer.Argument(metavar="[PARTITION/]OFFSET", help="Which letter, as `list` names it.")],
    most_bytes: Annotated[int, typer.Option("--bytes", min=1, help="Show so much of the value.")] = 4096,
    raw: Annotated[bool, typer.Option("--raw", help="Write the value alone to standard output, byte by byte.")] = False,
    config: ConfigFile = None,
    overrides: Overrides = None,
    stream: OneStream = None,
    as_json: AsJson = False,
) -> None:
    """One dead letter: reason, origin, headers, key and value; as text where they are text, else in hexadecimal."""
    kafka, topic, retries, _ = _stream(config, overrides, stream)
    wanted = Places.parse(place)
    letter = read_letter(kafka, topic, wanted.partition or 0, wanted.first)
    if raw:
        sys.stdout.buffer.write(letter.value or b"")
        return
    state = letter.state(read_marks(kafka, topic), retries)
    if as_json:
        print(json.dumps({**letter_json(letter, state), **content_json(letter)}, indent=2))
        return
    for line in described(letter, state, most_bytes):
        print(line)


@app.command()
def replay(
    places: Annotated[
        list[str] | None, typer.Argument(metavar="[PLACES]...", help="[PARTITION/]OFFSET or [PARTITION/]FIRST-LAST; all if none is named.")
    ] = None,
    reasons: Reasons = None,
    since: Since = None,
    topics: Topics = None,
    limit: Annotated[int | None, typer.Option(min=1, help="So many at most, the oldest first.")] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Also those that were replayed dead_letters.retries times and failed again.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be replayed, and publish nothing.")] = False,
    config: ConfigFile = None,
    overrides: Overrides = None,
    stream: OneStream = None,
    as_json: AsJson = False,
) -> None:
    """Publish the records of dead letters again, untouched, to the topic and partition they came from.

    Each is replayed once, however often this is called; a record that fails again is a new dead letter, which counts its replays.
    """
    kafka, topic, retries, own = _stream(config, overrides, stream)
    wanted = wanted_of(reasons, since, topics or own, places or [])
    tally = Tally(dry_run=dry_run)
    if dry_run:
        with _reading("reading") as passed:
            marks = read_marks(kafka, topic, passed)
            for letter in tally.due(read_letters(kafka, topic, passed), wanted, marks, retries, force, limit):
                tally.note(Replayed(letter=letter))
                marks.add(letter.origin, letter.origin_offset)  # a twin of it is not due any more
    else:
        with Replayer(kafka, topic) as replayer, _reading("replaying") as passed:
            # Only now, when no other replay can publish any more, is it known what was published.
            marks = read_marks(kafka, topic, passed)
            due = tally.due(read_letters(kafka, topic, passed), wanted, marks, retries, force, limit)
            try:
                for done in replayer.replay(due, marks):
                    tally.note(done)
            except StreamError as error:
                raise type(error)(f"{error}\n{tally.told()}") from error
    if as_json:
        print(json.dumps(tally.as_json(), indent=2))
    else:
        typer.echo(tally.told())
    if tally.refused:
        problems = [f"{each.letter.name}: {each.problem}" for each in tally.refused]
        raise StreamError("\n".join([f"{tally.refusals} dead letters could not be replayed:", *problems]))


def _stream(config: ConfigFile, overrides: Overrides, name: str | None) -> tuple[KafkaConfig, str, int, list[str] | None]:
    """Where a stream's letters are, how often they are replayed, and from which topics they are where other streams write there as well."""
    deployment = load_config(config, overrides)
    stream = deployment.stream(name)
    topic = stream.dead_letters.topic_for(stream.kafka)
    shared = any(each.dead_letters.topic_for(each.kafka) == topic for each in deployment.streams if each.stream != stream.stream)
    return stream.kafka, topic, stream.dead_letters.retries, list(stream.kafka.topics) if shared else None


@contextmanager
def _reading(doing: str) -> Iterator[Callable[[int, int], None]]:
    """Shows, on standard error, how much of the topic was read."""
    columns = (SpinnerColumn(), TextColumn(doing), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=None)
        yield lambda passed, total: progress.update(task, completed=passed, total=total)


def _counted(rows: Iterator[tuple[Letter, LetterState]], found: Counter[str]) -> Iterator[tuple[Letter, LetterState]]:
    for letter, state in rows:
        found[letter.reason] += 1
        yield letter, state


def _print_array(rows: Iterator[dict[str, Any]]) -> None:
    """A JSON array, written as it comes."""
    print("[", end="")
    for number, row in enumerate(rows):
        print("," * bool(number) + "\n  " + json.dumps(row), end="")
    print("\n]")


if __name__ == "__main__":
    start(app)
