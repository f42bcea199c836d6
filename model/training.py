"""The arithmetic of teaching a model to write and read its memory.

    L  layers     K  tokens of one update     D  width     n  tokens of the pool     T  text tokens

Two stages (see `docs/training.md` for why):

1. *stabilise*: the injection adapter alone learns that a chunk injected after any chain of others gives the states which the base
   model gives for the chunk alone. Without it, chains of updates collapse after some eight steps.
2. *read*: both adapters together. A few chunks are injected with gradients into a pool made of older deltas, aged as a real pool
   ages; the loss is the answers to questions about documents of all ages, reciting remembered chunks, and stage 1's as a tether.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AttentionInterface

from model.memory_llm import AdaptedLinear, MemoryLLM, layer_forward, rotate, shared_copy
from model.prefix_cache import PrefixLayer

TRAINING_ATTENTION = "memory_training"


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesson:
    """One document as tokens: what is injected, what is asked, and how it is recited.

    `questions` are (prompt, answer) pairs; `recital` is one more, whose answer is the chunk's own text.
    """

    kind: str
    chunk: tuple[int, ...]
    questions: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]
    recital: tuple[tuple[int, ...], tuple[int, ...]]


@dataclass(slots=True, eq=False)
class Remembered:
    """A lesson and the memory tokens written for it."""

    lesson: Lesson
    delta_LKD: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingConfig:
    """What the arithmetic depends on. Rates are AdamW's."""

    new_chunks: int = 4
    questions: int = 16
    recitals: int = 3
    bank: int = 160
    rate_read: float = 6e-4
    rate_write: float = 2e-4
    rate_rows: float = 2e-5
    warmup_steps: int = 20
    stabilise_batch: int = 6
    grow_steps: int = 150
    mean_age: float = 6.0
    small_pools: float = 0.2
    recite_weight: float = 0.4
    tether_weight: float = 1.0
    clip: float = 1.0


@dataclass(slots=True)
class Losses:
    """Means of one step. `right`: the share of questions answered exactly; `right_newest`: of those about the newest document."""

    answer: float = 0.0
    recite: float = 0.0
    tether: float = 0.0
    right: float = 0.0
    right_newest: float = 0.0
    tokens: int = 0


class PrefixTensors:
    """A pool held as plain tensors, so that gradients flow through it: the training's stand-in for `PoolView`."""

    def __init__(self, model: MemoryLLM, memory: Sequence[Tensor]) -> None:
        bos = model.num_bos
        self.length = bos + memory[0].shape[0]
        cos, sin = model.rotary(torch.arange(self.length, device=memory[0].device))
        self._layers = []
        for index, states_nD in enumerate(memory):
            rows = states_nD if model.bos_embedding is None else torch.cat((model.bos_embedding[index], states_nD))
            keys, values = model.project(index, rows)
            self._layers.append(PrefixLayer(rotate(keys, cos, sin), values, None))

    def layer(self, index: int) -> PrefixLayer:
        return self._layers[index]


def training_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor,
    scaling: float,
    memory_prefix: PrefixTensors,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """`prefix_attention` for one row of R tokens, with gradients: prefix and tail side by side, no scores kept for the backward pass."""
    prefix = memory_prefix.layer(module.layer_idx)  # type: ignore[arg-type]
    keys, values = torch.cat((prefix.keys_HCE[None], key), dim=2), torch.cat((prefix.values_HCE[None], value), dim=2)
    mask = functional.pad(attention_mask, (prefix.keys_HCE.shape[1], 0))
    mixed = functional.scaled_dot_product_attention(query, keys, values, attn_mask=mask, scale=scaling, enable_gqa=True)
    return mixed.transpose(1, 2), None


AttentionInterface.register(TRAINING_ATTENTION, training_attention)


class Trainer:
    """Holds the model, the bank of older deltas and the optimizer; `stabilise` and `read` are one step each."""

    def __init__(self, model: MemoryLLM, config: TrainingConfig, seed: int, total_steps: int) -> None:
        self.model, self.config, self.total_steps = model, config, total_steps
        self.rng = random.Random(seed)
        self.bank: deque[Remembered] = deque(maxlen=config.bank)
        self.teacher = base_layers(model)
        model.config._attn_implementation = TRAINING_ATTENTION
        groups: dict[str, list[nn.Parameter]] = {"read": [], "write": [], "rows": []}
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                role = "rows" if "lora_" not in name else "write" if name.startswith("writer") else "read"
                groups[role].append(parameter)
        rates = {"read": config.rate_read, "write": config.rate_write, "rows": config.rate_rows}
        self.optimizer = torch.optim.AdamW(
            [{"params": parameters, "lr": rates[role], "rate": rates[role], "role": role} for role, parameters in groups.items()],
            weight_decay=0.0,
            betas=(0.9, 0.98),
        )

    # ------------------------------------------------------------------ steps

    def stabilise(self, lessons: Sequence[Lesson], step: int, steps: int) -> Losses:
        """One step of stage 1."""
        total = torch.zeros((), device=self.model.device)
        for lesson in lessons:
            tail = self._tail()
            delta = self._write(lesson, tail)
            loss = self._distance(delta, lesson, tail) / len(lessons)
            loss.backward()
            total += loss.detach()
            self._remember(lesson, delta)
        self._optimize(step, steps, rate=1.5)
        return Losses(tether=float(total), tokens=sum(len(lesson.chunk) for lesson in lessons))

    def read(self, lessons: Sequence[Lesson], step: int) -> Losses:
        """One step of stage 2."""
        new, tether = [], torch.zeros((), device=self.model.device)
        for lesson in lessons:
            tail = self._tail()
            delta = self._write(lesson, tail)
            tether = tether + self._distance(delta, lesson, tail) / len(lessons)
            new.append(Remembered(lesson, delta))
        documents = self._documents(new, step)
        prefix = PrefixTensors(self.model, self._memory(documents))
        asked = self._questions(documents, new)
        recited = [document.lesson.recital for document in self._some(documents, new, self.config.recitals)]
        losses, right = self.ask(prefix, asked + recited)
        answer, recite = losses[: len(asked)].mean(), losses[len(asked) :].mean()
        loss = answer + self.config.recite_weight * recite + self.config.tether_weight * tether
        loss.backward()
        self._optimize(step, self.total_steps)
        for document in new:
            self._remember(document.lesson, document.delta_LKD)
        tokens = sum(len(prompt) + len(answer) for prompt, answer in asked + recited)
        newest = min(3, len(new[0].lesson.questions))
        return Losses(
            answer=answer.item(),
            recite=recite.item(),
            tether=tether.item(),
            right=sum(right[: len(asked)]) / len(asked),
            right_newest=sum(right[:newest]) / newest,
            tokens=tokens,
        )

    def fill_bank(self, lessons: Iterator[Lesson], count: int) -> Iterator[int]:
        """Inject `count` lessons in a chain, without gradients; yields how many are there."""
        with torch.no_grad():
            for _ in range(count):
                lesson = next(lessons)
                self._remember(lesson, self._write(lesson, self._tail()))
                yield len(self.bank)

    # ------------------------------------------------------------------ writing

    def _tail(self) -> Tensor | None:
        return self.rng.choice(self.bank).delta_LKD if self.bank else None

    def _write(self, lesson: Lesson, tail_LKD: Tensor | None) -> Tensor:
        tokens = torch.tensor([lesson.chunk], device=self.model.device)
        if tail_LKD is None:
            size = self.model.config.num_tokens
            delta = self.model.write(tokens, None)[0]
            return torch.cat([delta] * -(-size // delta.shape[1]), dim=1)[:, -size:]
        return self.model.write(tokens, tail_LKD[None])[0]

    def _remember(self, lesson: Lesson, delta_LKD: Tensor) -> None:
        self.bank.append(Remembered(lesson, delta_LKD.detach()))

    def _distance(self, delta_LKD: Tensor, lesson: Lesson, tail_LKD: Tensor | None) -> Tensor:
        """Mean over layers of (1 - cosine) + 0.1 relative error against what the base model gives for the chunk alone."""
        written = min(len(lesson.chunk), delta_LKD.shape[1])
        target = self._alone(lesson)[:, -written:]
        if tail_LKD is not None and written < delta_LKD.shape[1]:
            # Rows before a short chunk's own are older memory, encoded again: they should stay what they were.
            target = torch.cat((tail_LKD[:, written - delta_LKD.shape[1] :], target), dim=1)
        found = delta_LKD[:, -target.shape[1] :]
        cosine = functional.cosine_similarity(found, target, dim=-1)
        error: Tensor = (found - target).norm(dim=-1) / target.norm(dim=-1)
        return (1 - cosine).mean() + 0.1 * error.mean()

    @torch.no_grad()
    def _alone(self, lesson: Lesson) -> Tensor:
        """States [L, T, D] after each layer when the base model reads BOS row and chunk, without any memory."""
        tokens = torch.tensor([lesson.chunk], device=self.model.device)
        text = self.model.reader.model.embed_tokens(tokens)
        rotary = self.model.rotary(torch.arange(tokens.shape[1] + self.model.num_bos, device=self.model.device))
        states = []
        for index, layer in enumerate(self.teacher):
            bos = text[:, :0] if self.model.bos_embedding is None else self.model.bos_embedding[index][None]
            text = layer_forward(layer, torch.cat((bos, text), dim=1), tokens.shape[1], rotary)  # type: ignore[arg-type]
            states.append(text[0])
        return torch.stack(states)

    # ------------------------------------------------------------------ pools

    def _documents(self, new: Sequence[Remembered], step: int) -> list[Remembered]:
        """Documents oldest first: older ones from the bank, one new one at the end, the others anywhere."""
        count = self._pool_documents(step)
        older = self.rng.sample(list(self.bank), min(count, len(self.bank)))
        for document in new[1:]:
            # Close to the end more often than not: that is where most of a full pool's tokens are.
            older.insert(max(0, len(older) - int(self.rng.expovariate(1 / self.config.mean_age))), document)
        return without_contradicted([*older, new[0]])

    def _pool_documents(self, step: int) -> int:
        full = min(self.config.bank, 4 * self.model.config.num_blocks)
        if self.rng.random() < self.config.small_pools:
            return self.rng.randint(1, self.model.config.num_blocks)
        grown = min(1.0, (step + 1) / self.config.grow_steps)
        return max(4, round(full * grown**2))

    def _memory(self, documents: Sequence[Remembered]) -> list[Tensor]:
        """The pool as it is after these updates: a document's tokens survive with (1 - K/N)^age, each layer drawing its own."""
        size, blocks = self.model.config.num_tokens, self.model.config.num_blocks
        generator = torch.Generator().manual_seed(self.rng.getrandbits(62))
        layers: list[list[Tensor]] = [[] for _ in range(self.model.config.num_hidden_layers)]
        room = size * blocks
        for age, document in enumerate(reversed(documents)):
            chance = (1 - 1 / blocks) ** age
            kept = min(room, int((torch.rand(size, generator=generator) < chance).sum()))
            room -= kept
            if kept == 0:
                continue
            for index, parts in enumerate(layers):
                rows = torch.randperm(size, generator=generator)[:kept].sort().values if kept < size else slice(None)
                parts.append(document.delta_LKD[index, rows])
        return [torch.cat(parts[::-1]) for parts in layers]

    def _questions(self, documents: Sequence[Remembered], new: Sequence[Remembered]) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
        """Questions about the newest document, the other new ones, and documents of all ages."""
        newest = self.rng.sample(new[0].lesson.questions, min(3, len(new[0].lesson.questions)))
        asked = list(newest)  # first, so that they can be told apart
        while len(asked) < self.config.questions:
            (document,) = self._some(documents, new, 1)
            asked.append(self.rng.choice(document.lesson.questions))
        return asked

    def _some(self, documents: Sequence[Remembered], new: Sequence[Remembered], count: int) -> list[Remembered]:
        """Documents to ask about: a third of them new, the others by age, the younger the likelier."""
        found = []
        for _ in range(count):
            if self.rng.random() < 0.35:
                found.append(self.rng.choice(new))
            else:
                age = min(len(documents) - 1, int(self.rng.expovariate(1 / self.config.mean_age)))
                found.append(documents[len(documents) - 1 - age])
        return found

    # ------------------------------------------------------------------ reading

    def ask(self, prefix: PrefixTensors, pairs: Sequence[tuple[tuple[int, ...], tuple[int, ...]]]) -> tuple[Tensor, list[bool]]:
        """Teacher-forced loss of each answer (a mean over its tokens), and whether greedy decoding would give exactly this answer."""
        logits, labels, owners = self._answers(prefix, pairs)
        losses = functional.cross_entropy(logits, labels, reduction="none")
        counts = torch.bincount(owners, minlength=len(pairs))
        means = torch.zeros(len(pairs), device=logits.device).index_add(0, owners, losses) / counts
        wrong = torch.zeros(len(pairs), device=logits.device).index_add(0, owners, (logits.argmax(-1) != labels).float())
        return means, [bool(count == 0) for count in wrong]

    def _answers(self, prefix: PrefixTensors, pairs: Sequence[tuple[tuple[int, ...], tuple[int, ...]]]) -> tuple[Tensor, Tensor, Tensor]:
        """Logits at every answer token, what stands there, and whose answer it is; all pairs packed into one row of R tokens."""
        lengths = torch.tensor([len(prompt) + len(answer) for prompt, answer in pairs])
        owners = torch.repeat_interleave(torch.arange(len(pairs)), lengths)
        inside = torch.cat([torch.arange(length) for length in lengths])
        tokens = torch.tensor([token for prompt, answer in pairs for token in (*prompt, *answer)])
        answered = inside + 1 >= torch.tensor([len(prompt) for prompt, _ in pairs])[owners]
        answered &= inside + 1 < lengths[owners]
        where = answered.nonzero()[:, 0]
        apart = (owners[:, None] != owners[None]) | (inside[:, None] < inside[None])
        device = self.model.device
        hidden = self.model.reader.model(
            tokens[None].to(device),
            attention_mask=torch.zeros(apart.shape).masked_fill(apart, -torch.inf)[None, None].to(device),
            position_ids=inside[None].to(device) + prefix.length,
            use_cache=False,
            memory_prefix=prefix,
        ).last_hidden_state[0]
        return self.model.reader.lm_head(hidden[where.to(device)]), tokens[where + 1].to(device), owners[where].to(device)

    def _optimize(self, step: int, steps: int, rate: float = 1.0) -> None:
        warm = min(1.0, (step + 1) / self.config.warmup_steps)
        done = min(1.0, step / max(1, steps))
        scale = rate * warm * (1 - 0.9 * done)
        for group in self.optimizer.param_groups:
            group["lr"] = group["rate"] * scale
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"] if parameter.grad is not None]
        torch.nn.utils.clip_grad_norm_(parameters, self.config.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


def without_contradicted(documents: Sequence[Remembered]) -> list[Remembered]:
    """The documents, oldest first, less those of which a younger one answers the same question: nobody could say which is meant."""
    asked: set[tuple[int, ...]] = set()
    kept = []
    for document in reversed(documents):
        prompts = {prompt for prompt, _ in document.lesson.questions}
        if asked.isdisjoint(prompts):
            kept.append(document)
        asked |= prompts
    return kept[::-1]


def base_layers(model: MemoryLLM) -> nn.ModuleList:
    """The base model's own layers, without adapters, over the same weights."""
    layers = shared_copy(model.reader.model.layers)
    for module in list(layers.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, AdaptedLinear):
                plain = nn.Linear(1, 1, bias=child.bias is not None, device="meta")
                plain.weight, plain.bias = child.weight, child.bias
                setattr(module, name, plain)
    return layers


@dataclass(slots=True)
class Curve:
    """Right answers by age bucket, in updates since the document."""

    bounds: tuple[int, ...] = (0, 1, 4, 8, 16, 32)
    right: dict[int, list[bool]] = field(default_factory=dict)

    def add(self, age: int, was_right: bool) -> None:
        bucket = max(bound for bound in self.bounds if bound <= age)
        self.right.setdefault(bucket, []).append(was_right)

    def shares(self) -> dict[str, float]:
        return {f"age>={bound}": sum(found) / len(found) for bound, found in sorted(self.right.items())}


def evaluate(trainer: Trainer, lessons: Sequence[Lesson], seed: int) -> tuple[dict[str, float], dict[str, float]]:
    """Held-out accuracy in a full pool: (newest document by kind, all kinds by age).

    The pool is full of the bank's documents. Each lesson is asked as the newest; then all of them stand in one pool, one after the
    other, and are asked at their ages.
    """
    state, trainer.rng = trainer.rng, random.Random(seed)
    newest: dict[str, list[bool]] = {}
    curve = Curve()
    with torch.no_grad():
        fresh = [Remembered(lesson, trainer._write(lesson, trainer._tail())) for lesson in lessons]
        older = list(trainer.bank)
        trainer.rng.shuffle(older)
        for document in fresh:
            prefix = PrefixTensors(trainer.model, trainer._memory([*older, document]))
            newest.setdefault(document.lesson.kind, []).extend(trainer.ask(prefix, document.lesson.questions[:2])[1])
        trainer.rng.shuffle(fresh)
        prefix = PrefixTensors(trainer.model, trainer._memory([*older, *fresh]))
        for age, document in enumerate(reversed(fresh)):
            for was_right in trainer.ask(prefix, document.lesson.questions[:2])[1]:
                curve.add(age, was_right)
    trainer.rng = state
    return {kind: sum(found) / len(found) for kind, found in newest.items()}, curve.shares()
