"""Prometheus metrics: what the replicas say of themselves, and what the front sees of questions."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from actors.http.streams import Streams
from actors.messages import Knowledge, ReplicaStatus, Role

LABELS = ["stream", "replica"]
SECONDS = (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60, 120)


class Metrics:
    """All metrics of one front."""

    def __init__(self, streams: Streams) -> None:
        self._registry = CollectorRegistry()
        kept: dict[str, Any] = {"registry": self._registry}
        seconds: dict[str, Any] = {"labelnames": ["stream"], "buckets": SECONDS, **kept}
        self.first_token = Histogram("memstream_time_to_first_token_seconds", "From a question to its first text.", **seconds)
        self.whole = Histogram("memstream_request_seconds", "From a question to its whole answer.", **seconds)
        self.requests = Counter("memstream_requests", "Requests by route and status.", ["route", "status"], **kept)
        self.tokens = Counter("memstream_tokens", "Tokens of prompts and of answers.", ["stream", "kind"], **kept)
        self.grounded = Counter("memstream_answers", "Answers, by whether they were read from memory.", ["stream", "grounded"], **kept)
        self.open = Gauge("memstream_requests_open", "Questions that are being answered or wait.", registry=self._registry)
        self._registry.register(_Replicas(streams))

    def answered(self, stream: str, knowledge: Knowledge, prompt_tokens: int, completion_tokens: int, seconds: float) -> None:
        """A whole answer was given."""
        self.whole.labels(stream).observe(seconds)
        self.tokens.labels(stream, "prompt").inc(prompt_tokens)
        self.tokens.labels(stream, "completion").inc(completion_tokens)
        self.grounded.labels(stream, "unknown" if knowledge.grounded is None else str(knowledge.grounded).lower()).inc()

    def text(self) -> bytes:
        return generate_latest(self._registry)


class _Replicas(Collector):
    """The statuses of all replicas at the moment that they are asked for."""

    def __init__(self, streams: Streams) -> None:
        self._streams = streams

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterator[Metric]:
        gauges = {name: GaugeMetricFamily(f"memstream_{name}", text, labels=LABELS) for name, (text, _) in GAUGES.items()}
        counters = {name: CounterMetricFamily(f"memstream_{name}", text, labels=LABELS) for name, (text, _) in COUNTERS.items()}
        records = CounterMetricFamily("memstream_records", "Records passed, by outcome.", labels=[*LABELS, "outcome"])
        lag = GaugeMetricFamily("memstream_lag_records", "Offsets between position and end.", labels=[*LABELS, "partition"])
        up = GaugeMetricFamily("memstream_replica_up", "1 in the phase that a replica is in.", labels=[*LABELS, "phase"])
        by_turn = [*LABELS, "turn"]
        turns = CounterMetricFamily("memstream_device_seconds", "The device's time, by what it did.", labels=by_turn)
        taken = CounterMetricFamily("memstream_device_turns", "Turns of the device.", labels=by_turn)
        spread = GaugeMetricFamily(
            "memstream_version_spread", "Documents between the replicas that know most and least.", labels=["stream"]
        )
        for name in self._streams.names():
            stream = self._streams.get(name)
            statuses = [] if stream is None else stream.statuses()
            for status in statuses:
                labels = [name, str(status.replica)]
                for each, (_, value) in GAUGES.items():
                    if (found := value(status)) is not None:
                        gauges[each].add_metric(labels, float(found))
                for each, (_, value) in COUNTERS.items():
                    counters[each].add_metric(labels, float(value(status) or 0))
                for outcome, count in status.counts.items():
                    records.add_metric([*labels, outcome], count)
                for partition, end in status.highwater.items():
                    lag.add_metric([*labels, partition], max(0, end - status.position.get(partition, 0)))
                up.add_metric([*labels, status.phase.value], 1)
                for turn, seconds in status.seconds.items():
                    turns.add_metric([*labels, turn], seconds)
                for turn, count in status.turns.items():
                    taken.add_metric([*labels, turn], count)
            versions = [status.version for status in statuses if status.answers]
            spread.add_metric([name], max(versions, default=0) - min(versions, default=0))
        yield from (*gauges.values(), *counters.values(), records, lag, up, turns, taken, spread)


def _watermark_age(status: ReplicaStatus) -> float | None:
    return None if status.watermark_ms is None else max(0.0, time.time() - status.watermark_ms / 1000)


def _staleness(status: ReplicaStatus) -> float | None:
    """As it is now, not as it was when the replica last spoke."""
    return None if status.complete_up_to_ms is None else max(0.0, time.time() - status.complete_up_to_ms / 1000)


GAUGES = {
    "staleness_seconds": ("Since the position was last known to be at the log's end.", _staleness),
    "newest_document_age_seconds": ("Age of the newest event learned.", _watermark_age),
    "remembered_documents": ("Documents remembered.", lambda status: status.remembered_documents),
    "remembered_blocks": ("Blocks remembered.", lambda status: status.remembered_updates),
    "memory_tokens": ("Memory tokens a layer.", lambda status: status.memory_tokens),
    "snapshot_age_seconds": ("Age of the last snapshot.", lambda status: status.epoch_age_s),
    "snapshot_epoch": ("Number of the last snapshot.", lambda status: status.epoch),
    "snapshot_failing": ("1 while the last attempt at a snapshot failed.", lambda status: int(status.snapshot_problem is not None)),
    "answers_running": ("Answers under way.", lambda status: status.running_answers),
    "answers_waiting": ("Questions that wait.", lambda status: status.waiting_answers),
    "turn_seconds": ("How long the device's turn of this moment has lasted.", lambda status: status.turn_s),
    "version": ("Documents learned and deleted.", lambda status: status.version),
    "leader": ("1 on the replica that leads.", lambda status: int(status.role is Role.LEADER)),
    "generation": ("Claims on the stream so far: it grows when another replica leads.", lambda status: status.generation),
    "behind_commits": ("Commits that a follower has not applied yet.", lambda status: status.behind_commits),
    "behind_updates": ("Updates among them.", lambda status: status.behind_updates),
    "behind_seconds": ("Since a follower last knew what its leader knew.", lambda status: status.behind_s),
    "tokens_left_out": ("Tokens cut off from documents that were too long.", lambda status: status.tokens_left_out),
}
COUNTERS = {
    "updates": ("Updates of memory.", lambda status: status.update_number),
    "replica_restarts": ("Restarts of a replica's process within the hour.", lambda status: status.restarts),
    "poller_deaths": (
        "Processes reading the topics that died or hung; what kills two at one place is passed over.",
        lambda status: status.poller_deaths,
    ),
    "forward_passes": ("Chunks that a replica's model was run over to learn them.", lambda status: status.forward_passes),
    "replica_answers": ("Answers that a replica gave.", lambda status: status.answered),
}
