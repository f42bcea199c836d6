"""`memstream`: one command for all jobs. `memstream X ...` is `python -m jobs.X ...`.

A job's module is imported when it is called: help must not wait for torch and Ray.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Final

import typer

from jobs.command import start

JOBS: Final = {
    "demo": "See it work: a model learns from a Kafka stream what it could not have known, and says from where it knows.",
    "run": "Learn a stream from Kafka, or several, and answer questions, until told to stop.",
    "serve": "Answer over HTTP for the streams of a Ray cluster.",
    "publish": "Publish documents into a topic.",
    "ask": "Ask a running stream a question.",
    "status": "How the replicas of running streams stand.",
    "dlq": "List, show and replay the dead letters of a stream: what could not be learned, and why.",
    "snapshots": "The snapshots of a stream: list, show, verify, compare, pin, restore, collect.",
    "train": "Train the memory of the embedded model.",
    "evaluate": "Measure what a model remembers of documents of your own, and from where.",
    "parity": "Compare this machine's arithmetic with recorded outputs of the authors' implementation.",
}

_PASS_ON: Final = {"allow_extra_args": True, "ignore_unknown_options": True, "allow_interspersed_args": False}

commands = typer.Typer(
    name="memstream",
    help="A language model that reads the news as it comes in: Kafka into the latent memory of MemoryLLM replicas on Ray.",
    epilog="Begin with `memstream demo`. Each command explains itself: `memstream run --help`.",
    no_args_is_help=True,
    add_completion=False,
)


def _passing_on(name: str) -> Callable[[typer.Context], None]:
    def job(context: typer.Context) -> None:
        start(importlib.import_module(f"jobs.{name}").app, context.args, f"memstream {name}")

    return job


for _name, _help in JOBS.items():
    commands.command(_name, help=_help, context_settings=_PASS_ON, add_help_option=False)(_passing_on(_name))


def app() -> None:
    """What the installed command `memstream` calls."""
    start(commands)


if __name__ == "__main__":
    app()
