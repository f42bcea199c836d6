"""What integration and fault tests share: the one Ray of the session, a tiny model, a broker, and jobs as processes."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from xdist.scheduler import LoadScopeScheduling

from actors.cluster import connect, disconnect
from actors.config import StreamConfig
from jobs.demo.broker import EmbeddedBroker
from tests.doubles.stream import stream_config
from tests.doubles.tiny import tiny_block_checkpoint, tiny_checkpoint
from tests.processes import Jobs


class Scheduling(LoadScopeScheduling):  # type: ignore[misc]
    """Files side by side; those that start brokers, stores and Ray one after the other in one process (first: `--no-loadscope-reorder`).

    xdist's marks for groups have no effect with pytest 9.2 (pytest-xdist 3.8).
    """

    SERVERS = ("tests/fault/", "tests/faults/", "tests/integration/", "tests/load/")

    def _split_scope(self, nodeid: str) -> str:
        return "servers" if nodeid.startswith(self.SERVERS) else nodeid.split("::")[0]


def pytest_configure() -> None:
    """Processes side by side have one thread each, and so has what they start: two each on two cores take ten times as long."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        os.environ["OMP_NUM_THREADS"] = "1"
        torch.set_num_threads(1)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> Scheduling:
    return Scheduling(config, log)


@pytest.fixture(scope="session")
def embedded() -> Iterator[EmbeddedBroker]:
    with EmbeddedBroker() as broker:
        yield broker


@pytest.fixture(scope="session")
def ray_address() -> Iterator[str]:
    """The one owner of Ray. Its cores are numbers: more replicas run here than there are."""
    import ray

    connect("local", num_cpus=16)
    try:
        yield ray.get_runtime_context().gcs_address
    finally:
        disconnect()


@pytest.fixture(scope="session")
def small_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of blocks, of 16 tokens each."""
    return tiny_block_checkpoint(tmp_path_factory.mktemp("small"), K=16)


@pytest.fixture(scope="session")
def published_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """In the published layout, with a token pool. K = 16, N = 1024: after 64 updates everything is still remembered in part."""
    return tiny_checkpoint(tmp_path_factory.mktemp("published"), K=16, blocks=64)


@pytest.fixture
def stream(embedded: EmbeddedBroker, small_model: Path, tmp_path: Path) -> Callable[..., StreamConfig]:
    """A stream's configuration with a topic and a name of its own; keyword arguments are sections laid over it."""
    name = f"s{uuid.uuid4().hex[:8]}"

    def made(**sections: object) -> StreamConfig:
        brokers, topics = [embedded.bootstrap_servers], [f"news-{name}"]
        return stream_config(small_model, tmp_path / "snapshots", brokers, topics, **{"stream": name, **sections})

    return made


@pytest.fixture
def jobs(ray_address: str, tmp_path: Path) -> Iterator[Jobs]:
    """Runs `python -m jobs.X` on the session's Ray; ends what is left of them."""
    environ = {**os.environ, "RAY_ADDRESS": ray_address, "MEMSTREAM_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    started = Jobs(tmp_path, environ)
    yield started
    started.end()
