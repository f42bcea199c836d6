"""What Ray knows of a replica's processes: whether one was ever placed, how often it ended, and why.

An actor that is killed again and again answers nothing, so its own word is not to be had. Ray's control store keeps all of it; there is no
public call for that without a dashboard, so the two private ones stand here, and where a Ray lacks them nothing is known.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import ray

from actors.messages import Phase, ReplicaStatus

log = logging.getLogger(__name__)

MOST_ENDS = 5
"""Ends of a process without any progress in between, after which it is not started again: every loop has an end."""

STEADY_S = 60.0
"""A process that has answered for so long is in no crash loop, though there was nothing to learn."""

_NOT_PLACED = frozenset({"DEPENDENCIES_UNREADY", "PENDING_CREATION"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Life:
    """One look at an actor: `pid` is its latest process, `ends` how many there were before."""

    state: str
    ends: int
    pid: int

    @property
    def placed(self) -> bool:
        """Whether Ray has found a place for it, now or ever."""
        return self.state not in _NOT_PLACED


def life_of(actor: Any) -> Life | None:
    """An actor as Ray's control store has it; None where it is not known."""
    try:
        from ray._private import state

        found = state.actors(actor._actor_id.hex())
        return Life(state=found["State"], ends=found["NumRestarts"], pid=found["Pid"])
    except Exception as error:  # private: whatever another Ray makes of it
        log.debug("Ray does not tell of its actors: %s", error)
        return None


def why_ended(pids: Collection[int]) -> str | None:
    """Why the last of these processes ended, as Ray saw it; None where it does not say."""
    try:
        from ray._private import state
        from ray.core.generated import gcs_pb2

        store: Any = state.state._global_state_accessor
        table = map(vars(gcs_pb2)["WorkerTableData"].FromString, store.get_worker_table())
        ended = [worker for worker in table if not worker.is_alive and worker.pid in pids and worker.exit_detail]
        return told(max(ended, key=lambda worker: worker.end_time_ms).exit_detail) if ended else None
    except Exception as error:  # private: whatever another Ray makes of it
        log.debug("Ray does not tell of its processes: %s", error)
        return None


def told(text: str, most_chars: int = 300) -> str:
    """The lines of one of Ray's long reports that say what happened, in one: its first sentences, and that of memory.

    >>> told("2 worker(s) were killed due to the node running low on memory. Memory on the node was 7.0GB used / 8.0GB limit\\n\\nMore")
    '2 worker(s) were killed due to the node running low on memory. Memory on the node was 7.0GB used / 8.0GB limit'
    """
    lines = [" ".join(line.split()) for line in text.splitlines() if line.strip()]
    telling = [line for line in lines if any(word in line.lower() for word in ("memory", "error_message", "exit", "killed", "died"))]
    line = (telling or lines or ["no reason is known"])[0].removeprefix("error_message:").strip(' "')
    return line if len(line) <= most_chars else line[: most_chars - 3] + "..."


def free() -> Mapping[str, float]:
    """What the cluster has left, all nodes together."""
    left: Mapping[str, float] = ray.available_resources()
    return left


@dataclass(slots=True)
class Lives:
    """How one replica's processes come and go, and what is said of it.

    Args:
        needs: cores and GPUs of one process.
    """

    needs: tuple[int, float]
    look: Callable[[], Life | None]
    why: Callable[[Collection[int]], str | None] = why_ended
    left: Callable[[], Mapping[str, float]] = free
    clock: Callable[[], float] = time.monotonic
    life: Life | None = None
    over: str | None = None
    reason: str | None = None
    _pids: deque[int] = field(default_factory=lambda: deque(maxlen=8))
    _untold: bool = False
    """One has ended, and Ray has not said yet why."""
    _version: int = -1
    _ends_before: int = 0
    _answering: tuple[int, float] | None = None
    """The process that answers, and since when."""

    @property
    def placed(self) -> bool:
        """Whether it ever had a process, as far as is known."""
        return self.life is None or self.life.placed

    def seen(self, status: ReplicaStatus) -> ReplicaStatus:
        """The status with what Ray knows beside it. FAILED where it ends again and again without getting any further."""
        before, self.life = self.life, self.look() or self.life
        life = self.life
        if life is None:
            return status
        if before is not None and life.ends > before.ends:
            self._untold = True
        # While it starts again, Ray shows the process that ended, or already the next one.
        self._pids.append(life.pid)
        if self._untold and (reason := self.why(self._pids)) is not None:
            self.reason, self._untold = reason, False
        if status.pid is not None and status.answers and self._gets_on(status.pid, status.version):
            self._ends_before = life.ends
        status = replace(status, restarts=life.ends)
        if status.pid is None and not life.placed:
            return replace(status, problem=self._waits())
        ended = life.ends - self._ends_before + (life.state == "DEAD")
        if self.over is None and ended >= MOST_ENDS:
            self.over = f"its process ended {ended} times without getting any further, the last time: {self.reason or 'no reason is known'}"
        if self.over is not None:
            return replace(status, phase=Phase.FAILED, problem=self.over)
        if status.pid is None and life.ends and self.reason is not None:
            times = "once" if life.ends == 1 else f"{life.ends} times"
            return replace(status, problem=f"starts again after it ended {times}, the last time: {self.reason}")
        return status

    def _gets_on(self, pid: int, version: int) -> bool:
        """Whether it has learned something since it was last seen, or has been there for a while."""
        if self._answering is None or self._answering[0] != pid:
            self._answering = pid, self.clock()
        further, self._version = version != self._version, version
        return further or self.clock() - self._answering[1] > STEADY_S

    def _waits(self) -> str:
        (cores, gpus), left = self.needs, self.left()
        if left.get("CPU", 0) >= cores and left.get("GPU", 0) >= gpus:
            return "is being placed"
        wanted = f"{cores} free core{'s' * (cores > 1)}" + (f" and {gpus:g} GPU" if gpus else "")
        there = f"{left.get('CPU', 0):g} cores" + (f" and {left.get('GPU', 0):g} GPU" if gpus else "")
        return f"waits for {wanted} on one node: {there} are free, other streams or jobs hold the rest"
