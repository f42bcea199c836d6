"""How a configuration names a secret without holding it: `${NAME}` of the environment, `${file:PATH}` for what a file holds.

Looked up where and when a connection is made, and never stored: a configuration travels, and is shown.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Annotated, Final, TypeAlias

from pydantic import AfterValidator

from pipeline.errors import ConfigurationError
from pipeline.paths import absolute

MOST_SECRET_BYTES: Final = 64 << 10

_REFERENCE: Final = re.compile(r"\$\{(?:file:(?P<file>[^}]+)|(?P<name>[A-Za-z_][A-Za-z0-9_]*))\}")


def _files_are_absolute(value: str) -> str:
    return _REFERENCE.sub(lambda match: f"${{file:{absolute(match['file'])}}}" if match["file"] else match[0], value)


def _not_in_clear(value: str) -> str:
    if _REFERENCE.fullmatch(value) is None:
        raise ValueError("a secret is not written into a configuration: name where it is, as ${NAME} of the environment or ${file:PATH}")
    return value


Referring: TypeAlias = Annotated[str, AfterValidator(_files_are_absolute)]
"""A text in which references may stand."""

Secret: TypeAlias = Annotated[str, AfterValidator(_files_are_absolute), AfterValidator(_not_in_clear)]
"""One reference and nothing else."""


def resolved(key: str, value: str, environ: Mapping[str, str] = os.environ) -> str:
    """`value` with what its references name. Raises ConfigurationError, which names `key`, for what is not there.

    >>> resolved("kafka.sasl_plain_username", "${READER}-1", {"READER": "desk"})
    'desk-1'
    """

    def look_up(match: re.Match[str]) -> str:
        if match["file"]:
            return read_secret(key, match["file"])
        if match["name"] not in environ:
            raise ConfigurationError(f"{key}: the environment variable {match['name']} is not set")
        return environ[match["name"]]

    return _REFERENCE.sub(look_up, value)


def read_secret(key: str, path: str) -> str:
    """What a file holds, without the line feed at its end. Raises ConfigurationError."""
    try:
        with open(path, "rb") as file:
            return file.read(MOST_SECRET_BYTES).decode().rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{key}: cannot read {path}: {error}") from error
