"""Injecting and generating at the same time, in threads of one process: nothing global says which adapter is active."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import GenerationConfig

from model.errors import VersionEvicted
from model.memory.tokens import MemoryPool, PoolView
from model.memory_llm import MemoryLLM
from tests.doubles.texts import text

UPDATES = 40
PROMPT = text(1000, 9)


def answer(view: PoolView) -> list[int]:
    settings = GenerationConfig(max_new_tokens=6, do_sample=False, eos_token_id=None, pad_token_id=257)
    tokens: Tensor = view._pool.model.reader.generate(  # type: ignore[misc, assignment]
        PROMPT[None], attention_mask=torch.ones(1, len(PROMPT)), past_key_values=view.cache(), generation_config=settings
    )
    return [int(token) for token in tokens[0, len(PROMPT) :]]


def replayed(model: MemoryLLM, versions: Sequence[int]) -> dict[int, list[int]]:
    """The answer of each version of the same stream, with nothing else going on."""
    pool, answers = MemoryPool(model, seed=3), {}
    for number in range(max(versions)):
        pool.update(text(number))
        if pool.update_number in versions:
            with pool.read() as view:
                answers[pool.update_number] = answer(view)
    return answers


def test_read_one_version_each_answer_is_that_of_its_version_while_updates_go_on(model: MemoryLLM) -> None:
    pool = MemoryPool(model, seed=3)
    pool.update(text(0))
    deltas_with_a_graph: list[int] = []

    def learn() -> None:
        for number in range(1, UPDATES):
            pool.update(text(number))
            if pool.tail_LKD is not None and pool.tail_LKD.requires_grad:
                deltas_with_a_graph.append(number)

    learner = threading.Thread(target=learn)
    learner.start()
    answers: dict[int, list[int]] = {}
    while learner.is_alive() or not answers:
        try:
            with pool.read() as view:
                answers[view.version.update_number] = answer(view)
        except VersionEvicted:
            continue
    learner.join()
    assert deltas_with_a_graph == [] and pool.update_number == UPDATES
    assert len(answers) > 3 and answers == replayed(model, list(answers))


def test_two_questions_at_once_get_the_answers_that_each_gets_alone(pool: MemoryPool) -> None:
    with pool.read() as view:
        alone = answer(view)
    found: list[list[int]] = []

    def ask() -> None:
        for _ in range(3):
            with pool.read() as view:
                found.append(answer(view))

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [alone] * 9
