"""How dead letters are shown: in a table, one by one, and as JSON."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Any

from rich.markup import escape
from rich.table import Table

from jobs.shown import as_json_value, hex_lines, printable, text_of
from pipeline.letters import Letter, LetterState


def letter_json(letter: Letter, state: LetterState) -> dict[str, Any]:
    return {
        "place": letter.name,
        "written_at_ms": letter.timestamp_ms,
        "reason": letter.reason,
        "disposition": letter.disposition,
        "detail": letter.detail,
        "state": state.value,
        "replays": letter.replays,
        "topic": letter.origin.topic,
        "partition": letter.origin.number,
        "offset": letter.origin_offset,
        "timestamp_ms": letter.origin_timestamp_ms,
        "size_bytes": letter.size_bytes,
        "omitted": list(letter.omitted),
    }


def content_json(letter: Letter) -> dict[str, Any]:
    return {
        "key": as_json_value(letter.key),
        "headers": [[name, as_json_value(value)] for name, value in letter.headers],
        "value": as_json_value(letter.value),
    }


def letter_table(rows: Iterable[tuple[Letter, LetterState]]) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in ("place", "written", "reason", "from", "state", "bytes"):
        table.add_column(name, justify="right" if name == "bytes" else "left", no_wrap=name not in ("written", "from"), overflow="fold")
    table.add_column("detail", min_width=24, overflow="fold")
    for letter, state in rows:
        again = f", {letter.replays} replays" if letter.replays else ""
        cells = (
            letter.name,
            _time(letter.timestamp_ms),
            letter.reason,
            letter.origin_name,
            state.value + again,
            f"{letter.size_bytes:,}",
            letter.detail,
        )
        table.add_row(*(escape(printable(cell)) for cell in cells))
    return table


def described(letter: Letter, state: LetterState, most_bytes: int) -> Iterator[str]:
    facts = {
        "place": f"{letter.place}/{letter.offset}",
        "written": _time(letter.timestamp_ms),
        "reason": f"{letter.reason} ({letter.disposition})",
        "detail": letter.detail,
        "origin": letter.origin_name,
        "timestamp": _time(letter.origin_timestamp_ms),
        "state": state.value,
        "replays": str(letter.replays),
        **({"left out": ", ".join(letter.omitted)} if letter.omitted else {}),
    }
    yield from (f"{name + ':':<11}{printable(text)}" for name, text in facts.items())
    yield f"{'key:':<11}{_short(letter.key)}"
    yield from (f"{'header:':<11}{printable(name)} = {_short(value)}" for name, value in letter.headers)
    value = letter.value
    if value is None:
        yield f"{'value:':<11}none"
        return
    yield f"value ({len(value):,} bytes{', the first ' + format(most_bytes, ',') + ' below' if len(value) > most_bytes else ''}):"
    text = text_of(value, most_bytes)
    yield from [printable(text, lines=True)] if text is not None else hex_lines(value[:most_bytes])


def _short(value: bytes | None) -> str:
    if value is None:
        return "none"
    text = text_of(value, 512)
    return printable(text) if text is not None else f"0x{value[:256].hex()}"


def _time(time_ms: int) -> str:
    return (
        "none" if time_ms < 0 else datetime.fromtimestamp(time_ms / 1000, UTC).isoformat(sep=" ", timespec="seconds").removesuffix("+00:00")
    )
