"""The pool: versions, their slots, and what an update leaves of them."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from model.checkpoint import load_model
from model.errors import UpdateFailed
from model.memory.tokens import FROM_CHECKPOINT, MemoryPool, PoolLayer, PoolView, repeated
from model.memory_llm import MemoryLLM
from tests.doubles.texts import text
from tests.doubles.tiny import tiny_checkpoint

QUESTION = text(1000, 9)[None]


def logits(view: PoolView) -> Tensor:
    """What the model makes of one question over a view, by a cache of its own."""
    with torch.no_grad():
        found: Tensor = view._pool.model.reader(QUESTION, past_key_values=view.cache()).logits
    return found


def answer(pool: MemoryPool) -> Tensor:
    with pool.read() as view:
        return logits(view)


def sha256(pool: MemoryPool) -> str:
    with pool.read() as view:
        return hashlib.sha256(b"".join(layer.memory_ND.numpy().tobytes() for layer in pool.layers(view.version))).hexdigest()


def image(pool: MemoryPool) -> list[PoolLayer]:
    with pool.read() as view:
        return list(pool.layers(view.version))


def filled(model: MemoryLLM, updates: int, seed: int = 3, spare_blocks: int = 16, max_versions: int = 3) -> MemoryPool:
    pool = MemoryPool(model, seed=seed, spare_blocks=spare_blocks, max_versions=max_versions)
    for number in range(updates):
        pool.update(text(number))
    return pool


# ---------------------------------------------------------------------- updates


def test_the_first_update_fills_the_pool_and_later_ones_keep_it_full(model: MemoryLLM) -> None:
    pool = MemoryPool(model)
    assert pool.num_tokens == 0 and pool.tail_LKD is None
    for number in range(3):
        assert pool.update(text(number)) == number
        assert pool.num_tokens == 32 and pool.update_number == number + 1


def test_an_update_drops_k_tokens_and_appends_its_own_k(pool: MemoryPool) -> None:
    before = image(pool)
    number = pool.update(text(50))
    for old, new in zip(before, image(pool), strict=True):
        assert (new.updates_N[-8:] == number).all() and (new.updates_N[:-8] < number).all()
        assert (np.diff(new.updates_N) >= 0).all()
        survivors = [any(torch.equal(token, other) for other in old.memory_ND) for token in new.memory_ND[:-8]]
        assert all(survivors) and len(survivors) == 24


def test_replay_exact_the_same_texts_and_seed_give_the_same_pool(model: MemoryLLM) -> None:
    assert sha256(filled(model, 12)) == sha256(filled(model, 12, spare_blocks=2))
    assert sha256(filled(model, 12)) != sha256(filled(model, 12, seed=4))


@pytest.mark.parametrize("per_layer", [True, False])
def test_layers_draw_for_themselves_where_the_checkpoint_says_so(per_layer: bool, tmp_path: Path) -> None:
    pool = filled(load_model(tiny_checkpoint(tmp_path, per_layer=per_layer)), 8)
    first, second = (layer.updates_N for layer in image(pool))
    assert np.array_equal(first, second) is not per_layer


@pytest.mark.parametrize(("tokens", "capacity"), [(5, 32), (8, 32), (1, 32), (3, 32)])
def test_a_first_delta_is_repeated_and_the_remainder_filled_with_its_tail(tokens: int, capacity: int) -> None:
    delta = torch.arange(tokens, dtype=torch.float32).view(1, tokens, 1)
    ages = repeated(delta, capacity).flatten().tolist()
    whole, rest = divmod(capacity, tokens)
    assert ages == [*range(tokens)] * whole + [*range(tokens)][tokens - rest :]


def test_a_first_text_shorter_than_k_fills_the_pool_too(model: MemoryLLM) -> None:
    pool = MemoryPool(model)
    pool.update(text(1, 5))
    assert pool.num_tokens == 32 and pool.tail_LKD is not None and pool.tail_LKD.shape == (2, 8, 32)


def test_several_deltas_end_to_end_are_one_update(pool: MemoryPool) -> None:
    deltas = pool.model.inject(torch.stack([text(1), text(2)]), pool.tail_LKD)
    number = pool.apply(torch.cat(list(deltas), dim=1))
    layer = image(pool)[0]
    assert pool.num_tokens == 32 and pool.update_number == number + 1 and (layer.updates_N == number).sum() == 16
    assert torch.equal(layer.memory_ND[-8:], deltas[1, 0]) and torch.equal(layer.memory_ND[-16:-8], deltas[0, 0])


def test_a_text_that_cannot_be_injected_leaves_the_pool_as_it_was(pool: MemoryPool) -> None:
    before = sha256(pool), pool.update_number
    with pytest.raises(UpdateFailed, match="without tokens"):
        pool.update(torch.empty(0, dtype=torch.long))
    with pytest.raises(UpdateFailed, match="not finite"):
        pool.apply(torch.full((2, 8, 32), torch.nan))
    assert (sha256(pool), pool.update_number) == before


def test_alive_updates_are_those_with_a_token_left(pool: MemoryPool) -> None:
    alive = pool.alive_updates()
    assert alive[-1] == 9 and set(alive) == {number for layer in image(pool) for number in layer.updates_N.tolist()}


# ---------------------------------------------------------------------- versions


def test_read_one_version_an_answer_does_not_see_later_updates(pool: MemoryPool) -> None:
    with pool.read() as view:
        before = logits(view)
        pool.update(text(50))
        assert torch.equal(logits(view), before)
    assert not torch.allclose(answer(pool), before)


def test_unpublished_updates_are_not_seen_and_can_be_taken_back(pool: MemoryPool) -> None:
    before, state, tail = answer(pool), sha256(pool), pool.tail_LKD
    for number in range(3):
        pool.update(text(50 + number), publish=False)
    assert torch.equal(answer(pool), before) and pool.update_number == 13
    pool.rollback()
    assert pool.tail_LKD is not None and tail is not None
    assert sha256(pool) == state and pool.update_number == 10 and torch.equal(pool.tail_LKD, tail) and torch.equal(answer(pool), before)


def test_replay_exact_a_rollback_leaves_no_trace(model: MemoryLLM, pool: MemoryPool) -> None:
    pool.update(text(98), publish=False)
    pool.update(text(99), publish=False)
    pool.rollback()
    pool.update(text(10))
    assert sha256(pool) == sha256(filled(model, 11))


def test_bounded_without_free_slots_there_is_no_update_until_a_reader_lets_go(model: MemoryLLM) -> None:
    pool = filled(model, 5, spare_blocks=2, max_versions=100)
    with pool.read() as view:
        before = logits(view)
        while pool.has_room():
            pool.update(text(50))
        with pytest.raises(UpdateFailed, match="let answers end"):
            pool.update(text(51))
        assert torch.equal(logits(view), before)
    assert pool.has_room()
    pool.update(text(51))


def test_bounded_so_many_versions_are_read_at_once(model: MemoryLLM) -> None:
    pool = filled(model, 5, max_versions=2)
    first = pool.pin()
    pool.update(text(50))
    second, again = pool.pin(), pool.pin()
    pool.update(text(51))
    assert not pool.can_pin()
    with pytest.raises(ValueError, match="2 versions are read"):
        pool.pin()
    pool.unpin(first)
    third = pool.pin()
    for view in (second, again, third):
        pool.unpin(view)
    assert len(pool._versions) == 1


def test_bounded_no_update_makes_the_pool_grow(model: MemoryLLM) -> None:
    pool = filled(model, 2, spare_blocks=2)
    sizes = [tensor.data_ptr() for tensor in (pool._keys_LHRE, pool._values_LHRE, pool._hidden_LCD)]
    for number in range(40):
        pool.update(text(number))
        answer(pool)
    assert [tensor.data_ptr() for tensor in (pool._keys_LHRE, pool._values_LHRE, pool._hidden_LCD)] == sizes
    assert len(pool._versions) == 1 and len(pool._free_buffers) <= 1
    assert (pool._references_LC.sum(axis=1) == 32).all() and pool._references_LC.max() == 1


def test_a_batch_that_cannot_fit_says_what_to_raise(model: MemoryLLM) -> None:
    pool = filled(model, 2, spare_blocks=1)
    with pytest.raises(UpdateFailed, match=r"raise replicas\.spare_blocks"):
        pool.apply(torch.zeros(2, 16, 32))


# ---------------------------------------------------------------------- saving


def test_a_restored_pool_answers_to_the_last_bit_and_goes_on_the_same(model: MemoryLLM, pool: MemoryPool) -> None:
    restored = MemoryPool(model, seed=3)
    restored.load(image(pool), update_number=pool.update_number)
    assert torch.equal(answer(restored), answer(pool))
    for each in (pool, restored):
        each.update(text(50))
    assert sha256(restored) == sha256(pool) and torch.equal(answer(restored), answer(pool))


def test_a_pool_with_fewer_slots_restores_the_same_tokens(model: MemoryLLM, pool: MemoryPool) -> None:
    restored = MemoryPool(model, seed=3, spare_blocks=1)
    restored.load(image(pool), update_number=pool.update_number)
    assert sha256(restored) == sha256(pool)
    torch.testing.assert_close(answer(restored), answer(pool))


def test_tokens_that_came_with_the_checkpoint_are_marked(model: MemoryLLM, pool: MemoryPool) -> None:
    own = [PoolLayer(layer.slots_N, np.full(32, FROM_CHECKPOINT), layer.memory_ND) for layer in image(pool)]
    restored = MemoryPool(model)
    restored.load(own, update_number=0)
    assert restored.update(text(1)) == 0 and restored.alive_updates().tolist() == [FROM_CHECKPOINT, 0]


def test_a_pool_that_somebody_reads_is_not_replaced(pool: MemoryPool) -> None:
    with pool.read(), pytest.raises(ValueError, match="somebody reads"):
        pool.load(image(pool), update_number=0)
