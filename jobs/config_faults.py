"""What is wrong with a configuration, in words: the key with its place in the file, and what to do about it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

from pydantic_core import ErrorDetails

from jobs.config_keys import Path, all_keys, is_section, keys_of, purpose

_MISSING: Final = {
    "kafka.bootstrap_servers": "name your brokers, as in --set kafka.bootstrap_servers=127.0.0.1:9092; `memstream demo` brings its own",
    "kafka.topics": "name the topics of this stream, as in --set kafka.topics=[news]",
}
_MISPLACED: Final = {
    "stream": "a stream of several is named by the key under `streams` that it stands below; leave this out",
    "http": "one front answers for all streams: put it beside `streams`",
    "streams": "streams hold no streams",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where the keys of what is checked stand in the file.

    Args:
        above: sections that are not part of what is checked.
        stream: the name of one of several.
        own: what was said for this stream alone.
        shared: what was said for all.
    """

    above: Path = ()
    stream: str | None = None
    own: tuple[Mapping[str, Any], ...] = ()
    shared: tuple[Mapping[str, Any], ...] = ()

    def of(self, path: Path) -> Path:
        """A key's place: below the stream's name where it is said there, or nowhere."""
        if self.stream is None or (_said(path, self.shared) and not _said(path, self.own)):
            return ()
        return "streams", self.stream

    def fitting(self, own: Mapping[str, Any]) -> Mapping[str, Any]:
        """What is said for this stream, without what cannot be (`misplaced`)."""
        return {key: value for key, value in own.items() if key not in _MISPLACED}


def _said(path: Path, trees: Iterable[Mapping[str, Any]]) -> bool:
    return any(path and _holds(tree, path) for tree in trees)


def _holds(tree: Any, path: Path) -> bool:
    """Whether a tree says something of a key; of a list's item it does where it holds the list."""
    if not path or not isinstance(tree, Mapping):
        return True
    return path[0] in tree and _holds(tree[path[0]], path[1:])


def told(fault: ErrorDetails, place: Place) -> str:
    """One line: the key, what is wrong, and what it is for."""
    path = (*place.above, *(str(part) for part in fault["loc"]))
    above = place.of(path)
    key = ".".join((*above, *path)) or "the configuration"
    if fault["type"] == "extra_forbidden":
        meant = _meant(path)
        if meant is not None:
            return f"{key}: there is no such key; did you mean {meant if meant in _MISPLACED else '.'.join((*above, meant))}?"
        # A secret that a stray line feed has put where a key should be looks like this.
        section = ".".join((*above, *path[:-1])) or "the configuration"
        known = ", ".join(keys_of(path[:-1]))
        return f"{section}: a key of {len(path[-1])} characters, like none that there is, so it is not shown; known here: {known}"
    if fault["type"] == "missing":
        return f"{key}: missing; {_MISSING.get('.'.join(path), purpose(path))}"
    if fault["type"] == "tuple_type":
        return f"{key}: must be a list, as in [first, second]; {purpose(path)}"
    wrong = plain(fault["msg"])
    why = "" if is_section(path) else purpose(path)  # of keys that do not fit together, a section's purpose says nothing
    return f"{key}: {wrong[:1].lower()}{wrong[1:]}; {why}".removesuffix("; ")


def misplaced(place: Place) -> list[str]:
    """What cannot be said of one stream of several, or not where it is said."""
    if place.stream is None:
        return []
    faults = [f"streams.{place.stream}.{key}: {why}" for key, why in _MISPLACED.items() if any(key in tree for tree in place.own)]
    return faults + [f"stream: {_MISPLACED['stream']}" for tree in place.shared if "stream" in tree]


def plain(message: str) -> str:
    """A message of pydantic's, without what it puts in front of ours."""
    return message.removeprefix("Value error, ")


@cache
def key_names() -> frozenset[str]:
    """The last part of every key."""
    return frozenset(key.rpartition(".")[2] for key in all_keys())


def _meant(path: Path) -> str | None:
    """The nearest key of that section, or the same key in another one."""
    *above, name = path
    near = difflib.get_close_matches(name, keys_of(tuple(above)), n=1, cutoff=0.6)
    if near:
        return ".".join([*above, near[0]])
    return next((key for key in all_keys() if key.rpartition(".")[2] == name), None)
