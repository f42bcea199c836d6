"""What followers cost: forward passes and seconds of an update by number of replicas, and the time without a leader that is killed.

python -m benchmarks.bench_followers --replicas 1 --replicas 2 --replicas 4 --documents 60
"""

from __future__ import annotations

import json
import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable
from typing import Annotated, Any

import typer

from actors.cluster import connect, disconnect
from actors.config import StreamConfig
from actors.errors import NoReplica, Overdue
from actors.messages import Question, ReplicaStatus, Role
from actors.succession import speaker
from actors.supervisor import Supervisor
from benchmarks.bench_load import document
from jobs.command import start
from jobs.demo.broker import EmbeddedBroker
from model.catalog import NAME
from pipeline.publish import Publisher

app = typer.Typer(add_completion=False)
PATIENCE_S = 600.0


class Watching:
    """A running stream and its supervisor's loop, as `memstream run` has it."""

    def __init__(self, config: StreamConfig) -> None:
        self.config, self.supervisor = config, Supervisor.start(config)
        self.statuses: list[ReplicaStatus] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        for statuses in self.supervisor.watch(lambda found: self._over.is_set()):
            self.statuses = statuses

    def until(self, enough: Callable[[list[ReplicaStatus]], bool]) -> float:
        """Seconds until it is so."""
        began_s = time.monotonic()
        while not (self.statuses and enough(self.statuses)):
            if time.monotonic() - began_s > PATIENCE_S:
                raise SystemExit(f"it did not get so far: {self.statuses}")
            time.sleep(0.02)
        return time.monotonic() - began_s

    def all_know(self, documents: int) -> float:
        return self.until(lambda found: all(each.caught_up and each.counts.get("applied") == documents for each in found))

    def stop(self) -> None:
        self._over.set()
        self._thread.join()
        self.supervisor.stop()


class Asker:
    """Asks again as soon as it is answered."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor, self._over = supervisor, threading.Event()
        self.answered_s: list[float] = []
        self.failed = 0
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._over.is_set():
            try:
                self._supervisor.ask(Question.of("Who was elected mayor of Oslo?", 8))
                self.answered_s.append(time.monotonic())
            except (NoReplica, Overdue):
                self.failed += 1

    def end(self) -> None:
        self._over.set()
        self._thread.join()

    def longest_pause_s(self) -> float:
        return max((later - earlier for earlier, later in zip(self.answered_s, self.answered_s[1:], strict=False)), default=0.0)


def measured(config: StreamConfig, documents: int) -> dict[str, Any]:
    """One number of replicas: learn, count, and where there are several, kill the leader in the middle of the next documents."""
    publisher = Publisher(config.kafka, config.kafka.topics[0])
    watching = Watching(config)
    try:
        watching.until(lambda found: all(each.answers and each.role for each in found))
        publisher.publish({"id": str(number), "text": document(number)} for number in range(documents))
        took_s = watching.all_know(documents)
        found = learning(watching.statuses, documents, took_s)
        if config.replicas.count > 1:
            found |= failover(watching, publisher, documents)
        return found
    finally:
        watching.stop()
        publisher.close()


def learning(statuses: list[ReplicaStatus], documents: int, took_s: float) -> dict[str, Any]:
    leader = speaker(statuses)
    followers = [each for each in statuses if each.role is Role.FOLLOWER]
    updates = max(1, leader.update_number)
    return {
        "replicas": len(statuses),
        "documents_per_s": round(documents / took_s, 2),
        "updates": leader.update_number,
        "forward_passes": [each.forward_passes for each in statuses],
        "leader_ms_an_update": round(1000 * leader.seconds["learn"] / updates, 2),
        "follower_ms_an_update": [round(1000 * each.seconds["learn"] / updates, 2) for each in followers],
        "most_commits_behind": max((each.behind_commits for each in followers), default=0),
    }


def failover(watching: Watching, publisher: Publisher, documents: int) -> dict[str, Any]:
    asker = Asker(watching.supervisor)
    time.sleep(2)
    leader = speaker(watching.statuses)
    assert leader.pid is not None
    before, killed_s = len(asker.answered_s), time.monotonic()
    os.kill(leader.pid, signal.SIGKILL)
    publisher.publish({"id": str(number), "text": document(number)} for number in range(documents, 2 * documents))
    watching.until(lambda found: speaker(found).generation > leader.generation)
    led_s = time.monotonic()
    learned = leader.update_number
    watching.until(lambda found: speaker(found).update_number > learned)
    learns_s = time.monotonic()
    meanwhile = len([at_s for at_s in asker.answered_s[before:] if at_s <= learns_s])
    watching.all_know(2 * documents)
    back_s = time.monotonic()
    asker.end()
    return {
        "without_a_leader_s": round(led_s - killed_s, 2),
        "until_it_learns_again_s": round(learns_s - killed_s, 2),
        "until_all_know_all_s": round(back_s - killed_s, 2),
        "answers_until_it_learns_again": meanwhile,
        "questions_failed": asker.failed,
        "longest_pause_between_answers_s": round(asker.longest_pause_s(), 2),
        "forward_passes_after": [each.forward_passes for each in watching.statuses],
    }


@app.command()
def bench(
    replicas: Annotated[list[int], typer.Option(help="How many replicas; may be repeated.")] = [1, 2, 4],  # noqa: B006
    documents: Annotated[int, typer.Option(help="Documents of one update each; as many again after the leader was killed.")] = 60,
    checkpoint: Annotated[str, typer.Option(help="A checkpoint.")] = NAME,
) -> None:
    """Print one JSON line for each number of replicas."""
    connect("local", num_cpus=max(replicas))
    try:
        with EmbeddedBroker() as broker, tempfile.TemporaryDirectory() as folder:
            for count in replicas:
                tree = {
                    "stream": f"bench-{count}",
                    "kafka": {"bootstrap_servers": [broker.bootstrap_servers], "topics": [f"news-{count}"]},
                    "model": {"name": checkpoint},
                    "replicas": {"count": count, "num_cpus": 1},
                    "snapshots": {"root": folder},
                }
                print(json.dumps(measured(StreamConfig.model_validate(tree), documents)), flush=True)
    finally:
        disconnect()


if __name__ == "__main__":
    start(app)
