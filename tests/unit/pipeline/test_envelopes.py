"""What other systems wrap documents into: read where it is configured, named with the cure where it is not."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pipeline.decode import DecodeConfig, decode
from pipeline.markup import MOST_TAGS, plain_text
from pipeline.records import DeadLetter, Document, Partition, Reason, Record, Tombstone

NEWS = {"id": "n-7", "title": "Elections", "text": "A new president."}
CHANGE = {"op": "u", "before": {**NEWS, "text": "Old."}, "after": NEWS, "source": {"table": "news"}, "ts_ms": 1}
EVENT = {"specversion": "1.0", "id": "e-1", "type": "news.item", "source": "/afp", "time": "2025-12-30T08:00:00Z", "data": NEWS}


def decoded(value: Any, headers: tuple[tuple[str, bytes], ...] = (), **config: Any) -> Document | Tombstone | DeadLetter:
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    record = Record(partition=Partition("news", 0), offset=7, timestamp_ms=1_767_100_000_000, key=b"k", value=data, headers=headers)
    return decode(record, DecodeConfig.model_validate(config))


def document(value: Any, headers: tuple[tuple[str, bytes], ...] = (), **config: Any) -> Document:
    found = decoded(value, headers, **config)
    assert isinstance(found, Document), found
    return found


def detail(value: Any, **config: Any) -> str:
    found = decoded(value, **config)
    assert isinstance(found, DeadLetter), found
    assert len(found.detail) < 400
    return found.detail


@pytest.mark.parametrize(
    ("value", "envelope"),
    [
        ({"schema": {"type": "struct"}, "payload": NEWS}, "connect"),
        ({"schema": None, "payload": NEWS}, "connect"),
        (CHANGE, "debezium"),
        ({**CHANGE, "op": "r", "before": None}, "debezium"),
        ({"schema": {"type": "struct"}, "payload": CHANGE}, "debezium"),
        ({**EVENT, "data": NEWS}, "cloudevents"),
    ],
)
def test_documents_are_taken_out_of_their_envelopes(value: Any, envelope: str) -> None:
    found = document(value, envelope=envelope)
    assert (found.document_id, found.title, found.text) == ("n-7", "Elections", "A new president.")


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"schema": {"type": "struct"}, "payload": NEWS}, "set decode.envelope to connect"),
        (CHANGE, "set decode.envelope to debezium"),
        ({"schema": {}, "payload": CHANGE}, "set decode.envelope to debezium"),
        ({**EVENT, "data": {"text": "x"}}, "set decode.envelope to cloudevents"),
        ([NEWS, NEWS], "an array of 2 documents in one record"),
        ([], "an array, not an object"),
        (json.dumps(NEWS), "encoded twice"),
        ({"headline": "x", "body": "y"}, "there is an object with 'headline', 'body': say with decode.fields.text where the text is"),
        ({}, "an empty object"),
        (b"\x00\x00\x00\x00\x07" + json.dumps(NEWS).encode(), "set decode.format to json_schema"),
        (b"\x00\x00\x00\x00\x07\x10Elections", "set decode.format to avro or protobuf, and decode.registry.url"),
        (b"Elections are held.", "set decode.format to text"),
        (b"<?xml version='1.0'?><rss/>", "it looks like XML"),
        (b"\n<html><p>x", "it looks like HTML"),
    ],
)
def test_what_is_not_configured_is_named_with_the_key_to_set(value: Any, said: str) -> None:
    assert said in detail(value)


@pytest.mark.parametrize(
    ("value", "envelope", "said"),
    [
        (NEWS, "connect", "not in Kafka Connect's envelope (schema, payload): an object with 'id', 'title', 'text'"),
        (NEWS, "debezium", "not in Debezium's envelope"),
        (NEWS, "cloudevents", "no CloudEvent"),
        ({**EVENT, "data": None, "data_base64": "AA=="}, "cloudevents", "data_base64, which is not read"),
        ([NEWS], "connect", "an array of 1"),
        (3, "debezium", "a int"),
    ],
)
def test_another_envelope_than_the_configured_one_says_what_is_there(value: Any, envelope: str, said: str) -> None:
    assert said in detail(value, envelope=envelope)


@pytest.mark.parametrize(
    "value", [{**CHANGE, "op": "d", "after": None}, {"schema": {}, "payload": {"op": "d", "before": NEWS, "after": None}}]
)
def test_a_deleted_row_is_a_tombstone(value: Any) -> None:
    found = decoded(value, envelope="debezium")
    assert isinstance(found, Tombstone) and found.key_text == "k"


def test_what_a_cloud_event_says_of_itself_stands_in_for_what_its_data_lacks() -> None:
    plain = document({**EVENT, "data": "A new president."}, envelope="cloudevents")
    assert (plain.document_id, plain.source, plain.text, plain.event_time_ms) == ("e-1", "/afp", "A new president.", 1_767_081_600_000)
    headers = (("ce_specversion", b"1.0"), ("ce_id", b"e-2"), ("ce_source", b"/dpa"), ("ce_type", b"news"))
    binary = document({"text": "A new president."}, headers, envelope="cloudevents")
    assert (binary.document_id, binary.source) == ("e-2", "/dpa")


def test_a_schemas_number_is_passed_over_where_one_stands() -> None:
    framed = b"\x00\x00\x00\x00\x07" + json.dumps(NEWS).encode()
    assert document(framed, format="json_schema").document_id == "n-7"
    assert "no schema number in front" in detail(NEWS, format="json_schema")
    assert document({"schema": {}, "payload": NEWS}, envelope="connect").text == "A new president."


def test_paths_go_into_lists_and_names_may_have_dots() -> None:
    value = {"items": [{"body": "First."}, {"body": "Second."}], "dc.title": "Dotted"}
    found = document(value, fields={"text": "items.1.body", "title": "dc.title"})
    assert (found.text, found.title) == ("Second.", "Dotted")
    assert "not there" in detail(value, fields={"text": "items.7.body"})


def test_a_feeds_id_is_never_another_records_place() -> None:
    assert document({**NEWS, "id": "news/0/7"}).document_id == "id:news/0/7"
    assert document({**NEWS, "id": "id:news/0/7"}).document_id == "id:id:news/0/7"
    assert document({**NEWS, "id": "sha256:00"}).document_id == "id:sha256:00"
    assert document({"text": "No id."}).document_id == "news/0/7"


def test_markup_is_taken_out_where_that_is_wanted() -> None:
    value = {"title": "Fish &amp; chips", "text": "<p>One <b>two</b> &lt;3.</p><script>alert(1)</script><ul><li>a</li><li>b</li></ul>"}
    stripped, kept = document(value, html="strip"), document(value)
    assert (stripped.title, stripped.text) == ("Fish & chips", "One two <3.\na\nb")
    assert (kept.title, kept.text) == (value["title"], value["text"])
    assert decoded({"text": "<p> </p><script>x</script>"}, html="strip").reason is Reason.EMPTY_TEXT  # type: ignore[union-attr]
    assert decoded({"text": "<b>" * (MOST_TAGS + 1)}, html="strip").reason is Reason.TOO_LARGE  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("markup", "text"),
    [
        ("a < b and c > d", "a < b and c > d"),
        ("two\n\nparagraphs &mdash; whole", "two\n\nparagraphs \u2014 whole"),
        ("line<br/>line<BR>line", "line\nline\nline"),
        ("<table><tr><td>1</td><td>2</td></tr></table>after", "1\n2\nafter"),
        ("<div>open <i>ended", "open ended"),
        ("<!-- hidden -->seen<style>p{}</style>", "seen"),
        ("&amp;lt;b&amp;gt;", "&lt;b&gt;"),
    ],
)
def test_text_is_what_a_reader_would_read(markup: str, text: str) -> None:
    assert plain_text(markup) == text


def test_a_source_is_bound_to_its_topic_where_that_is_configured() -> None:
    forged = {"text": "A new president.", "source": "Reuters"}
    assert document(forged).source == "Reuters"
    assert document(forged, sources={"news": "AFP"}).source == "AFP"
    assert document(forged, sources={"sports": "AFP"}).source == "Reuters"
