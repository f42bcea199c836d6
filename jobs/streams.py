"""The streams of one process. Each has a thread of its own that watches and drains it, so that none waits for another, or ends with it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, TypeAlias

from actors.config import StreamConfig
from actors.messages import ReplicaStatus
from actors.succession import speaker
from actors.supervisor import ReplicaLost, Supervisor
from jobs.command import message_of
from model.errors import ModelError
from pipeline.errors import MemstreamError

log = logging.getLogger(__name__)

Enough: TypeAlias = Callable[[list[ReplicaStatus]], bool]
Say: TypeAlias = Callable[[str], None]

_END_S: Final = 10.0


class StreamFailed(MemstreamError):
    """Streams that could not go on, each with its own message. The others did until the end."""


class StreamRun:
    """One stream, from its start until it has drained, or cannot go on.

    Args:
        enough: whether these statuses are the last to be waited for.
    """

    def __init__(self, config: StreamConfig, enough: Enough, say: Say) -> None:
        self.config, self.statuses = config, list[ReplicaStatus]()
        self.error: Exception | None = None
        self._enough, self._say = enough, say
        self._abandoned = threading.Event()
        self._supervisor: Supervisor | None = None
        self._thread = threading.Thread(target=self._run, name=f"stream {config.stream}", daemon=True)

    @property
    def name(self) -> str:
        return self.config.stream

    @property
    def started(self) -> bool:
        return self._supervisor is not None

    @property
    def over(self) -> bool:
        return not self._thread.is_alive()

    def start(self) -> None:
        """Start its actors. Where that is not possible, `error` says why."""
        try:
            self._supervisor = Supervisor.start(self.config)
        except MemstreamError as error:
            self.error = error
            return
        self._thread.start()

    def abandon(self) -> None:
        """End its actors, drained or not."""
        self._abandoned.set()
        if self._supervisor is not None:
            self._supervisor.stop()

    def join(self) -> None:
        """Wait a little until its thread has noticed that."""
        if self.started:
            self._thread.join(_END_S)

    def result(self) -> dict[str, Any]:
        """What it came to. The leader speaks for the stream: it wrote the snapshot."""
        replicas = [status.as_dict() for status in self.statuses]
        if self.error is not None:
            return {"stream": self.name, "error": message_of(self.error), "replicas": replicas}
        owner = speaker(self.statuses)
        return {
            "stream": self.name,
            "epoch": owner.epoch,
            "position": dict(owner.position),
            "counts": dict(owner.counts),
            "update_number": owner.update_number,
            "memory_sha256": owner.memory_sha256,
            "watermark_ms": owner.watermark_ms,
            "snapshots": f"{self.config.snapshots.root}/{self.name}",
            "replicas": replicas,
        }

    def _run(self) -> None:
        """The one place where what befalls a stream ends up: the others go on."""
        assert self._supervisor is not None
        try:
            self._watch_and_drain(self._supervisor)
        except Exception as error:
            if not self._abandoned.is_set():
                if not isinstance(error, MemstreamError | ModelError):
                    log.exception("stream %s ends by an error of our own", self.name)
                self.statuses = self._supervisor.statuses()
                self.error = error

    def _watch_and_drain(self, supervisor: Supervisor) -> None:
        """Until it is enough. A replica that was killed on the way out is restored first, and drained then."""
        while True:
            for statuses in supervisor.watch(lambda found: self._abandoned.is_set() or self._enough(found)):
                self.statuses = statuses
            if self._abandoned.is_set():
                return
            try:
                self.statuses = supervisor.drain()
                return
            except ReplicaLost as error:
                self._say(f"{self.name}: {error}; waiting for it to come back")


def end_all(runs: Iterable[StreamRun]) -> None:
    """End the actors of all, and wait a little for their threads."""
    runs = [run for run in runs if run.started]
    for run in runs:
        run.abandon()
    for run in runs:
        run.join()


def require_all(runs: Sequence[StreamRun]) -> None:
    """Raises what the only one could not go on for; of several, StreamFailed with each that could not."""
    errors = [(run.name, run.error) for run in runs if run.error is not None]
    if errors and len(runs) == 1:
        raise errors[0][1]
    if errors:
        told = [f"{name}: {message_of(error)}" for name, error in errors]
        raise StreamFailed("\n".join([f"{len(errors)} of {len(runs)} streams could not go on:", *told]))
