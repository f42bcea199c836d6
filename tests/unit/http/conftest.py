from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.doubles.streams import LocalStream
from tests.doubles.tiny import tiny_block_checkpoint


@pytest.fixture(scope="module")
def stream(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalStream]:
    """A stream that reads the blocks that are most like the question, whatever they are."""
    checkpoint = tiny_block_checkpoint(tmp_path_factory.mktemp("tiny"), K=16)
    made = LocalStream(checkpoint, tmp_path_factory.mktemp("snapshots"), memory={"margin": -1e6, "read_share": 1e-9})
    yield made
    made.close()
