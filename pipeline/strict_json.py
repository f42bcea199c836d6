"""JSON as its standard has it, of a bounded depth."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final, NoReturn

MAX_DEPTH: Final = 64
"""Levels of a value. Python's own limit depends on how deep the caller's stack happens to be, which a replay would not repeat."""

TOO_DEEP: Final = f"nested deeper than {MAX_DEPTH} levels"


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


_JSON: Final = json.JSONDecoder(parse_constant=_refuse_constant)


def strict_json(text: str) -> Any:
    """The value of a JSON text; raises ValueError for what is none, NaN and infinities included, and for more than `MAX_DEPTH` levels.

    >>> strict_json('{"a": [1]}')
    {'a': [1]}
    """
    try:
        item = _JSON.decode(text)
    except RecursionError as error:
        raise ValueError(TOO_DEEP) from error
    if text.count("[") + text.count("{") > MAX_DEPTH and depth(item) > MAX_DEPTH:
        raise ValueError(TOO_DEEP)
    return item


def depth(item: object) -> int:
    """Levels of objects and arrays.

    >>> depth({"a": [1]}), depth("a")
    (2, 0)
    """
    found, level = 0, [item]
    while level := [each for each in level if isinstance(each, (dict, list))]:
        found += 1
        level = [inner for outer in level for inner in _inside(outer)]
    return found


def _inside(outer: object) -> Iterator[object]:
    return iter(outer.values() if isinstance(outer, dict) else outer if isinstance(outer, list) else ())
