"""Many askers while documents are learned back to back: every answer is given or refused, none is lost, none is of two versions."""

from __future__ import annotations

import asyncio
import resource
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from actors.errors import Busy
from actors.messages import Answer, Question
from actors.router import whole
from actors.turns import Turn
from tests.doubles.streams import LocalStream
from tests.doubles.tiny import tiny_block_checkpoint


async def load(stream: LocalStream, askers: int, documents: int, seconds: float) -> tuple[Counter[str], dict[tuple[str, int], set[str]]]:
    """Ask from `askers` sides until all documents are learned and the time is over."""
    found: Counter[str] = Counter()
    said: dict[tuple[str, int], set[str]] = {}
    for number in range(documents):
        await stream.publish({"text": f"Person {number}."}, None)
    over = asyncio.get_running_loop().time() + seconds

    async def asker(number: int) -> None:
        count = 0
        while asyncio.get_running_loop().time() < over or stream.replica.status().version < documents:
            text = f"Who is person {(number + count) % 7}?"
            count += 1
            try:
                answer: Answer = await whole(stream.ask(replace(Question.of(text, 8), timeout_s=60)))
            except Busy:
                found["refused"] += 1
                await asyncio.sleep(0.02)
                continue
            found["answered"] += 1
            known = answer.knowledge
            assert sum(known.position.values()) == known.applied == known.version == known.update_number
            assert all(source.offset < known.position["news/0"] for source in known.sources)
            said.setdefault((text, known.version), set()).add(answer.text)

    await asyncio.gather(*(asyncio.create_task(asker(number)) for number in range(askers)))
    return found, said


@pytest.fixture
def stream(tmp_path: Path) -> LocalStream:
    checkpoint = tiny_block_checkpoint(tmp_path / "tiny", K=16)
    sections = {"memory": {"margin": -1e6, "evidence": -1e6, "blocks": 64}, "answers": {"most_running": 8, "most_waiting": 8}}
    return LocalStream(checkpoint, tmp_path / "snapshots", **sections)


@pytest.mark.parametrize("askers", [1, 4, 40])
def test_every_question_is_answered_or_refused_while_updates_go_on(stream: LocalStream, askers: int) -> None:
    try:
        found, said = asyncio.run(load(stream, askers, documents=120, seconds=1.0))
    finally:
        stream.close()
    status = stream.replica.status()
    assert found["answered"] > 0 and status.counts["applied"] == 120
    assert status.answered == found["answered"] and (status.running_answers, status.waiting_answers) == (0, 0)
    assert (found["refused"] > 0) == (askers > 16), found
    assert status.turns[Turn.LEARN] >= 120
    # READ-ONE-VERSION: greedy answers of one version agree, whoever ran beside them.
    assert all(len(texts) == 1 for texts in said.values()), {key: texts for key, texts in said.items() if len(texts) > 1}


@pytest.mark.slow
@pytest.mark.parametrize("askers", [1, 4, 16, 64])
def test_bounded_memory_stays_flat_under_load(stream: LocalStream, askers: int) -> None:
    try:
        asyncio.run(load(stream, askers, documents=100, seconds=10))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        found, _ = asyncio.run(load(stream, askers, documents=0, seconds=60))
    finally:
        stream.close()
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert found["answered"] > 100 and after - before < 64 * 1024, f"{(after - before) / 1024:.0f} MiB more"
