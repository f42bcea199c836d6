"""One replica of a stream in a process of its own, without Ray: the real `Replica`, `RemotePoller`, `Poller` and `Saver`, told to hurry."""

from __future__ import annotations

import signal
import sys
import threading
from dataclasses import asdict
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from actors.config import StreamConfig
from actors.replica import Replica
from pipeline.errors import MemstreamError
from tests.faults import planted
from tests.faults.memories import memory_of
from tests.faults.remote import use_nursery

TELL_S = 0.05
HURRIED = {"RETRY_S": 0.2, "SAVE_RETRY_S": 0.3, "POLL_TIMEOUT_S": 0.1}
"""Pauses of the product that are meant for hours of outage, and here for moments."""


def hurry() -> None:
    for name, module in list(sys.modules.items()):
        if name.startswith("actors."):
            vars(module).update({constant: seconds for constant, seconds in HURRIED.items() if constant in vars(module)})


def live(
    channel: Connection,
    config: StreamConfig,
    number: int,
    nursery: str,
    log: Path,
    plant: str | None,
    full_disk: str | None,
    trusting: bool,
) -> None:
    """Learn until SIGTERM, then drain. Says on the channel `("poller", pid)`, `("status", {...})` and at the end `("drained", {...})`."""
    told = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: told.set())
    hurry()
    sending = threading.Lock()

    def say(kind: str, what: Any) -> None:
        with sending:
            channel.send((kind, what))

    use_nursery(nursery, log, plant, number, lambda pid: say("poller", pid))
    planted.plant(plant, number)
    planted.fill_disk_while_there_is(full_disk)
    replica = Replica(config, number, 1)
    said: dict[str, Any] = {}
    while not told.wait(TELL_S):
        status = asdict(replica.status())
        if {**status, "at_s": 0} != said:
            say("status", status)
            said = {**status, "at_s": 0}
    try:
        status = asdict(replica.drain())
    except MemstreamError as error:
        say("status", {**asdict(replica.status()), "phase": "failed", "problem": f"{type(error).__name__}: {error}"})
        raise
    if replica._parts is not None and status["phase"] == "drained":
        try:
            status["live_memory_sha256"] = memory_of(replica._parts.engine, trusting=trusting).sha256
        except ValueError as error:  # a finding for the checker
            status["live_memory_sha256"] = str(error)
    say("drained" if status["phase"] == "drained" else "status", status)
    replica.close()
