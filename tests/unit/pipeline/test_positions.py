"""Stream state: every transition moves what it counts, and nothing else."""

import pickle
from dataclasses import replace
from typing import Any

import pytest

from pipeline.ledger import LedgerRow
from pipeline.positions import StreamState, caught_up, format_positions, parse_positions
from pipeline.records import Document, Outcome, Partition, Record

NEWS, SPORT = Partition("news", 0), Partition("news", 1)


def document(offset: int, event_time_ms: int = 1_000, partition: Partition = NEWS) -> Document:
    record = Record(partition=partition, offset=offset, timestamp_ms=event_time_ms, value=b"text")
    return Document(
        record=record, document_id=f"{partition}/{offset}", text="text", event_time_ms=event_time_ms, content_sha256=f"{partition}{offset}"
    )


def beginning() -> StreamState:
    return StreamState.beginning({NEWS: 40, SPORT: 0})


def test_nothing_silent_every_outcome_adds_up() -> None:
    state = beginning().applied(LedgerRow.of(document(40), [0, 1], tokens=1)).passed(NEWS, 42, Outcome.DUPLICATE).gap(NEWS, 42, 45)
    state = state.passed(SPORT, 1, Outcome.DEAD_LETTER).passed(SPORT, 2, Outcome.FILTERED).passed(NEWS, 46, Outcome.FILTERED)
    state.check()
    assert state.positions == {NEWS: 46, SPORT: 2}
    assert state.counts == {
        Outcome.APPLIED: 1,
        Outcome.DELETED: 0,
        Outcome.DUPLICATE: 1,
        Outcome.FILTERED: 2,
        Outcome.DEAD_LETTER: 1,
        Outcome.GAP: 3,
    }


def test_one_state_a_transition_leaves_the_state_before_untouched() -> None:
    before = beginning()
    after = before.applied(LedgerRow.of(document(40, 7_000), [0, 1, 2], tokens=1))
    assert before == beginning()
    assert (after.update_number, after.watermark_ms, after.positions[NEWS], len(after.ledger)) == (3, 7_000, 41, 1)


def test_a_correction_takes_the_place_of_what_it_corrects() -> None:
    state = beginning().applied(LedgerRow.of(document(40), [0, 1], tokens=90))
    later = replace(document(41), document_id="news/0/40", content_sha256="later")
    state = state.applied(LedgerRow.of(later, [2], tokens=30), replaces="news/0/40")
    state.check()
    assert [(row.offset, row.updates) for row in state.ledger] == [(41, (2,))]
    assert state.counts[Outcome.APPLIED] == 2


def test_a_deletion_passes_one_offset_and_takes_its_documents_out() -> None:
    state = beginning().applied(LedgerRow.of(document(40), [0], tokens=9)).applied(LedgerRow.of(document(41), [1], tokens=9))
    state = state.passed(NEWS, 43, Outcome.DELETED, removed=["news/0/40"])
    state.check()
    assert ([row.offset for row in state.ledger], state.counts[Outcome.DELETED], state.positions[NEWS]) == ([41], 1, 43)


def test_nothing_silent_text_that_was_cut_off_is_counted() -> None:
    state = (
        beginning()
        .applied(LedgerRow.of(document(40), [0], tokens=64, tokens_left_out=7))
        .applied(LedgerRow.of(document(41), [1], tokens=64))
    )
    assert (state.documents_cut, state.tokens_left_out) == (1, 7)
    assert [row.tokens_left_out for row in state.ledger] == [7, 0]


@pytest.mark.parametrize("offset", [39, 41, 50])
def test_nothing_silent_a_skipped_or_repeated_offset_is_refused(offset: int) -> None:
    with pytest.raises(ValueError, match="do not go on from position 40"):
        beginning().applied(LedgerRow.of(document(offset), [0], tokens=1))
    with pytest.raises(ValueError, match="do not go on from position 40"):
        beginning().passed(NEWS, offset + 1, Outcome.FILTERED)


@pytest.mark.parametrize(("first", "end"), [(39, 42), (41, 42), (40, 40), (40, 38)])
def test_nothing_silent_a_gap_begins_at_the_position_and_holds_something(first: int, end: int) -> None:
    with pytest.raises(ValueError, match=r"go on from|holds nothing"):
        beginning().gap(NEWS, first, end)


@pytest.mark.parametrize("updates", [[1], [0, 2], [1, 0], [], [-1]])
def test_updates_go_on_where_the_last_ones_ended(updates: list[int]) -> None:
    with pytest.raises(ValueError, match=r"do not go on from 0|no update"):
        beginning().applied(LedgerRow.of(document(40), updates, tokens=1))


def test_the_watermark_never_goes_back() -> None:
    state = beginning().passed(NEWS, 41, Outcome.FILTERED, event_time_ms=9_000)
    state = state.applied(LedgerRow.of(document(41, event_time_ms=3_000), [0], tokens=1)).passed(SPORT, 1, Outcome.DEAD_LETTER)
    assert state.watermark_ms == 9_000
    assert beginning().watermark_ms is None


def test_the_watermark_may_be_the_epoch() -> None:
    assert beginning().passed(NEWS, 41, Outcome.FILTERED, event_time_ms=0).watermark_ms == 0


def test_an_unknown_partition_is_refused() -> None:
    with pytest.raises(ValueError, match="other/3 is not part of this stream"):
        beginning().passed(Partition("other", 3), 1, Outcome.FILTERED)


def test_a_partition_can_join() -> None:
    new = Partition("news", 2)
    state = beginning().joined(new, 5, "first").passed(new, 6, Outcome.FILTERED)
    state.check()
    assert state.positions[new] == 6
    with pytest.raises(ValueError, match="already part"):
        state.joined(new, 0, "first")


def test_one_state_each_position_is_in_a_topic_of_its_own() -> None:
    state = StreamState.beginning({}).joined(NEWS, 5, "first").joined(SPORT, 3, None)
    assert state.topic_ids == {NEWS: "first"}
    state = state.identified(SPORT, "first").rewound(NEWS, 0, "second")
    assert (state.positions, state.topic_ids) == ({NEWS: 0, SPORT: 3}, {NEWS: "second", SPORT: "first"})
    state = state.rewound(SPORT, 3, "second")  # the same number, and another place
    assert (state.positions, state.topic_ids, state.commits) == ({NEWS: 0, SPORT: 3}, {NEWS: "second", SPORT: "second"}, 5)
    assert state.passed(SPORT, 4, Outcome.FILTERED).gap(NEWS, 0, 9).topic_ids == state.topic_ids
    state.check()
    with pytest.raises(ValueError, match="not before"):
        state.rewound(SPORT, 3, "second")
    with pytest.raises(ValueError, match="in topic second already"):
        state.identified(NEWS, "third")
    with pytest.raises(ValueError, match=r"no position: .*other/0"):
        replace(state, topic_ids={Partition("other", 0): "first"}).check()


def test_nothing_silent_a_recreated_topic_keeps_what_was_counted() -> None:
    state = beginning().gap(NEWS, 40, 90).rewound(NEWS, 0, "second")
    state.check()
    assert state.positions[NEWS] == 0
    state = state.passed(NEWS, 1, Outcome.FILTERED)
    state.check()
    assert sum(state.counts.values()) == 51
    with pytest.raises(ValueError, match="not before"):
        state.rewound(NEWS, 1, "second")


def test_forgetting_prunes_the_ledger_alone() -> None:
    state = beginning().applied(LedgerRow.of(document(40), [0], tokens=1)).applied(LedgerRow.of(document(41), [1], tokens=1))
    pruned = state.forgetting([0])
    assert [row.offset for row in pruned.ledger] == [41]
    assert replace(pruned, ledger=state.ledger) == state


@pytest.mark.parametrize(
    "wrong",
    [
        {"positions": {NEWS: 41, SPORT: 0}},
        {"positions": {NEWS: 40}},
        {"counts": {Outcome.GAP: 1}},
        {"counts": {Outcome.GAP: 1, Outcome.APPLIED: -1}},
        {"positions": {NEWS: 39, SPORT: 1}},
    ],
)
def test_nothing_silent_check_finds_numbers_that_do_not_add_up(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"counted|differ|negative"):
        replace(beginning(), **wrong).check()


def test_a_state_can_be_sent_to_another_process() -> None:
    state = beginning().applied(LedgerRow.of(document(40), [0], tokens=1))
    assert pickle.loads(pickle.dumps(state)) == state


def test_a_long_stream_adds_up() -> None:
    state = beginning()
    for offset in range(40, 1_240):
        state = state.applied(LedgerRow.of(document(offset), [state.update_number], tokens=1))
    state.check()
    assert len(state.forgetting(range(600)).ledger) == 600


def test_positions_are_named_and_read_back() -> None:
    positions = {SPORT: 3, Partition("a/b", 10): 5, Partition("a/b", 9): -2}
    named = format_positions(positions)
    assert list(named) == ["a/b/9", "a/b/10", "news/1"]
    assert parse_positions(named) == positions


@pytest.mark.parametrize("named", [{"news": 1}, {"news/x": 1}, {"news/0": True}, {"news/0": "1"}, {"news/0": 1.5}])
def test_wrong_positions_are_refused(named: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="not a"):
        parse_positions(named)


@pytest.mark.parametrize(
    ("highwaters", "expected"),
    [
        ({NEWS: 40, SPORT: 0}, True),
        ({NEWS: 41, SPORT: 0}, False),
        ({NEWS: 12, SPORT: 0}, True),
        ({NEWS: 40}, False),
        ({}, False),
    ],
)
def test_caught_up_means_every_partition(highwaters: dict[Partition, int], expected: bool) -> None:
    assert caught_up(beginning().positions, highwaters) is expected


def test_a_stream_without_partitions_has_not_caught_up() -> None:
    assert not caught_up({}, {})
