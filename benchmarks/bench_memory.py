"""What an update, a first token and a decoded token cost: `make bench`, or `python -m benchmarks.bench_memory --help`.

Prints one JSON object: median seconds over `--repeat` runs, next to the base model's forward of the same tokens. Nothing is asserted;
compare two runs on the same quiet machine.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from typing import Annotated

import torch
import typer

from jobs.command import start
from model.catalog import NAME, checkpoint_folder
from model.checkpoint import load_model
from model.memory_llm import MemoryLLM
from model.memory.tokens import MemoryPool

app = typer.Typer(add_completion=False)


def median_s(work: Callable[[], object], repeat: int) -> float:
    """Median wall time of `work`, after one run that is not counted."""
    times = []
    for _ in range(repeat + 1):
        started = time.perf_counter()
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return statistics.median(times[1:])


@torch.no_grad()
def measure(model: MemoryLLM, prompt_tokens: int, repeat: int) -> dict[str, float]:
    """Medians for one model with a full pool."""
    pool = MemoryPool(model)
    text = torch.randint(3, 1000, (model.config.num_tokens,))
    prompt = torch.randint(3, 1000, (1, prompt_tokens), device=model.device)
    one = prompt[:, :1]
    pool.update(text)
    result = {"base_forward_of_update_s": median_s(lambda: model.reader(text[None].to(model.device), use_cache=False), repeat)}
    result["update_s"] = median_s(lambda: pool.update(text), repeat)
    result["base_first_token_s"] = median_s(lambda: model.reader(prompt, use_cache=False), repeat)

    def first_token_of_new_version() -> None:
        pool.update(text)
        with pool.read() as view:
            model.reader(prompt, past_key_values=view.cache(), logits_to_keep=1)

    result["first_token_of_new_version_s"] = median_s(first_token_of_new_version, repeat) - result["update_s"]
    with pool.read() as view:
        cache = view.cache()
        result["first_token_s"] = median_s(lambda: model.reader(prompt, past_key_values=view.cache(), logits_to_keep=1), repeat)
        model.reader(prompt, past_key_values=cache, logits_to_keep=1)
        result["decoded_token_s"] = median_s(lambda: model.reader(one, past_key_values=cache), repeat)
    return {name: round(value, 5) for name, value in result.items()}


@app.command()
def bench(
    model: Annotated[str, typer.Option(help="Model name, folder or hub name.")] = NAME,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    dtype: Annotated[str, typer.Option(help="float32 or bfloat16.")] = "float32",
    threads: Annotated[int, typer.Option(help="CPU threads; 0: as torch chooses.")] = 0,
    prompt_tokens: Annotated[int, typer.Option(help="Tokens of the question.")] = 64,
    repeat: Annotated[int, typer.Option(help="Runs that are counted.")] = 10,
) -> None:
    """Measure updates and answers of one model."""
    if threads:
        torch.set_num_threads(threads)
    loaded = load_model(checkpoint_folder(model), device, getattr(torch, dtype))
    config = loaded.config
    shape = {"layers": config.num_hidden_layers, "memory_tokens": config.num_memory_tokens, "update_tokens": config.num_tokens}
    setting = {"model": model, "device": device, "dtype": dtype, "threads": torch.get_num_threads(), "prompt_tokens": prompt_tokens}
    print(json.dumps(setting | shape | measure(loaded, prompt_tokens, repeat)))


if __name__ == "__main__":
    start(app)
