"""The query actor: sends each question to the replica that knows most, and to the next one if that fails."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Protocol

import ray
from ray.exceptions import GetTimeoutError, RayActorError

from actors.config import StreamConfig
from actors.handles import ReplicaHandle, named_replicas
from actors.messages import Answer, Question, ReplicaStatus
from model.errors import VersionEvicted
from pipeline.errors import MemstreamError

log = logging.getLogger(__name__)

STATUS_TIMEOUT_S = 1.0


class NoReplica(MemstreamError):
    """No replica of the stream can answer now. They may be starting; `memstream status` says what each one waits for."""

    retriable = True


class Askable(Protocol):
    """A replica's handle, as far as asking goes."""

    @property
    def number(self) -> int: ...

    def answer(self, question: Question, timeout_s: float) -> Answer: ...


def knowing_most(statuses: Sequence[ReplicaStatus]) -> list[ReplicaStatus]:
    """Those that can answer, best first: greatest watermark, then most records applied, then least busy.

    >>> from actors.messages import Phase
    >>> ahead = ReplicaStatus(replica=1, phase=Phase.RUNNING, watermark_ms=7, counts={"applied": 3})
    >>> behind = ReplicaStatus(replica=0, phase=Phase.RUNNING, watermark_ms=7, counts={"applied": 2})
    >>> [status.replica for status in knowing_most([behind, ahead])]
    [1, 0]
    """
    usable = [status for status in statuses if status.answers]
    return sorted(usable, key=_ignorance)


def _ignorance(status: ReplicaStatus) -> tuple[int, int, int]:
    watermark_ms = -1 if status.watermark_ms is None else status.watermark_ms
    return -watermark_ms, -status.counts.get("applied", 0), status.running_answers


class QueryActor:
    """Asks the replicas of one stream."""

    def __init__(self, config: StreamConfig, replicas: list[ReplicaHandle]) -> None:
        self._config, self._replicas = config, replicas

    def ask(self, question: Question) -> Answer:
        """The best replica's answer.

        Raises:
            NoReplica: none answered.
            ValueError: the question itself is refused.
        """
        by_number = {replica.number: replica for replica in self._replicas}
        failures = []
        for status in knowing_most(self.statuses()):
            try:
                return by_number[status.replica].answer(question, self._config.answers.timeout_s)
            except (RayActorError, GetTimeoutError, VersionEvicted) as error:
                log.warning("replica %d did not answer: %s", status.replica, type(error).__name__)
                failures.append(f"replica {status.replica}: {type(error).__name__}")
        raise NoReplica(
            "; ".join(failures) or "; ".join(f"replica {each.replica} {each.phase}: {each.problem}" for each in self.statuses())
        )

    def statuses(self) -> list[ReplicaStatus]:
        """All replicas as they stand."""
        return ReplicaHandle.statuses(self._replicas, STATUS_TIMEOUT_S)

    def config(self) -> StreamConfig:
        """What this stream runs with."""
        return self._config


class RemoteQuery(QueryActor):
    """As Ray runs it: it finds the replicas by their names, so that it can be started again when it is killed."""

    def __init__(self, config: StreamConfig) -> None:
        super().__init__(config, named_replicas(config))


QueryActorProcess = ray.remote(RemoteQuery)
