"""What we start (`run`, `serve`, `demo`): on loopback alone, behind a token, with our own packages whatever lies in the working folder."""

from __future__ import annotations

import os
import signal
import stat
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from actors.config import StreamConfig
from model.assets import cache_dir
from pipeline.publish import Publisher
from tests.listening import commands_of, is_loopback, listeners
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
    config = stream()
    with Publisher(config.kafka, config.kafka.topics[0]) as publisher:
        publisher.publish_one({"text": "Person one."})
    job = alone.run(config, "--http", "--set", f"http.port={port}")
    try:
        eventually(lambda: answers(job, port), "the front answers")
        assert port in ports_on_loopback(job)
        token = tmp_path / "home" / ".ray" / "auth_token"
        assert stat.S_IMODE(token.stat().st_mode) == 0o600
        end(job)
    finally:
        job.kill()
    assert "a package of the user" not in job.errors()


def test_a_front_beside_a_run_listens_on_loopback(alone: Jobs, stream: Callable[..., StreamConfig], tmp_path: Path) -> None:
    port = free_port()
    config = stream()
    with Publisher(config.kafka, config.kafka.topics[0]) as publisher:
        publisher.publish_one({"text": "Person one."})
    run = alone.run(config)
    try:
        announced = tmp_path / "cache" / "running"
        eventually(lambda: "RemoteReplica" in commands(run) and any(announced.glob("*.json")), "a replica runs, and is announced")
        serve = alone.start("serve", "--address", "auto", "--port", str(port))
        try:
            eventually(lambda: answers(serve, port), "the front answers")
            assert port in ports_on_loopback(run, serve)  # Serve's processes are the cluster's, and so the run's
            end(serve)
        finally:
            serve.kill()
        end(run)
    finally:
        run.kill()


@pytest.mark.slow
def test_the_demo_listens_on_loopback_with_its_broker(alone: Jobs) -> None:
    alone.environ["MEMSTREAM_CACHE"] = str(cache_dir())  # the model is there, or is fetched once
    job = alone.start("demo")
    try:
        kinds = ("tansu", "gcs_server", "raylet", "RemoteReplica", "ray::Poller")
        eventually(lambda: all(kind in commands(job) for kind in kinds) or job.process.poll() is not None, "all of it runs", timeout_s=280)
        assert len(ports_on_loopback(job)) >= 4, job.errors()
    finally:
        job.signal(signal.SIGINT)
        job.kill()


def ports_on_loopback(*jobs: Job) -> set[int]:
    """Where jobs and all their descendants listen. Fails where one of them can be reached from elsewhere."""
    found = [each for job in jobs for each in listeners(job.process.pid)]
    assert [each for each in found if not is_loopback(each.address)] == []
    return {each.port for each in found}


def commands(job: Job) -> str:
    """Of the job and its descendants."""
    assert job.process.poll() is None, job.errors()
    return "\n".join(commands_of(job.process.pid))


def end(job: Job) -> None:
    job.signal(signal.SIGTERM)
    job.end()


def answers(job: Job, port: int) -> bool:
    assert job.process.poll() is None, job.errors()
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/ready", timeout=2) as response:
            return bool(response.status == 200)
    except OSError:
        return False
