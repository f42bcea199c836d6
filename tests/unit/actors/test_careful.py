"""Who is found guilty of a process's death, and when everybody is found innocent."""

from __future__ import annotations

from actors.careful import Careful, Place, Step

READ, DECODE, OPEN = Place(Step.READ, "news/0", 7), Place(Step.DECODE, "news/0", 7), Place(Step.OPEN, "", 0)


def test_two_deaths_at_one_step_of_one_offset_convict_and_no_others() -> None:
    careful = Careful(100)
    for place in (READ, DECODE, Place(Step.READ, "news/0", 8), Place(Step.READ, "news/1", 7)):
        careful.accuse(place)
    assert careful.convicted is None
    careful.acquit(READ)
    careful.accuse(READ)
    assert careful.convicted is None
    careful.accuse(DECODE)
    assert careful.convicted == DECODE
    careful.acquit(DECODE)
    assert careful.convicted is None


def test_dying_at_the_start_convicts_nobody() -> None:
    careful = Careful(100)
    for _ in range(4):
        careful.accuse(OPEN)
    assert careful.convicted is None and not careful.cannot_start
    careful.accuse(OPEN)
    assert careful.convicted is None and careful.cannot_start


def test_each_partition_has_its_turn() -> None:
    careful, positions = Careful(100), {"news/0": 7, "news/1": 3, "news/2": 0}
    assert {careful.next_partition(positions) for _ in range(3)} == set(positions)
    assert careful.next_partition({}) is None


def test_it_is_over_when_all_that_could_have_been_read_ahead_was_passed() -> None:
    careful, positions = Careful(100), {"news/0": 7, "news/1": 3}
    assert not careful.is_over({}) and not careful.is_over(positions)
    careful.passed("news/0", 60)
    careful.reached_end("news/1")
    assert not careful.is_over(positions)
    careful.passed("news/0", 60)
    assert careful.is_over(positions)
