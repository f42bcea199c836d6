"""Questions that would stop a replica: endless prompts, temperatures that are almost none."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from actors.messages import Question
from actors.replica import Replica
from model.conversation import Conversation
from tests.doubles.streams import LocalStream
from tests.doubles.tiny import tiny_block_checkpoint


@pytest.fixture(scope="module")
def replica(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Replica]:
    stream = LocalStream(tiny_block_checkpoint(tmp_path_factory.mktemp("tiny"), K=16), tmp_path_factory.mktemp("snapshots"))
    while stream.replica.status().loading:
        time.sleep(0.01)
    yield stream.replica
    stream.close()


@pytest.mark.parametrize("question", [Question.of("x" * 10_000_000), Question(text="x" * 10_000_000)])
def test_an_endless_prompt_is_refused_before_it_is_cut_into_tokens(
    question: Question, replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut(*_: Any) -> Any:
        raise AssertionError("it was cut into tokens")

    monkeypatch.setattr(Conversation, "encode", cut)
    with pytest.raises(ValueError, match="the prompt has 10000000 characters"):
        replica.answer(question)


@pytest.mark.parametrize("temperature", [1e-40, 5e-324, 1e-4, 0.0011, 2.0])
def test_a_temperature_of_almost_nothing_is_none(temperature: float, replica: Replica) -> None:
    greedy = replica.answer(Question.of("Who?", 4)).choices[0].text
    told = replica.answer(replace(Question.of("Who?", 4), temperature=temperature, seed=1)).choices[0].text
    assert temperature > 1e-3 or told == greedy
