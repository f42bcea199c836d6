"""The way of commits from a leader to its followers without Ray: a socket for each replica, so that kills and stops meet it, too."""

from __future__ import annotations

import threading
from contextlib import suppress
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path
from typing import Any

from actors.config import StreamConfig
from actors.errors import LeaderLost
from actors.feed import Feed
from actors.handles import CONTROL_TIMEOUT_S, FEED_TIMEOUT_S
from actors.messages import Leader
from actors.replica import Replica
from pipeline.commits import Place


def socket_of(prefix: str, number: int) -> str:
    return f"{prefix}-{number}.sock"


def serve_feed(replica: Replica, address: str) -> None:
    """Answer followers from now on; a socket of an earlier life at this address is gone then."""
    Path(address).unlink(missing_ok=True)
    threading.Thread(target=_accept, args=(replica, Listener(address, "AF_UNIX", backlog=16)), name="feed", daemon=True).start()


def _accept(replica: Replica, listener: Listener) -> None:
    while True:
        with suppress(EOFError, OSError):
            threading.Thread(target=_answer, args=(replica, listener.accept()), name="feed", daemon=True).start()


def _answer(replica: Replica, channel: Connection) -> None:
    with suppress(EOFError, OSError):
        while True:
            method, arguments = channel.recv()
            channel.send(getattr(replica, method)(*arguments))


class SocketLeader:
    """A `LeaderClient` of the replica at an address."""

    def __init__(self, prefix: str, config: StreamConfig, leader: Leader) -> None:
        self._address = socket_of(prefix, leader.replica)
        self._channel: Connection | None = None

    def feed(self, after: Place, max_bytes: int, timeout_s: float) -> Feed:
        feed: Feed = self._called("feed", timeout_s + FEED_TIMEOUT_S, after, max_bytes, timeout_s)
        return feed

    def want_snapshot(self) -> None:
        self._called("want_snapshot", CONTROL_TIMEOUT_S)

    def _called(self, method: str, patience_s: float, *arguments: Any) -> Any:
        try:
            channel = self._channel = self._channel or Client(self._address, "AF_UNIX")
            channel.send((method, arguments))
            if channel.poll(patience_s):
                return channel.recv()
            raise TimeoutError(f"nothing for {patience_s:g} s")
        except (EOFError, OSError) as error:
            self._channel = None  # an answer that comes late is to nobody
            raise LeaderLost(f"the leader does not answer: {error!r}") from error
