"""What a schedule publishes: documents, and all that a feed brings besides. Each record's partition is fixed, and so is what follows it.

What a record comes to may hang on records before it: a duplicate on its twin, a correction and a tombstone on their document. All of
these go to the partition of what they follow, so that the order among partitions decides nothing.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from typing import Any

WORDS = ("president", "minister", "treaty", "harbour", "railway", "election", "flood", "festival", "museum", "river", "bridge", "union")
START_S = 1_767_000_000
MIN_CHARS, MAX_BYTES = 8, 2_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """One record as it is sent."""

    kind: str
    partition: int
    key: bytes | None
    value: bytes | None


class Feed:
    """Draws records; the same draw gives the same ones."""

    def __init__(self, draw: random.Random, partitions: int) -> None:
        self._draw, self.partitions = draw, partitions
        self._number = 0
        self._named: dict[str, int] = {}
        self._told: list[tuple[dict[str, Any], int]] = []

    def take(self, count: int) -> list[Sent]:
        return [self._one() for _ in range(count)]

    def _one(self) -> Sent:
        self._number += 1
        kinds = {"plain": 5, "named": 6, "long": 1, "again": 2, "correction": 2, "deletion": 1, "stranger": 1, "short": 1, "bad": 2}
        kind = self._draw.choices(list(kinds), weights=list(kinds.values()))[0]
        if kind == "again" and self._told:
            fields, partition = self._draw.choice(self._told)
            return _sent(kind, partition, {**fields, "time": START_S + self._number})
        if kind in ("correction", "deletion") and self._named:
            name = self._draw.choice(sorted(self._named))
            partition = self._named[name]
            if kind == "deletion":
                del self._named[name]
                return Sent(kind=kind, partition=partition, key=name.encode(), value=None)
            return _sent(kind, partition, self._fields(name))
        return self._fresh(kind)

    def _fresh(self, kind: str) -> Sent:
        partition = self._draw.randrange(self.partitions)
        if kind == "stranger":
            return Sent(kind=kind, partition=partition, key=b"nobody", value=None)
        if kind == "short":
            return _sent(kind, partition, {"text": "no"})
        if kind == "bad":
            return self._bad(partition)
        name = f"item-{self._number}" if kind != "plain" else None
        fields = self._fields(name, sentences=6 if kind == "long" else 1)
        if name is None:
            self._told.append((fields, partition))
        else:
            self._named[name] = partition
        return _sent("named" if kind in ("again", "correction", "deletion") else kind, partition, fields)

    def _fields(self, name: str | None, sentences: int = 1) -> dict[str, Any]:
        said = " ".join(f"{self._number}.{each} {self._draw.choice(WORDS)}." for each in range(sentences))
        fields = {"text": said if sentences > 1 else f"{self._draw.choice(WORDS)} {said}", "time": START_S + self._number}
        return fields if name is None else {"id": name, **fields}

    def _bad(self, partition: int) -> Sent:
        broken = self._draw.choice(
            (b'{"text": "an end that is mis', b"\xff\xfe not UTF-8", b'{"title": "no text"}', b'{"text": 7}', b'{"text": "  "}', b"[" * 3)
        )
        value = b'{"text": "' + b"x" * MAX_BYTES + b'"}' if self._draw.random() < 0.2 else broken
        return Sent(kind="bad", partition=partition, key=f"bad-{self._number}".encode(), value=value)


def _sent(kind: str, partition: int, fields: dict[str, Any]) -> Sent:
    key = str(fields["id"]).encode() if "id" in fields else None
    return Sent(kind=kind, partition=partition, key=key, value=json.dumps(fields).encode())
