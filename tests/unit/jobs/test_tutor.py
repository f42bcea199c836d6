"""Lessons: what a document tells, and what it nearly tells."""

from __future__ import annotations

import random
from typing import Any

from jobs.corpora.examples import Example
from jobs.tutor import Tutor
from model.conversation import OPENING, UNKNOWN


class Characters:
    """One token a character: enough for a tutor."""

    eos_token_id = 0

    def encode(self, text: str, **_: Any) -> list[int]:
        return [ord(character) for character in text]

    def decode(self, tokens: list[int]) -> str:
        return "".join(map(chr, tokens))

    def apply_chat_template(self, messages: list[dict[str, str]], **_: Any) -> str:
        return f"<{messages[0]['content']}>"


def taught(names: list[str]) -> list[list[tuple[str, str]]]:
    tutor = Tutor(Characters(), lambda example: [[ord(character) for character in example.text]])  # type: ignore[arg-type]
    rng = random.Random(1)
    near = []
    for name in names:
        text = f"On Monday {name} opened the bridge in 1987."
        example = Example(
            kind="stories", title=None, source=None, date_ms=None, text=text, questions=((f"What did {name} open?", ("the bridge",)),)
        )
        lesson = tutor.lesson(example, rng)
        assert lesson is not None
        near.append([("".join(map(chr, each.prompt)), "".join(map(chr, each.answer[:-1]))) for each in lesson.near])
    return near


def test_a_question_of_another_name_is_nearly_told() -> None:
    first, second = taught(["Ana Ruiz", "Bob Li"])

    assert first == []
    assert second == [("<What did Ana Ruiz open?>", f"{OPENING}{UNKNOWN}")]


def test_names_have_as_many_words_as_the_ones_that_they_replace() -> None:
    assert taught(["Ana Ruiz", "Fiji"])[1] == []
