"""Decoding: whatever the bytes are, a document or a dead letter that says why."""

import hashlib
import json
from dataclasses import replace
from typing import Any

import pytest
from pydantic import ValidationError

from pipeline.decode import DISPOSITIONS, DecodeConfig, dead_letter, decode
from pipeline.event_time import LATEST_MS, parse_ms
from pipeline.fields import MAX_LABEL_CHARS
from pipeline.records import DeadLetter, Disposition, Document, Partition, Reason, Record, Tombstone
from pipeline.strict_json import MAX_DEPTH

DEC_30 = 1_767_081_600_000
HOUR = 3_600_000


def record(value: bytes | None, timestamp_ms: int = DEC_30 + HOUR) -> Record:
    return Record(partition=Partition("news", 0), offset=7, timestamp_ms=timestamp_ms, key=b"k", value=value)


def item(**fields: Any) -> bytes:
    return json.dumps({"text": "A new president.", **fields}).encode()


def document(value: bytes, timestamp_ms: int = DEC_30 + HOUR, **config: Any) -> Document:
    decoded = decode(record(value, timestamp_ms), DecodeConfig.model_validate(config))
    assert isinstance(decoded, Document), decoded
    decoded.text.encode()
    return decoded


def letter(value: bytes | None, timestamp_ms: int = DEC_30 + HOUR, **config: Any) -> DeadLetter:
    decoded = decode(record(value, timestamp_ms), DecodeConfig.model_validate(config))
    assert isinstance(decoded, DeadLetter), decoded
    assert decoded.record == record(value, timestamp_ms)
    assert decoded.disposition is DISPOSITIONS[decoded.reason]
    assert len(decoded.detail) < 300
    return decoded


def test_all_fields_are_read() -> None:
    value = item(id="x-1", title=" Elec\n tions ", source="AFP", time="2025-12-30T08:00:00Z")
    assert document(value) == Document(
        record=record(value),
        document_id="x-1",
        text="A new president.",
        event_time_ms=DEC_30,
        content_sha256=hashlib.sha256(b"Elec tions\nA new president.").hexdigest(),
        title="Elec tions",
        source="AFP",
        has_feed_id=True,
    )


def test_a_link_is_kept_where_it_can_be_shown_and_never_refuses_a_record() -> None:
    assert document(item(link=" https://example.org/a?b=1 ")).link == "https://example.org/a?b=1"
    for useless in (3, None, "", "two words", "https://x/\x1b[2J", "https://x/" + "a" * 3_000, ["https://x"]):
        assert document(item(link=useless)).link is None
    assert document(item(url="https://x"), fields={"link": "url"}).link == "https://x"


def test_a_record_without_a_value_is_a_tombstone_for_its_key() -> None:
    empty = Record(partition=Partition("news", 0), offset=7, timestamp_ms=DEC_30, key=b"x-1")
    assert decode(empty, DecodeConfig()) == Tombstone(record=empty)
    assert Tombstone(record=empty).key_text == "x-1"
    assert Tombstone(record=replace(empty, key=b"\xff")).key_text is None


@pytest.mark.parametrize("extra", [{}, {"id": None, "title": None, "source": None, "time": None}, {"id": "", "title": " ", "time": " "}])
def test_what_is_not_there_has_its_default(extra: dict[str, Any]) -> None:
    decoded = document(item(**extra))
    assert (decoded.document_id, decoded.title, decoded.source, decoded.event_time_ms) == ("news/0/7", None, None, DEC_30 + HOUR)


def test_names_and_dotted_paths_can_be_chosen() -> None:
    value = json.dumps({"article": {"body": "Yes.", "head": {"line": "T"}}, "guid": 42, "title": 13}).encode()
    fields = {"text": "article.body", "title": "article.head.line", "id": "guid", "source": "article.by.name", "time": None}
    decoded = document(value, fields=fields)
    assert (decoded.text, decoded.title, decoded.document_id, decoded.source) == ("Yes.", "T", "42", None)


def test_the_content_hash_is_over_the_text_alone() -> None:
    assert document(item(title="A", id="1")).content_sha256 == document(item(title="A", id="2", time=0)).content_sha256
    assert document(item(title="A")).content_sha256 != document(item(title="B")).content_sha256
    assert document(b"A new president.\n", format="text").content_sha256 == document(item()).content_sha256


def test_a_text_record_is_its_text() -> None:
    decoded = document('\ufeff {"text": 1} Grüße\r\n日本 '.encode(), format="text")
    assert (decoded.text, decoded.document_id, decoded.title) == ('{"text": 1} Grüße\n日本', "news/0/7", None)
    assert decoded.event_time_ms == DEC_30 + HOUR


DEEP = 100_000
MALFORMED = [
    (b"\xff\xfe", Reason.BAD_UTF8),
    (b'{"text": "\xe9"}', Reason.BAD_UTF8),
    (b'{"text": "\xed\xa0\x80"}', Reason.BAD_UTF8),
    (b"", Reason.BAD_JSON),
    (b"not json", Reason.BAD_JSON),
    (b'{"text": "cut', Reason.BAD_JSON),
    (b'{"text": "a\x00b"}', Reason.BAD_JSON),
    (b'{"text": "a"} {"text": "b"}', Reason.BAD_JSON),
    (b'{"text": "a", "n": NaN}', Reason.BAD_JSON),
    (b'{"text": "a", "n": -Infinity}', Reason.BAD_JSON),
    (b'{"text": "a", "n": ' + b"9" * 5_000 + b"}", Reason.BAD_JSON),
    (b"[" * DEEP, Reason.BAD_JSON),
    (b'{"text": "a", "n": ' + b"[" * DEEP + b"]" * DEEP + b"}", Reason.BAD_JSON),
    (b'{"a":' * DEEP + b"1" + b"}" * DEEP, Reason.BAD_JSON),
]
SCHEMA = [
    (b"null", Reason.WRONG_TYPE),
    (b'"text"', Reason.WRONG_TYPE),
    (b'[{"text": "a"}]', Reason.WRONG_TYPE),
    (b"3", Reason.WRONG_TYPE),
    (b"{}", Reason.MISSING_FIELD),
    (b'{"text": null}', Reason.MISSING_FIELD),
    (b'{"text": 3}', Reason.WRONG_TYPE),
    (b'{"text": ["a"]}', Reason.WRONG_TYPE),
    (item(title=3), Reason.WRONG_TYPE),
    (item(source={}), Reason.WRONG_TYPE),
    (item(id=True), Reason.WRONG_TYPE),
    (item(id=1.5), Reason.WRONG_TYPE),
    (item(time=True), Reason.WRONG_TYPE),
    (item(time=["2025"]), Reason.WRONG_TYPE),
    (item(text=""), Reason.EMPTY_TEXT),
    (item(text=" \t\r\n\u3000\u2028 "), Reason.EMPTY_TEXT),
    (item(text="\u0000\u0007\u200b\ufeff"), Reason.EMPTY_TEXT),
]


@pytest.mark.parametrize(("value", "reason"), MALFORMED)
def test_malformed_bytes_become_dead_letters(value: bytes, reason: Reason) -> None:
    assert (letter(value).reason, letter(value).disposition) == (reason, Disposition.MALFORMED)


@pytest.mark.parametrize(("value", "reason"), SCHEMA)
def test_what_is_not_a_document_becomes_a_dead_letter(value: bytes | None, reason: Reason) -> None:
    assert (letter(value).reason, letter(value).disposition) == (reason, Disposition.SCHEMA)


@pytest.mark.parametrize(("value", "reason"), [(b"\xff", Reason.BAD_UTF8), (b"", Reason.EMPTY_TEXT)])
def test_text_records_become_dead_letters_too(value: bytes | None, reason: Reason) -> None:
    assert letter(value, format="text").reason is reason


def test_an_object_on_the_way_must_be_one() -> None:
    assert letter(b'{"a": "b"}', fields={"text": "a.text"}).reason is Reason.WRONG_TYPE
    assert letter(b'{"a": null}', fields={"text": "a.text"}).reason is Reason.MISSING_FIELD


def test_the_size_counts_the_value_and_its_bound_is_allowed() -> None:
    assert document(b"x" * 100, format="text", max_bytes=100).text == "x" * 100
    assert (letter(b"x" * 101, format="text", max_bytes=100).reason, DISPOSITIONS[Reason.TOO_LARGE]) == (
        Reason.TOO_LARGE,
        Disposition.OVERSIZE,
    )


def test_replay_exact_the_depth_has_its_own_bound() -> None:
    def nested(depth: int) -> bytes:
        return b'{"text": "a", "n": ' + b"[" * (depth - 1) + b"]" * (depth - 1) + b"}"

    assert document(nested(MAX_DEPTH)).text == "a"
    assert letter(nested(MAX_DEPTH + 1)).detail == letter(nested(DEEP)).detail
    assert document(item(many=[[]] * 1_000)).text == "A new president."


def test_characters_that_nothing_behind_could_take_are_replaced() -> None:
    value = b'{"text": "a\\ud800b\\u0000c\\u001bd\\u009be \\ud83d\\ude00\\tf\\r\\ng", "title": "\\udfff\\u0085t", "id": "\\udc00"}'
    decoded = document(value)
    assert decoded.text == "a\ufffdb c d e \U0001f600\tf\ng"
    assert (decoded.title, decoded.document_id) == ("\ufffd t", "\ufffd")


def test_bounded_labels_are_cut_and_long_ids_are_digests() -> None:
    decoded = document(item(title="t" * 10_000, source="s" * 10_000, id="i" * 10_000))
    assert (len(decoded.title or ""), len(decoded.source or "")) == (MAX_LABEL_CHARS, MAX_LABEL_CHARS)
    assert decoded.document_id == "sha256:" + hashlib.sha256(b"i" * 10_000).hexdigest()


@pytest.mark.parametrize(
    "time",
    [
        "2025-12-30T08:00:00Z",
        "2025-12-30T08:00:00",
        "2025-12-30 09:00:00.000+01:00",
        "20251230T080000Z",
        1_767_081_600,
        1_767_081_600.0,
        1_767_081_600_000,
        "1767081600",
        "1767081600.000",
        " 1767081600000 ",
    ],
)
def test_one_moment_in_many_spellings(time: object) -> None:
    assert document(item(time=time)).event_time_ms == DEC_30


@pytest.mark.parametrize(
    ("time", "expected_ms"),
    [("20251230", 1_767_052_800_000), ("2025-12-30", 1_767_052_800_000), (0, 0), (1.5, 1_500), ("1970-01-01T00:00:00.0019Z", 1)],
)
def test_dates_and_fractions(time: object, expected_ms: int) -> None:
    assert parse_ms(time) == expected_ms


@pytest.mark.parametrize(
    "time",
    [
        *("yesterday", "2025-13-01", "1969-12-31T23:59:59Z", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "\ud800"),
        *("12345", -1, -1.5, "-1767081600", 10**400, 1_767_081_600_000_000_000_000, "9" * 19, "1" * 30),
    ],
)
def test_impossible_times_become_dead_letters(time: object) -> None:
    assert letter(item(time=time)).reason is Reason.BAD_TIMESTAMP


def test_an_infinite_time_becomes_a_dead_letter() -> None:
    assert letter(b'{"text": "a", "time": 1e999}').reason is Reason.BAD_TIMESTAMP
    assert letter(b'{"text": "a", "time": -1e999}').reason is Reason.BAD_TIMESTAMP


def test_replay_exact_too_late_is_judged_by_the_record_and_by_no_clock() -> None:
    in_2090 = parse_ms("2090-06-01")
    assert document(item(time=in_2090), timestamp_ms=in_2090 - HOUR).event_time_ms == in_2090
    assert letter(item(time=DEC_30), timestamp_ms=DEC_30 - 25 * HOUR).reason is Reason.BAD_TIMESTAMP
    assert document(item(time=DEC_30), timestamp_ms=DEC_30 - 24 * HOUR).event_time_ms == DEC_30
    assert letter(item(time=DEC_30), timestamp_ms=DEC_30 - 1, max_event_time_ahead_s=0).reason is Reason.BAD_TIMESTAMP


@pytest.mark.parametrize("timestamp_ms", [-1, 0])
def test_a_record_without_a_timestamp_bounds_nothing(timestamp_ms: int) -> None:
    assert document(item(time=DEC_30), timestamp_ms=timestamp_ms).event_time_ms == DEC_30
    assert letter(item(time=LATEST_MS + 1), timestamp_ms=timestamp_ms).reason is Reason.BAD_TIMESTAMP


@pytest.mark.parametrize("timestamp_ms", [-1, LATEST_MS + 1, 2**62])
def test_an_impossible_record_timestamp_counts_where_there_is_no_other(timestamp_ms: int) -> None:
    assert letter(item(), timestamp_ms=timestamp_ms).reason is Reason.BAD_TIMESTAMP
    assert letter(b"text", timestamp_ms=timestamp_ms, format="text").reason is Reason.BAD_TIMESTAMP
    assert document(item(time=DEC_30), timestamp_ms=timestamp_ms).event_time_ms == DEC_30


def test_every_reason_has_its_disposition() -> None:
    assert set(DISPOSITIONS) == set(Reason)
    assert dead_letter(record(b""), Reason.UPDATE_FAILED, "out of memory").disposition is Disposition.MODEL


@pytest.mark.parametrize("section", [{"format": "avro"}, {"fields": {"body": "x"}}, {"fields": {"text": ""}}, {"max_bytes": 0}])
def test_a_configuration_that_cannot_work_is_refused(section: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        DecodeConfig.model_validate(section)
