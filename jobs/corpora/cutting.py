"""Cutting an edition's text so that it fits one chunk, at the ends of sentences, clauses or list items; never inside one."""

from __future__ import annotations

from collections.abc import Sequence

from jobs.corpora.entries import sentences
from jobs.corpora.examples import Fit


def add_line(text: str, line: str, fit: Fit, header: str) -> str | None:
    """The text with as much of another line below it as fits, or None where nothing of it does.

    Whole sentences and clauses if the first of them fits, else whole items of its first list.
    """
    before = f"{text}\n" if text else ""
    pieces = sentences(line)
    kept = _longest(before, pieces, " ", fit, header)
    return kept if kept is not None else _longest(before, pieces[0].split(", "), ", ", fit, header)


def _longest(before: str, pieces: Sequence[str], joint: str, fit: Fit, header: str) -> str | None:
    for count in range(len(pieces), 0, -1):
        candidate = before + joint.join(pieces[:count]).rstrip(" ;,")
        if fit(candidate, header):
            return candidate
    return None
