"""Where the front listens, who may ask and publish, and how much."""

from __future__ import annotations

import ipaddress
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

Use = Literal["ask", "publish"]


class KeyConfig(BaseModel):
    """One key, by its digest: whoever reads the configuration cannot use it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, StringConstraints(min_length=1, max_length=64)] = Field(description="Whose it is; for logs and metrics.")
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")] = Field(
        description="SHA-256 of the key, hexadecimal: printf %s KEY | sha256sum"
    )
    may: tuple[Use, ...] = Field(default=("ask",), min_length=1, description="ask, publish, or both.")
    per_minute: int | None = Field(default=None, ge=1, description="Requests a minute; null: as many as come.")


class HttpConfig(BaseModel):
    """The front."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    host: str = Field(default="127.0.0.1", description="Address to listen on. Another one than this machine's own needs keys.")
    port: int = Field(default=8000, ge=0, le=65535, description="Port to listen on.")
    keys: tuple[KeyConfig, ...] = Field(default=(), description="Who may ask and publish; none: everybody who reaches the address.")
    open_without_keys: bool = Field(default=False, description="Listen on another address than this machine's own without any key.")
    max_body_bytes: int = Field(default=1 << 20, ge=1 << 10, description="Larger requests are refused.")
    max_answers: int = Field(default=8, ge=1, description="Answers (n) that one request may ask for.")
    ready_snapshot_age_s: float | None = Field(
        default=None, gt=0, description="With an older last snapshot the stream is not ready. null: its age does not matter."
    )

    @model_validator(mode="after")
    def _closed_to_others(self) -> Self:
        if not self.keys and not self.open_without_keys and not is_loopback(self.host):
            raise ValueError(
                f"http.host {self.host} can be reached by others: give http.keys (sha256 of each), or set http.open_without_keys: true"
            )
        names = [key.name for key in self.keys]
        if len(set(names)) < len(names):
            raise ValueError("http.keys: two keys have the same name")
        return self


def is_loopback(host: str) -> bool:
    """Whether an address is this machine's own.

    >>> [is_loopback(host) for host in ("127.0.0.1", "localhost", "::1", "0.0.0.0", "10.0.0.7", "")]
    [True, True, True, False, False, False]
    """
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
