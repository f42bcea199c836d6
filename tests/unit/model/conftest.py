"""One tiny model for all tests of this folder: nothing that answers or learns changes its weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from model.checkpoint import load_model
from model.memory.tokens import MemoryPool
from model.memory_llm import MemoryLLM
from tests.doubles.texts import text
from tests.doubles.tiny import tiny_checkpoint


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def model(folder: Path) -> MemoryLLM:
    return load_model(folder)


@pytest.fixture
def pool(model: MemoryLLM) -> MemoryPool:
    """Full of ten updates."""
    pool = MemoryPool(model, seed=3)
    for number in range(10):
        pool.update(text(number))
    return pool
