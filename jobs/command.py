"""How every command ends: what went wrong becomes one message for people and an exit code for scripts, here and nowhere else.

0  done     1  it failed, and the message says what to do     2  it was called wrongly     130  interrupted
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import NoReturn

import typer

from model.assets import CACHE_VARIABLE
from model.errors import ModelError
from pipeline.errors import MemstreamError


def start(app: typer.Typer, args: Sequence[str] | None = None, prog: str | None = None) -> NoReturn:
    """Run a command and leave the process. `args`: None for those of the process."""
    if CACHE_VARIABLE in os.environ:  # actors have other working directories
        os.environ[CACHE_VARIABLE] = os.path.abspath(os.path.expanduser(os.environ[CACHE_VARIABLE]))
    try:
        typer.main.get_command(app)(args=None if args is None else list(args), prog_name=prog)
    except (MemstreamError, ModelError) as error:
        fail(error)
    except BrokenPipeError:
        # The reader of our output has gone (`memstream ... | head`); Python's own flush at exit would complain once more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    sys.exit(0)


def fail(error: MemstreamError | ModelError) -> NoReturn:
    """Say what went wrong, and exit 1."""
    again = " (it may work later)" if error.retriable else ""
    typer.echo(f"memstream: {message_of(error)}{again}", err=True)
    sys.exit(1)


def message_of(error: Exception) -> str:
    """The message, or, where an error has none, what its class says of itself.

    >>> from pipeline.errors import BrokerUnavailable
    >>> message_of(BrokerUnavailable("no answer from 127.0.0.1:9092"))
    'no answer from 127.0.0.1:9092'
    """
    return str(error).strip() or f"{type(error).__name__}: {type(error).__doc__ or ''}".strip()
