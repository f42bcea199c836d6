"""How to be let in by the brokers: TLS, SASL PLAIN, SCRAM and OAUTHBEARER."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from typing import Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from pipeline.errors import ConfigurationError
from pipeline.oauth import Tokens, file_tokens, granted_tokens, token_address
from pipeline.paths import LocalPath
from pipeline.secrets import Referring, Secret, resolved

_USER: Final[tuple[str, ...]] = ("sasl_plain_username", "sasl_plain_password")
_GRANT: Final[tuple[str, ...]] = ("sasl_oauth_token_url", "sasl_oauth_client_id", "sasl_oauth_client_secret")
_FILE: Final[tuple[str, ...]] = ("sasl_oauth_token_file",)
_OAUTH: Final = (*_GRANT, "sasl_oauth_scope", *_FILE)
_TLS: Final = ("ssl_cafile", "ssl_certfile", "ssl_keyfile", "ssl_password")
_FILES: Final = ("ssl_cafile", "ssl_certfile", "ssl_keyfile")


class SecurityConfig(BaseModel):
    """How to be let in.

    `${NAME}` in a value is the environment variable NAME, `${file:PATH}` what a file holds: looked up where and when a connection is made,
    and never stored. A secret can be written in no other way: this configuration travels, and is shown.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        default="PLAINTEXT", description="Protocol spoken with the brokers."
    )
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"] | None = Field(
        default=None, description="SASL mechanism; needed with SASL_PLAINTEXT and SASL_SSL."
    )
    sasl_plain_username: Referring | None = Field(
        default=None, description="User for PLAIN and SCRAM; also as `${NAME}` or `${file:PATH}`."
    )
    sasl_plain_password: Secret | None = Field(default=None, description="Password for PLAIN and SCRAM; as `${NAME}` or `${file:PATH}`.")
    sasl_oauth_token_url: str | None = Field(
        default=None, description="OAUTHBEARER: where tokens are granted to a client that says who it is (OAuth 2 client credentials)."
    )
    sasl_oauth_client_id: Referring | None = Field(
        default=None, description="OAUTHBEARER: the client; also as `${NAME}` or `${file:PATH}`."
    )
    sasl_oauth_client_secret: Secret | None = Field(default=None, description="OAUTHBEARER: its secret; as `${NAME}` or `${file:PATH}`.")
    sasl_oauth_scope: str | None = Field(default=None, description="OAUTHBEARER: scope to ask for.")
    sasl_oauth_token_file: LocalPath | None = Field(
        default=None, description="OAUTHBEARER: a file that holds the token, kept fresh by somebody else and read anew each time."
    )
    ssl_cafile: LocalPath | None = Field(default=None, description="File with the CA certificates that sign the brokers' (PEM).")
    ssl_certfile: LocalPath | None = Field(default=None, description="File with the client's certificate (PEM), for mutual TLS.")
    ssl_keyfile: LocalPath | None = Field(default=None, description="File with the client's private key (PEM).")
    ssl_password: Secret | None = Field(default=None, description="Password of the private key; as `${NAME}` or `${file:PATH}`.")
    ssl_check_hostname: bool = Field(default=True, description="Whether the broker's name must be the one in its certificate.")

    @field_validator("sasl_oauth_token_url")
    @classmethod
    def _is_an_address(cls, value: str | None) -> str | None:
        return None if value is None else token_address(value)

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        sasl, tls = self.security_protocol.startswith("SASL"), self.security_protocol.endswith("SSL")
        given = [name for name in ("sasl_mechanism", *_USER, *_OAUTH) if getattr(self, name) is not None]
        if given and not sasl:
            raise ValueError(
                f"{given[0]} is not used with security_protocol {self.security_protocol}: set it to SASL_SSL or SASL_PLAINTEXT"
            )
        if sasl:
            self._require_credentials(set(given))
        files = [name for name in _TLS if getattr(self, name) is not None]
        if files and not tls:
            raise ValueError(f"{files[0]} is not used with security_protocol {self.security_protocol}: set it to SSL or SASL_SSL")
        return self

    def _require_credentials(self, given: set[str]) -> None:
        oauth = self.sasl_mechanism == "OAUTHBEARER"
        if oauth:
            wanted = _FILE if "sasl_oauth_token_file" in given else _GRANT
            foreign = given & ({*_USER} | ({*_GRANT, "sasl_oauth_scope"} if wanted is _FILE else set()))
        else:
            wanted, foreign = _USER, given & {*_OAUTH}
        missing = sorted({"sasl_mechanism", *wanted} - given)
        if missing:
            other = ", or sasl_oauth_token_file alone" if wanted is _GRANT else ""
            raise ValueError(f"security_protocol {self.security_protocol} needs {', '.join(missing)} as well{other}")
        if foreign:
            raise ValueError(
                f"{min(foreign)} is not used with sasl_mechanism {self.sasl_mechanism}" + (" and a token file" if oauth else "")
            )


def security_options(config: SecurityConfig, environ: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """kafka-python's options of the same names, secrets looked up. Raises ConfigurationError for what is not there."""
    options: dict[str, Any] = {}
    for name in SecurityConfig.model_fields:
        value = getattr(config, name)
        if value is not None and name not in _OAUTH:
            options[name] = resolved(f"kafka.{name}", value, environ) if isinstance(value, str) else value
    for name in _FILES:
        if name in options and not os.path.isfile(options[name]):
            raise ConfigurationError(f"kafka.{name}: there is no file {options[name]} on {platform.node()}, where the connection is made")
    if config.sasl_mechanism == "OAUTHBEARER":
        options["sasl_oauth_token_provider"] = _tokens(config, options, environ)
    return options


def _tokens(config: SecurityConfig, options: Mapping[str, Any], environ: Mapping[str, str]) -> Tokens:
    if config.sasl_oauth_token_file is not None:
        return file_tokens(config.sasl_oauth_token_file)
    url, client, secret = (resolved(f"kafka.{name}", getattr(config, name), environ) for name in _GRANT)
    tls = tuple((name, options[name]) for name in _TLS if name in options)
    return granted_tokens(url, client, secret, config.sasl_oauth_scope, tls)
