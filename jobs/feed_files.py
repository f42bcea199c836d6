"""Documents from files of the kinds that people have: JSON lines, a JSON array or object, CSV, plain text; compressed, in any encoding.

What kind a file is, is told by what is in it and never guessed past that: what is not recognised is refused with what was seen. Each
document comes with the line that it begins at, and every error names its line.
"""

from __future__ import annotations

import csv
import gzip
import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from itertools import chain
from pathlib import Path
from typing import IO, Any, BinaryIO, NamedTuple

import zstandard

from pipeline.errors import MemstreamError
from pipeline.strict_json import strict_json

SNIFFED_BYTES = 4096
MAX_WHOLE_BYTES = 256 << 20
"""A JSON array or object is read whole; a larger one should be JSON lines (BOUNDED)."""

_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
_OTHER_PACKING = {
    b"PK\x03\x04": "zip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
    b"PAR1": "Parquet",
    b"%PDF": "PDF",
    b"ARROW1": "Arrow",
    b"Obj\x01": "Avro",
}
_MARKS = {
    b"\xff\xfe\x00\x00": "utf-32",
    b"\x00\x00\xfe\xff": "utf-32",
    b"\xef\xbb\xbf": "utf-8-sig",
    b"\xff\xfe": "utf-16",
    b"\xfe\xff": "utf-16",
}


class Format(StrEnum):
    """How a file holds its documents."""

    JSONL = "jsonl"
    JSON = "json"
    CSV = "csv"
    TEXT = "text"
    LINES = "lines"


class FileRefused(MemstreamError):
    """A file cannot be read as documents. The message says at which line, what was seen, and what to do."""

    def __init__(self, message: str, line: int = 0) -> None:
        super().__init__(message)
        self.line = line


class Found(NamedTuple):
    """A document, or the text of one, and the line that it begins at (from 1)."""

    line: int
    content: dict[str, Any] | str


@contextmanager
def opened(file: Path, encoding: str | None = None) -> Iterator[IO[str]]:
    """The text of a file, or of standard input for `-`: unpacked, decoded strictly."""
    if str(file) == "-":
        yield _decoded(_unpacked(_peekable(sys.stdin.buffer), file), file, encoding)
        return
    try:
        raw = file.open("rb")
    except OSError as error:
        raise FileRefused(f"{file} cannot be read: {error.strerror}") from error
    with raw:
        yield _decoded(_unpacked(_peekable(raw), file), file, encoding)


def documents(text: IO[str], file: Path, format: Format | None = None, from_line: int = 1) -> Iterator[Found]:
    """The documents of a file from a line on."""
    try:
        found = _found(text, file, format)
        yield from (each for each in found if each.line >= from_line)
    except UnicodeDecodeError as error:
        raise FileRefused(f"{file} is not {error.encoding}: {error.reason} (byte {error.object[error.start]:#04x}); {_CONVERT}") from error
    except (OSError, EOFError, zstandard.ZstdError) as error:
        raise FileRefused(f"{file} cannot be unpacked: {error}") from error


_CONVERT = "say what it is with --encoding (latin-1, cp1252 ...), or convert it: iconv -f latin1 -t utf-8"


def _found(text: IO[str], file: Path, format: Format | None) -> Iterator[Found]:
    lines = enumerate(_lines(text, file), 1)
    first = next(((number, line) for number, line in lines if line.strip()), None)
    if first is None:
        raise FileRefused(f"{file} holds nothing but blank lines")
    format = format or _told(first[1], file)
    rest = chain([first], lines)
    if format is Format.JSON or (format is Format.JSONL and not _is_json(first[1]) and first[1].lstrip().startswith("{")):
        return _whole(rest, file)
    if format is Format.JSONL:
        return (_object(line, number) for number, line in rest if line.strip())
    if format is Format.CSV:
        return _rows(rest, file)
    if format is Format.LINES:
        return (Found(number, line.strip()) for number, line in rest if line.strip())
    return _paragraphs(rest)


def _told(line: str, file: Path) -> Format:
    """The format that a first line tells."""
    beginning = line.lstrip()[:1]
    if beginning == "{":
        return Format.JSONL
    if beginning == "[":
        return Format.JSON
    suffixes = {suffix.lower() for suffix in file.suffixes}
    if suffixes & {".csv", ".tsv"} or (line.count(",") >= 2 and " " not in line.strip()) or line.count("\t") >= 2:
        raise FileRefused(
            f"line 1 looks like the head of a table ({line.strip()[:80]!r}): --format csv reads its columns as fields,"
            " --format lines each line as a text",
            1,
        )
    if beginning == "<":
        raise FileRefused(f"line 1 looks like markup ({line.strip()[:60]!r}): documents are JSON, CSV or plain text", 1)
    return Format.TEXT


def _lines(text: IO[str], file: Path) -> Iterator[str]:
    """Lines of text; one that cannot be decoded is named by its number."""
    number = 0
    while True:
        try:
            line = text.readline()
        except UnicodeDecodeError as error:
            near = _undecodable_line(error, number)
            what = f"{error.encoding}: {error.reason}, byte {error.object[error.start]:#04x}"
            raise FileRefused(f"{file}, line {near} is not {what}; {_CONVERT}", near) from error
        if not line:
            return
        number += 1
        yield line


def _undecodable_line(error: UnicodeDecodeError, read: int) -> int:
    """A decoder reads ahead: the fault lies so many line feeds behind the last line that was handed out, or less."""
    return read + 1 + error.object[: error.start].count(b"\n")


def _whole(rest: Iterator[tuple[int, str]], file: Path) -> Iterator[Found]:
    first, text, size = 0, [], 0
    for number, line in rest:
        first = first or number
        text.append(line)
        size += len(line)
        if size > MAX_WHOLE_BYTES:
            raise FileRefused(f"{file} is one JSON value of more than {MAX_WHOLE_BYTES >> 20} MB: write it as JSON lines", first)
    value = _json("".join(text), first)
    if isinstance(value, dict):
        return iter([Found(first, value)])
    if not isinstance(value, list):
        raise FileRefused(f"{file} holds a JSON {type(value).__name__}, neither objects nor an array of them", first)
    return (_element(each, place, first) for place, each in enumerate(value, 1))


def _element(value: Any, place: int, line: int) -> Found:
    if not isinstance(value, dict):
        raise FileRefused(f"element {place} of the array is no JSON object but {str(value)[:40]!r}", line)
    return Found(line, value)


def _object(line: str, number: int) -> Found:
    value = _json(line, number)
    if not isinstance(value, dict):
        raise FileRefused(f"line {number} is no JSON object but {str(value)[:40]!r}; for a text a line use --format lines", number)
    return Found(number, value)


def _json(text: str, line: int) -> Any:
    try:
        return strict_json(text)
    except ValueError as error:
        raise FileRefused(f"line {line} is not JSON: {error}", line) from error


def _is_json(line: str) -> bool:
    try:
        strict_json(line)
    except ValueError:
        # A line that ends in the middle of its object goes on in the next one; one that does not is a fault of its own.
        return line.rstrip().endswith("}")
    return True


def _rows(rest: Iterator[tuple[int, str]], file: Path) -> Iterator[Found]:
    number, head = next(rest)
    dialect = "excel-tab" if head.count("\t") > head.count(",") else "excel"
    names = next(csv.reader([head], dialect))
    if len(set(names)) != len(names) or not all(name.strip() for name in names):
        raise FileRefused(f"line {number} is no head of a table: columns {names}", number)
    counted = _Counted(rest, number)
    for row in csv.reader(counted, dialect, strict=True):
        if not row:
            continue
        if len(row) != len(names):
            raise FileRefused(f"line {counted.number} has {len(row)} cells, the head names {len(names)} columns", counted.number)
        yield Found(counted.number, {name: cell for name, cell in zip(names, row, strict=True) if cell})


class _Counted:
    """Lines for the csv reader, which remembers how far it has read."""

    def __init__(self, rest: Iterator[tuple[int, str]], number: int) -> None:
        self._rest, self.number = rest, number

    def __iter__(self) -> Iterator[str]:
        for number, line in self._rest:
            self.number = number
            yield line


def _paragraphs(rest: Iterator[tuple[int, str]]) -> Iterator[Found]:
    """Plain text: a document ends at a blank line."""
    first, lines = 0, []
    for number, line in rest:
        if line.strip():
            first = first or number
            lines.append(line.strip())
        elif lines:
            yield Found(first, "\n".join(lines))
            first, lines = 0, []
    if lines:
        yield Found(first, "\n".join(lines))


def _peekable(raw: BinaryIO) -> io.BufferedReader:
    return raw if isinstance(raw, io.BufferedReader) else io.BufferedReader(raw)  # type: ignore[arg-type]


def _unpacked(raw: io.BufferedReader, file: Path) -> io.BufferedReader:
    head = raw.peek(8)[:8]
    for magic, name in _OTHER_PACKING.items():
        if head.startswith(magic):
            raise FileRefused(f"{file} is {name}, which is not read here: unpack or convert it to JSON lines")
    if head.startswith(_GZIP):
        return io.BufferedReader(gzip.GzipFile(fileobj=raw))
    if head.startswith(_ZSTD):
        return io.BufferedReader(_Zstd(raw))
    return raw


class _Zstd(io.RawIOBase):
    """A zstd file unpacked as it is read; one that ends in the middle of a frame is an error, as for gzip."""

    def __init__(self, raw: io.BufferedReader) -> None:
        self._raw, self._rest = raw, b""
        self._frame: Any = zstandard.ZstdDecompressor().decompressobj()
        self._begun = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._rest:
            packed = self._raw.read(1 << 16)
            if not packed:
                if self._begun and not self._frame.eof:
                    raise EOFError("it ends in the middle")
                return 0
            self._rest = self._unpack(packed)
        count = min(len(buffer), len(self._rest))
        buffer[:count], self._rest = self._rest[:count], self._rest[count:]
        return count

    def _unpack(self, packed: bytes) -> bytes:
        found = b""
        while packed:
            if self._frame.eof:
                self._frame = zstandard.ZstdDecompressor().decompressobj()
            self._begun = True
            found += self._frame.decompress(packed)
            packed = self._frame.unused_data if self._frame.eof else b""
        return found


def _decoded(raw: io.BufferedReader, file: Path, encoding: str | None) -> IO[str]:
    try:
        head = raw.peek(SNIFFED_BYTES)[:SNIFFED_BYTES]
    except (OSError, EOFError, zstandard.ZstdError) as error:
        raise FileRefused(f"{file} cannot be unpacked: {error}") from error
    marked = next((name for mark, name in _MARKS.items() if head.startswith(mark)), None)
    if encoding is None and marked is None and b"\x00" in head:
        raise FileRefused(
            f"{file} has NUL bytes: text without a byte-order mark is read as UTF-8; say what it is with --encoding (utf-16-le ...)"
        )
    try:
        return io.TextIOWrapper(raw, encoding=encoding or marked or "utf-8", errors="strict", newline=None)
    except LookupError as error:
        raise FileRefused(f"--encoding {encoding}: no such encoding") from error
