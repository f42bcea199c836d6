"""One stream, deployed twice by mistake, on two Ray clusters that know nothing of each other: ONE-WRITER, by the store alone."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from actors.config import StreamConfig
from pipeline.snapshots.writer import SnapshotReader
from tests.fault.test_kills import SAME, elsewhere, publish, same
from tests.processes import Jobs, eventually

pytestmark = pytest.mark.fault


def test_one_writer_the_first_of_two_deployments_stops_and_says_why(
    jobs: Jobs, stream: Callable[..., StreamConfig], tmp_path: Path
) -> None:
    config = stream(snapshots={"every_updates": 5})
    (tmp_path / "second").mkdir()
    on_its_own_ray = Jobs(tmp_path / "second", {**jobs.environ, "RAY_ADDRESS": "local"})
    try:
        publish(config, 0, 12)
        first = jobs.run(config)
        reader = SnapshotReader(config.snapshots.root, config.stream)
        eventually(lambda: bool(reader.epochs()), "the first one has saved")
        second = on_its_own_ray.run(config)
        eventually(lambda: len(claims(config)) == 2, "the second one has claimed the stream")
        publish(config, 12, 30)
        first.end(expect=1)
        assert "StaleWriter: generation 2 has claimed" in first.errors() and "this writer holds 1" in first.errors()
        assert second.process.poll() is None
        eventually(lambda: "replica 0 running" in second.errors(), "the second one reads")
        second.signal(signal.SIGTERM)
        result = second.result()
    finally:
        on_its_own_ray.end()

    assert sum(result["position"].values()) == sum(result["counts"].values()) == 36
    assert same(result) == {key: jobs.drain(elsewhere(config))[key] for key in SAME}
    inspected = [reader.inspect(epoch) for epoch in reader.epochs()]
    assert [problem for each in inspected for problem in each.problems] == []
    generations = [each.manifest.generation for each in inspected if each.manifest is not None]
    assert generations == sorted(generations) and set(generations) == {1, 2}


def claims(config: StreamConfig) -> list[Path]:
    """Of generations, by whoever wanted to write."""
    return list((Path(config.snapshots.root.removeprefix("file://")) / config.stream / "generations").glob("*.json"))
