"""`paragraphs`: windows of sentences from SQuAD-like paragraphs, each around an answer.

A line of such a file is `{title, text, questions: [{question, answers}]}`.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jobs.corpora.articles import whole_first
from jobs.corpora.examples import Example, Fit, Question, Split, day_ms, header_line, split_of

_ASKING = frozenset({"what", "when", "where", "which", "whose", "many", "much", "does"})
_SENTENCES = re.compile(r"(?<=[.!?])(?:\[[^\]]*\])*\s+(?=[A-Z\"'(])")


def paragraph_examples(
    paragraphs: Sequence[Mapping[str, Any]], fit: Fit, seed: int, split: Split = Split.TRAIN, kind: str = "paragraphs"
) -> Iterator[Example]:
    """Endless: a random paragraph of this split's articles, a random window of it, the questions that the window answers."""
    rng = random.Random(f"{kind}/{seed}/{split}")
    own = [paragraph for paragraph in paragraphs if split_of(f"article/{paragraph['title']}") is split and paragraph.get("questions")]
    if not own:
        return
    while True:
        example = _window(rng.choice(own), fit, rng, kind)
        if example is not None:
            yield example


def _window(paragraph: Mapping[str, Any], fit: Fit, rng: random.Random, kind: str) -> Example | None:
    """Whole sentences around the answer of one question, grown to both sides while they fit."""
    title = paragraph["title"].replace("_", " ") if rng.random() < 0.75 else None
    date_ms = day_ms(rng.randint(2010, 2027), rng.randint(1, 12), rng.randint(1, 28)) if rng.random() < 0.4 else None
    header = header_line(title, None, date_ms)
    pieces = [piece for piece in _SENTENCES.split(paragraph["text"].strip()) if piece]
    answer = rng.choice(rng.choice(paragraph["questions"])["answers"])
    holding = [index for index, piece in enumerate(pieces) if answer in piece]
    if not holding:
        return None
    text = _grown(pieces, rng.choice(holding), header, fit)
    questions = _answered(paragraph, text, rng) if fit(text, header) else ()
    if not questions:
        return None
    return Example(
        kind=kind,
        title=title,
        source=None,
        date_ms=date_ms,
        text=text,
        questions=questions,
        untold=_unanswered(paragraph, f"{header}{text}", rng),
    )


def _grown(pieces: Sequence[str], start: int, header: str, fit: Fit) -> str:
    """The sentence at `start` with as many after it, then before it, as fit."""
    first, last = start, start + 1
    while last < len(pieces) and fit(" ".join(pieces[first : last + 1]), header):
        last += 1
    while first > 0 and fit(" ".join(pieces[first - 1 : last]), header):
        first -= 1
    return " ".join(pieces[first:last])


def _answered(paragraph: Mapping[str, Any], text: str, rng: random.Random) -> tuple[Question, ...]:
    """Up to four questions whose answer stands in the window and whose words the window mostly holds."""
    found = []
    for item in paragraph["questions"]:
        present = whole_first(sorted({answer for answer in item["answers"] if answer in text}, key=item["answers"].index))
        if present and _overlap(item["question"], text) >= 0.5:
            found.append((item["question"].strip(), present))
    rng.shuffle(found)
    return tuple(found[:4])


def _unanswered(paragraph: Mapping[str, Any], text: str, rng: random.Random) -> tuple[str, ...]:
    """A question of the same paragraph of whose answers the window holds not a word."""
    held = set(re.findall(r"\w+", text.lower()))
    left = [
        item["question"].strip()
        for item in paragraph["questions"]
        if all(
            held.isdisjoint(word for word in re.findall(r"\w+", answer.lower()) if len(word) > 3 or word.isdigit())
            for answer in item["answers"]
        )
        and not any(answer in text for answer in item["answers"])
    ]
    return tuple(rng.sample(left, min(1, len(left))))


def _overlap(question: str, text: str) -> float:
    """The share of a question's longer words that begin like a word of the text: the window, not its neighbour, answers it."""
    words = {word[:5] for word in re.findall(r"\w{4,}", question.lower())} - _ASKING
    known = {word[:5] for word in re.findall(r"\w{4,}", text.lower())}
    return len(words & known) / len(words) if words else 1.0
