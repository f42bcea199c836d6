"""Reading: a question sees the pool in place, and `generate` does not know that it is there."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import GenerationConfig
from transformers.generation.streamers import BaseStreamer

from model.memory.tokens import MemoryPool, PoolView, Rotated, Version
from model.memory_llm import MemoryLLM
from model.reading import prefix_cache
from tests.doubles.texts import text

PROMPT = text(1000, 9)


def logits(view: PoolView, tokens_BT: Tensor, **options: Any) -> Tensor:
    with torch.no_grad():
        found: Tensor = view._pool.model.reader(tokens_BT, past_key_values=view.cache(), **options).logits
    return found


def generated(
    pool: MemoryPool, tokens_BT: Tensor, mask_BT: Tensor | None = None, streamer: BaseStreamer | None = None, **options: Any
) -> Tensor:
    settings = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": 257, "pad_token_id": 257, **options}
    with pool.read() as view:
        found: Tensor = pool.model.reader.generate(  # type: ignore[misc, assignment]
            tokens_BT,
            attention_mask=torch.ones_like(tokens_BT) if mask_BT is None else mask_BT,
            past_key_values=view.cache(),
            streamer=streamer,
            generation_config=GenerationConfig(**settings),
        )
    return found[:, tokens_BT.shape[1] :]


class CopiesOf(TorchDispatchMode):
    """Notes every operation that puts as many rows as the pool has somewhere else than into the pool."""

    def __init__(self, pool: MemoryPool) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.rows, self.width = pool._keys_LHRE.shape[2:]
        self.copies: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor) and not self._is_view(result, args) and {self.rows, self.width} <= set(result.shape[-2:]):
            self.copies.append(str(func))
        return result

    @staticmethod
    def _is_view(result: Tensor, args: Any) -> bool:
        tensors = [each for each in args if isinstance(each, Tensor)]
        return any(each.untyped_storage().data_ptr() == result.untyped_storage().data_ptr() for each in tensors)


# ---------------------------------------------------------------------- no copies


def test_attention_reads_the_pools_own_values(pool: MemoryPool) -> None:
    with pool.read() as view:
        logits(view, PROMPT[None])
        for index in range(2):
            layer = view.layer(index)
            assert layer.values_HCE.data_ptr() == pool._values_LHRE[index].data_ptr()
            assert layer.keys_HCE.data_ptr() == pool.rotated(view.version).keys_LHRE[index].data_ptr()


def test_keys_are_rotated_once_for_all_questions_of_a_version(pool: MemoryPool, monkeypatch: pytest.MonkeyPatch) -> None:
    rotations: list[int] = []
    rotate = pool._rotate

    def counted(version: Version, buffer: Rotated) -> Rotated:
        rotations.append(version.number)
        return rotate(version, buffer)

    monkeypatch.setattr(pool, "_rotate", counted)
    for _ in range(3):
        generated(pool, PROMPT[None])
    assert len(rotations) == 1


def test_no_question_and_no_token_copies_a_row_of_the_pool(pool: MemoryPool) -> None:
    generated(pool, PROMPT[None])  # rotates
    with CopiesOf(pool) as watch:
        generated(pool, torch.stack([PROMPT, PROMPT, PROMPT]))
    assert watch.copies == []


def test_what_watches_for_copies_sees_one(pool: MemoryPool) -> None:
    with CopiesOf(pool) as watch:
        pool._values_LHRE[0].clone()
    assert len(watch.copies) == 1


def test_an_update_projects_its_k_tokens_and_a_question_none(pool: MemoryPool, monkeypatch: pytest.MonkeyPatch) -> None:
    projected: list[int] = []
    project = pool.model.project

    def counted(index: int, states_MD: Tensor) -> tuple[Tensor, Tensor]:
        projected.append(len(states_MD))
        return project(index, states_MD)

    monkeypatch.setattr(pool.model, "project", counted)
    for length in (8, 3, 20):
        pool.update(text(length, length))
    assert projected == [8, 8] * 3
    generated(pool, PROMPT[None])
    assert len(projected) == 6


# ---------------------------------------------------------------------- batches, pieces, padding


def test_a_batch_shares_one_prefix_and_gives_each_row_its_own_answer(pool: MemoryPool) -> None:
    prompts = torch.stack([text(seed, 9) for seed in range(4)])
    with pool.read() as view:
        together = logits(view, prompts)
        alone = torch.cat([logits(view, prompt[None]) for prompt in prompts])
    torch.testing.assert_close(together, alone)


def test_a_left_padded_batch_answers_as_each_prompt_alone(pool: MemoryPool) -> None:
    prompts = [text(1, 4), text(2, 9), text(3, 6)]
    padded = torch.stack([torch.cat((torch.full((9 - len(prompt),), 257), prompt)) for prompt in prompts])
    mask = torch.stack([torch.arange(9) >= 9 - len(prompt) for prompt in prompts]).long()
    together = generated(pool, padded, mask, eos_token_id=None)
    assert torch.equal(together, torch.cat([generated(pool, prompt[None], eos_token_id=None) for prompt in prompts]))


def test_a_long_prompt_taken_in_pieces_equals_the_whole(pool: MemoryPool, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = torch.stack([text(1, 70), text(2, 70)])
    with pool.read() as view:
        whole = logits(view, prompts)
        monkeypatch.setattr(prefix_cache, "MAX_SCORE_ELEMENTS", 20_000)
        torch.testing.assert_close(logits(view, prompts), whole)
        monkeypatch.setattr(prefix_cache, "MAX_SCORE_ELEMENTS", 1)
        torch.testing.assert_close(logits(view, prompts), whole)


def test_a_prompt_in_two_passes_through_one_cache_equals_the_whole(pool: MemoryPool) -> None:
    tokens = text(4, 300)[None]
    with pool.read() as view, torch.no_grad():
        whole, cache = logits(view, tokens), view.cache()
        parts = [pool.model.reader(tokens[:, first:end], past_key_values=cache).logits for first, end in ((0, 7), (7, 150), (150, 300))]
    torch.testing.assert_close(torch.cat(parts, dim=1), whole)


def test_decoding_token_by_token_equals_one_pass(pool: MemoryPool) -> None:
    new = generated(pool, PROMPT[None], max_new_tokens=12, eos_token_id=None)
    with pool.read() as view:
        likeliest = logits(view, torch.cat((PROMPT[None], new), dim=1)).argmax(-1)
    assert torch.equal(likeliest[:, len(PROMPT) - 1 : -1], new)


def test_a_pool_that_was_never_written_answers_like_the_bare_model(model: MemoryLLM) -> None:
    with MemoryPool(model).read() as view, torch.no_grad():
        torch.testing.assert_close(logits(view, PROMPT[None]), model.reader(PROMPT[None]).logits)


def test_memory_changes_the_answer(pool: MemoryPool) -> None:
    with pool.read() as view, torch.no_grad():
        assert not torch.allclose(logits(view, PROMPT[None]), pool.model.reader(PROMPT[None]).logits, atol=1e-2)


# ---------------------------------------------------------------------- generate


def test_beam_search_finds_what_scoring_every_answer_finds(pool: MemoryPool) -> None:
    """With as many beams as there are tokens, beams of two tokens are the likeliest two of all."""
    found = generated(pool, PROMPT[None], num_beams=258, max_new_tokens=2, eos_token_id=None)
    with pool.read() as view:
        first = logits(view, PROMPT[None])[0, -1].log_softmax(-1)
        every = torch.stack([torch.cat((PROMPT, token[None])) for token in torch.arange(258)])
        second = logits(view, every)[:, -1].log_softmax(-1)
    best = (first[:, None] + second).flatten().argmax()
    assert found[0].tolist() == [int(best) // 258, int(best) % 258]


def test_sampling_repeats_with_its_seed(pool: MemoryPool) -> None:
    def sample(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return generated(pool, PROMPT[None], do_sample=True, temperature=2.0, num_return_sequences=3, eos_token_id=None)

    assert torch.equal(sample(1), sample(1)) and not torch.equal(sample(1), sample(2))
    assert len({tuple(row) for row in sample(1).tolist()}) == 3


def test_streaming_hands_out_each_token_as_it_comes(pool: MemoryPool) -> None:
    class Heard(BaseStreamer):
        def __init__(self) -> None:
            self.tokens: list[int] = []
            self.ended = False

        def put(self, value: Tensor) -> None:
            self.tokens += value.flatten().tolist()

        def end(self) -> None:
            self.ended = True

    heard = Heard()
    found = generated(pool, PROMPT[None], streamer=heard)
    assert heard.ended and heard.tokens == [*PROMPT.tolist(), *found[0].tolist()]


def test_generation_stops_at_the_end_token(pool: MemoryPool) -> None:
    free = generated(pool, PROMPT[None], eos_token_id=None)[0].tolist()
    stopped = generated(pool, PROMPT[None], eos_token_id=free[2])[0].tolist()
    assert stopped == free[: free.index(free[2]) + 1]
