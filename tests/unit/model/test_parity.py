"""The model computes what an independent, slow implementation computes, on every kind of checkpoint; and parity notices when not."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from model.errors import CheckpointError
from model.parity import FILE, Parity, check
from tests.doubles.reference import ATTENTION, MLP, record

PUBLISHED = ("q_proj", "k_proj", "v_proj", "up_proj", "down_proj", "gate_proj")


def lora(*targets: str, r: int = 4, alpha: int = 8) -> dict[str, Any]:
    return {"inference_mode": False, "lora_alpha": alpha, "lora_dropout": 0.1, "r": r, "target_modules": list(targets)}


KINDS: dict[str, dict[str, Any]] = {
    "no adapters": {},
    "sharded": {"shards": 3},
    "one adapter": {"lora_config": lora(*PUBLISHED)},
    "two adapters, a draw per layer": {"lora_config": lora(*PUBLISHED), "add_decoder_lora": True, "drop_memory_per_layer": True},
    "adapters on q and v alone": {"lora_config": lora("q_proj", "v_proj"), "add_decoder_lora": True},
    "adapters on o, biases below": {"lora_config": lora(*ATTENTION), "add_decoder_lora": True, "attention_bias": True},
    "one adapter on the MLP": {"lora_config": lora(*MLP, r=3, alpha=32), "mlp_bias": True},
    "adapters everywhere": {"lora_config": lora(*ATTENTION, *MLP, r=2), "add_decoder_lora": True},
    "linear scaling by type": {"rope_scaling": {"type": "linear", "factor": 1.8125}, "rope_theta": 500000.0},
    "linear scaling by rope_type": {"rope_scaling": {"rope_type": "linear", "factor": 2.5}},
    "7B": {
        "interpolate_position_ids": True,
        "max_position_embeddings": 16,
        "num_key_value_heads": 4,
        **dict.fromkeys(("num_memory_tokens", "drop_memory_per_layer", "add_decoder_lora", "lora_config"), ...),
    },
    "interpolated, but the window is wide enough": {"interpolate_position_ids": True, "max_position_embeddings": 64},
    "interpolated, with a scaling of its own": {
        "interpolate_position_ids": True,
        "max_position_embeddings": 16,
        "rope_scaling": {"type": "linear", "factor": 1.5},
    },
    "no BOS embedding": {"add_bos_embedding": False},
    "BOS embedding without its field": {"add_bos_embedding": ...},
    "tied head": {"tie_word_embeddings": True},
    "biases": {"attention_bias": True, "mlp_bias": True},
    "first update shorter than K": {"first_update": 5},
    "first update of one token": {"first_update": 1},
    "first update of K tokens": {"first_update": 8},
    "bfloat16 files": {"dtype": torch.bfloat16},
    "every head its own keys": {"num_key_value_heads": 4},
    "one head of keys": {"num_key_value_heads": 1},
    "model_type llama": {"model_type": "llama"},
    "no cache by default": {"use_cache": False},
    "a memory size left at its default": {"num_memory_tokens": 12800},
    "two blocks": {"num_blocks": 2},
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_checkpoint_computes_what_the_slow_implementation_computes(kind: str, tmp_path: Path) -> None:
    found = check(record(tmp_path, **KINDS[kind]), dtype=torch.float32)
    assert len(found.rel_error) == 25 and max(found.rel_error.values()) < 2e-5 and found.greedy_equal
    assert found.ok(1e-4)


def test_the_authors_own_recordings_are_reproduced() -> None:
    """MEMSTREAM_REFERENCE: a folder of recordings by the authors' implementation."""
    named = os.environ.get("MEMSTREAM_REFERENCE")
    folders = sorted(path.parent for path in Path(named).glob(f"*/{FILE}")) if named else []
    if not folders:
        pytest.skip("no recordings of the authors' implementation are here; MEMSTREAM_REFERENCE names their folder")
    for folder in folders:
        found = check(folder, dtype=torch.float32)
        assert found.ok(1e-5), (folder.name, found)


# ---------------------------------------------------------------------- end of an answer


@pytest.mark.parametrize("written", ["padded", "without the prompt"])
def test_a_greedy_answer_that_ends_early_is_equal(written: str, tmp_path: Path) -> None:
    free = load_file(record(tmp_path / "free") / FILE)["greedy.output_ids"][0].tolist()
    end = free[9]
    # The prompt is six tokens long; one that holds the end token does not end anything.
    folder = record(tmp_path / "ends", eos_token_id=end)
    recorded = load_file(folder / FILE)["greedy.output_ids"]
    assert recorded.shape[1] == 6 + free[6:].index(end) + 1 and check(folder).greedy_equal
    padded, generated = torch.nn.functional.pad(recorded, (0, 3)), recorded[:, 6:]
    rewrite(folder, {"greedy.output_ids": padded if written == "padded" else generated})
    assert check(folder).greedy_equal


# ---------------------------------------------------------------------- what is noticed


def rewrite(folder: Path, changes: dict[str, Tensor | None]) -> None:
    """Replace recorded tensors, or take them away."""
    tensors = load_file(folder / FILE) | {name: value for name, value in changes.items() if value is not None}
    save_file({name: value.contiguous() for name, value in tensors.items() if changes.get(name, value) is not None}, folder / FILE)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    return load_file(record(tmp_path_factory.mktemp("recorded")) / FILE)


@pytest.fixture
def checked(tmp_path: Path) -> Callable[..., Parity]:
    def checked(changes: dict[str, Tensor | None]) -> Parity:
        folder = record(tmp_path)
        rewrite(folder, changes)
        return check(folder)

    return checked


@pytest.mark.parametrize("name", ["fresh_query.logits", "first_update.pool", "update_3.delta", "query_5.logits", "multi_update.pool"])
def test_a_tensor_that_is_slightly_off_is_noticed(name: str, recorded: dict[str, Tensor], checked: Callable[..., Parity]) -> None:
    found = checked({name: recorded[name] * 1.001})
    assert not found.ok(1e-4) and 5e-4 < found.rel_error[name] < 2e-3
    assert all(error < 1e-4 for other, error in found.rel_error.items() if other != name)


def test_other_greedy_tokens_are_noticed(recorded: dict[str, Tensor], checked: Callable[..., Parity]) -> None:
    tokens = recorded["greedy.output_ids"].clone()
    tokens[0, -1] = (tokens[0, -1] + 1) % 61
    found = checked({"greedy.output_ids": tokens})
    assert found.greedy_equal is False and not found.ok(1e-4)


def test_what_is_not_finite_or_of_another_shape_is_never_equal(recorded: dict[str, Tensor], checked: Callable[..., Parity]) -> None:
    nan = torch.full_like(recorded["query_0.logits"], torch.nan)
    found = checked({"query_0.logits": nan, "query_1.logits": recorded["query_1.logits"][:, :-1]})
    assert not found.rel_error["query_0.logits"] <= 1e9 and found.rel_error["query_1.logits"] == float("inf") and not found.ok(1e9)


# ---------------------------------------------------------------------- what a recording lacks


def test_what_a_recording_lacks_is_not_compared(recorded: dict[str, Tensor], checked: Callable[..., Parity]) -> None:
    kept = ("update_0", "update_1", "query_1")
    found = checked({name: None for name in recorded if name.split(".")[0] not in kept})
    assert sorted(found.rel_error) == ["query_1.logits", "update_0.delta", "update_0.pool", "update_1.delta", "update_1.pool"]
    assert found.greedy_equal is None and found.ok(1e-4)


def test_a_recording_may_hold_deltas_without_pools(recorded: dict[str, Tensor], checked: Callable[..., Parity]) -> None:
    found = checked({name: None for name in recorded if name.endswith((".pool", ".output_ids"))})
    assert found.ok(1e-4) and not any(name.endswith(".pool") for name in found.rel_error)


def test_several_deltas_are_applied_even_where_their_texts_were_not_recorded(checked: Callable[..., Parity]) -> None:
    found = checked({"batch_inject.input_ids": None, "batch_inject.delta": None, "multi_update.delta": None, "multi_update.pool": None})
    assert found.rel_error["query_5.logits"] < 1e-4 < found.rel_error["batch_query.logits"]


def test_an_empty_recording_is_not_ok() -> None:
    assert not Parity(rel_error={}, greedy_equal=None).ok(1.0) and Parity(rel_error={}, greedy_equal=True).ok(1.0)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"update_2.input_ids": None}, "tensor update_2.delta cannot be compared"),
        ({"update_2.kept": None}, "tensor update_2.kept is missing"),
        ({"update_2.kept": torch.arange(23)}, "tensor update_2.kept does not say which 24 of 32"),
        ({"update_2.kept": torch.arange(24) + 9}, "tensor update_2.kept does not say which"),
        ({"query_0.input_ids": torch.tensor([[61]])}, "tensor query_0.input_ids is no rows of tokens from a vocabulary of 61"),
        ({"query_0.input_ids": torch.empty(1, 0, dtype=torch.long)}, "tensor query_0.input_ids"),
        ({"surprise": torch.zeros(1)}, "tensor surprise is not one that parity knows"),
        ({"greedy.input_ids": None}, "tensor greedy.output_ids cannot be compared"),
    ],
)
def test_a_recording_that_cannot_be_replayed_says_which_tensor(
    changes: dict[str, Tensor | None], says: str, checked: Callable[..., Parity]
) -> None:
    with pytest.raises(CheckpointError, match=says):
        checked(changes)


def test_a_recording_on_a_checkpoint_that_was_never_written_goes_on_from_its_first_update(tmp_path: Path) -> None:
    folder = record(tmp_path)
    file = folder / "checkpoint" / "model.safetensors"
    save_file(load_file(file) | {"initialized": torch.zeros((), dtype=torch.uint8)}, file)
    assert check(folder).ok(1e-4)


def test_a_folder_without_a_recording_or_with_a_broken_one_says_so(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no expected\.safetensors"):
        check(tmp_path)
    (tmp_path / FILE).write_bytes(b"no tensors")
    with pytest.raises(CheckpointError, match="cannot be read"):
        check(tmp_path)
