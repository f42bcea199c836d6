"""A replica in a process of its own. Torch and transformers are loaded there, and not by whoever starts or asks it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import AsyncIterator
from functools import partial
from typing import TYPE_CHECKING

import ray
from ray.exceptions import RayError

from actors.config import StreamConfig
from actors.handles import NAMESPACE, query_name
from actors.messages import DocumentsPage, DocumentsQuery, Fate, Question, ReplicaStatus, Told

if TYPE_CHECKING:
    from actors.device_loop import Request

log = logging.getLogger(__name__)

REPORT_S = 0.5
LOOK_S = 0.1


class RemoteReplica:
    """`actors.replica.Replica`, as Ray runs it: asynchronous, so that a thousand may wait for answers at no cost."""

    def __init__(self, config: StreamConfig, number: int, threads: int) -> None:
        from actors.replica import Replica

        # Threads of ours wait for Ray beside the event loop; Ray cannot tell and would warn that they hold it up.
        ray._private.worker.blocking_get_inside_async_warned = True
        self._stream = config.stream
        self._replica = Replica(config, number, threads)
        self._asked: dict[str, Request] = {}
        threading.Thread(target=self._report, name="report", daemon=True).start()

    def _report(self) -> None:
        """Push the status to the query actor, again and again; one that is away is found again when it is back."""
        query, said, said_at_s = None, None, 0.0
        while True:
            status = self._replica.status()
            news = (status.phase, status.problem, status.version, status.position, status.running_answers, status.waiting_answers)
            if news != said or time.monotonic() - said_at_s > REPORT_S:
                try:
                    query = query or ray.get_actor(query_name(self._stream), namespace=NAMESPACE)
                    ray.get(query.report.remote(status), timeout=10)
                    said, said_at_s = news, time.monotonic()
                except (ValueError, RayError):
                    query = None
            time.sleep(LOOK_S)

    async def status(self) -> ReplicaStatus:
        return self._replica.status()

    async def answer(self, token: str, question: Question) -> AsyncIterator[Told]:
        """The events of an answer; `token` names the question to `cancel`."""
        from actors.answering import told_by

        async with contextlib.aclosing(told_by(self._replica, question, partial(self._asked.__setitem__, token))) as events:
            try:
                async for each in events:
                    yield each
            finally:
                self._asked.pop(token, None)

    async def cancel(self, token: str) -> None:
        """Nobody waits for that answer any more."""
        if token in self._asked:
            self._replica.cancel(self._asked[token])

    async def documents(self, query: DocumentsQuery) -> DocumentsPage:
        return await asyncio.to_thread(self._replica.documents, query)

    async def fate(self, topic: str, partition: int, offset: int) -> Fate:
        return await asyncio.to_thread(self._replica.fate, topic, partition, offset)

    async def drain(self) -> ReplicaStatus:
        return await asyncio.to_thread(self._replica.drain)


# Health must not queue behind answers; how many of those run at once is the device loop's own bound.
ReplicaActor = ray.remote(concurrency_groups={"control": 16, "query": 2048})(RemoteReplica)  # type: ignore[call-overload]
