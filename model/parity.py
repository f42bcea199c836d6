"""Does this device, at this dtype, compute what the authors' implementation computed? Replays a recorded run and compares.

A recording is a folder with `checkpoint/` and `expected.safetensors`; the names of its tensors say what was done, in this order:

    fresh_query  first_update            on a pool that was never written
    update_0  query_0  update_1 ...      on the checkpoint's own pool (or, if that was never written, on the first update's)
    batch_inject  multi_update  batch_query  greedy

Draws are replayed from the `kept` tensors. What a recording lacks is not compared; what it has and cannot be compared is an error.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from transformers import GenerationConfig

from model.checkpoint import load_model, load_pool
from model.errors import CheckpointError
from model.memory.tokens import MemoryPool
from model.memory_llm import MemoryLLM

FILE = "expected.safetensors"
KNOWN = re.compile(
    r"(fresh_query|query_\d+|batch_query)\.(input_ids|logits)|first_update\.(input_ids|delta|pool)|update_\d+\.(input_ids|delta|kept|pool)"
    r"|batch_inject\.(input_ids|delta)|multi_update\.(delta|kept|pool)|greedy\.(input_ids|output_ids)"
)
COMPARED = (".logits", ".delta", ".pool", ".output_ids")


@dataclass(frozen=True, slots=True, kw_only=True)
class Parity:
    """The outcome: relative error by norms of each recorded tensor (NaN where something is not finite), and whether the greedy tokens
    are the same (None where none were recorded)."""

    rel_error: dict[str, float]
    greedy_equal: bool | None

    def ok(self, tolerance: float) -> bool:
        within = all(error <= tolerance for error in self.rel_error.values())  # NaN is not
        return within and self.greedy_equal is not False and (bool(self.rel_error) or self.greedy_equal is not None)


class Recording:
    """The recorded tensors by name, checked as they are asked for."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        if unknown := sorted(name for name in tensors if not KNOWN.fullmatch(name)):
            raise CheckpointError(f"{FILE}: tensor {unknown[0]} is not one that parity knows")
        self.tensors = tensors

    @classmethod
    def read(cls, folder: Path) -> Recording:
        if not (folder / FILE).is_file():
            raise CheckpointError(f"no {FILE} in {folder}")
        try:
            return cls(load_file(folder / FILE))
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{folder / FILE} cannot be read: {error}") from error

    def __contains__(self, name: str) -> bool:
        return name in self.tensors

    def steps(self, kind: str) -> list[str]:
        found = (re.match(rf"{kind}_(\d+)\.input_ids", name) for name in self.tensors)
        return [f"{kind}_{number}" for number in sorted(int(match[1]) for match in found if match)]

    def tokens(self, step: str, vocabulary: int) -> Tensor | None:
        """The texts of a step [B, T], or None where it was not recorded."""
        name = f"{step}.input_ids"
        if name not in self:
            return None
        tokens_BT = self.tensors[name].long()
        if tokens_BT.ndim == 1:
            tokens_BT = tokens_BT[None]
        if tokens_BT.ndim != 2 or tokens_BT.numel() == 0 or tokens_BT.min() < 0 or tokens_BT.max() >= vocabulary:
            raise CheckpointError(f"{FILE}: tensor {name} is no rows of tokens from a vocabulary of {vocabulary}")
        return tokens_BT

    def kept(self, step: str, layer: int, num_tokens: int, num_dropped: int) -> NDArray[np.int64]:
        """The ages that survived, in the given layer or in all."""
        name = f"{step}.kept"
        if name not in self:
            raise CheckpointError(f"{FILE}: tensor {name} is missing, so what comes after {step} cannot be replayed")
        kept: NDArray[np.int64] = self.tensors[name].numpy().astype(np.int64)
        if kept.ndim == 2 and layer < len(kept):
            kept = kept[layer]
        if kept.shape != (num_tokens - num_dropped,) or kept.min(initial=0) < 0 or kept.max(initial=0) >= num_tokens:
            raise CheckpointError(f"{FILE}: tensor {name} does not say which {num_tokens - num_dropped} of {num_tokens} tokens survive")
        return kept


@dataclass(slots=True)
class Replay:
    """One run over a recording, its outcome so far, and the update whose draw is being replayed."""

    recording: Recording
    model: MemoryLLM
    errors: dict[str, float] = field(default_factory=dict)
    greedy_equal: bool | None = None
    step: str = ""

    def run(self, checkpoint: Path) -> Parity:
        fresh, pool = self.pool(), self.pool()
        self.query("fresh_query", fresh)
        self.update("first_update", fresh)
        load_pool(checkpoint, self.model, pool)
        pool = pool if pool.num_tokens else fresh
        self.updates(pool)
        self.batch(pool)
        self.query("batch_query", pool)
        self.greedy(pool)
        self.check_all_compared()
        return Parity(rel_error=self.errors, greedy_equal=self.greedy_equal)

    def pool(self) -> MemoryPool:
        """An empty pool that drops what the recording dropped, with room for a batch as one update."""
        together = self.recording.tensors.get("multi_update.delta", torch.empty(0, 0)).shape[1] // self.model.config.num_tokens
        together = max(together, self.recording.tensors.get("batch_inject.input_ids", torch.empty(0)).shape[0])
        return MemoryPool(self.model, spare_blocks=2 + together, draw=self.draw)

    def draw(self, seed: int, update: int, layer: int, num_tokens: int, num_dropped: int) -> NDArray[np.int64]:
        if num_dropped == 0:
            return np.arange(num_tokens, dtype=np.int64)
        return self.recording.kept(self.step, layer, num_tokens, num_dropped)

    def compare(self, name: str, found: Tensor) -> None:
        if name in self.recording:
            self.errors[name] = rel_error(found, self.recording.tensors[name])

    def tokens(self, step: str) -> Tensor | None:
        tokens_BT = self.recording.tokens(step, self.model.config.vocab_size)
        return None if tokens_BT is None else tokens_BT.to(self.model.device)

    def query(self, step: str, pool: MemoryPool) -> None:
        tokens_BT = self.tokens(step)
        if tokens_BT is None:
            return
        with pool.read() as view:
            logits = self.model.reader(tokens_BT, past_key_values=view.cache()).logits
        self.compare(f"{step}.logits", logits)

    def updates(self, pool: MemoryPool) -> None:
        """Updates by number, each followed by its query; queries without an update come last."""
        queries = self.recording.steps("query")
        for step in self.recording.steps("update"):
            self.update(step, pool)
            query = step.replace("update", "query")
            if query in queries:
                queries.remove(query)
                self.query(query, pool)
        for query in queries:
            self.query(query, pool)

    def update(self, step: str, pool: MemoryPool) -> None:
        tokens_BT = self.tokens(step)
        if tokens_BT is None:
            return
        deltas_BLMD = self.model.inject(tokens_BT, pool.tail_LKD)
        self.compare(f"{step}.delta", deltas_BLMD)
        self.apply(step, pool, deltas_BLMD[0])

    def batch(self, pool: MemoryPool) -> None:
        """Several texts side by side, and their deltas laid end to end as one update."""
        tokens_BT, together = self.tokens("batch_inject"), self.recording.tensors.get("multi_update.delta")
        if tokens_BT is not None:
            deltas_BLKD = self.model.inject(tokens_BT, pool.tail_LKD)
            self.compare("batch_inject.delta", deltas_BLKD)
            together = torch.cat(list(deltas_BLKD), dim=1)
            self.compare("multi_update.delta", together)
        if together is not None and "multi_update.kept" in self.recording:
            self.apply("multi_update", pool, together.to(self.model.device, self.model.dtype))

    def apply(self, step: str, pool: MemoryPool, delta_LMD: Tensor) -> None:
        if pool.num_tokens and delta_LMD.shape[1] > pool.num_tokens:
            raise CheckpointError(f"{FILE}: {step} writes {delta_LMD.shape[1]} tokens into a pool of {pool.num_tokens}")
        if not torch.isfinite(delta_LMD).all():
            self.errors[f"{step}.delta"] = math.nan
            delta_LMD = delta_LMD.nan_to_num()
        self.step = step
        pool.apply(delta_LMD)
        self.compare(f"{step}.pool", pool_tensor(pool))

    def greedy(self, pool: MemoryPool) -> None:
        tokens_BT = self.tokens("greedy")
        if tokens_BT is None or "greedy.output_ids" not in self.recording:
            return
        expected = self.recording.tensors["greedy.output_ids"].to(tokens_BT)
        if not torch.equal(expected[:, : tokens_BT.shape[1]], tokens_BT):
            expected = torch.cat((tokens_BT, expected), dim=1)  # only what was generated was written down
        count, ends = expected.shape[1] - tokens_BT.shape[1], self.model.config.eos_token_id
        generation = GenerationConfig(max_new_tokens=count, do_sample=False, eos_token_id=ends, pad_token_id=0)
        with pool.read() as view:
            found: Tensor = self.model.reader.generate(  # type: ignore[misc, assignment]
                tokens_BT, attention_mask=torch.ones_like(tokens_BT), past_key_values=view.cache(), generation_config=generation
            )
        end_tokens = torch.tensor([] if ends is None else ends, device=found.device).reshape(-1)
        rows = zip(found, expected, strict=True)
        self.greedy_equal = all(same_answer(row, wanted, tokens_BT.shape[1], end_tokens) for row, wanted in rows)

    def check_all_compared(self) -> None:
        left = {name for name in self.recording.tensors if name.endswith(COMPARED)} - set(self.errors)
        if self.greedy_equal is not None:
            left.discard("greedy.output_ids")
        if left:
            raise CheckpointError(f"{FILE}: tensor {min(left)} cannot be compared, because what led to it was not recorded")


def check(folder: Path, device: torch.device | str = "cpu", dtype: torch.dtype | None = None) -> Parity:
    """Replay the recording in `folder`; computed in `dtype`, or in the checkpoint's own.

    Raises:
        CheckpointError: the folder holds no recording, or one that is not understood.
    """
    recording = Recording.read(folder)
    model = load_model(folder / "checkpoint", device, dtype)
    with torch.no_grad():
        return Replay(recording, model).run(folder / "checkpoint")


def rel_error(found: Tensor, expected: Tensor) -> float:
    """|found - expected| / |expected| by norms in float64; NaN where something is not finite, infinite where the shapes differ."""
    if found.shape != expected.shape:
        return math.inf
    found, expected = found.detach().cpu().double(), expected.cpu().double()
    error = float((found - expected).norm() / expected.norm().clamp_min(1e-300))
    return error if math.isfinite(error) else math.nan


def same_answer(found: Tensor, expected: Tensor, prompt: int, ends: Tensor) -> bool:
    """Whether two rows are equal, up to and with the first end token behind the prompt: what follows it is padding."""
    ended = torch.isin(found[prompt:], ends).nonzero()
    length = prompt + int(ended[0]) + 1 if len(ended) else len(found)
    return length <= len(expected) and torch.equal(found[:length], expected[:length])


def pool_tensor(pool: MemoryPool) -> Tensor:
    """The whole pool as one tensor [L, N, D], oldest token first: for small pools."""
    return torch.stack([layer.memory_ND for layer in pool.layers(pool.published)])
