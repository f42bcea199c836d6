"""`python -m jobs.status`: how the replicas of a running stream stand."""

from __future__ import annotations

import json
import sys
import time
from contextlib import redirect_stdout
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.live import Live

from actors.messages import ReplicaStatus
from jobs.command import start
from jobs.deployment import deployment
from jobs.options import AsJson, StreamAddress, StreamName
from jobs.progress import lag, status_table

app = typer.Typer(add_completion=False)
WATCH_S = 1.0


@app.command()
def status(
    stream: StreamName = None,
    address: StreamAddress = None,
    as_json: AsJson = False,
    watch: Annotated[bool, typer.Option("--watch", help="Show it again and again, in place; Ctrl-C ends.")] = False,
) -> None:
    """How the replicas of a running stream stand: process, phase, position, lag, counts, last snapshot."""
    with redirect_stdout(sys.stderr):
        found = deployment(stream, address)
        statuses = found.statuses()
    if as_json:
        print(json.dumps([as_json_object(each) for each in statuses], indent=2))
        return
    console = Console(highlight=False)
    if not watch:
        console.print(status_table(statuses))
        return
    with Live(status_table(statuses), console=console, auto_refresh=False) as live:
        while True:
            time.sleep(WATCH_S)
            live.update(status_table(found.statuses()), refresh=True)


def as_json_object(status: ReplicaStatus) -> dict[str, Any]:
    """A status and its lag, in offsets; null while the log's end is not known yet."""
    return {**status.as_dict(), "lag": lag(status)}


if __name__ == "__main__":
    start(app)
