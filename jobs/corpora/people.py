"""Names of persons for training: those of the 2015 edition, and new ones put together from their parts."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from jobs.corpora.entries import Entry, Field
from jobs.corpora.offices import BRANCH, is_title_word, offices_of

_BRACKETED = re.compile(r"[\[,;](?:\s*and)?\s*((?:[A-Z][\w'-]+\.?\s+){1,3}[A-Z][A-Z'-]{2,}(?:\s[A-Z][A-Z'-]{2,})?)\s*(?=[\],;(])")
_NAMED_FIELDS = ("Political parties and leaders", "Diplomatic representation in the US", "Diplomatic representation from the US")


@dataclass(frozen=True, slots=True, kw_only=True)
class NamePool:
    """Full names as the edition prints them (surnames in capitals), and their parts."""

    full: Sequence[str]
    given: Sequence[str]
    surnames: Sequence[str]

    def draw(self, rng: random.Random) -> str:
        """A name: a real one, a real one's parts mixed, or a mixed one in plain letters."""
        kind = rng.random()
        if kind < 0.3:
            return rng.choice(self.full)
        given = [rng.choice(self.given) for _ in range(rng.choices((1, 2), weights=(5, 2))[0])]
        surname = rng.choice(self.surnames)
        if rng.random() < 0.08:
            surname = f"{surname}-{rng.choice(self.surnames).title()}"
        if kind < 0.4:
            return " ".join([*given, surname.title()])
        if kind < 0.5:
            return " ".join([surname, *given])
        return " ".join([*given, surname])


def persons_of(entries: Iterable[Entry]) -> NamePool:
    """Everybody whom the edition names: leaders, cabinet members in their fields, party leaders, heads of mission."""
    full = sorted({name for entry in entries for name in _names(entry) if _is_usual(name)})
    words = [name.split() for name in full]
    given = sorted({word for name in words for word in name[:-1] if re.fullmatch(r"[A-Z][a-z'-]{2,}", word)})
    surnames = sorted({name[-1] for name in words if re.fullmatch(r"[A-Z][A-Z'-]{2,}", name[-1])})
    return NamePool(full=full, given=given, surnames=surnames)


def _names(entry: Entry) -> Iterable[str]:
    yield from (office.name for office in offices_of(entry))
    for field in entry.fields:
        if field.name in _NAMED_FIELDS:
            yield from _names_in(field)
        elif field.name == BRANCH:
            yield from _BRACKETED.findall(field.text)


def _names_in(field: Field) -> Iterable[str]:
    if field.part == "chief of mission":
        mission = re.match(r"(?:Ambassador|Charge d'Affaires)\s+(?P<name>[^(;]+?)\s+\(since", field.text)
        if mission is not None:
            yield mission["name"]
    yield from _BRACKETED.findall(field.text)


def _is_usual(name: str) -> bool:
    if is_title_word(name.split()[0]) or name.startswith(("Charge", "Ambassador")) or re.search(r"[\[(.]", name.split()[0]):
        return False
    return 2 <= len(name.split()) <= 5 and any(len(word) > 2 and word.isupper() for word in name.split()) and "represented" not in name
