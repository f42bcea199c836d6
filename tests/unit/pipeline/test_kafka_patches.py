"""What is patched in kafka-python: fails where another version has other insides."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Callable

import kafka
import lz4.frame
import pytest
import snappy
import zstandard
from kafka import KafkaConsumer, KafkaProducer
from kafka.consumer.subscription_state import TopicPartitionState
from kafka.record import MemoryRecords, MemoryRecordsBuilder, default_records

from pipeline import kafka_patches
from pipeline.kafka_patches import MOST_UNFOLDED_BYTES, UnfoldsTooFar

CODECS = {"none": 0, "gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4}


def batch(headers: list[list[tuple[str, bytes]]], codec: str = "none") -> bytes:
    builder = MemoryRecordsBuilder(magic=2, compression_type=CODECS[codec], batch_size=1 << 24)
    for number, own in enumerate(headers):
        assert builder.append(timestamp=1, key=b"k", value=b"value %d" % number, headers=own) is not None
    builder.close()
    return bytes(builder.buffer())


def read(data: bytes) -> list[tuple[bytes, list[tuple[str, bytes]]]]:
    records, found = MemoryRecords(data), []
    while (each := records.next_batch()) is not None:
        found += [(record.value, list(record.headers)) for record in each]
    return found


def test_the_version_is_one_whose_insides_are_known() -> None:
    assert kafka.__version__.startswith("3.0."), "look through pipeline/kafka_patches.py before this bound is moved"


@pytest.mark.parametrize("codec", list(CODECS))
def test_a_header_name_that_is_no_utf8_costs_nothing_else(codec: str) -> None:
    whole = batch([[("trace", b"1")], [("t\u00e9st", b"2")], [("after", b"3")]], codec="none")
    broken = whole.replace("t\u00e9st".encode(), b"t\xff\xfest")
    found = read(broken)
    assert [value for value, _ in found] == [b"value 0", b"value 1", b"value 2"]
    assert found[1][1] == [("t\\xff\\xfest", b"2")]
    assert read(batch([[("trace", b"1")]] * 3, codec))[2] == (b"value 2", [("trace", b"1")])


def test_eleven_hundred_of_them_are_read() -> None:
    broken = batch([[("t\u00e9st", b"2")]] * 1100).replace("t\u00e9st".encode(), b"t\xff\xfest")
    assert len(read(broken)) == 1100


def folded(codec: str, size: int) -> bytes:
    """Zeros: some kilobytes that unfold to `size` bytes."""
    if codec == "gzip":
        return gzip.compress(b"\0" * size)
    if codec == "lz4":
        return bytes(lz4.frame.compress(b"\0" * size))
    if codec == "zstd":
        folder = zstandard.ZstdCompressor(write_content_size=False)
        return folder.compress(b"\0" * size)
    return bytes(snappy.compress(b"\0" * size))


DECODERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": kafka_patches.gzip_decode,
    "lz4": kafka_patches.lz4_decode,
    "zstd": kafka_patches.zstd_decode,
    "snappy": kafka_patches.snappy_decode,
}


@pytest.mark.parametrize("codec", list(DECODERS))
def test_decompression_is_bounded(codec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kafka_patches, "MOST_UNFOLDED_BYTES", 3 << 20)
    assert DECODERS[codec](folded(codec, 3 << 20)) == b"\0" * (3 << 20)
    with pytest.raises(UnfoldsTooFar):
        DECODERS[codec](folded(codec, (3 << 20) + 1))


def test_blocks_of_the_java_client_are_bounded_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kafka_patches, "MOST_UNFOLDED_BYTES", 1000)
    block = bytes(snappy.compress(b"x" * 400))
    head = b"\x82SNAPPY\x00" + struct.pack("!ii", 1, 1)
    framed = struct.pack("!i", len(block)) + block
    assert kafka_patches.snappy_decode(head + framed * 2) == b"x" * 800
    with pytest.raises(UnfoldsTooFar):
        kafka_patches.snappy_decode(head + framed * 3)
    with pytest.raises(ValueError, match="without a length"):
        kafka_patches.snappy_decode(head + b"\0\0\0\0")


@pytest.mark.parametrize("codec", ["gzip", "lz4"])
def test_data_that_ends_early_is_an_error_and_no_endless_loop(codec: str) -> None:
    with pytest.raises((ValueError, RuntimeError, EOFError)):
        DECODERS[codec](folded(codec, 100_000)[:-9])


def test_several_members_are_all_read() -> None:
    assert kafka_patches.gzip_decode(gzip.compress(b"one") + gzip.compress(b"two")) == b"onetwo"
    assert kafka_patches.lz4_decode(lz4.frame.compress(b"one") + lz4.frame.compress(b"two")) == b"onetwo"


def test_the_patches_are_in_place() -> None:
    for name, decode in (("gzip_decode", kafka_patches.gzip_decode), ("zstd_decode", kafka_patches.zstd_decode)):
        assert vars(default_records)[name] is decode
    assert hasattr(default_records.DefaultRecordBatch._read_msg, "__wrapped__")
    assert MOST_UNFOLDED_BYTES >= 64 << 20


def test_the_private_fields_are_there() -> None:
    assert "highwater" in TopicPartitionState().__dict__
    assert hasattr(KafkaProducer, "close") and hasattr(KafkaConsumer, "highwater")
