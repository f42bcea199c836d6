"""The routes, over a real replica of a tiny model: OpenAI's protocol, what memstream adds, documents, keys, bounds and errors."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient

from actors.http.app import make_app
from actors.http.config import HttpConfig
from tests.doubles.streams import LocalStream

WHO = [{"role": "user", "content": "Who is person 3?"}]
KEY, OTHER = "a-key-to-ask", "a-key-to-publish"


def key(name: str, value: str, **fields: Any) -> dict[str, Any]:
    return {"name": name, "sha256": hashlib.sha256(value.encode()).hexdigest(), **fields}


@pytest.fixture(scope="module")
def connect(stream: LocalStream) -> Iterator[Callable[..., httpx.Client]]:
    clients: list[Any] = []

    def connected(**config: Any) -> Any:
        clients.append(TestClient(make_app(stream, HttpConfig.model_validate(config)), raise_server_exceptions=False))
        return clients[-1]

    yield connected
    for client in clients:
        client.close()


@pytest.fixture(scope="module")
def client(connect: Callable[..., Any], stream: LocalStream) -> Any:
    made = connect()
    for number in range(5):
        published = made.post("/v1/documents", json={"text": f"Person {number}.", "title": f"Title {number}", "id": f"p{number}"}).json()
    until_ready(made)
    asked = made.post("/v1/chat/completions", json=chat(knowledge={"at_least": published["at_least"], "wait_s": 30}))
    assert asked.status_code == 200, asked.text
    return made


def until_ready(client: Any) -> None:
    for _ in range(1000):
        if client.get("/ready").status_code == 200:
            return
        time.sleep(0.02)
    raise AssertionError(client.get("/ready").text)


def chat(**fields: Any) -> dict[str, Any]:
    return {"model": "test", "messages": WHO, "max_tokens": 6, **fields}


def error_of(response: Any) -> tuple[int, str | None, str | None]:
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"} and error["message"]
    return response.status_code, error["code"], error["param"]


def events_of(response: Any) -> list[dict[str, Any]]:
    *events, last, rest = response.text.split("\n\n")
    assert (last, rest) == ("data: [DONE]", "")
    return [json.loads(event.removeprefix("data: ")) for event in events]


# ---------------------------------------------------------------------- OpenAI's protocol


def test_an_answer_as_openais_clients_expect_it_with_what_it_was_given_from(client: Any) -> None:
    response = client.post("/v1/chat/completions", json=chat())
    body = response.json()
    choice = body["choices"][0]
    assert (
        body["object"] == "chat.completion" and choice["message"]["role"] == "assistant" and choice["finish_reason"] in ("stop", "length")
    )
    assert body["usage"]["total_tokens"] == body["usage"]["prompt_tokens"] + body["usage"]["completion_tokens"]
    known = body["knowledge"]
    assert (known["stream"], known["position"], known["grounded"]) == ("test", {"news/0": 5}, True)
    assert known["sources"][0]["document_id"] == "p3" and known["sources"][0]["published_at"].startswith("20")
    assert response.headers["x-memstream-version"] == "5" and response.headers["x-memstream-grounded"] == "true"


def test_a_stream_says_the_same_piece_by_piece_and_ends_with_usage_and_knowledge(client: Any) -> None:
    whole = client.post("/v1/chat/completions", json=chat()).json()
    response = client.post("/v1/chat/completions", json=chat(stream=True, stream_options={"include_usage": True}))
    assert response.headers["content-type"].startswith("text/event-stream") and response.headers["x-memstream-stream"] == "test"
    events = events_of(response)
    assert events[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    text = "".join(choice["delta"].get("content", "") for event in events for choice in event["choices"])
    assert text == whole["choices"][0]["message"]["content"]
    assert events[-2]["choices"][0]["finish_reason"] == whole["choices"][0]["finish_reason"]
    assert events[-1]["usage"] == whole["usage"] and events[-1]["knowledge"]["sources"] == whole["knowledge"]["sources"]


def test_a_text_is_continued_as_it_stands(client: Any) -> None:
    body = client.post("/v1/completions", json={"model": "test", "prompt": "Person 4", "max_tokens": 4, "logprobs": 2}).json()
    choice = body["choices"][0]
    assert body["object"] == "text_completion" and body["usage"]["prompt_tokens"] == len("Person 4")
    assert len(choice["logprobs"]["token_logprobs"]) == body["usage"]["completion_tokens"]
    streamed = client.post("/v1/completions", json={"model": "test", "prompt": ["Person 4"], "max_tokens": 4, "stream": True})
    assert "".join(choice["text"] for event in events_of(streamed) for choice in event["choices"]) == choice["text"]


def test_several_answers_log_probabilities_seed_and_stop(client: Any) -> None:
    sampled = [
        client.post("/v1/chat/completions", json=chat(n=3, temperature=2, seed=11, logprobs=True, top_logprobs=2)).json() for _ in range(2)
    ]
    texts = [[choice["message"]["content"] for choice in body["choices"]] for body in sampled]
    assert texts[0] == texts[1] and len(set(texts[0])) > 1 and [choice["index"] for choice in sampled[0]["choices"]] == [0, 1, 2]
    tokens = sampled[0]["choices"][0]["logprobs"]["content"]
    assert all(token["logprob"] <= 0 and len(token["top_logprobs"]) == 2 for token in tokens)
    whole = client.post("/v1/chat/completions", json=chat(max_completion_tokens=12)).json()["choices"][0]["message"]["content"]
    stop = whole[3:5]
    stopped = client.post("/v1/chat/completions", json=chat(max_completion_tokens=12, stop=[stop])).json()["choices"][0]
    assert (stopped["message"]["content"], stopped["finish_reason"]) == (whole[: whole.index(stop)], "stop")


def test_the_models_are_the_streams(client: Any) -> None:
    assert [model["id"] for model in client.get("/v1/models").json()["data"]] == ["test"]
    assert client.get("/v1/models/test").json()["owned_by"] == "memstream"
    assert error_of(client.get("/v1/models/other")) == (404, "model_not_found", "model")


@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        ({"frequency_penalty": 0.5}, "unsupported_parameter", "frequency_penalty"),
        ({"tools": [{"type": "function"}]}, "unsupported_parameter", "tools"),
        ({"response_format": {"type": "json_object"}}, "unsupported_parameter", "response_format"),
        ({"logit_bias": {"5": 1}}, "unsupported_parameter", "logit_bias"),
        ({"temprature": 1}, "unknown_parameter", "temprature"),
        ({"n": 9}, "invalid_value", "n"),
        ({"n": 0}, "invalid_value", "n"),
        ({"temperature": -1}, "invalid_value", "temperature"),
        ({"top_p": 0}, "invalid_value", "top_p"),
        ({"max_tokens": "many"}, "invalid_value", "max_tokens"),
        ({"max_tokens": 100_000}, "invalid_value", None),
        ({"top_logprobs": 3}, "invalid_value", "top_logprobs"),
        ({"stop": [""]}, "invalid_value", "stop"),
        ({"messages": []}, "invalid_value", "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "invalid_value", "messages.0.role"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}, "unsupported_content", "messages"),
        ({"messages": [{"role": "system", "content": "Be short."}]}, "invalid_value", "messages"),
        ({"model": "test@yesterday"}, None, "model"),
        ({"knowledge": {"at_most": 3}}, "invalid_value", "knowledge.at_most"),
        ({"knowledge": {"at_least": {"news": 3}}}, "invalid_value", "knowledge.at_least"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(client: Any, fields: dict[str, Any], code: str | None, param: str | None) -> None:
    assert error_of(client.post("/v1/chat/completions", json=chat(**fields))) == (400, code, param)


def test_what_asks_nothing_of_the_model_is_let_through(client: Any) -> None:
    fields = {"user": "me", "metadata": {"a": "b"}, "presence_penalty": 0, "tools": [], "response_format": {"type": "text"}, "store": False}
    assert client.post("/v1/chat/completions", json=chat(**fields)).status_code == 200
    parts = [{"role": "developer", "content": "Be short."}, {"role": "user", "content": [{"type": "text", "text": "Who?"}]}]
    assert client.post("/v1/chat/completions", json=chat(messages=parts)).status_code == 200


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"null", b'{"model": NaN}', b"[" * 100_000, b'"\xff"', b'{"model": "test", "messages": "\\ud800"}']
)
def test_what_is_no_request_is_refused(client: Any, body: bytes) -> None:
    assert error_of(client.post("/v1/chat/completions", content=body, headers={"content-type": "application/json"}))[0] == 400


def test_bounded_a_large_request_and_a_wrong_type_are_refused(client: Any) -> None:
    large = client.post("/v1/chat/completions", content=b" " * (1 << 21), headers={"content-type": "application/json"})
    assert error_of(large)[:2] == (413, "too_large")
    assert error_of(client.post("/v1/chat/completions", content=b"{}", headers={"content-type": "text/plain"}))[:2] == (
        415,
        "wrong_content_type",
    )
    long = client.post("/v1/chat/completions", json=chat(messages=[{"role": "user", "content": "x" * 5000}]))
    assert error_of(long) == (400, "invalid_value", None) and "must have 1 to 2048" in long.json()["error"]["message"]


# ---------------------------------------------------------------------- knowledge


def test_read_your_writes_publish_ask_delete_ask(client: Any) -> None:
    published = client.post("/v1/documents", json={"id": "zed", "text": "Zed won 9.", "title": "Zed"}).json()
    asked = chat(messages=[{"role": "user", "content": "Zed won 9."}], knowledge={"at_least": published["at_least"], "wait_s": 20})
    known = client.post("/v1/chat/completions", json=asked).json()["knowledge"]
    assert known["sources"][0]["document_id"] == "zed" and known["position"]["news/0"] > published["offset"]
    place = f"/v1/documents/{published['topic']}/{published['partition']}/{published['offset']}"
    assert client.get(place).json()["state"] == "applied"
    gone = client.delete(place)
    assert gone.status_code == 202
    asked["knowledge"] = {"at_least": gone.json()["at_least"], "wait_s": 20}
    known = client.post("/v1/chat/completions", json=asked).json()["knowledge"]
    assert "zed" not in [source["document_id"] for source in known["sources"]]
    assert error_of(client.delete(place))[:2] == (404, "no_such_document")


def test_what_is_not_known_yet_is_refused_and_never_answered_from_something_older(client: Any) -> None:
    response = client.post("/v1/chat/completions", json=chat(knowledge={"at_least": {"news/0": 10_000}, "wait_s": 0.05}))
    assert error_of(response)[:2] == (503, "not_known_yet") and int(response.headers["retry-after"]) >= 1
    streamed = client.post("/v1/chat/completions", json=chat(stream=True, knowledge={"at_least": {"news/0": 10_000}}))
    assert error_of(streamed)[:2] == (503, "not_known_yet")


def test_filters_hold_in_the_sources(client: Any) -> None:
    for knowledge, allowed in (
        ({"exclude": ["p3"]}, {"p0", "p1", "p2", "p4"}),
        ({"sources": ["nobody"]}, set()),
        ({"until": "2001-01-01T00:00:00Z"}, set()),
        ({"max_blocks": 0}, set()),
    ):
        known = client.post("/v1/chat/completions", json=chat(knowledge=knowledge)).json()["knowledge"]
        assert {source["document_id"] for source in known["sources"]} <= allowed
        assert known["grounded"] is bool(allowed)


def test_as_of_names_a_snapshot_that_there_is(client: Any) -> None:
    assert error_of(client.post("/v1/chat/completions", json=chat(model="test@77"))) == (404, "no_such_snapshot", "knowledge.as_of")
    response = client.post("/v1/chat/completions", json=chat(knowledge={"as_of": "2001-01-01T00:00:00Z"}))
    assert error_of(response)[:2] == (404, "no_such_snapshot")


def test_what_is_remembered_can_be_searched_page_by_page(client: Any) -> None:
    page = client.get("/v1/knowledge/documents", params={"q": "title", "limit": 2}).json()
    assert page["total"] == 5 and [document["document_id"] for document in page["documents"]] == ["p4", "p3"]
    last = client.get("/v1/knowledge/documents", params={"q": "title", "limit": 2, "offset": 4}).json()
    assert [document["title"] for document in last["documents"]] == ["Title 0"]
    replica = client.get("/v1/knowledge").json()["replicas"][0]
    assert replica["phase"] == "running" and replica["remembered_documents"] >= 5 and replica["lag"] == 0
    assert client.get("/v1/documents/news/0/9000").json()["state"] == "waiting"


@pytest.mark.parametrize("path", ["/v1/documents/news/-1/0", "/v1/documents/news/0/99999999999999999999", "/v1/documents/news/x/0"])
def test_a_place_that_cannot_be_is_refused(client: Any, path: str) -> None:
    assert error_of(client.get(path))[0] == 400


def test_a_route_that_there_is_not_is_said_in_the_same_shape(client: Any) -> None:
    assert error_of(client.get("/v1/nothing"))[:2] == (404, "no_such_route")
    assert client.get("/v1/chat/completions").status_code in (404, 405)


# ---------------------------------------------------------------------- machines and people


def test_metrics_name_what_is_known_and_what_was_asked(client: Any) -> None:
    text = client.get("/metrics").text
    for name in (
        'memstream_records_total{outcome="applied",replica="0",stream="test"}',
        'memstream_lag_records{partition="news/0",replica="0",stream="test"} 0.0',
        'memstream_time_to_first_token_seconds_count{stream="test"}',
        'memstream_answers_total{grounded="true",stream="test"}',
        'memstream_replica_up{phase="running",replica="0",stream="test"} 1.0',
        'memstream_requests_total{route="/v1/chat/completions",status="200"}',
    ):
        assert name in text, name


def test_the_page_is_there_and_may_run_nothing_but_its_own(client: Any) -> None:
    page = client.get("/")
    assert page.status_code == 200 and "memstream" in page.text and "default-src 'self'" in page.headers["content-security-policy"]
    assert "<script>" not in page.text and "style=" not in page.text
    assert client.get("/page.js").status_code == client.get("/page.css").status_code == 200


def test_health_is_not_readiness(connect: Callable[..., Any], client: Any) -> None:
    strict = connect(ready_snapshot_age_s=1)
    assert strict.get("/health").status_code == 200
    response = strict.get("/ready")
    assert response.status_code == 503 and response.json()["reasons"] == ["test: the last snapshot is not written yet"]
    assert strict.get("/ready", params={"stream": "test"}).json() == response.json()
    assert error_of(strict.get("/ready", params={"stream": "other"}))[0] == 404


# ---------------------------------------------------------------------- keys


def test_keys_say_who_may_ask_and_who_may_publish(connect: Callable[..., Any], client: Any) -> None:
    closed = connect(keys=[key("reader", KEY), key("writer", OTHER, may=["publish"])], host="0.0.0.0")

    def bearer(value: str) -> dict[str, str]:
        return {"authorization": f"Bearer {value}"}

    assert error_of(closed.post("/v1/chat/completions", json=chat()))[:2] == (401, "no_key")
    assert error_of(closed.post("/v1/chat/completions", json=chat(), headers=bearer("wrong")))[:2] == (401, "invalid_api_key")
    assert closed.post("/v1/chat/completions", json=chat(), headers=bearer(KEY)).status_code == 200
    assert error_of(closed.post("/v1/documents", json={"text": "x"}, headers=bearer(KEY)))[:2] == (403, "not_permitted")
    assert error_of(closed.get("/v1/knowledge", headers=bearer(OTHER)))[:2] == (403, "not_permitted")
    for path in ("/v1/models", "/v1/knowledge", "/v1/knowledge/documents", "/v1/documents/news/0/0"):
        assert closed.get(path).status_code == 401
    assert closed.get("/health").status_code == 200
    assert KEY not in closed.get("/metrics", headers=bearer(KEY)).text


def test_a_key_may_come_so_often(connect: Callable[..., Any], client: Any) -> None:
    slow = connect(keys=[key("reader", KEY, per_minute=2)])
    codes = [slow.get("/v1/models", headers={"authorization": f"Bearer {KEY}"}) for _ in range(3)]
    assert [response.status_code for response in codes] == [200, 200, 429]
    assert error_of(codes[2])[:2] == (429, "rate_limit_exceeded") and 1 <= int(codes[2].headers["retry-after"]) <= 30


@pytest.mark.parametrize("host", ["0.0.0.0", "10.1.2.3", "::", "example.org"])
def test_nobody_listens_to_others_without_a_key_unless_told_so(host: str) -> None:
    with pytest.raises(ValueError, match=r"give http\.keys"):
        HttpConfig(host=host)
    assert HttpConfig(host=host, open_without_keys=True).host == host
