"""One replica of a stream in a process of its own, without Ray: the real `Replica`, `RemotePoller`, `Poller` and `Saver`, told to hurry."""

from __future__ import annotations

import signal
import sys
import threading
from contextlib import suppress
from dataclasses import replace
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from actors.config import StreamConfig
from actors.messages import Phase
from actors.replica import Replica
from pipeline.errors import MemstreamError
from tests.faults import planted
from tests.faults.feeds import SocketLeader, serve_feed, socket_of
from tests.faults.memories import memory_of
from tests.faults.remote import use_nursery

TELL_S = 0.05
HURRIED = {"RETRY_S": 0.2, "SAVE_RETRY_S": 0.3, "POLL_TIMEOUT_S": 0.1, "FIRST_PAUSE_S": 0.1, "LOST_S": 1.0, "FEED_WAIT_S": 0.1}
"""Pauses of the product that are meant for hours of outage, and here for moments."""


def hurry() -> None:
    for name, module in list(sys.modules.items()):
        if name.startswith("actors."):
            vars(module).update({constant: seconds for constant, seconds in HURRIED.items() if constant in vars(module)})


def live(
    channel: Connection,
    config: StreamConfig,
    number: int,
    deployment: str,
    feeds: str,
    nursery: str,
    log: Path,
    plant: str | None,
    full_disk: str | None,
    trusting: bool,
) -> None:
    """Learn until SIGTERM, drain, and feed whoever follows until it is told to end.

    Says `("poller", pid)`, `("status", ReplicaStatus)` and, once drained, `("drained", (ReplicaStatus, sha256 of its memory))`. Hears
    `("lead", generation)`, `("hear", Leader)` and `("end", None)`. `feeds`: what the addresses of its deployment's sockets begin with.
    """
    told, over, sending = threading.Event(), threading.Event(), threading.Lock()
    signal.signal(signal.SIGTERM, lambda *_: told.set())
    hurry()

    def say(kind: str, what: Any) -> None:
        with sending:
            channel.send((kind, what))

    use_nursery(nursery, log, plant, number, lambda pid: say("poller", pid))
    planted.plant(plant, number)
    planted.fill_disk_while_there_is(full_disk)
    replica = Replica(config, number, 1, open_leader=partial(SocketLeader, feeds), deployment=deployment)
    serve_feed(replica, socket_of(feeds, number))
    threading.Thread(target=_hear, args=(channel, replica, over), daemon=True).start()
    said = replica.status()
    while not told.wait(TELL_S):
        status = replica.status()
        if replace(status, at_s=said.at_s) != said:
            say("status", status)
            said = status
    try:
        status = replica.drain()
    except MemstreamError as error:
        say("status", replace(replica.status(), phase=Phase.FAILED, problem=f"{type(error).__name__}: {error}"))
        raise
    if status.phase is Phase.DRAINED:
        say("drained", (status, _memory_sha256(replica, trusting)))
        over.wait()
    else:
        say("status", status)
    replica.close()


def _hear(channel: Connection, replica: Replica, over: threading.Event) -> None:
    with suppress(EOFError, OSError):
        while not over.is_set():
            kind, what = channel.recv()
            if kind == "end":
                break
            (replica.lead if kind == "lead" else replica.hear)(what)
    over.set()


def _memory_sha256(replica: Replica, trusting: bool) -> str | None:
    if replica._parts is None:
        return None
    try:
        return memory_of(replica._parts.engine, trusting=trusting).sha256
    except ValueError as error:  # a finding for the checker
        return str(error)
