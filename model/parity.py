"""Does this device, at this dtype, compute what the authors' implementation computed? Replays a recorded run and compares.

A recording is a folder with `checkpoint/` and `expected.safetensors`; the names of its tensors say what was done: `fresh_query`,
`first_update`, `update_i`, `query_i`, `batch_inject`, `multi_update`, `batch_query`, `greedy`. Draws are replayed from the `kept`
tensors. Whatever a recording lacks is not compared; what it has and is not known is an error.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor

from model.checkpoint import load_model, load_pool
from model.errors import CheckpointError
from model.memory_llm import MemoryLLM
from model.pool import MemoryPool

KNOWN = re.compile(
    r"(fresh_query|query_\d+|batch_query)\.(input_ids|logits)|first_update\.(input_ids|delta|pool)|update_\d+\.(input_ids|delta|kept|pool)"
    r"|batch_inject\.(input_ids|delta)|multi_update\.(delta|kept|pool)|greedy\.(input_ids|output_ids)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Parity:
    """The outcome: relative error by norms of each recorded tensor, and whether the greedy tokens are the same."""

    rel_error: dict[str, float]
    greedy_equal: bool | None

    def ok(self, tolerance: float) -> bool:
        within = all(error <= tolerance for error in self.rel_error.values())  # NaN is not
        return within and self.greedy_equal is not False and bool(self.rel_error)


class _Recording:
    """The recorded tensors, and the draw that they replay."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        if unknown := sorted(name for name in tensors if not KNOWN.fullmatch(name)):
            raise CheckpointError(f"expected.safetensors: tensor {unknown[0]} is not one that parity knows")
        self.tensors = tensors
        self.kept: NDArray[np.int64] | None = None

    def __contains__(self, name: str) -> bool:
        return name in self.tensors

    def steps(self, kind: str) -> list[str]:
        found = (re.match(rf"{kind}_(\d+)\.input_ids", name) for name in self.tensors)
        return [f"{kind}_{number}" for number in sorted(int(match[1]) for match in found if match)]

    def draw(self, seed: int, update: int, layer: int, num_tokens: int, num_dropped: int) -> NDArray[np.int64]:
        if num_dropped == 0:
            return np.arange(num_tokens, dtype=np.int64)
        if self.kept is None:
            raise CheckpointError("expected.safetensors: an update has no `kept` tensor")
        kept: NDArray[np.int64] = self.kept if self.kept.ndim == 1 else self.kept[layer]
        return kept

    def replay(self, step: str) -> None:
        self.kept = self.tensors[f"{step}.kept"].numpy().astype(np.int64) if f"{step}.kept" in self else None


def check(folder: Path, device: torch.device | str = "cpu", dtype: torch.dtype | None = None) -> Parity:
    """Replay the recording in `folder`.

    Raises:
        CheckpointError: the folder holds no recording, or one that is not understood.
    """
    path = folder / "expected.safetensors"
    if not path.is_file():
        raise CheckpointError(f"no expected.safetensors in {folder}")
    recording = _Recording(load_file(path))
    model = load_model(folder / "checkpoint", device, dtype)
    pool = _pool(recording, model)
    with torch.no_grad():
        errors = dict(_compare(recording, pool, folder / "checkpoint"))
        greedy = _greedy(recording, pool)
    return Parity(rel_error=errors, greedy_equal=greedy)


def _pool(recording: _Recording, model: MemoryLLM) -> MemoryPool:
    """An empty pool that drops what the recording dropped, with room for its batch as one update."""
    together = recording.tensors["batch_inject.input_ids"].shape[0] if "batch_inject.input_ids" in recording else 0
    return MemoryPool(model, spare_blocks=2 + together, draw=recording.draw)


def _compare(recording: _Recording, pool: MemoryPool, checkpoint: Path) -> Iterator[tuple[str, float]]:
    fresh = _pool(recording, pool.model)
    yield from _query(recording, "fresh_query", fresh)
    if "first_update.input_ids" in recording:
        yield from _update(recording, "first_update", fresh)
    load_pool(checkpoint, pool.model, pool)
    queries = recording.steps("query")
    for step in recording.steps("update"):
        yield from _update(recording, step, pool)
        query = step.replace("update", "query")
        if query in queries:
            queries.remove(query)
            yield from _query(recording, query, pool)
    for query in queries:
        yield from _query(recording, query, pool)
    yield from _batch_inject(recording, pool)
    yield from _query(recording, "batch_query", pool)


def rel_error(found: Tensor, expected: Tensor) -> float:
    """|found - expected| / |expected| by Frobenius norms in float64; infinite where the shapes differ."""
    if found.shape != expected.shape:
        return float("inf")
    found, expected = found.detach().cpu().double(), expected.double()
    return float((found - expected).norm() / expected.norm().clamp_min(1e-300))


def _query(recording: _Recording, step: str, pool: MemoryPool) -> Iterator[tuple[str, float]]:
    if f"{step}.input_ids" not in recording:
        return
    tokens = recording.tensors[f"{step}.input_ids"].to(pool.model.device)
    with pool.read() as view:
        logits = pool.model.reader(tokens, past_key_values=view.cache()).logits
    yield f"{step}.logits", rel_error(logits, recording.tensors[f"{step}.logits"])


def _update(recording: _Recording, step: str, pool: MemoryPool) -> Iterator[tuple[str, float]]:
    tokens = recording.tensors[f"{step}.input_ids"].to(pool.model.device)
    delta = pool.model.inject(tokens, pool.tail_LKD)
    if f"{step}.delta" in recording:
        yield f"{step}.delta", rel_error(delta, recording.tensors[f"{step}.delta"])
    recording.replay(step)
    pool.apply(delta[0])
    if f"{step}.pool" in recording:
        yield f"{step}.pool", rel_error(pool_tensor(pool), recording.tensors[f"{step}.pool"])


def _batch_inject(recording: _Recording, pool: MemoryPool) -> Iterator[tuple[str, float]]:
    if "batch_inject.input_ids" not in recording:
        return
    deltas = pool.model.inject(recording.tensors["batch_inject.input_ids"].to(pool.model.device), pool.tail_LKD)
    yield "batch_inject.delta", rel_error(deltas, recording.tensors["batch_inject.delta"])
    if "multi_update.kept" not in recording:
        return
    together = torch.cat(list(deltas), dim=1)
    if "multi_update.delta" in recording:
        yield "multi_update.delta", rel_error(together, recording.tensors["multi_update.delta"])
    recording.replay("multi_update")
    pool.apply(together)
    if "multi_update.pool" in recording:
        yield "multi_update.pool", rel_error(pool_tensor(pool), recording.tensors["multi_update.pool"])


def _greedy(recording: _Recording, pool: MemoryPool) -> bool | None:
    if "greedy.input_ids" not in recording:
        return None
    tokens, expected = recording.tensors["greedy.input_ids"].to(pool.model.device), recording.tensors["greedy.output_ids"]
    new = expected.shape[1] - tokens.shape[1]
    with pool.read() as view:
        found: Tensor = pool.model.reader.generate(  # type: ignore[misc, assignment]
            tokens,
            attention_mask=torch.ones_like(tokens),
            past_key_values=view.cache(),
            max_new_tokens=new,
            do_sample=False,
            pad_token_id=0,
        )
    padded = torch.zeros_like(expected)
    padded[:, : found.shape[1]] = found.cpu()
    return bool((padded == expected).all())


def pool_tensor(pool: MemoryPool) -> Tensor:
    """The whole pool as one tensor [L, N, D], oldest token first: for small pools."""
    with pool.hold() as version:
        return torch.stack([layer.memory_ND for layer in pool.layers(version)])
