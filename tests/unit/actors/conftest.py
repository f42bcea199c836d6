from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from actors.config import StreamConfig
from tests.doubles.stream import NEWS, stream_config
from tests.doubles.tiny import tiny_block_checkpoint, tiny_checkpoint


@pytest.fixture(scope="session", params=["blocks", "tokens"])
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One of each kind of memory. K = 16; the pool has N = 128, so that a document may take two updates."""
    folder = tmp_path_factory.mktemp("tiny")
    return tiny_block_checkpoint(folder, K=16) if request.param == "blocks" else tiny_checkpoint(folder, K=16, blocks=8)


@pytest.fixture
def config_with(checkpoint: Path, tmp_path: Path) -> Callable[..., StreamConfig]:
    """A configuration of the tiny model; keyword arguments are sections."""

    def made(**sections: object) -> StreamConfig:
        return stream_config(checkpoint, tmp_path / "snapshots", ("nobody:1",), (NEWS.topic,), **sections)

    return made
