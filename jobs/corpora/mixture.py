"""All kinds of training text in one endless stream."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from jobs.corpora.articles import NEWS, article_examples, read_articles
from jobs.corpora.asked import asked_paragraphs
from jobs.corpora.edits import edit_examples, read_edits
from jobs.corpora.entries import Entry, entries_in_tarball
from jobs.corpora.examples import Example, Fit, Split
from jobs.corpora.fields import field_examples
from jobs.corpora.leaders import leader_examples
from jobs.corpora.paragraphs import paragraph_examples
from jobs.corpora.stories import story_examples
from jobs.corpora.wiki import read_summaries, wiki_examples

WEIGHTS: Mapping[str, float] = {
    "news": 0.36,
    "stories": 0.17,
    "paragraphs": 0.05,
    "squad": 0.07,
    "asked": 0.09,
    "excerpts": 0.06,
    "prose": 0.03,
    "passages": 0.02,
    "wiki": 0.01,
    "leaders": 0.11,
    "fields": 0.02,
    "edits": 0.01,
}
FINDING_WEIGHTS: Mapping[str, float] = {
    "news": 0.50,
    "stories": 0.18,
    "paragraphs": 0.06,
    "squad": 0.13,
    "asked": 0.12,
    "excerpts": 0.07,
    "wiki": 0.10,
    "leaders": 0.13,
    "fields": 0.13,
    "edits": 0.06,
}
"""For the selector: more of what looks alike and is about something else."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """Where the raw texts are; what is None is not used."""

    factbook_tarball: Path | None = None
    paragraphs: Path | None = None
    summaries: Path | None = None
    prose: Path | None = None
    edits: Sequence[Path] = field(default=())


def generators(sources: Sources, fit: Fit, seed: int, split: Split = Split.TRAIN) -> dict[str, Iterator[Example]]:
    """One endless generator for each kind whose source is there. Reads the files once, here."""
    made = {"stories": story_examples(seed, split), "news": article_examples(read_articles([NEWS]), "news", seed, split)}
    if sources.factbook_tarball is not None:
        entries: list[Entry] = entries_in_tarball(sources.factbook_tarball)
        made["leaders"] = leader_examples(entries, fit, seed, split)
        made["fields"] = field_examples(entries, fit, seed, split)
    if sources.paragraphs is not None:
        articles = read_articles([sources.paragraphs])
        made["paragraphs"] = paragraph_examples(articles, fit, seed, split)
        made["squad"] = article_examples(articles, "squad", seed, split)
    if sources.summaries is not None:
        summaries = read_summaries(sources.summaries)
        made["wiki"] = wiki_examples(summaries, seed, split)
        asked = asked_paragraphs(summaries)
        made["asked"] = article_examples(asked, "asked", seed, split)
        made["excerpts"] = paragraph_examples(asked, fit, seed, split, kind="excerpts")
    if sources.prose is not None:
        parsed = read_articles([sources.prose])
        made["prose"] = article_examples(parsed, "prose", seed, split)
        made["passages"] = paragraph_examples(parsed, fit, seed, split, kind="passages")
    if sources.edits:
        made["edits"] = edit_examples([edit for path in sources.edits for edit in read_edits(path)], fit, seed, split)
    return made


def mixture(kinds: Mapping[str, Iterator[Example]], seed: int, weights: Mapping[str, float] = WEIGHTS) -> Iterator[Example]:
    """Draws from the kinds by weight (those not named weigh nothing); deterministic in the seed. A kind that has nothing is left out."""
    rng = random.Random(f"mixture/{seed}")
    left = {kind: share for kind, share in weights.items() if share > 0 and kind in kinds}
    while left:
        kind = rng.choices(list(left), weights=list(left.values()))[0]
        example = next(kinds[kind], None)
        if example is None:
            del left[kind]
        else:
            yield example
