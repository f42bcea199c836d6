"""Avro: fastavro reads, after the bytes were walked through once.

fastavro's reader follows whatever the bytes say: a recursive schema lets a hundred kilobytes overflow the C stack, which kills the process;
an array of nulls may have 2^62 elements in ten bytes; a decimal of a megabyte takes minutes. The walk makes no values, only counts: levels,
values, lengths. (Avro 1.12, binary encoding.)
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from typing import Any, Final, NoReturn

import fastavro

from pipeline.records import Reason
from pipeline.schemas.framing import varint
from pipeline.schemas.plain import plain, require_level
from pipeline.schemas.registry import BadSchema, Schema
from pipeline.strict_json import strict_json
from pipeline.undecodable import Undecodable

MOST_VALUES: Final = 100_000
"""Of one record. A document has some dozens."""

MOST_DECIMAL_BYTES: Final = 64
_WIDTHS: Final = {"null": 0, "boolean": 1, "float": 4, "double": 8}


class AvroReader:
    """Reads values of one schema. Raises BadSchema."""

    def __init__(self, schema: Schema) -> None:
        self._named: dict[str, Any] = {}
        try:
            for _, text in schema.references:
                fastavro.parse_schema(strict_json(text), named_schemas=self._named)
            self._schema = fastavro.parse_schema(strict_json(schema.text), named_schemas=self._named)
        except Exception as error:  # the failure boundary: the library raises whatever it likes at others' schemas
            raise BadSchema(f"it is no Avro schema: {type(error).__name__}: {error}") from error

    def read(self, data: bytes) -> Any:
        """The value as JSON would have it. Raises Undecodable."""
        _Walk(self._named, data).whole(self._schema)
        try:
            value = fastavro.schemaless_reader(io.BytesIO(data), self._schema, None)
        except Exception as error:  # the failure boundary: broken UTF-8, a date in the year 200,000, a wrong UUID ...
            raise Undecodable(Reason.BAD_PAYLOAD, f"a value of its Avro schema cannot be read: {type(error).__name__}: {error}") from error
        return plain(value)


class _Walk:
    """Through the bytes of one value, once, in time and depth that have a bound."""

    def __init__(self, named: Mapping[str, Any], data: bytes) -> None:
        self._named, self._data = named, data
        self._place, self._values = 0, 0

    def whole(self, schema: Any) -> None:
        self._value(schema, 0)
        if self._place != len(self._data):
            self._broken(f"{len(self._data) - self._place} bytes are left over")

    def _value(self, schema: Any, level: int) -> None:
        self._values += 1
        if self._values > MOST_VALUES:
            raise Undecodable(Reason.TOO_LARGE, f"more than {MOST_VALUES} values in one record")
        if isinstance(schema, list):
            self._value(self._chosen(schema, "branches"), level)
            return
        kind = schema if isinstance(schema, str) else schema["type"]
        if isinstance(kind, str) and kind in self._named and kind not in _WALKS:
            self._value(self._named[kind], level)
            return
        if not isinstance(kind, str):  # {"type": {"type": ...}}
            self._value(kind, level)
            return
        _WALKS[kind](self, schema if isinstance(schema, dict) else {}, level)

    def _record(self, schema: Mapping[str, Any], level: int) -> None:
        require_level(level + 1)
        for field in schema["fields"]:
            self._value(field["type"], level + 1)

    def _array(self, schema: Mapping[str, Any], level: int) -> None:
        require_level(level + 1)
        for _ in self._items():
            self._value(schema["items"], level + 1)

    def _map(self, schema: Mapping[str, Any], level: int) -> None:
        require_level(level + 1)
        for _ in self._items():
            self._skip(self._long())
            self._value(schema["values"], level + 1)

    def _items(self) -> Any:
        """Once for each element; a block of a negative count says its bytes, too."""
        while (count := self._long()) != 0:
            if count < 0:
                self._long()
            yield from range(abs(count))

    def _enum(self, schema: Mapping[str, Any], level: int) -> None:
        self._chosen(schema["symbols"], "symbols")

    def _fixed(self, schema: Mapping[str, Any], level: int) -> None:
        self._skip(self._sized(schema, schema["size"]))

    def _bytes(self, schema: Mapping[str, Any], level: int) -> None:
        self._skip(self._sized(schema, self._long()))

    def _varint(self, schema: Mapping[str, Any], level: int) -> None:
        self._long()

    def _chosen(self, among: list[Any], what: str) -> Any:
        index = self._long()
        if not 0 <= index < len(among):
            self._broken(f"number {index} of {len(among)} {what}")
        return among[index]

    def _sized(self, schema: Mapping[str, Any], size: int) -> int:
        if schema.get("logicalType") == "decimal" and size > MOST_DECIMAL_BYTES:
            self._broken(f"a decimal of {size} bytes")
        return size

    def _long(self) -> int:
        number, self._place = varint(self._data, self._place)
        return number

    def _skip(self, size: int) -> None:
        if not 0 <= size <= len(self._data) - self._place:
            self._broken(f"{size} bytes, and {len(self._data) - self._place} are left")
        self._place += size

    def _broken(self, what: str) -> NoReturn:
        raise Undecodable(Reason.BAD_PAYLOAD, f"the bytes are not what their Avro schema says: {what}, at byte {self._place}")


def _wide(size: int) -> Callable[[_Walk, Mapping[str, Any], int], None]:
    return lambda walk, schema, level: walk._skip(size)


_WALKS: Final[Mapping[str, Callable[[_Walk, Mapping[str, Any], int], None]]] = {
    "record": _Walk._record,
    "error": _Walk._record,
    "array": _Walk._array,
    "map": _Walk._map,
    "enum": _Walk._enum,
    "fixed": _Walk._fixed,
    "bytes": _Walk._bytes,
    "string": _Walk._bytes,
    "int": _Walk._varint,
    "long": _Walk._varint,
    **{name: _wide(size) for name, size in _WIDTHS.items()},
}
