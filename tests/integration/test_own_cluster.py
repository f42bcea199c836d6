"""A cluster that we start: on loopback alone, behind a token, and with our own packages whatever lies in the working directory."""

from __future__ import annotations

import os
import signal
import stat
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from actors.config import StreamConfig
from pipeline.publish import Publisher
from tests.listening import is_loopback, listeners
from tests.processes import Job, Jobs, eventually, free_port

pytestmark = pytest.mark.integration


@pytest.fixture
def alone(tmp_path: Path) -> Jobs:
    """Jobs with a home of their own and no cluster to join, begun in a folder that has a `model` and a `pipeline` of its own."""
    home, work = tmp_path / "home", tmp_path / "work"
    home.mkdir()
    for name in ("model", "pipeline", "actors"):
        (work / name).mkdir(parents=True)
        (work / name / "__init__.py").write_text("raise RuntimeError('a package of the user was imported')\n")
    environ = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environ |= {"HOME": str(home), "MEMSTREAM_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    return Jobs(tmp_path, environ, cwd=work)


def test_a_run_listens_on_loopback_behind_a_token_and_finds_its_own_packages(
    alone: Jobs, stream: Callable[..., StreamConfig], tmp_path: Path
) -> None:
    port = free_port()
    config = stream(http={"port": port})
    with Publisher(config.kafka, config.kafka.topics[0]) as publisher:
        publisher.publish_one({"text": "Person one."})
    job = alone.run(config, "--http")
    try:
        eventually(lambda: answers(job, port), "the front answers")
        found = listeners(job.process.pid)
        assert {each.port for each in found} >= {port}
        assert [each for each in found if not is_loopback(each.address)] == []
        token = tmp_path / "home" / ".ray" / "auth_token"
        assert stat.S_IMODE(token.stat().st_mode) == 0o600
        job.signal(signal.SIGTERM)
        job.end()
    finally:
        job.kill()
    assert "a package of the user" not in job.errors()


def answers(job: Job, port: int) -> bool:
    assert job.process.poll() is None, job.errors()
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/ready", timeout=2) as response:
            return bool(response.status == 200)
    except OSError:
        return False
