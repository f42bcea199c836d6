"""Dashboard and rules in a real Prometheus that scrapes a real front: every name they use exists, every expression is one."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import subprocess
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
import yaml

from actors.http.app import make_app
from actors.http.config import HttpConfig
from tests.doubles.streams import LocalStream
from tests.doubles.tiny import tiny_block_checkpoint
from tests.processes import eventually, free_port

PROMETHEUS = shutil.which("prometheus")
FOLDER = Path(__file__).parents[2] / "infra/dashboards"
NAME = re.compile(r"\bmemstream_\w+")

pytestmark = [pytest.mark.slow, pytest.mark.skipif(PROMETHEUS is None, reason="no Prometheus"), pytest.mark.filterwarnings("ignore")]


def dashboard_expressions() -> list[str]:
    dashboard = json.loads((FOLDER / "memstream.json").read_text())
    found = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    return [expression.replace("$stream", ".*") for expression in found]


def rule_expressions() -> list[str]:
    rules = yaml.safe_load((FOLDER / "rules.yaml").read_text())
    return [rule["expr"] for group in rules["groups"] for rule in group["rules"]]


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("prometheus")
    checkpoint = tiny_block_checkpoint(tmp_path_factory.mktemp("tiny"), K=16)
    stream = LocalStream(checkpoint, folder / "snapshots", memory={"margin": -1e6, "evidence": -1e6}, snapshots={"every_updates": 1})
    port, own = free_port(), free_port()
    server = uvicorn.Server(uvicorn.Config(make_app(stream, HttpConfig()), host="127.0.0.1", port=port, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    for number in range(5):
        asyncio.run(stream.publish({"text": f"Person {number}."}, None))
    eventually(lambda: server.started and stream.replica.status().epoch is not None, "the stream runs and is saved")
    ask = {"model": "test", "messages": [{"role": "user", "content": "Who?"}], "stream": True, "max_tokens": 3}
    assert httpx.post(f"http://127.0.0.1:{port}/v1/chat/completions", json=ask, timeout=30).status_code == 200
    config = yaml.safe_load((FOLDER / "prometheus.yaml").read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["rule_files"] = [str(FOLDER / "rules.yaml")]
    config["scrape_configs"][0]["static_configs"] = [{"targets": [f"127.0.0.1:{port}"]}]
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(config))
    arguments = [f"--config.file={folder}/prometheus.yaml", f"--storage.tsdb.path={folder}/data", f"--web.listen-address=127.0.0.1:{own}"]
    assert PROMETHEUS is not None
    process = subprocess.Popen([PROMETHEUS, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{own}"
    eventually(lambda: _scraped(url), "Prometheus has scraped the front")
    time.sleep(3)
    yield url
    process.terminate()
    process.wait(20)
    server.should_exit = True
    thread.join(10)
    stream.close()


def _scraped(url: str) -> bool:
    try:
        return bool(query(url, "memstream_replica_up"))
    except OSError:
        return False


def query(url: str, expression: str) -> list[Any]:
    with urllib.request.urlopen(f"{url}/api/v1/query?{urllib.parse.urlencode({'query': expression})}") as answer:
        body = json.load(answer)
    assert body["status"] == "success", body
    found: list[Any] = body["data"]["result"]
    return found


def test_every_name_exists_and_every_expression_is_understood(prometheus: str) -> None:
    expressions = dashboard_expressions() + rule_expressions()
    names = {name for expression in expressions for name in NAME.findall(expression)}
    assert len(names) > 15
    for name in sorted(names):
        assert query(prometheus, name), name
    for expression in expressions:
        query(prometheus, expression)


def test_the_panels_show_something(prometheus: str) -> None:
    empty = [expression for expression in dashboard_expressions() if not query(prometheus, expression)]
    assert empty == []


def test_the_rules_are_loaded_and_healthy(prometheus: str) -> None:
    with urllib.request.urlopen(f"{prometheus}/api/v1/rules") as answer:
        groups = json.load(answer)["data"]["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert len(rules) == len(rule_expressions())
    assert all(rule["health"] in ("ok", "unknown") for rule in rules), rules
