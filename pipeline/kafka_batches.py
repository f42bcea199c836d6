"""Which offsets a batch spans that cannot be parsed, so that it alone is passed over and its neighbours are kept.

kafka-python parses an answer batch by batch and says of a broken one only that there is one. What spans it is in front of what is broken: a
batch's header tells its first and its last offset, and the batch behind it where it ends at the latest.

    answer | batch | batch | broken batch | batch |        base offset -- last offset delta --> end
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from kafka import errors as kafka_errors
from kafka.consumer.fetcher import Fetcher
from kafka.record.util import calc_crc32c

_MAGIC: Final = 16
_HEADER: Final = struct.Struct(">qiibIhiqqqhii")
"""Of a batch: base offset, length, leader epoch, magic, CRC, attributes, last offset delta, two times, producer (3), records."""
_CHECKED_FROM: Final = 21
"""The CRC is over what comes from here on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """The offsets `first` up to and without `end`; `first` is None where only the end is known.

    `sure`: the checksum, or the batch behind, says so too; else it is the header's word alone, which may be broken like the rest.
    """

    first: int | None
    end: int
    sure: bool


class UnreadableBatch(Exception):
    """A batch of `partition` (kafka-python's) that cannot be parsed."""

    def __init__(self, partition: Any, span: Span | None, error: Exception) -> None:
        super().__init__(f"{type(error).__name__}: {error}")
        self.partition, self.span = partition, span


class _Followed:
    """The batches of an answer, as kafka-python deals them out; remembers the one that is being parsed."""

    def __init__(self, records: Any) -> None:
        self._records = records
        self._now: memoryview | None = None

    def next_batch(self) -> Any:
        self._now = self._records._next_slice
        return self._records.next_batch()

    def skip(self) -> Span | None:
        """Go to the next batch and look at its header alone; None behind the last one."""
        self._now = self._records._next_slice
        if self._now is not None:
            self._records._cache_next()
        return self.span()

    def span(self) -> Span | None:
        """Of the batch that is being parsed; None where its header makes no sense."""
        behind = self._records._next_slice
        following = None if behind is None or behind is self._now else struct.unpack_from(">q", behind)[0]
        return None if self._now is None else span_of(self._now, following)


def span_of(batch: memoryview | bytes, following: int | None) -> Span | None:
    """What a batch's header says; `following` is the base offset of the batch behind it."""
    if len(batch) <= _MAGIC:
        return None
    (base,) = struct.unpack_from(">q", batch)
    if batch[_MAGIC] < 2:  # a message, or several in a wrapper that bears the last one's offset
        return Span(first=None, end=base + 1, sure=following == base + 1)
    if len(batch) < _HEADER.size:
        return None
    _, _, _, _, crc, _, last_delta, *_, count = _HEADER.unpack_from(batch)
    end = base + last_delta + 1
    sound = calc_crc32c(bytes(batch[_CHECKED_FROM:])) == crc
    if not sound and following is not None and following > base:
        return Span(first=base, end=following if not base < end <= following else end, sure=True)
    if base < 0 or last_delta < 0 or not 0 <= count <= last_delta + 1:
        return None
    return Span(first=base, end=end, sure=sound)


_headers_only = False


class OnlyItsHeader(Exception):
    """Nothing is wrong: only headers were asked for."""


@contextmanager
def headers_only() -> Iterator[None]:
    """Within it, whatever would be parsed raises UnreadableBatch, with the span that its header tells."""
    global _headers_only
    _headers_only = True
    try:
        yield
    finally:
        _headers_only = False


def _telling_which(unpack: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
    @functools.wraps(unpack)
    def unpack_records(self: Any, partition: Any, records: Any, *deserializers: Any) -> Iterator[Any]:
        followed = _Followed(records)
        try:
            if _headers_only:
                while (span := followed.skip()) is not None and span.end <= self.fetch_offset:
                    pass  # a batch before the one that is asked for
                raise OnlyItsHeader
            yield from unpack(self, partition, followed, *deserializers)
        except (MemoryError, OSError):  # this machine's trouble, not the bytes'
            raise
        except Exception as error:  # parsers and codecs raise whatever they like at bytes from outside
            if isinstance(error, kafka_errors.KafkaError) and not is_parse_error(error):
                raise
            raise UnreadableBatch(partition, followed.span(), error) from error

    return unpack_records


def is_parse_error(error: kafka_errors.KafkaError) -> bool:
    """A plain KafkaError is "no complete records were found"; its other subclasses concern the connection or the broker."""
    return isinstance(error, kafka_errors.CorruptRecordError) or type(error) is kafka_errors.KafkaError


def apply() -> None:
    """Patch this process's kafka-python; again is as once."""
    unpack = Fetcher.PartitionRecords._unpack_records
    if not hasattr(unpack, "__wrapped__"):
        Fetcher.PartitionRecords._unpack_records = _telling_which(unpack)
