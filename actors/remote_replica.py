"""A replica in a process of its own. Torch and transformers are loaded there, and not by whoever starts or asks it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import RayError

from actors.config import StreamConfig
from actors.feed import Feed
from actors.handles import NAMESPACE, query_name
from actors.messages import DocumentsPage, DocumentsQuery, Fate, Leader, Question, ReplicaStatus, Told
from pipeline.commits import Commit, Place

if TYPE_CHECKING:
    from actors.device_loop import Request

log = logging.getLogger(__name__)

REPORT_S = 0.5
LOOK_S = 0.1

INLINE_BYTES = 64 << 10
"""Smaller commits travel in the answer itself."""

OFFERED_BYTES = 256 << 20


class RemoteReplica:
    """`actors.replica.Replica`, as Ray runs it: asynchronous, so that a thousand may wait for answers at no cost."""

    def __init__(self, config: StreamConfig, number: int, threads: int, deployment: str = "") -> None:
        from actors.replica import Replica

        # Threads of ours wait for Ray beside the event loop; Ray cannot tell and would warn that they hold it up.
        ray._private.worker.blocking_get_inside_async_warned = True
        self._stream = config.stream
        self._replica = Replica(config, number, threads, deployment=deployment)
        # Each follower has a thread of its own while it waits for commits: answers wait for none of them.
        self._feeding = ThreadPoolExecutor(max_workers=max(1, config.replicas.count), thread_name_prefix="feed")
        self._offers = Offers()
        self._asked: dict[str, Request] = {}
        threading.Thread(target=self._report, name="report", daemon=True).start()

    def _report(self) -> None:
        """Push the status to the query actor, again and again; one that is away is found again when it is back."""
        query, said, said_at_s = None, None, 0.0
        while True:
            status = self._replica.status()
            news = _news(status)
            if news != said or time.monotonic() - said_at_s > REPORT_S:
                try:
                    query = query or ray.get_actor(query_name(self._stream), namespace=NAMESPACE)
                    leader: Leader | None = ray.get(query.report.remote(status), timeout=10)  # type: ignore[assignment]
                    self._replica.hear(leader)
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

    async def lead(self, after: int | None) -> None:
        self._replica.lead(after)

    async def feed(self, after: Place, max_bytes: int, timeout_s: float) -> Feed:
        return await asyncio.get_running_loop().run_in_executor(self._feeding, self._fed, after, max_bytes, timeout_s)

    def _fed(self, after: Place, max_bytes: int, timeout_s: float) -> Feed:
        feed = self._replica.feed(after, max_bytes, timeout_s)
        return replace(feed, commits=tuple(map(self._offers.offer, feed.commits)))

    async def want_snapshot(self) -> None:
        self._replica.want_snapshot()


class Offers:
    """Commits in Ray's shared memory: each is put there once, whoever takes it, and followers on the same node read it where it lies.

    What followers still read stays there without us; beyond that the last `OFFERED_BYTES` are kept, for those who come later.
    """

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[int, int], tuple[Any, int]] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def offer(self, commit: Commit) -> Any:
        """The commit itself where it is small, else a reference."""
        if commit.size_bytes < INLINE_BYTES:
            return commit
        key = commit.generation, commit.number
        with self._lock:
            if key not in self._kept:
                self._kept[key] = ray.put(commit), commit.size_bytes
                self._bytes += commit.size_bytes
                while self._bytes > OFFERED_BYTES and len(self._kept) > 1:
                    _, (_, size) = self._kept.popitem(last=False)
                    self._bytes -= size
            return self._kept[key][0]


def _news(status: ReplicaStatus) -> tuple[Any, ...]:
    """What is told at once when it changes."""
    answers = status.running_answers, status.waiting_answers
    return status.phase, status.problem, status.version, status.position, status.role, status.generation, status.loading, *answers


# Health must not queue behind answers; how many of those run at once is the device loop's own bound.
ReplicaActor = ray.remote(concurrency_groups={"control": 16, "query": 2048, "feed": 256})(RemoteReplica)  # type: ignore[call-overload]
