"""Teaching a model to write blocks and to answer from those in front of a question.

    Q  questions of a step     T  tokens of prompt and answer     C  memory tokens in front     M  memory tokens of all blocks of a step
    R  layers from the reading layer on     D  width     H  key/value heads     E  head dimension

Each step writes a few new documents and asks about them and about documents of the bank, which were written in the steps before. A
question sees its own block among others that look alike: the same words, other chunks of the same document, at times the same matter
told differently (then the younger one is right), at times not its own block at all, or a block that tells it of somebody else: then the
answer is that the model does not know. So it is where general questions see whatever blocks share their words.
Writer and reader learn together: the gradient of an answer goes through its block's states into the writer, where the block was written
in this step. Those of the bank are what the writer made of them when they were new. The trunk is the base model's.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from model.block_llm import BlockLLM, grouped_attention, layer_step
from model.memory_llm import rotate
from model.training.lessons import Lesson, Query, Written


@dataclass(frozen=True, slots=True, kw_only=True)
class ReaderConfig:
    """What the arithmetic depends on. Rates are AdamW's.

    A bank is as old as it is long, and the writer moves on: with 1,200 blocks, most of them 100 to 240 steps old, and a rate of 6e-4 the
    loss rose.
    """

    new_tokens: int = 320
    questions: int = 32
    about_new: float = 0.75
    bank: int = 400
    most_blocks: int = 4
    alone: float = 0.2
    left_out: float = 0.12
    near: float = 0.12
    general: float = 0.05
    siblings: float = 0.6
    rate: float = 3e-4
    warmup_steps: int = 30
    clip: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Losses:
    """Of one step: mean loss, the share of questions answered exactly (alone: with one block in front), and what it took."""

    answer: float
    right: float
    right_alone: float
    tokens: int


@dataclass(slots=True, eq=False)
class Asked:
    """A question with the blocks in front of it, oldest first; `answer` may be that the model does not know."""

    query: Query
    blocks: list[Written]
    answer: tuple[int, ...]


class ReaderTrainer:
    """Holds the model, the bank of written blocks and the optimizer.

    Args:
        unknown: tokens of what is said where no block tells.
        general: questions that no document tells.
    """

    def __init__(
        self,
        model: BlockLLM,
        config: ReaderConfig,
        seed: int,
        unknown: tuple[int, ...],
        general: Sequence[Query] = (),
    ) -> None:
        self.model, self.config, self.unknown, self.general = model, config, unknown, general
        self.rng = random.Random(seed)
        self.bank: deque[Written] = deque(maxlen=config.bank)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_("lora_" in name)
        self.parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=config.rate, weight_decay=0.0, betas=(0.9, 0.98))

    # ------------------------------------------------------------------ steps

    def step(self, lessons: Iterator[Lesson], number: int, done: float) -> Losses:
        """Write new documents, ask, and learn from it. `done`: how much of the training is over, 0 to 1; rates fall with it."""
        new = self.write(self.draw(lessons))
        asked = self.questions(new)
        losses, right = self.ask(asked)
        loss = losses.mean()
        loss.backward()
        self._optimize(number, done)
        self._keep(new)
        alone = [was for was, question in zip(right, asked, strict=True) if len(question.blocks) == 1]
        return Losses(
            answer=loss.item(),
            right=sum(right) / len(right),
            right_alone=sum(alone) / len(alone) if alone else 0.0,
            tokens=sum(len(question.query.prompt) + len(question.answer) for question in asked),
        )

    def draw(self, lessons: Iterator[Lesson]) -> list[Lesson]:
        """As many documents as fit into a step's tokens; at least one."""
        drawn, room = [], self.config.new_tokens
        while room > 0:
            lesson = next(lessons)
            drawn.append(lesson)
            room -= sum(len(chunk) + len(lesson.context(number)) for number, chunk in enumerate(lesson.chunks))
        return drawn

    def fill_bank(self, lessons: Iterator[Lesson], count: int) -> Iterator[int]:
        """Write until the bank holds `count` blocks; yields how many there are."""
        while len(self.bank) < count:
            with torch.no_grad():
                self._keep(self.write(self.draw(lessons)))
            yield len(self.bank)

    def _keep(self, written: Sequence[Written]) -> None:
        """In the bank are states alone: no gradient, and nothing of what they were padded with."""
        self.bank.extend(replace(each, states_RnD=each.states_RnD.detach().clone()) for each in written)

    def write(self, lessons: Sequence[Lesson]) -> list[Written]:
        """The blocks of some documents, chunks of like length side by side."""
        places = [(lesson, number) for lesson in lessons for number in range(len(lesson.chunks))]
        places.sort(key=lambda place: len(place[0].chunks[place[1]]) + len(place[0].context(place[1])))
        written = []
        for part in (places[: len(places) // 2], places[len(places) // 2 :]):
            if part:
                chunks, contexts = [lesson.chunks[number] for lesson, number in part], [lesson.context(number) for lesson, number in part]
                blocks = self.model.inject(chunks, contexts)
                written += [Written(lesson, number, states) for (lesson, number), states in zip(part, blocks, strict=True)]
        return written

    # ------------------------------------------------------------------ questions

    def questions(self, new: Sequence[Written]) -> list[Asked]:
        """Questions about new and older documents, each with its blocks; none twice before all of its like were asked."""
        config = self.config
        told = [[(own, query) for own in blocks for query in self._tells(own)] for blocks in (new, self.bank)]
        decks = [deque(self.rng.sample(pairs, len(pairs))) for pairs in told]
        asked = []
        for _ in range(config.questions):
            if self.general and self.rng.random() < config.general:
                asked.append(self._in_front_of_nothing(self.rng.choice(self.general), new))
                continue
            deck = decks[0] if (self.rng.random() < config.about_new and decks[0]) or not decks[1] else decks[1]
            own, query = deck[0]
            deck.rotate(-1)
            near = [other for other in own.lesson.near if own.number in other.chunks]
            asked.append(self._with_blocks(self.rng.choice(near) if near and self.rng.random() < config.near else query, own, new))
        return asked

    @staticmethod
    def _tells(block: Written) -> list[Query]:
        return [query for query in block.lesson.queries if block.number in query.chunks]

    def _with_blocks(self, query: Query, own: Written, new: Sequence[Written]) -> Asked:
        config = self.config
        count = 1 if self.rng.random() < config.alone else self.rng.randint(2, config.most_blocks)
        others = self._others(query, own, new, count - 1)
        if self.rng.random() < config.left_out and others:
            return Asked(query, self._in_order(others), self.unknown)
        return Asked(query, self._in_order([*others, own]), query.answer)

    def _in_front_of_nothing(self, query: Query, new: Sequence[Written]) -> Asked:
        """A question that no document tells, with blocks all the same."""
        blocks = self._alike(query, [*new, *self.bank], self.rng.randint(1, self.config.most_blocks))
        return Asked(query, self._in_order(blocks), self.unknown)

    def _in_order(self, blocks: Sequence[Written]) -> list[Written]:
        """As they are read: documents in any order, the blocks of one in its own."""
        places = {id(each.lesson): self.rng.random() for each in blocks}
        return sorted(blocks, key=lambda each: (places[id(each.lesson)], each.number))

    def _others(self, query: Query, own: Written, new: Sequence[Written], count: int) -> list[Written]:
        """The blocks that share most of the question's words, and some at random; never one of the same matter.

        At times those of the same document first: what selects them finds a document before it finds the place in it.
        """
        if count == 0:
            return []
        config, sample = self.config, [*new, *self.bank]
        wrong = [
            each
            for each in sample
            if each.lesson.subject != own.lesson.subject or (each.lesson is own.lesson and each.number not in query.chunks)
        ]
        siblings = [each for each in wrong if each.lesson is own.lesson]
        if siblings and self.rng.random() < config.siblings:
            chosen = self.rng.sample(siblings, min(count, len(siblings)))
            wrong = [each for each in wrong if each.lesson is not own.lesson]
        else:
            chosen = []
        return chosen + self._alike(query, wrong, count - len(chosen))

    def _alike(self, query: Query, among: Sequence[Written], count: int) -> list[Written]:
        """Some of those blocks that share most of the question's words, and some at random."""
        words = set(query.prompt[query.content[0] : query.content[1]])
        likely = sorted(among, key=lambda each: -self._overlap(words, each))[: count + 1]
        mixed = likely + self.rng.sample(among, min(len(among), count))
        return self.rng.sample(mixed, min(count, len(mixed)))

    def _overlap(self, words: set[int], block: Written) -> float:
        chunk = block.lesson.chunks[block.number]
        return len(words.intersection(chunk)) + 0.5 * self.rng.random()

    # ------------------------------------------------------------------ reading

    def ask(self, asked: Sequence[Asked]) -> tuple[Tensor, list[bool]]:
        """Teacher-forced loss of each answer (a mean over its tokens) [Q], and whether greedy decoding would give exactly this answer.

        Questions of like length go together, so that little is padded.
        """
        order = sorted(range(len(asked)), key=lambda number: len(asked[number].query.prompt) + len(asked[number].answer))
        third = -(-len(order) // 3)
        losses: list[Tensor] = [torch.empty(0)] * len(asked)
        right = [False] * len(asked)
        for part in (order[:third], order[third : 2 * third], order[2 * third :]):
            if not part:
                continue
            means, exact = self._ask_together([asked[number] for number in part])
            for place, number in enumerate(part):
                losses[number], right[number] = means[place], bool(exact[place])
        return torch.stack(losses), right

    def _ask_together(self, asked: Sequence[Asked]) -> tuple[Tensor, Tensor]:
        device = self.model.device
        rows = [torch.tensor([*each.query.prompt, *each.answer]) for each in asked]
        tokens = pad_sequence(rows, batch_first=True).to(device)
        with torch.no_grad():
            trunk = self.model.trunk(tokens)
        hidden = self._read(trunk, [each.blocks for each in asked], [len(each.query.prompt) for each in asked])
        batch: list[int] = []
        where: list[int] = []
        owners: list[int] = []
        for number, each in enumerate(asked):
            first = len(each.query.prompt) - 1
            batch += [number] * len(each.answer)
            where += range(first, first + len(each.answer))
            owners += [number] * len(each.answer)
        logits = self.model.logits(hidden[batch, where])
        labels = tokens[batch, [place + 1 for place in where]]
        return answer_losses(logits, labels, torch.tensor(owners, device=device), len(asked))

    def _read(self, trunk_QTD: Tensor, blocks: Sequence[Sequence[Written]], prompts: Sequence[int]) -> Tensor:
        """The reader over prompts of these lengths, and what follows them, with blocks in front: the last layer's output, [Q, T, D]."""
        unique = sorted({id(block): block for row in blocks for block in row}.values(), key=lambda block: block.states_RnD.requires_grad)
        starts, total = {}, 0
        for block in unique:
            starts[id(block)] = total
            total += block.states_RnD.shape[1]
        parts = [[block.states_RnD for block in unique if block.states_RnD.requires_grad is new] for new in (False, True)]
        # Taken apart once: a gradient for each layer of the whole is a whole of zeros for each layer.
        memories = [torch.cat(part, dim=1).unbind() for part in parts if part]
        ranges = [
            [place for block in row for place in range(starts[id(block)], starts[id(block)] + block.states_RnD.shape[1])] for row in blocks
        ]
        longest = max(map(len, ranges))
        # Memory ends where the text begins: what is missing is missing at the far end.
        index = torch.tensor([[0] * (longest - len(row)) + row for row in ranges], device=trunk_QTD.device)
        absent = torch.tensor([[True] * (longest - len(row)) + [False] * len(row) for row in ranges], device=trunk_QTD.device)
        length = trunk_QTD.shape[1]
        inside = torch.arange(length, device=trunk_QTD.device) < torch.tensor(prompts, device=trunk_QTD.device)[:, None]
        seen = torch.ones(length, length, dtype=torch.bool, device=trunk_QTD.device).tril() | inside[:, None]
        mask = torch.cat((~absent[:, None].expand(-1, length, -1), seen), dim=2)[:, None]
        text = self.model.rotary(torch.arange(length, device=trunk_QTD.device)[None])
        before = self.model.rotary(torch.arange(-longest, 0, device=trunk_QTD.device)[None])
        hidden = trunk_QTD
        for number, layer in enumerate(self.model.reader):
            pairs = [self.model.project(number, memory_RMD[number]) for memory_RMD in memories]
            keys, values = (torch.cat(part, dim=1) for part in zip(*pairs, strict=True))  # [H, M, E]
            keys_QHCE, values_QHCE = keys[:, index].transpose(0, 1), values[:, index].transpose(0, 1)
            hidden = layer_step(layer, hidden, text, Attention(rotate(keys_QHCE, *before), values_QHCE, mask))  # type: ignore[arg-type]
        return hidden

    # ------------------------------------------------------------------ optimizing

    def _optimize(self, number: int, done: float) -> None:
        scale = min(1.0, (number + 1) / self.config.warmup_steps) * (1 - 0.95 * min(1.0, done))
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.rate * scale
        if distributed.is_initialized():
            average_gradients(self.parameters)
        torch.nn.utils.clip_grad_norm_(self.parameters, self.config.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


def average_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """The mean over all processes in one message, so that each of them takes the same step."""
    for parameter in parameters:
        if parameter.grad is None:  # nothing new was asked about here
            parameter.grad = torch.zeros_like(parameter)
    together = torch.cat([parameter.grad.flatten() for parameter in parameters if parameter.grad is not None])
    distributed.all_reduce(together)
    together /= distributed.get_world_size()
    for parameter, mean in zip(parameters, together.split([parameter.numel() for parameter in parameters]), strict=True):
        parameter.grad = mean.view_as(parameter)


@dataclass(frozen=True, slots=True)
class Attention:
    """Memory [Q, H, C, E] in front of the rows' own keys and values, and who sees whom [Q, 1, T, C + T]."""

    keys: Tensor
    values: Tensor
    mask: Tensor

    def __call__(self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return grouped_attention(module, query, torch.cat((self.keys, key), dim=2), torch.cat((self.values, value), dim=2), self.mask)


def answer_losses(logits: Tensor, labels: Tensor, owners: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Mean loss of each owner's tokens, and whether all of them would be chosen greedily: both [count]."""
    losses = functional.cross_entropy(logits.float(), labels, reduction="none")
    counts = torch.bincount(owners, minlength=count).clamp_min(1)
    means = torch.zeros(count, device=logits.device).index_add(0, owners, losses) / counts
    wrong = torch.zeros(count, device=logits.device).index_add(0, owners, (logits.argmax(-1) != labels).float())
    return means, wrong == 0


@torch.no_grad()
def exact_answers(trainer: ReaderTrainer, lessons: Sequence[Lesson], count: int) -> dict[str, float]:
    """Share of held-out questions answered exactly with `count` blocks in front, their own among them, by kind."""
    state, trainer.rng = trainer.rng, random.Random(7)
    found: dict[str, list[bool]] = {}
    written = [block for start in range(0, len(lessons), 6) for block in trainer.write(lessons[start : start + 6])]
    asked: list[Asked] = []
    for own in written:
        for query in trainer._tells(own)[:3]:
            others = trainer._others(query, own, written, count - 1)
            asked.append(Asked(query, trainer._in_order([*others, own]), query.answer))
    for start in range(0, len(asked), 24):
        part = asked[start : start + 24]
        for question, was in zip(part, trainer.ask(part)[1], strict=True):
            owner = next(block for block in question.blocks if question.query in block.lesson.queries)
            found.setdefault(owner.lesson.kind, []).append(was)
    trainer.rng = state
    return {kind: sum(right) / len(right) for kind, right in sorted(found.items())}
