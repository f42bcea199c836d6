"""A real Apache Kafka, without Docker: see infra/kafka/kafka.sh. The jars are fetched once, into build/kafka/libs."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from pipeline.errors import BrokerUnavailable
from pipeline.kafka_client import KafkaConfig, admin_client
from pipeline.topics import describe_topics

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "infra" / "kafka" / "kafka.sh"
LIBS = Path(os.environ.get("MEMSTREAM_KAFKA_LIBS", ROOT / "build" / "kafka" / "libs"))


class ApacheKafka:
    """One broker in a folder of its own; it may be killed and started again on what it had on disk."""

    def __init__(self, folder: Path, settings: Callable[[int], Sequence[str]] = lambda port: (), java_options: str = "") -> None:
        self.folder = folder
        self.port = _two_free_ports()
        self._java_options = java_options
        self._process: subprocess.Popen[bytes] | None = None
        command = [str(SCRIPT), "format", str(LIBS), str(folder), str(self.port), *settings(self.port)]
        subprocess.run(command, check=True, capture_output=True, timeout=60)

    @property
    def bootstrap_servers(self) -> tuple[str, ...]:
        return (f"127.0.0.1:{self.port}",)

    def config(self, *topics: str, **more: object) -> KafkaConfig:
        names = topics or (f"news-{uuid.uuid4().hex[:8]}",)
        return KafkaConfig.model_validate({"bootstrap_servers": self.bootstrap_servers, "topics": names, "request_timeout_s": 5.0, **more})

    def start(self) -> None:
        with open(self.folder / "broker.out", "ab") as output:
            environ = {**os.environ, "KAFKA_OPTS": self._java_options}
            self._process = subprocess.Popen([SCRIPT, "run", LIBS, self.folder], env=environ, stdout=output, stderr=output)

    def await_answer(self, config: KafkaConfig) -> None:
        deadline_s = time.monotonic() + 60
        while True:
            try:
                describe_topics(config, ["-"])
                return
            except BrokerUnavailable:
                assert self._process is not None and self._process.poll() is None, "the broker ended: see broker.out"
                if time.monotonic() > deadline_s:
                    raise

    def kill(self) -> None:
        """kill -9: no goodbye, nothing flushed."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None

    def freeze(self) -> None:
        """It keeps its connections and answers nothing."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def create_topic(self, config: KafkaConfig, partitions: int = 1, settings: Mapping[str, str] | None = None) -> None:
        with admin_client(config) as admin:
            options = {"num_partitions": partitions, "replication_factor": 1, "configs": dict(settings or {})}
            admin.create_topics({config.topics[0]: options}, wait_for_metadata=True)

    def segment(self, topic: str, partition: int = 0) -> Path:
        """The file that holds the beginning of a partition's log."""
        return self.folder / "log" / f"{topic}-{partition}" / "00000000000000000000.log"


def _two_free_ports() -> int:
    while True:
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", 0))
            port: int = first.getsockname()[1]
            try:
                second.bind(("127.0.0.1", port + 1))
            except OSError:
                continue
            return port


@pytest.fixture(scope="session")
def kafka_libs() -> Path:
    if shutil.which("java") is None:
        pytest.skip("Apache Kafka needs java (17 or later) on the path")
    if not list(LIBS.glob("kafka_*.jar")):
        if shutil.which("mvn") is None:
            pytest.skip(f"Apache Kafka's jars are not in {LIBS} and mvn, which would fetch them, is not on the path")
        subprocess.run([SCRIPT, "fetch", LIBS], check=True, timeout=600)
    return LIBS


@pytest.fixture(scope="session")
def apache(kafka_libs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApacheKafka]:
    yield from running_apache(tmp_path_factory.mktemp("kafka"))


def running_apache(folder: Path) -> Iterator[ApacheKafka]:
    """A broker that answers, ended with whoever uses it."""
    broker = ApacheKafka(folder)
    broker.start()
    try:
        broker.await_answer(broker.config())
        yield broker
    finally:
        broker.kill()
