"""The streams that a front serves, wherever they run."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Mapping
from typing import Any, Protocol

from actors.messages import DocumentsPage, DocumentsQuery, Fate, Question, ReplicaStatus, Told
from pipeline.publish import Published


class Stream(Protocol):
    """One stream, as the front sees it."""

    @property
    def name(self) -> str: ...

    def statuses(self) -> list[ReplicaStatus]: ...

    def ask(self, question: Question) -> AsyncGenerator[Told, None]: ...

    async def documents(self, query: DocumentsQuery) -> DocumentsPage: ...

    async def fate(self, topic: str, partition: int, offset: int) -> Fate: ...

    async def publish(self, document: Mapping[str, Any], topic: str | None) -> Published: ...

    async def delete(self, document_id: str, topic: str | None) -> Published: ...


class Streams(Protocol):
    """All of them."""

    async def look(self) -> None:
        """Look which there are, if that was not done lately. Before every request."""
        ...

    def names(self) -> list[str]: ...

    def get(self, name: str) -> Stream | None: ...


async def end(task: asyncio.Task[Any]) -> None:
    """Cancel a task, and wait until it is over."""
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError, Exception):
        await task
