"""Secrets are named, never written: `${NAME}` is the environment variable NAME, `${file:PATH}` what a file holds.

A configuration travels, is shown and is stored in every manifest; what it names is looked up where and when it is used, and never kept.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Annotated, TypeAlias

from pydantic import AfterValidator

from pipeline.errors import ConfigurationError
from pipeline.paths import absolute

_REFERENCE = re.compile(r"\$\{(?:file:(?P<file>[^}]+)|(?P<name>[A-Za-z_][A-Za-z0-9_]*))\}")
_MOST_BYTES = 64 << 10


def with_absolute_files(value: str) -> str:
    """The text with the paths in its references settled where the user stands.

    >>> with_absolute_files("${file:/etc/../etc/key} ${NAME}")
    '${file:/etc/key} ${NAME}'
    """
    return _REFERENCE.sub(lambda match: f"${{file:{absolute(match['file'])}}}" if match["file"] else match[0], value)


def only_named(value: str) -> str:
    """Raises ValueError for a secret that is written out."""
    if _REFERENCE.fullmatch(value) is None:
        raise ValueError("a secret is not written into a configuration: name where it is, as ${NAME} of the environment or ${file:PATH}")
    return value


SecretName: TypeAlias = Annotated[str, AfterValidator(with_absolute_files), AfterValidator(only_named)]
"""Where a secret is; `resolved` looks it up."""


def resolved(key: str, value: str, environ: Mapping[str, str] = os.environ) -> str:
    """The text with what it names put in. `key`: of the configuration, for the ConfigurationError where it cannot be had.

    >>> resolved("kafka.sasl_plain_username", "reader-${SITE}", {"SITE": "berlin"})
    'reader-berlin'
    """

    def look_up(match: re.Match[str]) -> str:
        if match["file"]:
            return _in_file(key, match["file"])
        if match["name"] not in environ:
            raise ConfigurationError(f"{key}: the environment variable {match['name']} is not set")
        return environ[match["name"]]

    return _REFERENCE.sub(look_up, value)


def _in_file(key: str, path: str) -> str:
    """What a file holds, without the line feed at its end."""
    try:
        with open(path, "rb") as file:
            return file.read(_MOST_BYTES).decode().rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{key}: cannot read {path}: {error}") from error
