"""A running stream, as `ask` and `status` see it: on a Ray cluster, or behind an address of the HTTP front."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import fields
from datetime import UTC, datetime
from typing import Any, Protocol, Self, TypeGuard

import httpx

from actors.errors import NoReplica
from actors.messages import Answer, Choice, Knowledge, Phase, Question, ReplicaStatus, Role, Source
from jobs.running import find_stream, find_streams
from pipeline.errors import ConfigurationError, MemstreamError

KEY_VARIABLE = "MEMSTREAM_KEY"
TIMEOUT_S = 150.0


class HttpRefused(MemstreamError):
    """The server refused the request; the message is its own."""


class Deployment(Protocol):
    """What can be asked, and how it stands."""

    @property
    def stream(self) -> str: ...

    def ask(self, question: Question) -> Answer: ...

    def statuses(self) -> list[ReplicaStatus]: ...


def deployment(stream: str | None, address: str | None) -> Deployment:
    """The stream at an address: http:// or https:// of its front, HOST:PORT of its Ray cluster, or none: the one that runs here.

    Raises:
        NoReplica: none runs there.
        ConfigurationError: there are several, and none was named.
    """
    return HttpDeployment(address, stream) if _is_front(address) else find_stream(stream, address)


def deployments(stream: str | None, address: str | None) -> Sequence[Deployment]:
    """All streams at such an address, or the named one alone. Raises as `deployment`."""
    if stream is not None:
        return [deployment(stream, address)]
    return HttpDeployment.all(address) if _is_front(address) else find_streams(address)


def _is_front(address: str | None) -> TypeGuard[str]:
    return address is not None and address.startswith(("http://", "https://"))


class HttpDeployment:
    """A stream behind a front; the key is that in MEMSTREAM_KEY."""

    def __init__(self, url: str, stream: str | None) -> None:
        key = os.environ.get(KEY_VARIABLE)
        self._client = httpx.Client(
            base_url=url.rstrip("/"), timeout=TIMEOUT_S, headers={"Authorization": f"Bearer {key}"} if key else {}, follow_redirects=False
        )
        self._url, self._stream = url, stream

    @classmethod
    def all(cls, url: str) -> list[Self]:
        """All streams behind the front."""
        names = cls(url, None)._names()
        if not names:
            raise NoReplica(f"at {url} run no streams")
        return [cls(url, name) for name in names]

    def _names(self) -> list[str]:
        return [model["id"] for model in self._called("GET", "/v1/models")["data"]]

    @property
    def stream(self) -> str:
        """The name of the stream: the one that was given, or the only one."""
        if self._stream is None:
            names = self._names()
            if len(names) != 1:
                raise ConfigurationError(f"at {self._url} run {' | '.join(names) or 'no streams'}: choose with --stream")
            self._stream = str(names[0])
        return self._stream

    def ask(self, question: Question) -> Answer:
        only = question.only
        knowledge = {
            "sources": list(only.sources),
            "since": _iso(only.since_ms),
            "until": _iso(only.until_ms),
            "exclude": list(only.exclude),
        }
        body: dict[str, Any] = {"model": self.stream, "messages": [dict(each) for each in question.messages]}
        body["knowledge"] = {name: value for name, value in knowledge.items() if value}
        if question.max_new_tokens is not None:
            body["max_tokens"] = question.max_new_tokens
        started = datetime.now(UTC)
        answered = self._called("POST", "/v1/chat/completions", json=body)
        return answer_of(answered, (datetime.now(UTC) - started).total_seconds())

    def statuses(self) -> list[ReplicaStatus]:
        replicas = self._called("GET", "/v1/knowledge", params={"stream": self.stream})["replicas"]
        return [status_of(each) for each in replicas]

    def _called(self, method: str, path: str, **arguments: Any) -> dict[str, Any]:
        try:
            response = self._client.request(method, path, **arguments)
        except httpx.HTTPError as error:
            raise NoReplica(f"{self._url} does not answer: {error}") from error
        if response.is_success:
            found: dict[str, Any] = response.json()
            return found
        message = response.text[:500]
        with suppress(ValueError, KeyError, TypeError):
            message = str(response.json()["error"]["message"])
        hint = f"; put a key into {KEY_VARIABLE}" if response.status_code == 401 else ""
        if response.status_code in (429, 503, 504):
            raise NoReplica(message)
        raise HttpRefused(f"{message}{hint} (HTTP {response.status_code})")


def answer_of(body: Mapping[str, Any], seconds: float) -> Answer:
    """What the front said, as a replica would have said it."""
    knowledge = dict(body["knowledge"])
    sources = tuple(map(_source_of, knowledge.pop("sources")))
    known = Knowledge(
        **knowledge | {"watermark_ms": _ms(knowledge.pop("watermark")), "complete_up_to_ms": _ms(knowledge.pop("complete_up_to"))},
        sources=sources,
    )
    choice = body["choices"][0]
    said = Choice(
        text=choice["message"]["content"],
        finish_reason=choice["finish_reason"],
        completion_tokens=body["usage"]["completion_tokens"],
    )
    return Answer(choices=(said,), prompt_tokens=body["usage"]["prompt_tokens"], knowledge=known, seconds=seconds)


def _source_of(body: Mapping[str, Any]) -> Source:
    known = {name: value for name, value in body.items() if name != "published_at"}
    return Source(**known, published_at_ms=_ms(body["published_at"]) or 0)


def status_of(body: Mapping[str, Any]) -> ReplicaStatus:
    """A replica's status as the front shows it."""
    names = {field.name for field in fields(ReplicaStatus)}
    times = {"watermark_ms": _ms(body.get("watermark")), "complete_up_to_ms": _ms(body.get("complete_up_to"))}
    known = {name: value for name, value in body.items() if name in names}
    role = None if body.get("role") is None else Role(body["role"])
    return ReplicaStatus(**{**known, **times, "phase": Phase(body["phase"]), "role": role})


def _ms(iso: str | None) -> int | None:
    return None if iso is None else int(datetime.fromisoformat(iso).timestamp() * 1000)


def _iso(time_ms: int | None) -> str | None:
    return None if time_ms is None else datetime.fromtimestamp(time_ms / 1000, UTC).isoformat()
