"""`python -m tests.faults`: seeds one after the other, a line of JSON for each, and what they came to."""

from __future__ import annotations

import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from tests.faults.parts import Parts
from tests.faults.planted import FAULTS
from tests.faults.run import Verdict, run
from tests.faults.schedule import schedule_of

app = typer.Typer(add_completion=False)


@app.command()
def main(
    seeds: Annotated[int, typer.Option(min=1, help="How many seeds, from --first on.")] = 200,
    first: Annotated[int, typer.Option(help="The first of them.")] = 0,
    seed: Annotated[int | None, typer.Option(help="This one alone.")] = None,
    faults: Annotated[str, typer.Option(help="Only these faults, with commas, in this order.")] = "",
    plant: Annotated[str | None, typer.Option(help=f"A fault of the product, planted: {' | '.join(FAULTS)}.")] = None,
    out: Annotated[Path | None, typer.Option(help="Where the lines go; standard output if not given.")] = None,
    keep: Annotated[Path | None, typer.Option(help="Folder for what is left of runs that failed. A temporary one if not given.")] = None,
    ray: Annotated[bool, typer.Option(help="Whether every 20th seed runs on a Ray of its own.")] = True,
    apache: Annotated[bool, typer.Option(help="Apache Kafka; else the embedded broker, which can do less.")] = True,
    s3: Annotated[bool, typer.Option(help="An S3 server behind a faulty proxy for most seeds; else files.")] = True,
    within_s: Annotated[float, typer.Option(help="Begin no seed after so many seconds.")] = 1e9,
) -> None:
    """Carry out the schedules of some seeds on a real broker and a real store, and check after each.

    Apache Kafka needs Java and its jars (infra/kafka/kafka.sh fetch build/kafka/libs), the S3 server is built by Go into build/versitygw:
    both are fetched if they are not there.
    """
    began_s = time.monotonic()
    folder = keep or Path(tempfile.mkdtemp(prefix="memstream-faults-"))
    folder.mkdir(parents=True, exist_ok=True)
    only = tuple(filter(None, faults.split(",")))
    verdicts = list[Verdict]()
    with (
        open(out, "a") if out else os.fdopen(os.dup(sys.stdout.fileno()), "w") as lines,
        Parts(folder, apache=apache, s3=s3, ray=ray) as parts,
    ):
        for number in [seed] if seed is not None else range(first, first + seeds):
            if time.monotonic() - began_s > within_s:
                break
            verdicts.append(run(schedule_of(number, parts.able, only), parts, plant))
            print(json.dumps(verdicts[-1].as_dict()), file=lines, flush=True)
            if sys.stderr.isatty():
                print(f"\r{len(verdicts)} seeds, {sum(not each.passed for each in verdicts)} failed", end="", file=sys.stderr)
        told = {**summary(verdicts, time.monotonic() - began_s), "parts": asdict(parts.able)}
        print(json.dumps(told), file=lines, flush=True)
    if told["failed"]:
        raise SystemExit(f"failed: {told['failed']}; what is left of them: {folder}")
    if keep is None:
        shutil.rmtree(folder, ignore_errors=True)


def summary(verdicts: list[Verdict], seconds: float) -> dict[str, Any]:
    """The last line."""
    steps = Counter(step.split()[0] for each in verdicts for step in each.schedule["steps"])
    return {
        "seeds": len(verdicts),
        "passed": sum(each.passed for each in verdicts),
        "failed": [each.seed for each in verdicts if not each.passed],
        "seconds": round(seconds, 1),
        "seconds_a_seed": round(statistics.median(each.seconds for each in verdicts), 2) if verdicts else None,
        "faults": {action: count for action, count in sorted(steps.items()) if action not in ("publish", "pause", "learned")},
        "offsets": sum(sum(each.told.get("counts", {}).values()) for each in verdicts),
        "lives": sum(each.told.get("lives", 0) for each in verdicts),
        "faulty_requests": sum(each.told.get("faulty_requests", 0) for each in verdicts),
    }


if __name__ == "__main__":
    app()
