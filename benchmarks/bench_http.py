"""Askers over HTTP, whole answers and streams: a broker, `memstream run --http` and clients, all on this machine.

python -m benchmarks.bench_http --askers 1 --askers 32 --seconds 30
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer

from benchmarks.bench_load import NAMES, document, quantile
from jobs.demo.broker import EmbeddedBroker
from pipeline.kafka_client import KafkaConfig
from pipeline.publish import Publisher

app = typer.Typer(add_completion=False)
TOPIC = "news"


@contextmanager
def front(documents: int, cpus: int) -> Iterator[str]:
    """A running stream that has learned some documents, behind its front."""
    with EmbeddedBroker() as broker, tempfile.TemporaryDirectory() as folder:
        kafka = KafkaConfig(bootstrap_servers=(broker.bootstrap_servers,), topics=(TOPIC,))
        with Publisher(kafka, TOPIC) as publisher:
            publisher.publish({"id": str(number), "text": document(number)} for number in range(documents))
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        url = f"http://127.0.0.1:{port}"
        settings = {
            "kafka.bootstrap_servers": broker.bootstrap_servers,
            "kafka.topics": TOPIC,
            "snapshots.root": folder,
            "replicas.num_cpus": cpus,
            "http.port": port,
        }
        options = [part for name, value in settings.items() for part in ("--set", f"{name}={value}")]
        with Path(folder, "run.log").open("wb") as log:
            run = subprocess.Popen([sys.executable, "-m", "jobs.run", "--http", *options], stdout=log, stderr=log, env=dict(os.environ))
            try:
                await_ready(url, run, documents)
                yield url
            finally:
                run.send_signal(signal.SIGTERM)
                run.wait(120)


def await_ready(url: str, run: subprocess.Popen[bytes], documents: int, patience_s: float = 300.0) -> None:
    deadline_s = time.monotonic() + patience_s
    while time.monotonic() < deadline_s and run.poll() is None:
        try:
            if httpx.get(f"{url}/v1/knowledge/documents", timeout=5).json().get("total") == documents:
                return
        except (httpx.HTTPError, ValueError):
            pass
        time.sleep(0.5)
    raise SystemExit("the stream did not get ready")


class Asker:
    """Asks again as soon as it is answered."""

    def __init__(self, client: httpx.AsyncClient, number: int, tokens: int, stream: bool, question: str) -> None:
        self._client, self._number, self._tokens, self._stream, self._question = client, number, tokens, stream, question
        self.first_s: list[float] = []
        self.answered = self.refused = 0

    async def run(self, until_s: float) -> None:
        turn = 0
        while time.monotonic() < until_s:
            turn += 1
            question = self._question or f"Who was elected mayor of {NAMES[(self._number + turn) % 12]}ville?"
            body: dict[str, Any] = {"model": "news", "messages": [{"role": "user", "content": question}], "max_tokens": self._tokens}
            await self._ask(body | {"stream": self._stream})

    async def _ask(self, body: dict[str, Any]) -> None:
        started_s = time.monotonic()
        async with self._client.stream("POST", "/v1/chat/completions", json=body) as response:
            if response.status_code == 429:
                self.refused += 1
                await asyncio.sleep(float(response.headers.get("retry-after", 1)))
                return
            response.raise_for_status()
            first = True
            async for line in response.aiter_lines():
                if first and line:
                    self.first_s.append(time.monotonic() - started_s)
                    first = False
        self.answered += 1


async def measured(url: str, number: int, seconds: float, tokens: int, stream: bool, question: str) -> dict[str, object]:
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=url, timeout=300, limits=limits) as client:
        askers = [Asker(client, each, tokens, stream, question) for each in range(number)]
        started_s = time.monotonic()
        await asyncio.gather(*(each.run(started_s + seconds) for each in askers))
        took_s = time.monotonic() - started_s
    waits = sorted(wait for each in askers for wait in each.first_s)
    return {
        "askers": number,
        "streams": stream,
        "answers_per_s": round(sum(each.answered for each in askers) / took_s, 2),
        "first_line_median_s": round(statistics.median(waits), 2),
        "first_line_95_s": round(quantile(waits, 0.95), 2),
        "refused": sum(each.refused for each in askers),
    }


@app.command()
def bench(
    askers: Annotated[list[int], typer.Option(help="How many ask at once; may be repeated.")] = [1, 32],  # noqa: B006
    seconds: Annotated[float, typer.Option(help="For each number of askers, whole answers and streams apart.")] = 30.0,
    tokens: Annotated[int, typer.Option(help="Most tokens of an answer.")] = 16,
    question: Annotated[str, typer.Option(help="What is asked; if not given, who was elected mayor: a few tokens.")] = "",
    documents: Annotated[int, typer.Option(help="Documents that are remembered.")] = 100,
    cpus: Annotated[int, typer.Option(help="Cores of the replica.")] = 1,
) -> None:
    """One JSON line for each number of askers, whole and streamed."""
    with front(documents, cpus) as url:
        asyncio.run(measured(url, 2, 5.0, tokens, True, question))  # warm
        for stream in (False, True):
            for number in askers:
                print(json.dumps(asyncio.run(measured(url, number, seconds, tokens, stream, question))), flush=True)


if __name__ == "__main__":
    app()
