"""What `make test` sees of Apache Kafka, where Java is there and the broker's jars have been fetched: a stream, start to restart.

The rest is in the slow tests beside this one. `infra/kafka/kafka.sh fetch build/kafka/libs` fetches.
"""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.publish import Publisher
from tests.doubles.stream import stream_config
from tests.fault.conftest import LIBS, ApacheKafka, running_apache
from tests.processes import Jobs

pytestmark = pytest.mark.fault


@pytest.fixture
def fetched_apache(tmp_path: Path) -> Iterator[ApacheKafka]:
    if shutil.which("java") is None or not list(LIBS.glob("kafka_*.jar")):
        pytest.skip(f"no java, or no Apache Kafka in {LIBS} (infra/kafka/kafka.sh fetch {LIBS})")
    yield from running_apache(tmp_path / "kafka")


def test_a_stream_is_learned_and_goes_on_after_broker_and_replica_were_ended(
    fetched_apache: ApacheKafka, jobs: Jobs, small_model: Path, tmp_path: Path
) -> None:
    name = f"s{uuid.uuid4().hex[:8]}"
    config = stream_config(small_model, tmp_path / "snapshots", fetched_apache.bootstrap_servers, [name], stream=name)

    def publish(first: int, end: int) -> None:
        with Publisher(config.kafka, name) as publisher:
            publisher.publish([{"id": str(number), "text": f"Person {number}."} for number in range(first, end)])

    publish(0, 4)
    assert jobs.drain(config)["counts"]["applied"] == 4
    fetched_apache.kill()
    fetched_apache.start()
    fetched_apache.await_answer(config.kafka)
    publish(4, 6)
    done = jobs.drain(config)
    assert (done["counts"]["applied"], done["position"], done["epoch"]) == (6, {f"{name}/0": 6}, 2)
