"""`python -m jobs.parity DIR --json OUT`: does this device, at this dtype, compute what the authors' implementation computed?"""

from __future__ import annotations

import json
import math
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table

from jobs.command import start
from model.errors import CheckpointError
from model.parity import Parity, check

app = typer.Typer(add_completion=False)


class Dtype(StrEnum):
    FLOAT32 = "float32"
    FLOAT64 = "float64"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"


@app.command()
def parity(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A recording: checkpoint/ and expected.safetensors.")],
    out: Annotated[Path | None, typer.Option("--json", help="Where to write the result.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1 ...")] = "cpu",
    dtype: Annotated[Dtype, typer.Option(help="What is computed in, whatever the checkpoint holds.")] = Dtype.FLOAT32,
    tolerance: Annotated[float, typer.Option(help="Largest relative error, by norms, that passes.")] = 1e-4,
) -> None:
    """Replay a recorded run and compare every tensor of it. Exit 1: it is not the same, or the folder is broken."""
    check_device(device)
    try:
        found = check(folder, device, getattr(torch, dtype))
    except CheckpointError as error:
        write(out, {"tensors": {}, "greedy_equal": None, "ok": False, "error": str(error)})
        raise
    show(found, tolerance)
    write(out, result(found, tolerance))
    if not found.ok(tolerance):
        raise typer.Exit(1)


def check_device(device: str) -> None:
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise typer.BadParameter(f"{device}: {str(error).splitlines()[0]}", param_hint="--device") from error


def result(found: Parity, tolerance: float) -> dict[str, Any]:
    """The report as plain JSON values; an error that is not a finite number is null."""
    errors = {name: {"rel_error": error if math.isfinite(error) else None} for name, error in found.rel_error.items()}
    return {"tensors": errors, "greedy_equal": found.greedy_equal, "ok": found.ok(tolerance)}


def write(out: Path | None, report: dict[str, Any]) -> None:
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(report, indent=2, allow_nan=False) + "\n")


def show(found: Parity, tolerance: float) -> None:
    table = Table(box=None, pad_edge=False)
    for heading, justify in (("tensor", "left"), ("relative error", "right"), ("", "left")):
        table.add_column(heading, justify=justify)  # type: ignore[arg-type]
    for name, error in found.rel_error.items():
        table.add_row(name, f"{error:.1e}", "" if error <= tolerance else f"above {tolerance:g}")
    if found.greedy_equal is not None:
        table.add_row("greedy tokens", "equal" if found.greedy_equal else "differ", "")
    table.add_row("ok" if found.ok(tolerance) else "NOT ok", "", "")
    Console(highlight=False).print(table)


if __name__ == "__main__":
    start(app)
