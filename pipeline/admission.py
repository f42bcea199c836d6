"""What gets in, what replaces what, and what a tombstone takes out. Memory has a bound, so what is let in is paid for by what leaves.

Pure: the verdict depends on the document, on what is still remembered (the ledger) and on the configuration (REPLAY-EXACT).

A record with an id that is remembered is a correction: it takes the other's place. Within one partition the later record wins. Two
partitions have no common order, so between them the greater event time does (then topic and partition): however they interleave, the
same version stays.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from pipeline.ledger import Ledger, LedgerRow
from pipeline.names import same_name
from pipeline.records import Document, Outcome, Tombstone


class AdmissionConfig(BaseModel):
    """Which documents are learned. Sources are compared without regard to case, width and invisible characters."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    learn_duplicates: bool = Field(default=False, description="true: learn a text again although it is still remembered.")
    supersede: bool = Field(
        default=True, description="A record with an id that is remembered replaces that document. false: it is learned beside it."
    )
    min_chars: int = Field(default=1, ge=1, description="Texts shorter than this are filtered.")
    max_chars: int | None = Field(default=None, ge=1, description="Texts longer than this are filtered. null: none are.")
    allow_sources: tuple[str, ...] = Field(default=(), description="Only these sources are learned. Empty: all are, named or not.")
    deny_sources: tuple[str, ...] = Field(default=(), description="These sources are filtered.")

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
    if reason := _length_fault(len(document.text), config) or _source_fault(document.source, config):
        return Verdict(outcome=Outcome.FILTERED, reason=reason)
    known = ledger.document(document.document_id) if document.has_feed_id else None
    same = known is not None and known.content_sha256 == document.content_sha256
    if not config.learn_duplicates and (same or (document.content_sha256 in ledger and (known is None or not config.supersede))):
        return Verdict(outcome=Outcome.DUPLICATE, reason="remembered")
    if known is None:
        return Verdict(outcome=Outcome.APPLIED, reason="admitted", document=document)
    if not config.supersede:
        apart = replace(document, document_id=f"{document.document_id}#{document.partition}/{document.offset}")
        return Verdict(outcome=Outcome.APPLIED, reason="admitted", document=apart)
    if not _later(document, known):
        return Verdict(outcome=Outcome.FILTERED, reason="superseded")
    return Verdict(outcome=Outcome.APPLIED, reason="correction", document=document, replaces=known)


def crowds_out(verdict: Verdict, updates: int, ledger: Ledger, config: AdmissionConfig, blocks: int) -> bool:
    """Whether learning a document by so many updates would give its source more than its share of a memory of `blocks`.

    Computed from what is remembered, so a replay comes to the same.
    """
    if config.max_source_share is None or verdict.document is None:
        return False
    own = same_name(verdict.document.source)
    freed = len(verdict.replaces.updates) if verdict.replaces is not None and same_name(verdict.replaces.source) == own else 0
    return ledger.updates_of(own) - freed + updates > config.max_source_share * blocks


def doomed(tombstone: Tombstone, ledger: Ledger) -> tuple[LedgerRow, ...]:
    """The remembered documents that a tombstone takes out: the one whose id its key is, else those published under that key."""
    name, key = tombstone.key_text, tombstone.record.key
    row = None if name is None else ledger.document(name)
    if row is not None:
        return (row,)
    return () if key is None else ledger.with_key(tombstone.record.partition.topic, key)


def _later(document: Document, known: LedgerRow) -> bool:
    if document.partition == known.partition:
        return document.offset > known.offset
    return (document.event_time_ms, document.partition) > (known.event_time_ms, known.partition)


def _length_fault(chars: int, config: AdmissionConfig) -> str | None:
    if chars < config.min_chars:
        return "too_short"
    return "too_long" if config.max_chars is not None and chars > config.max_chars else None


def _source_fault(source: str | None, config: AdmissionConfig) -> str | None:
    name = same_name(source)
    if name in config.denied:
        return "source_denied"
    return "source_not_allowed" if config.allowed and name not in config.allowed else None
