"""Chunks: header, even cut, no short tail, a share of the pool."""

import itertools

import pytest
from pydantic import ValidationError

from pipeline.chunks import MIN_TOKENS, ChunkConfig, Chunked, chunk_document, header_line
from pipeline.records import Document, Partition, Record

DEC_30 = 1_767_081_600_000


def document(text: str, title: str | None = "Elections", source: str | None = "AFP", event_time_ms: int = DEC_30) -> Document:
    record = Record(partition=Partition("news", 0), offset=7, timestamp_ms=0, value=b"")
    return Document(
        record=record, document_id="a", text=text, event_time_ms=event_time_ms, content_sha256="f00", title=title, source=source
    )


def encode_characters(text: str) -> list[int]:
    return [ord(character) for character in text]


def encode_pairs(text: str) -> list[int]:
    """Two characters a token, as a real tokenizer merges: what stands in front shifts every token behind it."""
    return [ord(first) * 0x110000 + ord(second) for first, second in itertools.zip_longest(text[::2], text[1::2], fillvalue="\0")]


def decode_pairs(tokens: tuple[int, ...]) -> str:
    return "".join(chr(token // 0x110000) + chr(token % 0x110000) for token in tokens).replace("\0", "")


def encode_words(text: str) -> list[int]:
    return [len(word) for word in text.split()]


def chunked(text: str, config: ChunkConfig | None = None, pool_tokens: int = 100_000, update_tokens: int = 64) -> Chunked:
    return chunk_document(document(text), encode_characters, config or ChunkConfig(), pool_tokens, update_tokens)


def texts(result: Chunked) -> list[str]:
    return ["".join(map(chr, chunk.token_ids)) for chunk in result.chunks]


def test_a_short_document_is_one_chunk_under_its_header() -> None:
    result = chunked("A new president.")
    assert texts(result) == ["Elections | AFP | 30 Dec 2025\nA new president."]
    assert (result.chunks[0].number, result.chunks[0].count, result.chunks[0].document_id) == (0, 1, "a")
    assert (result.tokens_total, result.tokens_left_out) == (16, 0)


def test_every_chunk_carries_the_header_and_the_cut_is_even() -> None:
    header = "Elections | AFP | 30 Dec 2025\n"
    parts = [text.removeprefix(header) for text in texts(chunked("abcdefghij" * 7))]
    assert "".join(parts) == "abcdefghij" * 7
    assert [len(part) for part in parts] == [23, 23, 24]
    assert all(text.startswith(header) for text in texts(chunked("abcdefghij" * 7)))


@pytest.mark.parametrize("update_tokens", [16, 17, 64])
@pytest.mark.parametrize("header", [(), ("date",), ("title", "source", "date")])
def test_no_chunk_is_short_and_none_is_long(update_tokens: int, header: tuple[str, ...]) -> None:
    config = ChunkConfig.model_validate({"header": header})
    for length in range(1, 300):
        chunks = chunked("x" * length, config, update_tokens=update_tokens).chunks
        assert all(MIN_TOKENS <= len(chunk.token_ids) <= update_tokens for chunk in chunks)
        assert [(chunk.number, chunk.count) for chunk in chunks] == [(number, len(chunks)) for number in range(len(chunks))]


@pytest.mark.parametrize("update_tokens", range(1, 16))
def test_a_tiny_model_has_tiny_chunks(update_tokens: int) -> None:
    for length in range(1, 40):
        assert all(len(chunk.token_ids) == update_tokens for chunk in chunked("x" * length, update_tokens=update_tokens).chunks)


def test_header_and_text_are_encoded_apart() -> None:
    assert encode_pairs("abc") + encode_pairs("def") != encode_pairs("abcdef")
    even, odd = document("abcdef" * 30, title="ab"), document("abcdef" * 30, title="abc")
    results = [chunk_document(each, encode_pairs, ChunkConfig(), 100_000, 32) for each in (even, odd)]
    for each, result in zip((even, odd), results, strict=True):
        line = header_line(each, ChunkConfig())
        parts = [decode_pairs(chunk.token_ids).removeprefix(line) for chunk in result.chunks]
        assert "".join(parts) == each.text
        assert sum(len(part) for part in parts) == 2 * result.tokens_total


def test_a_document_that_is_too_short_is_filled_by_its_header_line() -> None:
    result = chunked("Yes.", ChunkConfig(header=("source",)))
    assert texts(result) == ["AFP\nAFP\nAFP\nYes."]


def test_filling_stays_within_a_small_chunk() -> None:
    result = chunked("Yes.", ChunkConfig(header=("source", "date")), update_tokens=16)
    assert len(result.chunks[0].token_ids) == 16
    assert texts(result)[0].endswith("Yes.")


def test_without_a_header_the_text_fills_itself() -> None:
    assert texts(chunked("Yes. ", ChunkConfig(header=()))) == ["Yes. " * 4]


def test_a_text_without_tokens_leaves_its_header() -> None:
    result = chunk_document(document("\u200b"), lambda text: encode_words(text.replace("\u200b", "")), ChunkConfig(), 1_000, 16)
    assert len(result.chunks) == 1
    assert len(result.chunks[0].token_ids) == 16
    assert (result.tokens_total, result.tokens_left_out) == (0, 0)


def test_neither_header_nor_text_is_no_chunk() -> None:
    assert chunk_document(document("x"), lambda text: [], ChunkConfig(), 1_000, 16) == Chunked(chunks=(), tokens_total=0, tokens_left_out=0)


def test_a_document_takes_at_most_its_share_of_the_pool() -> None:
    config = ChunkConfig(header=(), max_pool_share=0.25)
    result = chunked("x" * 1_000, config, pool_tokens=640, update_tokens=64)
    assert len(result.chunks) == 2
    assert (result.tokens_total, result.tokens_left_out) == (1_000, 1_000 - 128)


def test_the_share_counts_what_updates_overwrite_not_how_long_they_are() -> None:
    config = ChunkConfig(header=(), chunk_tokens=128, max_pool_share=0.25)
    result = chunked("x" * 1_000, config, pool_tokens=640, update_tokens=64)
    assert [len(chunk.token_ids) for chunk in result.chunks] == [128, 128]


def test_one_update_is_always_allowed() -> None:
    result = chunked("x" * 1_000, ChunkConfig(header=(), max_pool_share=0.01), pool_tokens=640, update_tokens=64)
    assert (len(result.chunks), result.tokens_left_out) == (1, 1_000 - 64)


def test_a_long_header_is_cut_to_half_a_chunk_and_keeps_its_end() -> None:
    config = ChunkConfig(header=("title",))
    result = chunk_document(document("y" * 100, title="x" * 500), encode_characters, config, 100_000, 64)
    assert len(result.chunks) == 4
    assert all(text.startswith("x" * 31 + "\ny") for text in texts(result))


def test_a_header_is_one_line_of_what_is_there() -> None:
    assert header_line(document("", title="Two\n lines\u2028here", source=None), ChunkConfig()) == "Two lines here | 30 Dec 2025\n"
    assert header_line(document("", title=None, source=None), ChunkConfig(header=("title", "source"))) == ""
    assert header_line(document("", event_time_ms=0), ChunkConfig(header=("date", "title"))) == "1 Jan 1970 | Elections\n"


def test_replay_exact_the_same_document_gives_the_same_chunks() -> None:
    text = "abcdefghij" * 50
    assert chunked(text) == chunked(text)


@pytest.mark.parametrize("section", [{"chunk_tokens": 1}, {"header": ["author"]}, {"max_pool_share": 0.0}, {"max_pool_share": 1.1}])
def test_a_configuration_that_cannot_work_is_refused(section: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        ChunkConfig.model_validate(section)
