"""What gets in. Memory forgets: each update drops its share of everything, so every document that is let in is paid for by the others.

Pure: the verdict depends on the document, on what is still remembered (the ledger) and on the configuration (REPLAY-EXACT).
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from pipeline.records import Document, Outcome


class AdmissionConfig(BaseModel):
    """Which documents are learned. Sources are compared without regard to case."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    learn_duplicates: bool = Field(default=False, description="true: learn a text again although it is still remembered.")
    min_chars: int = Field(default=1, ge=1, description="Texts shorter than this are filtered.")
    max_chars: int | None = Field(default=None, ge=1, description="Texts longer than this are filtered. null: none are.")
    allow_sources: tuple[str, ...] = Field(default=(), description="Only these sources are learned. Empty: all are, named or not.")
    deny_sources: tuple[str, ...] = Field(default=(), description="These sources are filtered.")

    @model_validator(mode="after")
    def _can_be_met(self) -> Self:
        if self.max_chars is not None and self.max_chars < self.min_chars:
            raise ValueError(f"max_chars {self.max_chars} is below min_chars {self.min_chars}: nothing could pass")
        both = {name.casefold() for name in self.allow_sources} & {name.casefold() for name in self.deny_sources}
        if both:
            raise ValueError(f"both allowed and denied: {', '.join(sorted(both))}")
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What shall become of a document: APPLIED (learn it), DUPLICATE or FILTERED. `reason` is one of a few words, fit for a metric's label.

    >>> Verdict(outcome=Outcome.FILTERED, reason="too_short").reason
    'too_short'
    """

    outcome: Outcome
    reason: str


_ADMITTED = Verdict(outcome=Outcome.APPLIED, reason="admitted")
_REMEMBERED = Verdict(outcome=Outcome.DUPLICATE, reason="remembered")


def admit(document: Document, ledger: Container[str], config: AdmissionConfig) -> Verdict:
    """The verdict on one document. A filtered one is no duplicate, whatever is remembered.

    `ledger` holds the content hashes of what is still remembered; a story that was forgotten may be learned again.
    """
    if reason := _length_fault(len(document.text), config) or _source_fault(document.source, config):
        return Verdict(outcome=Outcome.FILTERED, reason=reason)
    if not config.learn_duplicates and document.content_sha256 in ledger:
        return _REMEMBERED
    return _ADMITTED


def _length_fault(chars: int, config: AdmissionConfig) -> str | None:
    if chars < config.min_chars:
        return "too_short"
    return "too_long" if config.max_chars is not None and chars > config.max_chars else None


def _source_fault(source: str | None, config: AdmissionConfig) -> str | None:
    name = (source or "").casefold()
    if name in {each.casefold() for each in config.deny_sources}:
        return "source_denied"
    allowed = {each.casefold() for each in config.allow_sources}
    return "source_not_allowed" if allowed and name not in allowed else None
