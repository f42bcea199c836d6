"""`python -m jobs.status`: how the replicas of a running stream stand."""

from __future__ import annotations

import json
import sys
from contextlib import redirect_stdout
from typing import Any

import typer
from rich.console import Console

from actors.messages import ReplicaStatus
from jobs.command import start
from jobs.options import AsJson, RayAddress, StreamName
from jobs.progress import lag, status_table
from jobs.running import find_stream

app = typer.Typer(add_completion=False)


@app.command()
def status(stream: StreamName = None, address: RayAddress = None, as_json: AsJson = False) -> None:
    """How the replicas of a running stream stand: process, phase, position, lag, counts, last snapshot."""
    with redirect_stdout(sys.stderr):
        statuses = find_stream(stream, address).statuses()
    if as_json:
        print(json.dumps([as_json_object(each) for each in statuses], indent=2))
    else:
        Console(highlight=False).print(status_table(statuses))


def as_json_object(status: ReplicaStatus) -> dict[str, Any]:
    """A status and its lag, in offsets; null while the log's end is not known yet."""
    return {**status.as_dict(), "lag": lag(status)}


if __name__ == "__main__":
    start(app)
