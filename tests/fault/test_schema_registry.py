"""Feeds of every framed format, as their serializers write them: a real registry, a real Apache Kafka, the poller of a replica.

The registry is Apicurio's, which Maven has: see infra/registry/registry.sh.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest

from actors.config import StreamConfig
from actors.poller import Poller
from pipeline.errors import BrokerUnavailable, RegistryUnavailable
from pipeline.kafka_client import KafkaConfig, close_producer, new_producer
from pipeline.records import DeadLetter, Document, Reason, Tombstone
from tests.doubles.framed import avro, framed, zigzag
from tests.fault.conftest import ApacheKafka
from tests.processes import free_port

pytestmark = [pytest.mark.slow, pytest.mark.fault, pytest.mark.timeout(240)]

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "infra" / "registry" / "registry.sh"
PROGRAM = Path(os.environ.get("MEMSTREAM_REGISTRY", ROOT / "build" / "registry"))

ARTICLE = {"type": "record", "name": "Article", "fields": [{"name": "parts", "type": {"type": "array", "items": "string"}}]}
NEWS = {
    "type": "record",
    "name": "News",
    "fields": [
        {"name": "id", "type": "string"},
        {"name": "article", "type": "Article"},
        {"name": "at", "type": ["null", {"type": "long", "logicalType": "timestamp-millis"}], "default": None},
    ],
}
WHOLE = json.loads(json.dumps(NEWS).replace('"Article"', json.dumps(ARTICLE)))
PROTO_PARTS = 'syntax = "proto3"; package parts; message Body { string text = 1; }'
PROTO_NEWS = 'syntax = "proto3"; import "parts.proto"; message Other { int32 x = 1; } message News { string id = 1; parts.Body body = 2; }'
DRAFT = "http://json-schema.org/draft-07/schema#"
JSON_NEWS = {
    "$schema": DRAFT,
    "type": "object",
    "required": ["text"],
    "properties": {"text": {"$ref": "text.json"}, "id": {"type": "string"}},
}


class SchemaRegistry:
    """One in memory; it may be killed, and comes back empty."""

    def __init__(self) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}/apis/ccompat/v7"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen([SCRIPT, "run", PROGRAM, str(self.port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline_s = time.monotonic() + 90
        while True:
            try:
                assert httpx.get(f"{self.url}/subjects", timeout=5).status_code == 200
                return
            except httpx.HTTPError:
                assert self._process.poll() is None and time.monotonic() < deadline_s, "the registry did not start"
                time.sleep(0.2)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def register(self, subject: str, kind: str, schema: Any, references: Sequence[Mapping[str, Any]] = ()) -> int:
        text = schema if isinstance(schema, str) else json.dumps(schema)
        body = {"schema": text, "schemaType": kind, "references": list(references)}
        answer = httpx.post(f"{self.url}/subjects/{subject}/versions", json=body, timeout=20)
        assert answer.status_code == 200, answer.text
        number: int = answer.json()["id"]
        return number


@pytest.fixture(scope="module")
def registry() -> Iterator[SchemaRegistry]:
    if shutil.which("java") is None:
        pytest.skip("the registry needs java (17 or later) on the path")
    if not list(PROGRAM.glob("*-runner.jar")):
        if shutil.which("mvn") is None:
            pytest.skip(f"the registry is not in {PROGRAM}, and mvn, which would fetch it, is not on the path")
        subprocess.run([SCRIPT, "fetch", PROGRAM], check=True, timeout=600)
    started = SchemaRegistry()
    started.start()
    try:
        yield started
    finally:
        started.kill()


def reference(name: str, subject: str) -> dict[str, Any]:
    return {"name": name, "subject": subject, "version": 1}


def stream(kafka: KafkaConfig, registry: SchemaRegistry, format: str, **decode: Any) -> StreamConfig:
    """A stream that reads a format."""
    section = {"format": format, "registry": {"url": registry.url, "timeout_s": 2.0}, **decode}
    return StreamConfig.model_validate({"kafka": kafka.model_dump(), "decode": section})


def send(kafka: KafkaConfig, *records: tuple[bytes, bytes | None]) -> None:
    producer = new_producer(kafka)
    try:
        for key, value in records:
            producer.send(kafka.topics[0], key=key, value=value).get(timeout=30)
    finally:
        close_producer(producer, 5)


def polled(poller: Poller, count: int) -> list[Document | Tombstone | DeadLetter]:
    """What came of so many records."""
    found: list[Document | Tombstone | DeadLetter] = []
    deadline_s = time.monotonic() + 60
    while len(found) < count:
        assert time.monotonic() < deadline_s, found
        try:
            items = poller.poll(1 << 20, 0.5).items
        except BrokerUnavailable:
            continue
        found.extend(item for item in items if isinstance(item, Document | Tombstone | DeadLetter))
    return found


def read(config: StreamConfig, count: int) -> list[Document | Tombstone | DeadLetter]:
    poller = Poller(config, {}, owns_lineage=True, topic_ids={})
    try:
        found = polled(poller, count)
        poller.flush(20)
        return found
    finally:
        poller.close()


def test_avro_with_references_tombstones_and_dead_letters(apache: ApacheKafka, registry: SchemaRegistry) -> None:
    kafka = apache.config()
    apache.create_topic(kafka)
    subject = uuid.uuid4().hex
    registry.register(f"{subject}-article", "AVRO", ARTICLE)
    number = registry.register(f"{subject}-value", "AVRO", NEWS, [reference("Article", f"{subject}-article")])
    value = {"id": "n-1", "article": {"parts": ["Skipped.", "A new president."]}, "at": 1_767_081_600_000}
    send(
        kafka,
        (b"k", framed(number, avro(WHOLE, value))),
        (b"k", None),
        (b"k", framed(number, b"\x02")),
        (b"k", framed(999_999, b"")),
        (b"k", b'{"text": "JSON."}'),
    )
    found = read(stream(kafka, registry, "avro", fields={"text": "article.parts.1", "time": "at"}), 5)
    document, tombstone, *letters = found
    assert isinstance(document, Document), document
    assert (document.document_id, document.text, document.event_time_ms) == ("n-1", "A new president.", 1_767_081_600_000)
    assert isinstance(tombstone, Tombstone)
    reasons = [letter.reason for letter in letters if isinstance(letter, DeadLetter)]
    assert reasons == [Reason.BAD_PAYLOAD, Reason.UNKNOWN_SCHEMA, Reason.BAD_PAYLOAD]


def test_protobuf_with_imports(apache: ApacheKafka, registry: SchemaRegistry) -> None:
    kafka = apache.config()
    apache.create_topic(kafka)
    subject = uuid.uuid4().hex
    registry.register(f"{subject}-parts", "PROTOBUF", PROTO_PARTS)
    number = registry.register(f"{subject}-value", "PROTOBUF", PROTO_NEWS, [reference("parts.proto", f"{subject}-parts")])
    news = b"\x0a\x03n-1\x12\x12\x0a\x10A new president."
    send(kafka, (b"k", framed(number, zigzag(1) + zigzag(1) + news)), (b"k", framed(number, zigzag(1) + zigzag(5) + news)))
    document, letter = read(stream(kafka, registry, "protobuf", fields={"text": "body.text"}), 2)
    assert isinstance(document, Document), document
    assert (document.document_id, document.text) == ("n-1", "A new president.")
    assert isinstance(letter, DeadLetter) and letter.reason is Reason.BAD_PAYLOAD


def test_json_schema_with_references(apache: ApacheKafka, registry: SchemaRegistry) -> None:
    kafka = apache.config()
    apache.create_topic(kafka)
    subject = uuid.uuid4().hex
    registry.register(f"{subject}-text", "JSON", {"$schema": DRAFT, "type": "string", "maxLength": 20})
    number = registry.register(f"{subject}-value", "JSON", JSON_NEWS, [reference("text.json", f"{subject}-text")])
    send(
        kafka, (b"k", framed(number, b'{"id": "n-1", "text": "A new president."}')), (b"k", framed(number, b'{"text": "%b"}' % (b"x" * 21)))
    )
    document, letter = read(stream(kafka, registry, "json_schema"), 2)
    assert isinstance(document, Document), document
    assert document.document_id == "n-1"
    assert isinstance(letter, DeadLetter) and letter.reason is Reason.SCHEMA_VIOLATION


def test_debezium_in_avro(apache: ApacheKafka, registry: SchemaRegistry) -> None:
    kafka = apache.config()
    apache.create_topic(kafka)
    row = {"type": "record", "name": "Value", "fields": [{"name": "id", "type": "int"}, {"name": "text", "type": ["null", "string"]}]}
    change = {
        "type": "record",
        "name": "Envelope",
        "fields": [
            {"name": "before", "type": ["null", row]},
            {"name": "after", "type": ["null", "Value"]},
            {"name": "op", "type": "string"},
            {"name": "ts_ms", "type": ["null", "long"]},
        ],
    }
    number = registry.register(f"{uuid.uuid4().hex}-value", "AVRO", change)
    story = {"id": 4, "text": "News."}
    created = {"before": None, "after": story, "op": "c", "ts_ms": 1}
    gone = {"before": story, "after": None, "op": "d", "ts_ms": 2}
    send(kafka, *((b"\0\0\0\0\x01\x08", framed(number, avro(change, each))) for each in (created, gone)))
    document, tombstone = read(stream(kafka, registry, "avro", envelope="debezium"), 2)
    assert isinstance(document, Document), document
    assert (document.document_id, document.text) == ("4", "News.")
    assert isinstance(tombstone, Tombstone) and tombstone.record.key == document.record.key


def test_a_registry_that_is_away_is_waited_for_and_nothing_is_passed_over(apache: ApacheKafka) -> None:
    own = SchemaRegistry()
    kafka = apache.config()
    apache.create_topic(kafka)
    send(kafka, *((b"k", framed(1, zigzag(5) + b"News%d" % each)) for each in range(3)))
    schema = {"type": "record", "name": "News", "fields": [{"name": "text", "type": "string"}]}
    poller = Poller(stream(kafka, own, "avro"), {}, owns_lineage=True, topic_ids={})
    try:
        for _ in range(2):
            with pytest.raises(RegistryUnavailable, match="the schema registry cannot be asked: http://127"):
                polled(poller, 1)
        own.start()
        assert own.register("news-value", "AVRO", schema) == 1
        found = polled(poller, 3)
        own.kill()
        send(kafka, (b"k", framed(1, zigzag(5) + b"News3")))
        found += polled(poller, 1)
    finally:
        poller.close()
        own.kill()
    assert [each.text for each in found if isinstance(each, Document)] == ["News0", "News1", "News2", "News3"]
    assert [each.record.offset for each in found] == [0, 1, 2, 3]
