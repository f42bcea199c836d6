"""Asks a registry for schemas by number, with everything that they refer to. (Confluent's protocol: GET /schemas/ids, /subjects/versions.)

A number means the same schema for ever, so what was read once is never asked for again. Everything but "there is no such schema" is taken
for a registry that is away: it is waited for, and no record is passed over meanwhile.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias
from urllib.parse import quote

import httpx

from pipeline.bounded_http import NoAnswer, exchange
from pipeline.errors import RegistryUnavailable
from pipeline.reachability import tls_context
from pipeline.schemas.config import RegistryConfig
from pipeline.secrets import resolved

log = logging.getLogger(__name__)

Kind: TypeAlias = Literal["AVRO", "PROTOBUF", "JSON"]
"""What a registry calls them."""

MOST_REFERENCES: Final = 100
_ABSENT: Final = frozenset((40401, 40402, 40403))  # no such subject, version, schema
_KEY: Final = "decode.registry"


class NoSuchSchema(LookupError):
    """The registry answers that it has none."""


class BadSchema(ValueError):
    """What the registry has cannot be used; the message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Schema:
    """A schema and what it refers to, by the names it is referred to with; each after those that it needs itself."""

    kind: Kind
    text: str
    references: tuple[tuple[str, str], ...] = ()


class Registry:
    """Asks one. Schemas are few, so a connection lives for one of them: nothing to close, and secrets are read anew each time."""

    def __init__(self, config: RegistryConfig, environ: Mapping[str, str] = os.environ) -> None:
        self._config, self._environ = config, environ

    def schema(self, number: int) -> Schema:
        """The schema of a number.

        Raises:
            NoSuchSchema: there is none.
            BadSchema: it cannot be used.
            RegistryUnavailable: try again.
            ConfigurationError: a secret or a certificate is not there.
        """
        references: dict[str, str] = {}
        with self._connected() as client:
            told = self._asked(client, f"/schemas/ids/{number}")
            self._collect(client, told, references, ())
        return Schema(kind=_kind(told), text=_text(told), references=tuple(references.items()))

    def _collect(self, client: httpx.Client, told: Mapping[str, Any], found: dict[str, str], within: tuple[str, ...]) -> None:
        """Depth first, so that each comes after what it needs."""
        for reference in told.get("references") or ():
            name, subject, version = _reference(reference)
            if name in within:
                raise BadSchema(f"its references go in a circle: {' -> '.join((*within, name))}")
            if name in found:
                continue
            if len(found) + len(within) >= MOST_REFERENCES:
                raise BadSchema(f"it refers to more than {MOST_REFERENCES} others")
            try:
                inner = self._asked(client, f"/subjects/{quote(subject, safe='')}/versions/{version}")
            except NoSuchSchema as error:
                raise BadSchema(f"it refers to {name!r}, version {version} of {subject!r}, which the registry does not have") from error
            self._collect(client, inner, found, (*within, name))
            found[name] = _text(inner)

    def _asked(self, client: httpx.Client, path: str) -> Mapping[str, Any]:
        faults = []
        for url in self._config.url:
            try:
                return self._asked_of(client, url, path)
            except NoAnswer as error:
                faults.append(f"{url}: {error}")
        raise RegistryUnavailable("the schema registry cannot be asked: " + "; ".join(faults))

    def _asked_of(self, client: httpx.Client, url: str, path: str) -> Mapping[str, Any]:
        # a schema is quoted inside JSON, and there are references around it
        answer = exchange(
            client, "GET", url + path, timeout_s=self._config.timeout_s, max_bytes=2 * self._config.max_schema_bytes + (64 << 10)
        )
        told = _object(answer.body)
        if answer.status == 200 and isinstance(told.get("schema"), str):
            if len(told["schema"].encode("utf-8", "replace")) > self._config.max_schema_bytes:
                raise BadSchema(f"it is larger than {_KEY}.max_schema_bytes, {self._config.max_schema_bytes}")
            return told
        if answer.status == 404 and told.get("error_code") in _ABSENT:
            raise NoSuchSchema(path)
        if answer.status in (401, 403):
            raise NoAnswer(f"it does not let us in ({answer.status}); check {_KEY}.username and password, or token")
        if answer.status == 404:
            raise NoAnswer(f"there is no registry at this address ({path} is not found); check {_KEY}.url, the path in it included")
        raise NoAnswer(f"it answered {answer.status}" + (f" ({str(told['message'])[:200]})" if told.get("message") else ""))

    def _connected(self) -> httpx.Client:
        config = self._config
        security = {name: getattr(config, name) for name in ("ssl_cafile", "ssl_certfile", "ssl_keyfile")}
        if config.ssl_password is not None:
            security["ssl_password"] = self._secret("ssl_password")
        headers = {"Accept": "application/vnd.schemaregistry.v1+json, application/json"}
        if config.token is not None:
            headers["Authorization"] = f"Bearer {self._secret('token')}"
        secure = any(url.startswith("https:") for url in config.url)
        auth = None if config.password is None else httpx.BasicAuth(self._secret("username"), self._secret("password"))
        return httpx.Client(headers=headers, auth=auth, verify=tls_context(security, _KEY) if secure else True)

    def _secret(self, name: str) -> str:
        return resolved(f"{_KEY}.{name}", getattr(self._config, name), self._environ)


def _object(body: bytes) -> Mapping[str, Any]:
    try:
        told = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return told if isinstance(told, dict) else {}


def _kind(told: Mapping[str, Any]) -> Kind:
    kind = told.get("schemaType", "AVRO")
    if kind not in ("AVRO", "PROTOBUF", "JSON"):
        raise BadSchema(f"it is of the kind {str(kind)[:40]!r}, which is not known here")
    found: Kind = kind
    return found


def _text(told: Mapping[str, Any]) -> str:
    text: str = told["schema"]
    return text


def _reference(reference: object) -> tuple[str, str, int]:
    if isinstance(reference, dict):
        name, subject, version = (reference.get(part) for part in ("name", "subject", "version"))
        if isinstance(name, str) and isinstance(subject, str) and type(version) is int:
            return name, subject, version
    raise BadSchema("its references have no name, subject and version")
