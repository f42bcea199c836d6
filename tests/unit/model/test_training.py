"""The arithmetic of training: a selector that learns to find, a reader that learns to read, on a tiny model."""

from __future__ import annotations

import random
from itertools import cycle
from pathlib import Path

import pytest
import torch
from torch import distributed
from torch.multiprocessing.spawn import spawn

from model.block_checkpoint import load_block_model
from model.block_llm import BlockLLM
from model.memory.blocks import BlockMemory
from model.reading.generation import reading
from model.training.lessons import Lesson, Query
from model.training.reader import Asked, ReaderConfig, ReaderTrainer, exact_answers
from model.training.selector import SelectorConfig, SelectorTrainer, all_scores, calibrate, leads, owners, ranks, states_of, study
from model.training.start import load_trained, trained
from tests.doubles.tiny import tiny_block_checkpoint

END = 257


@pytest.fixture
def model(tmp_path: Path) -> BlockLLM:
    return load_block_model(tiny_block_checkpoint(tmp_path, K=16))


def lesson(number: int, rng: random.Random, chunks: int = 1) -> Lesson:
    """Some letters, the first of which are asked for by the last."""
    parts = tuple(tuple(rng.randrange(65, 123) for _ in range(10)) for _ in range(chunks))
    queries = tuple(
        Query(prompt=(256, *part[5:], END), content=(1, 6), answer=(part[0], END), chunks=(place,)) for place, part in enumerate(parts)
    )
    return Lesson(kind="letters", subject=f"{number}", chunks=parts, queries=queries)


def lessons(count: int, seed: int = 0) -> list[Lesson]:
    rng = random.Random(seed)
    return [lesson(number, rng, 1 + number % 2) for number in range(count)]


def test_the_selector_learns_to_find_and_the_gate_is_calibrated(model: BlockLLM) -> None:
    generator = torch.Generator().manual_seed(1)
    model.selector.start(generator)
    for parameter in model.selector.parameters():
        parameter.requires_grad_(True)
    studied = study(model, lessons(60))
    general = states_of(model, [[256, *range(33 + number, 43 + number)] for number in range(12)], [(1, 11)] * 12)
    config = SelectorConfig(documents=40, questions=60, general=6, rate=1e-2, warmup_steps=1)
    trainer = SelectorTrainer(model.selector, config, 0, 40, studied, general)
    losses = [trainer.step(number)[0] for number in range(40)]
    assert sum(losses[-5:]) < sum(losses[:5]) / 2
    fresh = study(model, lessons(20, seed=9))
    found = ranks(model.selector, fresh, studied)["letters"]
    assert sum(each.block == 0 for each in found) / len(found) > 0.9
    assert sum(each.source for each in found) / len(found) > 0.9
    for parameter in model.selector.parameters():
        parameter.requires_grad_(False)
    gate = calibrate(model.selector, fresh, [], general)
    assert gate["lost"] <= 0.2 and gate["leaked"] <= 0.4
    blocks = [document.chunks for document in fresh]
    asked = [states for document in fresh for states in document.queries]
    after = leads(model.selector, *all_scores(model.selector, asked, blocks), owners(blocks, model.device))
    assert float((after <= 1e-4).float().mean()) == pytest.approx(gate["lost"]), "the gate stands where it was calibrated to"
    memory = BlockMemory(model, capacity=100)
    for document in fresh:
        memory.apply(memory.write(document.lesson.chunks, [(), *document.lesson.chunks[:-1]]))
    judged = [memory.score(states.float(), torch.ones(len(states)), 1).lead for states in asked]
    assert judged == pytest.approx(after.tolist(), abs=0.05), "a memory judges as training did"


def test_the_reader_learns_to_read(model: BlockLLM) -> None:
    config = ReaderConfig(new_tokens=60, questions=12, bank=40, rate=1e-2, warmup_steps=1, left_out=0.0)
    trainer = ReaderTrainer(model, config, seed=0, unknown=(63, END))
    stream = cycle(lessons(6))
    before = [parameter.clone() for name, parameter in model.named_parameters() if "lora_" not in name]
    adapters = {name: parameter.clone() for name, parameter in model.named_parameters() if "lora_" in name}
    losses = [trainer.step(stream, number, 0.0).answer for number in range(30)]
    assert sum(losses[-5:]) < sum(losses[:5]) * 0.8
    after = [parameter for name, parameter in model.named_parameters() if "lora_" not in name]
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True)), "only adapters are trained"
    moved = {
        name.partition(".")[0] for name, parameter in model.named_parameters() if not torch.equal(parameter, adapters.get(name, parameter))
    }
    assert moved == {"writer", "reader"}, "what is written is learnt together with what reads it"
    assert not any(block.states_RnD.requires_grad for block in trainer.bank)
    assert len(trainer.bank) == 40 and set(exact_answers(trainer, lessons(6), 2)) == {"letters"}


def learn_together(rank: int, folder: Path) -> None:
    """One of two processes: other lessons than the other's, and what came of the adapters."""
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    model = load_block_model(folder / "tiny")
    trainer = ReaderTrainer(model, ReaderConfig(new_tokens=30, questions=4, rate=1e-2, warmup_steps=1), seed=rank, unknown=(63, END))
    losses = [trainer.step(cycle(lessons(6, seed=rank)), number, 0.0).answer for number in range(3)]
    torch.save({"losses": losses, "trained": trained(model)}, folder / f"{rank}.pt")
    distributed.destroy_process_group()


def test_processes_that_train_together_take_the_same_steps(tmp_path: Path) -> None:
    tiny_block_checkpoint(tmp_path / "tiny", K=16)
    spawn(learn_together, (tmp_path,), nprocs=2)
    one, other = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    assert one["losses"] != other["losses"]
    start = trained(load_block_model(tmp_path / "tiny"))
    for name, value in one["trained"].items():
        assert torch.equal(value, other["trained"][name])
    assert any(not torch.equal(value, start[name]) for name, value in one["trained"].items())


def test_training_reads_as_inference_reads(model: BlockLLM) -> None:
    """The same blocks in front of the same prompt give the same hidden states, batched and padded or not, whatever answer follows."""
    trainer = ReaderTrainer(model, ReaderConfig(), seed=0, unknown=(63, END))
    written = trainer.write(lessons(5))
    rows = [written[:1], written[1:4], written[2:3]]
    prompts = [written[number].lesson.queries[0].prompt[number:] for number in range(3)]
    longest = 2 + max(map(len, prompts))
    tokens = torch.tensor([[*prompt, *range(70, 70 + longest - len(prompt))] for prompt in prompts])
    with torch.no_grad():
        together = trainer._read(model.trunk(tokens), rows, list(map(len, prompts)))
        for number, blocks in enumerate(rows):
            pairs = [[model.project(index, block.states_RnD[index]) for index in range(model.layers_kept)] for block in blocks]
            keys = [torch.stack([key for key, _ in layers]) for layers in pairs]
            values = [torch.stack([value for _, value in layers]) for layers in pairs]
            llama, cache = reading(model, keys, values)
            read: list[torch.Tensor] = []
            hook = llama.model.norm.register_forward_pre_hook(lambda _, inputs, read=read: read.append(inputs[0]))
            llama(torch.tensor([prompts[number]]), past_key_values=cache)
            hook.remove()
            alone = read[0]
            assert torch.allclose(alone[0], together[number, : len(prompts[number])], atol=1e-4)


def test_no_question_is_shown_another_telling_of_its_own_matter(model: BlockLLM) -> None:
    trainer = ReaderTrainer(model, ReaderConfig(left_out=0.0, alone=0.0), seed=0, unknown=(63, END))
    told = lessons(12)
    told[3] = Lesson(kind="letters", subject="0", chunks=told[3].chunks, queries=told[3].queries)
    written = trainer.write(told)
    for asked in trainer.questions(written):
        own = [block for block in asked.blocks if asked.query in block.lesson.queries and block.number in asked.query.chunks]
        assert len(own) == 1 and 1 <= len(asked.blocks) <= 4
        others = [block for block in asked.blocks if block is not own[0]]
        assert all(block.lesson is own[0].lesson or block.lesson.subject != own[0].lesson.subject for block in others)


def test_no_question_comes_twice_before_all_have_come(model: BlockLLM) -> None:
    trainer = ReaderTrainer(model, ReaderConfig(questions=24, about_new=1.0, near=0.0), seed=0, unknown=(63, END))
    written = trainer.write(lessons(12))
    told = [query for each in written for query in trainer._tells(each)]
    asked = [asked.query for asked in trainer.questions(written)]
    assert all(24 // len(told) <= sum(query is each for each in asked) <= -(-24 // len(told)) for query in told)


def test_a_block_left_out_wants_the_answer_that_it_is_not_known(model: BlockLLM) -> None:
    trainer = ReaderTrainer(model, ReaderConfig(left_out=1.0, alone=0.0), seed=0, unknown=(63, END))
    asked: list[Asked] = trainer.questions(trainer.write(lessons(12)))
    assert {each.answer for each in asked} == {(63, END)}
    assert all(each.query.chunks[0] != block.number or each.query not in block.lesson.queries for each in asked for block in each.blocks)


def test_what_was_trained_comes_back(model: BlockLLM, tmp_path: Path) -> None:
    saved = {name: value.clone() for name, value in trained(model).items()}
    assert {name.partition(".")[0] for name in saved} == {"writer", "reader", "selector"}
    other = load_block_model(tiny_block_checkpoint(tmp_path / "other", K=16, seed=5))
    load_trained(other, saved)
    assert all(torch.equal(value, trained(other)[name]) for name, value in saved.items())
