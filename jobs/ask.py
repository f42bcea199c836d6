"""`python -m jobs.ask`: ask a running stream, and be told what the answer was given from."""

from __future__ import annotations

import json
import os
import sys
import time
from contextlib import redirect_stdout
from datetime import UTC, datetime
from typing import Annotated

import typer

from actors.messages import Answer, Filter, Knowledge, Question, Source
from jobs.command import start
from jobs.deployment import Deployment, deployment
from jobs.options import AsJson, StreamAddress, StreamName
from pipeline.errors import MemstreamError

app = typer.Typer(add_completion=False)


@app.command()
def ask(
    question: Annotated[str, typer.Argument(help="What to ask.", show_default=False)],
    stream: StreamName = None,
    address: StreamAddress = None,
    as_json: AsJson = False,
    max_new_tokens: Annotated[int | None, typer.Option(min=1, help="Longest answer; answers.max_new_tokens if not given.")] = None,
    sources: Annotated[list[str] | None, typer.Option("--source", help="Read only documents of this source; may be repeated.")] = None,
    since: Annotated[datetime | None, typer.Option(help="Read only documents published then or later (UTC).")] = None,
    until: Annotated[datetime | None, typer.Option(help="Read only documents published before then (UTC).")] = None,
    exclude: Annotated[list[str] | None, typer.Option(help="Do not read this document (its id); may be repeated.")] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Ask again and again; show each answer that differs. Ctrl-C ends.")] = False,
    every_s: Annotated[float, typer.Option("--every", min=0.1, help="Seconds between two questions of --watch.")] = 5.0,
) -> None:
    """Ask a running stream a question; the replica that knows most answers, and says what it knew."""
    question = os.fsencode(question).decode("utf-8", "replace")  # a terminal of another encoding leaves halves of characters
    if not question.strip():
        raise typer.BadParameter("the question is empty", param_hint="QUESTION")
    only = Filter(sources=tuple(sources or ()), since_ms=_ms(since), until_ms=_ms(until), exclude=tuple(exclude or ()))
    asked = Question.of(question, max_new_tokens, only)
    with redirect_stdout(sys.stderr):
        found = deployment(stream, address)
    answer = _answered(found, asked)
    _tell(answer, as_json)
    while watch:
        time.sleep(every_s)
        try:
            again = _answered(found, asked)
        except MemstreamError as error:
            if not error.retriable:
                raise
            typer.echo(f"[{error}]", err=True)
            continue
        if _said(again) != _said(answer):
            typer.echo(f"\n{datetime.now(UTC):%H:%M:%S} UTC:", err=True)
            _tell(again, as_json)
        answer = again


def _answered(found: Deployment, question: Question) -> Answer:
    with redirect_stdout(sys.stderr):
        try:
            return found.ask(question)
        except ValueError as error:
            raise typer.BadParameter(str(error), param_hint="QUESTION") from error


def _said(answer: Answer) -> tuple[str, tuple[str, ...]]:
    """What makes an answer another one: its words, and the documents it was read from."""
    return answer.text, tuple(source.document_id for source in answer.knowledge.sources)


def _ms(time: datetime | None) -> int | None:
    return None if time is None else int(time.replace(tzinfo=UTC).timestamp() * 1000)


def _tell(answer: Answer, as_json: bool) -> None:
    if as_json:
        print(json.dumps(answer.as_dict(), ensure_ascii=False))
        return
    print(printable(answer.text))
    for line in cited(answer.knowledge):
        typer.echo(line, err=True)
    typer.echo(f"[{known(answer.knowledge)}; {answer.seconds:.1f} s]", err=True)


def printable(text: str) -> str:
    """Without control characters: what a feed wrote into the memory must not steer a terminal.

    >>> printable("a line\\nand \\x1b[2J")
    'a line\\nand  [2J'
    """
    return "".join(character if character.isprintable() or character == "\n" else " " for character in text)


def cited(knowledge: Knowledge) -> list[str]:
    """The documents that an answer was read from, a line each: title, source, date, link, and where it lies in the stream.

    >>> source = Source(
    ...     document_id="a", title="Elections", source="Reuters", link=None, published_at_ms=1_767_081_600_000, topic="news", partition=0,
    ...     offset=7, score=0.93)
    >>> read = Knowledge(
    ...     stream="news", replica=0, version=1, update_number=1, position={}, watermark_ms=None, applied=1, complete_up_to_ms=None,
    ...     staleness_s=None, grounded=True, sources=(source,))
    >>> cited(read)
    ['  read from: Elections | Reuters | 30 Dec 2025 08:00 UTC | news/0@7 (0.93)']
    """
    if knowledge.grounded is False:
        return ["  read from: nothing; no remembered document tells, so the base model answers"]
    return [f"  read from: {_cited(source)}" for source in knowledge.sources]


def _cited(source: Source) -> str:
    place = f"{source.topic}/{source.partition}@{source.offset} ({source.score:.2f})"
    parts = (source.title or source.document_id, source.source, _time(source.published_at_ms), source.link, place)
    return printable(" | ".join(part for part in parts if part))


def known(knowledge: Knowledge) -> str:
    """What an answer was given from, in one line."""
    position = ", ".join(f"{partition}@{offset}" for partition, offset in knowledge.position.items()) or "nothing read yet"
    newest = "no document yet" if knowledge.watermark_ms is None else f"newest document of {_time(knowledge.watermark_ms)}"
    complete = "never caught up yet" if knowledge.staleness_s is None else f"complete up to {knowledge.staleness_s:.1f} s ago"
    return f"{knowledge.stream}, replica {knowledge.replica}, version {knowledge.version}, {position}, {newest}, {complete}"


def _time(time_ms: int) -> str:
    return datetime.fromtimestamp(time_ms / 1000, UTC).strftime("%d %b %Y %H:%M UTC")


if __name__ == "__main__":
    start(app)
