"""Signed manifests: who wrote a snapshot, for buckets that others can write to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from pipeline.errors import ConfigurationError, SnapshotCorrupt, SnapshotUntrusted
from pipeline.snapshots.collector import Collector
from pipeline.snapshots.config import RetentionConfig, SnapshotConfig
from pipeline.snapshots.writer import SnapshotStore
from tests.doubles.snapshots import Stream, verified

OLD, NEW = "${OLD_KEY}", "${NEW_KEY}"


@pytest.fixture(autouse=True)
def _keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLD_KEY", "an old secret of some length")
    monkeypatch.setenv("NEW_KEY", "a new secret of some length")


def config(root: Path, *keys: str) -> SnapshotConfig:
    return SnapshotConfig(root=str(root), signing_keys=keys)


def saved(root: Path, *keys: str) -> Stream:
    stream = Stream(config(root, *keys))
    stream.learn()
    stream.save()
    return stream


def manifest_file(root: Path, epoch: int = 1) -> Path:
    return root / "news" / "epochs" / f"{epoch:08d}.json"


def test_a_signed_snapshot_is_read_with_its_key_and_without_any(tmp_path: Path) -> None:
    saved(tmp_path, NEW)
    stored = json.loads(manifest_file(tmp_path).read_text())
    assert set(stored["signature"]) == {"key", "hmac_sha256"} and "some length" not in manifest_file(tmp_path).read_text()
    for keys in ((NEW,), ()):
        store = SnapshotStore(config(tmp_path, *keys), "news")
        assert verified(store, store.load(1))[0] == [0]


def test_what_is_not_signed_is_refused_where_keys_are_configured(tmp_path: Path) -> None:
    saved(tmp_path)
    with pytest.raises(SnapshotUntrusted, match=r"is not signed, and snapshots\.signing_keys asks for it"):
        SnapshotStore(config(tmp_path, NEW), "news").load(1)
    with pytest.raises(SnapshotCorrupt, match=r"no snapshot in .* is whole"):
        Stream(config(tmp_path, NEW))


def test_keys_take_turns(tmp_path: Path) -> None:
    """Both are accepted for a while, the first one signs; then the old one goes."""
    saved(tmp_path, OLD)
    saved(tmp_path, NEW, OLD)
    names = [json.loads(manifest_file(tmp_path, epoch).read_text())["signature"]["key"] for epoch in (1, 2)]
    assert names[0] != names[1]
    only = SnapshotStore(config(tmp_path, NEW), "news")
    only.load(2)
    with pytest.raises(SnapshotUntrusted, match=f"signed by key '{names[0]}'"):
        only.load(1)


FORGERIES: dict[str, Any] = {
    "none": None,
    "a list": [],
    "empty": {},
    "a number": {"key": "x", "hmac_sha256": 7},
    "surrogates": {"key": "\ud800", "hmac_sha256": "\ud800"},
    "another's": {"key": "0" * 8, "hmac_sha256": "0" * 64},
}


@pytest.mark.parametrize("forgery", FORGERIES)
def test_forged_signatures_are_refused_and_the_snapshot_before_is_used(tmp_path: Path, forgery: str) -> None:
    saved(tmp_path, NEW)
    saved(tmp_path, NEW)
    file = manifest_file(tmp_path, 2)
    file.write_text(json.dumps({**json.loads(file.read_text()), "signature": FORGERIES[forgery]}))
    back = Stream(config(tmp_path, NEW))
    assert back.updates == [0]


def test_a_changed_manifest_with_a_right_digest_is_refused(tmp_path: Path) -> None:
    """Whoever can write there can compute digests, and has seen signatures; not this one."""
    saved(tmp_path, NEW)
    theirs = SnapshotStore(config(tmp_path), "news")
    forged = theirs.load(1).model_copy(update={"epoch": 2, "update_number": 99})
    signature = json.loads(manifest_file(tmp_path).read_text())["signature"]
    manifest_file(tmp_path, 2).write_text(json.dumps({**json.loads(forged.to_json()), "signature": signature}))
    ours = SnapshotStore(config(tmp_path, NEW), "news")
    with pytest.raises(SnapshotUntrusted):
        ours.load(2)
    found = ours.latest()
    assert found is not None and found.manifest.epoch == 1 and len(found.problems) == 1


def test_a_signed_manifest_of_another_stream_or_number_is_refused(tmp_path: Path) -> None:
    saved(tmp_path, NEW)
    manifest_file(tmp_path, 7).write_bytes(manifest_file(tmp_path).read_bytes())
    with pytest.raises(SnapshotCorrupt, match="the manifest of news@1"):
        SnapshotStore(config(tmp_path, NEW), "news").load(7)


def test_forged_manifests_push_out_no_snapshot_of_ours(tmp_path: Path) -> None:
    stream = saved(tmp_path, NEW)
    theirs = SnapshotStore(config(tmp_path), "news")
    for epoch in range(2, 30):
        manifest_file(tmp_path, epoch).write_bytes(theirs.load(1).model_copy(update={"epoch": epoch}).to_json())
    found = Collector(stream.store, RetentionConfig(last=2, hourly=0, daily=0, garbage_after_s=0)).collect()
    assert found.kept.why == {1: "last"} and found.expired == () and len(found.kept.broken) == 28


def test_secrets_are_named_and_found_when_they_are_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValidationError, match="a secret is not written into a configuration"):
        config(tmp_path, "a secret of some length")
    (tmp_path / "key").write_text("kept in a file, and long enough\n")
    saved(tmp_path, f"${{file:{tmp_path}/key}}")
    assert "kept in a file" not in config(tmp_path, f"${{file:{tmp_path}/key}}").model_dump_json()
    monkeypatch.delenv("NEW_KEY")
    with pytest.raises(ConfigurationError, match="NEW_KEY is not set"):
        SnapshotStore(config(tmp_path, NEW), "news").load(1)
    monkeypatch.setenv("NEW_KEY", "short")
    with pytest.raises(ConfigurationError, match="holds 5 bytes, want 16 at least"):
        SnapshotStore(config(tmp_path, NEW), "news").load(1)
