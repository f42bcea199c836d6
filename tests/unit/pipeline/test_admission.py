"""Admission: who gets in, and the word that says why not."""

import pytest
from pydantic import ValidationError

from pipeline.admission import AdmissionConfig, Verdict, admit, crowds_out, doomed
from pipeline.ledger import Ledger, LedgerRow
from pipeline.records import Document, Outcome, Partition, Record, Tombstone

NEWS, OTHER = Partition("news", 0), Partition("news", 1)


def document(
    text: str = "A new president.",
    source: str | None = "AFP",
    document_id: str = "a",
    partition: Partition = NEWS,
    offset: int = 7,
    time_ms: int = 0,
    key: bytes | None = None,
) -> Document:
    record = Record(partition=partition, offset=offset, timestamp_ms=0, value=b"", key=key)
    return Document(
        record=record,
        document_id=document_id,
        text=text,
        event_time_ms=time_ms,
        content_sha256=f"sha256 of {text}",
        source=source,
        has_feed_id=True,
    )


def remembered(*documents: Document) -> Ledger:
    return Ledger.of(LedgerRow.of(each, [number], tokens=1, tokens_left_out=0) for number, each in enumerate(documents))


def test_by_default_every_new_text_gets_in() -> None:
    new = document(source=None)
    assert admit(new, Ledger(), AdmissionConfig()) == Verdict(outcome=Outcome.APPLIED, reason="admitted", document=new)


def test_a_remembered_text_is_a_duplicate_and_a_forgotten_one_is_not() -> None:
    ledger = remembered(document())
    assert admit(document(), ledger, AdmissionConfig()) == Verdict(outcome=Outcome.DUPLICATE, reason="remembered")
    assert admit(document(), ledger.forgetting([0]), AdmissionConfig()).outcome is Outcome.APPLIED


def test_the_same_text_from_another_source_is_a_duplicate() -> None:
    assert admit(document(source="Reuters"), remembered(document()), AdmissionConfig()).outcome is Outcome.DUPLICATE


def test_duplicates_can_be_learned() -> None:
    again = document(offset=8)
    assert admit(again, remembered(document()), AdmissionConfig(learn_duplicates=True)).outcome is Outcome.APPLIED


@pytest.mark.parametrize(("chars", "reason"), [(4, "too_short"), (5, "admitted"), (9, "admitted"), (10, "too_long")])
def test_lengths_include_their_bounds(chars: int, reason: str) -> None:
    assert admit(document("x" * chars), Ledger(), AdmissionConfig(min_chars=5, max_chars=9)).reason == reason


@pytest.mark.parametrize(
    ("source", "config", "reason"),
    [
        ("afp", AdmissionConfig(deny_sources=("AFP",)), "source_denied"),
        ("Reuters", AdmissionConfig(deny_sources=("AFP",)), "admitted"),
        (None, AdmissionConfig(deny_sources=("AFP",)), "admitted"),
        ("AFP", AdmissionConfig(allow_sources=("afp",)), "admitted"),
        ("Reuters", AdmissionConfig(allow_sources=("afp",)), "source_not_allowed"),
        (None, AdmissionConfig(allow_sources=("afp",)), "source_not_allowed"),
    ],
)
def test_sources_are_allowed_and_denied(source: str | None, config: AdmissionConfig, reason: str) -> None:
    assert admit(document(source=source), Ledger(), config).reason == reason


def test_a_filtered_document_is_no_duplicate() -> None:
    verdict = admit(document(), remembered(document()), AdmissionConfig(min_chars=100))
    assert verdict == Verdict(outcome=Outcome.FILTERED, reason="too_short")


def test_the_same_text_under_another_id_is_a_duplicate() -> None:
    assert admit(document(document_id="b"), remembered(document()), AdmissionConfig()).outcome is Outcome.DUPLICATE


def test_a_known_id_with_other_content_replaces_that_document() -> None:
    ledger = remembered(document())
    later = document("Another president.", offset=8)
    verdict = admit(later, ledger, AdmissionConfig())
    assert (verdict.outcome, verdict.reason, verdict.document) == (Outcome.APPLIED, "correction", later)
    assert verdict.replaces == ledger.document("a")


def test_a_correction_replaces_although_its_text_is_known_under_another_id() -> None:
    ledger = remembered(document(), document("B's text", document_id="b"))
    verdict = admit(document("B's text", offset=9), ledger, AdmissionConfig())
    assert verdict.outcome is Outcome.APPLIED
    assert verdict.replaces == ledger.document("a")


@pytest.mark.parametrize(("first", "second"), [((NEWS, 5), (OTHER, 6)), ((NEWS, 6), (OTHER, 5)), ((NEWS, 5), (OTHER, 5))])
def test_replay_exact_partitions_end_alike_in_whatever_order_they_come(first: tuple[Partition, int], second: tuple[Partition, int]) -> None:
    one = document("one", partition=first[0], time_ms=first[1])
    two = document("two", partition=second[0], time_ms=second[1])
    ends = []
    for order in ((one, two), (two, one)):
        ledger = Ledger()
        for number, each in enumerate(order):
            verdict = admit(each, ledger, AdmissionConfig())
            if verdict.document is not None:
                ledger = ledger.with_row(LedgerRow.of(verdict.document, [number], tokens=1, tokens_left_out=0))
        ends.append([row.content_sha256 for row in ledger])
    assert ends[0] == ends[1]


def test_without_superseding_both_are_learned_under_ids_of_their_own() -> None:
    verdict = admit(document("Another president.", offset=8), remembered(document()), AdmissionConfig(supersede=False))
    assert verdict.document is not None
    assert (verdict.document.document_id, verdict.replaces) == ("a#news/0/8", None)


def test_a_tombstone_takes_out_the_document_whose_id_its_key_is_else_those_of_its_key() -> None:
    ledger = remembered(document(key=b"k"), document("2", document_id="b", key=b"k"), document("3", document_id="k2", key=b"a"))

    def ids(key: bytes | None, topic: str = "news") -> list[str]:
        record = Record(partition=Partition(topic, 0), offset=99, timestamp_ms=0, key=key)
        return [row.document_id for row in doomed(Tombstone(record=record), ledger)]

    assert (ids(b"a"), ids(b"k"), ids(b"k", "sport"), ids(b"?"), ids(None), ids(b"\xff")) == (["a"], ["a", "b"], [], [], [], [])


@pytest.mark.parametrize(
    "section",
    [
        {"min_chars": 10, "max_chars": 9},
        {"allow_sources": ["AFP"], "deny_sources": ["afp"]},
        {"min_chars": 0},
        {"near_duplicates": True},
    ],
)
def test_a_configuration_that_cannot_work_is_refused(section: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        AdmissionConfig.model_validate(section)


def test_a_source_has_its_share_of_the_memory_and_no_more() -> None:
    config = AdmissionConfig(max_source_share=0.5)
    ledger = remembered(*(document(f"text {number}", document_id=str(number)) for number in range(4)))
    more = Verdict(outcome=Outcome.APPLIED, reason="admitted", document=document("more", source="a\u200bfp", document_id="more"))
    other = Verdict(outcome=Outcome.APPLIED, reason="admitted", document=document("more", source="dpa", document_id="more"))
    assert ledger.updates_of("AFP") == 4
    assert not crowds_out(more, 1, ledger, config, blocks=10)
    assert crowds_out(more, 2, ledger, config, blocks=10)
    assert not crowds_out(other, 2, ledger, config, blocks=10)
    assert not crowds_out(more, 2, ledger.forgetting([0]), config, blocks=10)
    assert not crowds_out(more, 2, ledger, AdmissionConfig(), blocks=10)


def test_a_correction_may_take_the_room_of_what_it_replaces() -> None:
    config = AdmissionConfig(max_source_share=0.5)
    ledger = remembered(*(document(f"text {number}", document_id=str(number)) for number in range(5)))
    verdict = admit(document("corrected", document_id="4", offset=9), ledger, config)
    assert verdict.replaces is not None
    assert not crowds_out(verdict, 1, ledger, config, blocks=10) and crowds_out(verdict, 2, ledger, config, blocks=10)


def test_counts_by_source_are_the_same_however_the_ledger_came_to_be() -> None:
    documents = [document(f"text {number}", source=("AFP", "dpa", None)[number % 3], document_id=str(number)) for number in range(9)]
    grown = Ledger()
    for number, each in enumerate(documents):
        grown = grown.with_row(LedgerRow.of(each, [number], tokens=1, tokens_left_out=0))
    changed = grown.without(["0", "1"]).forgetting([2])
    again = Ledger.from_table(changed.to_table())
    for source in ("AFP", "dpa", None):
        assert changed.updates_of(source) == again.updates_of(source) == 2
