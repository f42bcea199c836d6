"""`fields`: other fields of the 2015 Factbook, each value taken from another country, so that only memory can tell."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from jobs.corpora.cutting import add_line
from jobs.corpora.entries import Entry, without_notes
from jobs.corpora.examples import Example, Fit, Question, Split, day_ms, header_line, split_of
from jobs.corpora.offices import spoken_place

_HEADERS = ((True, True), (True, True), (True, True), (True, False), (False, True), (False, False))
_SOURCES = ("World Factbook", "CIA World Factbook", "Factbook")
_MAX_ANSWER_CHARACTERS = 70
_FIRST_ITEM = re.compile(r"^[^,;(:]+")
_ESTIMATE = re.compile(r"\s*\((?:[^)]*\b(?:19|20)\d\d\b[^)]*|[^)]*est\.[^)]*)\)\s*$")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """A field, whether its answer is the whole text or its first item, and how one asks."""

    name: str
    part: str = ""
    whole: bool = False
    questions: tuple[str, ...]

    @property
    def label(self) -> str:
        return f"{self.name} - {self.part}" if self.part else self.name


def _asked(name: str, *questions: str, part: str = "", whole: bool = False) -> _Asked:
    return _Asked(name=name, part=part, whole=whole, questions=questions)


_ASKED = (
    _asked("Capital", "What is the capital of {c}?", "Which city is the capital of {c}?", "Name {p} capital.", part="name", whole=True),
    _asked("Population", "What is the population of {c}?", "How many people live in {c}?"),
    _asked("Languages", "Which language is named first for {c}?", "What language do people in {c} speak?"),
    _asked("Religions", "What is the main religion of {c}?", "Which religion do most people in {c} follow?"),
    _asked("Ethnic groups", "What is the largest ethnic group of {c}?", "Which ethnic group is named first for {c}?"),
    _asked("Exchange rates", "What is the currency of {c}?", "In which currency do people in {c} pay?"),
    _asked("Land boundaries", "Which country borders {c}?", "Name a neighbour of {c}.", part="border countries"),
    _asked("Exports - commodities", "What does {c} export?", "What is the main export of {c}?"),
    _asked("Exports - partners", "To which country does {c} export most?", "Who is the largest buyer of {p} exports?"),
    _asked("Imports - commodities", "What does {c} import?", "What is the first import named for {c}?"),
    _asked("Imports - partners", "From which country does {c} import most?", "Who is {p} largest supplier of imports?"),
    _asked("Climate", "What is the climate of {c} like?", "Describe the climate of {c}."),
    _asked("Terrain", "What is the terrain of {c} like?", "Describe the land of {c}."),
    _asked("Natural resources", "What natural resource does {c} have?", "Which resource is named first for {c}?"),
    _asked("Natural hazards", "Which natural hazard threatens {c}?"),
    _asked("Area", "What is the total area of {c}?", "How large is {c}?", part="total", whole=True),
    _asked("Coastline", "How long is the coastline of {c}?", "How long is {p} coast?", whole=True),
    _asked("Location", "Where does {c} lie?", "In which part of the world is {c}?"),
    _asked("Elevation extremes", "What is the highest point of {c}?", "Which is {p} highest mountain?", part="highest point", whole=True),
    _asked("Elevation extremes", "What is the lowest point of {c}?", part="lowest point", whole=True),
    _asked("National anthem", "What is the national anthem of {c} called?", "Name {p} national anthem.", part="name", whole=True),
    _asked("National anthem", "Who wrote the national anthem of {c}?", part="lyrics/music", whole=True),
    _asked("National symbol(s)", "What is the national symbol of {c}?"),
    _asked("National holiday", "What is the national holiday of {c}?", "Which holiday does {c} celebrate?"),
    _asked("Independence", "When did {c} become independent?", "What is {p} date of independence?", whole=True),
    _asked("Government type", "What type of government does {c} have?", "How is {c} governed?", whole=True),
    _asked("Legal system", "What legal system does {c} have?"),
    _asked("Suffrage", "At what age may one vote in {c}?"),
    _asked("Administrative divisions", "How is {c} divided?", "How many divisions does {c} have?"),
    _asked("Political parties and leaders", "Name a political party of {c}.", "Which party is named first for {c}?"),
    _asked(
        "Diplomatic representation in the US",
        "Who is {p} ambassador in the US?",
        "Who represents {c} in Washington?",
        part="chief of mission",
    ),
    _asked(
        "Diplomatic representation from the US",
        "Who is the US ambassador in {c}?",
        "Who represents the US in {c}?",
        part="chief of mission",
    ),
    _asked("Diplomatic representation in the US", "What is the address of {p} chancery?", part="chancery"),
    _asked("GDP (purchasing power parity)", "What is the GDP of {c}?", "How large is {p} economy?"),
    _asked("GDP - real growth rate", "How fast did {p} economy grow?", "What is the growth rate of {c}?"),
    _asked("GDP - per capita (PPP)", "What is the GDP per capita of {c}?"),
    _asked("Inflation rate (consumer prices)", "What is the inflation rate in {c}?"),
    _asked("Unemployment rate", "What is the unemployment rate in {c}?", "How many people in {c} are out of work?"),
    _asked("Industries", "What industry does {c} have?", "Which industry is named first for {c}?"),
    _asked("Agriculture - products", "What do farmers in {c} grow?", "What is the first farm product of {c}?"),
    _asked(
        "Life expectancy at birth",
        "What is the life expectancy in {c}?",
        "How long do people in {c} live?",
        part="total population",
        whole=True,
    ),
    _asked("Median age", "What is the median age in {c}?", part="total", whole=True),
    _asked("Literacy", "How many people in {c} can read and write?", "What is {p} literacy rate?", part="total population", whole=True),
    _asked("Internet country code", "What is the internet country code of {c}?", "Which domain do web sites of {c} have?"),
    _asked("Major urban areas - population", "Which city is named first for {c}?", "Name a large city in {c}."),
    _asked("Military branches", "What is the first military branch of {c}?"),
    _asked("Ports and terminals", "Name a seaport of {c}.", "Which port does {c} have?", part="major seaport(s)"),
    _asked("Airports", "How many airports does {c} have?", whole=True),
    _asked("Broadcast media", "What are the media of {c} like?"),
    _asked("Economy - overview", "What is the economy of {c} like?"),
    _asked("Background", "What is the background of {c}?"),
    _asked("Disputes - international", "Which international dispute concerns {c}?"),
    _asked("Nationality", "What are things from {c} called?", "What is the adjective for {c}?", part="adjective", whole=True),
)


def field_examples(entries: Sequence[Entry], fit: Fit, seed: int, split: Split = Split.TRAIN) -> Iterator[Example]:
    """Endless: one to three fields under one country's name, each field's value from another country."""
    rng = random.Random(f"fields/{seed}/{split}")
    countries = [entry for entry in entries if split_of(f"country/{entry.name}") is split and entry.text("Population")]
    values = _values(entries)
    told = [asked for asked in _ASKED if values[asked]]
    while countries:
        country = rng.choice(countries)
        chosen = rng.sample(told, rng.choices((1, 2, 3), weights=(3, 4, 4))[0])
        example = _document(country.name, chosen, values, fit, rng)
        if example is not None:
            yield example


def _values(entries: Sequence[Entry]) -> Mapping[_Asked, Sequence[str]]:
    """For each field the values of all countries that do not give away whose they are."""
    found: dict[_Asked, list[str]] = {asked: [] for asked in _ASKED}
    for entry in entries:
        for asked in _ASKED:
            text = entry.text(asked.name, asked.part)
            if text and entry.name not in text and not text.startswith(("none", "NA", "$NA")):
                found[asked].append(without_notes(text))
    return found


def _document(
    country: str, chosen: Sequence[_Asked], values: Mapping[_Asked, Sequence[str]], fit: Fit, rng: random.Random
) -> Example | None:
    with_source, with_date = rng.choice(_HEADERS)
    source = rng.choice(_SOURCES) if with_source else None
    date_ms = day_ms(rng.randint(2014, 2028), rng.randint(1, 12), rng.randint(1, 28)) if with_date else None
    header = header_line(country, source, date_ms)
    text, questions = "", list[Question]()
    for asked in chosen:
        value = rng.choice(values[asked])
        answer = _answer(asked, value)
        longer = add_line(text, f"{asked.label}: {value}", fit, header)
        # The answer must have survived the cut, and no value may speak of the country it is told about.
        if longer is None or answer is None or country in value or answer not in longer[len(text) + len(asked.label) :]:
            continue
        text = longer
        questions.append((_question(asked, country, rng), (answer,)))
    if not text:
        return None
    missing = [asked for asked in rng.sample(list(values), 4) if asked.name not in text]
    return Example(
        kind="fields",
        title=country,
        source=source,
        date_ms=date_ms,
        text=text,
        questions=tuple(questions),
        untold=tuple(_question(asked, country, rng) for asked in missing[:1]),
    )


def _question(asked: _Asked, country: str, rng: random.Random) -> str:
    place = spoken_place(country)
    return rng.choice(asked.questions).format(c=place, p=f"{place}'" if place.endswith("s") else f"{place}'s")


def _answer(asked: _Asked, value: str) -> str | None:
    """The part of a value that answers: without its estimate's date; a list's first item, a sentence's first clause.

    None where that is too long to be asked for, or where nobody holds the post.
    """
    bare = _ESTIMATE.sub("", value)
    if asked.whole or re.match(r"^[\d$-]", bare):
        answer = re.split(r"\s*[;(]", bare)[0]
    else:
        first = _FIRST_ITEM.match(re.sub(r"^(?:Ambassador|Charge d'Affaires)\s+", "", bare))
        answer = re.sub(r"\s+(?:less than\s+)?[\d.,]+\s*(?:%|km|million|billion)?$", "", first[0].strip() if first else bare)
    answer = answer.strip(' "')
    return answer if 0 < len(answer) <= _MAX_ANSWER_CHARACTERS and "vacant" not in value else None
