"""Whole texts with their questions from files of JSON lines, `{title, text, questions: [{question, answers}], untold: [question, ...]}`.
An answer stands in its text word for word; `untold` are questions that it leaves open, and may be missing, as SQuAD has none.

`news`: invented news of our own, each written by itself, which hold several things of a kind and are asked in other words than theirs.
`squad`: paragraphs, where such a file is given.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jobs.corpora.examples import Example, Question, Split, day_ms, split_of

NEWS = Path(__file__).parent / "texts" / "news.jsonl"


def read_articles(paths: Iterable[Path]) -> list[Mapping[str, Any]]:
    """All documents of some files."""
    return [json.loads(line) for path in paths for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def article_examples(articles: Sequence[Mapping[str, Any]], kind: str, seed: int, split: Split = Split.TRAIN) -> Iterator[Example]:
    """Endless: this split's documents in an order drawn anew each time around, under a header that varies."""
    rng = random.Random(f"{kind}/{seed}/{split}")
    own = [each for each in articles if each.get("questions") and split_of(f"article/{_key(each)}") is split]
    while own:
        for article in rng.sample(own, len(own)):
            yield article_example(article, kind, rng)


LONGEST_ANSWER = 16
"""In words; longer ones are whole sentences that somebody marked."""


def whole_first(answers: Sequence[str]) -> tuple[str, ...]:
    """Accepted answers, the fullest of them first: it holds what the others say, and is what shall be said.

    >>> whole_first(["grace", "justifying grace", "grace"])
    ('justifying grace', 'grace', 'grace')
    """
    return tuple(sorted(answers, key=lambda answer: (len(answer.split()) > LONGEST_ANSWER, -len(answer))))


def article_example(article: Mapping[str, Any], kind: str, rng: random.Random) -> Example:
    title = (article["title"] or "").replace("_", " ") or None
    date_ms = day_ms(rng.randint(2010, 2027), rng.randint(1, 12), rng.randint(1, 28)) if rng.random() < 0.4 else None
    asked: tuple[Question, ...] = tuple((each["question"].strip(), whole_first(each["answers"])) for each in article["questions"])
    return Example(
        kind=kind,
        title=title if rng.random() < 0.6 else None,
        source=None,
        date_ms=date_ms,
        text=article["text"].strip(),
        questions=asked,
        untold=tuple(article.get("untold", ())),
    )


def _key(article: Mapping[str, Any]) -> str:
    """SQuAD's articles have many paragraphs: all of them fall into one part."""
    return str(article["title"] or article["text"][:80])
