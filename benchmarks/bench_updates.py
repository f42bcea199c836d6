"""A hundred thousand updates of a tiny model, with snapshots: does the store stay small, a restore quick, memory flat, and is the newest
document found as well at the end as at the beginning?

Every figure is of a whole stream: documents are learned and saved as a replica does it, and a fresh replica is restored from the store.
Started again on the same folder it goes on from the last snapshot.
"""

from __future__ import annotations

import json
import random
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from actors.config import StreamConfig
from actors.engines import engine_options
from actors.learner import Learner
from actors.saver import Saver
from benchmarks.bench_stream import rss_mb
from jobs.command import start
from model.block_engine import BlockEngine
from model.engine import Asked, Asking
from model.loading import load_engine
from pipeline.decode import content_sha256
from pipeline.positions import StreamState
from pipeline.records import Document, Partition, Record
from pipeline.snapshots.writer import SnapshotStore
from tests.doubles.stream import ScriptedPoller
from tests.doubles.tiny import tiny_block_checkpoint

app = typer.Typer(add_completion=False)
NEWS = Partition("news", 0)
LETTERS = [chr(code) for code in range(0x100, 0x700)]
NAME_LETTERS, ASKED = 6, 100
"""A document is a name of so many rare letters; so many of the newest ones are asked for."""


@app.command()
def bench(
    updates: Annotated[int, typer.Option(min=1, help="In all, those of earlier runs on the same folder included.")] = 100_000,
    blocks: Annotated[int, typer.Option(min=1, help="Blocks remembered.")] = 2048,
    every: Annotated[int, typer.Option(min=1, help="Updates between snapshots.")] = 250,
    points: Annotated[int, typer.Option(min=2, help="How often to measure on the way.")] = 40,
    folder: Annotated[Path | None, typer.Option(help="Of the store and the model. A temporary one if not given.")] = None,
    within_s: Annotated[float, typer.Option(help="Stop after so many seconds, and go on next time.")] = 1e9,
    picture: Annotated[Path | None, typer.Option(help="Draw it as a PNG.")] = None,
) -> None:
    """Print one JSON line for each point, and a summary."""
    torch.set_num_threads(1)
    began_s = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="memstream-updates-") as temporary:
        root = folder or Path(temporary)
        stream = Stream(stream_config(root, blocks, every))
        told = root / "points.jsonl"
        rows = [json.loads(line) for line in told.read_text().splitlines()] if told.exists() else []
        for row in measured(stream, updates, max(every, updates // points)):
            rows.append(row)
            with told.open("a") as file:
                print(json.dumps(row), file=file)
            print(json.dumps(row), flush=True)
            if time.monotonic() - began_s > within_s:
                break
        print(json.dumps(summary(rows)), flush=True)
        if picture is not None:
            draw(rows, picture)


def stream_config(root: Path, blocks: int, every: int) -> StreamConfig:
    model = root / "model"
    if not model.exists():
        tiny_block_checkpoint(model, K=16)
    retention = {"last": 3, "hourly": 0, "daily": 0, "garbage_after_s": 10}
    snapshots: dict[str, Any] = {"root": str(root / "store"), "every_s": None, "every_updates": every, "retention": retention}
    tree = {
        "kafka": {"bootstrap_servers": "nobody:1", "topics": [NEWS.topic]},
        "model": {"name": str(model), "dtype": "float32"},
        "memory": {"blocks": blocks, "margin": -1e9, "doubt": -1e9, "evidence": -1e9, "most_read": 1},
        "chunks": {"header": []},
        "snapshots": snapshots,
    }
    return StreamConfig.model_validate(tree)


class Stream:
    """What a replica has, in one thread; restored from the store when it is made."""

    def __init__(self, config: StreamConfig) -> None:
        self.config = config
        self.store = SnapshotStore(config.snapshots, config.stream)
        engine = load_engine(Path(config.model.name), "cpu", config.model.dtype, engine_options(config))
        assert isinstance(engine, BlockEngine)
        self.engine = engine
        self.saver = Saver(config, self.store, self.engine, torch.device("cpu"))
        state = self.saver.restore() or StreamState.beginning({}).joined(NEWS, 0, "first")
        self.learner = Learner(config, self.engine, state, lambda letter: None)

    @property
    def update_number(self) -> int:
        return self.learner.state.update_number

    def learn(self, number: int) -> None:
        for _ in self.learner.learn(document(number)):
            pass

    def save(self) -> None:
        self.saver.save(self.learner, ScriptedPoller([], 0), lambda call: call())
        self.saver.tidy()

    def found(self, numbers: Sequence[int]) -> float:
        """The share of these documents that are the first to be read when they are asked for."""
        right = 0
        for number in numbers:
            prompt = self.engine.compose([{"role": "user", "content": name_of(number)}])
            (running,) = self.engine.begin([Asked(prompt=prompt, asking=Asking(limit=1, most_blocks=1))])
            read = self.engine.completion(running).read
            self.engine.end(running)
            right += bool(read) and read[0].update == number
        return right / len(numbers)


def measured(stream: Stream, updates: int, step: int) -> Iterator[dict[str, Any]]:
    """A row for each `step` updates."""
    stream.saver.claim()
    learning_s = saving_s = 0.0
    every = stream.config.snapshots.every_updates or 1
    while stream.update_number < updates:
        began_s = time.perf_counter()
        stream.learn(stream.update_number)
        learning_s += time.perf_counter() - began_s
        number = stream.update_number
        if number % every == 0:
            began_s = time.perf_counter()
            stream.save()
            saving_s += time.perf_counter() - began_s
        if number % step == 0:
            yield {**row_of(stream), "update_ms": round(1000 * learning_s / step, 3), "save_ms": round(1000 * saving_s / (step / every), 1)}
            learning_s = saving_s = 0.0


def row_of(stream: Stream) -> dict[str, Any]:
    number, root = stream.update_number, Path(stream.config.snapshots.root.removeprefix("file://"))
    began_s = time.perf_counter()
    fresh = Stream(stream.config)
    restored_s = time.perf_counter() - began_s
    saved = number - number % (stream.config.snapshots.every_updates or 1)
    whole = saved != number or fresh.engine.memory.digest() == stream.engine.memory.digest()
    files = [path.stat().st_size for path in root.rglob("*") if path.is_file()]
    newest = range(max(0, number - ASKED), number)
    oldest = int(stream.engine.memory.updates()[0])
    return {
        "updates": number,
        "blocks": len(stream.engine.memory),
        "store_mb": round(sum(files) / 1e6, 2),
        "objects": len(files),
        "segments": len(latest(stream).segments),
        "restore_s": round(restored_s, 3),
        "restored_the_same": whole,
        "newest_found": stream.found(newest),
        "oldest_found": stream.found(range(oldest, min(oldest + ASKED, number))),
        "rss_mb": rss_mb(),
    }


def latest(stream: Stream) -> Any:
    epochs = stream.store.epochs()
    return stream.store.load(epochs[-1])


def name_of(number: int) -> str:
    """Rare letters, other ones for each number."""
    return "".join(random.Random(number).sample(LETTERS, NAME_LETTERS))


def document(number: int) -> Document:
    text = name_of(number)
    record = Record(partition=NEWS, offset=number, timestamp_ms=1_767_000_000_000 + number, value=text.encode())
    return Document(
        record=record,
        document_id=f"{NEWS}/{number}",
        text=text,
        event_time_ms=record.timestamp_ms,
        content_sha256=content_sha256(None, text),
    )


# ---------------------------------------------------------------------- what it came to


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Slopes are of the second half, per 10,000 updates, by least squares."""
    half = rows[len(rows) // 2 :]
    names = ("store_mb", "objects", "restore_s", "newest_found", "update_ms", "save_ms", "rss_mb")
    slopes = {name: round(slope([row["updates"] for row in half], [row[name] for row in half]) * 10_000, 4) for name in names}
    return {
        "updates": rows[-1]["updates"],
        "per_10000_updates": slopes,
        "last": {name: rows[-1][name] for name in names},
        "newest_found_least": min(row["newest_found"] for row in rows),
        "restored_the_same": all(row["restored_the_same"] for row in rows),
    }


def slope(xs: Sequence[float], ys: Sequence[float]) -> float:
    middle_x, middle_y = sum(xs) / len(xs), sum(ys) / len(ys)
    spread = sum((x - middle_x) ** 2 for x in xs)
    return sum((x - middle_x) * (y - middle_y) for x, y in zip(xs, ys, strict=True)) / spread if spread else 0.0


def draw(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Four small pictures over the updates."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 6), layout="constrained")
    FigureCanvasAgg(figure)
    xs = [row["updates"] / 1000 for row in rows]
    shown = {
        "newest_found": "newest 100 documents found first",
        "restore_s": "restore, seconds",
        "store_mb": "store, MB",
        "rss_mb": "memory of the process, MB",
    }
    for number, (name, title) in enumerate(shown.items(), 1):
        axes = figure.add_subplot(2, 2, number)
        ys = [row[name] for row in rows]
        axes.plot(xs, ys, linewidth=2)
        axes.set(title=title, xlabel="thousand updates", ylim=(0, max(1.05, 1.2 * max(ys)) if name == "newest_found" else 1.2 * max(ys)))
        axes.grid(alpha=0.3)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    start(app)
