"""`python -m jobs.run`: learn a stream and answer questions, until told to stop.

    signal, or caught up -> drain: finish the document, save, commit, exit 0

Works alone (it starts Ray on this machine), with `--address` or RAY_ADDRESS, and as `ray job submit -- python -m jobs.run --config ...`.
"""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable
from contextlib import ExitStack, redirect_stdout
from enum import StrEnum
from types import FrameType
from typing import Annotated, Any

import typer

from actors.cluster import connect, disconnect
from actors.config import StreamConfig
from actors.messages import ReplicaStatus
from actors.succession import speaker
from actors.supervisor import ReplicaLost, Supervisor
from jobs.command import start
from jobs.config import as_yaml, load_config
from jobs.options import AsJson, ConfigFile, Overrides, RayAddress
from jobs.progress import Progress
from jobs.running import announced, listening
from pipeline.errors import ConfigurationError

app = typer.Typer(add_completion=False)


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
    until: Annotated[
        Until | None,
        typer.Option(help="caught-up: drain what is in the topics now, save, exit. A broker or topic that is away is waited for."),
    ] = None,
    as_json: AsJson = False,
    address: RayAddress = None,
    http: Annotated[
        bool, typer.Option("--http", help="Answer over HTTP as well: the OpenAI protocol and a page, at http.host and http.port.")
    ] = False,
    show_config: Annotated[
        bool, typer.Option("--show-config", help="Print the effective configuration, secrets masked, and exit.")
    ] = False,
) -> None:
    """Learn a stream from Kafka and answer questions about it, until told to stop.

    SIGTERM and Ctrl-C drain: every replica finishes its document, a snapshot is saved, positions are committed. Started again with the
    same configuration it goes on from there; after a crash, from the snapshot before, to the same result.
    """
    stream = load_config(config, overrides)
    if show_config:
        typer.echo(as_yaml(stream), nl=False)
        return
    if until and stream.replicas.mode == "serve":
        raise ConfigurationError("replicas.mode: serve reads nothing, so it never catches up; leave out --until")
    # Ray repeats what the replicas print on our standard output; that is for the result alone.
    with redirect_stdout(sys.stderr):
        statuses = run_stream(stream, until, address, http)
    if as_json:
        print(json.dumps(result_of(stream, statuses)))


def run_stream(config: StreamConfig, until: Until | None, address: str | None = None, http: bool = False) -> list[ReplicaStatus]:
    """Start everything, wait until told to stop or, with `until`, until all replicas have caught up, and drain.

    Raises:
        ReplicaFailed: a replica cannot go on.
        ConfigurationError: the cluster has too little, or runs this stream already.
    """
    stop = StopRequest()
    stop.listen()
    with ExitStack() as undo:
        connect(address)
        undo.callback(disconnect)
        stop.listen()  # Ray has put its own handler there
        progress = undo.enter_context(Progress())
        progress.say(as_yaml(config))
        supervisor = Supervisor.start(config)
        undo.callback(supervisor.stop)
        url = None
        if http:
            from actors.http.serve import start_front, stop_front  # Ray Serve takes a second to load

            url = start_front(config.http)
            undo.callback(stop_front)
            progress.say(listening(url))
        undo.enter_context(announced(config.stream, url))
        return watch_and_drain(supervisor, progress, stop_when(stop, until))


def stop_when(stop: StopRequest, until: Until | None) -> Callable[[list[ReplicaStatus]], bool]:
    """Whether these statuses are the last to be waited for."""

    def enough(statuses: list[ReplicaStatus]) -> bool:
        return stop.wanted or (until is not None and all(status.caught_up for status in statuses))

    return enough


def watch_and_drain(supervisor: Supervisor, progress: Progress, enough: Callable[[list[ReplicaStatus]], bool]) -> list[ReplicaStatus]:
    """Show the replicas until it is enough, then drain them. One that was killed on the way out is restored first, and drained then."""
    while True:
        for statuses in supervisor.watch(enough):
            progress.show(statuses)
        try:
            drained = supervisor.drain()
        except ReplicaLost as error:
            progress.say(f"{error}; waiting for it to come back")
            continue
        progress.show(drained)
        return drained


def result_of(config: StreamConfig, statuses: list[ReplicaStatus]) -> dict[str, Any]:
    """What one run came to. The leader speaks for the stream: it wrote the snapshot."""
    owner = speaker(statuses)
    return {
        "stream": config.stream,
        "epoch": owner.epoch,
        "position": dict(owner.position),
        "counts": dict(owner.counts),
        "update_number": owner.update_number,
        "memory_sha256": owner.memory_sha256,
        "watermark_ms": owner.watermark_ms,
        "snapshots": f"{config.snapshots.root}/{config.stream}",
        "replicas": [status.as_dict() for status in statuses],
    }


if __name__ == "__main__":
    start(app)
