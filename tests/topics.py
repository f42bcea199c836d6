"""What a topic holds, by one plain read of it."""

from __future__ import annotations

from pipeline.kafka_client import KafkaConfig
from pipeline.positions import caught_up
from pipeline.records import Record
from pipeline.source import KafkaSource


def read_all(kafka: KafkaConfig, topic: str) -> list[Record]:
    """Every record of the topic, from its beginning to its end."""
    records: list[Record] = []
    with KafkaSource(kafka.model_copy(update={"topics": (topic,)})) as source:
        for _ in range(100):
            fetched = source.poll(1 << 20, 0.2)
            records.extend(fetched.records)
            if caught_up(fetched.positions, fetched.highwaters):
                return records
    raise AssertionError("the end was not reached")
