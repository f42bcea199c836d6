"""What is fuzzed: functions that must take whatever comes from outside, each with what makes it up."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

QUICK = settings(max_examples=150, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
LONG = settings(max_examples=200, deadline=None, database=None, suppress_health_check=list(HealthCheck))

TARGETS: dict[str, tuple[Callable[..., None], tuple[Any, ...]]] = {}
"""What is fuzzed, and with what."""


def outside(*made_up: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Marks a function that must take whatever comes."""

    def mark(target: Callable[..., None]) -> Callable[..., None]:
        TARGETS[target.__name__] = target, made_up
        return target

    return mark


def fuzzed(name: str, how: settings) -> None:
    """Once through."""
    target, made_up = TARGETS[name]

    def anew(made: tuple[Any, ...]) -> None:  # hypothesis takes a function once
        target(*made)

    run: Callable[[], None] = how(given(st.tuples(*made_up))(anew))
    run()


texts = st.text(st.characters(), max_size=80)
scalars = st.none() | st.booleans() | st.integers() | st.floats() | texts
trees = st.recursive(scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4), max_leaves=12)
json_bytes = trees.map(lambda tree: json.dumps(tree).encode("utf-8", "surrogatepass"))
flips = st.lists(st.tuples(st.integers(0, 1 << 16), st.integers(0, 255)), max_size=20)


def flipped(data: bytes, at: list[tuple[int, int]]) -> bytes:
    """The bytes, some of them changed."""
    changed = bytearray(data)
    for place, byte in at:
        changed[place % len(changed)] = byte
    return bytes(changed)
