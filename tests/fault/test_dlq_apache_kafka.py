"""A replay of dead letters that is killed in the middle, or refused in part: each record is published exactly once all the same."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import pytest

from pipeline.dead_letters import DeadLetterConfig, DeadLetterSink
from pipeline.decode import dead_letter
from pipeline.kafka_client import KafkaConfig
from pipeline.letters import Letter, LetterState, read_letters, read_marks
from pipeline.records import Partition, Reason, Record
from pipeline.replay import Replayed, Replayer
from tests.processes import ROOT
from tests.topics import read_all

if TYPE_CHECKING:
    from tests.fault.conftest import ApacheKafka

pytestmark = [pytest.mark.slow, pytest.mark.fault, pytest.mark.timeout(180)]

KILLED_BEFORE_IT_COMMITS = """
import os, signal, sys
from kafka import KafkaProducer
from pipeline.kafka_client import KafkaConfig
from pipeline.letters import read_letters, read_marks
from pipeline.replay import Replayer

KafkaProducer.commit_transaction = lambda self: os.kill(os.getpid(), signal.SIGKILL)
kafka, topic = KafkaConfig.model_validate_json(sys.argv[1]), sys.argv[2]
with Replayer(kafka, topic) as replayer:
    list(replayer.replay(read_letters(kafka, topic), read_marks(kafka, topic)))
"""


def fail(kafka: KafkaConfig, values: Sequence[bytes]) -> str:
    with DeadLetterSink(kafka, DeadLetterConfig()) as sink:
        for number, value in enumerate(values):
            record = Record(partition=Partition(kafka.topics[0], 0), offset=number, timestamp_ms=-1, key=b"k", value=value)
            sink.send(dead_letter(record, Reason.BAD_JSON, ""))
        sink.flush(30)
        return sink.topic


def replay(kafka: KafkaConfig, topic: str) -> list[Replayed]:
    with Replayer(kafka, topic) as replayer:
        return list(replayer.replay(read_letters(kafka, topic), read_marks(kafka, topic)))


def waiting(kafka: KafkaConfig, topic: str) -> list[Letter]:
    marks = read_marks(kafka, topic)
    return [letter for letter in read_letters(kafka, topic) if letter.state(marks, 3) is LetterState.WAITING]


def test_a_replay_killed_between_publishing_and_marking_publishes_nothing_twice(apache: ApacheKafka) -> None:
    kafka = apache.config()
    apache.create_topic(kafka)
    topic = fail(kafka, [b"%d" % number for number in range(300)])
    script = [sys.executable, "-c", KILLED_BEFORE_IT_COMMITS, kafka.model_dump_json(), topic]
    killed = subprocess.run(script, cwd=ROOT, timeout=60, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert len(waiting(kafka, topic)) == 300
    assert len(replay(kafka, topic)) == 300
    assert [record.value for record in read_all(kafka, kafka.topics[0])] == [b"%d" % number for number in range(300)]
    assert waiting(kafka, topic) == [] == replay(kafka, topic)


def test_what_the_topic_refuses_is_named_and_keeps_no_other_back(apache: ApacheKafka) -> None:
    kafka = apache.config()
    apache.create_topic(kafka, settings={"max.message.bytes": "2000"})
    topic = fail(kafka, [b"0", b"x" * 5000, b"2"])
    done = replay(kafka, topic)
    assert sorted((each.letter.origin_offset, each.problem is None) for each in done) == [(0, True), (1, False), (2, True)]
    assert [record.value for record in read_all(kafka, kafka.topics[0])] == [b"0", b"2"]
    assert [letter.origin_offset for letter in waiting(kafka, topic)] == [1]
