"""Which offsets a batch that cannot be parsed takes with it: its own, and no neighbour's."""

from __future__ import annotations

import struct

import pytest
from kafka import TopicPartition
from kafka.consumer.fetcher import Fetcher
from kafka.record import MemoryRecords, MemoryRecordsBuilder
from kafka.record.util import calc_crc32c

from pipeline import kafka_client  # noqa: F401  (the patch is made where connections are)
from pipeline.kafka_batches import Span, UnreadableBatch, span_of

NEWS = TopicPartition("news", 0)


def batch(base: int, count: int, codec: int = 0) -> bytearray:
    builder = MemoryRecordsBuilder(magic=2, compression_type=codec, batch_size=1 << 24)
    for number in range(count):
        builder.append(timestamp=1, key=None, value=b"value %d" % (base + number), headers=[])
    builder.close()
    data = bytearray(builder.buffer())
    data[:8] = struct.pack(">q", base)  # the checksum begins behind it
    return data


def legacy(base: int) -> bytearray:
    builder = MemoryRecordsBuilder(magic=1, compression_type=0, batch_size=1 << 20)
    builder.append(timestamp=1, key=None, value=b"old", headers=[])
    builder.close()
    data = bytearray(builder.buffer())
    data[:8] = struct.pack(">q", base)
    return data


def read(data: bytes, at: int = 0) -> tuple[list[int], UnreadableBatch | None]:
    """The offsets that come, and what ends them."""
    records, found = Fetcher.PartitionRecords(at, NEWS, MemoryRecords(data)), []
    try:
        while records and (taken := records.take(500)):
            found += [record.offset for record in taken]
    except UnreadableBatch as error:
        return found, error
    return found, None


def test_whole_batches_are_read_as_ever() -> None:
    assert read(bytes(batch(0, 3) + batch(3, 2))) == ([0, 1, 2, 3, 4], None)


@pytest.mark.parametrize("behind", [True, False])
def test_a_wrong_checksum_costs_its_batch_alone(behind: bool) -> None:
    broken = batch(3, 1100)
    broken[-1] ^= 0xFF
    found, error = read(bytes(batch(0, 3) + broken + (batch(1103, 2) if behind else b"")))
    assert found == [0, 1, 2] and error is not None
    assert (error.partition, error.span) == (NEWS, Span(first=3, end=1103, sure=behind))


def test_a_header_that_lies_is_corrected_by_the_batch_behind_or_not_believed() -> None:
    broken = batch(3, 10)
    broken[23:27] = struct.pack(">i", 2_000_000_000)  # last offset delta
    _, error = read(bytes(broken + batch(13, 2)), at=3)
    assert error is not None and error.span == Span(first=3, end=13, sure=True)
    broken[23:27] = struct.pack(">i", -7)
    _, error = read(bytes(broken), at=3)
    assert error is not None and error.span is None


def test_a_batch_whose_checksum_holds_tells_its_span_for_sure() -> None:
    """A codec's data is broken, or unfolds too far: what stands in front of it is sound."""
    data = batch(7, 5, codec=1)
    data[61:] = b"no gzip at all"
    data[8:12] = struct.pack(">i", len(data) - 12)
    data[17:21] = struct.pack(">I", calc_crc32c(bytes(data[21:])))
    found, error = read(bytes(data), at=7)
    assert found == [] and error is not None and error.span == Span(first=7, end=12, sure=True)


def test_a_record_in_the_middle_is_broken_and_those_before_it_come() -> None:
    data = batch(0, 3)
    place = bytes(data).index(b"value 2") - 6  # the length of the last record
    data[place] = 0x7E
    data[17:21] = struct.pack(">I", calc_crc32c(bytes(data[21:])))
    found, error = read(bytes(data))
    assert found == [0, 1] and error is not None and error.span == Span(first=0, end=3, sure=True)


def test_older_formats_tell_where_they_end() -> None:
    data = legacy(8)
    data[-1] ^= 0xFF
    assert span_of(bytes(data), None) == Span(first=None, end=9, sure=False)
    assert span_of(bytes(data), 9) == Span(first=None, end=9, sure=True)
    assert span_of(b"too short", None) is None


def test_what_is_this_machines_trouble_is_no_broken_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    def out_of_memory(self: object) -> None:
        raise MemoryError

    monkeypatch.setattr("kafka.record.default_records.DefaultRecordBatch._read_msg", out_of_memory)
    with pytest.raises(MemoryError):
        Fetcher.PartitionRecords(0, NEWS, MemoryRecords(bytes(batch(0, 3)))).take(10)
