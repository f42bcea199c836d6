"""`stories`: short made-up news items over business, sports, politics, science, weather, accidents, culture and technology."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping, Sequence

from jobs.corpora.examples import Example, Fit, Question, Split, day_ms, header_line, split_of
from jobs.corpora.story_templates import TEMPLATES, Template
from jobs.corpora.story_words import SLOTS, paper

_CHOICE = re.compile(r"\[([^\[\]]*)\]")
_SLOT = re.compile(r"\{([a-z]+\d?)\}")


def story_examples(fit: Fit, seed: int, split: Split = Split.TRAIN) -> Iterator[Example]:
    """Endless: a template of this split, filled anew."""
    rng = random.Random(f"stories/{seed}/{split}")
    own = [template for template in TEMPLATES if split_of(f"template/{template.title}") is split]
    while True:
        example = _story(rng.choice(own), fit, rng)
        if example is not None:
            yield example


def _story(template: Template, fit: Fit, rng: random.Random) -> Example | None:
    wording = _CHOICE.sub(lambda match: rng.choice(match[1].split("|")), template.text)
    values = _values(template, rng)
    text = _filled(wording, values)
    told = {slot: questions for slot, questions in template.asked.items() if values[slot] in text}
    header = next((header for header in _headers(template, values, rng) if fit(text, header_line(*header))), None)
    if header is None or not told:
        return None
    title, source, date_ms = header
    questions = tuple(_questions(told, values, rng))
    return Example(kind="stories", title=title, source=source, date_ms=date_ms, text=text, questions=questions)


def _values(template: Template, rng: random.Random) -> Mapping[str, str]:
    """A value for each slot; no two of them equal, so that each question has one answer."""
    slots = sorted({*_SLOT.findall(template.text), *_SLOT.findall(template.title)})
    while True:
        values = {slot: SLOTS[slot.rstrip("2")](rng) for slot in slots}
        if len(set(values.values())) == len(values):
            return values


def _filled(text: str, values: Mapping[str, str]) -> str:
    return _SLOT.sub(lambda match: values[match[1]], text)


def _headers(template: Template, values: Mapping[str, str], rng: random.Random) -> Iterator[tuple[str | None, str | None, int | None]]:
    """A header as drawn, then ever shorter ones."""
    title = _filled(template.title, values) if rng.random() < 0.6 else None
    source = paper(rng) if rng.random() < 0.5 else None
    date_ms = day_ms(rng.randint(2018, 2028), rng.randint(1, 12), rng.randint(1, 28)) if rng.random() < 0.5 else None
    yield title, source, date_ms
    yield title, None, date_ms
    yield title, None, None
    yield None, None, None


def _questions(told: Mapping[str, str], values: Mapping[str, str], rng: random.Random) -> Iterator[Question]:
    """Two to four questions about different slots, at times one of them in two ways."""
    slots: Sequence[str] = rng.sample(sorted(told), min(len(told), rng.choice((2, 2, 3, 3, 4))))
    for slot in slots:
        ways = told[slot].split("|")
        for way in rng.sample(ways, 2 if len(ways) > 1 and rng.random() < 0.25 else 1):
            yield _filled(way, values), (values[slot],)
