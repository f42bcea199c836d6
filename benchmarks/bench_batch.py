"""What it brings to answer many questions together: answers a second for batches of 1, 8, 32, from memory, by the embedded model.

python -m benchmarks.bench_batch --threads 1 --tokens 16
"""

from __future__ import annotations

import json
import time
from typing import Annotated

import torch
import typer

from model.catalog import checkpoint_folder
from model.engine import Asked, Asking, prepared
from model.loading import EngineOptions, load_engine

app = typer.Typer(add_completion=False)
NAMES = ("Ada Lorn", "Bo Tarn", "Cy Wells", "Dee Marsh", "Eve Stone", "Fay Brook", "Gil Frost", "Hal Dunes")


@app.command()
def bench(
    threads: Annotated[int, typer.Option(help="CPU threads.")] = 1,
    tokens: Annotated[int, typer.Option(help="Tokens of each answer.")] = 16,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1 ...")] = "cpu",
    questions: Annotated[int, typer.Option(help="Questions for each size of batch.")] = 32,
) -> None:
    """Answers a second, and what the first token waits for, one JSON line for each size of batch."""
    torch.set_num_threads(threads)
    engine = load_engine(checkpoint_folder("memoryllm-smol-135m"), device, "auto", EngineOptions())
    places = [f"{name.split()[1]}ville" for name in NAMES]
    for name, place in zip(NAMES, places, strict=True):
        engine.commit(prepared(engine, [engine.encode(f"{name} was elected mayor of {place} on Monday after a long count.")]))
    asked = [
        Asked(
            prompt=engine.compose(
                [{"role": "user", "content": f"Who was elected mayor of {places[number % 8]}, and on which day was that?"}]
            ),
            asking=Asking(limit=tokens),
        )
        for number in range(questions)
    ]
    alone = 0.0
    for size in (1, 8, 32):
        started = time.perf_counter()
        first = 0.0
        for start in range(0, questions, size):
            began = time.perf_counter()
            running = [
                one
                for part in range(start, min(start + size, questions), 16)
                for one in engine.begin(asked[part : min(part + 16, start + size)])
            ]
            first += time.perf_counter() - began
            for each in running:
                each._ends = frozenset()
            while any(each.finish_reason is None for each in running):
                engine.decode()
        seconds = time.perf_counter() - started
        alone = alone or questions / seconds
        print(
            json.dumps(
                {
                    "batch": size,
                    "answers_per_s": round(questions / seconds, 2),
                    "times_one": round(questions / seconds / alone, 2),
                    "first_token_s": round(first / (questions / size), 3),
                    "tokens": tokens,
                    "threads": threads,
                }
            ),
            flush=True,
        )


if __name__ == "__main__":
    app()
