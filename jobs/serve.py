"""`python -m jobs.serve`: answer over HTTP for the streams that run on a Ray cluster."""

from __future__ import annotations

import sys
import time
from contextlib import ExitStack, redirect_stdout
from typing import Annotated

import typer
from rich.console import Console

from actors.cluster import disconnect
from actors.http.config import HttpConfig
from actors.http.serve import start_front, stop_front
from jobs.command import start
from jobs.config import load_config
from jobs.options import ConfigFile, Overrides, RayAddress
from jobs.run import StopRequest
from jobs.running import find_streams, listening

app = typer.Typer(add_completion=False)
console = Console(stderr=True, highlight=False, markup=False)
LOOK_S = 0.5


@app.command()
def serve(
    config: ConfigFile = None,
    overrides: Overrides = None,
    address: RayAddress = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on; http.host, or 127.0.0.1.")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="Port to listen on; http.port, or 8000.")] = None,
) -> None:
    """Answer over HTTP for all streams of a Ray cluster: the OpenAI protocol, documents, metrics and a page, until told to stop."""
    http = HttpConfig() if config is None and not overrides else load_config(config, overrides).http
    given = {name: value for name, value in (("host", host), ("port", port)) if value is not None}
    http = HttpConfig.model_validate({**http.model_dump(), **given})
    stop = StopRequest()
    with redirect_stdout(sys.stderr), ExitStack() as undo:
        undo.callback(disconnect)
        find_streams(address)
        stop.listen()
        url = start_front(http)
        undo.callback(stop_front)
        console.print(listening(url))
        while not stop.wanted:
            time.sleep(LOOK_S)


if __name__ == "__main__":
    start(app)
