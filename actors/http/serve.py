"""The front on Ray Serve: it finds the streams of its cluster by the names of their actors."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, Mapping
from contextvars import Context
from typing import Any

import ray
from ray import serve
from ray.exceptions import RayActorError, RayError, RayTaskError

from actors.config import StreamConfig
from actors.errors import NoReplica
from actors.handles import NAMESPACE, query_name, remote_replicas
from actors.http.config import HttpConfig
from actors.messages import DocumentsPage, DocumentsQuery, Fate, Question, ReplicaStatus, Told
from actors.ray_insides import serve_on_loopback
from actors.router import Board, Router
from pipeline.publish import Published

log = logging.getLogger(__name__)

LOOK_S = 1.0
WATCH_S = 5.0
CALL_TIMEOUT_S = 60.0
APPLICATION = "memstream"


class RemoteStream:
    """One stream of the cluster: a router of the front's own, which hears from the stream's board; a `Stream`."""

    def __init__(self, config: StreamConfig, query: Any) -> None:
        self._config, self._query = config, query
        self._board = Board(config.replicas.count, config.answers.hung_s)
        self._router = Router(remote_replicas(config), self._board, config.answers)
        self._heard_s = time.monotonic()
        # In a context of its own: in that of the request that found the stream, Ray would cancel its calls when that request ends.
        self.watching = asyncio.get_running_loop().create_task(self._watch(), context=Context())

    @property
    def name(self) -> str:
        return self._config.stream

    async def _watch(self) -> None:
        seen = -1
        while True:
            try:
                changes = self._query.changes.remote(seen, WATCH_S)
                seen, statuses = await asyncio.wait_for(changes, 4 * WATCH_S)
            except (RayError, TimeoutError) as error:
                log.warning("the board of %s is away: %s", self.name, type(error).__name__)
                await asyncio.sleep(LOOK_S)
                seen = -1
                continue
            for status in statuses:
                self._board.report(status)

    def statuses(self) -> list[ReplicaStatus]:
        return self._board.statuses()

    def ask(self, question: Question) -> AsyncGenerator[Told, None]:
        return self._router.ask(question)

    async def documents(self, query: DocumentsQuery) -> DocumentsPage:
        return await self._router.documents(query)

    async def fate(self, topic: str, partition: int, offset: int) -> Fate:
        return await self._router.fate(topic, partition, offset)

    async def publish(self, document: Mapping[str, Any], topic: str | None) -> Published:
        published: Published = await self._called(self._query.publish.remote(dict(document), topic))
        return published

    async def delete(self, document_id: str, topic: str | None) -> Published:
        published: Published = await self._called(self._query.delete.remote(document_id, topic))
        return published

    async def _called(self, reference: Any) -> Any:
        try:
            return await asyncio.wait_for(reference, CALL_TIMEOUT_S)
        except RayTaskError as error:
            raise error.cause from error
        except (RayActorError, TimeoutError) as error:
            raise NoReplica(f"the stream {self.name!r} does not answer; ask again") from error


class ClusterStreams:
    """All streams of the cluster; `Streams`."""

    def __init__(self) -> None:
        self._streams: dict[str, RemoteStream] = {}
        self._looked_s = -LOOK_S
        self._looking = asyncio.Lock()

    async def look(self) -> None:
        if time.monotonic() - self._looked_s < LOOK_S or (self._looking.locked() and self._streams):
            return
        async with self._looking:
            if time.monotonic() - self._looked_s >= LOOK_S:
                await self._look()
                self._looked_s = time.monotonic()

    async def _look(self) -> None:
        prefix = query_name("")
        actors = await asyncio.to_thread(ray.util.list_named_actors, True)
        found = {each["name"].removeprefix(prefix) for each in actors if each["namespace"] == NAMESPACE and each["name"].startswith(prefix)}
        for name in set(self._streams) - found:
            self._streams.pop(name).watching.cancel()
        for name in found - set(self._streams):
            with contextlib.suppress(ValueError, RayError, TimeoutError):  # it starts, or ends
                query = ray.get_actor(query_name(name), namespace=NAMESPACE)
                config: StreamConfig = await asyncio.wait_for(query.config.remote(), CALL_TIMEOUT_S)
                self._streams[name] = RemoteStream(config, query)

    def names(self) -> list[str]:
        return sorted(self._streams)

    def get(self, name: str) -> RemoteStream | None:
        return self._streams.get(name)


def start_front(config: HttpConfig) -> str:
    """Serve all streams of this cluster over HTTP; returns the address. Ray must be connected."""

    def app() -> Any:
        from actors.http.app import make_app

        serve_on_loopback()
        return make_app(ClusterStreams(), config)

    # Serve's account of itself is for warnings alone: the terminal belongs to whoever runs the stream.
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    quiet = {"log_level": "WARNING", "enable_access_log": False}

    @serve.deployment(
        name="front",
        num_replicas=1,
        max_ongoing_requests=4096,
        ray_actor_options={"num_cpus": 0},
        graceful_shutdown_timeout_s=2,
        logging_config=quiet,
    )
    @serve.ingress(app)
    class Front:
        """The application, made where it runs."""

    serve.start(proxy_location="HeadOnly", http_options={"host": config.host, "port": config.port}, logging_config=quiet)
    serve.run(Front.bind(), name=APPLICATION, route_prefix="/")  # type: ignore[attr-defined]
    host = f"[{config.host}]" if ":" in config.host else config.host
    return f"http://{host}:{config.port}"


def stop_front() -> None:
    """End it."""
    with contextlib.suppress(Exception):
        serve.shutdown()
