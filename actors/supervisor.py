"""Starts the replicas and the query actor of one stream, watches them, says who leads next, and drains them.

supervisor (driver) -- starts --> replicas 0..R-1 -- each starts --> its poller
      |                              ^
      +-- starts --> query actor ----+-- asks
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any
from uuid import uuid4

import ray
from ray.exceptions import GetTimeoutError, RayActorError

from actors.config import StreamConfig
from actors.errors import NoReplica
from actors.handles import NAMESPACE, ReplicaHandle, here, named_replicas, query_name, reason_of, replica_name, result_of
from actors.lives import Lives
from actors.messages import Answer, Phase, Question, ReplicaStatus
from actors.placement import cores_of, fit
from actors.query import QueryActorProcess
from actors.remote_replica import ReplicaActor
from actors.succession import Succession
from pipeline.errors import ConfigurationError, MemstreamError

log = logging.getLogger(__name__)

WATCH_S = 0.5


class ReplicaFailed(MemstreamError):
    """A replica cannot go on; the message is its own."""


class ReplicaLost(MemstreamError):
    """A replica's process ended while it drained. Ray starts it again from its last snapshot: watch it, and drain it again."""

    retriable = True


class Supervisor:
    """The replicas of one stream, and the query actor in front of them."""

    def __init__(self, config: StreamConfig, replicas: list[ReplicaHandle], query: Any) -> None:
        self.config, self._replicas, self._query = config, replicas, query
        self._succession = Succession(config.replicas.leader_silent_s)
        needs = (cores_of(config), config.replicas.num_gpus)
        self._lives = [Lives(needs=needs, look=replica.life) for replica in replicas]

    @classmethod
    def start(cls, config: StreamConfig) -> Supervisor:
        """Start everything; returns at once, while the replicas load and restore.

        Raises:
            ConfigurationError: the cluster has too little, or it already runs this stream. Nothing of it was started then.
        """
        (config,) = fit([config])
        deployment = uuid4().hex
        with ExitStack() as undo:
            replicas = []
            for number in range(config.replicas.count):
                replicas.append(ReplicaHandle(_start_replica(config, number, deployment), number))
                undo.callback(replicas[-1].kill)
            query = _started(config, QueryActorProcess, _query_options(config), config)
            undo.pop_all()
        return cls(config, replicas, query)

    @classmethod
    def find(cls, stream: str) -> Supervisor:
        """The running deployment of a stream, from any process of the cluster. Raises NoReplica if there is none."""
        try:
            query = ray.get_actor(query_name(stream), namespace=NAMESPACE)
            config: StreamConfig = result_of(query.config.remote(), 10)
            handles = named_replicas(config)
        except (ValueError, RayActorError, GetTimeoutError) as error:
            raise NoReplica(f"no stream {stream!r} runs on this Ray cluster: start it with `memstream run`") from error
        return cls(config, handles, query)

    @property
    def stream(self) -> str:
        """Its name."""
        return self.config.stream

    def statuses(self) -> list[ReplicaStatus]:
        """All replicas as they stand, and what Ray knows of their processes."""
        statuses = ReplicaHandle.statuses(self._replicas)
        return [lives.seen(status) for lives, status in zip(self._lives, statuses, strict=True)]

    def ask(self, question: Question) -> Answer:
        """Through the query actor. Raises NoReplica, ValueError."""
        try:
            answer: Answer = result_of(self._query.ask.remote(question))
        except RayActorError as error:
            raise NoReplica(f"the query actor of {self.config.stream!r} does not answer; ask again") from error
        return answer

    def healthy(self) -> list[ReplicaStatus]:
        """All replicas as they stand. One that cannot go on is shown as such, and the others do; where nobody leads, one is told to.

        Raises:
            ReplicaFailed: none of them can go on.
        """
        statuses = self.statuses()
        for lives, replica in zip(self._lives, self._replicas, strict=True):
            if lives.over is not None:
                replica.kill()  # Ray would start it again without end
        self._succeed(statuses)
        over = [status for status in statuses if self._is_over(status)]
        if len(over) == len(statuses):
            raise ReplicaFailed("; ".join(f"replica {status.replica}: {status.problem}" for status in over))
        return statuses

    def _succeed(self, statuses: Sequence[ReplicaStatus]) -> None:
        """Have the furthest follower lead where nobody does."""
        if self.config.replicas.mode != "follow" or self.config.replicas.count == 1:
            return
        number = self._succession.next(statuses, [lives.life for lives in self._lives])
        if number is not None:
            leader = self._succession.leader
            log.warning("replica %d of %s is told to lead", number, self.config.stream)
            self._replicas[number].lead(None if leader is None else leader.generation)

    def watch(self, enough: Callable[[list[ReplicaStatus]], bool]) -> Iterator[list[ReplicaStatus]]:
        """The statuses, again and again, until `enough` of them.

        Raises:
            ReplicaFailed: no replica can go on.
        """
        while True:
            statuses = self.healthy()
            yield statuses
            if enough(statuses):
                return
            time.sleep(WATCH_S)

    def wait_ready(self) -> list[ReplicaStatus]:
        """Until every replica can answer."""
        *_, last = self.watch(lambda found: all(status.answers for status in found))
        return last

    def _is_over(self, status: ReplicaStatus) -> bool:
        if status.phase is not Phase.DOWN:
            return status.phase is Phase.FAILED
        # A replica that is being restarted is DOWN for moments only; asked again with patience, only a dead one still is.
        return self._replicas[status.replica].status(timeout_s=30.0).phase is Phase.DOWN

    def drain(self, timeout_s: float = 600.0) -> list[ReplicaStatus]:
        """Let all replicas finish their document, save and stop reading. Answers go on until `stop`.

        One that was never placed, or ended for good, has nothing to finish.

        Raises:
            ReplicaLost: one was killed meanwhile; the same call may be made again.
        """
        statuses = self.statuses()
        alive = {status.replica for lives, status in zip(self._lives, statuses, strict=True) if _can_drain(lives, status)}
        try:
            drained = ReplicaHandle.drain([replica for replica in self._replicas if replica.number in alive], timeout_s)
        except GetTimeoutError as error:
            raise ReplicaFailed(f"not all replicas have drained after {timeout_s:.0f} s") from error
        except RayActorError as error:
            raise ReplicaLost(f"a replica's process ended while it drained: {reason_of(error)}") from error
        found = {status.replica: status for status in (*statuses, *drained)}
        return [found[replica.number] for replica in self._replicas]

    def stop(self) -> None:
        """End the actors."""
        ray.kill(self._query)
        for replica in self._replicas:
            replica.kill()


def _can_drain(lives: Lives, status: ReplicaStatus) -> bool:
    return lives.placed and lives.over is None and status.phase is not Phase.DOWN


def _start_replica(config: StreamConfig, number: int, deployment: str) -> Any:
    options = {
        "name": replica_name(config.stream, number),
        "num_cpus": cores_of(config),
        "num_gpus": config.replicas.num_gpus,
        "max_restarts": config.replicas.max_restarts,
    }
    return _started(config, ReplicaActor, options, config, number, cores_of(config), deployment)


def _query_options(config: StreamConfig) -> dict[str, Any]:
    return {
        "name": query_name(config.stream),
        "num_cpus": 0,
        "max_concurrency": 4096,
        "max_restarts": -1,
        "scheduling_strategy": here(),
    }


def _started(config: StreamConfig, actor: Any, options: Mapping[str, Any], *arguments: Any) -> Any:
    """An actor under way. Raises ConfigurationError where the cluster has one of that name."""
    try:
        return actor.options(namespace=NAMESPACE, **options).remote(*arguments)
    except ValueError as error:
        raise ConfigurationError(
            f"stream {config.stream!r} already runs on this cluster: drain it first, or choose another name"
        ) from error
