"""Names and texts that a reader cannot tell apart are the same to filters and to the check for duplicates."""

from __future__ import annotations

import pytest

from pipeline.decode import content_sha256
from pipeline.names import same_name


@pytest.mark.parametrize(
    "other", ["afp", "A\u200bFP", "\uff21\uff26\uff30", "AFP\u00ad", " AFP ", "A\u202eFP\u202c", "AFP\ufe0f", "A\U000e0041FP"]
)
def test_the_same_name_in_other_clothes(other: str) -> None:
    assert same_name(other) == same_name("AFP")


@pytest.mark.parametrize("other", ["AFPs", "A F P", "\u0410FP", ""])
def test_another_name(other: str) -> None:
    assert same_name(other) != same_name("AFP")


def test_invisible_characters_make_no_new_story() -> None:
    assert content_sha256("Elections", "A new\u200b president.") == content_sha256("Elections", "A new  president.")
    assert content_sha256("Elections", "A new president.") != content_sha256(None, "Elections A new president.")
