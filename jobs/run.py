"""`python -m jobs.run`: learn streams and answer questions, until told to stop.

    signal, or caught up -> drain: finish the document, save, commit, exit 0

Works alone (it starts Ray on this machine), with `--address` or RAY_ADDRESS, and as `ray job submit -- python -m jobs.run --config ...`.
"""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack, redirect_stdout
from enum import StrEnum
from types import FrameType
from typing import Annotated

import typer

from actors.cluster import connect, disconnect
from actors.config import DeploymentConfig
from actors.messages import ReplicaStatus
from actors.placement import fit
from jobs.command import message_of, start
from jobs.config import as_yaml, load_config
from jobs.options import ConfigFile, Overrides, RayAddress
from jobs.progress import Progress
from jobs.running import announced, listening
from jobs.streams import Enough, StreamRun, end_all, require_all
from pipeline.errors import ConfigurationError

app = typer.Typer(add_completion=False)
SHOW_S = 0.5


class Until(StrEnum):
    CAUGHT_UP = "caught-up"


class StopRequest:
    """SIGTERM or SIGINT, taken as a wish to drain. A second one ends the process as it does by default."""

    def __init__(self) -> None:
        self.wanted = False

    def listen(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._heard)

    def _heard(self, number: int, frame: FrameType | None) -> None:
        self.wanted = True
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)


@app.command()
def run(
    config: ConfigFile = None,
    overrides: Overrides = None,
    streams: Annotated[
        list[str] | None, typer.Option("--stream", metavar="NAME", help="Run only this one of a file's streams. Repeatable.")
    ] = None,
    until: Annotated[
        Until | None,
        typer.Option(help="caught-up: drain what is in the topics now, save, exit. A broker or topic that is away is waited for."),
    ] = None,
    as_json: Annotated[
        bool,
        typer.Option("--json", help="Print what each stream came to on standard output, a JSON object a line, and nothing else there."),
    ] = False,
    address: RayAddress = None,
    http: Annotated[
        bool, typer.Option("--http", help="Answer over HTTP as well: the OpenAI protocol and a page, at http.host and http.port.")
    ] = False,
    show_config: Annotated[
        bool, typer.Option("--show-config", help="Print the effective configuration, secrets masked, and exit.")
    ] = False,
) -> None:
    """Learn streams from Kafka and answer questions about them, until told to stop.

    SIGTERM and Ctrl-C drain: every replica finishes its document, a snapshot is saved, positions are committed. Started again with the
    same configuration it goes on from there; after a crash, from the snapshot before, to the same result.

    A file with `streams:` holds several. One that cannot go on is shown as failed, and the others go on; the exit status tells in the end.
    """
    deployment = load_config(config, overrides).only(streams)
    if show_config:
        typer.echo(as_yaml(deployment), nl=False)
        return
    idle = [each.stream for each in deployment.streams if each.replicas.mode == "serve"]
    if until and idle:
        raise ConfigurationError(f"{', '.join(idle)}: replicas.mode: serve reads nothing, so it never catches up; leave out --until")
    # Ray repeats what the replicas print on our standard output; that is for the results alone.
    with redirect_stdout(sys.stderr):
        runs = run_streams(deployment, until, address, http)
    if as_json:
        for each in runs:
            print(json.dumps(each.result()))
    require_all(runs)


def run_streams(deployment: DeploymentConfig, until: Until | None, address: str | None = None, http: bool = False) -> list[StreamRun]:
    """Start all streams, wait until told to stop or, with `until`, until each has caught up, and drain them side by side.

    What one of them cannot go on for is its `error`.

    Raises:
        ConfigurationError: the cluster has too little for all of them; none was started then.
    """
    stop = StopRequest()
    stop.listen()
    with ExitStack() as undo:
        connect(address)
        undo.callback(disconnect)
        stop.listen()  # Ray has put its own handler there
        progress = undo.enter_context(Progress())
        progress.say(as_yaml(deployment))
        runs = [StreamRun(each, stop_when(stop, until), progress.say) for each in fit(deployment.streams)]
        undo.callback(end_all, runs)
        for each in runs:
            each.start()
        begun = [each for each in runs if each.started]
        url = None
        if http and begun:
            from actors.http.serve import start_front, stop_front  # Ray Serve takes a second to load

            url = start_front(deployment.http)
            undo.callback(stop_front)
            progress.say(listening(url))
        for each in begun:
            undo.enter_context(announced(each.name, url))
        show(runs, progress)
        return runs


def stop_when(stop: StopRequest, until: Until | None) -> Enough:
    """Whether these statuses of a stream are the last to be waited for."""

    def enough(statuses: list[ReplicaStatus]) -> bool:
        return stop.wanted or (until is not None and all(status.caught_up for status in statuses))

    return enough


def show(runs: Sequence[StreamRun], progress: Progress) -> None:
    """Show the streams until all are over; one of several that cannot go on is told at once."""
    told = set[str]()
    while True:
        over = all(each.over for each in runs)
        for each in runs:
            if each.error is not None and len(runs) > 1 and each.name not in told:
                told.add(each.name)
                progress.say(f"{each.name} cannot go on: {message_of(each.error)}")
        progress.show({each.name: each.statuses for each in runs})
        if over:
            return
        time.sleep(SHOW_S)


if __name__ == "__main__":
    start(app)
