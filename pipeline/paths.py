"""One rule for every path in a configuration: it means what it means where the command is run.

`~` is home, `$NAME` and `${NAME}` the environment's, and what is relative begins at the working directory. Actors have other working
directories, homes and environments, so this is settled when the configuration is read, and never again.
"""

from __future__ import annotations

import os
import re
from typing import Annotated, TypeAlias

from pydantic import AfterValidator

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


LocalPath: TypeAlias = Annotated[str, AfterValidator(absolute)]
