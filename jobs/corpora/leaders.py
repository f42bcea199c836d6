"""`leaders`: executive-branch documents of the 2015 Factbook, persons and dates exchanged at random among the countries."""

from __future__ import annotations

import random
from calendar import month_name
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from jobs.corpora.entries import Entry
from jobs.corpora.examples import Example, Fit, Question, Split, day_ms, header_line, split_of
from jobs.corpora.offices import CHIEF, HEAD, Office, accepted_names, executive_texts, offices_of, spoken_place, spoken_title
from jobs.corpora.people import NamePool, persons_of

_VICEROYS = ("Governor General", "Governor-General", "High Commissioner", "Governor", "Lieutenant Governor", "Administrator", "Prefect")
_PROVISIONAL = ("Interim", "Acting", "Transitional", "Transition", "Caretaker")
_HEADERS = ((True, True), (True, True), (True, True), (True, False), (False, True), (False, False))
_SOURCES = ("World Factbook", "CIA World Factbook", "Factbook")

_BY_TITLE = (
    "Who is the {title}?",
    "Who is the {title}?",
    "Who is the {title}?",
    "Who is the current {title}?",
    "Name the {title}.",
    "Name the current {title}.",
    "What is the name of the {title}?",
    "Who serves as {title}?",
    "Who holds the office of {title}?",
    "The {title} is who?",
    "Who is now the {title}?",
)
_BY_ROLE = (
    "Who is the {role} of {country}?",
    "Who is {possessive} {role}?",
    "Name the {role} of {country}.",
    "Who is currently {role} in {country}?",
)
_BY_COUNTRY = ("Who is {possessive} {short}?", "Who is {possessive} current {short}?", "In {country}, who is the {short}?")
_SINCE = (
    "Since when has {name} been in office?",
    "Since when has {name} been {short}?",
    "When did the {title} take office?",
    "Since when has the {title} been in office?",
)
_WHICH = ("Which office does {name} hold?", "What is {name}'s title?")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Post:
    """A role in one country and the title that goes with it there."""

    role: str
    title: str


def leader_examples(entries: Sequence[Entry], fit: Fit, seed: int, split: Split = Split.TRAIN) -> Iterator[Example]:
    """Endless: one country at a time, in one document or two, with questions about the one or two leaders whom each names."""
    rng = random.Random(f"leaders/{seed}/{split}")
    people = persons_of(entries)
    posts = {entry.name: found for entry in entries if (found := _posts(entry)) and split_of(f"country/{entry.name}") is split}
    titles = sorted({post.title for found in posts.values() for post in found if post.role == HEAD})
    countries = sorted(posts)
    while True:
        country = rng.choice(countries)
        offices = [_filled(post, titles, people, rng) for post in posts[country]]
        if len(offices) == 2 and offices[0].title == offices[1].title:
            offices[1] = replace(offices[0], role=HEAD)
        yield from _documents(country, offices, people, fit, rng)


def _posts(entry: Entry) -> list[_Post]:
    return [_Post(role=office.role, title=office.title) for office in offices_of(entry) if entry.name != office.name]


def _filled(post: _Post, titles: Sequence[str], people: NamePool, rng: random.Random) -> Office:
    """The post with another holder and date, at times with another country's title for it."""
    title = rng.choice(titles) if post.role == HEAD and rng.random() < 0.2 else post.title
    if rng.random() < 0.07 and title in ("President", "Prime Minister", "Premier"):
        title = f"{rng.choice(_PROVISIONAL)} {title}"
    return Office(role=post.role, title=title, name=people.draw(rng), since_text=_date_text(rng), since=None)


def _date_text(rng: random.Random) -> str:
    year, month = rng.randint(1990, 2027), rng.choice(month_name[1:])
    if rng.random() < 0.65:
        year = rng.randint(2018, 2027)
    kind = rng.random()
    return str(year) if kind < 0.03 else f"{month} {year}" if kind < 0.1 else f"{rng.randint(1, 28)} {month} {year}"


def _documents(country: str, offices: Sequence[Office], people: NamePool, fit: Fit, rng: random.Random) -> Iterator[Example]:
    """Both leaders in one document where they fit it; else one of them, or one after the other as the feed has them."""
    with_source, with_date = rng.choice(_HEADERS)
    source = rng.choice(_SOURCES) if with_source else None
    date_ms = day_ms(rng.randint(2014, 2028), rng.randint(1, 12), rng.randint(1, 28)) if with_date else None
    header = header_line(country, source, date_ms)
    viceroy = _viceroy(offices[0], people, rng)
    statements = [(office.role, office.statement) for office in offices]
    if viceroy is not None:
        statements[0] = (CHIEF, f"{offices[0].statement}; represented by {viceroy.statement}")
    whole, *each = executive_texts(statements)
    fitting = [whole] if fit(whole, header) else [text for text in each if fit(text, header)]
    if len(fitting) == 2 and rng.random() < 0.5:
        fitting.remove(rng.choice(fitting))
    for text in fitting:
        told = [office for office in (*offices, *([viceroy] if viceroy else [])) if office.name in text and f"{office.role}:" in text]
        questions = tuple(_questions(country, told, rng))
        names = {office.name for office in told}
        untold = [
            question
            for question, answers in _questions(country, offices, rng)
            if not names.intersection(answers) and answers[0] not in text
        ]
        yield Example(
            kind="leaders", title=country, source=source, date_ms=date_ms, text=text, questions=questions, untold=tuple(untold[:1])
        )


def _viceroy(chief: Office, people: NamePool, rng: random.Random) -> Office | None:
    """The monarch's representative, who is named behind the monarch."""
    if chief.role != CHIEF or rng.random() > (0.6 if chief.title in ("King", "Queen") else 0.03):
        return None
    return Office(role=CHIEF, title=rng.choice(_VICEROYS), name=people.draw(rng), since_text=_date_text(rng), since=None)


def _questions(country: str, offices: Iterable[Office], rng: random.Random) -> Iterator[Question]:
    """The office by its title first, then by role, date and the rest; at most three for each leader."""
    seen, place = set[str](), spoken_place(country)
    for office in sorted(offices, key=lambda office: rng.random()):
        if office.name in seen:
            continue
        seen.add(office.name)
        words = {
            "country": place,
            "possessive": f"{place}'" if place.endswith("s") else f"{place}'s",
            "title": spoken_title(office.title, country),
            "short": office.title.lower(),
            "role": office.role,
            "name": office.name,
        }
        yield rng.choice(_BY_TITLE).format(**words), accepted_names(office.name)
        if office.title not in _VICEROYS and rng.random() < 0.5:
            yield rng.choice(_BY_ROLE).format(**words), accepted_names(office.name)
        if " of " not in office.title and rng.random() < 0.35:
            yield rng.choice(_BY_COUNTRY).format(**words), accepted_names(office.name)
        if office.since_text and rng.random() < 0.3:
            yield rng.choice(_SINCE).format(**words), (office.since_text,)
        elif rng.random() < 0.06:
            yield rng.choice(_WHICH).format(**words), (office.title,)
