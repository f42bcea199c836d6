"""Admission: who gets in, and the word that says why not."""

from dataclasses import replace

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


@pytest.mark.parametrize(
    ("has_feed_id", "ids"), [(False, ["news/0/8", "news/0/8#2", "news/0/8#3"]), (True, ["a", "a#news/0/8", "a#news/0/8#2"])]
)
def test_a_place_that_comes_again_in_a_topic_made_anew_is_another_document(has_feed_id: bool, ids: list[str]) -> None:
    config, ledger = AdmissionConfig(supersede=False), Ledger()
    for number in range(3):
        told = document(f"life {number} of the topic", document_id="a" if has_feed_id else "news/0/8", offset=8)
        verdict = admit(replace(told, has_feed_id=has_feed_id), ledger, config)
        assert verdict.document is not None and verdict.replaces is None
        ledger = ledger.with_row(LedgerRow.of(verdict.document, [number], tokens=1))
    assert [row.document_id for row in ledger] == ids


def test_in_a_topic_made_anew_a_correction_may_have_an_earlier_offset() -> None:
    ledger = remembered(document(offset=70))
    assert admit(document("Another president.", offset=3), ledger, AdmissionConfig()).replaces == ledger.document("a")


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
        {"nearly_duplicates": True},
        {"near_duplicates": 0.4},
        {"near_duplicates": 0.8, "learn_duplicates": True},
        {"min_age_s": 10, "max_age_s": 9},
        {"per_source": {"documents": 3, "window_s": 90}},
        {"per_source": {"window_s": 60}},
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


STORY = " ".join(f"word{number}" for number in range(200))
RETOLD = STORY.replace("word100", "another")
NEARLY = AdmissionConfig(near_duplicates=0.8)


def learned(config: AdmissionConfig, *documents: Document) -> Ledger:
    """What is remembered after these, as a replica comes to it."""
    ledger = Ledger()
    for number, each in enumerate(documents):
        verdict = admit(each, ledger, config)
        if verdict.document is not None:
            ledger = ledger.with_row(LedgerRow.of(verdict.document, [number], tokens=1, tokens_left_out=0))
    return ledger


def test_a_text_that_is_nearly_remembered_is_a_duplicate_until_that_is_forgotten() -> None:
    ledger = learned(NEARLY, document(STORY))
    retold = document(RETOLD, document_id="b", source="dpa", partition=OTHER)
    assert admit(retold, ledger, NEARLY) == Verdict(outcome=Outcome.DUPLICATE, reason="near_duplicate")
    assert admit(retold, ledger, AdmissionConfig()).outcome is Outcome.APPLIED
    assert admit(retold, ledger.forgetting([0]), NEARLY).outcome is Outcome.APPLIED
    assert admit(document("Quite another story.", document_id="b"), ledger, NEARLY).outcome is Outcome.APPLIED


def test_replay_exact_near_duplicates_are_the_same_after_a_restore() -> None:
    ledger = Ledger.from_table(learned(NEARLY, document(STORY)).to_table())
    assert admit(document(RETOLD, document_id="b"), ledger, NEARLY).reason == "near_duplicate"


def test_a_small_correction_still_supersedes_and_is_compared_with_from_then_on() -> None:
    ledger = learned(NEARLY, document(STORY), document("Quite another story.", document_id="b"))
    verdict = admit(document(RETOLD, offset=8), ledger, NEARLY)
    assert (verdict.reason, verdict.replaces) == ("correction", ledger.document("a"))
    # one that comes to say what another document says already, too
    assert admit(document(RETOLD, document_id="b", offset=8), ledger, NEARLY).reason == "correction"
    assert verdict.document is not None
    after = ledger.with_row(LedgerRow.of(verdict.document, [5], tokens=1, tokens_left_out=0))
    assert admit(document(RETOLD.replace("word9 ", "new "), document_id="c"), after, NEARLY).reason == "near_duplicate"


def test_without_superseding_a_small_correction_is_a_near_duplicate() -> None:
    beside = AdmissionConfig(near_duplicates=0.8, supersede=False)
    assert admit(document(RETOLD, offset=8), learned(beside, document(STORY)), beside).reason == "near_duplicate"


def at(time_ms: int, number: int, source: str | None = "AFP", partition: Partition = NEWS, event_time_ms: int | None = None) -> Document:
    record = Record(partition=partition, offset=number, timestamp_ms=time_ms, value=b"")
    return Document(
        record=record,
        document_id=str(number),
        text=f"text {number}",
        event_time_ms=time_ms if event_time_ms is None else event_time_ms,
        content_sha256=str(number),
        source=source,
        has_feed_id=True,
    )


QUOTA = AdmissionConfig.model_validate({"per_source": {"documents": 2, "window_s": 120}})
MIDNIGHT_MS = 1_767_052_800_000


def test_a_source_has_its_quota_in_each_window_of_its_records_time() -> None:
    times_s = (0, 30, 119, 120, 130, 239, 240)
    ledger = learned(QUOTA, *(at(MIDNIGHT_MS + time_s * 1000, number) for number, time_s in enumerate(times_s)))
    assert [row.document_id for row in ledger] == ["0", "1", "3", "4", "6"]
    late = at(MIDNIGHT_MS + 60_000, 9)
    assert admit(late, ledger, QUOTA) == Verdict(outcome=Outcome.FILTERED, reason="source_quota")
    assert admit(at(MIDNIGHT_MS + 60_000, 9, source="dpa"), ledger, QUOTA).outcome is Outcome.APPLIED
    assert admit(at(MIDNIGHT_MS + 60_000, 9, source="\uff21fp\u200b"), ledger, QUOTA).outcome is Outcome.FILTERED
    assert admit(late, ledger.forgetting([0]), QUOTA).outcome is Outcome.APPLIED
    backdated = at(MIDNIGHT_MS + 60_000, 9, event_time_ms=MIDNIGHT_MS - 86_400_000)
    assert admit(backdated, ledger, QUOTA).outcome is Outcome.FILTERED  # what a producer says of the time does not help


def test_a_correction_is_within_the_quota_that_it_frees() -> None:
    ledger = learned(QUOTA, at(MIDNIGHT_MS, 0), at(MIDNIGHT_MS, 1))
    corrected = at(MIDNIGHT_MS + 1000, 1)
    corrected = Document(record=corrected.record, document_id="0", text="new", event_time_ms=corrected.event_time_ms, content_sha256="new",
                         source="AFP", has_feed_id=True)  # fmt: skip
    assert admit(corrected, ledger, QUOTA).reason == "correction"


def test_however_partitions_interleave_as_many_documents_of_a_window_get_in() -> None:
    one = [at(MIDNIGHT_MS + each * 50_000, each, partition=NEWS) for each in range(6)]
    other = [at(MIDNIGHT_MS + (each - 10) * 50_000, each, partition=OTHER) for each in range(10, 16)]
    counts = []
    for order in (one + other, other + one, [each for pair in zip(one, other, strict=True) for each in pair]):
        ledger = learned(QUOTA, *order)
        first = MIDNIGHT_MS // 60_000
        counts.append([ledger.documents_of("AFP", range(minute, minute + 2)) for minute in (first, first + 2, first + 4)])
    assert counts == [[2, 2, 2]] * 3


@pytest.mark.parametrize(("age_s", "reason"), [(-5, "too_new"), (59, "too_new"), (60, None), (3600, None), (3601, "too_old")])
def test_age_is_judged_by_the_records_own_timestamp(age_s: int, reason: str | None) -> None:
    config = AdmissionConfig(min_age_s=60, max_age_s=3600)
    verdict = admit(at(MIDNIGHT_MS, 1, event_time_ms=MIDNIGHT_MS - age_s * 1000), Ledger(), config)
    assert (verdict.outcome, verdict.reason) == ((Outcome.FILTERED, reason) if reason else (Outcome.APPLIED, "admitted"))


def test_a_record_without_a_timestamp_has_no_age() -> None:
    assert admit(at(-1, 1, event_time_ms=MIDNIGHT_MS), Ledger(), AdmissionConfig(max_age_s=1)).outcome is Outcome.APPLIED
