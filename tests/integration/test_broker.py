from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest

from jobs.demo.broker import EmbeddedBroker, _listens
from pipeline.errors import BrokerUnavailable

OWNER = """
import sys, time
from jobs.demo.broker import EmbeddedBroker
with EmbeddedBroker() as broker:
    print(broker.port, flush=True)
    time.sleep(600)
"""


def until_silent(port: int) -> bool:
    for _ in range(200):
        if not _listens(port):
            return True
        time.sleep(0.05)
    return False


def test_the_broker_ends_with_its_context() -> None:
    with EmbeddedBroker() as broker:
        assert _listens(broker.port)
    assert until_silent(broker.port)


def test_the_broker_ends_with_its_owner_even_if_that_is_killed() -> None:
    owner = subprocess.Popen([sys.executable, "-c", OWNER], stdout=subprocess.PIPE)
    assert owner.stdout is not None
    port = int(owner.stdout.readline())
    assert _listens(port)
    owner.send_signal(signal.SIGKILL)
    owner.wait()
    owner.stdout.close()
    assert until_silent(port)


def test_a_port_that_is_taken_is_said_with_the_brokers_own_words() -> None:
    with EmbeddedBroker() as broker, pytest.raises(BrokerUnavailable, match="did not start"):
        EmbeddedBroker(broker.port).start()
