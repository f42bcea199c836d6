"""Files that do not hold the model they say they hold: the error names what is wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from model.checkpoint import fingerprint, load_model, load_pool, save_model
from model.errors import CheckpointError
from model.memory.tokens import MemoryPool
from model.memory_llm import MemoryLLM
from tests.doubles.reference import FIELDS, random_tensors, write_checkpoint
from tests.doubles.texts import text
from tests.doubles.tiny import tiny_checkpoint

Tensors = dict[str, Tensor]
LORA = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]}
NEEDED = (
    "model.layers.1.mlp.up_proj.weight",
    "model.norm.weight",
    "lm_head.weight",
    "bos_embedding",
    "new_memory_positional_emb",
    "initialized",
    "memory",
)
UNKNOWN = ("ltm_keys", "model.layers.3.input_layernorm.weight", "model.layers.0.self_attn.q_proj.lora_A.default.weight")


@pytest.fixture
def tensors() -> Tensors:
    """A published checkpoint with a written pool."""
    memory = torch.randn(3, 32, 32, generator=torch.Generator().manual_seed(0))
    return random_tensors(FIELDS, seed=0) | {"memory": memory, "initialized": torch.ones((), dtype=torch.uint8)}


@pytest.fixture
def refused(tmp_path: Path) -> Callable[..., str]:
    """The one line that loading says of these tensors and changes of the config."""

    def refused(tensors: Tensors, shards: int = 1, **changes: Any) -> str:
        fields = {name: value for name, value in ({**FIELDS, **changes}).items() if value is not ...}
        write_checkpoint(tmp_path, fields, tensors, shards)
        with pytest.raises(CheckpointError) as caught:
            load_model(tmp_path)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    return refused


def without(tensors: Tensors, name: str) -> Tensors:
    return {key: value for key, value in tensors.items() if key != name}


# ---------------------------------------------------------------------- tensors


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("name", NEEDED)
def test_a_missing_tensor_is_named(name: str, shards: int, tensors: Tensors, refused: Callable[..., str]) -> None:
    assert f"tensor {name} is missing" in refused(without(tensors, name), shards)


@pytest.mark.parametrize("name", UNKNOWN)
def test_an_unknown_tensor_is_named(name: str, tensors: Tensors, refused: Callable[..., str]) -> None:
    assert f"tensor {name} is not known" in refused(tensors | {name: torch.zeros(1)})


def test_an_adapter_that_the_config_does_not_speak_of_is_named(tensors: Tensors, refused: Callable[..., str]) -> None:
    adapted = random_tensors({**FIELDS, "lora_config": LORA, "add_decoder_lora": True}, seed=0)
    message = refused(adapted | {"initialized": tensors["initialized"] * 0}, lora_config=LORA)
    assert "q_proj.lora_A.decoder_adapter.weight is not known" in message and "more)" in message


@pytest.mark.parametrize("name", ["model.layers.0.self_attn.k_proj.weight", "memory", "bos_embedding"])
def test_a_tensor_of_another_shape_is_named_with_both_shapes(name: str, tensors: Tensors, refused: Callable[..., str]) -> None:
    message = refused(tensors | {name: tensors[name][:1].clone()})
    assert f"tensor {name} has shape" in message and str(list(tensors[name].shape)) in message


def test_a_pool_of_another_size_is_refused_even_if_it_was_never_written(tensors: Tensors, refused: Callable[..., str]) -> None:
    unwritten = tensors | {"initialized": torch.zeros((), dtype=torch.uint8)}
    assert "tensor memory has shape [3, 32, 32], the config wants [3, 40, 32]" in refused(unwritten, num_blocks=5)


def test_rotary_frequencies_of_old_checkpoints_are_passed_over(tensors: Tensors, tmp_path: Path) -> None:
    write_checkpoint(tmp_path, FIELDS, tensors | {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.zeros(4)})
    assert load_model(tmp_path).num_bos == 1


def test_a_tied_head_may_be_stored_or_not(tensors: Tensors, tmp_path: Path) -> None:
    for name, stored in (("with", tensors), ("without", without(tensors, "lm_head.weight"))):
        write_checkpoint(tmp_path / name, {**FIELDS, "tie_word_embeddings": True}, stored)
        model = load_model(tmp_path / name)
        assert model.reader.lm_head.weight is model.reader.model.embed_tokens.weight


@pytest.mark.parametrize("there", [True, False])
def test_without_its_field_the_tensor_says_whether_there_is_a_bos_embedding(there: bool, tensors: Tensors, tmp_path: Path) -> None:
    fields = {name: value for name, value in FIELDS.items() if name != "add_bos_embedding"}
    write_checkpoint(tmp_path, fields, tensors if there else without(tensors, "bos_embedding"))
    assert load_model(tmp_path).num_bos == int(there)


# ---------------------------------------------------------------------- files


def test_a_file_that_is_cut_off_is_named(tensors: Tensors, tmp_path: Path) -> None:
    write_checkpoint(tmp_path, FIELDS, tensors)
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r"model\.safetensors cannot be read"):
        load_model(tmp_path)


def test_a_shard_that_is_not_there_is_named(tensors: Tensors, tmp_path: Path) -> None:
    write_checkpoint(tmp_path, FIELDS, tensors, shards=3)
    (tmp_path / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model-00002-of-00003\.safetensors, which is missing"):
        load_model(tmp_path)


def test_a_tensor_that_the_index_promises_in_vain_is_named(tensors: Tensors, tmp_path: Path) -> None:
    write_checkpoint(tmp_path, FIELDS, tensors, shards=2)
    index = tmp_path / "model.safetensors.index.json"
    where = json.loads(index.read_text())["weight_map"]["model.norm.weight"]
    save_file(without(load_file(tmp_path / where), "model.norm.weight"), tmp_path / where)
    with pytest.raises(CheckpointError, match=f"tensor model.norm.weight is missing from {where}"):
        load_model(tmp_path)


def test_a_shard_may_not_hold_more_than_the_model(tensors: Tensors, tmp_path: Path) -> None:
    write_checkpoint(tmp_path, FIELDS, tensors, shards=2)
    shard = tmp_path / "model-00001-of-00002.safetensors"
    save_file(load_file(shard) | {"stowaway": torch.zeros(1)}, shard)
    with pytest.raises(CheckpointError, match="tensor stowaway is not known"):
        load_model(tmp_path)


@pytest.mark.parametrize("content", ["{", "[]", '{"weight_map": 3}', "{}"])
def test_a_broken_index_is_named(content: str, tensors: Tensors, tmp_path: Path) -> None:
    write_checkpoint(tmp_path, FIELDS, tensors, shards=2)
    (tmp_path / "model.safetensors.index.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"index\.json is not an index"):
        load_model(tmp_path)


def test_a_folder_without_weights_or_config_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        load_model(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(dict(FIELDS)))
    with pytest.raises(CheckpointError, match=r"no model\.safetensors"):
        load_model(tmp_path)


# ---------------------------------------------------------------------- config


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"architectures": ["LlamaForCausalLM"]}, "names no MemoryLLM"),
        ({"architectures": ["MPlus"]}, "long-term memory"),
        ({"num_ltm_blocks": 10}, "long-term memory"),
        ({"num_blocks": ...}, "num_blocks must be a positive integer"),
        ({"num_tokens": 0}, "num_tokens must be a positive integer"),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "'dynamic' is not supported"),
        ({"rope_scaling": {"type": "linear"}}, "positive factor"),
        ({"lora_config": {"r": 4, "lora_alpha": 8}}, "lora_config has no target_modules"),
        ({"lora_config": {"r": 4, "lora_alpha": 8, "target_modules": "all-linear"}}, "must be a list"),
        ({"hidden_size": "wide"}, "hidden_size"),
    ],
)
def test_a_config_that_cannot_be_is_refused(changes: dict[str, Any], says: str, tensors: Tensors, refused: Callable[..., str]) -> None:
    message = refused(tensors, **changes)
    assert says in message and "config.json" in message


@pytest.mark.parametrize("content", ["{", "[]"])
def test_a_config_that_is_no_json_object_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"config\.json"):
        load_model(tmp_path)


@pytest.mark.parametrize(
    "changes",
    [
        {"rope_scaling": {"type": "linear", "factor": 2}},
        {"rope_scaling": {"rope_type": "linear", "factor": 2.0}},
        {"rope_scaling": ..., "rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}},
        {"interpolate_position_ids": True, "max_position_embeddings": 20},
    ],
)
def test_linear_scaling_is_the_same_in_every_spelling(changes: dict[str, Any], tensors: Tensors, tmp_path: Path) -> None:
    write_checkpoint(tmp_path, {name: value for name, value in ({**FIELDS, **changes}).items() if value is not ...}, tensors)
    assert load_model(tmp_path).config.rope_parameters == {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}


# ---------------------------------------------------------------------- what was saved comes back


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_saved_model_loads_to_the_same_bits(dtype: torch.dtype, folder: Path, tmp_path: Path) -> None:
    model = load_model(folder, dtype=dtype)
    save_model(model, tmp_path)
    again = load_model(tmp_path)
    assert again.dtype == dtype and fingerprint(again) == fingerprint(model)
    assert torch.equal(again.inject(text(1)[None], None), model.inject(text(1)[None], None))


def test_interpolated_positions_survive_saving(tensors: Tensors, tmp_path: Path) -> None:
    fields = {**FIELDS, "interpolate_position_ids": True, "max_position_embeddings": 20, "rope_theta": 500000.0}
    write_checkpoint(tmp_path / "published", fields, tensors)
    model = load_model(tmp_path / "published")
    save_model(model, tmp_path / "saved")
    assert load_model(tmp_path / "saved").config.rope_parameters == model.config.rope_parameters


def test_a_written_pool_is_loaded_and_an_unwritten_one_is_not(model: MemoryLLM, folder: Path, tmp_path: Path) -> None:
    written = tiny_checkpoint(tmp_path, initialized=True)
    full, empty = MemoryPool(load_model(written)), MemoryPool(model)
    load_pool(written, full.model, full)
    load_pool(folder, model, empty)
    memory = load_file(written / "model.safetensors")["memory"]
    assert torch.equal(torch.stack([layer.memory_ND for layer in full.layers(full.published)]), memory)
    assert full.update_number == 0 and empty.num_tokens == 0


def test_the_fingerprint_tells_models_apart_that_compute_differently(tmp_path: Path) -> None:
    first = load_model(tiny_checkpoint(tmp_path / "a"))
    same = load_model(tiny_checkpoint(tmp_path / "b"))
    other = load_model(tiny_checkpoint(tmp_path / "c", seed=1))
    config = tmp_path / "b" / "config.json"
    fields = json.loads(config.read_text())
    config.write_text(json.dumps(fields | {"lora_config": fields["lora_config"] | {"lora_alpha": 9}}))
    assert fingerprint(first) == fingerprint(same) != fingerprint(other)
    assert fingerprint(load_model(tmp_path / "b")) != fingerprint(first)
