"""Near-duplicates: what is found, that nothing else is, and that signatures stay what they were."""

from __future__ import annotations

import hashlib
import random

import pytest

from pipeline.near_duplicates import SCHEME, Likenesses, likeness, signature_of

WORDS = [f"word{number}" for number in range(3000)]


def text(seed: int, length: int = 300) -> list[str]:
    return random.Random(seed).choices(WORDS, k=length)


def changed(words: list[str], every: int) -> list[str]:
    return [f"other{place}" if place % every == 0 else word for place, word in enumerate(words)]


def test_replay_exact_a_signature_is_what_it_was() -> None:
    """Snapshots hold signatures: where this fails, the library computes other ones and `SCHEME` must differ."""
    assert SCHEME == "rensa RMinHash 2, seed 1, 128 x 16 bits, 3 words"
    digest = hashlib.sha256(signature_of("Storm", "The storm reached the coast on Monday.")).hexdigest()
    assert digest.startswith("a0d9a68c17dd78b7")


@pytest.mark.parametrize(("every", "shared"), [(300, 0.98), (40, 0.86), (15, 0.67), (3, 0.0)])
def test_likeness_is_the_share_of_sequences_in_common(every: int, shared: float) -> None:
    one, other = text(1), changed(text(1), every)
    assert likeness(signature_of(None, " ".join(one)), signature_of(None, " ".join(other))) == pytest.approx(shared, abs=0.1)


def test_case_form_and_punctuation_make_no_difference_and_scripts_without_blanks_have_words() -> None:
    assert likeness(signature_of("A title", "caf\u00e9 News, today."), signature_of("a Title", "cafe\u0301 news today")) == 1.0
    one = "\u5927\u7d71\u9818\u306f\u6708\u66dc\u65e5\u306b\u65b0\u3057\u3044\u9996\u76f8\u3092\u4efb\u547d\u3057\u305f"
    assert 0.6 < likeness(signature_of(None, one), signature_of(None, one + "\u3002\u4ee5\u4e0a")) < 1.0


def test_texts_of_a_word_or_none_have_signatures_too() -> None:
    assert likeness(signature_of(None, "Rain"), signature_of(None, "rain!")) == 1.0
    assert likeness(signature_of(None, "!!!"), signature_of(None, "???")) < 0.1


def test_nearly_all_near_duplicates_are_found_among_many_and_hardly_anything_else() -> None:
    signatures = {str(seed): signature_of(None, " ".join(text(seed))) for seed in range(400)}
    index = Likenesses.of(signatures.items())
    for seed in range(100):
        assert str(seed) in index.candidates(signature_of(None, " ".join(changed(text(seed), 25))))
        assert len(index.candidates(signature_of(None, " ".join(text(10_000 + seed))))) < 5


def test_adding_and_removing_leave_other_versions_as_they_were() -> None:
    same = signature_of(None, "the same text in each of them")
    one = Likenesses().added("a", same)
    three = one.added("b", same).added("c", same)
    assert one.candidates(same) == {"a"} and three.candidates(same) == {"a", "b", "c"}
    assert three.removed("b", same).candidates(same) == {"a", "c"}
    assert three.removed("b", same).removed("a", same).removed("c", same).candidates(same) == set()
    assert three.candidates(same) == {"a", "b", "c"}


def test_what_is_found_does_not_depend_on_what_was_sorted_when(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.near_duplicates._MOST_UNSORTED", 7)
    dice = random.Random(3)
    signatures = {str(seed): signature_of(None, " ".join(text(seed % 20, 60))) for seed in range(60)}
    index, alive = Likenesses(), dict[str, bytes]()
    for _ in range(400):
        name = dice.choice(list(signatures))
        if name in alive:
            index = index.removed(name, alive.pop(name))
        else:
            alive[name] = signatures[name]
            index = index.added(name, signatures[name])
        probe = dice.choice(list(signatures.values()))
        assert dict(index) == alive
        assert index.candidates(probe) == {name for name, signature in alive.items() if likeness(signature, probe) == 1.0}
