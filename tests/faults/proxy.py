"""A proxy in front of an object store's server that answers with errors, late, or not at all, as it is told."""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal

FORWARD_S = 20.0
Fault = Literal["error", "slow", "lost", "cut"]


@dataclass(slots=True, kw_only=True)
class Rule:
    """What becomes of the next `count` requests that match `only`: "METHOD PART", of which the path holds PART; either may be left out.

    error: answered with `status`. slow: carried out `delay_s` later. lost: carried out, but not answered. cut: neither.
    """

    fault: Fault
    count: int
    only: str = ""
    status: int = 503
    delay_s: float = 0.0

    def matches(self, method: str, path: str) -> bool:
        """
        >>> Rule(fault="lost", count=1, only="PUT /epochs/").matches("PUT", "/b/s/epochs/00000001.json")
        True
        """
        wanted, _, part = self.only.partition(" ")
        return self.count > 0 and wanted in ("", method) and part in path


class FaultyProxy:
    """Listens on a loopback port, and passes requests on to another one."""

    def __init__(self, target: int) -> None:
        self._rules: list[Rule] = []
        self._lock = threading.Lock()
        self._met = 0
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_one_request(self) -> None:
                with suppress(ConnectionError):
                    super().handle_one_request()

            def _handle(self) -> None:
                proxy._serve(self, target)

            do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _handle

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port: int = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.05,), name="proxy", daemon=True).start()

    def plan(self, rule: Rule) -> None:
        with self._lock:
            self._rules.append(rule)

    def clear(self) -> None:
        """From now on it passes everything on."""
        with self._lock:
            self._rules.clear()

    def taken(self) -> int:
        """How many requests have met with a fault since this was asked last."""
        with self._lock:
            met, self._met = self._met, 0
        return met

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _next(self, method: str, path: str) -> Rule | None:
        with self._lock:
            for rule in self._rules:
                if rule.matches(method, path):
                    rule.count -= 1
                    self._met += 1
                    return rule
        return None

    def _serve(self, request: BaseHTTPRequestHandler, target: int) -> None:
        body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
        rule = self._next(request.command, request.path)
        if rule is not None and rule.fault == "error":
            _answer(request, rule.status, [("Content-Type", "application/xml")], _error(rule.status))
            return
        if rule is not None and rule.fault == "slow":
            time.sleep(rule.delay_s)
        if rule is None or rule.fault in ("slow", "lost"):
            connection = http.client.HTTPConnection("127.0.0.1", target, timeout=FORWARD_S)
            try:
                connection.request(request.command, request.path, body, dict(_passed_on(request)))
                response = connection.getresponse()
                content, headers = response.read(), response.getheaders()
            finally:
                connection.close()
            if rule is None or rule.fault == "slow":
                _answer(request, response.status, headers, content)
                return
        request.close_connection = True


def _passed_on(request: BaseHTTPRequestHandler) -> Iterator[tuple[str, str]]:
    """All headers, the host that was signed too; what concerns this connection alone is not."""
    return ((name, value) for name, value in request.headers.items() if name.lower() not in ("connection", "expect"))


def _answer(request: BaseHTTPRequestHandler, status: int, headers: list[tuple[str, str]], content: bytes) -> None:
    request.send_response_only(status)
    length = str(len(content))
    for name, value in headers:
        if name.lower() == "content-length":
            length = value if request.command == "HEAD" else length
        elif name.lower() not in ("connection", "transfer-encoding"):
            request.send_header(name, value)
    request.send_header("Content-Length", length)
    request.end_headers()
    if request.command != "HEAD":
        request.wfile.write(content)


def _error(status: int) -> bytes:
    code = "SlowDown" if status == 503 else "InternalError"
    return f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>on purpose</Message></Error>".encode()
