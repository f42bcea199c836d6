"""`python -m jobs.demo`: a language model learns from a Kafka stream what it could not have known, and says from where it knows.

    factbook wheel -> 300 documents -> broker of our own -> replica (Ray) -> snapshot -> fresh processes -> a correction, a deletion
         |                                                      |                            |                     |
         +-- 20 questions: before, newest, end -----------------+        restored -----------+     asked again ----+

The text is real: entries of the World Factbook of the end of 2025, newer than the model. What the model gets wrong is shown as wrong.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from actors.cluster import connect, disconnect
from actors.config import StreamConfig
from actors.supervisor import Supervisor
from jobs.command import start
from jobs.corpora.examples import Fit
from jobs.demo.broker import EmbeddedBroker
from jobs.demo.programme import STREAM, TOPIC, Programme, Stage, ask_general, change, programme
from jobs.demo.show import progress_bar, show
from model.catalog import NAME, checkpoint_folder, token_counter
from pipeline.publish import Publisher

app = typer.Typer(add_completion=False)
console = Console(highlight=False, width=None if sys.stdout.isatty() else 150)


def stream_config(bootstrap_servers: str, folder: Path, seed: int) -> StreamConfig:
    """The demo's deployment: one replica on all cores, snapshots under `folder`."""
    return StreamConfig.model_validate(
        {
            "stream": STREAM,
            "kafka": {"bootstrap_servers": bootstrap_servers, "topics": [TOPIC], "group_id": "memstream-demo"},
            "model": {"name": NAME, "seed": seed},
            "snapshots": {"root": folder.resolve().as_uri(), "every_s": 60},
        }
    )


@app.command()
def demo(
    seed: Annotated[int, typer.Option(help="Draws the questions and the other documents.")] = 1,
    out: Annotated[Path, typer.Option(help="Where the results go as JSON.")] = Path("demo.json"),
    folder: Annotated[Path, typer.Option(help="Where the snapshots go; those of an earlier demo are removed.")] = Path("demo-data"),
) -> None:
    """Watch a language model learn from a Kafka stream, come back from its snapshot, answer, and say from where it knows."""
    started = time.monotonic()
    console.print("[b]memstream demo[/b]: a language model reads the World Factbook of the end of 2025 from a Kafka stream\n")
    model = checkpoint_folder(NAME)
    shutil.rmtree(folder / STREAM, ignore_errors=True)
    with ExitStack() as ending:
        broker = ending.enter_context(EmbeddedBroker())
        config = stream_config(broker.bootstrap_servers, folder, seed)
        console.print(f"broker on {broker.bootstrap_servers}; starting Ray and a replica of {NAME} ...")
        plan, result = learn(config, lambda: programme(seed, Fit(count_tokens=token_counter(model))))
        console.print(f"saved as epoch {result['epoch']}; all processes ended. Starting fresh ones from the snapshot ...")
        result |= come_back(config, plan)
    result = {"seed": seed, "documents": plan.count, "cases": [case.as_dict() for case in plan.cases], **result}
    result["seconds"] = round(time.monotonic() - started, 1)
    out.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    show(console, plan.cases, result, config, out)


def learn(config: StreamConfig, planned: Callable[[], Programme]) -> tuple[Programme, dict[str, object]]:
    """Learn, ask, save; all processes have ended when this returns. The plan is made while they start."""
    connect("local")
    try:
        with Publisher(config.kafka, TOPIC) as publisher:  # it makes the topic
            supervisor = Supervisor.start(config)
            plan = planned()
            first = supervisor.wait_ready()[0]
            with progress_bar(console, plan.count) as bar:
                plan.run(Stage(supervisor, publisher), bar)
        last = supervisor.drain()[0]
    finally:
        disconnect()
    return plan, {
        "blocks": last.remembered_updates,
        "epoch": last.epoch,
        "position": dict(last.position),
        "memory_sha256": last.memory_sha256,
        "pids": {"learned": first.pid},
    }


def come_back(config: StreamConfig, plan: Programme) -> dict[str, object]:
    """Ask everything again in fresh processes that know only the snapshot; then correct one document and delete one, live."""
    connect("local")
    try:
        supervisor = Supervisor.start(config)
        (status,) = supervisor.wait_ready()
        with Publisher(config.kafka, TOPIC) as publisher:
            stage = Stage(supervisor, publisher)
            for case in plan.cases:
                case.restored = stage.ask(case.asked.question)
            return {**change(stage, plan), "general": ask_general(stage), "pids": {"restored": status.pid}}
    finally:
        disconnect()


if __name__ == "__main__":
    start(app)
