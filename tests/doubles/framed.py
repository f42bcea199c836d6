"""Records as Confluent's serializers write them."""

from __future__ import annotations

import io
import struct
from typing import Any

import fastavro


def framed(number: int, data: bytes) -> bytes:
    return struct.pack(">bI", 0, number) + data


def avro(schema: Any, value: Any) -> bytes:
    sink = io.BytesIO()
    fastavro.schemaless_writer(sink, fastavro.parse_schema(schema), value)
    return sink.getvalue()


def zigzag(number: int) -> bytes:
    coded, parts = (number << 1) ^ (number >> 63), bytearray()
    coded &= (1 << 64) - 1
    while coded > 0x7F:
        parts.append(coded & 0x7F | 0x80)
        coded >>= 7
    return bytes([*parts, coded])
