"""Teaching a model which blocks a question is about, and when it is about none: contrastive, on the trunk's states, minutes on a CPU.

    B  blocks in a step     Q  questions     n, T  tokens     D  width     E  size of a key

The trunk is the frozen base model, so its states are computed once. Each step draws documents; every question sees the blocks of all
of them, and a null candidate. The blocks that tell its answer are right; where they are left out, the null candidate is. Questions
about nothing that was ever read (general knowledge, instructions) always want the null candidate.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from model.block_llm import BlockLLM
from model.reading.selection import Selector
from model.training.lessons import Lesson


@dataclass(frozen=True, slots=True, kw_only=True)
class SelectorConfig:
    """Rates and sizes. `documents`: drawn for each step. `left_out`: share of the questions whose blocks are taken away."""

    documents: int = 200
    questions: int = 224
    general: int = 24
    left_out: float = 0.3
    rate: float = 1e-3
    warmup_steps: int = 30


@dataclass(slots=True, eq=False)
class Studied:
    """A lesson's trunk states: of each chunk [n, D], of each question's own tokens [T, D]; bfloat16."""

    lesson: Lesson
    chunks: list[Tensor]
    queries: list[Tensor]


@torch.no_grad()
def study(model: BlockLLM, lessons: Sequence[Lesson]) -> list[Studied]:
    """Run the trunk over documents and questions, many at a time."""
    rows, places = [], []
    for number, lesson in enumerate(lessons):
        for chunk, tokens in enumerate(lesson.chunks):
            context = lesson.context(chunk)
            rows.append([model.bos_token, *context, *tokens])
            places.append((number, 1 + len(context), 1 + len(context) + len(tokens)))
    chunks = states_of(model, rows, [place[1:] for place in places])
    asked = [(number, query) for number, lesson in enumerate(lessons) for query in lesson.queries]
    queries = states_of(model, [list(query.prompt[: query.content[1]]) for _, query in asked], [query.content for _, query in asked])
    found = [Studied(lesson, [], []) for lesson in lessons]
    for (number, _, _), states in zip(places, chunks, strict=True):
        found[number].chunks.append(states)
    for (number, _), states in zip(asked, queries, strict=True):
        found[number].queries.append(states)
    return found


@torch.no_grad()
def states_of(model: BlockLLM, rows: Sequence[list[int]], bounds: Sequence[tuple[int, int]], together: int = 32) -> list[Tensor]:
    """Trunk states of each row between its bounds; rows of like length run together."""
    order = sorted(range(len(rows)), key=lambda number: len(rows[number]))
    found: list[Tensor] = [torch.empty(0)] * len(rows)
    for start in range(0, len(order), together):
        batch = order[start : start + together]
        longest = len(rows[batch[-1]])
        tokens = torch.tensor([rows[number] + [model.bos_token] * (longest - len(rows[number])) for number in batch], device=model.device)
        states = model.trunk(tokens)
        for place, number in enumerate(batch):
            first, end = bounds[number]
            found[number] = states[place, first:end].to(torch.bfloat16).clone()
    return found


def scores(selector: Selector, queries: Sequence[Tensor], blocks: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Scores [Q, B] of blocks (states [n, D] each) for questions (states [T, D] each), and of the null candidate [Q]."""
    lengths = [block.shape[0] for block in blocks]
    padded = pad_sequence(list(blocks), batch_first=True)  # [B, n, D]
    room = torch.arange(padded.shape[1], device=padded.device)[None] >= torch.tensor(lengths, device=padded.device)[:, None]
    keys_BnE = selector.keys(padded)
    unit, weights, null = selector.queries(torch.cat(list(queries)))
    best = torch.einsum("te,bne->tbn", unit, keys_BnE).masked_fill(room, -2.0).amax(-1)  # [sum of T, B]
    owners = torch.repeat_interleave(
        torch.arange(len(queries), device=best.device), torch.tensor([len(each) for each in queries], device=best.device)
    )
    total = torch.zeros(len(queries), best.shape[1], device=best.device).index_add(0, owners, best * weights[:, None])
    nothing = torch.zeros(len(queries), device=best.device).index_add(0, owners, null * weights)
    return total, nothing + selector.margin


class SelectorTrainer:
    """One optimizer over the selector; `step` is one step."""

    def __init__(self, selector: Selector, config: SelectorConfig, seed: int, steps: int) -> None:
        self.selector, self.config, self.steps = selector, config, steps
        self.rng = random.Random(seed)
        self.optimizer = torch.optim.Adam(selector.parameters(), lr=config.rate, betas=(0.9, 0.98))

    def step(self, number: int, studied: Sequence[Studied], general: Sequence[Tensor]) -> tuple[float, float, float]:
        """Loss, the share of questions whose right block is first, and the share of null questions that get the null candidate."""
        config = self.config
        documents = self.rng.sample(list(studied), min(config.documents, len(studied)))
        blocks = [states for document in documents for states in document.chunks]
        owner = [(place, chunk) for place, document in enumerate(documents) for chunk in range(len(document.chunks))]
        asked = [(place, query) for place, document in enumerate(documents) for query in range(len(document.queries))]
        asked = self.rng.sample(asked, min(config.questions, len(asked)))
        alone = self.rng.sample(list(general), min(config.general, len(general)))
        total, null = scores(self.selector, [documents[place].queries[query] for place, query in asked] + alone, blocks)
        right = torch.zeros(len(asked) + len(alone), len(blocks) + 1, dtype=torch.bool)
        hidden = torch.zeros_like(right)
        subjects: dict[str, list[int]] = {}
        answering: dict[tuple[int, ...], list[int]] = {}
        for column, (place, _) in enumerate(owner):
            subjects.setdefault(documents[place].lesson.subject, []).append(column)
            for each in documents[place].lesson.queries:
                answering.setdefault(each.prompt, []).append(column)
        for row, (place, query) in enumerate(asked):
            lesson = documents[place].lesson
            told = lesson.queries[query].chunks
            # Documents that answer the same question are no wrong blocks for each other.
            same = sorted({*subjects[lesson.subject], *answering[lesson.queries[query].prompt]})
            answers = [column for column in same if owner[column][0] == place and owner[column][1] in told]
            missing = not answers or self.rng.random() < config.left_out
            if missing:
                right[row, -1] = True
                hidden[row, same] = True
            else:
                right[row, answers] = True
                hidden[row, [column for column in same if owner[column][0] != place]] = True
        right[len(asked) :, -1] = True
        logits = torch.cat((total, null[:, None]), dim=1).masked_fill(hidden.to(total.device), -torch.inf)
        wanted = right.to(total.device)
        loss = (logits.logsumexp(-1) - logits.masked_fill(~wanted, -torch.inf).logsumexp(-1)).mean()
        self._optimize(loss, number)
        first = wanted.gather(1, logits.argmax(-1, keepdim=True))[:, 0]
        about_nothing = wanted[:, -1]
        return loss.item(), first[~about_nothing].float().mean().item(), first[about_nothing].float().mean().item()

    def _optimize(self, loss: Tensor, number: int) -> None:
        scale = min(1.0, (number + 1) / self.config.warmup_steps) * (1 - 0.9 * number / self.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.rate * scale
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()


@torch.no_grad()
def ranks(
    selector: Selector, studied: Sequence[Studied], among: Sequence[Tensor], together: int = 512
) -> dict[str, list[tuple[int, float]]]:
    """For each kind, of every question: the rank of the first block that tells its answer (0 = first) and its margin over null.

    `among` are more blocks that know nothing of it.
    """
    owner = [(place, chunk) for place, document in enumerate(studied) for chunk in range(len(document.chunks))]
    blocks = [states for document in studied for states in document.chunks] + list(among)
    asked = [(place, query) for place, document in enumerate(studied) for query in range(len(document.queries))]
    queries = [studied[place].queries[query] for place, query in asked]
    parts = [scores(selector, queries, blocks[start : start + together]) for start in range(0, len(blocks), together)]
    total, null = torch.cat([part for part, _ in parts], dim=1), parts[0][1]
    found: dict[str, list[tuple[int, float]]] = {}
    column = {key: number for number, key in enumerate(owner)}
    for row, (place, query) in enumerate(asked):
        lesson = studied[place].lesson
        told = [column[place, chunk] for chunk in lesson.queries[query].chunks]
        if told:
            best = total[row, told].max()
            asks_the_same = {
                other for other, query_ in asked if studied[other].lesson.queries[query_].prompt == lesson.queries[query].prompt
            }
            others = [number for number, (other, _) in enumerate(owner) if other in asks_the_same and other != place]
            better = int((total[row] > best).sum()) - int((total[row, others] > best).sum())
            found.setdefault(lesson.kind, []).append((better, float(total[row].max() - null[row])))
    return found


ARTICLES = frozenset({"squad", "paragraphs"})
"""Kinds whose documents are parts of few articles."""

LOST, LEAKED = 0.05, 0.10
"""What is bearable: answerable questions that the null candidate wins, and questions about nothing that was read that it loses."""


@torch.no_grad()
def calibrate(selector: Selector, studied: Sequence[Studied], among: Sequence[Tensor], general: Sequence[Tensor]) -> dict[str, float]:
    """Move the null candidate so that, on questions that training did not see, both kinds of mistake are as far below bearable as can be.

    Returns the shares that are left: `lost` and `leaked`.
    """
    owner = [document.lesson.subject for document in studied for _ in document.chunks] + [""] * len(among)
    blocks = [states for document in studied for states in document.chunks] + list(among)
    asked = [document for document in studied for _ in document.queries]
    queries = [states for document in studied for states in document.queries]
    total, null = scores(selector, queries, blocks)
    # What was never read is about other things altogether: text of the same kind may be of the same article, so it is masked as a whole.
    kinds = [document.lesson.kind for document in studied for _ in document.chunks] + [""] * len(among)
    own = torch.tensor(
        [
            [
                subject == document.lesson.subject or (kind in ARTICLES and document.lesson.kind in ARTICLES)
                for subject, kind in zip(owner, kinds, strict=True)
            ]
            for document in asked
        ]
    )
    told = (total.amax(-1) - null).cpu()
    unread = (total.masked_fill(own.to(total.device), -torch.inf).amax(-1) - null).cpu()
    if general:
        rest, nothing = scores(selector, general, blocks)
        unread = torch.cat((unread, (rest.amax(-1) - nothing).cpu()))

    def mistakes(shift: float) -> tuple[float, float]:
        return float((told <= shift).float().mean()), float((unread > shift).float().mean())

    shift = min(sorted({0.0, *told.tolist(), *unread.tolist()}), key=lambda each: max(mistakes(each)[0] / LOST, mistakes(each)[1] / LEAKED))
    selector.margin.add_(shift)
    lost, leaked = mistakes(shift)
    return {"shift": shift, "lost": lost, "leaked": leaked}
