"""What gets in, what replaces what, and what a tombstone takes out. Memory has a bound, so what is let in is paid for by what leaves.

Pure: the verdict depends on the document, on what is still remembered (the ledger) and on the configuration (REPLAY-EXACT).

A record with an id that is remembered is a correction: it takes the other's place. Within one partition the later record wins. Two
partitions have no common order, so between them the greater event time does (then topic and partition): however they interleave, the
same version stays.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from itertools import count
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from pipeline.ledger import Ledger, LedgerRow
from pipeline.names import same_name
from pipeline.near_duplicates import LEAST_LIKENESS, signature_of
from pipeline.records import Document, Outcome, Tombstone


class SourceQuota(BaseModel):
    """How much one source may say in a while. Nobody's clock is asked: a document counts where its record's own timestamp lies."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    documents: int = Field(ge=1, description="Documents of one source that are remembered of each window; more are filtered.")
    window_s: int = Field(
        default=3600,
        ge=60,
        le=604_800,
        multiple_of=60,
        description="Length of a window, in whole minutes, by the records' Kafka timestamps; windows begin at multiples of it since 1970.",
    )

    def window(self, document: Document) -> range:
        """The minutes since 1970 of the window that a document lies in."""
        time_ms = document.record.timestamp_ms if document.record.timestamp_ms > 0 else document.event_time_ms
        first = time_ms // (self.window_s * 1000) * (self.window_s // 60)
        return range(first, first + self.window_s // 60)


class AdmissionConfig(BaseModel):
    """Which documents are learned. Sources are compared without regard to case, width and invisible characters."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    learn_duplicates: bool = Field(default=False, description="true: learn a text again although it is still remembered.")
    near_duplicates: float | None = Field(
        default=None,
        ge=LEAST_LIKENESS,
        le=1,
        description="A text that has this share of its three-word sequences in common with a remembered one is a duplicate. null: only"
        " the same text is. Corrections of remembered ids are learned however small they are.",
    )
    supersede: bool = Field(
        default=True, description="A record with an id that is remembered replaces that document. false: it is learned beside it."
    )
    min_chars: int = Field(default=1, ge=1, description="Texts shorter than this are filtered.")
    max_chars: int | None = Field(default=None, ge=1, description="Texts longer than this are filtered. null: none are.")
    allow_sources: tuple[str, ...] = Field(default=(), description="Only these sources are learned. Empty: all are, named or not.")
    deny_sources: tuple[str, ...] = Field(default=(), description="These sources are filtered.")
    min_age_s: float | None = Field(
        default=None,
        ge=0,
        allow_inf_nan=False,
        description="Documents whose event time is nearer to their record's Kafka timestamp are filtered: embargoes. null: none are.",
    )
    max_age_s: float | None = Field(
        default=None,
        ge=0,
        allow_inf_nan=False,
        description="Documents whose event time lies longer before their record's Kafka timestamp are filtered: old news. null: none are.",
    )
    per_source: SourceQuota | None = Field(default=None, description="How many documents of one source in a while. null: as many as come.")
    max_source_share: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="Share of the memory that one source's documents may fill; more of it is filtered. null: all of it.",
    )

    @cached_property
    def allowed(self) -> frozenset[str]:
        """Of `allow_sources`, as names are compared."""
        return frozenset(map(same_name, self.allow_sources))

    @cached_property
    def denied(self) -> frozenset[str]:
        """Of `deny_sources`, as names are compared."""
        return frozenset(map(same_name, self.deny_sources))

    @model_validator(mode="after")
    def _can_be_met(self) -> Self:
        if self.max_chars is not None and self.max_chars < self.min_chars:
            raise ValueError(f"max_chars {self.max_chars} is below min_chars {self.min_chars}: nothing could pass")
        if self.near_duplicates is not None and self.learn_duplicates:
            raise ValueError("near_duplicates filters what learn_duplicates lets in: set one of them")
        if self.min_age_s is not None and self.max_age_s is not None and self.max_age_s < self.min_age_s:
            raise ValueError(f"max_age_s {self.max_age_s:g} is below min_age_s {self.min_age_s:g}: nothing could pass")
        if both := self.allowed & self.denied:
            raise ValueError(f"both allowed and denied: {', '.join(sorted(both))}")
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What shall become of a document: APPLIED (learn it), DUPLICATE or FILTERED. `reason` is one of a few words, fit for a metric's label.

    `document` is the one to learn, and `replaces` the remembered one whose place it takes.

    >>> Verdict(outcome=Outcome.FILTERED, reason="too_short").reason
    'too_short'
    """

    outcome: Outcome
    reason: str
    document: Document | None = None
    replaces: LedgerRow | None = None


def admit(document: Document, ledger: Ledger, config: AdmissionConfig) -> Verdict:
    """The verdict on one document. A filtered one is no duplicate, whatever is remembered.

    `ledger` is what is still remembered; a story that was forgotten may be learned again.
    """
    if reason := _length_fault(len(document.text), config) or _source_fault(document.source, config) or _age_fault(document, config):
        return Verdict(outcome=Outcome.FILTERED, reason=reason)
    known = ledger.document(document.document_id)
    corrects = known if config.supersede and document.has_feed_id else None
    same = known is not None and known.content_sha256 == document.content_sha256
    if not config.learn_duplicates and (same or (document.content_sha256 in ledger and corrects is None)):
        return Verdict(outcome=Outcome.DUPLICATE, reason="remembered")
    if corrects is not None and not _later(document, corrects):
        return Verdict(outcome=Outcome.FILTERED, reason="superseded")
    if config.near_duplicates is not None:
        document = replace(document, signature=signature_of(document.title, document.text))
        if corrects is None and ledger.most_like(document.signature or b"", config.near_duplicates) is not None:
            return Verdict(outcome=Outcome.DUPLICATE, reason="near_duplicate")
    if config.per_source is not None and _exceeds(config.per_source, document, corrects, ledger):
        return Verdict(outcome=Outcome.FILTERED, reason="source_quota")
    if known is not None and corrects is None:
        document = replace(document, document_id=_id_beside(document, ledger))
    return Verdict(outcome=Outcome.APPLIED, reason="correction" if corrects else "admitted", document=document, replaces=corrects)


def crowds_out(verdict: Verdict, updates: int, ledger: Ledger, config: AdmissionConfig, blocks: int) -> bool:
    """Whether learning a document by so many updates would give its source more than its share of a memory of `blocks`.

    Computed from what is remembered, so a replay comes to the same.
    """
    if config.max_source_share is None or verdict.document is None:
        return False
    own = same_name(verdict.document.source)
    freed = len(verdict.replaces.updates) if verdict.replaces is not None and same_name(verdict.replaces.source) == own else 0
    return ledger.updates_of(own) - freed + updates > config.max_source_share * blocks


def _exceeds(quota: SourceQuota, document: Document, corrects: LedgerRow | None, ledger: Ledger) -> bool:
    """Whether its source has said enough in the window of this document; what a correction replaces does not count."""
    window = quota.window(document)
    freed = corrects is not None and corrects.minute[0] == same_name(document.source) and corrects.minute[1] in window
    return ledger.documents_of(document.source, window) - freed >= quota.documents


def doomed(tombstone: Tombstone, ledger: Ledger) -> tuple[LedgerRow, ...]:
    """The remembered documents that a tombstone takes out: the one whose id its key is, else those published under that key."""
    name, key = tombstone.key_text, tombstone.record.key
    row = None if name is None else ledger.document(name)
    if row is not None:
        return (row,)
    return () if key is None else ledger.with_key(tombstone.record.partition.topic, key)


def _id_beside(document: Document, ledger: Ledger) -> str:
    """An id that nothing remembered has. Offsets come again in a topic that was made anew, so a place alone may be taken, too."""
    place = f"{document.partition}/{document.offset}"
    name = f"{document.document_id}#{place}" if document.has_feed_id else place
    numbered = (name if number == 1 else f"{name}#{number}" for number in count(1))
    return next(each for each in numbered if ledger.document(each) is None)


def _later(document: Document, known: LedgerRow) -> bool:
    """A partition is read in its order, so what comes is later; its offsets say nothing where the topic was made anew."""
    if document.partition == known.partition:
        return True
    return (document.event_time_ms, document.partition) > (known.event_time_ms, known.partition)


def _length_fault(chars: int, config: AdmissionConfig) -> str | None:
    if chars < config.min_chars:
        return "too_short"
    return "too_long" if config.max_chars is not None and chars > config.max_chars else None


def _age_fault(document: Document, config: AdmissionConfig) -> str | None:
    """Judged by the record's own timestamp; a record without one gives nothing to compare with."""
    if document.record.timestamp_ms <= 0:
        return None
    age_s = (document.record.timestamp_ms - document.event_time_ms) / 1000
    if config.min_age_s is not None and age_s < config.min_age_s:
        return "too_new"
    return "too_old" if config.max_age_s is not None and age_s > config.max_age_s else None


def _source_fault(source: str | None, config: AdmissionConfig) -> str | None:
    name = same_name(source)
    if name in config.denied:
        return "source_denied"
    return "source_not_allowed" if config.allowed and name not in config.allowed else None
