"""`python -m jobs.ask`: ask a running stream, and be told what the answer was given from."""

from __future__ import annotations

import json
import sys
from contextlib import redirect_stdout
from datetime import UTC, datetime
from typing import Annotated

import typer

from actors.messages import Answer, Knowledge, Question
from jobs.command import start
from jobs.options import AsJson, RayAddress, StreamName
from jobs.running import find_stream

app = typer.Typer(add_completion=False)


@app.command()
def ask(
    question: Annotated[str, typer.Argument(help="What to ask.", show_default=False)],
    stream: StreamName = None,
    address: RayAddress = None,
    as_json: AsJson = False,
    max_new_tokens: Annotated[int | None, typer.Option(min=1, help="Longest answer; answers.max_new_tokens if not given.")] = None,
) -> None:
    """Ask a running stream a question; the replica that knows most answers, and says what it knew."""
    if not question.strip():
        raise typer.BadParameter("the question is empty", param_hint="QUESTION")
    with redirect_stdout(sys.stderr):
        supervisor = find_stream(stream, address)
        try:
            answer = supervisor.ask(Question.of(question, max_new_tokens))
        except ValueError as error:
            raise typer.BadParameter(str(error), param_hint="QUESTION") from error
    _tell(answer, as_json)


def _tell(answer: Answer, as_json: bool) -> None:
    if as_json:
        print(json.dumps(answer.as_dict(), ensure_ascii=False))
        return
    print(printable(answer.text))
    typer.echo(f"[{known(answer.knowledge)}; {answer.seconds:.1f} s]", err=True)


def printable(text: str) -> str:
    """Without control characters: what a feed wrote into the memory must not steer a terminal.

    >>> printable("a line\\nand \\x1b[2J")
    'a line\\nand  [2J'
    """
    return "".join(character if character.isprintable() or character == "\n" else " " for character in text)


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
