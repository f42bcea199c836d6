"""Sends documents into a topic: what a feed would do, for the command line, the demo and the HTTP front."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.errors import BrokerUnavailable
from pipeline.kafka_client import Closing, KafkaConfig, Producer, close_producer, kafka_errors, new_producer, translated, translating
from pipeline.records import Partition
from pipeline.topics import delete_topic, ensure_topic

__all__ = ["Published", "Publisher", "delete_topic", "ensure_topic"]

_WINDOW = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """Where a document lies now; a replica knows it once its position in the partition is `end`.

    >>> Published(partition=Partition("news", 0), offset=41).end
    42
    """

    partition: Partition
    offset: int

    @property
    def end(self) -> int:
        return self.offset + 1


class Publisher(Closing):
    """Publishes documents as JSON. The topic is made with `partitions` partitions unless it exists.

    Documents with the same value at `key_field` (a dotted path, as `decode.fields.id` is one) go to the same partition, so a later version
    of a story comes after the earlier one.
    Raises BrokerUnavailable or ConfigurationError where the broker does not take part.
    """

    def __init__(self, kafka: KafkaConfig, topic: str, *, partitions: int = 1, key_field: str = "id") -> None:
        self.topic = topic
        self._kafka, self._key_field = kafka, key_field
        ensure_topic(kafka, topic, partitions)
        self._producer: Producer | None = new_producer(kafka)

    def publish(self, documents: Iterable[Mapping[str, object]], timeout_s: float = 30.0) -> list[Published]:
        """Send the documents; returns where each landed, in order, once all are acknowledged (each within `timeout_s`).

        BOUNDED: at most a window of documents is under way. Raises ValueError for what is no JSON.
        """
        under_way, landed = deque[Any](), list[Published]()
        for document in documents:
            if len(under_way) == _WINDOW:
                landed.append(self._landed(under_way.popleft(), timeout_s))
            under_way.append(self._send(document))
        return landed + [self._landed(future, timeout_s) for future in under_way]

    def publish_one(self, document: Mapping[str, object], timeout_s: float = 30.0) -> Published:
        """Send one document; returns where it landed once it is acknowledged."""
        return self._landed(self._send(document), timeout_s)

    def delete(self, document_id: str, timeout_s: float = 30.0) -> Published:
        """Publish a tombstone: what was published under this id is to be forgotten. Returns where it landed."""
        with translating(self._kafka):
            self._producer = self._producer or new_producer(self._kafka)
            future = self._producer.send(self.topic, key=document_id.encode("utf-8", "backslashreplace"), value=None)
        return self._landed(future, timeout_s)

    def close(self, timeout_s: float = 5.0) -> None:
        producer, self._producer = self._producer, None
        if producer is not None:
            close_producer(producer, timeout_s)

    def _send(self, document: Mapping[str, object]) -> Any:
        field = value_at(document, self._key_field)
        key = None if field is None else str(field).encode("utf-8", "backslashreplace")
        # ASCII: a lone surrogate in a text stays an escape instead of an encoding error
        value = json.dumps(document, allow_nan=False).encode("ascii")
        with translating(self._kafka):
            self._producer = self._producer or new_producer(self._kafka)
            return self._producer.send(self.topic, key=key, value=value)

    def _landed(self, future: Any, timeout_s: float) -> Published:
        try:
            metadata = future.get(timeout=timeout_s)
        except kafka_errors.KafkaError as error:
            self.close()  # it would refuse whatever comes next for the same reason
            raise translated(error, self._kafka) from error
        if metadata.offset < 0:
            raise BrokerUnavailable(f"{self.topic!r} did not say where the document landed")
        return Published(partition=Partition(metadata.topic, metadata.partition), offset=metadata.offset)


def value_at(document: Mapping[str, object], path: str) -> object:
    """What stands at a dotted path; None where nothing does.

    >>> value_at({"meta": {"guid": "a"}}, "meta.guid"), value_at({"meta": 3}, "meta.guid")
    ('a', None)
    """
    value: object = document
    for name in path.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value
