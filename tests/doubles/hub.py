"""A model hub on this machine, as far as its client asks for models: revisions, lists of files, files."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote


class Hub:
    """Commits by the names that lead to them, and the files of each commit."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.commits: dict[str, str] = {}
        self.files: dict[str, Mapping[str, bytes]] = {}
        self.asked: list[str] = []

    def push(self, branch: str, files: Mapping[str, bytes]) -> str:
        """A new commit on a branch; its 40 digits."""
        commit = hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()
        self.commits |= {branch: commit, commit: commit}
        self.files[commit] = files
        return commit

    def answer(self, path: str) -> tuple[int, bytes, dict[str, str]]:
        self.asked.append(path)
        match path.partition("?")[0].strip("/").split("/"):
            case ["api", "models", _, _, "revision", revision] if commit := self.commits.get(unquote(revision)):
                return 200, json.dumps({"id": "owner/model", "sha": commit, "siblings": []}).encode(), {}
            case ["api", "models", _, _, "tree", commit, *_] if commit in self.files:
                listed = [{"type": "file", "path": name, "size": len(data), "oid": etag(data)} for name, data in self.files[commit].items()]
                return 200, json.dumps(listed).encode(), {}
            case [_, _, "resolve", commit, *name] if "/".join(name) in self.files.get(commit, {}):
                data = self.files[commit]["/".join(name)]
                return 200, data, {"X-Repo-Commit": commit, "ETag": f'"{etag(data)}"'}
        return 404, b"{}", {"X-Error-Code": "RevisionNotFound"}


def etag(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()


@contextmanager
def hub() -> Iterator[Hub]:
    """One that ends with the context."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            status, data, headers = made.answer(self.path)
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(data))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(data)

        do_HEAD = do_GET

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        made = Hub(f"http://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield made
        finally:
            server.shutdown()
            thread.join()
