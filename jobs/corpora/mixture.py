"""All kinds of training text in one endless stream."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from jobs.corpora.edits import edit_examples, read_edits
from jobs.corpora.entries import Entry, entries_in_tarball
from jobs.corpora.examples import Example, Fit, Split
from jobs.corpora.fields import field_examples
from jobs.corpora.leaders import leader_examples
from jobs.corpora.paragraphs import paragraph_examples, read_paragraphs
from jobs.corpora.stories import story_examples

DEFAULT_WEIGHTS: Mapping[str, float] = {"leaders": 0.35, "fields": 0.2, "stories": 0.25, "paragraphs": 0.2, "edits": 0.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """Where the raw texts are; what is None is not used."""

    factbook_tarball: Path | None = None
    paragraphs: Path | None = None
    edits: Sequence[Path] = field(default=())


def generators(sources: Sources, fit: Fit, seed: int, split: Split = Split.TRAIN) -> dict[str, Iterator[Example]]:
    """One endless generator for each kind whose source is there. Reads the files once, here."""
    made = {"stories": story_examples(fit, seed, split)}
    if sources.factbook_tarball is not None:
        entries: list[Entry] = entries_in_tarball(sources.factbook_tarball)
        made["leaders"] = leader_examples(entries, fit, seed, split)
        made["fields"] = field_examples(entries, fit, seed, split)
    if sources.paragraphs is not None:
        made["paragraphs"] = paragraph_examples(read_paragraphs(sources.paragraphs), fit, seed, split)
    if sources.edits:
        made["edits"] = edit_examples([edit for path in sources.edits for edit in read_edits(path)], fit, seed, split)
    return made


def mixture(kinds: Mapping[str, Iterator[Example]], seed: int, weights: Mapping[str, float] | None = None) -> Iterator[Example]:
    """Draws from the kinds by weight (those not named weigh nothing); deterministic in the seed, ends never."""
    rng = random.Random(f"mixture/{seed}")
    shares = {kind: share for kind, share in (weights or DEFAULT_WEIGHTS).items() if share > 0 and kind in kinds}
    if not shares:
        raise ValueError(f"no kind of text has a weight above 0; there are: {', '.join(sorted(kinds))}")
    names, values = list(shares), list(shares.values())
    while True:
        yield next(kinds[rng.choices(names, weights=values)[0]])
