"""Whatever a client makes of the API's description: an answer or a clear refusal, never an error of the server's."""

from __future__ import annotations

from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings

from actors.http.app import make_app
from actors.http.config import HttpConfig
from tests.doubles.streams import LocalStream

pytestmark = pytest.mark.filterwarnings("ignore")  # of the libraries that make up the requests

MEANT = ("not_known_yet", "not_ready", "timeout")
"""Refusals with a 5xx of their own: they say that the same request may be met later."""


def checked(case: Any) -> None:
    if isinstance(case.body, dict) and isinstance(case.body.get("knowledge"), dict):
        case.body["knowledge"].pop("wait_s", None)  # it would wait for what never comes
    response = case.call()
    if response.status_code >= 500:
        body = response.json()
        assert "reasons" in body or body["error"]["code"] in MEANT, response.text


def test_no_request_makes_the_server_fail(stream: LocalStream) -> None:
    description = schemathesis.openapi.from_asgi("/openapi.json", make_app(stream, HttpConfig()))
    count = 0
    for found in description.get_all_operations():
        operation: Any = found
        count += 1

        @settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck), database=None, derandomize=True)
        @given(case=operation.ok().as_strategy())
        def fuzzed(case: Any) -> None:
            checked(case)

        fuzzed()
    assert count >= 12
