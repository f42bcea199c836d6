"""Learning and answering at the same time with a pool: answers of several versions run side by side while updates go on."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import GenerationConfig

from model.conversation import Conversation
from model.engine import Asked, Asking, prepared
from model.memory.tokens import MemoryPool
from model.memory_llm import MemoryLLM
from model.pool_engine import PoolEngine
from tests.doubles.texts import text

QUESTIONS = ["Who won?", "Where did the river rise, and when was it that it did?", "?", "r" * 180]


@pytest.fixture
def engine(model: MemoryLLM, folder: Path) -> PoolEngine:
    return PoolEngine(MemoryPool(model, seed=3, spare_blocks=16, max_versions=4), Conversation.of(folder))


def learn(engine: PoolEngine, number: int) -> None:
    engine.commit(prepared(engine, [text(number).tolist()]))


def asked(engine: PoolEngine, question: str, limit: int = 9) -> Asked:
    return Asked(prompt=engine.compose([{"role": "user", "content": question}]), asking=Asking(limit=limit))


def generated(engine: PoolEngine, question: str, limit: int = 9) -> list[int]:
    """By transformers' own generate, on the version of this moment."""
    prompt = engine.compose([{"role": "user", "content": question}]).tokens
    settings = GenerationConfig(max_new_tokens=limit, do_sample=False, eos_token_id=257, pad_token_id=257)
    with engine.pool.read() as view:
        tokens: Tensor = engine.pool.model.reader.generate(  # type: ignore[misc, assignment]
            torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt)), past_key_values=view.cache(), generation_config=settings
        )
    return [int(token) for token in tokens[0, len(prompt) :]]


def test_a_batch_says_what_generate_says_of_each_question_alone(engine: PoolEngine) -> None:
    for number in range(6):
        learn(engine, number)
    alone = [generated(engine, question) for question in QUESTIONS]
    running = engine.begin([asked(engine, question) for question in QUESTIONS])
    while any(each.finish_reason is None for each in running):
        engine.decode()
    assert [each.tokens for each in running] == alone


def test_a_pool_that_was_never_written_answers_as_the_model_alone(engine: PoolEngine) -> None:
    alone = generated(engine, QUESTIONS[0])
    (running,) = engine.begin([asked(engine, QUESTIONS[0])])
    while running.finish_reason is None:
        engine.decode()
    assert running.tokens == alone


def test_read_one_version_each_answer_is_that_of_its_version_while_updates_go_on(engine: PoolEngine) -> None:
    learn(engine, 0)
    running, alone = [], []
    for number in range(1, 9):
        if engine.can_begin():
            alone.append(generated(engine, QUESTIONS[number % 3]))
            running += engine.begin([asked(engine, QUESTIONS[number % 3])])
        learn(engine, number)
        engine.decode()
    while any(each.finish_reason is None for each in running):
        engine.decode()
    assert len(running) > 3 and [each.tokens for each in running] == alone
    assert len(engine.pool._versions) == 1 and not engine._running


def test_bounded_learning_waits_for_answers_of_old_versions_and_goes_on_when_they_end(engine: PoolEngine) -> None:
    engine.pool = MemoryPool(engine.pool.model, seed=3, spare_blocks=2)
    learn(engine, 0)
    (running,) = engine.begin([asked(engine, QUESTIONS[0], limit=1000)])
    learned = 0
    while engine.can_learn() and learned < 9:
        learned += 1
        learn(engine, learned)
    assert 0 < learned < 9
    engine.end(running)
    assert engine.can_learn()
