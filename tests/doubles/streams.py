"""Streams in this process: real replicas of a tiny model behind a real router, with no Ray and no broker in between."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing
from pathlib import Path
from typing import Any

from actors.answering import told_by
from actors.config import StreamConfig
from actors.messages import DocumentsPage, DocumentsQuery, Fate, Learnable, Phase, Question, ReplicaStatus, Told
from actors.replica import Replica
from actors.router import Board, Router
from pipeline.fetched import Joined
from pipeline.publish import Published
from tests.doubles.stream import NEWS, ScriptedPoller, document, stream_config, tombstone


class LocalClient:
    """A replica in this process; a `ReplicaClient`."""

    def __init__(self, replica: Replica) -> None:
        self.replica = replica

    def ask(self, question: Question) -> AsyncIterator[Told]:
        return told_by(self.replica, question)

    async def documents(self, query: DocumentsQuery) -> DocumentsPage:
        return self.replica.documents(query)

    async def fate(self, topic: str, partition: int, offset: int) -> Fate:
        return self.replica.fate(topic, partition, offset)


class LocalStream:
    """One replica, and a topic that is a list; a `Stream` and all of the `Streams` there are."""

    name = "test"

    def __init__(self, checkpoint: Path, root: Path, **sections: object) -> None:
        self.config = stream_config(checkpoint, root, ("nobody:1",), (NEWS.topic,), **sections)
        self.poller = ScriptedPoller([Joined(partition=NEWS, position=0, topic_id="first")], 0)
        self._end = 0
        self.replica = Replica(self.config, 0, 1, self._opened)
        self._router: Router | None = None

    def _opened(self, config: StreamConfig, positions: Mapping[str, int], owns: bool, topic_ids: Mapping[str, str]) -> ScriptedPoller:
        return self.poller

    @property
    def router(self) -> Router:
        if self._router is None:
            self._router = Router({0: LocalClient(self.replica)}, Board(1, 60), self.config.answers)
        self._router.board.report(self.replica.status())
        return self._router

    async def look(self) -> None:
        pass

    def names(self) -> list[str]:
        return [self.name]

    def get(self, name: str) -> LocalStream | None:
        return self if name == self.name else None

    def statuses(self) -> list[ReplicaStatus]:
        return self.router.board.statuses()

    async def ask(self, question: Question) -> AsyncGenerator[Told, None]:
        while (status := self.replica.status()).loading or status.phase is Phase.STARTING:  # nobody pushes its statuses here
            await asyncio.sleep(0.01)
        async with aclosing(self.router.ask(question)) as stream:
            async for told in stream:
                yield told

    async def documents(self, query: DocumentsQuery) -> DocumentsPage:
        return await self.router.documents(query)

    async def fate(self, topic: str, partition: int, offset: int) -> Fate:
        return await self.router.fate(topic, partition, offset)

    async def publish(self, fields: Mapping[str, Any], topic: str | None) -> Published:
        return self._put(document(self._end, fields["text"], title=fields.get("title"), name=fields.get("id")))

    async def delete(self, document_id: str, topic: str | None) -> Published:
        return self._put(tombstone(self._end, document_id))

    def _put(self, item: Learnable) -> Published:
        offset, self._end = self._end, self._end + 1
        self.poller._end = self._end
        self.poller._items.append(item)
        return Published(partition=NEWS, offset=offset)

    def close(self) -> None:
        self.replica.drain()
        self.replica.close()
