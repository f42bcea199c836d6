"""All that reaches into kafka-python, here and in `kafka_batches`: what its 3.0.x does wrong, or does not let us say.

| what | why |
|---|---|
| decompression is bounded | a batch of 1 MB may unfold to 32 GB; here it is unreadable, which is a gap, and reading goes on |
| header names that are no UTF-8 | one of them makes a whole batch unreadable; here the name is escaped and nothing else is lost |
| which batch could not be parsed | kafka-python does not say; `pipeline.kafka_batches` makes it |
| `forget_highwater`, `drop_used_up_answer`, `force_close` | private fields, see where they are used |

Held by tests/unit/pipeline/test_kafka_patches.py, which fails where a new version has changed what is patched; hence the upper bound on the
version. What a move to confluent-kafka would take: docs/security.md.
"""

from __future__ import annotations

import functools
import io
import struct
import zlib
from collections.abc import Callable
from typing import Any, Final

import lz4.frame
import snappy
import zstandard
from kafka.record import default_records, legacy_records
from kafka.record.default_records import DefaultRecordBatch

MOST_UNFOLDED_BYTES: Final = 256 << 20
"""Of one batch. Brokers take batches of 1 MB unless told otherwise, and text shrinks to a tenth."""

_PART_BYTES: Final = 1 << 20
_XERIAL: Final = b"\x82SNAPPY\x00"
_XERIAL_HEAD_BYTES: Final = 16


class UnfoldsTooFar(ValueError):
    """A batch is larger than `MOST_UNFOLDED_BYTES` once it is decompressed."""

    def __init__(self) -> None:
        super().__init__(f"a compressed batch of more than {MOST_UNFOLDED_BYTES >> 20} MB")


def gzip_decode(payload: Any) -> bytes:
    """RFC 1952, also several members."""
    parts, size, rest = [], 0, bytes(payload)
    while rest:
        unfolder = zlib.decompressobj(wbits=31)
        while not unfolder.eof:
            part = unfolder.decompress(rest, _PART_BYTES)
            size += len(part)
            if size > MOST_UNFOLDED_BYTES:
                raise UnfoldsTooFar
            parts.append(part)
            rest = unfolder.unconsumed_tail
            if not part and not rest and not unfolder.eof:
                raise ValueError("gzip data that ends early")
        rest = unfolder.unused_data
    return b"".join(parts)


def snappy_decode(payload: bytes) -> bytes:
    """Plain snappy, or the blocks of the Java client. How large a block is, is said in front of it."""
    if not payload.startswith(_XERIAL):
        return _snappy(payload, 0)
    parts, size, place = [], 0, _XERIAL_HEAD_BYTES
    while place < len(payload):
        (length,) = struct.unpack_from("!i", payload, place)
        if length <= 0:
            raise ValueError("a snappy block without a length")
        parts.append(_snappy(payload[place + 4 : place + 4 + length], size))
        size += len(parts[-1])
        place += 4 + length
    return b"".join(parts)


def _snappy(block: bytes, before: int) -> bytes:
    length, shift = 0, 0
    for byte in block[:5]:
        length |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            break
    if before + length > MOST_UNFOLDED_BYTES:
        raise UnfoldsTooFar
    return bytes(snappy.decompress(block))


def lz4_decode(payload: bytes) -> bytes:
    """Frames of LZ4."""
    parts, size, rest = [], 0, payload
    while rest:
        unfolder = lz4.frame.LZ4FrameDecompressor()
        while not unfolder.eof:
            part = unfolder.decompress(rest, max_length=_PART_BYTES)
            size += len(part)
            if size > MOST_UNFOLDED_BYTES:
                raise UnfoldsTooFar
            parts.append(part)
            rest = b""
            if not part and unfolder.needs_input and not unfolder.eof:
                raise ValueError("LZ4 data that ends early")
        rest = unfolder.unused_data or b""
    return b"".join(parts)


def zstd_decode(payload: bytes) -> bytes:
    """Frames of zstd."""
    with zstandard.ZstdDecompressor().stream_reader(io.BytesIO(payload), read_across_frames=True) as reader:
        found: bytes = reader.read(MOST_UNFOLDED_BYTES + 1)
    if len(found) > MOST_UNFOLDED_BYTES:
        raise UnfoldsTooFar
    return found


class _Tolerant(bytearray):
    """A buffer whose parts decode to text whatever they hold: what is no UTF-8 is escaped."""

    def __getitem__(self, key: Any) -> Any:
        found = super().__getitem__(key)
        return _Tolerant(found) if isinstance(key, slice) else found

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        return super().decode(encoding, "backslashreplace")


def _reading_any_name(read: Callable[[Any], Any]) -> Callable[[Any], Any]:
    @functools.wraps(read)
    def read_message(batch: Any) -> Any:
        place = batch._pos
        try:
            return read(batch)
        except UnicodeDecodeError:
            buffer, batch._buffer, batch._pos = batch._buffer, _Tolerant(batch._buffer), place
            try:
                return read(batch)
            finally:
                batch._buffer = buffer

    return read_message


def apply() -> None:
    """Patch this process's kafka-python; again is as once."""
    for module in (default_records, legacy_records):
        for decode in (gzip_decode, snappy_decode, lz4_decode, zstd_decode):
            if decode.__name__ in vars(module):
                setattr(module, decode.__name__, decode)
    read = DefaultRecordBatch._read_msg
    if not hasattr(read, "__wrapped__"):
        DefaultRecordBatch._read_msg = _reading_any_name(read)


def forget_highwater(consumer: Any, partition: Any) -> None:
    """kafka-python keeps a high watermark without a time: with this, the next one that is there came after now."""
    consumer._subscription.assignment[partition].highwater = None


def drop_used_up_answer(consumer: Any) -> None:
    """An answer that is used up stays in the works, and no partition that was paused meanwhile is looked for."""
    consumer._fetcher._next_partition_records = consumer._fetcher._next_partition_records or None


def force_close(producer: Any, timeout_s: float) -> None:
    """End a producer whose `close` raised while it flushed, before it ended its thread."""
    producer._sender.force_close()
    producer._sender.join(timeout_s)
    producer._closed = True
