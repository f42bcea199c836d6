"""Where schemas come from."""

from __future__ import annotations

from typing import Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from pipeline.paths import LocalPath
from pipeline.secrets import Referring, Secret


class RegistryConfig(BaseModel):
    """A schema registry that speaks Confluent's protocol: Confluent's own, Karapace, Apicurio (`.../apis/ccompat/v7`), Redpanda's."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: tuple[str, ...] = Field(
        default=(), description="Address of the registry, as https://HOST:PORT; a list or comma-separated: the next one where one is away."
    )
    username: Referring | None = Field(default=None, description="User, for basic authentication; also as `${NAME}` or `${file:PATH}`.")
    password: Secret | None = Field(default=None, description="Password; as `${NAME}` or `${file:PATH}`.")
    token: Secret | None = Field(default=None, description="Bearer token, instead of user and password; as `${NAME}` or `${file:PATH}`.")
    ssl_cafile: LocalPath | None = Field(default=None, description="File with the CA certificates that sign the registry's (PEM).")
    ssl_certfile: LocalPath | None = Field(default=None, description="File with the client's certificate (PEM), for mutual TLS.")
    ssl_keyfile: LocalPath | None = Field(default=None, description="File with the client's private key (PEM).")
    ssl_password: Secret | None = Field(default=None, description="Password of the private key; as `${NAME}` or `${file:PATH}`.")
    timeout_s: float = Field(default=5.0, gt=0, le=60, description="How long one request may take.")
    max_schemas: int = Field(default=1000, ge=1, description="Schemas that are kept ready; the longest unused leaves.")
    max_schema_bytes: int = Field(default=1 << 20, ge=1, description="A larger schema is not used.")

    @field_validator("url", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("url")
    @classmethod
    def _addresses(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(map(_address, value))

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if (self.username is None) != (self.password is None):
            raise ValueError("username and password belong together")
        if self.token is not None and self.username is not None:
            raise ValueError("either token, or username and password")
        if (self.password or self.token) and any(urlsplit(url).scheme == "http" and not _is_here(url) for url in self.url):
            raise ValueError("a password or token is not sent over http, where anybody on the way reads it: use https")
        files = [name for name in ("ssl_cafile", "ssl_certfile", "ssl_keyfile", "ssl_password") if getattr(self, name) is not None]
        if files and not any(url.startswith("https:") for url in self.url):
            raise ValueError(f"{files[0]} is not used without an https address")
        return self


def _address(text: str) -> str:
    parts = urlsplit(text)
    if parts.username is not None or parts.password is not None:
        raise ValueError("no user or password in an address: username and password (as ${NAME} or ${file:PATH}) have keys of their own")
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise ValueError(f"{text!r} is no address of a registry: want http://HOST:PORT or https://HOST:PORT")
    parts.port  # noqa: B018  raises ValueError where it is none
    return text.rstrip("/")


def _is_here(url: str) -> bool:
    return urlsplit(url).hostname in ("127.0.0.1", "localhost", "::1")
