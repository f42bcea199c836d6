"""The replicas of a run as processes of the nursery, each with its poller's: kept alive as Ray would, led by `Succession` as a supervisor
would have it, and killed as a fault wants."""

from __future__ import annotations

import os
import signal
import threading
import time
import uuid
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from typing import Any

from actors.lives import Life
from actors.messages import Leader, Phase, ReplicaStatus, Role
from actors.succession import Succession
from tests.faults.nursery import Child, born
from tests.faults.world import GaveUp, World

MOST_DEATHS = 3
"""By itself, of one replica; one more is a finding."""

DRAIN_S = 90.0
SUPERVISE_S, SILENT_S = 0.05, 30.0


class Node:
    """One life of one replica. `feeds`: its deployment's sockets, see `tests.faults.feeds`."""

    def __init__(self, world: World, number: int, deployment: str, cache: str, plant: str | None) -> None:
        self.number = number
        self.status = ReplicaStatus(replica=number, phase=Phase.STARTING)
        self.drained: dict[str, Any] | None = None
        self.pollers: list[int] = []
        self.ended, self.settled = threading.Event(), threading.Event()
        self.expected = False
        self._knows: Leader | None = None
        environ = {**world.parts.environ, "MEMSTREAM_CACHE": cache, "TMPDIR": str(world.folder)}
        nursery, log, feeds = world.parts.nursery.address, world.folder / f"replica-{number}.log", str(world.folder / deployment)
        what = (world.config, number, deployment, feeds, nursery, log, plant, world.full_disk, world.has_broken_blocks)
        self.child: Child = born(nursery, "tests.faults.node:live", log, environ, *what)
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        with suppress(EOFError, OSError):
            while True:
                kind, what = self.child.channel.recv()
                if kind == "poller":
                    self.pollers.append(what)
                elif kind == "drained":
                    self.status, sha256 = what
                    self.drained = asdict(self.status) | {"live_memory_sha256": sha256}
                    self.settled.set()
                else:
                    self.status = what
        self.ended.set()
        self.settled.set()

    @property
    def failed(self) -> bool:
        return self.status.phase is Phase.FAILED

    @property
    def life(self) -> Life:
        return Life(state="RESTARTING" if self.ended.is_set() else "ALIVE", ends=0, pid=self.child.pid)

    def tell(self, kind: str, what: Any) -> None:
        with suppress(OSError):
            self.child.channel.send((kind, what))

    def hear(self, leader: Leader | None) -> None:
        if leader is not None and leader != self._knows:
            self._knows = leader
            self.tell("hear", leader)

    def stops(self, seconds: float, poller: bool) -> None:
        """SIGSTOP, and SIGCONT some time later, while this waits."""
        pid = self.pollers[-1] if poller and self.pollers else self.child.pid
        for number in (signal.SIGSTOP, signal.SIGCONT):
            with suppress(ProcessLookupError):
                os.kill(pid, number)
            time.sleep(seconds if number == signal.SIGSTOP else 0)

    def end(self, number: int = signal.SIGKILL) -> None:
        """Told to, so it is not started again by itself."""
        self.expected = True
        self.child.kill(number)


def drain(nodes: Sequence[Node]) -> None:
    """Side by side: a follower takes the last commits of its leader, which is there until all are through. Raises GaveUp."""
    for node in nodes:
        node.end(signal.SIGTERM)
    deadline_s = time.monotonic() + DRAIN_S
    for node in nodes:
        if not node.settled.wait(max(0.0, deadline_s - time.monotonic())):
            raise GaveUp(f"replica {node.number} did not drain after SIGTERM: {node.status}")
    for node in nodes:
        node.tell("end", None)
    for node in nodes:
        if not node.ended.wait(DRAIN_S):
            raise GaveUp(f"replica {node.number} did not end after it had drained")


class Nodes:
    """A deployment without Ray."""

    def __init__(self, world: World, plant: str | None = None) -> None:
        self._world, self._plant = world, plant
        self._caches = 0
        self._deployment, self._succession = "", Succession(SILENT_S)
        self._swapping = threading.Lock()
        self.old: list[Node] = []
        self.nodes: list[Node] = []
        self.lives = 0
        self.deaths = 0
        self._over = threading.Event()
        self._supervising = threading.Thread(target=self._supervise, daemon=True)
        if world.follows:
            self._supervising.start()

    def start(self) -> None:
        with self._swapping:
            self._deployment, self._succession = uuid.uuid4().hex[:8], Succession(SILENT_S)
            self.nodes = [self._born(number) for number in range(self._world.schedule.replicas)]

    def _born(self, number: int) -> Node:
        self.lives += 1
        cache = self._world.folder / f"cache-{self._caches}"
        return Node(self._world, number, self._deployment, str(cache), self._plant)

    def _supervise(self) -> None:
        """As `actors.supervisor.Supervisor` does: whom `Succession` names is told to lead, and all hear who leads."""
        while not self._over.wait(SUPERVISE_S):
            with self._swapping:
                if not self.nodes or any(node.drained is not None for node in self.nodes):
                    continue
                number = self._succession.next([node.status for node in self.nodes], [node.life for node in self.nodes])
                leader = self._succession.leader
                if number is not None:
                    self.nodes[number].tell("lead", None if leader is None else leader.generation)
                for node in self.nodes:
                    node.hear(leader)

    @property
    def first(self) -> Node:
        return self.nodes[0]

    @property
    def _writer(self) -> Node | None:
        """Whoever saves, as far as is known."""
        if not self._world.follows:
            return self.first
        leaders = [node for node in self.nodes if node.status.role is Role.LEADER and not node.ended.is_set()]
        return max(leaders, key=lambda node: node.status.generation, default=None)

    def look(self) -> list[ReplicaStatus]:
        """All statuses; a replica that ended by itself is started again. Raises GaveUp where one cannot go on."""
        for node in self.nodes:
            if node.ended.is_set() and not node.expected and node.drained is None:
                self.deaths += 1
                if self.deaths > MOST_DEATHS:
                    raise GaveUp(f"replica {node.number} ended by itself {self.deaths} times: see {node.number}'s log")
                self._renew(node.number)
            elif node.failed:
                raise GaveUp(f"replica {node.number} cannot go on: {node.status.problem}")
        return [node.status for node in self.nodes]

    def _renew(self, number: int) -> None:
        with self._swapping:
            self.nodes[number] = self._born(number)

    def learned(self) -> bool:
        """Whether all of them have passed everything that was published."""
        return all(map(self._world.learned_by, self.look())) and self._writer is not None

    # ------------------------------------------------------------------ faults

    def kill_replica(self, elsewhere: bool) -> None:
        """kill -9; it comes back, perhaps on a node that has never fetched a segment."""
        self._kill(self.first, elsewhere)

    def change_leader(self) -> None:
        """kill -9 of the one that leads, as far as it is known."""
        self._kill(self._writer or self.first)

    def _kill(self, node: Node, elsewhere: bool = False) -> None:
        node.end()
        self._caches += elsewhere
        self._renew(node.number)

    def kill_poller(self) -> None:
        node = self._writer or self.first
        if node.pollers:
            with suppress(ProcessLookupError):
                os.kill(node.pollers[-1], signal.SIGKILL)

    def stop_replica(self, seconds: float) -> None:
        self.first.stops(seconds, poller=False)

    def stop_poller(self, seconds: float) -> None:
        (self._writer or self.first).stops(seconds, poller=True)

    def term(self, elsewhere: bool, start: bool = True) -> None:
        """SIGTERM, and started again once it has ended. What it could not save in time is learned again."""
        drain(self.nodes)
        self._caches += elsewhere
        if start:
            self.start()

    def second_writer(self, frozen: bool) -> None:
        """Another deployment of the same stream beside the first one, which must stop by itself as soon as it would save."""
        self._world.until(lambda: bool(self.look()) and self._writer is not None, "somebody leads")
        with self._swapping:
            old, first, self.nodes = self._writer or self.first, self.nodes, []
        for node in first:
            node.expected = True
            if node is not old:
                node.end()
        if frozen:
            os.kill(old.child.pid, signal.SIGSTOP)
        self.old.append(old)
        self._caches += 1
        self.start()
        try:
            self._world.until(self.learned, "the second deployment has read everything")
        finally:
            if frozen:
                os.kill(old.child.pid, signal.SIGCONT)

    # ------------------------------------------------------------------ the end

    def finish(self) -> list[dict[str, Any]]:
        """Drain all of them; how they stood, whoever wrote first. Those that were replaced are drained before."""
        for node in self.old:
            self._must_have_stopped(node)
        for tries in (1, 2, 3):
            self.term(elsewhere=False, start=False)
            if all(node.drained is not None for node in self.nodes):
                drained = [node.drained or {} for node in self.nodes]
                return sorted(drained, key=lambda status: status["role"] == Role.FOLLOWER)
            if tries < 3:
                self.start()
                self._world.until(self.learned, "it has read everything after a drain that failed")
        raise GaveUp("replicas could not drain: see their logs")

    def _must_have_stopped(self, node: Node) -> None:
        """ONE-WRITER: a deployment that was replaced stops by itself, and says why, as soon as it would save what it learned since."""
        self._world.until(lambda: node.failed or self._world.learned_by(node.status), "the replaced deployment read on or stopped")
        drain([node])
        if "StaleWriter" not in str(node.status.problem):
            raise GaveUp(f"a deployment that was replaced did not say so: {node.status}")

    def close(self) -> None:
        self._over.set()
        for node in (*self.old, *self.nodes):
            for pid in (node.child.pid, *node.pollers):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            node.child.channel.close()
