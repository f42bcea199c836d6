"""MemoryLLM once more: slow, in float64, straight from the paper, and with no line in common with `model`.

It writes checkpoints in the published layout and recordings of what it computes on them, so that `model.parity` can be tried on every
kind of checkpoint. Layers are loops, nothing is cached, the pool is one tensor.

    L  layers     N  memory tokens a layer     K  tokens of one update     D  width     T  text tokens     R  rows of a layer's input
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
MLP = ("gate_proj", "up_proj", "down_proj")
TEXT_LENGTHS = (0, 5, 17, -3, None, 8)
"""The lengths of the recorded updates, as K + this; None stands for a single token."""

FIELDS: Mapping[str, Any] = {
    "architectures": ["MemoryLLM"],
    "model_type": "memoryllm",
    "vocab_size": 61,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "rope_scaling": None,
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": None,
    "num_tokens": 8,
    "num_blocks": 4,
    "num_memory_tokens": 32,
    "add_bos_embedding": True,
    "drop_memory_per_layer": False,
    "add_decoder_lora": False,
    "lora_config": None,
}


class SlowMemoryLLM:
    """The algorithm over a dictionary of published tensors.

    Args:
        fields: config.json; where `add_bos_embedding` is absent, the tensor says whether there is one.
        tensors: by published name; computed with in float64.
    """

    def __init__(self, fields: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        self.fields = fields
        self.tensors = {name: tensor.double() for name, tensor in tensors.items()}
        self.memory: Tensor | None = None
        self.has_bos = "bos_embedding" in tensors
        self.injecting = "default"
        self.answering = "decoder_adapter" if fields.get("add_decoder_lora") else "default"

    def inject(self, tokens: list[int]) -> Tensor:
        """Delta [L, K, D]; of a first update shorter than K only [L, T, D]."""
        K, mark = self.fields["num_tokens"], self.tensors["new_memory_positional_emb"][0]
        text = self.tensors["model.embed_tokens.weight"][tokens]
        delta: list[Tensor] = []
        for layer in range(self.fields["num_hidden_layers"]):
            rows = text if self.memory is None else torch.cat([*self._bos(layer), self.memory[layer, -K:], text])
            rows = torch.cat([rows[:-K], rows[-K:] + mark])
            if self.memory is None and delta:
                delta[-1] = delta[-1] + mark  # the first update marks its rows in place, and these were handed out already
            asked = len(rows) if self.memory is None else max(len(tokens), K)
            output = self._layer(layer, rows, len(rows) - asked, self.injecting)
            delta.append(output[-K:])
            text = output[-len(tokens) :]
        return torch.stack(delta)

    def fill(self, delta: Tensor) -> None:
        """The first update: end to end until the pool is full, the remainder filled with its tail."""
        N = self.fields["num_blocks"] * self.fields["num_tokens"]
        tokens = [delta] * (N // delta.shape[1])
        rest = N % delta.shape[1]
        self.memory = torch.cat([*tokens, delta[:, delta.shape[1] - rest :]], dim=1)

    def apply(self, delta: Tensor, kept: Tensor) -> None:
        """Drop and append: `kept` holds the surviving positions, ascending, in one row or one a layer."""
        assert self.memory is not None
        rows = kept if kept.ndim == 2 else kept.expand(len(delta), -1)
        self.memory = torch.stack([torch.cat([old[row], new]) for old, row, new in zip(self.memory, rows, delta, strict=True)])

    def query(self, tokens: list[int]) -> Tensor:
        """Logits [T, vocabulary]."""
        text = self.tensors["model.embed_tokens.weight"][tokens]
        for layer in range(self.fields["num_hidden_layers"]):
            prefix = [] if self.memory is None else [*self._bos(layer), self.memory[layer]]
            rows = torch.cat([*prefix, text])
            text = self._layer(layer, rows, len(rows) - len(tokens), self.answering)
        head = self.tensors.get("lm_head.weight", self.tensors["model.embed_tokens.weight"])
        return self._norm("model.norm", text) @ head.T

    def greedy(self, tokens: list[int], count: int) -> list[int]:
        """The tokens and the `count` likeliest ones after them, stopping behind the end token."""
        while count > 0:
            tokens = [*tokens, int(self.query(tokens)[-1].argmax())]
            count = 0 if tokens[-1] == self.fields["eos_token_id"] else count - 1
        return tokens

    def _bos(self, layer: int) -> list[Tensor]:
        return [self.tensors["bos_embedding"][layer]] if self.has_bos else []

    def _layer(self, layer: int, rows: Tensor, first: int, adapter: str) -> Tensor:
        """The layer's output for the rows from `first` on; all rows are keys."""
        name = f"model.layers.{layer}"
        normed = self._norm(f"{name}.input_layernorm", rows)
        queries = self._heads(f"{name}.self_attn.q_proj", normed, adapter, rotate=True)
        keys = self._heads(f"{name}.self_attn.k_proj", normed, adapter, rotate=True)
        values = self._heads(f"{name}.self_attn.v_proj", normed, adapter, rotate=False)
        shared = self.fields["num_attention_heads"] // self.fields["num_key_value_heads"]
        mixed = [_attend(query, keys[head // shared], values[head // shared]) for head, query in enumerate(queries)]
        states = rows + self._linear(f"{name}.self_attn.o_proj", torch.cat(mixed, dim=1), adapter)
        normed = self._norm(f"{name}.post_attention_layernorm", states)
        gate, up = (self._linear(f"{name}.mlp.{part}_proj", normed, adapter) for part in ("gate", "up"))
        return (states + self._linear(f"{name}.mlp.down_proj", gate * torch.sigmoid(gate) * up, adapter))[first:]

    def _heads(self, name: str, rows: Tensor, adapter: str, rotate: bool) -> list[Tensor]:
        width = self.fields["hidden_size"] // self.fields["num_attention_heads"]
        heads = self._linear(name, rows, adapter).split(width, dim=1)
        return [self._rotated(head) for head in heads] if rotate else list(heads)

    def _rotated(self, rows: Tensor) -> Tensor:
        half = rows.shape[1] // 2
        angles = torch.tensor(
            [[row / self._squeezed() / self.fields["rope_theta"] ** (pair / half) for pair in range(half)] for row in range(len(rows))],
            dtype=torch.float64,
        )
        first, second = rows[:, :half], rows[:, half:]
        cos, sin = angles.cos(), angles.sin()
        return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=1)

    def _squeezed(self) -> float:
        """How many positions stand where the base model has one."""
        if self.fields.get("rope_scaling"):
            return float(self.fields["rope_scaling"]["factor"])
        if self.fields.get("interpolate_position_ids"):
            positions = (self.fields["num_blocks"] + 1) * self.fields["num_tokens"]
            return max(1.0, float(positions) / float(self.fields["max_position_embeddings"]))
        return 1.0

    def _linear(self, name: str, rows: Tensor, adapter: str) -> Tensor:
        base = f"{name}.base_layer" if f"{name}.base_layer.weight" in self.tensors else name
        result: Tensor = rows @ self.tensors[f"{base}.weight"].T
        if f"{base}.bias" in self.tensors:
            result = result + self.tensors[f"{base}.bias"]
        if base != name:
            down, up = (self.tensors[f"{name}.lora_{part}.{adapter}.weight"] for part in "AB")
            lora = self.fields["lora_config"]
            result = result + float(lora["lora_alpha"] / lora["r"]) * (rows @ down.T @ up.T)
        return result

    def _norm(self, name: str, rows: Tensor) -> Tensor:
        scale = (rows.square().mean(dim=1, keepdim=True) + float(self.fields["rms_norm_eps"])).sqrt()
        return rows / scale * self.tensors[f"{name}.weight"]


def _attend(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    scores = queries @ keys.T / math.sqrt(keys.shape[1])
    later = torch.ones_like(scores, dtype=torch.bool).triu(1)
    return scores.masked_fill(later, -torch.inf).softmax(dim=1) @ values


def random_tensors(fields: Mapping[str, Any], seed: int) -> dict[str, Tensor]:
    """Random weights under published names, float32, without `memory` and `initialized`."""
    draw = torch.Generator().manual_seed(seed)
    lora = fields.get("lora_config") or {"target_modules": ()}
    adapters = ("default", "decoder_adapter") if fields.get("add_decoder_lora") else ("default",)
    tensors: dict[str, Tensor] = {}
    for name, shape in _shapes(fields).items():
        projection = name.rpartition(".")[2]
        adapted = projection in lora["target_modules"]
        base = f"{name}.base_layer" if adapted else name
        tensors[f"{base}.weight"] = torch.randn(shape, generator=draw) * (0.8 / math.sqrt(shape[-1]))
        if (fields.get("attention_bias") and projection in ATTENTION) or (fields.get("mlp_bias") and projection in MLP):
            tensors[f"{base}.bias"] = 0.3 * torch.randn(shape[0], generator=draw)
        for adapter in adapters if adapted else ():
            tensors[f"{name}.lora_A.{adapter}.weight"] = torch.randn(lora["r"], shape[1], generator=draw) / math.sqrt(shape[1])
            tensors[f"{name}.lora_B.{adapter}.weight"] = torch.randn(shape[0], lora["r"], generator=draw) / (2 * lora["r"])
    D, L = fields["hidden_size"], fields["num_hidden_layers"]
    for name in ("model.norm", *(f"model.layers.{i}.{part}_layernorm" for i in range(L) for part in ("input", "post_attention"))):
        tensors[f"{name}.weight"] = 1 + 0.1 * torch.randn(D, generator=draw)
    tensors["new_memory_positional_emb"] = 0.3 * torch.randn(1, 1, D, generator=draw)
    if fields.get("add_bos_embedding", True):
        tensors["bos_embedding"] = torch.randn(L, 1, D, generator=draw)
    return tensors


def _shapes(fields: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
    D, inner, head = fields["hidden_size"], fields["intermediate_size"], fields["hidden_size"] // fields["num_attention_heads"]
    small = head * fields["num_key_value_heads"]
    shapes = {"model.embed_tokens": (fields["vocab_size"], D)}
    if not fields["tie_word_embeddings"]:
        shapes["lm_head"] = (fields["vocab_size"], D)
    for layer in range(fields["num_hidden_layers"]):
        name = f"model.layers.{layer}"
        shapes |= {f"{name}.self_attn.{part}": (small if part in ("k_proj", "v_proj") else D, D) for part in ATTENTION}
        shapes |= {f"{name}.mlp.gate_proj": (inner, D), f"{name}.mlp.up_proj": (inner, D), f"{name}.mlp.down_proj": (D, inner)}
    return shapes


def record(
    folder: Path, *, first_update: int = 19, seed: int = 0, shards: int = 1, dtype: torch.dtype = torch.float32, **changes: Any
) -> Path:
    """Write `checkpoint/` and `expected.safetensors` of one kind of checkpoint into `folder`.

    Args:
        folder: made if it is not there.
        first_update: tokens of the first update.
        seed: of weights, texts and draws.
        shards: files of the checkpoint.
        dtype: of the checkpoint.
        changes: fields of config.json beside or instead of `FIELDS`; `...` takes a field away.
    """
    fields = {name: value for name, value in ({**FIELDS, **changes}).items() if value is not ...}
    tensors = {name: tensor.to(dtype) for name, tensor in random_tensors(fields, seed).items()}
    model, script = SlowMemoryLLM(fields, tensors), _Script(fields, seed)
    expected = script.fresh(model, first_update)
    assert model.memory is not None
    tensors["memory"] = model.memory.to(dtype)
    model.memory = tensors["memory"].double()
    tensors["initialized"] = torch.ones((), dtype=torch.uint8)
    expected |= script.written(model)
    write_checkpoint(folder / "checkpoint", fields, tensors, shards)
    save_file({name: tensor.contiguous() for name, tensor in expected.items()}, folder / "expected.safetensors")
    return folder


def write_checkpoint(folder: Path, fields: Mapping[str, Any], tensors: Mapping[str, Tensor], shards: int = 1) -> None:
    """config.json and safetensors, one file or `shards` of them with their index."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(dict(fields), indent=2))
    if shards == 1:
        save_file(dict(tensors), folder / "model.safetensors", metadata={"format": "pt"})
        return
    names = sorted(tensors)
    where = {name: f"model-{number % shards + 1:05}-of-{shards:05}.safetensors" for number, name in enumerate(names)}
    for file in sorted(set(where.values())):
        save_file({name: tensors[name] for name in names if where[name] == file}, folder / file, metadata={"format": "pt"})
    index = {"metadata": {"total_size": 0}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


class _Script:
    """What is done to a model, and what of it is written down."""

    def __init__(self, fields: Mapping[str, Any], seed: int) -> None:
        self.fields = fields
        self.K, self.N = fields["num_tokens"], fields["num_blocks"] * fields["num_tokens"]
        self.draw = torch.Generator().manual_seed(seed + 1)

    def text(self, length: int) -> list[int]:
        return [int(token) for token in torch.randint(3, self.fields["vocab_size"], (length,), generator=self.draw)]

    def kept(self, dropped: int) -> Tensor:
        layers = self.fields["num_hidden_layers"] if self.fields.get("drop_memory_per_layer") else 1
        rows = torch.stack([torch.randperm(self.N, generator=self.draw)[dropped:].sort().values for _ in range(layers)])
        return rows if self.fields.get("drop_memory_per_layer") else rows[0]

    def fresh(self, model: SlowMemoryLLM, length: int) -> dict[str, Tensor]:
        question, text = self.text(11), self.text(length)
        logits, delta = model.query(question), model.inject(text)
        model.fill(delta)
        assert model.memory is not None
        return {
            **_recorded("fresh_query", question, logits=logits[None]),
            **_recorded("first_update", text, delta=delta[None], pool=model.memory),
        }

    def written(self, model: SlowMemoryLLM) -> dict[str, Tensor]:
        expected: dict[str, Tensor] = {}
        for number, more in enumerate(TEXT_LENGTHS):
            text, kept, question = self.text(1 if more is None else self.K + more), self.kept(self.K), self.text(7 + number)
            delta = model.inject(text)
            model.apply(delta, kept)
            assert model.memory is not None
            expected |= _recorded(f"update_{number}", text, delta=delta[None], kept=kept, pool=model.memory)
            expected |= _recorded(f"query_{number}", question, logits=model.query(question)[None])
        return expected | self.batched(model)

    def batched(self, model: SlowMemoryLLM) -> dict[str, Tensor]:
        texts, questions, kept, prompt = [self.text(12), self.text(12)], [self.text(9), self.text(9)], self.kept(2 * self.K), self.text(6)
        deltas = [model.inject(text) for text in texts]
        together = torch.cat(deltas, dim=1)
        model.apply(together, kept)
        assert model.memory is not None
        return {
            **_recorded("batch_inject", *texts, delta=torch.stack(deltas)),
            "multi_update.delta": together.float(),
            "multi_update.kept": kept,
            "multi_update.pool": model.memory.float(),
            **_recorded("batch_query", *questions, logits=torch.stack([model.query(question) for question in questions])),
            **_recorded("greedy", prompt, output_ids=torch.tensor([model.greedy(prompt, 12)])),
        }


def _recorded(step: str, *tokens: list[int], **results: Tensor) -> dict[str, Tensor]:
    floats = {name: value.float() if value.is_floating_point() else value for name, value in results.items()}
    return {f"{step}.input_ids": torch.tensor(tokens), **{f"{step}.{name}": value for name, value in floats.items()}}
