from __future__ import annotations

import gc
import threading
import uuid
from collections.abc import Iterator

import pytest

from jobs.demo.broker import EmbeddedBroker
from pipeline.kafka_client import KafkaConfig


@pytest.fixture(scope="session")
def broker() -> Iterator[EmbeddedBroker]:
    with EmbeddedBroker() as started:
        yield started


@pytest.fixture
def kafka(broker: EmbeddedBroker) -> KafkaConfig:
    """A configuration with a topic name of the test's own; the topic is not made."""
    return KafkaConfig(bootstrap_servers=(broker.bootstrap_servers,), topics=(f"news-{uuid.uuid4().hex[:8]}",), request_timeout_s=5)


@pytest.fixture(autouse=True)
def no_threads_left() -> Iterator[None]:
    """kafka-python's threads end with what they belong to."""
    before = set(threading.enumerate())
    yield
    gc.collect()  # sockets that nobody closed warn now, in the test that left them
    left = [thread.name for thread in threading.enumerate() if thread not in before and "kafka" in thread.name]
    assert left == []
