"""Accuracy by age as a picture, beside what the paper's forgetting allows at best."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jobs.evaluation.totals import Verdict, by_age

POOL_BLOCKS = 50
"""Blocks of the pool of the published 8B model: a token is still there after t updates with probability (1 - 1/50)^t."""


def accuracy_by_age(verdicts: Sequence[Verdict], path: Path, config: dict[str, Any]) -> None:
    """Draw it as a PNG. The bound is the paper's, from the youngest quarter's accuracy: a_0 (1 - K/N)^t."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    told = [each for each in verdicts if each.answerable]
    rows = by_age(told)
    if not rows:
        return
    figure = Figure(figsize=(7, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    middles = [(row["from"] + row["to"]) / 2 for row in rows]
    axes.plot(middles, [row["accuracy"] for row in rows], marker="o", linewidth=2, label="memstream, blocks that a question selects")
    last = max(row["to"] for row in rows)
    ages = [last * step / 200 for step in range(201)]
    bound = [rows[0]["accuracy"] * (1 - 1 / POOL_BLOCKS) ** age for age in ages]
    axes.plot(ages, bound, linestyle="--", color="grey", label=f"bound of a pool of {POOL_BLOCKS} blocks (Wang et al., 2024)")
    axes.set(xlabel="updates since the document", ylabel="questions answered right", ylim=(0, 1), xlim=(0, max(1, last)))
    axes.set_title(f"{len(told)} questions among {config['among']} other documents")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower left", frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
