"""Object stores as processes, built by Go from their modules; binaries are kept in build/."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from pipeline.snapshots.stores import open_store
from tests.processes import free_port

ROOT = Path(__file__).parents[2]


def binary_of(variable: str, module: str) -> Path:
    """Where the binary is that the environment names, else where it is built."""
    name = module.partition("@")[0].rpartition("/")[2]
    return Path(os.environ.get(variable, ROOT / "build" / name / name))


def built(variable: str, module: str) -> Path:
    """The binary of a module, built once; skips where there is no Go."""
    binary = binary_of(variable, module)
    if not binary.is_file():
        go = shutil.which("go")
        if go is None:
            pytest.skip(f"builds {binary.name}, which needs Go (or {variable})")
        binary.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run([go, "install", module], env={**os.environ, "GOBIN": str(binary.parent)}, check=True, timeout=900)
    return binary


class Server:
    """One server on a port of this machine; it may be killed and started again. `{port}` stands in its command."""

    def __init__(self, command: Sequence[str], environ: Mapping[str, str]) -> None:
        self.port = free_port()
        self._command = [part.format(port=self.port) for part in command]
        self._environ = {**os.environ, **environ}
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen(self._command, env=self._environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline_s = time.monotonic() + 20
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            except OSError:
                assert time.monotonic() < deadline_s and self._process.poll() is None
                time.sleep(0.05)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()


def winners(root: str, name: str) -> list[int]:
    """Who of eight that create an object at the same time is told that it did; each writes its number."""
    won: list[int] = []

    def create(number: int) -> None:
        try:
            open_store(root).create(name, b"%d" % number)
            won.append(number)
        except FileExistsError:
            pass

    racing = [threading.Thread(target=create, args=(number,)) for number in range(8)]
    for each in racing:
        each.start()
    for each in racing:
        each.join()
    return won
