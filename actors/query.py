"""The query actor: where replicas say how they stand, and where whoever has no router of his own asks."""

from __future__ import annotations

from typing import Any

import ray

from actors.config import StreamConfig
from actors.handles import remote_replicas
from actors.http.documents import Publishing
from actors.messages import Answer, Leader, Question, ReplicaStatus
from actors.router import Board, ReplicaClient, Router, whole
from pipeline.publish import Published


class QueryActor:
    """The board of one stream, and a router over it.

    Args:
        replicas: by their numbers.
    """

    def __init__(self, config: StreamConfig, replicas: dict[int, ReplicaClient]) -> None:
        self._config, self._publishing = config, Publishing(config)
        self._router = Router(replicas, Board(config.replicas.count, config.answers.hung_s), config.answers)

    async def report(self, status: ReplicaStatus) -> Leader | None:
        """A replica says how it stands, and is told who leads."""
        self._router.board.report(status)
        return self._router.board.leader

    async def ask(self, question: Question) -> Answer:
        """The best replica's answer; raises as `Router.ask`."""
        return await whole(self._router.ask(question))

    async def changes(self, seen: int, timeout_s: float) -> tuple[int, list[ReplicaStatus]]:
        """The statuses, as soon as they are others than those of number `seen`: for routers elsewhere."""
        return await self._router.board.changes(seen, timeout_s)

    async def publish(self, document: dict[str, Any], topic: str | None) -> Published:
        """Publish a document into one of the stream's topics: this actor runs where the stream's secrets are."""
        return await self._publishing.publish(document, topic)

    async def delete(self, document_id: str, topic: str | None) -> Published:
        """Publish a tombstone."""
        return await self._publishing.delete(document_id, topic)

    async def config(self) -> StreamConfig:
        """What this stream runs with."""
        return self._config


class RemoteQuery(QueryActor):
    """As Ray runs it: it finds the replicas by their names, so that it can be started again when it is killed."""

    def __init__(self, config: StreamConfig) -> None:
        super().__init__(config, remote_replicas(config))


QueryActorProcess = ray.remote(RemoteQuery)
