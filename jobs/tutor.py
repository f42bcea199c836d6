"""From examples to lessons: documents cut as the stream cuts them, questions as the model gets them."""

from __future__ import annotations

import random
import re
from collections import defaultdict, deque
from collections.abc import Callable, Iterator

from transformers import PreTrainedTokenizerBase

from jobs.corpora.examples import Example
from model.conversation import OPENING, UNKNOWN
from model.training.lessons import Lesson, Query

MAX_CHUNKS = 6
MAX_ANSWER_TOKENS = 36
NAMES_KEPT = 400
"""Names and years of each kind of text, to ask of others than a document tells of."""

_NAMES = re.compile(r"\b[A-Z][\w'\u2019-]*[\w](?: (?:of |the |de |von )?[A-Z][\w'\u2019-]*[\w])*|\b\d{4}\b")


class Tutor:
    """Turns examples into lessons with one tokenizer.

    Args:
        cut: (header, text) -> the chunks' tokens, at most as long as one update.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, cut: Callable[[Example], list[list[int]]]) -> None:
        self.tokenizer, self._cut = tokenizer, cut
        rendered = tokenizer.apply_chat_template([{"role": "user", "content": "\x00"}], tokenize=False, add_generation_prompt=True)
        before, after = str(rendered).split("\x00")
        self._before = tuple(tokenizer.encode(before, add_special_tokens=False))
        self._after = tuple(tokenizer.encode(after, add_special_tokens=False))
        self._names: defaultdict[tuple[str, int, bool], deque[str]] = defaultdict(lambda: deque(maxlen=NAMES_KEPT))

    def text(self, text: str) -> list[int]:
        tokens: list[int] = self.tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)
        return tokens

    def answer(self, text: str) -> tuple[int, ...]:
        return (*self.text(f"{OPENING}{text}")[:MAX_ANSWER_TOKENS], self.tokenizer.eos_token_id)

    def query(self, question: str, answer: str, chunks: tuple[int, ...]) -> Query:
        content = self.text(question)
        start = len(self._before)
        return Query(
            prompt=(*self._before, *content, *self._after),
            content=(start, start + len(content)),
            answer=self.answer(answer),
            chunks=chunks,
        )

    def lesson(self, example: Example, rng: random.Random) -> Lesson | None:
        """None where no chunk tells any of the answers."""
        chunks = self._cut(example)[:MAX_CHUNKS]
        texts = [str(self.tokenizer.decode(chunk)) for chunk in chunks]
        queries, near = [], []
        for question, answers in example.questions:
            told = _told(question, answers[0], texts)
            if told is not None:
                queries.append(self.query(question, answers[0], (told,)))
                other = self._of_another(example, question, rng)
                near += [] if other is None else [self.query(other, UNKNOWN, (told,))]
        near += [self.query(question, UNKNOWN, tuple(range(len(chunks)))) for question in example.untold]
        if example.title and rng.random() < 0.12:
            queries.append(self._recital(example.title, chunks, rng))
        if not queries:
            return None
        return Lesson(
            kind=example.kind,
            subject=example.subject or f"{example.kind}/{example.text[:60]}",
            chunks=tuple(map(tuple, chunks)),
            queries=tuple(queries),
            near=tuple(near),
        )

    def _of_another(self, example: Example, question: str, rng: random.Random) -> str | None:
        """The question asked of another name, or another year, than the document tells of; None where it names nothing that it tells of."""
        told = f"{example.title}\n{example.text}"
        named = [found for found in _NAMES.finditer(question) if found.start() > 0 and found[0] in told]
        if not named:
            return None
        found = rng.choice(named)
        alike = self._names[example.kind, found[0].count(" "), found[0].isdigit()]
        others = [name for name in alike if name not in told and name not in question]
        alike.append(found[0])
        if not others:
            return None
        return question[: found.start()] + rng.choice(others) + question[found.end() :]

    def _recital(self, title: str, chunks: list[list[int]], rng: random.Random) -> Query:
        asked = rng.choice(("What do you know about {}?", "Tell me about {}.", "What is the news on {}?", "What was reported: {}?", "{}"))
        body = str(self.tokenizer.decode(chunks[0])).partition("\n")
        return self.query(asked.format(title), (body[2] or body[0]).strip(), (0,))


def _told(question: str, answer: str, texts: list[str]) -> int | None:
    """The chunk that tells the answer: of those that hold it the one with most of the question's words."""
    holding = [number for number, text in enumerate(texts) if answer in text]
    if not holding:
        return None
    words = {word.strip("?,.'\"").lower() for word in question.split() if len(word) > 3}
    return max(holding, key=lambda number: (sum(word in texts[number].lower() for word in words), -number))


def lessons(tutor: Tutor, examples: Iterator[Example], seed: int) -> Iterator[Lesson]:
    """An endless stream of lessons."""
    rng = random.Random(f"lessons/{seed}")
    for example in examples:
        lesson = tutor.lesson(example, rng)
        if lesson is not None:
            yield lesson
