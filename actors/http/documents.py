"""Documents over HTTP: into Kafka as the stream's configuration reads them, and what became of them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from actors.config import StreamConfig
from actors.http.openai import iso
from actors.messages import DocumentsPage, Fate, Remembered
from pipeline.errors import ConfigurationError
from pipeline.fields import FieldsConfig
from pipeline.publish import Published, Publisher

T = TypeVar("T")
Label = Annotated[str, StringConstraints(max_length=4096)]


class DocumentRequest(BaseModel):
    """A document to publish."""

    model_config = ConfigDict(extra="forbid")

    text: Annotated[str, StringConstraints(min_length=1)] = Field(description="What is to be learned.")
    title: Label | None = None
    source: Label | None = None
    id: Label | None = Field(default=None, description="The feed's own id: published again under it, a document replaces the earlier one.")
    link: Label | None = None
    time: Label | int | None = Field(default=None, description="Event time: ISO 8601, or seconds or milliseconds since 1970.")
    topic: Label | None = Field(default=None, description="One of the stream's topics; the first one if not given.")


def record_of(document: Mapping[str, Any], fields: FieldsConfig) -> dict[str, Any]:
    """A document as a record whose fields lie where the stream's configuration looks for them.

    >>> record_of({"text": "Ada won.", "title": "Chess"}, FieldsConfig(text="article.body", title="article.head"))
    {'article': {'body': 'Ada won.', 'head': 'Chess'}}

    Raises:
        ConfigurationError: the stream does not read one of them.
    """
    record: dict[str, Any] = {}
    for name, value in document.items():
        if value is None:
            continue
        path = getattr(fields, name)
        if path is None:
            raise ConfigurationError(f"this stream reads no {name} (decode.fields.{name} is null)")
        *folders, last = path.split(".")
        place = record
        for folder in folders:
            place = place.setdefault(folder, {})
        place[last] = value
    return record


class Publishing:
    """Publishes into the topics of one stream; connected when it is first used. Calls run in threads, one at a time."""

    def __init__(self, config: StreamConfig) -> None:
        self._config = config
        self._publishers: dict[str, Publisher] = {}
        self._lock = threading.Lock()

    async def publish(self, document: Mapping[str, Any], topic: str | None) -> Published:
        """Returns where it landed, once it is acknowledged. Raises BrokerUnavailable, ConfigurationError, ValueError."""
        if self._config.decode.format != "json":
            raise ConfigurationError(f"this stream reads {self._config.decode.format}: publish into its topic directly")
        record = record_of(document, self._config.decode.fields)
        return await asyncio.to_thread(self._with, topic, lambda publisher: publisher.publish_one(record))

    async def delete(self, document_id: str, topic: str | None) -> Published:
        """Publishes a tombstone."""
        return await asyncio.to_thread(self._with, topic, lambda publisher: publisher.delete(document_id))

    def _with(self, topic: str | None, call: Callable[[Publisher], T]) -> T:
        kafka = self._config.kafka
        chosen = topic or kafka.topics[0]
        if chosen not in kafka.topics:
            raise ConfigurationError(f"{chosen!r} is no topic of this stream; it reads {', '.join(kafka.topics)}")
        with self._lock:
            if chosen not in self._publishers:
                self._publishers[chosen] = Publisher(kafka, chosen, key_field=self._config.decode.fields.id or "id")
            return call(self._publishers[chosen])


def landed(published: Published) -> dict[str, Any]:
    """Where a record lies, and what a question demands to be answered with it."""
    partition = published.partition
    return {
        "topic": partition.topic,
        "partition": partition.number,
        "offset": published.offset,
        "at_least": {str(partition): published.offset},
    }


def page_of(page: DocumentsPage) -> dict[str, Any]:
    return {"total": page.total, "documents": [shown(document) for document in page.documents]}


def fate_of(fate: Fate) -> dict[str, Any]:
    return {"state": fate.state, "document": None if fate.document is None else shown(fate.document)}


def shown(document: Remembered) -> dict[str, Any]:
    fields = asdict(document)
    return {"published_at": iso(fields.pop("published_at_ms")), **fields}
