"""The replicas of a run as processes of the nursery, each with its poller's: kept alive as Ray would, and killed as a fault wants."""

from __future__ import annotations

import os
import signal
import threading
import time
from contextlib import suppress
from typing import Any

from tests.faults.nursery import Child, born
from tests.faults.world import GaveUp, World

MOST_DEATHS = 3
"""By itself, of one replica; one more is a finding."""


class Node:
    """One life of one replica."""

    def __init__(self, world: World, number: int, cache: str, plant: str | None) -> None:
        self.number = number
        self.status: dict[str, Any] = {}
        self.drained: dict[str, Any] | None = None
        self.pollers: list[int] = []
        self.ended = threading.Event()
        self.expected = False
        environ = {**world.parts.environ, "MEMSTREAM_CACHE": cache, "TMPDIR": str(world.folder)}
        nursery, log = world.parts.nursery.address, world.folder / f"replica-{number}.log"
        self.child: Child = born(
            nursery,
            "tests.faults.node:live",
            log,
            environ,
            world.config,
            number,
            nursery,
            log,
            plant,
            world.full_disk,
            world.has_broken_blocks,
        )
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        with suppress(EOFError, OSError):
            while True:
                kind, what = self.child.channel.recv()
                if kind == "poller":
                    self.pollers.append(what)
                elif kind == "drained":
                    self.status = self.drained = what
                else:
                    self.status = what
        self.ended.set()

    @property
    def phase(self) -> str:
        return str(self.status.get("phase", "starting"))

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


class Nodes:
    """A deployment without Ray."""

    def __init__(self, world: World, plant: str | None = None) -> None:
        self._world, self._plant = world, plant
        self._caches = 0
        self.old: list[Node] = []
        self.nodes: list[Node] = []
        self.lives = 0
        self.deaths = 0

    def start(self) -> None:
        self.nodes = [self._born(number) for number in range(self._world.schedule.replicas)]

    def _born(self, number: int) -> Node:
        self.lives += 1
        cache = self._world.folder / f"cache-{self._caches}"
        return Node(self._world, number, str(cache), self._plant)

    @property
    def first(self) -> Node:
        return self.nodes[0]

    def look(self) -> list[dict[str, Any]]:
        """All statuses; a replica that ended by itself is started again. Raises GaveUp where one cannot go on."""
        for node in self.nodes:
            if node.ended.is_set() and not node.expected and node.drained is None:
                self.deaths += 1
                if self.deaths > MOST_DEATHS:
                    raise GaveUp(f"replica {node.number} ended by itself {self.deaths} times: see {node.number}'s log")
                self.nodes[node.number] = self._born(node.number)
            elif node.phase == "failed":
                raise GaveUp(f"replica {node.number} cannot go on: {node.status['problem']}")
        return [node.status for node in self.nodes]

    def learned(self) -> bool:
        """Whether all of them have passed everything that was published."""
        position = self._world.position()
        return all(status.get("position") == position for status in self.look())

    # ------------------------------------------------------------------ faults

    def kill_replica(self, elsewhere: bool) -> None:
        """kill -9; it comes back, perhaps on a node that has never fetched a segment."""
        self.first.end()
        self._caches += elsewhere
        self.nodes[0] = self._born(0)

    def kill_poller(self) -> None:
        if self.first.pollers:
            with suppress(ProcessLookupError):
                os.kill(self.first.pollers[-1], signal.SIGKILL)

    def stop_replica(self, seconds: float) -> None:
        self.first.stops(seconds, poller=False)

    def stop_poller(self, seconds: float) -> None:
        self.first.stops(seconds, poller=True)

    def term(self, elsewhere: bool, start: bool = True) -> None:
        """SIGTERM, and started again once it has ended. What it could not save in time is learned again."""
        for node in self.nodes:
            node.end(signal.SIGTERM)
        for node in self.nodes:
            if not node.ended.wait(60):
                raise GaveUp(f"replica {node.number} did not end after SIGTERM")
        self._caches += elsewhere
        if start:
            self.start()

    def second_writer(self, frozen: bool) -> None:
        """Another deployment of the same stream beside the first one, which must stop by itself as soon as it would save."""
        old = self.first
        if frozen:
            os.kill(old.child.pid, signal.SIGSTOP)
        old.expected = True
        self.old.append(old)
        self._caches += 1
        self.nodes[0] = self._born(0)
        try:
            self._world.until(self.learned, "the second deployment has read everything")
        finally:
            if frozen:
                os.kill(old.child.pid, signal.SIGCONT)

    # ------------------------------------------------------------------ the end

    def finish(self) -> list[dict[str, Any]]:
        """Drain all of them; how they stood. Those that were replaced are drained first."""
        for node in self.old:
            self._must_have_stopped(node)
        for tries in (1, 2, 3):
            self.term(elsewhere=False, start=False)
            if all(node.drained is not None for node in self.nodes):
                return [node.drained or {} for node in self.nodes]
            if tries < 3:
                self.start()
                self._world.until(self.learned, "it has read everything after a drain that failed")
        raise GaveUp("replicas could not drain: see their logs")

    def _must_have_stopped(self, node: Node) -> None:
        """ONE-WRITER: a deployment that was replaced stops by itself, and says why, as soon as it would save what it learned since."""
        position = self._world.position()
        self._world.until(
            lambda: node.phase == "failed" or node.status.get("position") == position, "the replaced deployment read on or stopped"
        )
        node.end(signal.SIGTERM)
        if not node.ended.wait(60):
            raise GaveUp("a deployment that was replaced did not end after SIGTERM")
        if "StaleWriter" not in str(node.status.get("problem")):
            raise GaveUp(f"a deployment that was replaced did not say so: {node.status}")

    def close(self) -> None:
        for node in (*self.old, *self.nodes):
            for pid in (node.child.pid, *node.pollers):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            node.child.channel.close()
