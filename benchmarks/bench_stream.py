"""What the way from Kafka to the memory costs: small records through source, decoding, dead letters, admission, chunks and state, with an
update that only counts; beside what kafka-python's own poll loop reads from the same topic. Nothing may be lost, and memory stays flat.
"""

from __future__ import annotations

import cProfile
import json
import pstats
import random
import time
from collections import Counter, deque
from collections.abc import Collection, Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any, ClassVar

import torch
import typer
from torch import Tensor

from actors.config import StreamConfig
from actors.learner import Learner
from actors.poller import Poller
from jobs.command import start
from jobs.demo.broker import EmbeddedBroker
from model.engine import Chunks, Learned
from pipeline.kafka_client import KafkaConfig, close_producer, new_consumer, new_producer, to_kafka
from pipeline.positions import StreamState, caught_up
from pipeline.records import Outcome, Partition
from pipeline.topics import ensure_topic

app = typer.Typer(add_completion=False)
TOPIC = "small"
SENTENCE = "the president of a country opened an office for trade with its neighbours and said that talks would go on in spring"
POLL_BYTES = 1 << 20


@app.command()
def bench(
    records: Annotated[int, typer.Option(min=1000, help="Records in the topic.")] = 1_000_000,
    partitions: Annotated[int, typer.Option(min=1, help="Of the topic.")] = 4,
    blocks: Annotated[int, typer.Option(min=1, help="Updates remembered; older ones leave, and their documents with them.")] = 2048,
    bootstrap: Annotated[str | None, typer.Option(help="A broker, HOST:PORT. The embedded one if not given.")] = None,
    profile: Annotated[bool, typer.Option(help="Where the time goes, by function, after the numbers.")] = False,
) -> None:
    """Print JSON lines: what was published, what plain kafka-python reads, what memstream reads and what became of it."""
    with ExitStack() as undo:
        servers = bootstrap or undo.enter_context(EmbeddedBroker()).bootstrap_servers
        kafka = KafkaConfig.model_validate({"bootstrap_servers": servers, "topics": [TOPIC]})
        config = StreamConfig.model_validate({"kafka": kafka, "memory": {"blocks": blocks}})
        published = publish(kafka, records, partitions)
        print(json.dumps(published), flush=True)
        plain = plain_loop(kafka, records, partitions)
        print(json.dumps(plain), flush=True)
        profiler = cProfile.Profile() if profile else None
        ours = memstream_loop(config, records, profiler)
        whole = ours["counts"] == published["expected"]
        print(json.dumps({**ours, "share_of_plain": round(ours["records_s"] / plain["records_s"], 3), "whole": whole}), flush=True)
        if profiler is not None:
            pstats.Stats(profiler).sort_stats("tottime").print_stats(35)
        if not whole:
            raise SystemExit(f"counted {ours['counts']}, published {published['expected']}")


# ---------------------------------------------------------------------- the feed


def publish(kafka: KafkaConfig, records: int, partitions: int) -> dict[str, Any]:
    """Fill the topic; what each record must come to is known before it is sent."""
    ensure_topic(kafka, TOPIC, partitions)
    producer, expected, began_s = new_producer(kafka), Counter[str](), time.perf_counter()
    waiting, size_bytes = deque[Any](), 0
    for number, (outcome, value) in enumerate(feed(records)):
        expected[outcome.value] += 1
        size_bytes += len(value)
        waiting.append(producer.send(TOPIC, value=value, partition=number // 2 % partitions))
        if len(waiting) > 20_000:
            waiting.popleft().get(timeout=60)
    for future in waiting:
        future.get(timeout=60)
    close_producer(producer, 5)
    seconds = time.perf_counter() - began_s
    return {
        "published": records,
        "value_bytes": round(size_bytes / records),
        "records_s": round(records / seconds),
        "expected": {outcome.value: expected[outcome.value] for outcome in Outcome},
    }


def feed(records: int) -> Iterator[tuple[Outcome, bytes]]:
    """Short news; in a hundred of them three that repeat the one before, two that are no JSON and one that is too short."""
    draw, last = random.Random(records), ""
    for number in range(records):
        place = number % 100
        if place in (11, 41, 71):  # odd, so in the partition of the one before
            yield Outcome.DUPLICATE, json.dumps({"title": "News", "text": last, "time": 1_767_000_000 + number}).encode()
        elif place in (23, 53):
            yield Outcome.DEAD_LETTER, b'{"text": "an end that is mis'
        elif place == 77:
            yield Outcome.FILTERED, b'{"text": "no"}'
        else:
            last = f"{number}: {' '.join(draw.choices(SENTENCE.split(), k=16))}"
            yield Outcome.APPLIED, json.dumps({"title": "News", "text": last, "time": 1_767_000_000 + number}).encode()


# ---------------------------------------------------------------------- the two loops


def plain_loop(kafka: KafkaConfig, records: int, partitions: int) -> dict[str, Any]:
    """kafka-python's consumer as it is: poll, and count."""
    consumer = new_consumer(kafka)
    assigned = [to_kafka(Partition(TOPIC, number)) for number in range(partitions)]
    consumer.assign(assigned)
    for each in assigned:
        consumer.seek(each, 0)
    began_s, seen = time.perf_counter(), 0
    while seen < records:
        seen += sum(map(len, consumer.poll(timeout_ms=500, max_records=500).values()))
    seconds = time.perf_counter() - began_s
    consumer.close()
    return {"loop": "kafka-python", "records_s": round(records / seconds), "seconds": round(seconds, 1)}


def memstream_loop(config: StreamConfig, records: int, profiler: cProfile.Profile | None) -> dict[str, Any]:
    """The poller and the learner of a replica, one after the other in this process."""
    config = config.model_copy(update={"admission": config.admission.model_copy(update={"min_chars": 3})})
    poller = Poller(config, {}, True, {})
    learner = Learner(config, CountingEngine(config.memory.blocks), StreamState.beginning({}), poller.reject)  # type: ignore[arg-type]
    samples, next_at = [], 0
    began_s = time.perf_counter()
    if profiler is not None:
        profiler.enable()
    while True:
        polled = poller.poll(POLL_BYTES, 0.5)
        for item in polled.items:
            for _ in learner.learn(item):
                pass
        passed = sum(learner.state.counts.values())
        if passed >= next_at:
            samples.append({"records": passed, "rss_mb": rss_mb(), "ledger": len(learner.state.ledger)})
            next_at += max(1, records // 10)
        if passed >= records and caught_up(learner.state.positions, polled.highwaters):
            break
    poller.flush(60)
    if profiler is not None:
        profiler.disable()
    seconds = time.perf_counter() - began_s
    poller.close()
    learner.state.check()
    counts = {outcome.value: count for outcome, count in learner.state.counts.items()}
    later = [sample["rss_mb"] for sample in samples if sample["records"] >= records // 5]
    return {
        "loop": "memstream",
        "records_s": round(records / seconds),
        "seconds": round(seconds, 1),
        "counts": counts,
        "rss_mb_from_a_fifth_on": [min(later), max(later)],
        "samples": samples,
    }


class CountingEngine:
    """What `Learner` needs of an engine: words are tokens, an update is a number, and the oldest leaves."""

    kind: ClassVar = "tokens"
    update_tokens, most_updates, min_tokens, forgets, num_tokens = 64, 64, 1, True, 0

    def __init__(self, capacity: int) -> None:
        self.capacity, self.update_number = capacity, 0
        self._alive, self._delta = deque[int](), torch.empty(0)

    @property
    def remembered(self) -> int:
        return len(self._alive)

    def encode(self, text: str) -> list[int]:
        return list(range(len(text.split())))

    def room(self, updates: int) -> Generator[None, None, None]:
        yield from ()

    def prepare(self, chunks: Chunks, coming: Iterable[Chunks] = ()) -> Generator[None, None, Sequence[Tensor]]:
        yield
        return [self._delta] * len(chunks)

    def commit(self, prepared: Sequence[Tensor], forget: Collection[int] = ()) -> Learned:
        updates = tuple(range(self.update_number, self.update_number + len(prepared)))
        self.update_number += len(updates)
        self._alive.extend(updates)
        forgotten = tuple(self._alive.popleft() for _ in range(len(self._alive) - self.capacity))
        return Learned(updates=updates, forgotten=forgotten)


def rss_mb() -> int:
    """Resident memory of this process, now."""
    status = Path("/proc/self/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS:"))) // 1024


if __name__ == "__main__":
    start(app)
