"""The ledger: rows, forgetting, and the way to Arrow and back."""

import io
import pickle
from dataclasses import replace

import pyarrow as pa
import pytest

from pipeline.ledger import LEDGER_SCHEMA, Ledger, LedgerRow
from pipeline.near_duplicates import signature_of
from pipeline.records import Document, Partition, Record

NEWS = Partition("news", 0)


def row(number: int, *updates: int, content_sha256: str | None = None) -> LedgerRow:
    return LedgerRow(
        updates=updates,
        document_id=f"id-{number}",
        key=f"key-{number % 2}".encode(),
        link=f"https://example.org/{number}",
        tokens=40 + number,
        tokens_left_out=number,
        partition=NEWS,
        offset=number,
        event_time_ms=1_767_081_600_123 + number,
        content_sha256=content_sha256 or f"{number:064x}",
        title=None if number % 2 else "Grüße\n日本",
        source="afp" if number % 2 else None,
        timestamp_ms=1_767_081_600_000 + 30_000 * number,
        signature=signature_of(None, f"story {number} of the day") if number % 3 and number < 100 else None,
    )


def ledger_of(*rows: LedgerRow) -> Ledger:
    ledger = Ledger()
    for each in rows:
        ledger = ledger.with_row(each)
    return ledger


def test_a_row_names_its_document() -> None:
    record = Record(partition=NEWS, offset=7, timestamp_ms=5, value=b"text")
    document = Document(record=record, document_id="a", text="text", event_time_ms=5, content_sha256="f00", title="T", source="S")
    made = LedgerRow.of(document, [3, 4], tokens=9, tokens_left_out=1)
    wanted = {"updates": (3, 4), "document_id": "a", "partition": NEWS, "offset": 7, "event_time_ms": 5, "content_sha256": "f00"}
    assert made == LedgerRow(**wanted, timestamp_ms=5, title="T", source="S", tokens=9, tokens_left_out=1)  # type: ignore[arg-type]


def test_a_row_without_updates_is_refused() -> None:
    record = Record(partition=NEWS, offset=7, timestamp_ms=5, value=b"text")
    document = Document(record=record, document_id="a", text="text", event_time_ms=5, content_sha256="f00")
    with pytest.raises(ValueError, match="no update"):
        LedgerRow.of(document, [], tokens=0, tokens_left_out=0)


def test_adding_leaves_the_old_ledger_as_it_was() -> None:
    before = ledger_of(row(1, 0))
    after = before.with_row(row(2, 1))
    assert [each.offset for each in before] == [1]
    assert [each.offset for each in after] == [1, 2]
    assert row(2, 1).content_sha256 not in before
    assert row(2, 1).content_sha256 in after


def test_a_document_is_remembered_until_its_last_update_is_gone() -> None:
    ledger = ledger_of(row(1, 0, 1), row(2, 2))
    assert [each.updates for each in ledger.forgetting([0])] == [(1,), (2,)]
    assert [each.offset for each in ledger.forgetting([0, 1])] == [2]
    assert row(1, 0).content_sha256 not in ledger.forgetting([0, 1])
    assert len(ledger.forgetting(range(3))) == 0
    assert ledger.forgetting([7]) is ledger


def test_a_text_learned_twice_is_known_until_both_are_forgotten() -> None:
    ledger = ledger_of(row(1, 0, content_sha256="same"), row(2, 1, content_sha256="same"))
    assert "same" in ledger.forgetting([0])
    assert "same" not in ledger.forgetting([0, 1])


def test_documents_are_found_by_id_key_and_update() -> None:
    ledger = ledger_of(row(1, 0, 1), row(2, 2), row(3, 3))
    assert ledger.document("id-2") == row(2, 2)
    assert [each.offset for each in ledger.with_key("news", b"key-1")] == [1, 3]
    assert ledger.with_key("sport", b"key-1") == ()
    assert [owner.offset if (owner := ledger.owner(update)) else None for update in range(5)] == [1, 1, 2, 3, None]
    left = ledger.without(["id-1", "unknown"])
    assert (left.document("id-1"), left.owner(0), [each.offset for each in left.with_key("news", b"key-1")]) == (None, None, [3])


def test_documents_are_found_by_their_place_also_in_a_topic_that_was_made_anew() -> None:
    old, new = row(1, 1), row(2, 2)
    new = replace(new, offset=old.offset)
    ledger = Ledger().with_row(old)
    assert ledger.at(old.partition, old.offset) == old and ledger.at(old.partition, old.offset + 1) is None
    ledger = ledger.with_row(new)
    assert ledger.at(old.partition, old.offset) == new == Ledger.of(iter(ledger)).at(old.partition, old.offset)
    assert ledger.without((old.document_id,)).at(old.partition, old.offset) == new
    assert ledger.forgetting((1, 2)).at(old.partition, old.offset) is None


def test_a_row_of_the_same_id_takes_the_others_place() -> None:
    ledger = ledger_of(row(1, 0, 1), row(1, 7, content_sha256="later"))
    assert (len(ledger), ledger.owner(0), ledger.document("id-1")) == (1, None, row(1, 7, content_sha256="later"))
    assert row(1, 0).content_sha256 not in ledger


def test_a_hundred_thousand_rows_change_in_no_time() -> None:
    """No change looks at all rows: as many changes as rows end while a test may run."""
    ledger = Ledger()
    for number in range(20_000):
        ledger = ledger.with_row(row(number, number))
        if number >= 10_000:
            ledger = ledger.forgetting([number - 10_000])
    assert (len(ledger), [each.offset for each in ledger][:2]) == (10_000, [10_000, 10_001])


def test_arrow_and_back_is_the_same_ledger() -> None:
    ledger = ledger_of(*(row(number, 2 * number, 2 * number + 1) for number in range(5)))
    table = ledger.to_table()
    assert table.schema == LEDGER_SCHEMA
    buffer = io.BytesIO()
    with pa.ipc.new_file(buffer, table.schema) as writer:
        writer.write_table(table)
    read = Ledger.from_table(pa.ipc.open_file(buffer.getvalue()).read_all())
    assert read == ledger
    assert all(each.content_sha256 in read for each in ledger)


def test_an_empty_ledger_keeps_its_columns() -> None:
    table = Ledger().to_table()
    assert table.schema == LEDGER_SCHEMA
    assert Ledger.from_table(table) == Ledger()


def test_another_table_is_refused() -> None:
    with pytest.raises(ValueError, match="not a ledger"):
        Ledger.from_table(pa.table({"title": ["a"]}))


def test_a_ledger_can_be_sent_to_another_process() -> None:
    ledger = ledger_of(row(1, 0), row(2, 1))
    sent = pickle.loads(pickle.dumps(ledger))
    assert sent == ledger
    assert row(2, 1).content_sha256 in sent


def test_a_ledger_made_from_its_rows_knows_their_texts() -> None:
    assert row(1, 0).content_sha256 in Ledger.of(iter([row(1, 0)]))


@pytest.mark.parametrize("rows", [(row(1, 0), row(1, 1)), (row(1, 0), row(2, 0)), (row(1),)])
def test_rows_that_contradict_each_other_are_no_ledger(rows: tuple[LedgerRow, ...]) -> None:
    with pytest.raises(ValueError, match="not a ledger"):
        Ledger.of(iter(rows))


def test_what_is_counted_and_found_is_the_same_however_the_ledger_came_to_be() -> None:
    grown = ledger_of(*(row(number, 2 * number, 2 * number + 1) for number in range(12))).forgetting([2, 3, 8]).without(["id-5"])
    grown = grown.with_row(row(7, 30, 31))
    made = Ledger.from_table(grown.to_table())
    minutes = range(1_767_081_600_000 // 60_000, 1_767_081_600_000 // 60_000 + 4)
    for source, counts in ((None, [1, 1, 1, 1]), ("AFP", [0, 1, 0, 1])):
        assert [grown.documents_of(source, range(minute, minute + 1)) for minute in minutes] == counts
        assert [made.documents_of(source, range(minute, minute + 1)) for minute in minutes] == counts
    for number in range(12):
        one, other = (each.most_like(signature_of(None, f"story {number} of the day"), 0.9) for each in (grown, made))
        assert one == other
        assert (one is not None) == (number % 3 != 0 and number not in (1, 5))


def test_signatures_of_another_scheme_are_refused_and_a_ledger_without_any_is_not() -> None:
    def of_another(ledger: Ledger) -> pa.Table:
        return ledger.to_table().replace_schema_metadata({"signatures": "older"})

    with pytest.raises(ValueError, match="made by 'older', here they are made by 'rensa"):
        Ledger.from_table(of_another(ledger_of(row(1, 0))))
    assert len(Ledger.from_table(of_another(ledger_of(row(3, 0))))) == 1
