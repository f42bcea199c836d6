"""Which streams run on this machine, and on which Ray: so that `memstream ask` in another terminal needs no address.

`memstream run` leaves a small file in the user's cache folder for as long as it runs. One whose process is gone means nothing.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import ray

from actors.cluster import connect
from actors.errors import NoReplica
from actors.handles import NAMESPACE, query_name
from actors.supervisor import Supervisor
from model.assets import cache_dir
from pipeline.errors import ConfigurationError


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """A stream that a process of this machine runs, and the Ray cluster that it runs on.

    `started` is when the process began, as the kernel counts it: a pid alone may be somebody else's by now (in a container often 1).
    """

    stream: str
    address: str
    pid: int
    started: str = ""
    url: str | None = None


@contextmanager
def announced(stream: str, url: str | None = None) -> Iterator[None]:
    """Others on this machine find the stream until the block ends, and its front at `url`. Ray must be connected."""
    address = ray.get_runtime_context().gcs_address
    mine = Running(stream=stream, address=address, pid=os.getpid(), started=_started(os.getpid()), url=url)
    path = _folder() / f"{stream}.{mine.pid}.json"
    writing = path.with_suffix(".tmp")
    writing.write_text(json.dumps(asdict(mine)))
    writing.replace(path)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def listening(url: str) -> str:
    """What is said of a front that has begun."""
    return f"listening at {url}: the OpenAI protocol under {url}/v1, a page at {url}/"


def find_stream(stream: str | None, address: str | None) -> Supervisor:
    """The running stream of that name, or the only one there is.

    Without an address, or by "auto", those that this user started on this machine come first, then whatever cluster Ray finds here.

    Raises:
        NoReplica: none runs where we looked.
        ConfigurationError: there are several, and none was named.
    """
    _connect(stream, address, any_stream=False)
    return Supervisor.find(stream or _only(_streams_of_cluster(), "on this Ray cluster"))


def find_streams(address: str | None) -> list[Supervisor]:
    """All streams that run on one cluster, which is looked for like that.

    Raises:
        NoReplica: none runs where we looked.
        ConfigurationError: this machine has several clusters with streams, and none was named.
    """
    _connect(None, address, any_stream=True)
    found = []
    for name in _streams_of_cluster():
        with suppress(NoReplica):  # it ends just now
            found.append(Supervisor.find(name))
    if not found:
        raise NoReplica("no stream runs on this Ray cluster: start one with `memstream run`")
    return found


def _connect(stream: str | None, address: str | None, any_stream: bool) -> None:
    if address in (None, "auto") and not os.environ.get("RAY_ADDRESS"):
        here = _here(stream, any_stream)
        address = here.address if here is not None else "auto"
    connect(address)


def _here(stream: str | None, any_stream: bool) -> Running | None:
    found = [each for each in _alive() if stream in (None, each.stream)]
    if not found:
        return None
    if any_stream:
        clusters = sorted({each.address for each in found})
        if len(clusters) > 1:
            raise ConfigurationError(f"streams run on several Ray clusters of this machine: choose with --address {' | '.join(clusters)}")
        return found[0]
    name = stream or _only(sorted({each.stream for each in found}), "on this machine")
    return next(each for each in found if each.stream == name)


def _alive() -> list[Running]:
    """The youngest first."""
    found = []
    for path in _folder().glob("*.json"):
        with suppress(OSError, ValueError, TypeError):  # its owner has just ended, or it is none of ours
            running = Running(**json.loads(path.read_text()))
            if _started(running.pid) == running.started:
                found.append((path.stat().st_mtime, running))
            else:
                path.unlink(missing_ok=True)
    return [running for _, running in sorted(found, key=lambda each: each[0], reverse=True)]


def _started(pid: int) -> str:
    """When a process began, in clock ticks since the machine did; empty where there is no such process, or no /proc."""
    try:
        # The name in parentheses may hold blanks and parentheses of its own.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def _streams_of_cluster() -> list[str]:
    prefix = query_name("")
    names = [actor["name"] for actor in ray.util.list_named_actors(all_namespaces=True) if actor["namespace"] == NAMESPACE]
    return sorted(name.removeprefix(prefix) for name in names if name.startswith(prefix))


def _only(streams: list[str], where: str) -> str:
    if not streams:
        raise NoReplica(f"no stream runs {where}: start one with `memstream run`")
    if len(streams) > 1:
        raise ConfigurationError(f"several streams run {where}: choose with --stream {' | '.join(streams)}")
    return streams[0]


def _folder() -> Path:
    folder = cache_dir() / "running"
    folder.mkdir(exist_ok=True)
    return folder
