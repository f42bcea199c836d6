"""`stories`: made-up news from templates (`texts/templates_*.jsonl`), names, places and amounts drawn anew each time.

A template is `{title, text, asked: {slot: [question, ...]}, choices: {slot: [phrase, ...]}}`: `{person}` is a slot
(`story_words.SLOTS`, or one of the template's own choices), `{person2}` another value of the same kind, `[said|announced]` a
choice of words.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from jobs.corpora.examples import Example, Question, Split, day_ms, split_of
from jobs.corpora.story_words import SLOTS, Draw, paper

TEXTS = Path(__file__).parent / "texts"
REVISED = 0.12
"""Share of the items that come twice: an earlier version, and a later one in which one fact is another."""

_CHOICE = re.compile(r"\[([^\[\]]*)\]")
_SLOT = re.compile(r"\{([a-z_]+\d?)\}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """One kind of news."""

    title: str
    text: str
    asked: Mapping[str, Sequence[str]] = field(hash=False)
    choices: Mapping[str, Sequence[str]] = field(hash=False)

    def draw(self, slot: str) -> Draw:
        kind = slot.rstrip("23")
        phrases = self.choices.get(slot) or self.choices.get(kind)
        return (lambda rng: rng.choice(phrases)) if phrases else SLOTS[kind]

    @property
    def slots(self) -> list[str]:
        return sorted({*_SLOT.findall(self.text), *_SLOT.findall(self.title)})


@cache
def templates() -> tuple[Template, ...]:
    """All that are there, in the order of their files."""
    lines = [
        line for path in sorted(TEXTS.glob("templates_*.jsonl")) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()
    ]
    found = [json.loads(line) for line in lines]
    return tuple(Template(title=each["title"], text=each["text"], asked=each["asked"], choices=each.get("choices") or {}) for each in found)


def story_examples(seed: int, split: Split = Split.TRAIN) -> Iterator[Example]:
    """Endless: a template of this split, filled anew; at times an earlier version first, which the next item contradicts.

    A template comes as often as it has something to ask: those with many facts of one kind are what is hard to read.
    """
    rng = random.Random(f"stories/{seed}/{split}")
    own = [template for template in templates() if split_of(f"template/{template.title}") is split]
    weights = [len(template.asked) for template in own]
    while own:
        (template,) = rng.choices(own, weights)
        values = _values(template, rng)
        subject = f"story/{rng.getrandbits(60)}"
        slot = rng.choice(sorted(template.asked))
        if rng.random() < REVISED:
            yield _story(template, {**values, slot: _other(template, slot, values, rng)}, subject, rng, slot)
            yield _story(template, values, subject, rng, slot)
        else:
            yield _story(template, values, subject, rng)


def _story(template: Template, values: Mapping[str, str], subject: str, rng: random.Random, slot: str | None = None) -> Example:
    wording = _CHOICE.sub(lambda match: rng.choice(match[1].split("|")), template.text)
    text = _filled(wording, values)
    told = {name: questions for name, questions in template.asked.items() if values[name] in text}
    asked = {slot: told[slot]} if slot in told else told
    return Example(
        kind="stories",
        title=_filled(template.title, values) if rng.random() < 0.5 else None,
        source=paper(rng) if rng.random() < 0.4 else None,
        date_ms=day_ms(rng.randint(2018, 2028), rng.randint(1, 12), rng.randint(1, 28)) if rng.random() < 0.4 else None,
        text=text[:1].upper() + text[1:],
        questions=tuple(_questions(asked, values, rng)),
        subject=subject,
    )


def _values(template: Template, rng: random.Random) -> dict[str, str]:
    """A value for each slot; no two of them equal, so that each question has one answer."""
    while True:
        values = {slot: template.draw(slot)(rng) for slot in template.slots}
        if len(set(values.values())) == len(values):
            return values


def _other(template: Template, slot: str, values: Mapping[str, str], rng: random.Random) -> str:
    """Another value for a slot; the same one where chance gives nothing else."""
    drawn = (template.draw(slot)(rng) for _ in range(20))
    return next((value for value in drawn if value not in values.values()), values[slot])


def _filled(text: str, values: Mapping[str, str]) -> str:
    return _SLOT.sub(lambda match: values[match[1]], text)


def _questions(told: Mapping[str, Sequence[str]], values: Mapping[str, str], rng: random.Random) -> Iterator[Question]:
    """Up to four questions about different slots, at times one of them in two ways."""
    for slot in rng.sample(sorted(told), min(len(told), rng.choice((2, 3, 3, 4)))):
        ways = told[slot]
        for way in rng.sample(ways, 2 if len(ways) > 1 and rng.random() < 0.25 else 1):
            filled = _filled(way, values)
            yield filled[:1].upper() + filled[1:], (values[slot],)
