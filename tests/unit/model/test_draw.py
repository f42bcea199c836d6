"""What an update drops."""

from __future__ import annotations

import numpy as np
import pytest

from model.memory.draw import kept_tokens

RECORDED = ([1, 3, 4, 5, 6, 7, 8, 10], [1, 2, 3, 6, 8, 9, 10, 11])


def test_replay_exact_the_draw_hangs_on_seed_update_and_layer_alone() -> None:
    drawn = kept_tokens(7, 5, 3, 64, 16)
    assert np.array_equal(drawn, kept_tokens(7, 5, 3, 64, 16))
    for other in ((8, 5, 3), (7, 6, 3), (7, 5, 4)):
        assert not np.array_equal(drawn, kept_tokens(*other, 64, 16))


def test_replay_exact_the_draw_is_the_same_on_every_machine_and_numpy() -> None:
    """A change here makes every pool irreproducible that was ever saved."""
    assert kept_tokens(0, 0, 0, 12, 4).tolist() == RECORDED[0]
    assert kept_tokens(2**40, 123_456_789, 31, 12, 4).tolist() == RECORDED[1]


def test_survivors_keep_their_order_and_number() -> None:
    kept = kept_tokens(1, 2, 3, 100, 30)
    assert kept.shape == (70,) and (np.diff(kept) > 0).all() and kept[-1] < 100


@pytest.mark.parametrize("dropped", [0, 10])
def test_nothing_and_everything_can_be_dropped(dropped: int) -> None:
    assert len(kept_tokens(1, 0, 0, 10, dropped)) == 10 - dropped


@pytest.mark.parametrize("dropped", [-1, 11])
def test_an_impossible_number_is_refused(dropped: int) -> None:
    with pytest.raises(ValueError, match="cannot drop"):
        kept_tokens(1, 0, 0, 10, dropped)


def test_each_age_is_dropped_as_often_as_any_other() -> None:
    dropped = np.ones(32) * 3000
    for update in range(3000):
        dropped[kept_tokens(11, update, update % 4, 32, 8)] -= 1
    share = dropped / 3000
    assert abs(share.mean() - 0.25) < 1e-12 and np.abs(share - 0.25).max() < 5 * np.sqrt(0.25 * 0.75 / 3000)
