"""Who leads next, when nobody does: the follower that is furthest. The store decides whether it may, this decides who is asked."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from actors.lives import Life
from actors.messages import Leader, Phase, ReplicaStatus, Role

CALL_S = 30.0
"""Whoever was told to lead has so long for it before another one is told."""

_CAN_LEAD = (Phase.RUNNING, Phase.WAITING)


@dataclass(slots=True)
class Succession:
    """Looks at the replicas again and again, and says whom to tell that he leads.

    Args:
        silent_s: how long a leader whose process lives may say nothing.
    """

    silent_s: float
    clock: Callable[[], float] = time.monotonic
    leader: Leader | None = None
    """The newest that was seen; its generation is this deployment's."""
    _pid: int | None = None
    _heard_at_s: float = 0.0
    _called: tuple[int, float] | None = field(default=None)

    def next(self, statuses: Sequence[ReplicaStatus], lives: Sequence[Life | None]) -> int | None:
        """Whom to tell to lead; None: somebody does, or was told, or nobody can.

        Args:
            statuses: of all replicas, in the order of their numbers.
            lives: what Ray knows of their processes.
        """
        now_s = self.clock()
        for status in statuses:
            known = self.leader.generation if self.leader else 0
            if status.role is Role.LEADER and status.pid is not None and status.generation >= known:
                if status.generation > known:
                    self._called = None
                self.leader, self._pid, self._heard_at_s = Leader(status.replica, status.generation), status.pid, now_s
        if self.leader is not None and not self._lost(statuses[self.leader.replica], lives[self.leader.replica], now_s):
            return None
        able = [each for each in statuses if each.role is Role.FOLLOWER and each.phase in _CAN_LEAD and each.pid is not None]
        # One whose memory no chain holds leads only if there is no other: it goes back to the last snapshot.
        best = max(able, key=lambda each: (not each.loading, each.generation, each.commits, -each.replica), default=None)
        if best is None or (self._called is not None and self._is_coming(self._called, able, now_s)):
            return None
        self._called = best.replica, now_s
        return best.replica

    def _lost(self, status: ReplicaStatus, life: Life | None, now_s: float) -> bool:
        if status.pid == self._pid and status.role is Role.LEADER:
            return status.phase is Phase.FAILED
        if status.pid is not None:
            return True  # it is another process, or follows: it found out that it was replaced
        ended = life is not None and (life.state != "ALIVE" or life.pid != self._pid)
        return ended or now_s - self._heard_at_s > self.silent_s

    @staticmethod
    def _is_coming(called: tuple[int, float], able: Sequence[ReplicaStatus], now_s: float) -> bool:
        number, at_s = called
        return now_s - at_s < CALL_S and any(each.replica == number for each in able)


def speaker(statuses: Sequence[ReplicaStatus]) -> ReplicaStatus:
    """The replica that speaks for the stream: its leader; where none leads, the first one.

    >>> first, second = (ReplicaStatus(replica=number, phase=Phase.RUNNING) for number in range(2))
    >>> speaker([first, second]).replica
    0
    """
    leaders = [status for status in statuses if status.role is Role.LEADER]
    return max(leaders, key=lambda status: status.generation) if leaders else statuses[0]
