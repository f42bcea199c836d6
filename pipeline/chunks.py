"""From a document to the token sequences of its self-updates.

    [title | source | 30 Dec 2025\n][first sentences of the text]
    [title | source | 30 Dec 2025\n][the next ones]

Every chunk carries the header line: it says what the rest is about, to whoever looks for it. Source and date stand at their places in it
whatever the title says: a title has no separator of its own, and if the line is too long the title is cut, not what comes after it.
Cuts fall between sentences where they can, so that a fact is not torn in two, and evenly, so that no tail is tiny. REPLAY-EXACT: the
chunks depend on the document, the tokenizer and the configuration alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import pairwise
from typing import Final, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field

from pipeline.records import Chunk, Document

HEADER_SHARE: Final = 3
"""A header line takes a third of a chunk at most."""

SOURCE_SHARE: Final = 4
"""Where a header line is too long, its source keeps a quarter of it."""

_SENTENCES: Final = re.compile(r"(?<=[.!?;])(?=\s)|(?<=[\u3002\uff01\uff1f\n])")
_BARS: Final = re.compile("[|\u00a6\u01c0\u2223\u2502\u2503\u2758\ufe31\uff5c\uffe4\uffe8]")
"""The header line's separator, and what looks like it."""

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
    max_blocks: int = Field(
        default=64, ge=1, description="Updates that one document may take (and never more than its memory allows); the rest is cut off."
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

    @property
    def token_ids(self) -> list[Sequence[int]]:
        """Of each chunk."""
        return [chunk.token_ids for chunk in self.chunks]


def chunk_document(
    document: Document,
    encode: Callable[[str], list[int]],
    config: ChunkConfig,
    *,
    update_tokens: int,
    most_updates: int,
    min_tokens: int = 1,
) -> Chunked:
    """The chunks of one document.

    Args:
        document: what to cut.
        encode: a tokenizer without special tokens of its own, and with control tokens switched off (`split_special_tokens=True`). Header
            and text are encoded apart, so that a text has the same tokens under any header.
        config: size, header and bound.
        update_tokens: K, memory tokens that one update writes, whatever the length of its chunk.
        most_updates: that the memory allows one document.
        min_tokens: no chunk is shorter (unless `chunk_tokens` is): a short one gets more header lines in front.

    Returns:
        One chunk or more of at most `chunk_tokens` tokens.
    """
    size = min(config.chunk_tokens or update_tokens, update_tokens)
    header = header_tokens(header_parts(document, config.header), encode, size // HEADER_SHARE)
    room = size - len(header)
    parts = cut(sentences(document.text, encode), room)
    kept = parts[: min(config.max_blocks, most_updates)]
    filled = [_filled(header, part, min(min_tokens, size), size) for part in kept or [[]]]
    total = sum(map(len, parts))
    return Chunked(
        chunks=_numbered(document.document_id, [part for part in filled if part]),
        tokens_total=total,
        tokens_left_out=total - sum(map(len, kept)),
    )


def sentences(text: str, encode: Callable[[str], list[int]]) -> list[list[int]]:
    """The tokens of a text, sentence by sentence; white space between two belongs to the second."""
    return [tokens for piece in _SENTENCES.split(text) if piece and (tokens := encode(piece))]


def cut(pieces: list[list[int]], room: int) -> list[list[int]]:
    """Whole pieces put together into parts of at most `room` tokens, as few and as even as they allow.

    A piece that is longer than the room is cut evenly first.

    >>> cut([[1] * 5, [2] * 5, [3] * 5, [4] * 5], 12)
    [[1, 1, 1, 1, 1, 2, 2, 2, 2, 2], [3, 3, 3, 3, 3, 4, 4, 4, 4, 4]]
    """
    if sum(map(len, pieces)) <= room:
        whole = [token for piece in pieces for token in piece]
        return [whole] if whole else []
    small = [part for piece in pieces for part in _even(piece, room)]
    parts = _packed(small, room)
    # The same number of parts, each no fuller than it must be: the narrowest room that needs no more of them.
    low, high = -(-sum(map(len, small)) // max(1, len(parts))), room
    while low < high:
        middle = (low + high) // 2
        if max(map(len, small), default=0) <= middle and len(_packed(small, middle)) <= len(parts):
            high = middle
        else:
            low = middle + 1
    return _packed(small, high)


def _packed(pieces: list[list[int]], room: int) -> list[list[int]]:
    parts: list[list[int]] = []
    for piece in pieces:
        if parts and len(parts[-1]) + len(piece) <= room:
            parts[-1] = [*parts[-1], *piece]
        else:
            parts.append(piece)
    return parts


def _even(piece: list[int], room: int) -> list[list[int]]:
    """Parts of at most `room` tokens whose lengths differ by one at most."""
    count = -(-len(piece) // room)
    bounds = [number * len(piece) // count for number in range(count + 1)]
    return [piece[first:end] for first, end in pairwise(bounds)]


class Headed(Protocol):
    """What a header line is made of."""

    @property
    def title(self) -> str | None: ...
    @property
    def source(self) -> str | None: ...
    @property
    def event_time_ms(self) -> int | None: ...


def header_line(document: Headed, config: ChunkConfig) -> str:
    """`title | source | 30 Dec 2025` and a line feed, with what is there; empty where nothing is."""
    return "".join(text for _, text in header_parts(document, config.header))


def header_parts(document: Headed, order: Sequence[str] = ("title", "source", "date")) -> list[tuple[str, str]]:
    """The line's parts by name, separators and line feed included."""
    date = None if document.event_time_ms is None else _date(document.event_time_ms)
    values = {"title": _plain(document.title), "source": _plain(document.source), "date": date}
    there = [(name, value) for name in order if (value := values[name])]
    ends = [*[""] * (len(there) - 1), "\n"]
    return [(name, (" | " if number else "") + value + ends[number]) for number, (name, value) in enumerate(there)]


def _plain(value: str | None) -> str:
    """One line without separators: neither may make a part of it look like the next part, or like text."""
    return " ".join(_BARS.sub("/", value or "").split())


def _date(event_time_ms: int) -> str:
    date = datetime.fromtimestamp(event_time_ms // 1000, UTC)
    return f"{date.day} {_MONTHS[date.month - 1]} {date.year}"


def header_tokens(parts: Sequence[tuple[str, str]], encode: Callable[[str], list[int]], most: int) -> list[int]:
    """The tokens of a header line, at most so many: a long source gives way first, then the title; the line always ends as a line.

    >>> header_tokens([("title", "abcdefgh"), ("date", "|12\\n")], lambda text: list(text.encode()), 7) == list(b"abc|12\\n")
    True
    """
    tokens = {name: encode(text) for name, text in parts}
    for name, least in (("source", most // SOURCE_SHARE), ("title", 0), ("source", 0), ("date", 0)):
        over = sum(map(len, tokens.values())) - most
        if over > 0 and len(tokens.get(name, ())) > least:
            is_last = name == parts[-1][0]
            kept = max(len(tokens[name]) - over, least, 1 if is_last else 0)
            # The last part's last token is the line's end.
            tokens[name] = [*tokens[name][: kept - 1], tokens[name][-1]] if is_last else tokens[name][:kept]
    return [token for name, _ in parts for token in tokens[name]][:most]


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
