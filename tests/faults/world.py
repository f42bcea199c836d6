"""What one run has for itself: a topic, a store's folder and a configuration; and what was published."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from actors.config import StreamConfig
from actors.messages import ReplicaStatus
from pipeline.kafka_client import KafkaConfig, admin_client, close_producer, new_producer
from pipeline.positions import format_positions
from pipeline.publish import delete_topic
from pipeline.records import Partition, Record
from pipeline.snapshots.writer import SnapshotReader
from pipeline.topics import describe_topics
from tests.doubles.stream import stream_config
from tests.faults.feed import MAX_BYTES, MIN_CHARS, Sent
from tests.faults.parts import BUCKET, Parts
from tests.faults.rebuild import plain_read
from tests.faults.schedule import Schedule

PATIENCE_S = 45.0
GARBAGE_S = 20.0
"""More than a restore takes, frozen and slowed as it may be."""
HURRIED = {"request_timeout_s": 2.0, "silence_s": 3.0, "stall_s": 3.0, "refresh_s": 1.0, "start_timeout_s": 20.0}


class GaveUp(Exception):
    """Something that had to come to pass did not."""


class World:
    """One run's own things. `lost`: records of a topic that was made anew, all of which had been learned and saved."""

    def __init__(self, parts: Parts, schedule: Schedule, name: str) -> None:
        self.parts, self.schedule, self.name = parts, schedule, name
        self.topic = f"news-{name}"
        self.folder = parts.folder / name
        self.folder.mkdir()
        self.partitions = schedule.partitions
        self.ends: dict[int, int] = {}
        self.passed: dict[int, int] = {}
        self.lost: list[Record] = []
        self.damaged: set[str] = set()
        on_s3 = schedule.store == "s3"
        self.root = f"s3://{BUCKET}/{name}" if on_s3 else str(parts.disk / name)
        gateway = parts.gateway
        self.objects = (gateway.folder / BUCKET / name if on_s3 and gateway is not None else parts.disk / name) / name
        self.full_disk = None if parts.mounted else str(self.folder / "disk-is-full")
        self.config = self._config()
        self._producer: Any = None
        self.make_topic()

    def _config(self) -> StreamConfig:
        schedule, parts = self.schedule, self.parts
        kafka = {**HURRIED, "on_data_loss": "earliest" if schedule.recreates else "fail", "group_id": self.name if schedule.group else None}
        model = parts.blocks_model if schedule.memory == "blocks" else parts.tokens_model
        return stream_config(
            model,
            Path(self.root) if schedule.store == "file" else Path("/"),
            parts.broker.servers,
            [self.topic],
            stream=self.name,
            kafka=kafka,
            decode={"max_bytes": MAX_BYTES},
            admission={"min_chars": MIN_CHARS},
            dead_letters={"flush_timeout_s": 2.0},
            model={"dtype": "float32"},
            memory={"blocks": schedule.blocks, "scratch": str(self.folder)},
            replicas={"count": schedule.replicas, "poll_hung_s": 3.0, "mode": schedule.mode},
            snapshots={
                "root": self.root,
                "every_updates": schedule.every_updates,
                "retention": {"last": schedule.last, "hourly": 0, "daily": 0, "garbage_after_s": GARBAGE_S},
            },
        )

    @property
    def follows(self) -> bool:
        """Whether one replica leads and others follow."""
        return self.schedule.mode == "follow" and self.schedule.replicas > 1

    @property
    def has_broken_blocks(self) -> bool:
        """Whether a segment was damaged within: its blocks are compared with their digests when they are first read, and not before."""
        return any(path.startswith("blocks/") for path in self.damaged)

    @property
    def kafka(self) -> KafkaConfig:
        return self.config.kafka

    @property
    def letters_topic(self) -> str:
        return self.config.dead_letters.topic_for(self.kafka)

    def reader(self) -> SnapshotReader:
        """Its snapshots, past the proxy."""
        return SnapshotReader(self.root, self.name)

    def make_topic(self) -> None:
        with admin_client(self.kafka) as admin:
            settings = {"num_partitions": self.partitions, "replication_factor": 1}
            admin.create_topics({self.topic: settings}, wait_for_metadata=True)

    def add_partitions(self, count: int) -> None:
        self.partitions += count
        with admin_client(self.kafka) as admin:
            admin.create_partitions({self.topic: self.partitions})
        self._end_producer()  # the next one knows them
        self.until(
            lambda: len(describe_topics(self.kafka, [self.topic])[self.topic].partitions) == self.partitions, "partitions were added"
        )

    def recreate_topic(self) -> None:
        """Delete it with all that it holds, and make it anew under the same name."""
        self.lost += self.records()
        for number, end in self.ends.items():
            self.passed[number] = self.passed.get(number, 0) + end
        self.ends.clear()
        self._end_producer()
        delete_topic(self.kafka, self.topic)
        self.make_topic()

    def publish(self, records: Sequence[Sent]) -> None:
        """All of them, acknowledged."""
        self._producer = self._producer or new_producer(self.kafka)
        sent = [
            self._producer.send(self.topic, key=each.key, value=each.value, partition=each.partition, timestamp_ms=_now_ms())
            for each in records
        ]
        for future in sent:
            landed = future.get(timeout=PATIENCE_S)
            self.ends[landed.partition] = max(self.ends.get(landed.partition, 0), landed.offset + 1)

    def records(self) -> list[Record]:
        """What the topic holds now, by one plain read."""
        return plain_read(self.parts.broker.servers, self.topic, self.ends)

    def position(self) -> dict[str, int]:
        """Where a replica stands that has passed everything."""
        return format_positions({Partition(self.topic, number): self.ends.get(number, 0) for number in range(self.partitions)})

    @property
    def published(self) -> int:
        """All records ever, those of a topic that was deleted too."""
        return sum(self.ends.values()) + sum(self.passed.values())

    def learned_by(self, status: ReplicaStatus) -> bool:
        """Whether a replica has passed everything. A topic made anew may end where the old one did: then what is counted says it."""
        anew = bool(sum(self.passed.values()))
        return dict(status.position) == self.position() and (not anew or sum(status.counts.values()) >= self.published)

    def until(self, told: Callable[[], bool], what: str, patience_s: float = PATIENCE_S) -> None:
        """Raises GaveUp."""
        deadline_s = time.monotonic() + patience_s
        while not told():
            if time.monotonic() > deadline_s:
                raise GaveUp(f"after {patience_s:.0f} s it is not so that {what}")
            time.sleep(0.02)

    def close(self) -> None:
        self._end_producer()
        for topic in (self.topic, self.letters_topic):
            delete_topic(self.kafka, topic)

    def _end_producer(self) -> None:
        producer, self._producer = self._producer, None
        if producer is not None:
            close_producer(producer, 5)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
