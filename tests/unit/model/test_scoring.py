"""What counts as a right answer."""

from __future__ import annotations

import pytest

from model.scoring import contains_answer, normalise


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("  The JERÍ-Oré's\ta ", "jeri ore s"),
        ("Łukasz Ødegård & Weiß", "lukasz odegard weiss"),
        ("39,542,166", "39542166"),
        ("8 % of 2,300, 4 per cent in July 4, 2020", "8 percent of 2300 4 percent in july 4 2020"),
        ("ﬁne Ⅳ", "fine iv"),
        ("!?", ""),
    ],
)
def test_normalising_leaves_bare_words(text: str, normal: str) -> None:
    assert normalise(text) == normal


def test_an_answer_counts_as_whole_words_only() -> None:
    assert contains_answer("The prime minister is Sifi Ghrieb.", ["Sifi GHRIEB", "GHRIEB"])
    assert not contains_answer("Danube", ["DAN"]) and not contains_answer("Sifi", ["Sifi GHRIEB"])


def test_an_empty_answer_is_never_right() -> None:
    assert not contains_answer("anything", ["", "the", "?"]) and not contains_answer("", ["x"])
