"""Processes in milliseconds: one that has imported everything, and forks whatever is asked of it.

A seed kills and starts some ten processes, and importing torch takes five seconds in each. Whoever connects gets a fork of the nursery that
runs a function with this very connection as its channel; a killed process is seen at its end.
"""

from __future__ import annotations

import gc
import importlib
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Mapping
from contextlib import suppress
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path
from typing import NamedTuple

PRELOADED = ("actors.replica", "actors.handles", "s3fs", "transformers.models.llama.modeling_llama", "tests.faults.node")
START_S = 120.0


class Child(NamedTuple):
    """A process, and the channel to it."""

    pid: int
    channel: Connection

    def kill(self, number: int = signal.SIGKILL) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)


def born(nursery: str, function: str, log: Path, environ: Mapping[str, str], *arguments: object) -> Child:
    """A new process that runs `module:name`, called with its channel and the arguments; what it says goes to `log`."""
    channel = Client(nursery, "AF_UNIX")
    channel.send((function, str(log), dict(environ), arguments))
    pid: int = channel.recv()
    return Child(pid, channel)


class Nursery:
    """The process that forks; everything that it brought forth ends with it."""

    def __init__(self, folder: Path) -> None:
        self.address = str(folder / "nursery.sock")
        command = [sys.executable, "-m", "tests.faults.nursery", self.address]
        self._log = (folder / "nursery.log").open("wb")
        self._process = subprocess.Popen(command, stdout=self._log, stderr=self._log, start_new_session=True)
        deadline_s = time.monotonic() + START_S
        while not os.path.exists(self.address):
            if self._process.poll() is not None or time.monotonic() > deadline_s:
                raise RuntimeError(f"the nursery did not start: {(folder / 'nursery.log').read_text()}")
            time.sleep(0.05)

    def close(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._log.close()


def serve(address: str) -> None:
    """Fork for whoever connects, without end. No thread may run here: a fork would inherit its locks."""
    for module in PRELOADED:
        importlib.import_module(module)
    gc.collect()
    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for them
    arriving = f"{address}.new"
    with Listener(arriving, "AF_UNIX", backlog=64) as listener:
        os.rename(arriving, address)  # it is there only once it answers
        while True:
            channel = listener.accept()
            try:
                request = channel.recv()
            except EOFError:
                continue
            pid = os.fork()
            if pid == 0:
                listener._listener._socket.close()  # type: ignore[attr-defined]
                _run(channel, *request)
            channel.close()


def _run(channel: Connection, function: str, log: str, environ: Mapping[str, str], arguments: tuple[object, ...]) -> None:
    """In the fork; never returns."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    status = 1
    try:
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        os.environ.update(environ)
        channel.send(os.getpid())
        module, name = function.split(":")
        getattr(importlib.import_module(module), name)(channel, *arguments)
        status = 0
    except BaseException:  # the failure boundary of a process
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    serve(sys.argv[1])
