"""`memstream dlq`: dead letters are listed, shown and published again, each once."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from jobs.dlq import app
from pipeline.dead_letters import DeadLetterConfig, DeadLetterSink
from pipeline.decode import dead_letter
from pipeline.errors import StreamError
from pipeline.kafka_client import KafkaConfig, close_producer, new_producer
from pipeline.letters import Marks, read_letters
from pipeline.publish import ensure_topic
from pipeline.records import Partition, Reason, Record
from pipeline.replay import ReplayedElsewhere, Replayer
from tests.topics import read_all

pytestmark = pytest.mark.integration


def settings(kafka: KafkaConfig) -> list[str]:
    servers, topics = json.dumps(list(kafka.bootstrap_servers)), json.dumps(list(kafka.topics))
    return ["--set", f"kafka.bootstrap_servers={servers}", "--set", f"kafka.topics={topics}"]


def dlq(kafka: KafkaConfig, command: str, *arguments: str) -> Result:
    return CliRunner().invoke(app, [command, *arguments, *settings(kafka)], catch_exceptions=False)


def listed(kafka: KafkaConfig, *arguments: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(dlq(kafka, "list", "--json", *arguments).stdout)
    return found


def replayed(kafka: KafkaConfig, *arguments: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(dlq(kafka, "replay", "--json", *arguments).stdout)
    return found


def fail(kafka: KafkaConfig, records: Sequence[Record], reason: Reason = Reason.BAD_JSON) -> None:
    """The stream rejects these."""
    with DeadLetterSink(kafka, DeadLetterConfig()) as sink:
        for record in records:
            sink.send(dead_letter(record, reason, "no [bold]end[/bold] \x1b[31m"))
        sink.flush(10)


@pytest.fixture
def news(kafka: KafkaConfig) -> KafkaConfig:
    """A topic of two partitions with some records, all of which failed."""
    topic = kafka.topics[0]
    ensure_topic(kafka, topic, partitions=2)
    producer = new_producer(kafka)
    producer.send(topic, key=b"a", value=b"{first", partition=1, headers=[("trace", b"1")], timestamp_ms=1_700_000_000_000).get(10)
    producer.send(topic, key=None, value=b"\xff\x00{", partition=0).get(10)
    producer.send(topic, key=b"c", value=b"{third", partition=1).get(10)
    close_producer(producer, 5)
    records = sorted(read_all(kafka, topic), key=lambda record: record.value or b"")
    fail(kafka, records[:2])
    fail(kafka, records[2:], Reason.BAD_UTF8)
    return kafka


def test_letters_are_listed_with_reason_and_origin_and_filtered(news: KafkaConfig) -> None:
    topic = news.topics[0]
    rows = listed(news)
    assert [(row["place"], row["reason"], row["partition"], row["offset"], row["state"]) for row in rows] == [
        ("0/0", "bad_json", 1, 0, "waiting"),
        ("0/1", "bad_json", 1, 1, "waiting"),
        ("0/2", "bad_utf8", 0, 0, "waiting"),
    ]
    assert rows[0]["timestamp_ms"] == 1_700_000_000_000
    assert [row["place"] for row in listed(news, "--reason", "bad_utf8")] == ["0/2"]
    assert [row["place"] for row in listed(news, "--limit", "2")] == ["0/1", "0/2"]
    assert listed(news, "--topic", "others") == [] == listed(news, "--since", "2100-01-01T00:00:00Z")
    assert len(listed(news, "--since", "1h", "--topic", topic)) == 3
    shown = dlq(news, "list")
    assert f"3 dead letters in {topic}.dead-letters: 2 bad_json; 1 bad_utf8" in shown.stderr
    assert "\x1b[31m" not in shown.stdout and "[bold]" in shown.stdout
    assert dlq(news, "list", "--reason", "bad").exit_code == 2


def test_one_letter_is_shown_as_text_or_in_hexadecimal(news: KafkaConfig) -> None:
    first = dlq(news, "show", "0/0").stdout
    assert "origin:    " + f"{news.topics[0]}/1/0" in first and "trace = 1" in first and first.endswith("{first\n")
    assert "\x1b" not in first
    assert "00000000  ff 00 7b" in dlq(news, "show", "2").stdout
    assert dlq(news, "show", "2", "--raw").stdout_bytes == b"\xff\x00{"
    assert json.loads(dlq(news, "show", "2", "--json").stdout)["value"] == {"hex": "ff007b"}
    with pytest.raises(StreamError, match="no dead letter at 0/7"):
        dlq(news, "show", "7")


def test_a_replay_publishes_each_record_untouched_where_it_came_from_and_only_once(news: KafkaConfig) -> None:
    topic = news.topics[0]
    assert replayed(news, "--dry-run") == {"dry_run": True, "replayed": {topic: 3}, "passed_over": {}, "refused": []}
    assert len(read_all(news, topic)) == 3
    assert replayed(news, "--reason", "bad_json", "--limit", "1")["replayed"] == {topic: 1}
    assert replayed(news) == {"dry_run": False, "replayed": {topic: 2}, "passed_over": {"replayed": 1}, "refused": []}
    assert replayed(news)["replayed"] == {}
    before, after = (
        [record for record in read_all(news, topic) if (("memstream.replays", b"1") in record.headers) == again] for again in (False, True)
    )
    assert len(before) == 3
    same = sorted((r.partition, r.key or b"", r.value, r.timestamp_ms) for r in before)
    assert sorted((r.partition, r.key or b"", r.value, r.timestamp_ms) for r in after) == same
    (traced,) = (record for record in after if record.key == b"a")
    assert traced.headers == (("trace", b"1"), ("memstream.replays", b"1"), ("memstream.replay_of", f"{topic}.dead-letters/0/0".encode()))
    assert listed(news) == [] and [row["state"] for row in listed(news, "--all")] == ["replayed"] * 3


def test_single_letters_are_chosen_by_their_offsets(news: KafkaConfig) -> None:
    assert replayed(news, "0/1", "2-9")["replayed"] == {news.topics[0]: 2}
    assert [row["place"] for row in listed(news)] == ["0/0"]
    assert dlq(news, "replay", "x").exit_code == 2


def test_a_record_that_fails_again_and_again_is_exhausted_and_replayed_only_by_force(news: KafkaConfig) -> None:
    topic = news.topics[0]
    assert replayed(news, "0/0")["replayed"] == {topic: 1}
    for replays in (1, 2, 3):
        again = max((record for record in read_all(news, topic) if record.key == b"a"), key=lambda record: record.offset)
        assert ("memstream.replays", str(replays).encode()) in again.headers
        fail(news, [again])
        (row,) = (row for row in listed(news) if row["offset"] == again.offset and row["partition"] == 1)
        assert (row["replays"], row["state"]) == (replays, "exhausted" if replays == 3 else "waiting")
        done = replayed(news, row["place"])
        assert done["replayed"] == ({} if replays == 3 else {topic: 1})
    assert done["passed_over"] == {"exhausted": 1}
    assert replayed(news, row["place"], "--force")["replayed"] == {topic: 1}


def test_twins_of_a_letter_are_published_once(news: KafkaConfig) -> None:
    topic = news.topics[0]
    (record,) = (record for record in read_all(news, topic) if record.key == b"a")
    fail(news, [record])  # as a crash before the snapshot does
    assert replayed(news, "--dry-run")["replayed"] == {topic: 3} == replayed(news)["replayed"]
    fail(news, [record])
    assert replayed(news)["replayed"] == {}


def test_a_letter_that_is_not_whole_is_not_replayed(kafka: KafkaConfig) -> None:
    ensure_topic(kafka, kafka.topics[0])
    record = Record(partition=Partition(kafka.topics[0], 0), offset=5, timestamp_ms=99, key=b"k", value=b"v" * (80 << 20))
    fail(kafka, [record], Reason.TOO_LARGE)
    (row,) = listed(kafka)
    assert (row["state"], row["omitted"], row["size_bytes"]) == ("incomplete", ["value"], 1)
    assert replayed(kafka) == {"dry_run": False, "replayed": {}, "passed_over": {"incomplete": 1}, "refused": []}


def test_a_topic_that_is_gone_is_named_and_the_others_are_replayed(news: KafkaConfig) -> None:
    fail(news, [Record(partition=Partition("gone-for-good", 0), offset=1, timestamp_ms=1, key=b"k", value=b"{")])
    with pytest.raises(StreamError, match=r"1 dead letters could not be replayed:\n0/3: there is no topic 'gone-for-good' any more"):
        dlq(news, "replay")
    assert [row["topic"] for row in listed(news)] == ["gone-for-good"]


def test_who_begins_a_replay_stops_another_before_it_publishes(news: KafkaConfig) -> None:
    topic = f"{news.topics[0]}.dead-letters"
    with Replayer(news, topic) as first:
        assert replayed(news, "0/0")["replayed"] == {news.topics[0]: 1}
        with pytest.raises(ReplayedElsewhere):
            list(first.replay(read_letters(news, topic), Marks()))
    assert len(read_all(news, news.topics[0])) == 4


def test_no_topic_of_dead_letters_is_no_dead_letters(kafka: KafkaConfig) -> None:
    assert listed(kafka) == []
    assert replayed(kafka)["replayed"] == {}
