"""Files as people have them: told apart by what is in them, or refused with what was seen and where."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
import zstandard

from jobs.feed_files import FileRefused, Format, documents, opened

ONE, TWO = {"id": "a1", "text": "The harbour opened."}, {"id": "a2", "text": "Grüße aus Łódź."}
LINES = "".join(json.dumps(each, ensure_ascii=False) + "\n" for each in (ONE, TWO)).encode()


def read(tmp_path: Path, content: bytes, name: str = "feed", **how: Any) -> list[tuple[int, Any]]:
    file = tmp_path / name
    file.write_bytes(content)
    with opened(file, how.pop("encoding", None)) as text:
        return [tuple(each) for each in documents(text, file, **how)]  # type: ignore[misc]


@pytest.mark.parametrize(
    "content",
    [
        LINES,
        b"\xef\xbb\xbf" + LINES,
        LINES.decode().encode("utf-16"),
        b"\xfe\xff" + LINES.decode().encode("utf-16-be"),
        LINES.decode().encode("utf-32"),
        LINES.replace(b"\n", b"\r\n"),
        gzip.compress(LINES, mtime=0),
        zstandard.ZstdCompressor().compress(LINES),
        zstandard.ZstdCompressor().compress(LINES[:9]) + zstandard.ZstdCompressor().compress(LINES[9:]),
        gzip.compress(LINES.decode().encode("utf-16"), mtime=0),
    ],
)
def test_json_lines_in_any_encoding_and_packing(content: bytes, tmp_path: Path) -> None:
    assert read(tmp_path, content) == [(1, ONE), (2, TWO)]


def test_blank_lines_are_passed_over_and_counted(tmp_path: Path) -> None:
    assert read(tmp_path, b"\n  \n" + LINES.replace(b"\n", b"\n\n")) == [(3, ONE), (5, TWO)]


@pytest.mark.parametrize("indent", [None, 2])
def test_an_array_of_objects_and_one_pretty_object(indent: int | None, tmp_path: Path) -> None:
    assert read(tmp_path, b"\n" + json.dumps([ONE, TWO], indent=indent).encode()) == [(2, ONE), (2, TWO)]
    assert read(tmp_path, json.dumps(TWO, indent=2).encode()) == [(1, TWO)]
    assert read(tmp_path, json.dumps(TWO).encode(), format=Format.JSON) == [(1, TWO)]


def test_plain_text_ends_a_document_at_a_blank_line_or_a_line(tmp_path: Path) -> None:
    text = b"The harbour\nopened today.\n\n\nIt rained.\n"
    assert read(tmp_path, text) == [(1, "The harbour\nopened today."), (5, "It rained.")]
    assert [line for line, _ in read(tmp_path, text, format=Format.LINES)] == [1, 2, 5]


def test_a_table_is_refused_until_it_is_named(tmp_path: Path) -> None:
    table = b'id,title,text\n1,Vote,"A long, quoted\ntext."\n2,,Short.\n'
    with pytest.raises(FileRefused, match=r"line 1 looks like the head of a table .*--format csv"):
        read(tmp_path, table)
    with pytest.raises(FileRefused, match="head of a table"):
        read(tmp_path, b"text\nA story\n", name="a.csv")
    assert read(tmp_path, table, format=Format.CSV) == [
        (3, {"id": "1", "title": "Vote", "text": "A long, quoted\ntext."}),
        (4, {"id": "2", "text": "Short."}),
    ]
    assert read(tmp_path, b"id\ttext\n1\ta, b\n", format=Format.CSV) == [(2, {"id": "1", "text": "a, b"})]
    with pytest.raises(FileRefused, match="line 2 has 1 cells, the head names 2"):
        read(tmp_path, b"a,b\n1\n", format=Format.CSV)
    with pytest.raises(FileRefused, match="no head of a table"):
        read(tmp_path, b"a,a\n1,2\n", format=Format.CSV)


def test_one_may_begin_at_a_line(tmp_path: Path) -> None:
    assert read(tmp_path, LINES, from_line=2) == [(2, TWO)]


@pytest.mark.parametrize(
    ("content", "how", "says", "line"),
    [
        (b"", {}, "nothing but blank lines", 0),
        (b"\n \n", {}, "nothing but blank lines", 0),
        (LINES + b'{"text": "a", "n": NaN}\n', {}, "line 3 is not JSON: NaN is not JSON", 3),
        (LINES + b'{"text": "a", "n": ' + b"[" * 5000 + b"]" * 5000 + b"}\n", {}, "line 3 is not JSON: nested deeper", 3),
        (b'{"text": ' + b"[" * 100 + b"]" * 100 + b"}", {}, "line 1 is not JSON: nested deeper than 64", 1),
        (LINES + b'{"text": "a"\n', {}, "line 3 is not JSON", 3),
        (LINES + b"[1]\n", {}, "line 3 is no JSON object but '\\[1\\]'", 3),
        (LINES + b'{"text": "Caf\xe9"}\n', {}, "line 3 is not utf-8: .*0xe9.*--encoding", 3),
        (LINES + b'{"text": "\\ud83d"', {}, "line 3 is not JSON", 3),
        (b'[{"text": "a"}, 3]', {}, "element 2 of the array is no JSON object", 1),
        (b'"a"', {"format": Format.JSON}, "holds a JSON str", 1),
        (b"<html><body>x</body></html>", {}, "looks like markup", 1),
        (b"PK\x03\x04zipped", {}, "is zip", 0),
        (b"BZh91AY", {}, "is bzip2", 0),
        (b"PAR1abcd", {}, "is Parquet", 0),
        (gzip.compress(LINES, mtime=0)[:-12], {}, "cannot be unpacked", 0),
        (b"\x1f\x8b\x08broken", {}, "cannot be unpacked", 0),
        (zstandard.ZstdCompressor().compress(LINES)[:-3], {}, "cannot be unpacked: it ends in the middle", 0),
        (zstandard.ZstdCompressor().compress(LINES) + b"xxxxxxxxx", {}, "cannot be unpacked", 0),
        (LINES.decode().encode("utf-16-le"), {}, "NUL bytes", 0),
        (LINES, {"encoding": "klingon"}, "no such encoding", 0),
    ],
)
def test_what_is_wrong_is_said_with_its_line(content: bytes, how: dict[str, Any], says: str, line: int, tmp_path: Path) -> None:
    with pytest.raises(FileRefused, match=says) as caught:
        read(tmp_path, content, **how)
    assert caught.value.line == line
    assert "\n" not in str(caught.value)


def test_an_encoding_may_be_named(tmp_path: Path) -> None:
    assert read(tmp_path, '{"text": "Café"}'.encode("latin-1"), encoding="latin-1") == [(1, {"text": "Café"})]


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileRefused, match="cannot be read: No such file"), opened(tmp_path / "none"):
        pass
