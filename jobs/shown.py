"""Bytes from outside as a terminal may be shown them: nothing in them can move the cursor, colour what follows or hide what is there."""

from __future__ import annotations

from collections.abc import Iterator

_ROW = 16


def text_of(value: bytes, most_bytes: int) -> str | None:
    """The first `most_bytes` as text; None where they are none. A character that is cut in two at the end is left out.

    >>> text_of("caf\u00e9".encode(), 4), text_of(b"caf\\xe9 au lait", 100)
    ('caf', None)
    """
    head = value[:most_bytes]
    try:
        return head.decode()
    except UnicodeDecodeError as error:
        cut = len(value) > most_bytes and error.start > len(head) - 4 and error.reason == "unexpected end of data"
        return head[: error.start].decode() if cut else None


def printable(text: str, lines: bool = False) -> str:
    """With everything escaped that is no visible character or blank; `lines`: line feeds and tabs stay.

    >>> print(printable("red \x1b[31m, next\\nline \u202e"))
    red \\x1b[31m, next\\nline \\u202e
    """
    kept = " \n\t" if lines else " "
    return "".join(each if each.isprintable() or each in kept else ascii(each)[1:-1] for each in text)


def hex_lines(value: bytes) -> Iterator[str]:
    """Sixteen bytes a line: place, hexadecimal, ASCII.

    >>> list(hex_lines(b"caf\\xe9"))
    ['00000000  63 61 66 e9                                      caf.']
    """
    for place in range(0, len(value), _ROW):
        row = value[place : place + _ROW]
        seen = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in row)
        yield f"{place:08x}  {row.hex(' '):<47}  {seen}"


def as_json_value(value: bytes | None) -> str | dict[str, str] | None:
    """Text as a string, other bytes as {"hex": ...}."""
    if value is None:
        return None
    text = text_of(value, len(value))
    return {"hex": value.hex()} if text is None else text
