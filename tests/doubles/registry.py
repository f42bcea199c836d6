"""A schema registry's protocol over HTTP, as a test wants it: what is there, what it says instead, whom it lets in.

For faults that no real one can be made to have; what a real one says is in tests/fault/test_schema_registry.py.
"""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class FakeRegistry:
    """Schemas by number and by subject and version; `says` answers everything instead, while it is set."""

    def __init__(self, port: int, scheme: str) -> None:
        self.url = f"{scheme}://localhost:{port}"
        self.asked: list[str] = []
        self.authorization: str | None = None
        self.says: tuple[int, bytes] | None = None
        self._answers: dict[str, Any] = {}

    def put(self, number: int, kind: str, schema: Any, references: Sequence[Mapping[str, Any]] = ()) -> None:
        self._answers[f"/schemas/ids/{number}"] = _told(kind, schema, references)

    def put_version(self, subject: str, version: int, kind: str, schema: Any, references: Sequence[Mapping[str, Any]] = ()) -> None:
        self._answers[f"/subjects/{subject}/versions/{version}"] = _told(kind, schema, references)

    def answer(self, path: str, authorization: str | None) -> tuple[int, bytes]:
        self.asked.append(path)
        if self.says is not None:
            return self.says
        if self.authorization not in (None, authorization):
            return 401, b'{"error_code": 401, "message": "Unauthorized"}'
        if path in self._answers:
            return 200, json.dumps(self._answers[path]).encode()
        return 404, json.dumps({"error_code": 40401 if path.startswith("/subjects") else 40403, "message": "not found"}).encode()


def _told(kind: str, schema: Any, references: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    text = schema if isinstance(schema, str) else json.dumps(schema)
    told: dict[str, Any] = {"schema": text} if kind == "AVRO" else {"schema": text, "schemaType": kind}
    return {**told, "references": list(references)} if references else told


@contextmanager
def fake_registry(context: ssl.SSLContext | None = None) -> Iterator[FakeRegistry]:
    """One that listens while the block runs."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # head and body in one packet

        def do_GET(self) -> None:
            status, body = registry.answer(self.path, self.headers.get("Authorization"))
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    registry = FakeRegistry(server.server_address[1], "http" if context is None else "https")
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield registry
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
