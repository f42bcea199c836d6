"""One HTTP exchange within a time and a size, whatever the other side does."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

import httpx


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came back."""

    status: int
    body: bytes


class NoAnswer(Exception):
    """Nothing usable came back; the message says what was seen."""


def exchange(
    client: httpx.Client, method: str, url: str, *, timeout_s: float, max_bytes: int, data: Mapping[str, str] | None = None
) -> Answer:
    """The answer to one request. A redirection is an answer like any other: secrets go nowhere but where they were sent.

    Raises NoAnswer after `timeout_s` in all, for more than `max_bytes`, and for whatever a network can do.
    """
    deadline_s = time.monotonic() + timeout_s
    try:
        with client.stream(method, url, data=data, timeout=timeout_s, follow_redirects=False) as response:
            body = bytearray()
            for part in response.iter_bytes():
                body += part
                if len(body) > max_bytes:
                    raise NoAnswer(f"an answer of more than {max_bytes} bytes")
                if time.monotonic() > deadline_s:
                    raise NoAnswer(f"no whole answer within {timeout_s:g} s")
            return Answer(status=response.status_code, body=bytes(body))
    except httpx.TimeoutException as error:
        raise NoAnswer(f"no answer within {timeout_s:g} s") from error
    except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError) as error:
        raise NoAnswer(_told(error)) from error


def _told(error: Exception) -> str:
    text = str(error) or type(error).__name__
    if "CERTIFICATE_VERIFY_FAILED" in text:
        return f"its certificate is not to be trusted ({text}); name the CA that signed it with ssl_cafile"
    return text
