"""Teaching: one step of each stage moves what it should, in the right direction, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from model.checkpoint import published_names
from model.embedded import load_for_training
from model.memory_llm import AdaptedLinear, MemoryLLM
from model.training import Curve, Lesson, Remembered, Trainer, TrainingConfig, evaluate, without_contradicted
from tests.doubles.texts import text

QUICK = TrainingConfig(
    new_chunks=2, questions=4, recitals=1, bank=6, rate_read=3e-3, rate_write=3e-3, warmup_steps=1, stabilise_batch=2, small_pools=0.0
)


def tokens(seed: int, length: int) -> tuple[int, ...]:
    return tuple(text(seed, length).tolist())


def lesson(seed: int) -> Lesson:
    chunk = tokens(seed, 8)
    asked = tuple((tokens(100 * seed + number, 4), chunk[2 * number : 2 * number + 2]) for number in range(2))
    return Lesson(kind="tiny", chunk=chunk, questions=asked, recital=(chunk[:3], chunk[3:]))


@pytest.fixture
def trainer(folder: Path) -> Trainer:
    """With a bank of older lessons."""
    trainer = Trainer(load_for_training(folder, None, "cpu"), QUICK, seed=1, total_steps=1000)
    list(trainer.fill_bank(lessons(50), 6))
    return trainer


def lessons(first: int) -> Iterator[Lesson]:
    return map(lesson, count(first))


def weights(model: MemoryLLM) -> dict[str, Tensor]:
    return {name: places[0][0]._parameters[places[0][1]].detach().clone() for name, places in published_names(model).items()}  # type: ignore[union-attr]


def changed(model: MemoryLLM, before: dict[str, Tensor]) -> set[str]:
    return {kind_of(name) for name, value in weights(model).items() if not torch.equal(value, before[name])}


def kind_of(name: str) -> str:
    if ".lora_" not in name:
        return name if name in ("bos_embedding", "new_memory_positional_emb") else "base"
    return "generation" if "decoder_adapter" in name else "injection"


def test_stabilising_teaches_the_injection_adapter_alone(trainer: Trainer) -> None:
    before = weights(trainer.model)
    trainer.stabilise([lesson(1), lesson(2)], step=0, steps=10)
    assert changed(trainer.model, before) == {"injection", "new_memory_positional_emb", "bos_embedding"}


def test_reading_teaches_both_adapters_and_leaves_the_base_model_alone(trainer: Trainer) -> None:
    before = weights(trainer.model)
    trainer.read([lesson(1), lesson(2)], step=0)
    assert changed(trainer.model, before) == {"injection", "generation", "new_memory_positional_emb", "bos_embedding"}


def test_every_adapter_gets_a_gradient_when_reading(trainer: Trainer, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, float] = {}

    def note(*args: object, **kwargs: object) -> None:
        seen.update({name: float(each.grad.norm()) for name, each in trainer.model.named_parameters() if each.grad is not None})

    monkeypatch.setattr(trainer, "_optimize", note)
    trainer.read([lesson(1), lesson(2)], step=0)
    learnable = {name for name, each in trainer.model.named_parameters() if each.requires_grad}
    assert set(seen) == learnable and all(norm > 0 for norm in seen.values())


def test_stabilising_brings_the_states_nearer_to_the_base_models(trainer: Trainer) -> None:
    batch = [lesson(1), lesson(2)]
    tethers = [trainer.stabilise(batch, step, 1000).tether for step in range(25)]
    assert sum(tethers[-5:]) < 0.9 * sum(tethers[:5])


def test_reading_lowers_the_loss_of_answers_and_recitals(trainer: Trainer) -> None:
    batch = [lesson(1), lesson(2)]
    trainer.bank.clear()
    losses = [trainer.read(batch, step) for step in range(30)]
    assert sum(each.answer for each in losses[-5:]) < 0.9 * sum(each.answer for each in losses[:5])
    assert sum(each.recite for each in losses[-5:]) < sum(each.recite for each in losses[:5])


def test_the_teacher_is_the_base_model_over_the_same_weights(trainer: Trainer) -> None:
    ours = {module.weight.data_ptr() for module in trainer.model.reader.modules() if isinstance(module, AdaptedLinear)}
    theirs = {module.weight.data_ptr() for module in trainer.teacher.modules() if isinstance(module, nn.Linear)}
    assert ours <= theirs and not any(isinstance(module, AdaptedLinear) for module in trainer.teacher.modules())


def test_a_pool_for_training_is_aged_as_a_pool_in_use(trainer: Trainer) -> None:
    documents = [Remembered(lesson(seed), torch.full((2, 8, 32), float(seed))) for seed in range(200)]
    memory = trainer._memory(documents)
    ages = [199 - int(token[0]) for token in memory[0]]
    assert len(memory[0]) == len(memory[1]) <= 32 and ages[-8:] == [0] * 8 and ages == sorted(ages, reverse=True)


def test_a_document_that_a_younger_one_contradicts_is_not_asked() -> None:
    old, other, new = (Remembered(each, torch.empty(0)) for each in (lesson(1), lesson(2), lesson(1)))
    assert without_contradicted([old, other, new]) == [other, new]


def test_evaluating_changes_neither_weights_nor_lessons_to_come(trainer: Trainer) -> None:
    before, state = weights(trainer.model), trainer.rng.getstate()
    newest, by_age = evaluate(trainer, [lesson(1), lesson(2), lesson(3)], seed=5)
    assert changed(trainer.model, before) == set() and trainer.rng.getstate() == state
    assert set(newest) == {"tiny"} and "age>=0" in by_age


def test_a_curve_counts_right_answers_by_age() -> None:
    curve = Curve()
    for age, right in ((0, True), (0, False), (5, True), (40, False)):
        curve.add(age, right)
    assert curve.shares() == {"age>=0": 0.5, "age>=4": 1.0, "age>=32": 0.0}
