"""What the demo publishes and asks, in order."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from actors.messages import Answer, Question, ReplicaStatus
from actors.supervisor import Supervisor
from jobs.corpora.examples import Fit
from jobs.demo.factbook import FactbookDocument, LeaderQuestion, documents, load_entries, questions
from model.scoring import contains_answer
from pipeline.publish import Published, Publisher

STREAM = TOPIC = "world-factbook"
DOCUMENTS = 300
ANSWER_TOKENS = 24
STEP_S = 0.05
LEARN_TIMEOUT_S = 120.0
SUCCESSOR = "Ilsabet HARROWGATE"
"""Who takes office in the correction that the demo publishes."""

GENERAL = ("Who wrote Romeo and Juliet?", "How many legs does a spider have?")
STAGES = ("before", "newest", "end", "restored")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """An answer as the demo keeps it."""

    text: str
    grounded: bool | None
    sources: tuple[tuple[str, str | None], ...]

    @classmethod
    def of(cls, answer: Answer) -> Reply:
        sources = tuple((source.document_id, source.title) for source in answer.knowledge.sources)
        return cls(text=answer.text, grounded=answer.knowledge.grounded, sources=sources)

    def as_dict(self) -> dict[str, Any]:
        sources = [{"document_id": name, "title": title} for name, title in self.sources]
        return {"answer": self.text, "grounded": self.grounded, "sources": sources}


@dataclass(slots=True)
class Case:
    """One question through the demo. Answers are the model's own words; `age` is in updates since its document, at the end."""

    asked: LeaderQuestion
    before: Reply | None = None
    newest: Reply | None = None
    end: Reply | None = None
    restored: Reply | None = None
    age: int = 0
    learned_at_update: int = 0
    freshness_s: float = 0.0

    def right(self, reply: Reply | None) -> bool:
        return reply is not None and contains_answer(reply.text, self.asked.answers)

    def source_right(self, reply: Reply | None) -> bool:
        return reply is not None and any(name in self.asked.told_in for name, _ in reply.sources)

    def as_dict(self) -> dict[str, Any]:
        told = {
            stage: {**reply.as_dict(), "correct": self.right(reply), "source_correct": self.source_right(reply)}
            for stage in STAGES
            if (reply := getattr(self, stage)) is not None
        }
        asked = {"question": self.asked.question, "gold": self.asked.gold, "answers": list(self.asked.answers)}
        return {**asked, "age": self.age, **told, "freshness_s": round(self.freshness_s, 3), "document": self.asked.document_id}


class Stage:
    """The running system of the demo, as one who publishes and asks sees it."""

    def __init__(self, supervisor: Supervisor, publisher: Publisher) -> None:
        self._supervisor, self._publisher = supervisor, publisher

    def ask(self, question: str) -> Reply:
        return Reply.of(self._supervisor.ask(Question.of(question, max_new_tokens=ANSWER_TOKENS)))

    def ask_together(self, questions: Sequence[str]) -> list[Reply]:
        """Side by side, as services ask."""
        with ThreadPoolExecutor(len(questions)) as pool:
            return list(pool.map(self.ask, questions))

    def publish(self, sent: Iterable[FactbookDocument]) -> tuple[ReplicaStatus, float]:
        """Publish and wait until the replica has learned it: its status then, and the seconds from the one to the other."""
        started = time.monotonic()
        return self._learned(self._publisher.publish([record_of(document) for document in sent])), time.monotonic() - started

    def delete(self, document_id: str) -> ReplicaStatus:
        """Publish a tombstone and wait until it has been passed."""
        return self._learned([self._publisher.delete(document_id)])

    def _learned(self, landed: Sequence[Published]) -> ReplicaStatus:
        position = {str(each.partition): each.end for each in landed}
        deadline = time.monotonic() + LEARN_TIMEOUT_S
        while True:
            status = self._supervisor.healthy()[0]
            if all(status.position.get(name, 0) >= end for name, end in position.items()):
                return status
            if time.monotonic() > deadline:
                raise TimeoutError(
                    f"the replica has not learned {position} within {LEARN_TIMEOUT_S:.0f} s: {status.problem or status.phase}"
                )
            time.sleep(STEP_S)


def record_of(document: FactbookDocument) -> dict[str, object]:
    """A document as the feed publishes it."""
    return {
        "id": document.document_id,
        "title": document.title,
        "source": document.source,
        "time": document.event_time_ms,
        "text": document.text,
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Programme:
    """What is published, in order: for each case its document, then some others."""

    cases: Sequence[Case]
    own: Sequence[FactbookDocument]
    others: Sequence[Sequence[FactbookDocument]]

    @property
    def count(self) -> int:
        return len(self.own) + sum(map(len, self.others))

    def run(self, stage: Stage, advance: Callable[[int, str], None]) -> None:
        """Stream it and ask before, newest and end."""
        advance(0, f"asks all {len(self.cases)} questions at once before anything is read")
        for case, reply in zip(self.cases, stage.ask_together([case.asked.question for case in self.cases]), strict=True):
            case.before = reply
        status: ReplicaStatus | None = None
        for case, own, others in zip(self.cases, self.own, self.others, strict=True):
            status, case.freshness_s = stage.publish([own])
            case.learned_at_update = status.update_number - 1
            case.newest = stage.ask(case.asked.question)
            advance(1, f"{own.title}: {case.newest.text} {'✓' if case.right(case.newest) else '✗'}")
            status, _ = stage.publish(others)
            advance(len(others), "")
        for number, case in enumerate(self.cases, 1):
            advance(0, f"asked after all of it: {number} of {len(self.cases)}")
            case.age = status.update_number - 1 - case.learned_at_update if status else 0
            case.end = stage.ask(case.asked.question)


def programme(seed: int, fit: Fit) -> Programme:
    """The seed's questions, and other entries of the edition drawn evenly from all of it."""
    entries = load_entries()
    feed = {document.document_id: document for document in documents(entries, fit)}
    asked = questions(entries, fit, seed)
    told = {name for question in asked for name in question.told_in}
    rng = random.Random(f"demo/{seed}")
    rest = rng.sample([document for name, document in feed.items() if name not in told], DOCUMENTS - len(asked))
    bounds = [number * len(rest) // len(asked) for number in range(len(asked) + 1)]
    order = rng.sample(asked, len(asked))
    return Programme(
        cases=[Case(question) for question in order],
        own=[feed[question.document_id] for question in order],
        others=[rest[first:end] for first, end in pairwise(bounds)],
    )


def change(stage: Stage, plan: Programme) -> dict[str, Any]:
    """Correct one case's document and delete another's, live; what is answered before and after."""
    answered = [number for number, case in enumerate(plan.cases) if case.right(case.restored)] or [0, 1]
    first, second = answered[0], answered[len(answered) // 2] if len(answered) > 1 else (answered[0] + 1) % len(plan.cases)
    corrected, deleted = plan.cases[first], plan.cases[second]
    own = plan.own[first]
    stage.publish([replace(own, text=own.text.replace(corrected.asked.gold, SUCCESSOR))])
    after = stage.ask(corrected.asked.question)
    stage.delete(deleted.asked.document_id)
    gone = stage.ask(deleted.asked.question)
    assert corrected.restored is not None
    assert deleted.restored is not None
    return {
        "corrected": {
            "question": corrected.asked.question,
            "old": corrected.asked.gold,
            "new": SUCCESSOR,
            "before": corrected.restored.as_dict(),
            "after": {**after.as_dict(), "correct": contains_answer(after.text, (SUCCESSOR, SUCCESSOR.split()[-1]))},
        },
        "deleted": {
            "question": deleted.asked.question,
            "gold": deleted.asked.gold,
            "before": deleted.restored.as_dict(),
            "after": {**gone.as_dict(), "still_known": deleted.right(gone)},
        },
    }


def ask_general(stage: Stage) -> list[dict[str, Any]]:
    """Questions that no document tells."""
    replies = zip(GENERAL, stage.ask_together(GENERAL), strict=True)
    return [{"question": question, **reply.as_dict()} for question, reply in replies]
