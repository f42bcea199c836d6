"""Topics as such: what is there, making one, ending one."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from pipeline.errors import BrokerUnavailable, StreamError
from pipeline.kafka_client import KafkaConfig, admin_client, kafka_errors

_LOOK_AGAIN_S = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicFacts:
    """One topic as the broker describes it. A topic made anew under the same name has another `topic_id`; old brokers say None."""

    topic_id: str | None
    partitions: frozenset[int]


def describe_topics(config: KafkaConfig, topics: Iterable[str]) -> dict[str, TopicFacts]:
    """Those of `topics` that exist and are ready to be read. Raises BrokerUnavailable or ConfigurationError."""
    with admin_client(config) as admin:
        described = {each["name"]: each for each in admin.describe_topics(list(topics))}
    for each in described.values():
        error = kafka_errors.for_code(each["error_code"])
        if issubclass(error, kafka_errors.AuthorizationError):
            raise StreamError(f"not allowed to see topic {each['name']!r}")
    return {name: _facts(each) for name, each in described.items() if each["error_code"] == 0 and each["partitions"]}


def _facts(described: dict[str, Any]) -> TopicFacts:
    topic_id = described["topic_id"]
    numbers = frozenset(partition["partition_index"] for partition in described["partitions"])
    return TopicFacts(topic_id=None if topic_id is None else str(topic_id), partitions=numbers)


def ensure_topic(config: KafkaConfig, topic: str, partitions: int = 1, replication_factor: int = -1) -> bool:
    """Make `topic` unless it exists; True if it was made. An existing topic keeps its partitions. `-1` is the broker's default."""
    if topic in describe_topics(config, [topic]):
        return False
    with admin_client(config) as admin:
        try:
            admin.create_topics({topic: {"num_partitions": partitions, "replication_factor": replication_factor}})
        except kafka_errors.TopicAlreadyExistsError:
            return False
    _wait(config, topic, exists=True)
    return True


def delete_topic(config: KafkaConfig, topic: str) -> bool:
    """Delete `topic` with all its records and wait until it is gone; False if there was none."""
    with admin_client(config) as admin:
        try:
            admin.delete_topics([topic])
        except kafka_errors.UnknownTopicOrPartitionError:
            return False
    _wait(config, topic, exists=False)
    return True


def _wait(config: KafkaConfig, topic: str, *, exists: bool) -> None:
    deadline = time.monotonic() + config.request_timeout_s
    while (topic in describe_topics(config, [topic])) is not exists:
        if time.monotonic() > deadline:
            raise BrokerUnavailable(f"topic {topic!r} was {'made' if exists else 'deleted'}, but the broker does not show it yet")
        time.sleep(_LOOK_AGAIN_S)
