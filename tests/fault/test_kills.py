"""kill -9, in the middle: what comes out is what an unbroken run gives (SNAPSHOT-IS-TRUTH, REPLAY-EXACT)."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from actors.config import StreamConfig
from actors.messages import ReplicaStatus
from actors.supervisor import Supervisor
from pipeline.publish import Publisher
from pipeline.snapshots.writer import SnapshotReader
from tests.processes import Jobs, eventually, kill_9, pids_of_pollers

pytestmark = pytest.mark.fault

SAME = ("position", "counts", "update_number", "memory_sha256", "watermark_ms")


def publish(config: StreamConfig, first: int, end: int, partitions: int = 1) -> None:
    """Persons `first` up to and without `end`, and among them a record that is no document and one that was learned before."""
    with Publisher(config.kafka, config.kafka.topics[0], partitions=partitions) as publisher:
        for number in range(first, end):
            publisher.publish_one({"id": str(number), "text": f"Person {number}.", "time": 1_767_000_000 + number})
            if number % 10 == 5:
                publisher.publish_one({"id": "bad", "text": ["not", "a", "text"]})
                publisher.publish_one({"id": f"again-{number}", "text": f"Person {number}."})


def status(config: StreamConfig) -> ReplicaStatus:
    return Supervisor.find(config.stream).statuses()[0]


def learned(config: StreamConfig, applied: int) -> Callable[[], bool]:
    return lambda: status(config).counts.get("applied") == applied


def between_two_epochs(config: StreamConfig) -> bool:
    """Whether something was saved, and something more was learned since."""
    reader, now = SnapshotReader(config.snapshots.root, config.stream), status(config)
    epochs = reader.epochs()
    return bool(epochs) and reader.load(epochs[-1]).update_number < now.update_number


def elsewhere(config: StreamConfig) -> StreamConfig:
    """The same records under another name: a run of its own."""
    return config.model_copy(update={"stream": f"{config.stream}-whole"})


def same(result: dict[str, Any]) -> dict[str, Any]:
    return {key: result[key] for key in SAME}


@pytest.mark.parametrize("kind", ["blocks", "tokens"])
def test_replay_exact_a_killed_replica_comes_back_by_itself_to_the_same_state(
    kind: str, jobs: Jobs, stream: Callable[..., StreamConfig], small_model: Path, published_model: Path
) -> None:
    config = stream(snapshots={"every_updates": 7}, model={"name": str(small_model if kind == "blocks" else published_model)})
    publish(config, 0, 25)
    running = jobs.run(config)
    eventually(lambda: "replica 0 running" in running.errors(), "the replica reads")
    eventually(learned(config, 25), "25 were learned")
    eventually(lambda: between_two_epochs(config), "it stands between two epochs")
    (before,) = jobs.status(config)
    kill_9(before["pid"])
    publish(config, 25, 40)
    eventually(learned(config, 40), "the restarted replica learned the rest")
    assert status(config).pid != before["pid"]
    running.signal(signal.SIGTERM)
    broken = running.result()
    assert sum(broken["position"].values()) == sum(broken["counts"].values()) == 48
    assert broken["counts"] == {"applied": 40, "deleted": 0, "duplicate": 4, "filtered": 0, "dead_letter": 4, "gap": 0}
    assert same(broken) == same(jobs.drain(elsewhere(config)))


def test_replay_exact_a_killed_job_run_again_ends_in_the_same_state(jobs: Jobs, stream: Callable[..., StreamConfig]) -> None:
    config = stream(snapshots={"every_updates": 7})
    publish(config, 0, 25)
    running = jobs.run(config)
    eventually(lambda: "replica 0 running" in running.errors(), "the replica reads")
    eventually(lambda: learned(config, 25)() and between_two_epochs(config), "it stands between two epochs")
    pid = status(config).pid
    assert pid is not None
    kill_9(running.process.pid)
    kill_9(pid)
    publish(config, 25, 40)
    eventually(lambda: not is_there(config), "Ray has noticed")
    again = jobs.drain(config)
    assert again["epoch"] > 1
    assert same(again) == same(jobs.drain(elsewhere(config)))


def is_there(config: StreamConfig) -> bool:
    import ray

    names = [actor["name"] for actor in ray.util.list_named_actors(all_namespaces=True)]
    return any(name.endswith((f"/{config.stream}", f"/{config.stream}/0")) for name in names)


def test_exactly_once_over_several_partitions_whatever_is_killed(jobs: Jobs, stream: Callable[..., StreamConfig]) -> None:
    """The order among partitions may differ from run to run, so the pool may; every document is in it once all the same."""
    config = stream(snapshots={"every_updates": 7})
    others = pids_of_pollers()
    publish(config, 0, 20, partitions=3)
    running = jobs.run(config)
    eventually(lambda: "replica 0 running" in running.errors(), "the replica reads")
    eventually(lambda: learned(config, 20)() and between_two_epochs(config), "it stands between two epochs")
    (poller,) = pids_of_pollers() - others
    kill_9(poller)
    publish(config, 20, 30)
    eventually(learned(config, 30), "a new poller went on")
    assert running.process.poll() is None
    first = status(config)
    assert first.pid is not None
    kill_9(first.pid)
    publish(config, 30, 40)
    eventually(learned(config, 40), "the restarted replica learned the rest")
    running.signal(signal.SIGTERM)
    result = running.result()

    reader = SnapshotReader(config.snapshots.root, config.stream)
    rows = list(reader.read_ledger(reader.load(result["epoch"])))
    # Of two partitions either may come first, so either id may be the one that was learned.
    assert sorted(int(row.document_id.removeprefix("again-")) for row in rows) == list(range(40))
    assert len({(row.partition, row.offset) for row in rows}) == len(rows) == 40
    assert sorted(update for row in rows for update in row.updates) == list(range(40))
    assert sum(result["position"].values()) == sum(result["counts"].values()) == 48
