"""What a person does with snapshots at the command line, beside a stream that goes on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from jobs.command import start
from jobs.snapshots import app
from pipeline.errors import StaleWriter
from pipeline.snapshots.config import SnapshotConfig
from tests.doubles.snapshots import NEWS, Stream, verified


@pytest.fixture
def stream(tmp_path: Path) -> Stream:
    """Four snapshots of one more document each; the third holds a correction."""
    made = Stream(SnapshotConfig(root=str(tmp_path)))
    for number in range(4):
        made.learn()
        if number == 2:
            made.correct(0)
        made.save()
    return made


def run(stream: Stream, *args: str, fails: int = 0) -> None:
    where = ["--root", str(Path(stream.store.url.removeprefix("file://")).parent), "--stream", "news"]
    with pytest.raises(SystemExit) as caught:
        start(app, [*args, *where])
    assert int(caught.value.code or 0) == fails, args


def as_json(capsys: pytest.CaptureFixture[str], stream: Stream, *args: str) -> Any:
    capsys.readouterr()
    run(stream, *args, "--json")
    return json.loads(capsys.readouterr().out)


def test_show_tells_all_facts(stream: Stream, capsys: pytest.CaptureFixture[str]) -> None:
    found = as_json(capsys, stream, "show", "3")
    assert (found["epoch"], found["documents"], found["kept"], found["problems"]) == (3, 3, "last", [])
    assert sum(found["alive"]) == found["memory"]["blocks"] == 3
    run(stream, "show", "3")
    assert "news@3, by generation 1" in (out := capsys.readouterr().out) and "blocks alive" in out
    run(stream, "show", "9", fails=1)
    assert "no snapshot 9" in capsys.readouterr().err


def test_show_of_a_broken_one_says_so(stream: Stream, capsys: pytest.CaptureFixture[str]) -> None:
    stream.store.objects.remove(stream.store.load(2).object("index.arrow").path)
    run(stream, "show", "2", fails=1)
    assert "index.arrow: missing" in capsys.readouterr().err


def test_diff_names_what_came_went_and_was_replaced(stream: Stream, capsys: pytest.CaptureFixture[str]) -> None:
    found = as_json(capsys, stream, "diff", "2", "3")
    assert found["moved"] == {"news/0": [2, 4]} and found["counted"] == {"applied": [2, 4]} and found["updates"] == [2, 4]
    assert [row["document_id"] for row in found["came"]["documents"]] == ["d2"]
    assert [row["document_id"] for row in found["replaced"]["documents"]] == ["d0"]
    assert found["went"] == {"count": 0, "documents": []}
    back = as_json(capsys, stream, "diff", "3", "2", "--limit", "0")
    assert back["went"] == {"count": 1, "documents": []}
    run(stream, "diff", "2", "3")
    assert "1 documents replaced:\n  d0 (news/0@3)" in capsys.readouterr().out


def test_pins_are_shown_and_outlive_gc(stream: Stream, capsys: pytest.CaptureFixture[str]) -> None:
    assert as_json(capsys, stream, "pin", "1", "--note", "as it was")["changed"]
    assert not as_json(capsys, stream, "pin", "1")["changed"]
    assert {each["epoch"]: each["kept"] for each in as_json(capsys, stream, "list")} == {1: "pinned", 2: "last", 3: "last", 4: "last"}
    found = as_json(capsys, stream, "unpin", "1")
    assert (found["changed"], found["kept"]) == (True, "last")
    run(stream, "pin", "7", fails=1)
    assert "no snapshot 7" in capsys.readouterr().err


def configured(stream: Stream, tmp_path: Path, snapshots: dict[str, Any]) -> list[str]:
    root = str(Path(stream.store.url.removeprefix("file://")).parent)
    tree = {"stream": "news", "kafka": {"bootstrap_servers": "a:1", "topics": ["news"]}, "snapshots": {"root": root, **snapshots}}
    file = tmp_path / "feed.yaml"
    file.write_text(json.dumps(tree))
    return ["--config", str(file)]


def test_gc_asks_before_snapshots_go_and_says_what_it_did(stream: Stream, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few = configured(stream, tmp_path, {"retention": {"last": 2, "hourly": 0, "daily": 0}})
    planned = as_json(capsys, stream, "gc", "--dry-run", *few)
    assert (planned["expired"], planned["dry_run"], stream.store.epochs()) == ([1, 2], True, [1, 2, 3, 4])
    run(stream, "gc", *few, fails=1)
    assert "remove 2 snapshots (1, 2)" in (said := capsys.readouterr().err) and "--yes" in said
    done = as_json(capsys, stream, "gc", "--yes", *few)
    assert (done["expired"], done["removed"], stream.store.epochs()) == ([1, 2], [], [3, 4]) and done["waiting"] > 3
    swept = as_json(capsys, stream, "gc", "--min-age", "0", *few)
    assert len(swept["removed"]) == done["waiting"]
    assert [verified(stream.store, stream.store.load(epoch))[0] for epoch in (3, 4)] == [[1, 2, 3], [1, 2, 3, 4]]
    stream.learn()
    assert verified(stream.store, stream.save())[0] == [1, 2, 3, 4, 5], "the writer beside it goes on"


def test_restore_goes_back_and_orphans_the_writer(stream: Stream, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    run(stream, "restore", "--epoch", "2", fails=1)
    assert "say --yes" in capsys.readouterr().err and stream.store.epochs() == [1, 2, 3, 4]
    made = as_json(capsys, stream, "restore", "--epoch", "2", "--yes")
    assert (made["epoch"], made["restored_from"], made["positions"], made["left_out"]) == (5, 2, {"news/0": 2}, 0)
    assert made["memory_sha256"] == stream.store.load(2).memory_sha256
    with pytest.raises(StaleWriter):
        stream.save()
    back = Stream(SnapshotConfig(root=str(tmp_path)))
    assert back.updates == [0, 1] and back.state.positions == {NEWS: 2}
    back.learn()
    assert verified(back.store, back.save())[0] == [0, 1, 2]


def test_restore_goes_past_poison_and_counts_it(stream: Stream, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """NOTHING-SILENT: what is left out is a gap, and the counts add up."""
    made = as_json(capsys, stream, "restore", "--skip-to", "news/0@9", "--yes")
    assert (made["restored_from"], made["positions"], made["left_out"], made["counts"]["gap"]) == (4, {"news/0": 9}, 4, 4)
    back = Stream(SnapshotConfig(root=str(tmp_path)))
    back.state.check()
    assert back.state.positions == {NEWS: 9} and back.updates == stream.updates
    both = as_json(capsys, stream, "restore", "--epoch", "1", "--skip-to", "news/0@3", "--yes")
    assert (both["positions"], both["counts"]["gap"], both["restored_from"]) == ({"news/0": 3}, 2, 1)


@pytest.mark.parametrize(
    ("skip", "said"),
    [("news/0@2", "go back with --epoch"), ("news/7@9", "its partitions are: news/0"), ("news@2", "TOPIC/PARTITION@OFFSET")],
)
def test_a_skip_that_cannot_be_is_refused_before_anything_is_claimed(
    stream: Stream, capsys: pytest.CaptureFixture[str], skip: str, said: str
) -> None:
    run(stream, "restore", "--skip-to", skip, "--yes", fails=2 if "TOPIC" in said else 1)
    assert said in " ".join(capsys.readouterr().err.replace("│", " ").split())
    stream.learn()
    stream.save()


def test_restore_says_what_is_missing(stream: Stream, capsys: pytest.CaptureFixture[str]) -> None:
    run(stream, "restore", fails=2)
    stream.store.objects.remove(stream.store.load(2).segments[0].path)
    run(stream, "restore", "--epoch", "2", "--yes", fails=1)
    assert "snapshot 2 is broken" in capsys.readouterr().err
    stream.save()


def test_a_signed_stream_is_gone_back_in_with_its_keys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SNAPSHOT_KEY", "a secret of some length")
    stream = Stream(SnapshotConfig(root=str(tmp_path / "s")))
    stream.learn()
    stream.save()
    keys = configured(stream, tmp_path, {"signing_keys": ["${SNAPSHOT_KEY}"]})
    run(stream, "verify", *keys, fails=1)
    assert "is not signed" in capsys.readouterr().err
    run(stream, "restore", "--epoch", "1", "--yes", *keys, fails=1)
    made = as_json(capsys, stream, "restore", "--epoch", "1", "--unsigned", "--yes", *keys)
    run(stream, "verify", "2", *keys)
    signed = SnapshotConfig(root=str(tmp_path / "s"), signing_keys=("${SNAPSHOT_KEY}",))
    assert Stream(signed).updates == [0] and made["epoch"] == 2
