"""Pins: snapshots that retention leaves alone. `pins/<epoch>.json`, created by whoever wants one kept, removed by whoever does not.

A pin and a retention that runs just now must not pass each other unseen. So each first writes down what it means to do and then looks at
what the other one wrote: retention announces what it is about to remove before it reads the pins for the last time, a pin is there
before the announcement is read.
"""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from typing import Self
from uuid import uuid4

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from pipeline.errors import NoSuchSnapshot, SnapshotCorrupt, SnapshotError
from pipeline.snapshots.objects import ObjectStore
from pipeline.strict_json import strict_json

_NUMBERED = re.compile(r"(\d{8,18})\.json")
MOST_LISTS = 64
"""Of garbage: there are one or two, unless somebody makes them up."""


class Pin(BaseModel):
    """A snapshot that is kept, and what for."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    epoch: int = Field(gt=0)
    pinned_at: AwareDatetime
    note: str = Field(default="", max_length=1000)
    token: str = Field(default="", description="makes it unlike any other, see ObjectStore.create")


class GarbageList(BaseModel):
    """What retention wrote down when it last ran.

    `marked` says when an object was first seen that no manifest names, by the store's clock; null: when this list was made.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    made_at: AwareDatetime
    by: str
    token: str
    expired: tuple[int, ...] = Field(description="snapshots that are removed right after")
    marked: dict[str, float | None]

    @classmethod
    def read(cls, objects: ObjectStore, name: str) -> Self | None:
        """A list that cannot be read is as if it had never been."""
        try:
            return cls.model_validate(strict_json(objects.read(name).decode()))
        except (FileNotFoundError, SnapshotCorrupt, ValidationError, ValueError):
            return None


class Pins:
    """The pins of one stream. Every method may raise StoreUnavailable."""

    def __init__(self, objects: ObjectStore) -> None:
        self._objects = objects

    def epochs(self) -> set[int]:
        return {_number(name) for name in self._objects.names("pins") if _NUMBERED.fullmatch(name)}

    def all(self) -> dict[int, Pin]:
        """Each pin with its note; what somebody else left under such a name counts, too."""
        found = {}
        for epoch in sorted(self.epochs()):
            try:
                found[epoch] = Pin.model_validate(strict_json(self._objects.read(_pin(epoch)).decode()))
            except FileNotFoundError:
                continue
            except (SnapshotCorrupt, ValidationError, ValueError):
                found[epoch] = Pin(epoch=epoch, pinned_at=datetime.fromtimestamp(0, UTC), note="(cannot be read)")
        return found

    def pin(self, epoch: int, note: str = "") -> bool:
        """Keep a snapshot; False if it is pinned already. Raises NoSuchSnapshot, also where retention was quicker."""
        self._require(epoch)
        pin = Pin(epoch=epoch, pinned_at=datetime.now(UTC), note=note, token=uuid4().hex)
        try:
            self._objects.create(_pin(epoch), json.dumps(pin.model_dump(mode="json"), indent=2).encode() + b"\n")
        except FileExistsError:
            return False
        try:
            if epoch in self._announced():
                raise SnapshotError(f"retention is just removing snapshot {epoch}: pin another one, or run `memstream snapshots gc` first")
            self._require(epoch)
        except SnapshotError:
            self._objects.remove(_pin(epoch))
            raise
        return True

    def unpin(self, epoch: int) -> bool:
        """False if it was not pinned."""
        pinned = epoch in self.epochs()
        self._objects.remove(_pin(epoch))
        return pinned

    def _announced(self) -> set[int]:
        """What retention is about to remove, or has removed."""
        lists = [GarbageList.read(self._objects, f"garbage/{name}") for name in self._objects.names("garbage")[:MOST_LISTS]]
        return {epoch for each in lists if each is not None for epoch in each.expired}

    def _require(self, epoch: int) -> None:
        there = [_number(name) for name in self._objects.names("epochs") if _NUMBERED.fullmatch(name)]
        if epoch not in there:
            raise NoSuchSnapshot(f"no snapshot {epoch} in {self._objects.root}; there are: {sorted(there) or 'none'}")


def _pin(epoch: int) -> str:
    return f"pins/{epoch:08d}.json"


def _number(name: str) -> int:
    return int(name.removesuffix(".json"))
