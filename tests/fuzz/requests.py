"""What clients send: bodies of any bytes, bodies that are almost right, headers, and what schemathesis makes of the API's description."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from fastapi.testclient import TestClient
from hypothesis import strategies as st

from actors.http.app import make_app
from actors.http.config import HttpConfig, KeyConfig
from actors.http.errors import Refused
from actors.http.keys import Doorkeeper
from model.config import config_from_dict
from model.conversation import ROLES, Conversation
from model.errors import CheckpointError
from tests.doubles.streams import LocalStream
from tests.doubles.tiny import END, START, tiny_block_checkpoint, tiny_tokenizer
from tests.fuzz.targets import json_bytes, outside, scalars, texts, trees

MEANT = ("not_known_yet", "not_ready", "timeout")
"""Refusals with a 5xx of their own: they say that the same request may be met later."""

_ending = ExitStack()


@cache
def app() -> Any:
    """A front over one replica of a tiny model; `closing` ends it."""
    folder = Path(tempfile.mkdtemp(prefix="memstream-fuzz-"))
    checkpoint = tiny_block_checkpoint(folder / "tiny", K=16)
    stream = LocalStream(checkpoint, folder / "snapshots", memory={"margin": -1e6, "read_share": 1e-9})
    _ending.callback(stream.close)
    return make_app(stream, HttpConfig())


@contextmanager
def closing() -> Iterator[None]:
    with _ending:
        yield
        for kept in (app, client, operations):
            kept.cache_clear()


@cache
def client() -> TestClient:
    return _ending.enter_context(TestClient(app(), raise_server_exceptions=False))


@cache
def operations() -> list[Any]:
    found: list[Any] = list(schemathesis.openapi.from_asgi("/openapi.json", app()).get_all_operations())
    return [each.ok() for each in found]


def require_meant(status: int, text: str) -> None:
    """An answer or a clear refusal, never an error of the server's."""
    if status >= 500:
        body = json.loads(text)
        assert "reasons" in body or body["error"]["code"] in MEANT, text


def impatient(body: Any) -> Any:
    """The body without a wait for what never comes."""
    if isinstance(body, dict) and isinstance(body.get("knowledge"), dict):
        body["knowledge"].pop("wait_s", None)
    return body


ROUTES = st.sampled_from(["/v1/chat/completions", "/v1/completions", "/v1/documents"])


@outside(ROUTES, st.binary(max_size=300) | json_bytes | st.integers(1, 60_000).map(lambda depth: b'{"messages":' * min(depth, 5000)))
def http_bodies(route: str, data: bytes) -> None:
    answer = client().post(route, content=data, headers={"content-type": "application/json"})
    require_meant(answer.status_code, answer.text)
    assert answer.status_code != 200 or route == "/v1/completions"


numbers = st.floats() | st.integers() | st.sampled_from([0, 1, -1, 1e-40, 1e308, 1 << 63, -(1 << 63)]) | scalars
knowledge = st.dictionaries(
    st.sampled_from(["at_least", "max_staleness_s", "as_of", "sources", "since", "until", "exclude", "max_blocks"]),
    trees | numbers | st.sampled_from(["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "2026-01-31"]),
    max_size=3,
)
messages = st.lists(st.fixed_dictionaries({"role": st.sampled_from(ROLES) | texts, "content": texts | trees}), max_size=3)
SAMPLING = ("temperature", "top_p", "top_k", "repetition_penalty", "n", "seed", "stop", "stream", "logprobs", "top_logprobs", "best_of")


@outside(
    ROUTES,
    st.dictionaries(st.sampled_from(SAMPLING), numbers | trees, max_size=3),
    knowledge,
    st.just([{"role": "user", "content": "Who?"}]) | messages,
    texts.map("test@".__add__) | st.just("test"),
)
def almost_right_bodies(route: str, sampling: dict[str, Any], known: dict[str, Any], said: Any, model: str) -> None:
    """Requests with fields of the right names and any values."""
    body = {"model": model, "max_tokens": 3, "knowledge": known, **sampling}
    if route == "/v1/documents":
        body = {"text": "Person one.", **dict(zip(("title", "id", "time"), sampling.values(), strict=False))}
    else:
        body |= {"messages": said} if route.startswith("/v1/chat") else {"prompt": str(said)}
    data = json.dumps(body).encode("utf-8", "surrogatepass")
    answer = client().post(route, content=data, headers={"content-type": "application/json"})
    if sampling.get("stream") is not True:
        require_meant(answer.status_code, answer.text)


@outside(st.data())
def described_requests(data: Any) -> None:
    """What schemathesis makes up for any of the routes."""
    case = data.draw(st.sampled_from(operations()).flatmap(lambda operation: operation.as_strategy()))
    case.body = impatient(case.body)
    response = case.call()
    require_meant(response.status_code, response.text)


@outside(texts | st.sampled_from(["Bearer", "bearer ", "Basic eDp5"]).flatmap(lambda head: texts.map(head.__add__)))
def authorizations(header: str) -> None:
    doorkeeper = Doorkeeper(HttpConfig(keys=(KeyConfig(name="one", sha256="0" * 64),)))
    with pytest.raises(Refused) as refusal:
        doorkeeper.admit(header, "ask")
    assert refusal.value.status == 401


@cache
def conversation() -> Conversation:
    return Conversation(tiny_tokenizer())


controls = st.lists(
    st.sampled_from([START, END, "system\n", "<|im_", "start|>", "\ue000", "0", "\ue001", "{{", "}}", "{%"]) | texts, max_size=6
)


@outside(st.lists(st.tuples(st.sampled_from(ROLES), controls.map("".join)), min_size=1, max_size=4))
def questions(said: list[tuple[str, str]]) -> None:
    """Whatever people write, the prompt has the template's control tokens and no other."""
    tokens = conversation().prompt([{"role": role, "content": content} for role, content in said]).tokens
    bare = conversation().prompt([{"role": role, "content": ""} for role, _ in said]).tokens
    assert [token for token in tokens if token >= 256] == [token for token in bare if token >= 256]
    assert all(token < 256 for token in conversation().encode("".join(content for _, content in said)))


FIELDS = ("num_tokens", "num_blocks", "lora_config", "rope_scaling", "rope_parameters", "hidden_size", "num_attention_heads", "key_size")


@outside(st.dictionaries(st.sampled_from(FIELDS) | texts, trees | numbers, max_size=4))
def checkpoint_configurations(fields: dict[str, Any]) -> None:
    """A model's configuration, or CheckpointError."""
    with suppress(CheckpointError):
        config_from_dict({"architectures": ["MemoryLLM"], "num_tokens": 8, "num_blocks": 2, **fields}, "here")
