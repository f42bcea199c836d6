"""A deployment as a user has it: `python -m jobs.run` on a Ray of this harness's own, killed process by process."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from actors.cluster import connect, disconnect
from actors.errors import NoReplica
from actors.messages import Phase, ReplicaStatus, Role
from actors.supervisor import Supervisor
from tests.faults.world import GaveUp, World
from tests.processes import Job, Jobs, kill_9

CORES, PATIENCE_S = 16, 150.0


class Cluster:
    """The replicas, pollers, query actor and supervisor of one stream."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.lives = self.deaths = 0
        with _environ(world.parts.environ | {"MEMSTREAM_CACHE": str(world.folder / "cache")}):
            connect("local", num_cpus=CORES)
            import ray

            address = ray.get_runtime_context().gcs_address
        environ = {**os.environ, **world.parts.environ, "RAY_ADDRESS": address}
        self._jobs = Jobs(world.folder, environ)
        self._job: Job | None = None
        self._supervisor: Supervisor | None = None

    def start(self) -> None:
        self.lives += 1
        self._supervisor = None
        self._job = self._jobs.run(self._world.config)

    @property
    def job(self) -> Job:
        assert self._job is not None
        return self._job

    def look(self) -> list[ReplicaStatus]:
        """All statuses; none while there is no supervisor. Raises GaveUp where the run ended by itself, or a replica cannot go on."""
        if self.job.process.poll() is not None:
            raise GaveUp(f"the run ended by itself with {self.job.process.returncode}: {self.job.errors()[-2000:]}")
        try:
            self._supervisor = self._supervisor or Supervisor.find(self._world.name)
        except NoReplica:
            return []
        statuses = self._supervisor.statuses()
        for status in statuses:
            if status.phase is Phase.FAILED:
                raise GaveUp(f"replica {status.replica} cannot go on: {status.problem}")
        return statuses

    def learned(self) -> bool:
        statuses = self.look()
        time.sleep(0.1)
        return len(statuses) == self._world.schedule.replicas and all(map(self._world.learned_by, statuses))

    # ------------------------------------------------------------------ faults

    def kill_replica(self, elsewhere: bool) -> None:
        """kill -9; Ray starts it again."""
        self._kill_number(0)

    def change_leader(self) -> None:
        """kill -9 of the one that leads, as far as it is known."""
        leading = [status.replica for status in self._running() if status.role is Role.LEADER]
        self._kill_number(leading[0] if leading else 0)

    def _kill_number(self, number: int) -> None:
        pid = next(status.pid for status in self._running() if status.replica == number)
        assert pid is not None
        kill_9(pid)

    def _running(self) -> list[ReplicaStatus]:
        """Once there are processes of all replicas."""
        found: list[ReplicaStatus] = []

        def told() -> bool:
            found[:] = self.look()
            return bool(found) and all(status.pid is not None for status in found)

        self._world.until(told, "all replicas run", PATIENCE_S)
        return found

    def kill_poller(self) -> None:
        self._kill_named("Poller")

    def kill_query(self) -> None:
        self._kill_named("RemoteQuery")

    def _kill_named(self, name: str) -> None:
        self._running()
        for pid in _own_processes(name)[:1]:
            kill_9(pid)

    def kill_supervisor(self, elsewhere: bool) -> None:
        """kill -9 of the job: Ray ends its actors with it. Run again as soon as they are gone."""
        self._running()
        kill_9(self.job.process.pid)
        self._world.until(lambda: not self._is_there(), "Ray has noticed that the job is gone", PATIENCE_S)
        self.start()

    def _is_there(self) -> bool:
        import ray

        names = [actor["name"] for actor in ray.util.list_named_actors(all_namespaces=True)]
        return any(f"/{self._world.name}" in name for name in names)

    def stop_replica(self, seconds: float) -> None:
        pid = self._running()[0].pid
        assert pid is not None
        for number in (signal.SIGSTOP, signal.SIGCONT):
            with suppress(ProcessLookupError):
                os.kill(pid, number)
            time.sleep(seconds if number == signal.SIGSTOP else 0)

    def term(self, elsewhere: bool, start: bool = True) -> None:
        self._running()
        self._drained()
        if start:
            self.start()

    def _drained(self) -> dict[str, Any]:
        self.job.signal(signal.SIGTERM)
        result = self.job.result()
        self._world.until(lambda: not self._is_there(), "its actors are gone", PATIENCE_S)
        return result

    # ------------------------------------------------------------------ the end

    def finish(self) -> list[dict[str, Any]]:
        """SIGTERM; the statuses that the run prints, whoever wrote first."""
        replicas: list[dict[str, Any]] = self._drained()["replicas"]
        return sorted(replicas, key=lambda status: bool(status["role"] == Role.FOLLOWER))

    def close(self) -> None:
        self._jobs.end()
        disconnect()


@contextmanager
def _environ(changed: dict[str, str]) -> Iterator[None]:
    """What Ray's processes inherit."""
    before = dict(os.environ)
    os.environ.update(changed)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _own_processes(actor: str) -> list[int]:
    """Processes of actors of this class that our own Ray runs: others run on this machine too."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            pid = int(path.parent.name)
            if path.read_bytes().startswith(f"ray::{actor}".encode()) and _parent(_parent(pid)) == os.getpid():
                found.append(pid)
    return found


def _parent(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("PPid:")))
