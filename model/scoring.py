"""Whether a generated text holds an accepted answer. Pure functions of strings, shared by evaluation and demo."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_PERCENT = re.compile(r"%|\bper cent\b")
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}\b)")
# Letters that stand for themselves under NFKD, though readers type them without the stroke.
_STROKES = str.maketrans(
    {"ø": "o", "ł": "l", "đ": "d", "ð": "d", "ħ": "h", "\u0131": "i", "ß": "ss", "æ": "ae", "œ": "oe", "þ": "th", "ə": "e"}
)


def normalise(text: str) -> str:
    """Lower case without accents, punctuation or English articles; numbers and percent written in one way; words apart by one blank.

    >>> normalise("The Côte-d'Ivoire,  JERÍ!"), normalise("2,300 or 8%")
    ('cote d ivoire jeri', '2300 or 8 percent')
    """
    unaccented = "".join(letter for letter in unicodedata.normalize("NFKD", text) if not unicodedata.combining(letter))
    written = _PERCENT.sub(" percent ", _THOUSANDS.sub("", unaccented.lower().translate(_STROKES)))
    words = re.sub(r"[\W_]+", " ", written)
    return " ".join(_ARTICLES.sub(" ", words).split())


def contains_answer(generated: str, answers: Iterable[str]) -> bool:
    """Whether one of the answers stands in the text, word for word, after both are normalised. An empty answer never does.

    >>> contains_answer("It is Sifi Ghrieb.", ["GHRIEB"]), contains_answer("Oranges", ["Oran"])
    (True, False)
    """
    padded = f" {normalise(generated)} "
    return any(f" {wanted} " in padded for wanted in map(normalise, answers) if wanted)
