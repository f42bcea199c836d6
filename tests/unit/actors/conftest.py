from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from actors.config import StreamConfig
from tests.doubles.stream import NEWS, stream_config
from tests.doubles.tiny import tiny_checkpoint


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """K = 16, N = 128: a document may take two updates."""
    return tiny_checkpoint(tmp_path_factory.mktemp("tiny"), K=16, blocks=8)


@pytest.fixture
def config_with(checkpoint: Path, tmp_path: Path) -> Callable[..., StreamConfig]:
    """A configuration of the tiny model; keyword arguments are sections."""

    def made(**sections: object) -> StreamConfig:
        return stream_config(checkpoint, tmp_path / "snapshots", ("nobody:1",), (NEWS.topic,), **sections)

    return made
