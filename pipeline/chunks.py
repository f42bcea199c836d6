"""From a document to the token sequences of its self-updates.

    [title | source | 30 Dec 2025\\n][first part of the text]
    [title | source | 30 Dec 2025\\n][second part of the text]

Every chunk carries the header line, because an update sees little of the one before. The cut is even, so that no tail is short: below 16
tokens an update disturbs more memory than it writes (MemoryLLM, section 3). REPLAY-EXACT: the chunks depend on the document, the
tokenizer and the configuration alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import pairwise
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from pipeline.records import Chunk, Document

MIN_TOKENS: Final = 16
"""No chunk is shorter, unless chunks are configured to be."""

_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


class ChunkConfig(BaseModel):
    """How documents are cut into updates."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    chunk_tokens: int | None = Field(
        default=None, ge=2, description="Tokens of one update, its header line included. null: as many as the model writes (K)."
    )
    header: tuple[Literal["title", "source", "date"], ...] = Field(
        default=("title", "source", "date"), description="What stands in front of every chunk, in this order, where a document has it."
    )
    max_pool_share: float = Field(
        default=0.25, gt=0, le=1, description="Share of the memory pool that one document may overwrite; the rest of its text is cut off."
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunked:
    """A document's chunks, in order, and how much of its text they hold. `tokens_total` and `tokens_left_out` count the text, not headers.

    No chunks at all: neither the header nor the text has a token, and there is nothing to learn.

    >>> Chunked(chunks=(), tokens_total=0, tokens_left_out=0).tokens_left_out
    0
    """

    chunks: tuple[Chunk, ...] = field(repr=False)
    tokens_total: int
    tokens_left_out: int


def chunk_document(
    document: Document, encode: Callable[[str], list[int]], config: ChunkConfig, pool_tokens: int, update_tokens: int
) -> Chunked:
    """The chunks of one document.

    Args:
        document: what to cut.
        encode: a tokenizer without special tokens of its own, and with control tokens switched off (`split_special_tokens=True`). Header
            and text are encoded apart, so that a text has the same tokens under any header.
        config: size, header and share.
        pool_tokens: N, memory tokens a layer.
        update_tokens: K, memory tokens that one update writes, whatever the length of its chunk.

    Returns:
        One chunk or more of at most `chunk_tokens` tokens, none of them under 16 (unless `chunk_tokens` is).
    """
    size = config.chunk_tokens or update_tokens
    line, body = encode(header_line(document, config)), encode(document.text)
    header = _cut_header(line, size // 2)
    room = size - len(header)
    kept = body[: max_updates(config, pool_tokens, update_tokens) * room]
    parts = [_filled(header, part, min(MIN_TOKENS, size), size) for part in _even_cut(kept, room)]
    return Chunked(
        chunks=_numbered(document.document_id, [part for part in parts if part]),
        tokens_total=len(body),
        tokens_left_out=len(body) - len(kept),
    )


def max_updates(config: ChunkConfig, pool_tokens: int, update_tokens: int) -> int:
    """Updates that one document may take: its share of the pool, and always one."""
    return max(1, int(config.max_pool_share * pool_tokens) // update_tokens)


def header_line(document: Document, config: ChunkConfig) -> str:
    """`title | source | 30 Dec 2025` and a line feed, with what is there; empty where nothing is."""
    values = {"title": document.title, "source": document.source, "date": _date(document.event_time_ms)}
    # A line feed inside would make the rest of a title look like text.
    parts = [" ".join(value.split()) for name in config.header if (value := values[name])]
    return " | ".join(parts) + "\n" if parts else ""


def _date(event_time_ms: int) -> str:
    date = datetime.fromtimestamp(event_time_ms // 1000, UTC)
    return f"{date.day} {_MONTHS[date.month - 1]} {date.year}"


def _cut_header(line: list[int], max_tokens: int) -> list[int]:
    """The line's first tokens, and its last one, which ends it."""
    return line if len(line) <= max_tokens else [*line[: max_tokens - 1], line[-1]][:max_tokens]


def _even_cut(body: list[int], room: int) -> list[list[int]]:
    """Parts of at most `room` tokens whose lengths differ by one at most; one empty part where there is nothing to cut."""
    count = max(1, -(-len(body) // room))
    bounds = [number * len(body) // count for number in range(count + 1)]
    return [body[first:end] for first, end in pairwise(bounds)]


def _filled(header: list[int], part: list[int], min_tokens: int, max_tokens: int) -> list[int]:
    """Header and part; where they are too short, as many more header lines in front as it takes (or the part again, without a header)."""
    tokens, line = [*header, *part], header or part
    if not tokens or len(tokens) >= min_tokens:
        return tokens
    repeats = -(-(min_tokens - len(tokens)) // len(line))
    return [*(line * repeats), *tokens][-max_tokens:]


def _numbered(document_id: str, parts: list[list[int]]) -> tuple[Chunk, ...]:
    return tuple(
        Chunk(document_id=document_id, number=number, count=len(parts), token_ids=tuple(part)) for number, part in enumerate(parts)
    )
