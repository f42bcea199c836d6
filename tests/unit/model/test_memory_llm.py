"""Writing: a text becomes memory tokens. That the numbers are right is shown in `test_parity`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch
from torch import nn

from model.checkpoint import load_model
from model.memory.tokens import MemoryPool
from model.memory_llm import AdaptedLinear, MemoryLLM
from model.reading.prefix_cache import PrefixCache
from tests.doubles.texts import text
from tests.doubles.tiny import tiny_checkpoint


def test_injection_builds_no_graph_no_logits_and_no_cache(pool: MemoryPool, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*args: Any, **kwargs: Any) -> NoReturn:
        raise AssertionError("an injection needs none of this")

    model = pool.model
    monkeypatch.setattr(model.reader.lm_head, "forward", never)
    monkeypatch.setattr(model.reader.model, "forward", never)
    monkeypatch.setattr(PrefixCache, "update", never)
    parameters = [next(model.writer.parameters()), model.new_memory_positional_emb]
    for parameter in parameters:
        parameter.requires_grad_(True)
    try:
        assert torch.is_grad_enabled()
        delta = model.inject(text(1)[None], pool.tail_LKD)
    finally:
        for parameter in parameters:
            parameter.requires_grad_(False)
    assert delta.grad_fn is None and not delta.requires_grad


def test_writer_and_reader_share_every_base_weight(model: MemoryLLM) -> None:
    for (name, ours), (other, theirs) in zip(linear_layers(model.writer), linear_layers(model.reader.model.layers), strict=True):
        assert name == other and ours.weight is theirs.weight
        if isinstance(ours, AdaptedLinear) and isinstance(theirs, AdaptedLinear):
            assert ours.lora_A is not theirs.lora_A


def linear_layers(layers: nn.ModuleList) -> list[tuple[str, Any]]:
    return [(name, module) for name, module in layers.named_modules() if isinstance(module, nn.Linear | AdaptedLinear)]


@pytest.mark.parametrize("adapters", [0, 1])
def test_without_a_second_adapter_both_roles_are_the_same_layers(adapters: int, tmp_path: Path) -> None:
    model = load_model(tiny_checkpoint(tmp_path, adapters=adapters))
    assert model.writer is model.reader.model.layers


def test_the_two_adapters_write_and_read_differently(model: MemoryLLM) -> None:
    written = model.inject(text(1)[None], None)
    model.writer, reader = model.reader.model.layers, model.writer
    try:
        assert not torch.allclose(model.inject(text(1)[None], None), written)
    finally:
        model.writer = reader


@pytest.mark.parametrize("length", [1, 5, 8, 21])
def test_an_update_writes_k_tokens_whatever_its_length(length: int, pool: MemoryPool) -> None:
    delta = pool.model.inject(text(1, length)[None], pool.tail_LKD)
    assert delta.shape == (1, 2, 8, 32)


def test_a_first_update_shorter_than_k_writes_as_many_tokens_as_it_has(model: MemoryLLM) -> None:
    assert model.inject(text(1, 5)[None], None).shape == (1, 2, 5, 32)


def test_texts_side_by_side_are_written_as_alone(pool: MemoryPool) -> None:
    texts = torch.stack([text(seed, 11) for seed in range(3)])
    together = pool.model.inject(texts, pool.tail_LKD)
    alone = torch.cat([pool.model.inject(each[None], pool.tail_LKD) for each in texts])
    torch.testing.assert_close(together, alone)


def test_what_is_written_depends_on_the_last_k_tokens_of_the_pool(pool: MemoryPool) -> None:
    before = pool.model.inject(text(1)[None], pool.tail_LKD)
    pool.update(text(99))
    assert not torch.allclose(pool.model.inject(text(1)[None], pool.tail_LKD), before, atol=1e-3)
