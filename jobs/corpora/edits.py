"""`edits`: the one-sentence facts of model-editing sets (CounterFact, ZsRE) as documents. For measuring beside published figures."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jobs.corpora.examples import Example, Fit, Question, Split, split_of


def read_edits(path: Path) -> list[Mapping[str, Any]]:
    """Either file: counterfact lines have a `prompt`, ZsRE lines a `question`."""
    with path.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines if line.strip()]


def edit_examples(edits: Sequence[Mapping[str, Any]], fit: Fit, seed: int, split: Split = Split.TRAIN) -> Iterator[Example]:
    """Endless: one edit as one sentence, asked in its own words and in its paraphrase."""
    rng = random.Random(f"edits/{seed}/{split}")
    own = [made for edit in edits if split_of(f"edit/{edit['subject']}") is split and fit((made := _example(edit)).text)]
    while own:
        yield rng.choice(own)


def _example(edit: Mapping[str, Any]) -> Example:
    stem = edit.get("prompt") or edit["question"]
    target = edit["target_new"].strip()
    accepted = (target,)
    asked: tuple[Question, ...] = ((stem, accepted), *(((edit["paraphrase"], accepted),) if "question" in edit else ()))
    return Example(kind="edits", title=None, source=None, date_ms=None, text=f"{stem} {target}.", questions=asked)
