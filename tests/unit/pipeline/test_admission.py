"""Admission: who gets in, and the word that says why not."""

import pytest
from pydantic import ValidationError

from pipeline.admission import AdmissionConfig, Verdict, admit
from pipeline.ledger import Ledger, LedgerRow
from pipeline.records import Document, Outcome, Partition, Record


def document(text: str = "A new president.", source: str | None = "AFP") -> Document:
    record = Record(partition=Partition("news", 0), offset=7, timestamp_ms=0, value=b"")
    return Document(record=record, document_id="a", text=text, event_time_ms=0, content_sha256=f"sha256 of {text}", source=source)


def remembered(*documents: Document) -> Ledger:
    return Ledger(rows=tuple(LedgerRow.of(each, [number]) for number, each in enumerate(documents)))


def test_by_default_every_new_text_gets_in() -> None:
    assert admit(document(source=None), Ledger(), AdmissionConfig()) == Verdict(outcome=Outcome.APPLIED, reason="admitted")


def test_a_remembered_text_is_a_duplicate_and_a_forgotten_one_is_not() -> None:
    ledger = remembered(document())
    assert admit(document(), ledger, AdmissionConfig()) == Verdict(outcome=Outcome.DUPLICATE, reason="remembered")
    assert admit(document(), ledger.remembering(()), AdmissionConfig()).outcome is Outcome.APPLIED


def test_the_same_text_from_another_source_is_a_duplicate() -> None:
    assert admit(document(source="Reuters"), remembered(document()), AdmissionConfig()).outcome is Outcome.DUPLICATE


def test_duplicates_can_be_learned() -> None:
    assert admit(document(), remembered(document()), AdmissionConfig(learn_duplicates=True)).outcome is Outcome.APPLIED


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
