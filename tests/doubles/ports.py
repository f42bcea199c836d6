"""Ports of this machine where something answers, or does not, as a test wants it."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TypeAlias

Serve: TypeAlias = Callable[[socket.socket], None]
Listen: TypeAlias = Callable[..., str]
"""(serve, TLS context or None) -> HOST:PORT where every connection is served by a function, and closed when that returns."""


def silent(connection: socket.socket) -> None:
    """Accepts, and never answers."""
    with suppress(OSError):
        while connection.recv(4096):
            pass


def answering(answer: bytes) -> Serve:
    """Says this to whatever it is sent."""

    def serve(connection: socket.socket) -> None:
        connection.recv(4096)
        connection.sendall(answer)

    return serve


@contextmanager
def ports() -> Iterator[Listen]:
    """Opens ports; all of them are closed when the block ends."""
    opened: list[socket.socket] = []

    def listen(serve: Serve, context: ssl.SSLContext | None = None) -> str:
        listener = socket.create_server(("127.0.0.1", 0))
        opened.append(listener)

        def handle(connection: socket.socket) -> None:
            with suppress(OSError), connection if context is None else context.wrap_socket(connection, server_side=True) as wire:
                serve(wire)

        def accept() -> None:
            with suppress(OSError):
                while True:
                    threading.Thread(target=handle, args=(listener.accept()[0],), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        return f"127.0.0.1:{listener.getsockname()[1]}"

    yield listen
    for listener in opened:
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
