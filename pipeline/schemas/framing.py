"""What Confluent's serializers put in front of a value.

0 | schema's number (4 bytes, big-endian) | of Protobuf: which message of the file (varints) | value
"""

from __future__ import annotations

import struct
from typing import Final, NoReturn

from pipeline.records import Reason
from pipeline.undecodable import Undecodable

_MAGIC: Final = 0
_HEAD_BYTES: Final = 5
MOST_INDEXES: Final = 64


def is_framed(value: bytes) -> bool:
    return len(value) >= _HEAD_BYTES and value[0] == _MAGIC


def unframed(value: bytes) -> tuple[int, bytes]:
    """The schema's number and what comes after it. Raises Undecodable.

    >>> unframed(b"\\x00\\x00\\x00\\x00\\x07{}")
    (7, b'{}')
    """
    if not is_framed(value):
        raise Undecodable(
            Reason.BAD_PAYLOAD,
            "no schema number in front, as Confluent's serializers put one there; decode.format: json reads JSON as it is",
        )
    (number,) = struct.unpack_from(">I", value, 1)
    return number, value[_HEAD_BYTES:]


def message_indexes(data: bytes) -> tuple[tuple[int, ...], bytes]:
    """Which message of a Protobuf file, from the outermost in, and the message's bytes. Raises Undecodable.

    >>> message_indexes(b"\\x00rest"), message_indexes(b"\\x04\\x02\\x00rest")
    (((0,), b'rest'), ((1, 0), b'rest'))
    """
    count, place = varint(data, 0)
    if count == 0:
        return (0,), data[place:]
    if not 0 < count <= MOST_INDEXES:
        _broken(f"{count} message indexes")
    indexes = []
    for _ in range(count):
        index, place = varint(data, place)
        indexes.append(index)
    return tuple(indexes), data[place:]


def varint(data: bytes, place: int) -> tuple[int, int]:
    """The zigzag number of at most 64 bits at a place, and the place after it. Raises Undecodable."""
    number = 0
    for shift in range(0, 70, 7):
        if place >= len(data):
            _broken("it ends early")
        byte = data[place]
        place += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            if number >> 64:
                break
            return (number >> 1) ^ -(number & 1), place
    return _broken("a number of more than 64 bits")


def _broken(what: str) -> NoReturn:
    raise Undecodable(Reason.BAD_PAYLOAD, f"the bytes behind the schema's number are not what it says: {what}")
