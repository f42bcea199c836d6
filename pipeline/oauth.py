"""Tokens for OAUTHBEARER: granted to a client that says who it is (RFC 6749, 4.4), or read from a file that somebody keeps fresh."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final
from urllib.parse import quote, urlsplit

import httpx
from kafka.net.sasl.oauth import AbstractTokenProvider

from pipeline.bounded_http import NoAnswer, exchange
from pipeline.errors import AccessRefused, ConfigurationError
from pipeline.reachability import tls_context
from pipeline.secrets import read_secret

GRANT_TIMEOUT_S: Final = 5.0
USED_SHARE: Final = 0.8
"""Of a token's life, after which a new one is asked for."""

_MOST_BYTES: Final = 256 << 10
_LIFE_S: Final = 300.0  # of a token whose server does not say
_TOKEN: Final = re.compile(r"[A-Za-z0-9._~+/=-]+")


class Tokens(AbstractTokenProvider):  # type: ignore[misc]  # kafka-python has no types
    """Gives a token that has not expired, to kafka-python and to whoever looks first whether there is one."""

    def __init__(self, fresh: Callable[[], tuple[str, float]], clock_s: Callable[[], float] = time.monotonic) -> None:
        self._fresh, self._clock_s = fresh, clock_s
        self._lock = threading.Lock()
        self._token, self._until_s = "", float("-inf")

    def token(self) -> str:
        """Raises AccessRefused where there is none to be had, ConfigurationError where a file is not there."""
        with self._lock:
            if self._clock_s() >= self._until_s:
                self._token, life_s = self._fresh()
                self._until_s = self._clock_s() + USED_SHARE * life_s
            return self._token

    def forget(self) -> None:
        """The broker did not take it: the next one is a new one."""
        with self._lock:
            self._until_s = float("-inf")


def file_tokens(path: str) -> Tokens:
    """Tokens out of a file, read anew each time."""

    def read() -> tuple[str, float]:
        return _checked(read_secret("kafka.sasl_oauth_token_file", path).strip(), f"kafka.sasl_oauth_token_file: {path}"), 0.0

    return Tokens(read)


@lru_cache(maxsize=32)
def granted_tokens(url: str, client: str, secret: str, scope: str | None, tls: tuple[tuple[str, str], ...] = ()) -> Tokens:
    """Tokens of a token endpoint, one for all connections of this process while it is good.

    Args:
        tls: `ssl_cafile` and others, where the endpoint's certificate is not one of those that the system trusts.
    """
    # RFC 6749, 2.3.1: encoded before they are put together
    auth = httpx.BasicAuth(quote(client, safe=""), quote(secret, safe=""))
    form = {"grant_type": "client_credentials", **({"scope": scope} if scope else {})}

    def grant() -> tuple[str, float]:
        verify = tls_context(dict(tls)) if tls and url.startswith("https:") else True
        try:
            with httpx.Client(auth=auth, verify=verify, headers={"Accept": "application/json"}) as http:
                answer = exchange(http, "POST", url, timeout_s=GRANT_TIMEOUT_S, max_bytes=_MOST_BYTES, data=form)
        except NoAnswer as error:
            raise AccessRefused(f"no token from {url}: {error}; check kafka.sasl_oauth_token_url") from error
        told = _object(answer.body)
        if answer.status != 200 or not isinstance(told.get("access_token"), str):
            why = " ".join(str(told[name])[:200] for name in ("error", "error_description") if told.get(name))
            raise AccessRefused(
                f"no token from {url}: it answered {answer.status}{f' ({why})' if why else ''};"
                " check kafka.sasl_oauth_client_id, sasl_oauth_client_secret and sasl_oauth_scope"
            )
        return _checked(told["access_token"], url), _life_s(told.get("expires_in"))

    return Tokens(grant)


def token_address(text: str) -> str:
    """An address to send a client's secret to. Raises ValueError for one that is none, or that would show it to anybody on the way."""
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None:
        raise ValueError("want https://HOST/PATH of a token endpoint, without user and password")
    if parts.scheme == "http" and parts.hostname not in ("127.0.0.1", "localhost", "::1"):
        raise ValueError("a client's secret is not sent over http, where anybody on the way reads it: use https")
    return text


def _object(body: bytes) -> dict[str, Any]:
    try:
        told = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return told if isinstance(told, dict) else {}


def _life_s(told: object) -> float:
    if isinstance(told, int | float) and not isinstance(told, bool) and 0 < told < 1e9:
        return float(told)
    return _LIFE_S


def _checked(token: str, where: str) -> str:
    """A token that can be nothing but a token in the message that carries it."""
    if _TOKEN.fullmatch(token) is None:
        raise ConfigurationError(f"{where} holds no bearer token")
    return token
