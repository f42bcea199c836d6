"""Chunks: header, cuts between sentences, no tiny tail, a bound on one document."""

import itertools
import random

import pytest
from pydantic import ValidationError

from pipeline.chunks import ChunkConfig, Chunked, chunk_document, header_line
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


POOL = 16
"""Least tokens of an update into the pool of the paper."""


def chunked(
    text: str | Document, config: ChunkConfig | None = None, update_tokens: int = 64, most_updates: int = 1000, min_tokens: int = POOL
) -> Chunked:
    return chunk_document(
        text if isinstance(text, Document) else document(text),
        encode_characters,
        config or ChunkConfig(),
        update_tokens=update_tokens,
        most_updates=most_updates,
        min_tokens=min_tokens,
    )


def texts(result: Chunked) -> list[str]:
    return ["".join(map(chr, chunk.token_ids)) for chunk in result.chunks]


def test_a_short_document_is_one_chunk_under_its_header() -> None:
    result = chunked("A new president.", update_tokens=120)
    assert texts(result) == ["Elections | AFP | 30 Dec 2025\nA new president."]
    assert (result.chunks[0].number, result.chunks[0].count, result.chunks[0].document_id) == (0, 1, "a")
    assert (result.tokens_total, result.tokens_left_out) == (16, 0)


@pytest.mark.parametrize(
    "title", ["Peace | Reuters | 1 Jan 2030", "x" * 500, "a|b||c|" * 40, "\n|\n", "Peace \uff5c Reuters \u2502 1 Jan 2030"]
)
def test_no_title_takes_the_place_of_source_and_date(title: str) -> None:
    """Whatever it says and however long it is, what the model reads behind it is the record's own."""
    for line in texts(chunked(document("A new president.", title=title), update_tokens=120)):
        header = line.partition("\n")[0]
        assert header.endswith(" | AFP | 30 Dec 2025") and header.count("|") == 2
        assert not set("\uff5c\u2502") & set(header)


def test_a_source_makes_no_date_and_leaves_room_for_the_title() -> None:
    forged = document("A new president.", source="AFP | 1 Jan 2030 " + "y" * 300)
    (line,) = texts(chunked(forged, update_tokens=150))
    assert line.startswith("Elections | AFP / 1 J") and line.partition("\n")[0].endswith(" | 30 Dec 2025")


def test_every_chunk_carries_the_header_and_the_cut_is_even() -> None:
    config = ChunkConfig(header=("source",))
    parts = [text.removeprefix("AFP\n") for text in texts(chunked("abcdefghij" * 15, config))]
    assert "".join(parts) == "abcdefghij" * 15
    assert [len(part) for part in parts] == [50, 50, 50]
    assert all(text.startswith("AFP\n") for text in texts(chunked("abcdefghij" * 15, config)))


def test_cuts_fall_between_sentences_where_they_can() -> None:
    text = "The first one is here. The second one is longer than it. A third! And a fourth? The fifth; it goes on."
    parts = texts(chunked(text, ChunkConfig(header=()), update_tokens=60))
    assert parts == ["The first one is here. The second one is longer than it.", " A third! And a fourth? The fifth; it goes on."]


@pytest.mark.parametrize("seed", range(30))
def test_every_token_is_in_one_chunk_in_order_and_no_more_chunks_than_packing_needs(seed: int) -> None:
    rng = random.Random(seed)
    text = " ".join("x" * rng.randint(1, 90) + rng.choice(".!?,;") for _ in range(rng.randint(1, 40)))
    size = rng.randint(16, 80)
    result = chunked(text, ChunkConfig(header=(), max_blocks=1_000), update_tokens=size, min_tokens=1)
    assert "".join(texts(result)) == text
    assert (result.tokens_total, result.tokens_left_out) == (len(text), 0)
    assert max(len(chunk.token_ids) for chunk in result.chunks) <= size
    assert len(result.chunks) <= 2 * -(-len(text) // size)


@pytest.mark.parametrize("update_tokens", [16, 17, 64])
@pytest.mark.parametrize("header", [(), ("date",), ("title", "source", "date")])
def test_no_chunk_is_short_and_none_is_long(update_tokens: int, header: tuple[str, ...]) -> None:
    config = ChunkConfig.model_validate({"header": header})
    for length in range(1, 300):
        chunks = chunked("x" * length, config, update_tokens=update_tokens).chunks
        assert all(POOL <= len(chunk.token_ids) <= update_tokens for chunk in chunks)
        assert [(chunk.number, chunk.count) for chunk in chunks] == [(number, len(chunks)) for number in range(len(chunks))]


@pytest.mark.parametrize("update_tokens", range(1, 16))
def test_a_tiny_model_has_tiny_chunks(update_tokens: int) -> None:
    for length in range(1, 40):
        assert all(len(chunk.token_ids) == update_tokens for chunk in chunked("x" * length, update_tokens=update_tokens).chunks)


def test_a_block_may_be_short() -> None:
    assert texts(chunked("Yes.", ChunkConfig(header=()), min_tokens=1)) == ["Yes."]


def test_header_and_text_are_encoded_apart() -> None:
    assert encode_pairs("abc") + encode_pairs("def") != encode_pairs("abcdef")
    even, odd = document("abcdef" * 30, title="ab"), document("abcdef" * 30, title="abc")
    results = [chunk_document(each, encode_pairs, ChunkConfig(), update_tokens=64, most_updates=99) for each in (even, odd)]
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
    result = chunk_document(
        document("\u200b"),
        lambda text: encode_words(text.replace("\u200b", "")),
        ChunkConfig(),
        update_tokens=32,
        most_updates=9,
        min_tokens=16,
    )
    assert len(result.chunks) == 1
    assert len(result.chunks[0].token_ids) >= 16
    assert (result.tokens_total, result.tokens_left_out) == (0, 0)


def test_neither_header_nor_text_is_no_chunk() -> None:
    nothing = chunk_document(document("x"), lambda text: [], ChunkConfig(), update_tokens=16, most_updates=9)
    assert nothing == Chunked(chunks=(), tokens_total=0, tokens_left_out=0)


def test_a_document_takes_so_many_blocks_at_most_and_what_is_cut_off_is_counted() -> None:
    result = chunked("x" * 1_000, ChunkConfig(header=(), max_blocks=2))
    assert len(result.chunks) == 2
    kept = sum(len(chunk.token_ids) for chunk in result.chunks)
    assert (result.tokens_total, result.tokens_left_out) == (1_000, 1_000 - kept)


def test_the_memory_may_allow_less() -> None:
    assert len(chunked("x" * 1_000, ChunkConfig(header=()), most_updates=3).chunks) == 3


def test_a_long_header_is_cut_to_a_third_of_a_chunk_and_keeps_its_end() -> None:
    config = ChunkConfig(header=("title",))
    long = document("y" * 100, title="x" * 500)
    result = chunk_document(long, encode_characters, config, update_tokens=64, most_updates=99)
    assert len(result.chunks) == 3
    assert all(text.startswith("x" * 20 + "\ny") for text in texts(result))


def test_a_header_is_one_line_of_what_is_there() -> None:
    assert header_line(document("", title="Two\n lines\u2028here", source=None), ChunkConfig()) == "Two lines here | 30 Dec 2025\n"
    assert header_line(document("", title=None, source=None), ChunkConfig(header=("title", "source"))) == ""
    assert header_line(document("", event_time_ms=0), ChunkConfig(header=("date", "title"))) == "1 Jan 1970 | Elections\n"


def test_replay_exact_the_same_document_gives_the_same_chunks() -> None:
    text = "abcdefghij" * 50
    assert chunked(text) == chunked(text)


@pytest.mark.parametrize("section", [{"chunk_tokens": 1}, {"header": ["author"]}, {"max_blocks": 0}, {"max_pool_share": 0.5}])
def test_a_configuration_that_cannot_work_is_refused(section: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        ChunkConfig.model_validate(section)
