"""Jobs as a user runs them: processes with arguments, an exit code, and JSON on standard output."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from actors.config import StreamConfig

ROOT = Path(__file__).parents[1]
PATIENCE_S = 120.0


class Job:
    """One process under way."""

    def __init__(self, command: list[str], environ: Mapping[str, str], log: Path, cwd: Path = ROOT) -> None:
        self.log = log
        with log.open("wb") as errors:
            self.process = subprocess.Popen(command, cwd=cwd, env=dict(environ), stdout=subprocess.PIPE, stderr=errors)

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def end(self, expect: int = 0) -> str:
        """Wait for it; what it printed. Fails, with what it said on standard error, if it exits otherwise than expected."""
        output, _ = self.process.communicate(timeout=PATIENCE_S)
        assert self.process.returncode == expect, f"exit {self.process.returncode}, not {expect}:\n{self.errors()}"
        return output.decode()

    def result(self) -> dict[str, Any]:
        """Its one JSON object."""
        found: dict[str, Any] = json.loads(self.end())
        return found

    def errors(self) -> str:
        return self.log.read_text()

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()


class Jobs:
    """Starts jobs in a folder of their own."""

    def __init__(self, folder: Path, environ: Mapping[str, str], cwd: Path = ROOT) -> None:
        self._folder, self.environ, self._cwd = folder, dict(environ), cwd
        self._jobs: list[Job] = []

    def start(self, name: str, *arguments: str) -> Job:
        log = self._folder / f"{len(self._jobs)}-{name}.log"
        self._jobs.append(Job([sys.executable, "-m", f"jobs.{name}", *arguments], self.environ, log, self._cwd))
        return self._jobs[-1]

    def run(self, config: StreamConfig, *arguments: str) -> Job:
        """`python -m jobs.run --config FILE --json ...`"""
        return self.start("run", "--config", str(self.config_file(config)), "--json", *arguments)

    def drain(self, config: StreamConfig) -> dict[str, Any]:
        """Run until caught up; the result."""
        return self.run(config, "--until", "caught-up").result()

    def status(self, config: StreamConfig) -> list[dict[str, Any]]:
        """What `memstream status --json` says."""
        found: list[dict[str, Any]] = json.loads(self.start("status", "--json", "--stream", config.stream).end())
        return found

    def config_file(self, config: StreamConfig) -> Path:
        path = self._folder / f"{config.stream}.yaml"
        path.write_text(yaml.safe_dump(config.model_dump(mode="json")))
        return path

    def end(self) -> None:
        for job in self._jobs:
            job.kill()


def eventually(told: Callable[[], bool], what: str, timeout_s: float = PATIENCE_S) -> None:
    """Wait until it is so. The time is only how long to hope."""
    deadline_s = time.monotonic() + timeout_s
    while not told():
        assert time.monotonic() < deadline_s, f"it did not happen that {what}"
        time.sleep(0.1)


def free_port() -> int:
    """One that nobody listens at now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def kill_9(pid: int) -> None:
    with suppress(ProcessLookupError):  # it went with another one that was killed
        os.kill(pid, signal.SIGKILL)
    eventually(lambda: not alive(pid), f"{pid} ended")


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()


def pids_of_pollers() -> set[int]:
    """The pollers' processes on this machine: Ray names a process for its actor."""
    return {int(path.parent.name) for path in Path("/proc").glob("[0-9]*/cmdline") if _command(path).startswith(b"ray::Poller")}


def _command(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""
