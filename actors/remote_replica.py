"""A replica in a process of its own. Torch and transformers are loaded there, and not by whoever starts or asks it."""

from __future__ import annotations

import ray

from actors.config import StreamConfig
from actors.messages import Answer, Question, ReplicaStatus


class RemoteReplica:
    """`actors.replica.Replica`, as Ray runs it."""

    def __init__(self, config: StreamConfig, number: int, threads: int) -> None:
        from actors.replica import Replica

        self._replica = Replica(config, number, threads)

    def status(self) -> ReplicaStatus:
        return self._replica.status()

    def answer(self, question: Question) -> Answer:
        return self._replica.answer(question)

    def drain(self) -> ReplicaStatus:
        return self._replica.drain()


# Health must not queue behind answers; how many of those run at once is the replica's own bound.
ReplicaActor = ray.remote(concurrency_groups={"control": 4, "query": 64})(RemoteReplica)  # type: ignore[call-overload]
