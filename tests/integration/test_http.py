"""The front on Ray Serve over a real broker, through OpenAI's own client."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import openai
import pytest
from ray import serve

from actors.config import StreamConfig
from actors.http.config import HttpConfig
from actors.http.serve import start_front, stop_front
from actors.supervisor import Supervisor
from pipeline.topics import ensure_topic
from tests.processes import Jobs, eventually, free_port, kill_9

pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("ignore")]  # Serve's libraries warn of themselves

READS = {"margin": -1e6, "evidence": -1e6, "read_share": 1e-9}


@pytest.fixture
def served(ray_address: str, stream: Callable[..., StreamConfig]) -> Iterator[tuple[Supervisor, str]]:
    config = stream(memory=READS)
    ensure_topic(config.kafka, config.kafka.topics[0], 1)
    supervisor = Supervisor.start(config)
    try:
        supervisor.wait_ready()
        yield supervisor, start_front(HttpConfig(port=free_port()))
    finally:
        stop_front()
        supervisor.stop()


def test_a_service_publishes_asks_streams_and_deletes(served: tuple[Supervisor, str], jobs: Jobs) -> None:
    supervisor, url = served
    name = supervisor.config.stream
    http = httpx.Client(base_url=url, timeout=60)
    eventually(lambda: http.get("/ready").status_code == 200, "it is ready")
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
    assert [model.id for model in client.models.list()] == [name]

    published = http.post("/v1/documents", json={"id": "a", "text": "Person 7.", "title": "Seven", "link": "https://example.org/7"}).json()
    messages: Any = [{"role": "user", "content": "Who is person 7?"}]
    demand = {"knowledge": {"at_least": published["at_least"], "wait_s": 30}}
    answer = client.chat.completions.create(model=name, messages=messages, max_tokens=6, extra_body=demand)
    assert answer.knowledge["sources"][0]["document_id"] == "a"  # type: ignore[attr-defined]
    cited: Any = answer.choices[0].message.annotations
    assert cited[0].url_citation.url == "https://example.org/7"

    chunks = list(client.chat.completions.create(model=name, messages=messages, max_tokens=6, stream=True))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == answer.choices[0].message.content
    assert chunks[-1].knowledge["grounded"] is True  # type: ignore[attr-defined]

    said = json.loads(jobs.start("ask", "Who is person 7?", "--max-new-tokens", "6", "--address", url, "--json").end())
    assert (said["text"], said["knowledge"]["sources"][0]["link"]) == (text, "https://example.org/7")
    (shown,) = json.loads(jobs.start("status", "--address", url, "--json").end())
    assert (shown["phase"], shown["counts"]["applied"], shown["pid"]) == ("running", 1, supervisor.statuses()[0].pid)

    gone = http.delete(f"/v1/documents/{published['topic']}/0/{published['offset']}").json()
    demand = {"knowledge": {"at_least": gone["at_least"], "wait_s": 30}}
    answer = client.chat.completions.create(model=name, messages=messages, max_tokens=6, extra_body=demand)
    assert answer.knowledge["sources"] == []  # type: ignore[attr-defined]
    assert "memstream_records_total" in http.get("/metrics").text and "memstream" in http.get("/").text


def test_a_client_that_goes_away_frees_its_place_and_a_killed_replica_costs_a_retry(served: tuple[Supervisor, str]) -> None:
    supervisor, url = served
    name = supervisor.config.stream
    http = httpx.Client(base_url=url, timeout=120)
    eventually(lambda: http.get("/ready").status_code == 200, "it is ready")
    ask = {"model": name, "messages": [{"role": "user", "content": "Who?"}]}

    with http.stream("POST", "/v1/chat/completions", json={**ask, "stream": True, "max_tokens": 1000}) as response:
        next(response.iter_lines())
    eventually(lambda: supervisor.statuses()[0].running_answers == 0, "the place of a client that went away is free")

    found: list[int] = []

    def asker() -> None:
        found.append(http.post("/v1/chat/completions", json={**ask, "max_tokens": 200}).status_code)

    askers = [threading.Thread(target=asker) for _ in range(16)]
    for each in askers:
        each.start()
    eventually(lambda: supervisor.statuses()[0].running_answers > 0, "they are being answered")
    pid = supervisor.statuses()[0].pid
    assert pid is not None
    kill_9(pid)
    for each in askers:
        each.join(120)
    assert found == [200] * 16
    assert supervisor.statuses()[0].pid != pid


def test_nothing_is_left_of_it(ray_address: str) -> None:
    deadline_s = time.monotonic() + 30
    while time.monotonic() < deadline_s and serve.status().applications:
        time.sleep(0.1)
    assert not serve.status().applications
    serve.shutdown()
