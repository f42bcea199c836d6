"""Teaching a model which blocks a question is about, and when it is about none: contrastive, on the trunk's states, minutes on a CPU.

    B  blocks in a step     Q  questions     n, T  tokens     D  width     E  size of a key

The trunk is the frozen base model, so its states are computed once. Each step draws documents, and beside each of some of them one that
is worded most like it; every question sees the blocks of all of them, and a null candidate. The blocks that tell its answer are right;
where they are left out, the null candidate is, and so it is for a question that names somebody else than its document does. Questions
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
from model.reading.selection import Documents, Selector, lead
from model.training.lessons import Lesson, Query


@dataclass(frozen=True, slots=True, kw_only=True)
class SelectorConfig:
    """Rates and sizes of a step.

    Attributes:
        documents: drawn; `alike`: share of them that are worded like another one.
        questions, general: about them, and about nothing that was read.
        near: questions that name somebody else, for each document.
        left_out: share of the questions whose blocks are taken away.
    """

    documents: int = 160
    alike: float = 0.5
    questions: int = 110
    general: int = 40
    near: float = 0.25
    left_out: float = 0.3
    rate: float = 1e-3
    warmup_steps: int = 30


@dataclass(slots=True, eq=False)
class Studied:
    """A lesson's trunk states: of each chunk [n, D], of each question's own tokens [T, D], near ones too; bfloat16."""

    lesson: Lesson
    chunks: list[Tensor]
    queries: list[Tensor]
    near: list[Tensor]


@torch.no_grad()
def study(model: BlockLLM, lessons: Sequence[Lesson]) -> list[Studied]:
    """Run the trunk over documents and questions, many at a time."""
    rows, places = [], []
    for number, lesson in enumerate(lessons):
        for chunk, tokens in enumerate(lesson.chunks):
            context = lesson.context(chunk)
            rows.append([model.bos_token, *context, *tokens])
            places.append((number, 1 + len(context), 1 + len(context) + len(tokens)))
    found = [Studied(lesson, [], [], []) for lesson in lessons]
    for (number, _, _), states in zip(places, states_of(model, rows, [place[1:] for place in places]), strict=True):
        found[number].chunks.append(states)
    asked = [(found[number].queries, query) for number, lesson in enumerate(lessons) for query in lesson.queries]
    asked += [(found[number].near, query) for number, lesson in enumerate(lessons) for query in lesson.near]
    for (kept, _), states in zip(asked, states_of_queries(model, [query for _, query in asked]), strict=True):
        kept.append(states)
    return found


def states_of_queries(model: BlockLLM, queries: Sequence[Query]) -> list[Tensor]:
    """Trunk states of each question's own tokens, [T, D]."""
    return states_of(model, [list(query.prompt[: query.content[1]]) for query in queries], [query.content for query in queries])


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


def scores(selector: Selector, queries: Sequence[Tensor], documents: Sequence[Sequence[Tensor]]) -> tuple[Tensor, Tensor]:
    """Scores [Q, B] of documents' blocks (states [n, D] each), one document after the other, for questions (states [T, D] each), and
    what their tokens give the null candidate [Q]."""
    blocks = [states for document in documents for states in document]
    device = blocks[0].device
    padded = pad_sequence(blocks, batch_first=True)  # [B, n, D]
    room = torch.arange(padded.shape[1], device=device)[None] >= torch.tensor([block.shape[0] for block in blocks], device=device)[:, None]
    keys_BnE = selector.keys(padded)
    # As a memory has it: what is missing repeats the first key, and all are rounded. Not every CPU multiplies bfloat16 fast.
    keys_BnE = torch.where(room[..., None], keys_BnE[:, :1], keys_BnE).to(torch.bfloat16).float()
    unit, weights, null = selector.queries(torch.cat(list(queries)))
    matches = (unit.to(torch.bfloat16).float() @ keys_BnE.flatten(0, 1).T).view(len(unit), len(blocks), -1).amax(-1)
    matches = selector.in_context(matches, owners(documents, device))
    lengths = torch.tensor([len(each) for each in queries], device=device)
    owners_T = torch.repeat_interleave(torch.arange(len(queries), device=device), lengths)
    total = torch.zeros(len(queries), len(blocks), device=device).index_add(0, owners_T, matches * weights[:, None])
    nothing = torch.zeros(len(queries), device=device).index_add(0, owners_T, null * weights)
    return total, nothing


def owners(documents: Sequence[Sequence[Tensor]], device: torch.device) -> Documents:
    """Whose the blocks of these documents are, one document after the other."""
    places = [place for place, document in enumerate(documents) for _ in document]
    return Documents(torch.tensor(places, device=device), len(documents))


SCORED_TOGETHER = 32
"""Questions that are compared with all blocks at once where there are many."""


@torch.no_grad()
def all_scores(selector: Selector, queries: Sequence[Tensor], documents: Sequence[Sequence[Tensor]]) -> tuple[Tensor, Tensor]:
    """As `scores`, some questions at a time."""
    parts = [scores(selector, queries[start : start + SCORED_TOGETHER], documents) for start in range(0, len(queries), SCORED_TOGETHER)]
    return torch.cat([total for total, _ in parts]), torch.cat([nothing for _, nothing in parts])


MOST_ALIKE = 8


def alike(lessons: Sequence[Lesson]) -> list[list[int]]:
    """For each document those that share most of its rarer words, the likest first; none of its own matter."""
    bags = [sorted({token for chunk in lesson.chunks for token in chunk}) for lesson in lessons]
    column = {token: number for number, token in enumerate(sorted({token for bag in bags for token in bag}))}
    words = torch.zeros(len(bags), len(column))
    for row, bag in enumerate(bags):
        words[row, [column[token] for token in bag]] = 1
    words *= (len(bags) / (1 + words.sum(0))).log().clamp(0, 4)
    words = torch.nn.functional.normalize(words, dim=1).to(torch.bfloat16)
    found = []
    for row, lesson in enumerate(lessons):
        near = (words @ words[row]).float()
        near[row] = -1
        order: list[int] = near.topk(min(3 * MOST_ALIKE, len(near))).indices.tolist()
        found.append([other for other in order if lessons[other].subject != lesson.subject][:MOST_ALIKE])
    return found


class SelectorTrainer:
    """One optimizer over the selector; `step` is one step.

    Args:
        studied: the documents to learn from.
        general: states of questions about nothing that was read.
    """

    def __init__(
        self, selector: Selector, config: SelectorConfig, seed: int, steps: int, studied: Sequence[Studied], general: Sequence[Tensor]
    ) -> None:
        self.selector, self.config, self.steps = selector, config, steps
        self.studied, self.general = studied, general
        self.rng = random.Random(seed)
        self._alike = alike([each.lesson for each in studied])
        self.optimizer = torch.optim.Adam(selector.parameters(), lr=config.rate, betas=(0.9, 0.98))

    def step(self, number: int) -> tuple[float, float, float]:
        """Loss, the share of questions whose right block is first, and the share of null questions that get the null candidate."""
        config = self.config
        documents = self._drawn()
        owner = [(place, chunk) for place, document in enumerate(documents) for chunk in range(len(document.chunks))]
        asked = [(place, query) for place, document in enumerate(documents) for query in range(len(document.queries))]
        asked = self.rng.sample(asked, min(config.questions, len(asked)))
        near = [states for document in documents for states in document.near]
        alone = self.rng.sample(near, min(len(near), int(config.near * len(documents))))
        alone += self.rng.sample(list(self.general), min(config.general, len(self.general)))
        queries = [documents[place].queries[query] for place, query in asked] + alone
        total, nothing = scores(self.selector, queries, [document.chunks for document in documents])
        right = torch.zeros(len(queries), len(owner) + 1, dtype=torch.bool)
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
        logits = torch.cat((total, (nothing + self.selector.margin)[:, None]), dim=1).masked_fill(hidden.to(total.device), -torch.inf)
        wanted = right.to(total.device)
        loss = (logits.logsumexp(-1) - logits.masked_fill(~wanted, -torch.inf).logsumexp(-1)).mean()
        self._optimize(loss, number)
        first = wanted.gather(1, logits.argmax(-1, keepdim=True))[:, 0]
        about_nothing = wanted[:, -1]
        return loss.item(), first[~about_nothing].float().mean().item(), first[about_nothing].float().mean().item()

    def _drawn(self) -> list[Studied]:
        """Documents at random, and some that are worded like one of them."""
        most = min(self.config.documents, len(self.studied))
        drawn = self.rng.sample(range(len(self.studied)), most)
        first = drawn[: max(1, int(most * (1 - self.config.alike)))]
        likest = (self.rng.choice(self._alike[number]) for number in first if self._alike[number])
        chosen = list(dict.fromkeys((*first, *likest, *drawn)))[:most]
        return [self.studied[number] for number in sorted(chosen)]

    def _optimize(self, loss: Tensor, number: int) -> None:
        scale = min(1.0, (number + 1) / self.config.warmup_steps) * (1 - 0.9 * number / self.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.rate * scale
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """Where a question's answer was found among many blocks.

    `block`: how many blocks came before the first that tells it. `source`: its document was first. `lead`: of the best block.
    """

    block: int
    source: bool
    lead: float


def ranks(selector: Selector, studied: Sequence[Studied], among: Sequence[Studied]) -> dict[str, list[Found]]:
    """What becomes of the questions of each kind; `among` are more documents, which know nothing of them."""
    documents = [*studied, *among]
    owner = [(place, chunk) for place, document in enumerate(documents) for chunk in range(len(document.chunks))]
    asked = [(place, query) for place, document in enumerate(studied) for query in range(len(document.queries))]
    queries = [studied[place].queries[query] for place, query in asked]
    blocks = [document.chunks for document in documents]
    total, nothing = all_scores(selector, queries, blocks)
    leading = leads(selector, total, nothing, owners(blocks, total.device)).tolist()
    column = {key: number for number, key in enumerate(owner)}
    found: dict[str, list[Found]] = {}
    for row, (place, query) in enumerate(asked):
        lesson = studied[place].lesson
        told = [column[place, chunk] for chunk in lesson.queries[query].chunks]
        if not told:
            continue
        prompt = lesson.queries[query].prompt
        same = {
            other
            for other, document in enumerate(studied)
            if document.lesson.subject == lesson.subject or any(each.prompt == prompt for each in document.lesson.queries)
        }
        others = [number for number, (other, _) in enumerate(owner) if other in same and other != place]
        ranked = total[row].clone()
        ranked[others] = -torch.inf
        better = int((ranked > ranked[told].max()).sum())
        found.setdefault(lesson.kind, []).append(Found(block=better, source=owner[int(ranked.argmax())][0] == place, lead=leading[row]))
    return found


ARTICLES = frozenset({"squad", "paragraphs"})
"""Kinds whose documents are parts of few articles."""

LOST, LEAKED = 0.05, 0.10
"""What is bearable: answerable questions where no block leads, and questions about nothing that was read where one does."""


@torch.no_grad()
def calibrate(selector: Selector, studied: Sequence[Studied], among: Sequence[Studied], general: Sequence[Tensor]) -> dict[str, float]:
    """See what other documents usually reach, then move the null candidate so that, on questions that training did not see, both kinds of
    mistake are as far below bearable as can be.

    Returns the shares that are left: `lost` and `leaked`, and `near`, of questions that name somebody else than what was read does.
    """
    documents = [*studied, *among]
    blocks = [document.chunks for document in documents]
    asked = [document for document in studied for _ in document.queries]
    total, nothing = all_scores(selector, [states for document in studied for states in document.queries], blocks)
    of = owners(blocks, total.device)
    # What was never read is about other things altogether: text of the same kind may be of the same article, so it is masked as a whole.
    names = [document.lesson.subject if place < len(studied) else "" for place, document in enumerate(documents) for _ in document.chunks]
    kinds = [document.lesson.kind if place < len(studied) else "" for place, document in enumerate(documents) for _ in document.chunks]
    own = torch.tensor(
        [
            [
                subject == document.lesson.subject or (kind in ARTICLES and document.lesson.kind in ARTICLES)
                for subject, kind in zip(names, kinds, strict=True)
            ]
            for document in asked
        ]
    )
    selector.elsewhere.zero_()
    selector.elsewhere.copy_(selector.competing(total, nothing, of)[1].mean())
    told = leads(selector, total, nothing, of)
    unread = leads(selector, total.masked_fill(own.to(total.device), -torch.inf), nothing, of)
    unread = torch.cat((unread, _leads_of(selector, general, blocks)))

    def mistakes(shift: float) -> tuple[float, float]:
        return float((told <= shift).float().mean()), float((unread > shift).float().mean())

    shift = min(sorted({0.0, *told.tolist(), *unread.tolist()}), key=lambda each: max(mistakes(each)[0] / LOST, mistakes(each)[1] / LEAKED))
    selector.margin.add_(shift)
    lost, leaked = mistakes(shift)
    near = _leads_of(selector, [states for document in studied for states in document.near], blocks)
    found = {"shift": shift, "elsewhere": float(selector.elsewhere), "lost": lost, "leaked": leaked}
    return found | {"near": float((near > 0).sum()) / max(1, len(near))}


def _leads_of(selector: Selector, queries: Sequence[Tensor], documents: Sequence[Sequence[Tensor]]) -> Tensor:
    """`leads` of questions (states [T, D] each) over documents' blocks (states [n, D] each), [Q]."""
    if not queries:
        return torch.zeros(0)
    total, nothing = all_scores(selector, queries, documents)
    return leads(selector, total, nothing, owners(documents, total.device))


def leads(selector: Selector, total_QB: Tensor, nothing_Q: Tensor, documents: Documents) -> Tensor:
    """`Scored.lead` of each question, [Q], on the host."""
    null_Q, excess_Q = selector.competing(total_QB, nothing_Q, documents)
    return lead(total_QB.amax(-1), null_Q, excess_Q).cpu()
