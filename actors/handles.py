"""The far ends: how one actor talks to another without knowing where it runs. All that is Ray's stays in here and in the supervisor."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import ray
from ray.exceptions import ActorDiedError, GetTimeoutError, RayActorError, RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from actors.config import StreamConfig
from actors.errors import LeaderLost, ReplicaLost
from actors.feed import Feed
from actors.lives import Life, life_of, told
from actors.messages import DocumentsPage, DocumentsQuery, Fate, Leader, Phase, Question, ReplicaStatus, Told
from actors.router import ReplicaClient
from pipeline.commits import Commit, Place

NAMESPACE = "memstream"
CONTROL_TIMEOUT_S = 10.0
FEED_TIMEOUT_S = 2.0
"""A leader says at once what it has; the commits themselves are fetched then."""

FETCH_TIMEOUT_S = 20.0
"""So long one commit may take from node to node."""


def result_of(reference: Any, timeout_s: float | None = None) -> Any:
    """What a remote call returned, or what it raised, as it raised it: without Ray's wrapping and its trace in the message.

    Raises RayActorError and GetTimeoutError besides, where no answer came.
    """
    try:
        return ray.get(reference, timeout=timeout_s)
    except RayTaskError as error:
        raise error.cause from error


def here() -> NodeAffinitySchedulingStrategy:
    """On this node, and on no other."""
    return NodeAffinitySchedulingStrategy(node_id=ray.get_runtime_context().get_node_id(), soft=False)


class ReplicaHandle:
    """One replica, wherever it runs, as its supervisor sees it."""

    def __init__(self, actor: Any | None, number: int) -> None:
        """`actor`: None where it has ended for good."""
        self._actor: Any = actor
        self.number = number

    def status(self, timeout_s: float = 2.0) -> ReplicaStatus:
        """How it stands. Never raises: a replica that does not answer is DOWN, and `problem` says how."""
        return self.statuses([self], timeout_s)[0]

    def life(self) -> Life | None:
        """What Ray knows of its processes."""
        return life_of(self._actor)

    @staticmethod
    def statuses(handles: list[ReplicaHandle], timeout_s: float = 2.0) -> list[ReplicaStatus]:
        """All of them, asked at once; those that have no process now are not waited for."""
        asked = {
            handle.number: handle._actor.status.options(concurrency_group="control").remote() for handle in handles if handle._may_answer()
        }
        if asked:
            ray.wait(list(asked.values()), num_returns=len(asked), timeout=timeout_s)
        return [_status(handle.number, asked.get(handle.number)) if handle._actor else _ended(handle.number) for handle in handles]

    def _may_answer(self) -> bool:
        if self._actor is None:
            return False
        life = self.life()
        return life is None or life.state in ("ALIVE", "DEAD")

    @staticmethod
    def drain(handles: list[ReplicaHandle], timeout_s: float) -> list[ReplicaStatus]:
        """Let all of them finish, save and stop reading, side by side. Raises RayActorError, GetTimeoutError, and what a drain raises."""
        references = [handle._actor.drain.options(concurrency_group="control").remote() for handle in handles]
        ray.wait(references, num_returns=len(references), timeout=timeout_s)
        return [result_of(reference, 0) for reference in references]

    def lead(self, after: int | None) -> None:
        """Tell it to lead, as `Replica.lead`; does not wait for it."""
        self._actor.lead.options(concurrency_group="control").remote(after)

    def kill(self) -> None:
        """End its process; it does not come back."""
        if self._actor is not None:
            ray.kill(self._actor)


class RemoteLeader:
    """The leader of a stream, wherever it runs; a `LeaderClient`. Called by a follower's ingest thread."""

    def __init__(self, config: StreamConfig, leader: Leader) -> None:
        self._name = replica_name(config.stream, leader.replica)
        self._actor: Any = None

    def feed(self, after: Place, max_bytes: int, timeout_s: float) -> Feed:
        """As `Replica.feed`. Arrays of what comes from shared memory are views of it."""
        feed: Feed = self._called("feed", after, max_bytes, timeout_s, patience_s=timeout_s + FEED_TIMEOUT_S)
        return replace(feed, commits=tuple(map(self._taken, feed.commits)))

    def want_snapshot(self) -> None:
        self._called("want_snapshot", patience_s=CONTROL_TIMEOUT_S)

    def _called(self, method: str, *arguments: Any, patience_s: float) -> Any:
        try:
            self._actor = self._actor or ray.get_actor(self._name, namespace=NAMESPACE)
            return ray.get(getattr(self._actor, method).options(concurrency_group="feed").remote(*arguments), timeout=patience_s)
        except (RayError, ValueError) as error:
            self._actor = None
            raise LeaderLost(f"the leader does not answer: {reason_of(error)}") from error

    def _taken(self, offered: Commit | Any) -> Commit:
        try:
            commit: Commit = offered if isinstance(offered, Commit) else ray.get(offered, timeout=FETCH_TIMEOUT_S)
        except RayError as error:
            raise LeaderLost(f"the leader's commits cannot be fetched: {reason_of(error)}") from error
        return commit


class RemoteReplicaClient:
    """One replica, wherever it runs, as a router asks it; a `ReplicaClient`."""

    def __init__(self, stream: str, number: int) -> None:
        self._name, self.number = replica_name(stream, number), number
        self._found: Any = None

    @property
    def _actor(self) -> Any:
        if self._found is None:
            self._found = ray.get_actor(self._name, namespace=NAMESPACE)
        return self._found

    async def ask(self, question: Question) -> AsyncIterator[Told]:
        """As `Replica.ask`, its events one after the other; closed before its end, it is cancelled there."""
        token, ended = uuid.uuid4().hex, False
        try:
            stream = self._actor.answer.options(concurrency_group="query", num_returns="streaming").remote(token, question)
            async for reference in stream:
                told: Told = await reference
                yield told
            ended = True
        except (RayTaskError, RayActorError, ValueError) as error:
            ended = True
            raise _as_raised(error) from error
        finally:
            if not ended:
                self._actor.cancel.options(concurrency_group="control").remote(token)

    async def documents(self, query: DocumentsQuery) -> DocumentsPage:
        page: DocumentsPage = await self._called("documents", query)
        return page

    async def fate(self, topic: str, partition: int, offset: int) -> Fate:
        fate: Fate = await self._called("fate", topic, partition, offset)
        return fate

    async def _called(self, method: str, *arguments: Any) -> Any:
        try:
            reference = getattr(self._actor, method).options(concurrency_group="control").remote(*arguments)
            return await asyncio.wait_for(reference, CONTROL_TIMEOUT_S)
        except (RayTaskError, RayActorError, TimeoutError, ValueError) as error:
            raise _as_raised(error) from error


def _as_raised(error: Exception) -> Exception:
    """What the far end raised, as it raised it; ReplicaLost where it did not answer at all."""
    if isinstance(error, RayTaskError):
        cause: Exception = error.cause
        return cause
    if isinstance(error, RayActorError | TimeoutError):
        return ReplicaLost(reason_of(error))
    return ReplicaLost(f"it does not run: {error}")


def reason_of(error: Exception) -> str:
    """Why an actor is gone, in a line: Ray tells it somewhere in a long text."""
    return told(str(error) or type(error).__name__)


def remote_replicas(config: StreamConfig) -> dict[int, ReplicaClient]:
    """The replicas of a stream, by their numbers."""
    return {number: RemoteReplicaClient(config.stream, number) for number in range(config.replicas.count)}


def _status(number: int, reference: Any | None) -> ReplicaStatus:
    if reference is None:
        return ReplicaStatus(replica=number, phase=Phase.STARTING, problem="its process is being started")
    try:
        status: ReplicaStatus = ray.get(reference, timeout=0)
        return status
    except GetTimeoutError:
        return ReplicaStatus(replica=number, phase=Phase.STARTING, problem="does not answer yet: starting, restoring or restarting")
    except ActorDiedError as error:
        return ReplicaStatus(replica=number, phase=Phase.DOWN, problem=reason_of(error))
    except RayActorError:
        return ReplicaStatus(replica=number, phase=Phase.STARTING, problem="its process ended; Ray starts it again")


def _ended(number: int) -> ReplicaStatus:
    return ReplicaStatus(replica=number, phase=Phase.DOWN, problem="it has ended and is not started again; `memstream run` said why")


def named_replicas(config: StreamConfig) -> list[ReplicaHandle]:
    """The replicas of a stream, those that have ended among them."""
    return [ReplicaHandle(_named(replica_name(config.stream, number)), number) for number in range(config.replicas.count)]


def _named(name: str) -> Any | None:
    try:
        return ray.get_actor(name, namespace=NAMESPACE)
    except ValueError:
        return None


def replica_name(stream: str, number: int) -> str:
    return f"replica/{stream}/{number}"


def query_name(stream: str) -> str:
    return f"query/{stream}"
