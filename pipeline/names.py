"""When two names or texts are the same: what a reader cannot tell apart, a filter shall not either."""

from __future__ import annotations

import re
import unicodedata
from typing import Final

_INVISIBLE: Final = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\U000e0000-\U000e0fff]"
)
"""Unicode's default ignorable characters: joiners, marks of direction, variation selectors, tags."""


def seen_alike(text: str) -> str:
    """A text as it is compared: compatibility forms resolved (NFKC), invisible characters gone, white space as single blanks.

    >>> seen_alike("\uff21F\u200bP  wire"), seen_alike("caf\u0065\u0301") == seen_alike("caf\u00e9")
    ('AFP wire', True)
    """
    if not text.isascii():  # ASCII has one form, and none of it is invisible
        text = _INVISIBLE.sub("", unicodedata.normalize("NFKC", text))
    return " ".join(text.split())


def same_name(name: str | None) -> str:
    """A name as it is compared: also without regard to case.

    >>> same_name("Af\u00adp") == same_name("AFP"), same_name(None)
    (True, '')
    """
    if not name:
        return ""
    return unicodedata.normalize("NFKC", seen_alike(name).casefold())
