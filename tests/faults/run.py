"""One seed: its schedule carried out, and what is wrong afterwards."""

from __future__ import annotations

import random
import shutil
import time
import traceback
import uuid
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from pipeline.errors import MemstreamError
from tests.faults.checks import problems_of
from tests.faults.nodes import Nodes
from tests.faults.parts import Parts
from tests.faults.proxy import Rule
from tests.faults.schedule import Schedule, Step
from tests.faults.world import PATIENCE_S, GaveUp, World

PATIENCE_ON_RAY_S = 150.0


class Deployment(Protocol):
    """The processes of a stream, as a schedule sees them. Which faults are possible depends on what they are."""

    lives: int
    deaths: int

    def start(self) -> None: ...

    def learned(self) -> bool: ...

    def term(self, elsewhere: bool, start: bool = True) -> None: ...

    def finish(self) -> list[dict[str, Any]]: ...

    def close(self) -> None: ...


@dataclass(slots=True, kw_only=True)
class Verdict:
    """What a run came to. `problems`: nothing must be there."""

    seed: int
    schedule: dict[str, Any]
    seconds: float = 0.0
    problems: list[str] = field(default_factory=list)
    told: dict[str, Any] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        return not self.problems

    def as_dict(self) -> dict[str, Any]:
        """For a line of JSON."""
        verdict = "passed" if self.passed else "failed"
        repeat = {} if self.passed else {"repeat": f"make test-fault SEED={self.seed}"}
        return {"seed": self.seed, "verdict": verdict, "seconds": round(self.seconds, 2), "problems": self.problems, **repeat} | {
            "told": self.told,
            "schedule": self.schedule,
        }


def run(schedule: Schedule, parts: Parts, plant: str | None = None) -> Verdict:
    """Carry out a schedule on these parts, and check. Logs of a run that failed stay in its folder."""
    verdict, began_s = Verdict(seed=schedule.seed, schedule=schedule.told()), time.monotonic()
    world = World(parts, schedule, f"s{schedule.seed}-{uuid.uuid4().hex[:6]}")
    under_fire = UnderFire(world, _deployment(world, plant))
    try:
        drained = under_fire.carried_out()
        if parts.proxy is not None:
            parts.proxy.clear()
        verdict.problems = problems_of(world, drained)
        verdict.told = under_fire.told(drained)
    except GaveUp as error:
        verdict.problems = [str(error)]
    except Exception:  # the failure boundary of a run: the others go on
        verdict.problems = [traceback.format_exc()]
    finally:
        under_fire.deployment.close()
        if parts.proxy is not None:
            parts.proxy.clear()
        with suppress(MemstreamError):
            world.close()
        verdict.seconds = time.monotonic() - began_s
        _tidy(world, verdict)
    return verdict


def _deployment(world: World, plant: str | None) -> Any:
    if world.schedule.processes == "nursery":
        return Nodes(world, plant)
    from tests.faults.cluster import Cluster

    return Cluster(world)


def _tidy(world: World, verdict: Verdict) -> None:
    if verdict.passed:
        for folder in (world.folder, world.objects.parent):
            shutil.rmtree(folder, ignore_errors=True)
    else:
        shutil.copytree(world.objects, world.folder / "objects", dirs_exist_ok=True) if world.objects.is_dir() else None
        if world.schedule.store == "file":
            shutil.rmtree(world.objects.parent, ignore_errors=True)
        verdict.told["folder"] = str(world.folder)


class UnderFire:
    """A deployment, and what a schedule does to it and to what is around it: each action is a method."""

    def __init__(self, world: World, deployment: Any) -> None:
        self._world, self._parts, self.deployment = world, world.parts, deployment
        self._draw = random.Random(world.schedule.seed)
        self._notes: list[str] = []

    def carried_out(self) -> list[dict[str, Any]]:
        """All steps, then peace; the statuses of the drained replicas."""
        self.deployment.start()
        for step in self._world.schedule.steps:
            self._take(step)
        self.learned()
        drained: list[dict[str, Any]] = self.deployment.finish()
        return drained

    def told(self, drained: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Numbers for the report."""
        reader = self._world.reader()
        return {
            "counts": drained[0]["counts"],
            "epochs": len(reader.epochs()),
            "lives": self.deployment.lives,
            "deaths": self.deployment.deaths,
            "faulty_requests": 0 if self._parts.proxy is None else self._parts.proxy.taken(),
            "notes": self._notes,
        }

    def _take(self, step: Step) -> None:
        if step.action == "publish":
            self._world.publish(step.records)
            return
        own = getattr(self, step.action, None)
        (own or getattr(self.deployment, step.action))(**step.how)

    # ------------------------------------------------------------------ waiting

    def pause(self, seconds: float) -> None:
        time.sleep(seconds)

    def learned(self) -> None:
        patience_s = PATIENCE_S if self._world.schedule.processes == "nursery" else PATIENCE_ON_RAY_S
        self._world.until(self.deployment.learned, "all that was published is learned", patience_s)

    # ------------------------------------------------------------------ the broker

    def freeze_broker(self, seconds: float) -> None:
        """It keeps its connections and answers nothing."""
        self._parts.broker.freeze()
        time.sleep(seconds)
        self._parts.broker.thaw()

    def kill_broker(self, seconds: float) -> None:
        """kill -9; started again on what it had on disk."""
        self._parts.broker.kill()
        time.sleep(seconds)
        self._parts.broker.start()

    def add_partitions(self, count: int) -> None:
        self._world.add_partitions(count)

    def recreate(self) -> None:
        """The topic is deleted, when all that it held is learned and saved, and made anew."""
        self.learned()
        self.deployment.term(elsewhere=False)
        self.learned()
        self._world.recreate_topic()

    # ------------------------------------------------------------------ the store

    def store_errors(self, status: int, count: int) -> None:
        self._plan(Rule(fault="error", status=status, count=count))

    def store_slow(self, delay: float, count: int) -> None:
        self._plan(Rule(fault="slow", delay_s=delay, count=count))

    def store_lost(self, only: str, count: int) -> None:
        """Requests are carried out, and their answers are lost."""
        self._plan(Rule(fault="lost", only=only, count=count))

    def store_cut(self, only: str, count: int) -> None:
        self._plan(Rule(fault="cut", only=only, count=count))

    def _plan(self, rule: Rule) -> None:
        assert self._parts.proxy is not None
        self._parts.proxy.plan(rule)

    def disk_full(self, seconds: float) -> None:
        """Not a byte is left where the snapshots are, for a while."""
        ballast = Path(self._world.full_disk or self._parts.disk / "ballast")
        with suppress(OSError), ballast.open("wb", buffering=0) as file:
            while self._parts.mounted:
                file.write(b"\0" * 65536)
        time.sleep(seconds)
        ballast.unlink()

    def damage(self, what: str, torn: bool) -> None:
        """Part of the newest snapshot is torn or flipped while nobody runs; then the deployment starts again, elsewhere.

        Never of the only one: where no snapshot is whole, a stream stops, and whoever runs it decides.
        """
        self.learned()
        self.deployment.term(elsewhere=True, start=False)
        reader = self._world.reader()
        epochs = [epoch for epoch in reader.epochs() if reader.inspect(epoch).problems == ()]
        if len(epochs) < 2:
            self._notes.append("nothing was damaged: there were not two snapshots")
        else:
            before, newest = (reader.load(epoch) for epoch in epochs[-2:])
            fresh = {entry.path for entry in newest.objects} - {entry.path for entry in before.objects}
            self._damage(_path(what, newest.epoch, fresh), torn)
        self.deployment.start()

    def _damage(self, path: str | None, torn: bool) -> None:
        if path is None:
            self._notes.append("nothing was damaged: the newest snapshot has no such object of its own")
            return
        file = self._world.objects / path
        data = bytearray(file.read_bytes())
        if torn:
            del data[self._draw.randrange(len(data)) :]
        else:
            data[self._draw.randrange(len(data))] ^= 1 << self._draw.randrange(8)
        with file.open("r+b") as target:
            target.write(data)
            target.truncate(len(data))
        self._world.damaged.add(path)


def _path(what: str, epoch: int, fresh: set[str]) -> str | None:
    if what == "manifest":
        return f"epochs/{epoch:08d}.json"
    endings = ("ledger.arrow",) if what == "ledger" else ("pool.arrow", "index.arrow")
    memory = sorted(path for path in fresh if path.startswith("blocks/")) if what == "memory" else []
    return next(iter(memory + sorted(path for path in fresh if path.endswith(endings))), None)
