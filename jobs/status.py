"""`python -m jobs.status`: how the replicas of running streams stand."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from contextlib import redirect_stdout
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.live import Live

from actors.messages import ReplicaStatus
from jobs.command import start
from jobs.deployment import Deployment, deployments
from jobs.options import AsJson, StreamAddress
from jobs.progress import lag, status_table

app = typer.Typer(add_completion=False)
WATCH_S = 1.0


@app.command()
def status(
    stream: Annotated[str | None, typer.Option("--stream", metavar="NAME", help="Only this stream.")] = None,
    address: StreamAddress = None,
    as_json: AsJson = False,
    watch: Annotated[bool, typer.Option("--watch", help="Show it again and again, in place; Ctrl-C ends.")] = False,
) -> None:
    """How the replicas of all running streams stand, or of one: process, phase, position, lag, counts, last snapshot."""
    with redirect_stdout(sys.stderr):
        found = deployments(stream, address)
        statuses = statuses_of(found)
    if as_json:
        print(json.dumps([as_json_object(name, each) for name, replicas in statuses.items() for each in replicas], indent=2))
        return
    console = Console(highlight=False)
    if not watch:
        console.print(status_table(statuses))
        return
    with Live(status_table(statuses), console=console, auto_refresh=False) as live:
        while True:
            time.sleep(WATCH_S)
            live.update(status_table(statuses_of(found)), refresh=True)


def statuses_of(found: Sequence[Deployment]) -> dict[str, list[ReplicaStatus]]:
    return {each.stream: each.statuses() for each in found}


def as_json_object(stream: str, status: ReplicaStatus) -> dict[str, Any]:
    """A status, whose it is, and its lag in offsets; null while the log's end is not known yet."""
    return {"stream": stream, **status.as_dict(), "lag": lag(status)}


if __name__ == "__main__":
    start(app)
