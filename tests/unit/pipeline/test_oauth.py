"""Tokens: asked for once while they are good, and again before they expire; what goes wrong is said with the key to look at."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest

from jobs.config import parse_config
from pipeline.errors import AccessRefused, ConfigurationError
from pipeline.kafka_client import KafkaConfig, connection_options
from pipeline.oauth import USED_SHARE, Tokens, file_tokens, granted_tokens

OAUTH: dict[str, Any] = {
    "bootstrap_servers": "one:9092",
    "topics": ["news"],
    "security_protocol": "SASL_SSL",
    "sasl_mechanism": "OAUTHBEARER",
    "sasl_oauth_token_url": "https://idp.example.org/token",
    "sasl_oauth_client_id": "memstream",
    "sasl_oauth_client_secret": "${CLIENT_SECRET}",
}


class Endpoint:
    """Grants tokens to memstream with the secret s3:cret."""

    def __init__(self) -> None:
        self.asked: list[dict[str, list[str]]] = []
        self.says: tuple[int, bytes] | None = None
        self.url = ""

    def answer(self, authorization: str, form: dict[str, list[str]]) -> tuple[int, bytes]:
        self.asked.append(form)
        if self.says is not None:
            return self.says
        if base64.b64decode(authorization.removeprefix("Basic ")) != b"memstream:s3%3Acret":
            return 401, b'{"error": "invalid_client", "error_description": "wrong secret"}'
        return 200, json.dumps({"access_token": f"token-{len(self.asked)}", "expires_in": 100}).encode()


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    granted_tokens.cache_clear()
    granting = Endpoint()

    class Handler(BaseHTTPRequestHandler):
        wbufsize = -1

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            status, answer = granting.answer(self.headers["Authorization"], parse_qs(body))
            self.send_response(status)
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, format: str, *args: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    granting.url = f"http://127.0.0.1:{server.server_address[1]}/token"
    yield granting
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_token_is_granted_once_while_it_is_good(endpoint: Endpoint) -> None:
    tokens = granted_tokens(endpoint.url, "memstream", "s3:cret", "kafka")
    assert [tokens.token(), tokens.token()] == ["token-1"] * 2
    assert granted_tokens(endpoint.url, "memstream", "s3:cret", "kafka").token() == "token-1"
    assert endpoint.asked == [{"grant_type": ["client_credentials"], "scope": ["kafka"]}]
    tokens.forget()
    assert tokens.token() == "token-2"


def test_it_is_renewed_before_it_expires() -> None:
    now, made = [0.0], iter("abc")
    tokens = Tokens(lambda: (next(made), 100.0), lambda: now[0])
    assert tokens.token() == "a"
    now[0] = 100 * USED_SHARE - 1
    assert tokens.token() == "a"
    now[0] = 100 * USED_SHARE
    assert tokens.token() == "b"


@pytest.mark.parametrize(
    ("says", "said"),
    [
        ((401, b'{"error": "invalid_client"}'), r"it answered 401 \(invalid_client\); check kafka\.sasl_oauth_client_id"),
        ((200, b"<html>"), "it answered 200; check"),
        ((503, b"[" * 100_000), "it answered 503; check"),
        ((200, b'{"access_token": 3}'), "it answered 200; check"),
        ((200, b"x" * (1 << 20)), "an answer of more than"),
    ],
)
def test_what_is_no_token_is_said_and_tried_again(endpoint: Endpoint, says: tuple[int, bytes], said: str) -> None:
    tokens = granted_tokens(endpoint.url, "memstream", "s3:cret", None)
    endpoint.says = says
    with pytest.raises(AccessRefused, match=said) as caught:
        tokens.token()
    assert caught.value.retriable and "s3:cret" not in str(caught.value)
    endpoint.says = None
    assert tokens.token() == "token-2"


def test_a_token_cannot_carry_more_than_itself(endpoint: Endpoint) -> None:
    endpoint.says = 200, json.dumps({"access_token": "t\x01auth=Bearer other"}).encode()
    with pytest.raises(ConfigurationError, match="holds no bearer token"):
        granted_tokens(endpoint.url, "memstream", "s3:cret", None).token()


def test_a_file_is_read_anew_each_time(tmp_path: Path) -> None:
    path = tmp_path / "token"
    tokens = file_tokens(str(path))
    with pytest.raises(ConfigurationError, match=r"kafka\.sasl_oauth_token_file: cannot read"):
        tokens.token()
    path.write_text("first\n")
    assert tokens.token() == "first"
    path.write_text("second\n")
    assert tokens.token() == "second"


def test_a_clients_secret_is_looked_up_when_a_connection_is_made() -> None:
    config = KafkaConfig.model_validate(OAUTH)
    options = connection_options(config, {"CLIENT_SECRET": "s3cret"})
    assert isinstance(options["sasl_oauth_token_provider"], Tokens)
    assert not {name for name in options if name.startswith("sasl_oauth")} - {"sasl_oauth_token_provider"}
    assert "s3cret" not in config.model_dump_json()
    with pytest.raises(ConfigurationError, match=r"kafka\.sasl_oauth_client_secret: the environment variable CLIENT_SECRET is not set"):
        connection_options(config, {})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"sasl_oauth_client_secret": "s3cret"}, "a secret is not written into a configuration"),
        ({"sasl_oauth_client_secret": None}, "needs sasl_oauth_client_secret as well, or sasl_oauth_token_file alone"),
        ({"sasl_oauth_token_file": "/token"}, "is not used with sasl_mechanism OAUTHBEARER and a token file"),
        ({"sasl_plain_username": "reader"}, "sasl_plain_username is not used with sasl_mechanism OAUTHBEARER"),
        ({"sasl_mechanism": "PLAIN"}, "needs sasl_plain_password, sasl_plain_username"),
        ({"sasl_oauth_token_url": "http://idp.example.org/token"}, "not sent over http"),
        ({"sasl_oauth_token_url": "idp.example.org"}, "want https://HOST/PATH"),
        ({"security_protocol": "SSL"}, "sasl_mechanism is not used with security_protocol SSL"),
    ],
)
def test_keys_that_do_not_fit_together_are_refused(change: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_config({"kafka": {**OAUTH, **change}})
    assert said in str(caught.value)
