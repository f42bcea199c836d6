"""Who holds which office since when, as the Factbook writes it: `Prime Minister Sifi GHRIEB (since 28 August 2025)`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

from jobs.corpora.entries import Entry, without_notes

CHIEF, HEAD = "chief of state", "head of government"
BRANCH = "Executive branch"

_MONTH_NAMES = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_MONTHS = {name: number for number, name in enumerate(_MONTH_NAMES, start=1)}
_HOLDER = re.compile(r"^(?P<who>[^(;]+?)\s*\((?P<since>(?:since\s+)?[^)]*\d{4}[^)]*)\)")
_DATE = re.compile(r"^(?:since\s+)?(?:(?P<day>\d{1,2})\s+)?(?:(?P<month>[A-Za-z]{3})[a-z]*\.?\s+)?(?P<year>\d{4})\b")
_HONORIFICS = re.compile(
    r"^(?:(?:Sr\.|Lt\.|Brig\.|Maj\.|Capt\.|Col\.|Gen\.|Gen|General|Colonel|Sir|Dame|Dr\.|Ratu|Archbishop|Air Vice-Marshall?|"
    r"\(Ret\.\)|\(acting\)),?\s+)+"
)
_UNFINISHED = re.compile(r"(?:\b(?:of|and|the|to|in)|,|Presidential|Supreme|Interim Prime)$")
_TAKES_ARTICLE = re.compile(
    r"\b(?:Islands|Republic|Kingdom|States|Emirates|Netherlands|Philippines|Maldives|Bahamas|DRC|Holy See|Territory)\b"
)
_NO_NAME = re.compile(r"^or\b|\[| - |\bvacant\b|\brepresented\b")
_TITLE_WORDS = frozenset(
    re.findall(
        r"\S+",
        """President Prime Minister Premier Chancellor King Queen Prince Princess Emperor Sultan Amir Emir Pope Grand Duke Governor General
    Governor-General Lieutenant Lieutenant-Governor High Commissioner Administrator Superior Chief Executive Head Government State Council
    Ministers Chairman Chairperson Chair Chairwoman Interim Acting Caretaker Transition Transitional Vice Deputy First Second Secretary
    Supreme Leader Presidential National Assembly Regional Territorial Republic Federal Mayor Island French Spanish Co-prince Lord Mann
    Bailiff Prefect Crown Sovereign Swiss Confederation Commonwealth Foreign Presidency Presidium Co-President Co-Vice Taoiseach Affairs
    Paramount Ruler Amir-designate Commander-in-Chief Political Pontifical Commission Overseas Polynesia Curacao Aruba CNSP GNU New Taliban
    of the and in for to""",
    )
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Office:
    """One holder of one office. `name` is the string as it stands in the text, `since_text` too (`28 August 2025`)."""

    role: str
    title: str
    name: str
    since_text: str | None
    since: date | None

    @property
    def statement(self) -> str:
        held = f" (since {self.since_text})" if self.since_text else ""
        return f"{self.title} {self.name}{held}".strip()


def is_title_word(word: str) -> bool:
    """Whether a word belongs to an office and not to a name."""
    return word.strip(",") in _TITLE_WORDS


def parse_since(text: str) -> date | None:
    """A Factbook date; a missing day or month counts as the first. None where it is none.

    >>> parse_since("since 28 Sept 2025"), parse_since("2018"), parse_since("for the period")
    (datetime.date(2025, 9, 28), datetime.date(2018, 1, 1), None)
    """
    match = _DATE.match(text.strip())
    if match is None:
        return None
    month = _MONTHS.get((match["month"] or "jan").lower())
    return date(int(match["year"]), month, int(match["day"] or 1)) if month else None


def parse_office(role: str, text: str) -> Office | None:
    """The first holder in a field's text, or None where it has not the form `Title Name (since date)`."""
    match = _HOLDER.match(text)
    if match is None:
        return None
    words = match["who"].split()
    cut = next((index for index, word in enumerate(words) if not is_title_word(word)), len(words))
    title = " ".join(words[:cut])
    name = re.sub(r",\s*(?:Lt|Gen|Brig|Col)\..*$", "", _HONORIFICS.sub("", " ".join(words[cut:])))
    if not title or _UNFINISHED.search(title) or not name or _NO_NAME.search(name):
        return None
    since_text = re.sub(r"^since\s+", "", match["since"].strip())
    return Office(role=role, title=title, name=name, since_text=since_text, since=parse_since(since_text))


def offices_of(entry: Entry) -> list[Office]:
    """Chief of state and head of government, as far as the entry names them in the usual form."""
    found = ((role, entry.text(BRANCH, role)) for role in (CHIEF, HEAD))
    parsed = [parse_office(role, without_notes(text)) for role, text in found if text]
    return [office for office in parsed if office is not None]


def executive_texts(statements: Sequence[tuple[str, str]]) -> tuple[str, ...]:
    """The forms in which one country's leaders can be told, most complete first: all in one text, else one text for each role.

    `statements` are (role, text) pairs in the edition's words.
    """
    lines = [f"{role}: {text}" for role, text in statements]
    return (f"{BRANCH} - " + "\n".join(lines), *(f"{BRANCH} - {line}" for line in lines))


def spoken_place(country: str) -> str:
    """A country's name within a sentence: `Algeria`, `the Maldives`."""
    if country.startswith("The "):
        return f"the {country[4:]}"
    return f"the {country}" if _TAKES_ARTICLE.search(country) else country


def spoken_title(title: str, country: str) -> str:
    """How one asks for the office: `prime minister of Algeria`, `President of the Swiss Confederation`.

    >>> spoken_title("Prime Minister", "Algeria"), spoken_title("President of the Government", "Spain")
    ('prime minister of Algeria', 'president of the government of Spain')
    """
    if any(word in title for word in ("Confederation", "Commonwealth", country)):
        return title
    return f"{title.lower()} of {spoken_place(country)}"


def accepted_names(name: str) -> tuple[str, ...]:
    """The full name, then the part in capitals by which the leader goes, without a monarch's number.

    Under four letters (KIM, LEE, DAN) that part proves nothing by itself, and the full name alone is accepted.

    >>> accepted_names("Sifi GHRIEB"), accepted_names("MSWATI III"), accepted_names("KIM Min-seok")
    (('Sifi GHRIEB', 'GHRIEB'), ('MSWATI III', 'MSWATI'), ('KIM Min-seok',))
    """
    capitals = [word for word in name.split() if re.search(r"[^\W\d_a-z]{2}", word) and re.search(r"[A-ZÀ-Þ]['\u2019]?[A-ZÀ-Þ]", word)]
    surname = " ".join(word.strip(",") for word in capitals if not re.fullmatch(r"[IVX]+", word))
    return (name,) if len(surname) < 4 or surname == name else (name, surname)
