"""What commands print and how they exit, as far as no broker and no Ray is needed."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from actors.messages import Knowledge, Phase, ReplicaStatus, Source
from jobs.ask import cited, known
from jobs.command import start
from jobs.progress import cut_off, lag, status_line
from jobs.publish import app as publish
from jobs.run import app as run
from jobs.running import Running, _alive, _folder, _started, find_stream, find_streams
from jobs.snapshots import app as snapshots
from pipeline.errors import ConfigurationError
from pipeline.positions import StreamState
from pipeline.records import Partition
from pipeline.snapshots.pool_image import LayerImage, PoolImage
from pipeline.snapshots.writer import SnapshotConfig, SnapshotContent, SnapshotStore


def exit_code(app: object, *args: str) -> int:
    with pytest.raises(SystemExit) as caught:
        start(app, args)  # type: ignore[arg-type]
    return int(caught.value.code or 0)


def test_help_imports_neither_torch_nor_ray_nor_kafka() -> None:
    code = (
        "import sys, jobs.cli\ntry: jobs.cli.app()\nexcept SystemExit as end: assert end.code == 0\n"
        "print(*(name for name in ('torch', 'ray', 'kafka', 'pyarrow') if name in sys.modules), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code, "--help"], capture_output=True, text=True, check=True)
    assert "parity" in done.stdout and done.stderr.split() == []


def test_what_is_wrong_is_said_in_one_place_with_exit_code_1(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(run, "--set", "kafka.topics=news") == 1
    assert capsys.readouterr().err.startswith("memstream: kafka.bootstrap_servers: missing; ")


def test_a_wrong_call_exits_2() -> None:
    assert exit_code(run, "--bogus") == 2
    assert exit_code(publish, "--text", "a", "--topic", "x") == 1  # which broker?
    assert exit_code(publish) == 2
    assert exit_code(publish, "--text", "a", "--delete", "b") == 2
    assert exit_code(snapshots, "list") == 2


def test_a_stream_that_only_serves_never_catches_up(capsys: pytest.CaptureFixture[str]) -> None:
    sets = ["--set", "kafka.bootstrap_servers=a:1", "--set", "kafka.topics=x", "--set", "replicas.mode=serve"]
    assert exit_code(run, *sets, "--until", "caught-up") == 1
    assert "leave out --until" in capsys.readouterr().err


def test_the_effective_configuration_can_be_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(run, "--set", "kafka.bootstrap_servers=a:1", "--set", "kafka.topics=x", "--show-config") == 0
    assert "max_poll_bytes: 4194304" in capsys.readouterr().out


def test_no_snapshots_is_no_error_to_list_but_nothing_to_verify(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = ["--root", str(tmp_path), "--stream", "news"]
    assert exit_code(snapshots, "list", *where, "--json") == 0
    assert json.loads(capsys.readouterr().out) == []
    assert exit_code(snapshots, "verify", *where) == 1
    assert "no snapshots in file://" in capsys.readouterr().err


def test_a_replica_in_one_line() -> None:
    behind = ReplicaStatus(replica=1, phase=Phase.RUNNING, counts={"applied": 3}, position={"a/0": 3}, highwater={"a/0": 9, "a/1": 2})
    assert (lag(behind), status_line(behind)) == (8, "replica 1 running: 3 applied, 8 behind")
    assert status_line(ReplicaStatus(replica=0, phase=Phase.WAITING, problem="no answer")) == "replica 0 waiting: no answer"


def test_what_an_answer_was_given_from_in_one_line() -> None:
    knowledge = Knowledge(
        stream="news",
        replica=1,
        version=7,
        update_number=7,
        position={"news/0": 41},
        watermark_ms=1_767_081_600_000,
        applied=7,
        complete_up_to_ms=None,
        staleness_s=None,
    )
    assert known(knowledge) == "news, replica 1, version 7, news/0@41, newest document of 30 Dec 2025 08:00 UTC, never caught up yet"


def test_what_an_answer_was_read_from_is_a_line_for_each_document() -> None:
    source = Source(
        document_id="a",
        title="Elec\x1b[2Jtions",
        source="AFP",
        link="https://example.org/a",
        published_at_ms=1_767_081_600_000,
        topic="news",
        partition=0,
        offset=7,
        score=0.934,
    )
    nothing: dict[str, Any] = {"watermark_ms": None, "complete_up_to_ms": None, "staleness_s": None, "position": {}}
    read = Knowledge(stream="news", replica=0, version=1, update_number=1, applied=1, grounded=True, sources=(source,), **nothing)
    assert cited(read) == ["  read from: Elec [2Jtions | AFP | 30 Dec 2025 08:00 UTC | https://example.org/a | news/0@7 (0.93)"]
    assert "base model" in cited(replace(read, grounded=False, sources=()))[0]
    assert cited(replace(read, grounded=None, sources=())) == []


def test_what_was_cut_off_is_shown() -> None:
    cut = ReplicaStatus(replica=0, phase=Phase.RUNNING, documents_cut=2, tokens_left_out=900)
    assert cut_off(cut) == "2 documents were too long and lost 900 tokens at their end (chunks.max_blocks)"
    assert cut_off(replace(cut, documents_cut=0)) is None


def test_of_several_streams_one_must_be_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEMSTREAM_CACHE", str(tmp_path))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    for name, pid, began in (("a", 1, _started(1)), ("b", 1, _started(1)), ("gone", 2**22 + 1, "7"), ("anothers", 1, "12345678")):
        entry = {"stream": name, "address": f"{name}:1", "pid": pid, "started": began}
        (_folder() / f"{name}.{pid}.json").write_text(json.dumps(entry))
    assert sorted(each.stream for each in _alive()) == ["a", "b"]
    assert Running(stream="a", address="a:1", pid=1, started=_started(1)) in _alive()
    assert sorted(path.name for path in _folder().iterdir()) == ["a.1.json", "b.1.json"], "what means nothing is cleaned up"
    with pytest.raises(ConfigurationError, match=r"several streams run on this machine: choose with --stream a \| b"):
        find_stream(None, None)
    for named in (None, "auto"):
        with pytest.raises(ConfigurationError, match=r"several Ray clusters of this machine: choose with --address a:1 \| b:1"):
            find_streams(named)


def test_broken_snapshots_are_named_with_each_problem(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = SnapshotStore(SnapshotConfig(root=str(tmp_path)), "news")
    generation = store.claim_generation()
    manifests = [store.write(content(), generation) for _ in range(3)]
    where = ["--root", str(tmp_path), "--stream", "news"]
    assert exit_code(snapshots, "verify", *where) == 0
    assert capsys.readouterr().out.count("whole") == 3
    damage(tmp_path / "news" / manifests[1].object("pool.arrow").path)
    assert exit_code(snapshots, "verify", *where) == 1
    said = capsys.readouterr()
    assert "1 of 3 snapshots" in said.err and f"epoch 2: {manifests[1].object('pool.arrow').path}: its SHA-256 is" in said.err
    assert exit_code(snapshots, "verify", "3", *where) == 0
    capsys.readouterr()
    assert exit_code(snapshots, "list", *where, "--json") == 0
    assert [each["epoch"] for each in json.loads(capsys.readouterr().out)] == [1, 2, 3]


def content() -> SnapshotContent:
    memory = np.zeros((4, 2), dtype=np.float32)
    layer = LayerImage(slots=np.arange(4, dtype=np.int32), updates=np.zeros(4, dtype=np.int64), memory=memory)
    return SnapshotContent(
        memory=PoolImage(layers=[layer], num_layers=1, num_tokens=4, update_tokens=2, hidden_size=2, dtype="float32"),
        state=StreamState.beginning({Partition("news", 0): 0}),
        fingerprint="tiny",
        seed=0,
        config={},
        build={},
        device="cpu",
        threads=1,
    )


def damage(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
