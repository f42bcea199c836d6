"""One rule for every path in a configuration: it means what it means where the command is run.

`~` is home, `$NAME` and `${NAME}` the environment's, and what is relative begins at the working directory. Actors have other working
directories, homes and environments, so this is settled when the configuration is read, and never again.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, TypeAlias

from pydantic import AfterValidator

from pipeline.errors import ConfigurationError

_VARIABLE = re.compile(r"\$(?:(\w+)|\{(\w+)\})")


def expanded(text: str) -> str:
    """The text with the environment's variables put in. Raises ValueError for one that is not set.

    >>> os.environ["FEEDS"] = "/srv/feeds"
    >>> expanded("$FEEDS/a"), expanded("${FEEDS}/b")
    ('/srv/feeds/a', '/srv/feeds/b')
    """

    def look_up(match: re.Match[str]) -> str:
        name = match[1] or match[2]
        if name not in os.environ:
            raise ValueError(f"{text!r}: the environment variable {name} is not set")
        return os.environ[name]

    return _VARIABLE.sub(look_up, text)


def absolute(path: str) -> str:
    """A path of this machine that means the same from any working directory. Raises ValueError for one that names nothing.

    >>> absolute("/var/lib/../memstream")
    '/var/memstream'
    """
    if not path.strip():
        raise ValueError("an empty path")
    if "\0" in path:
        raise ValueError(f"{path!r} holds a NUL character")
    return os.path.abspath(os.path.expanduser(expanded(path)))


def private_folder(path: Path) -> Path:
    """A folder that only this user can write into, as little as into the one that it lies in; made if it is not there.

    Raises ConfigurationError for another one: what lies in it is believed.
    """
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    for each in (path.parent, path):
        found = each.stat()
        if found.st_uid != os.geteuid() or found.st_mode & 0o022:
            raise ConfigurationError(
                f"{each} belongs to another user, or others may write into it, and what lies there is believed: chmod 700 it if it is"
                " yours, or set MEMSTREAM_CACHE to a folder of yours"
            )
    return path


LocalPath: TypeAlias = Annotated[str, AfterValidator(absolute)]
