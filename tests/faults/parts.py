"""The parts that runs share: a broker, an object store behind a proxy, a small disk, the nursery and two tiny models. Real ones."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from contextlib import ExitStack, suppress
from functools import cached_property
from pathlib import Path
from typing import Protocol

from jobs.demo.broker import EmbeddedBroker
from pipeline.kafka_client import KafkaConfig
from tests.doubles.tiny import tiny_block_checkpoint, tiny_checkpoint
from tests.fault.conftest import LIBS, SCRIPT, ApacheKafka
from tests.fault.servers import binary_of, built
from tests.fault.test_snapshots_s3 import GATEWAY, Gateway
from tests.faults.nursery import Nursery
from tests.faults.proxy import FaultyProxy
from tests.faults.schedule import Able

BUCKET, DISK_BYTES, FETCH_S = "faults", 16 << 20, 900
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "reader", "AWS_SECRET_ACCESS_KEY": "s3cret-s3cret", "AWS_DEFAULT_REGION": "us-east-1"}


class Broker(Protocol):
    """What is done to a broker."""

    @property
    def servers(self) -> tuple[str, ...]: ...

    def freeze(self) -> None: ...

    def thaw(self) -> None: ...

    def kill(self) -> None: ...

    def start(self) -> None: ...


class Apache:
    """Apache Kafka: it keeps its topics whatever is done to it."""

    def __init__(self, folder: Path) -> None:
        self._kafka = ApacheKafka(folder)
        self.start()

    @property
    def servers(self) -> tuple[str, ...]:
        return self._kafka.bootstrap_servers

    def freeze(self) -> None:
        self._kafka.freeze()

    def thaw(self) -> None:
        self._kafka.thaw()

    def kill(self) -> None:
        self._kafka.kill()

    def start(self) -> None:
        self._kafka.start()
        self._kafka.await_answer(KafkaConfig(bootstrap_servers=self.servers, topics=("-",), request_timeout_s=5))


class Embedded:
    """The broker of a wheel: it can be frozen, but keeps nothing."""

    def __init__(self) -> None:
        self._broker = EmbeddedBroker().start()

    @property
    def servers(self) -> tuple[str, ...]:
        return (self._broker.bootstrap_servers,)

    def freeze(self) -> None:
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: int) -> None:
        process = self._broker._process
        assert process is not None
        os.killpg(process.pid, number)

    def kill(self) -> None:
        self._broker.stop()

    def start(self) -> None:
        raise AssertionError("what it held is gone: no schedule asks for this")


class Parts:
    """All of them, for as long as the context lasts."""

    def __init__(self, folder: Path, *, apache: bool, s3: bool, ray: bool) -> None:
        self.folder = folder
        self._undo = ExitStack()
        if apache:
            require_apache()
        if s3:
            require_gateway()
        self.able = Able(broker_restarts=apache, partitions_grow=apache, topic_ids=apache, s3=s3, ray=ray)
        self.broker: Broker = Apache(_made(folder / "kafka")) if apache else Embedded()
        self._undo.callback(self.broker.kill)
        self.gateway: Gateway | None = None
        self.proxy: FaultyProxy | None = None
        if s3:
            self._start_store()
        self.disk = folder / "disk"
        self.mounted = self._mount()
        self.nursery = Nursery(folder)
        self._undo.callback(self.nursery.close)
        self.blocks_model = tiny_block_checkpoint(folder / "blocks-model", K=16)

    @cached_property
    def tokens_model(self) -> Path:
        return tiny_checkpoint(self.folder / "tokens-model", K=16, blocks=64)

    def _start_store(self) -> None:
        gateway = self.gateway = Gateway(_made(self.folder / "s3"))
        (gateway.folder / BUCKET).mkdir()
        gateway.start()
        self._undo.callback(gateway.kill)
        self.proxy = FaultyProxy(gateway.port)
        self._undo.callback(self.proxy.close)
        os.environ.update(CREDENTIALS, AWS_ENDPOINT_URL=f"http://127.0.0.1:{gateway.port}")

    def _mount(self) -> bool:
        """A file system of its own that is soon full; where that is not allowed, a folder."""
        self.disk.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "memstream-faults", str(self.disk)]
        try:
            mounted = subprocess.run(command, capture_output=True, timeout=10).returncode == 0
        except OSError:
            return False
        if mounted:
            self._undo.callback(subprocess.run, ["umount", "--lazy", str(self.disk)], capture_output=True)
        return mounted

    @property
    def environ(self) -> dict[str, str]:
        """What a process of the stream gets: its store is behind the proxy."""
        environ = {"OMP_NUM_THREADS": "1"}
        return environ if self.proxy is None else {**environ, **CREDENTIALS, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.proxy.port}"}

    def close(self) -> None:
        with suppress(OSError):
            self._undo.close()

    def __enter__(self) -> Parts:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def require_apache() -> None:
    """Apache Kafka's jars, fetched if they are not there; MEMSTREAM_KAFKA_LIBS names another folder. Raises SystemExit."""
    if shutil.which("java") is None:
        raise SystemExit("Apache Kafka needs java, 17 or later, on the path; --no-apache takes the embedded broker")
    if not list(LIBS.glob("kafka_*.jar")):
        subprocess.run([SCRIPT, "fetch", LIBS], check=True, timeout=FETCH_S)


def has_gateway() -> bool:
    """Whether the S3 server is built."""
    return binary_of(*GATEWAY).is_file()


def require_gateway() -> None:
    """The S3 server, built if it is not there; MEMSTREAM_VERSITYGW names another one. Raises SystemExit."""
    if has_gateway():
        return
    if shutil.which("go") is None:
        raise SystemExit("the S3 server is built by go, which is not on the path; --no-s3 takes files")
    built(*GATEWAY)


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder
