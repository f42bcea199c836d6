"""Askers against a backlog: answers and documents a second on one device loop, and what an asker waits for the first token.

python -m benchmarks.bench_load --threads 2 --seconds 60 --askers 1 --askers 16
"""

from __future__ import annotations

import json
import resource
import statistics
import threading
import time
from collections.abc import Generator, Sequence
from itertools import count
from pathlib import Path
from typing import Annotated

import torch
import typer

from actors.device_loop import Answered, Begun, DeviceLoop, Event, Failed, Piece, Request
from actors.errors import Busy
from actors.turns import Turn
from model.catalog import checkpoint_folder
from model.engine import Asking, Engine
from model.loading import EngineOptions, load_engine

app = typer.Typer(add_completion=False)
SAMPLES = 6
NAMES = ("Lorn", "Tarn", "Wells", "Marsh", "Stone", "Brook", "Frost", "Dunes", "Hale", "Moor", "Reed", "Vale")


def document(number: int) -> str:
    name, place = NAMES[number % 12], f"{NAMES[number // 12 % 12]}ville"
    return f"Ada {name} {number} was elected mayor of {place} on Monday after a count that took two days, the town hall of {place} said."


def backlog(engine: Engine, learned: list[int], over: threading.Event) -> Generator[None, None, None]:
    """Documents without end, one after the other."""
    for number in count():
        if over.is_set():
            return
        blocks = yield from engine.prepare([engine.encode(document(number))])
        engine.commit(blocks)
        learned.append(number)


class Asker(threading.Thread):
    """Asks again as soon as it is answered."""

    def __init__(self, loop: DeviceLoop, engine: Engine, tokens: int, over: threading.Event, number: int) -> None:
        super().__init__(daemon=True)
        self._loop, self._engine, self._tokens, self._over, self._number = loop, engine, tokens, over, number
        self.first_s: list[float] = []
        self.answered = self.refused = self.failed = 0

    def run(self) -> None:
        for turn in count():
            if self._over.is_set():
                return
            self._ask(f"Who was elected mayor of {NAMES[(self._number + turn) % 12]}ville?")

    def _ask(self, text: str) -> None:
        done, started = threading.Event(), time.monotonic()
        first: list[float] = []

        def emit(event: Event) -> None:
            if isinstance(event, Begun | Piece) and not first:
                first.append(time.monotonic() - started)
            if isinstance(event, Answered | Failed):
                self.answered += isinstance(event, Answered)
                self.failed += isinstance(event, Failed)
                done.set()

        prompt = self._engine.compose([{"role": "user", "content": text}])
        try:
            self._loop.ask(Request(prompt=prompt, askings=[Asking(limit=self._tokens)], emit=emit, deadline_s=started + 120))
        except Busy:
            self.refused += 1
            time.sleep(1.0)
            return
        done.wait()
        self.first_s += first


@app.command()
def bench(
    askers: Annotated[list[int], typer.Option(help="How many ask at once; may be repeated.")] = [1, 4, 16, 64],  # noqa: B006
    seconds: Annotated[float, typer.Option(help="For each number of askers.")] = 60.0,
    tokens: Annotated[int, typer.Option(help="Most tokens of an answer.")] = 16,
    share: Annotated[float, typer.Option(help="answers.share")] = 0.5,
    blocks: Annotated[int, typer.Option(help="memory.blocks: full after a minute, so that growth shows.")] = 192,
    threads: Annotated[int, typer.Option(help="CPU threads.")] = 1,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1 ...")] = "cpu",
) -> None:
    """One JSON line for each number of askers."""
    torch.set_num_threads(threads)
    for number in askers:
        engine = load_engine(checkpoint_folder("memoryllm-smol-135m"), device, "auto", EngineOptions(blocks=blocks))
        print(json.dumps(measured(engine, number, seconds, tokens, share) | {"threads": threads}), flush=True)


def measured(engine: Engine, number: int, seconds: float, tokens: int, share: float) -> dict[str, object]:
    loop, over, learned = DeviceLoop(engine, lambda: None, share=share), threading.Event(), list[int]()
    loop.start()
    work = loop.learn(backlog(engine, learned, over))
    asking = [Asker(loop, engine, tokens, over, each) for each in range(number)]
    for each in asking:
        each.start()
    time.sleep(seconds / 4)  # warm
    spent, counts = dict(loop.seconds), (sum(each.answered for each in asking), len(learned))
    started = time.monotonic()
    resident = [resident_mb()]
    for _ in range(SAMPLES):
        time.sleep(seconds / SAMPLES)
        resident.append(resident_mb())
    took = time.monotonic() - started
    answers, documents = sum(each.answered for each in asking) - counts[0], len(learned) - counts[1]
    device = {turn: loop.seconds[turn] - spent[turn] for turn in Turn}
    over.set()
    for each in asking:
        each.join(130)
    work.result(60)
    loop.close()
    waits = sorted(wait for each in asking for wait in each.first_s)
    return {
        "askers": number,
        "answers_per_s": round(answers / took, 2),
        "first_token_median_s": round(statistics.median(waits), 2),
        "first_token_95_s": round(quantile(waits, 0.95), 2),
        "documents_per_s": round(documents / took, 2),
        "learning_share": round(device[Turn.LEARN] / max(1e-9, sum(device.values())), 3),
        "refused": sum(each.refused for each in asking),
        "failed": sum(each.failed for each in asking),
        "resident_mb": resident,
    }


def resident_mb() -> int:
    """Memory of this process that is in use now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() >> 20


def quantile(values: Sequence[float], share: float) -> float:
    return values[min(len(values) - 1, int(share * len(values)))]


if __name__ == "__main__":
    app()
