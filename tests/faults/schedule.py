"""What happens in one run, drawn from its seed: the same seed and the same abilities give the same schedule."""

from __future__ import annotations

import random
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from tests.faults.feed import Feed, Sent

RAY_EVERY = 20
"""So many seeds share one that runs on Ray: that costs ten times as much, and reaches the processes that only Ray starts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Able:
    """What the parts at hand can be made to do."""

    broker_restarts: bool = True
    """Apache Kafka keeps its topics over a kill -9; the embedded broker keeps nothing."""
    partitions_grow: bool = True
    topic_ids: bool = True
    """So that a topic made anew is told from the old one."""
    s3: bool = True
    ray: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One thing that is done. `records` is what a `publish` sends."""

    action: str
    how: dict[str, Any] = field(default_factory=dict)
    records: tuple[Sent, ...] = ()

    def told(self) -> str:
        """In a line, for the report.

        >>> Step(action="stop", how={"who": "poller", "seconds": 0.4}).told()
        'stop who=poller seconds=0.4'
        """
        how = {**self.how, **({"records": len(self.records)} if self.records else {})}
        return " ".join([self.action, *(f"{name}={value}" for name, value in how.items())])


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """One run."""

    seed: int
    processes: Literal["nursery", "ray"]
    memory: Literal["blocks", "tokens"]
    store: Literal["s3", "file"]
    partitions: int
    replicas: int
    blocks: int
    every_updates: int
    group: bool
    mode: Literal["consume", "follow"]
    last: int
    """Snapshots that are kept."""
    steps: tuple[Step, ...]

    @property
    def one_order(self) -> bool:
        """Whether the log has one order, so that memories must be equal bit for bit."""
        return self.partitions == 1 and not any(step.action == "add_partitions" for step in self.steps)

    @property
    def recreates(self) -> bool:
        return any(step.action == "recreate" for step in self.steps)

    def told(self) -> dict[str, Any]:
        """For the report."""
        return {**{name: value for name, value in asdict(self).items() if name != "steps"}, "steps": [step.told() for step in self.steps]}


def schedule_of(seed: int, able: Able, faults: tuple[str, ...] = ()) -> Schedule:
    """Draw the schedule of a seed. `faults`: only these, instead of a few of all that are possible."""
    draw = random.Random(seed)
    on_ray = able.ray and seed % RAY_EVERY == RAY_EVERY - 1
    partitions = draw.choice((1, 1, 1, 2, 3))
    store: Literal["s3", "file"] = "s3" if able.s3 and draw.random() < 0.7 else "file"
    memory: Literal["blocks", "tokens"] = "tokens" if partitions == 1 and draw.random() < 0.15 else "blocks"
    possible = _possible(able, on_ray, store, memory)
    chosen = faults or tuple(draw.choice(possible) for _ in range(draw.randint(2, 4) if on_ray else draw.randint(3, 5)))
    spread = partitions > 1 or "add_partitions" in chosen
    # Partitions interleave as they like, so what leaves a full memory first is told by their order: there it is never full.
    blocks = 1_000 if spread else draw.choice((12, 24, 48))
    steps = _steps(draw, chosen, partitions)
    follows = "change_leader" in chosen or on_ray or draw.random() < 0.5
    return Schedule(
        seed=seed,
        processes="ray" if on_ray else "nursery",
        memory=memory,
        store=store,
        partitions=partitions,
        replicas=2 if draw.random() < 0.35 or "change_leader" in chosen else 1,
        blocks=blocks,
        every_updates=draw.choice((3, 5, 8)),
        group=draw.random() < 0.5,
        mode="follow" if follows else "consume",
        last=draw.choice((2, 3, 24)),
        steps=steps,
    )


def _possible(able: Able, on_ray: bool, store: str, memory: str) -> list[str]:
    faults = ["kill_replica", "kill_poller", "term", "stop_replica", "stop_poller", "freeze_broker", "damage"]
    if on_ray:
        faults = ["kill_replica", "kill_poller", "term", "kill_query", "kill_supervisor", "stop_replica"]
    else:
        faults += ["second_writer", "kill_replica", "kill_replica"]
    faults += ["add_partitions"] if able.partitions_grow else []
    faults += ["kill_broker"] if able.broker_restarts else []
    faults += ["recreate"] if able.topic_ids else []
    faults += ["store_errors", "store_slow", "store_lost", "store_cut"] if store == "s3" else ["disk_full"]
    faults += ["change_leader", "change_leader"]
    return [each for each in faults if not (memory == "tokens" and each == "add_partitions")]


def _steps(draw: random.Random, faults: tuple[str, ...], partitions: int) -> tuple[Step, ...]:
    feed = Feed(draw, partitions)

    def publish(low: int, high: int) -> Step:
        return Step(action="publish", records=tuple(feed.take(draw.randint(low, high))))

    steps = [publish(6, 16)]
    for fault in faults:
        # sometimes in the middle of learning, sometimes of saving, sometimes when all is quiet
        steps.append(
            Step(action="pause", how={"seconds": round(draw.uniform(0, 0.5), 2)}) if draw.random() < 0.6 else Step(action="learned")
        )
        if draw.random() < 0.7:
            steps.append(publish(2, 9))
        step = _fault(draw, fault)
        steps.append(step)
        if fault == "add_partitions":
            feed.partitions += step.how["count"]
        steps.append(publish(3, 9))
        if fault.startswith("store_") and draw.random() < 0.5:
            # a generation is claimed and a snapshot restored, through what is wrong with the store
            steps.append(_fault(draw, "kill_replica"))
    return tuple(steps)


def _fault(draw: random.Random, fault: str) -> Step:
    seconds = round(draw.uniform(0.2, 1.5), 2)
    match fault:
        case "kill_replica" | "term" | "kill_supervisor":
            return Step(action=fault, how={"elsewhere": draw.random() < 0.3})
        case "stop_replica" | "freeze_broker" | "disk_full":
            return Step(action=fault, how={"seconds": seconds})
        case "stop_poller":  # as long as its replica is patient, or longer
            return Step(action=fault, how={"seconds": round(draw.uniform(0.2, 4.0), 2)})
        case "kill_broker":
            return Step(action=fault, how={"seconds": seconds})
        case "add_partitions":
            return Step(action=fault, how={"count": draw.randint(1, 2)})
        case "damage":
            return Step(action=fault, how={"what": draw.choice(("manifest", "ledger", "memory")), "torn": draw.random() < 0.5})
        case "second_writer":
            return Step(action=fault, how={"frozen": draw.random() < 0.5})
        case "store_errors":
            return Step(action=fault, how={"status": draw.choice((500, 503)), "count": draw.randint(1, 14)})
        case "store_slow":
            return Step(action=fault, how={"delay": round(draw.uniform(0.05, 0.4), 2), "count": draw.randint(4, 20)})
        case "store_lost" | "store_cut":
            only = draw.choice(("", "PUT", "PUT", "PUT /epochs/", "PUT /epochs/", "PUT /blocks/", "GET"))
            return Step(action=fault, how={"only": only, "count": draw.randint(1, 3)})
    return Step(action=fault)
