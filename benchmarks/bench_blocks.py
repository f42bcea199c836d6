"""What an answer costs with more and more remembered: first token, decoded token, the share that scoring takes, and memory.

Blocks hold random states and keys: what they say does not matter for what they cost. States lie in one scratch block, so that a
hundred thousand of them fit a laptop's disk; keys are all there.
"""

from __future__ import annotations

import json
import resource
import statistics
import time
from collections.abc import Callable
from typing import Annotated

import numpy as np
import torch
import typer

from jobs.command import start
from model.block_engine import BlockEngine, ReadingConfig
from model.block_llm import BlockLLM
from model.catalog import NAME, checkpoint_folder
from model.conversation import Prompt
from model.engine import Asked, Asking, prepared
from model.loading import EngineOptions, load_engine
from model.memory.blocks import BlockMemory, Place
from model.memory.scratch import Scratch

app = typer.Typer(add_completion=False)
TOKENS = 50
PROMPT_TOKENS = 32
DECODED = 16


@app.command()
def bench(
    sizes: Annotated[str, typer.Option(help="Numbers of blocks, with commas.")] = "100,1000,10000,100000",
    runs: Annotated[int, typer.Option(min=1, help="Questions for each number.")] = 7,
    threads: Annotated[int | None, typer.Option(help="CPU threads.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1 ...")] = "cpu",
    checkpoint: Annotated[str, typer.Option(help="A checkpoint of blocks.")] = NAME,
) -> None:
    """Print one JSON line for each number of blocks."""
    if threads is not None:
        torch.set_num_threads(threads)
    engine = load_engine(checkpoint_folder(checkpoint), device, options=EngineOptions(blocks=1))
    if not isinstance(engine, BlockEngine):
        raise typer.BadParameter("not a checkpoint of blocks", param_hint="--checkpoint")
    report_writing(engine, runs)
    for size in map(int, sizes.split(",")):
        memory = random_memory(engine.memory.model, size)
        asked = BlockEngine(memory, engine.conversation, ReadingConfig(margin=-1e9, share=1e-300))
        print(json.dumps({"blocks": size, **measured(asked, runs)}), flush=True)


def random_memory(model: BlockLLM, size: int) -> BlockMemory:
    """So many blocks; their states are one and the same block on disk."""
    memory = BlockMemory(model, capacity=size)
    random = np.random.default_rng(size)
    states = random.integers(0, 1 << 14, (model.layers_kept, TOKENS, model.config.hidden_size), dtype=np.uint16)
    place = Place(*Scratch().append(states))
    keys = torch.nn.functional.normalize(torch.randn(512, TOKENS, memory.key_size), dim=-1).to(torch.bfloat16).view(torch.uint16).numpy()
    memory.load(
        np.arange(size),
        np.arange(size) // 2,
        np.zeros((size, 32), np.uint8),
        [keys[number % 512] for number in range(size)],
        [place] * size,
        size,
    )
    return memory


def measured(engine: BlockEngine, runs: int) -> dict[str, float]:
    """Medians in milliseconds over questions of different tokens."""
    generator = torch.Generator().manual_seed(1)
    first, decoded, scoring = [], [], []
    for run in range(runs + 1):
        tokens = tuple(torch.randint(100, 40_000, (PROMPT_TOKENS,), generator=generator).tolist())
        prompt = Prompt(tokens=tokens, spans=((4, PROMPT_TOKENS - 4, 1.0),))
        states = torch.randn(PROMPT_TOKENS, engine.memory.model.config.hidden_size, dtype=engine.memory.model.dtype)
        states = states.to(engine.memory.model.device)
        scored = timed(lambda: engine.score(prompt, states, 4, Asking(limit=1)))  # noqa: B023
        started = time.perf_counter()
        (running,) = engine.begin([Asked(prompt=prompt, asking=Asking(limit=DECODED + 1))])
        first_s = time.perf_counter() - started
        running._ends = frozenset()
        started = time.perf_counter()
        while running.finish_reason is None:
            engine.decode()
        if run:  # the first one warms up
            first.append(first_s)
            decoded.append((time.perf_counter() - started) / DECODED)
            scoring.append(scored)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {
        "first_token_ms": round(1000 * statistics.median(first), 2),
        "scoring_ms": round(1000 * statistics.median(scoring), 2),
        "scoring_share": round(statistics.median(scoring) / statistics.median(first), 3),
        "decoded_token_ms": round(1000 * statistics.median(decoded), 2),
        "keys_mb": round(engine.memory._keys_BKE.nbytes / 1e6, 1),
        "states_at_rest_mb": round(engine.memory.bytes_at_rest / 1e6, 1),
        "bytes_per_block": round(engine.memory.bytes_at_rest / max(1, len(engine.memory))),
        "peak_rss_mb": round(peak),
    }


def report_writing(engine: BlockEngine, runs: int) -> None:
    """What one update costs, beside a plain forward of the same tokens, and where more documents wait to be written beside it."""
    chunk = list(range(100, 100 + TOKENS))
    write = statistics.median(timed(lambda: prepared(engine, [chunk])) for _ in range(runs + 1))
    model = engine.memory.model
    tokens = torch.tensor([chunk], device=model.device)

    @torch.no_grad()
    def forward() -> None:
        model.base.model(tokens, use_cache=False)

    plain = statistics.median(timed(forward) for _ in range(runs + 1))
    waiting = [[[number, *chunk[1:]]] for number in range(runs * engine.cores)]

    def stream() -> None:
        for number, document in enumerate(waiting, 1):
            prepared(engine, document, iter(waiting[number:]))

    beside = timed(stream) / len(waiting)
    row = {"update_ms": 1000 * write, "plain_forward_ms": 1000 * plain, "update_ms_of_a_backlog": 1000 * beside}
    print(json.dumps({**{name: round(each, 2) for name, each in row.items()}, "cores": engine.cores, "tokens": TOKENS}), flush=True)


def timed(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


if __name__ == "__main__":
    start(app)
