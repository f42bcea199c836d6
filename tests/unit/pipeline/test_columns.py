"""Columns of updates say what a walk over all rows of the ledger says, whatever was learned, replaced and forgotten before."""

from __future__ import annotations

import random

import pytest

from actors.messages import Filter
from pipeline import columns
from pipeline.columns import Columns
from pipeline.ledger import Ledger, LedgerRow
from pipeline.names import same_name
from pipeline.records import Partition

SOURCES = ("AFP", "afp", "A\u00adFP", "\uff21FP", "dpa", "Stra\u00dfe", "STRASSE", None)


def row(first: int, count: int, rng: random.Random) -> LedgerRow:
    return LedgerRow(
        updates=tuple(range(first, first + count)),
        document_id=f"d{rng.randrange(60)}",
        partition=Partition("news", 0),
        offset=first,
        event_time_ms=rng.randrange(1000),
        content_sha256=f"{first}",
        source=rng.choice(SOURCES),
    )


def walked(ledger: Ledger, only: Filter) -> list[int]:
    wanted = {same_name(name) for name in only.sources}
    return sorted(
        update
        for each in ledger
        for update in each.updates
        if (not wanted or same_name(each.source) in wanted)
        and (only.since_ms is None or each.event_time_ms >= only.since_ms)
        and (only.until_ms is None or each.event_time_ms < only.until_ms)
        and (only.before_update is None or update < only.before_update)
        and each.document_id not in only.exclude
    )


@pytest.mark.parametrize("seed", range(8))
def test_filters_find_what_a_walk_finds(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columns, "PART_ROWS", 7)
    rng, ledger, number = random.Random(seed), Ledger(), 0
    for _ in range(150):
        count = rng.randint(1, 4)
        ledger, number = ledger.with_row(row(number, count, rng)), number + count
        if rng.random() < 0.3:
            ledger = ledger.forgetting(rng.sample(range(number), min(number, 5)))
        if rng.random() < 0.2:
            ledger = ledger.without((f"d{rng.randrange(60)}",))
        only = Filter(
            sources=tuple(name for name in rng.sample(SOURCES, rng.randrange(3)) if name),
            since_ms=rng.choice((None, 200)),
            until_ms=rng.choice((None, 800)),
            before_update=rng.choice((None, number // 2)),
            exclude=tuple(f"d{rng.randrange(60)}" for _ in range(rng.randrange(3))),
        )
        assert only.updates(ledger).tolist() == walked(ledger, only)
    again = Ledger.from_table(ledger.to_table())
    assert again.columns.updates().tolist() == ledger.columns.updates().tolist() == walked(ledger, Filter())
    assert again.columns.updates(sources=("afp",)).tolist() == ledger.columns.updates(sources=("AFP",)).tolist()


def test_an_older_document_finds_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columns, "PART_ROWS", 2)
    found = Columns().added((5, 6, 9), 1, "a").added((1, 7), 2, "b").added((2,), 3, "c")
    assert found.updates().tolist() == [1, 2, 5, 6, 7, 9]
    assert found.updates(sources=("b",)).tolist() == [1, 7]
    assert found.removed((1, 6, 100, -1)).updates().tolist() == [2, 5, 7, 9]
    assert Columns().removed((3,)).updates().tolist() == Columns.of(()).updates().tolist() == []
