"""Several streams of one file in one process: each with its own topics, memory and end; one front answers for all."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from actors.config import StreamConfig
from pipeline.publish import Publisher
from pipeline.snapshots.reader import SnapshotReader
from tests.processes import Job, Jobs, eventually, free_port

pytestmark = pytest.mark.integration

READS = {"margin": -1e6, "evidence": -1e6, "read_share": 1e-9}


class File:
    """A configuration of streams with topics of their own; keyword arguments are what is one's own beside that."""

    def __init__(self, config: StreamConfig, folder: Path, **streams: dict[str, Any]) -> None:
        self.names = {short: f"{config.stream}-{short}" for short in streams}
        shared = config.model_dump(mode="json", exclude={"stream"})
        own = {self.names[short]: {"kafka": {"topics": [self.names[short]]}, **keys} for short, keys in streams.items()}
        self.path, self._config = folder / "streams.yaml", config
        self.path.write_text(yaml.safe_dump({**shared, "http": {"port": free_port()}, "streams": own}))

    def publish(self, short: str, *texts: str) -> None:
        with Publisher(self._config.kafka, self.names[short]) as publisher:
            publisher.publish({"id": f"{short}-{number}", "text": text} for number, text in enumerate(texts))

    def run(self, jobs: Jobs, *arguments: str) -> Job:
        return jobs.start("run", "--config", str(self.path), "--json", *arguments)

    def results(self, job: Job, expect: int = 0) -> dict[str, Any]:
        """What each stream came to."""
        found = {each["stream"]: each for each in map(json.loads, job.end(expect).splitlines())}
        return {short: found[name] for short, name in self.names.items() if name in found}


def test_each_stream_learns_its_own_topics_and_drains_when_it_has_caught_up(
    jobs: Jobs, stream: Callable[..., StreamConfig], tmp_path: Path
) -> None:
    config = stream()
    file = File(config, tmp_path, news={}, sport={"memory": {"blocks": 4}})
    file.publish("news", *(f"Person {number}." for number in range(12)))
    file.publish("sport", *(f"Team {number}." for number in range(7)))
    results = file.results(file.run(jobs, "--until", "caught-up"))
    assert {short: (each["counts"]["applied"], each["position"]) for short, each in results.items()} == {
        "news": (12, {f"{file.names['news']}/0": 12}),
        "sport": (7, {f"{file.names['sport']}/0": 7}),
    }
    assert [results["sport"]["replicas"][0][key] for key in ("phase", "remembered_documents")] == ["drained", 4]
    for short, result in results.items():
        manifest = SnapshotReader(config.snapshots.root, file.names[short]).load(result["epoch"])
        assert (manifest.memory_sha256, manifest.config["stream"]) == (result["memory_sha256"], file.names[short])
    (alone,) = file.results(file.run(jobs, "--until", "caught-up", "--stream", file.names["sport"])).values()
    assert alone["memory_sha256"] == results["sport"]["memory_sha256"]


def test_one_that_cannot_go_on_is_shown_and_the_others_answer_over_the_same_front(
    jobs: Jobs, stream: Callable[..., StreamConfig], tmp_path: Path
) -> None:
    broken = {"model": {"name": str(tmp_path / "no-such-checkpoint")}}
    file = File(stream(memory=READS), tmp_path, news={}, sport={}, broken=broken)
    for short in file.names:
        file.publish(short, f"Person seven of {short}.")
    url = f"http://127.0.0.1:{yaml.safe_load(file.path.read_text())['http']['port']}"
    running = file.run(jobs, "--http")
    with httpx.Client(base_url=url, timeout=60) as http:
        eventually(lambda: "listening at" in running.errors(), "the front answers")
        eventually(lambda: f"{file.names['broken']} cannot go on: replica 0: " in running.errors(), "the broken one is told")
        for short in ("news", "sport"):
            name = file.names[short]
            eventually(lambda name=name: http.get("/ready", params={"stream": name}).status_code == 200, f"{name} is ready")  # type: ignore[misc]
            ask = {"model": name, "messages": [{"role": "user", "content": "Who is it?"}], "max_tokens": 4}
            ask["knowledge"] = {"at_least": {f"{name}/0": 0}, "wait_s": 30}
            knowledge = http.post("/v1/chat/completions", json=ask).json()["knowledge"]
            assert [each["document_id"] for each in knowledge["sources"]] == [f"{short}-0"]
            assert knowledge["position"] == {f"{name}/0": 1}
        ready = http.get("/ready").json()
        assert not ready["ready"] and [reason.split(":")[0] for reason in ready["reasons"]] == [file.names["broken"]]
        for where in (("--address", url), ()):
            shown = json.loads(jobs.start("status", "--json", *where).end())
            phases = {each["stream"]: each["phase"] for each in shown if each["stream"] in file.names.values()}
            assert phases == {file.names["news"]: "running", file.names["sport"]: "running", file.names["broken"]: "failed"}
        asked = jobs.start("ask", "Who is it?", "--stream", file.names["sport"], "--json", "--max-new-tokens", "4").end()
        assert json.loads(asked)["knowledge"]["stream"] == file.names["sport"]

        running.signal(signal.SIGTERM)
        results = file.results(running, expect=1)
    assert [results[short]["counts"]["applied"] for short in ("news", "sport")] == [1, 1]
    assert "no-such-checkpoint" in results["broken"]["error"] and "counts" not in results["broken"]
    said = running.errors().splitlines()
    assert said[-2] == "memstream: 1 of 3 streams could not go on:" and said[-1].startswith(f"{file.names['broken']}: replica 0: ")


def test_a_stream_that_runs_already_keeps_none_of_the_others_from_running(
    jobs: Jobs, stream: Callable[..., StreamConfig], tmp_path: Path
) -> None:
    file = File(stream(), tmp_path, news={}, sport={"replicas": {"count": 2}})
    for short in file.names:
        file.publish(short, "Person one.")
    first = file.run(jobs, "--stream", file.names["sport"])
    eventually(lambda: f"{file.names['sport']}, replica 0 running" in first.errors(), "the first one runs")
    second = file.results(file.run(jobs, "--until", "caught-up"), expect=1)
    assert second["news"]["counts"]["applied"] == 1
    assert second["sport"] == {
        "stream": file.names["sport"],
        "error": f"stream '{file.names['sport']}' already runs on this cluster: drain it first, or choose another name",
        "replicas": [],
    }
    first.signal(signal.SIGINT)
    assert file.results(first)["sport"]["counts"]["applied"] == 1


def test_what_does_not_fit_together_is_told_before_anything_starts(jobs: Jobs, stream: Callable[..., StreamConfig], tmp_path: Path) -> None:
    file = File(stream(), tmp_path, news={"replicas": {"num_cpus": 9}}, sport={"replicas": {"num_cpus": 9}})
    refused = file.run(jobs)
    assert refused.end(expect=1) == ""
    news, sport = file.names.values()
    assert refused.errors().splitlines()[-1] == (
        f"memstream: replicas: {news} 1 x (num_cpus 9, num_gpus 0), {sport} 1 x (num_cpus 9, num_gpus 0) do not fit together; each replica"
        " runs on one node, and there are nodes of 16 cores and 0 GPUs"
    )
