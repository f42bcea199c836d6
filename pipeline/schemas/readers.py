"""The values of framed records, each read by the schema that it names.

    value -> schema's number -> (cache | registry -> reader) -> value as JSON would have it

BOUNDED: so many readers are kept, and so many numbers that the registry does not have.
"""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from importlib import import_module
from typing import Any, Final, Protocol

from pipeline.errors import ConfigurationError
from pipeline.records import Reason
from pipeline.schemas.config import RegistryConfig
from pipeline.schemas.framing import unframed
from pipeline.schemas.registry import BadSchema, Kind, NoSuchSchema, Registry, Schema
from pipeline.undecodable import Undecodable

log = logging.getLogger(__name__)

ASK_AGAIN_S: Final = 60.0
"""For so long a number that the registry did not have is not asked for again."""

_GREATEST_NUMBER: Final = (1 << 31) - 1  # registries count with Java's int
_READERS: Final[dict[Kind, tuple[str, str]]] = {
    "AVRO": ("pipeline.schemas.avro", "AvroReader"),
    "PROTOBUF": ("pipeline.schemas.protobuf", "ProtobufReader"),
    "JSON": ("pipeline.schemas.json_schema", "JsonReader"),
}


class Reader(Protocol):
    """Reads the values of one schema."""

    def read(self, data: bytes) -> Any: ...


class SchemaReaders:
    """Reads framed values of one kind.

    Args:
        kind: of schema that the records must have.
        registry: knows the schemas.
        clock_s: a clock that does not go back.

    Raises ConfigurationError where the libraries for it are not installed.
    """

    def __init__(
        self, kind: Kind, config: RegistryConfig, registry: Registry | None = None, clock_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._kind, self._max = kind, config.max_schemas
        self._registry = registry or Registry(config)
        self._make = _reader_of(kind)
        self._clock_s = clock_s
        self._readers: OrderedDict[int, Reader] = OrderedDict()
        self._refused: OrderedDict[int, tuple[float, Undecodable]] = OrderedDict()

    def read(self, value: bytes) -> Any:
        """The value that a record holds, as JSON would have it.

        Raises:
            Undecodable: the record is the fault.
            RegistryUnavailable: the registry is away; nothing is known of the record.
            ConfigurationError: a secret or a certificate for it is not there.
        """
        number, data = unframed(value)
        return self._reader(number).read(data)

    def _reader(self, number: int) -> Reader:
        if number in self._readers:
            self._readers.move_to_end(number)
            return self._readers[number]
        until_s, known = self._refused.get(number, (0.0, None))
        if known is not None and self._clock_s() < until_s:
            raise Undecodable(known.reason, known.detail)
        try:
            reader = self._readers[number] = self._made(number)
        except Undecodable as error:
            self._refused[number] = self._clock_s() + ASK_AGAIN_S, error
            self._refused.move_to_end(number)
            _shorten(self._refused, self._max)
            raise
        self._refused.pop(number, None)
        _shorten(self._readers, self._max)
        return reader

    def _made(self, number: int) -> Reader:
        if number > _GREATEST_NUMBER:
            raise Undecodable(Reason.UNKNOWN_SCHEMA, f"{number} is no schema's number")
        try:
            schema = self._registry.schema(number)
            if schema.kind != self._kind:
                raise BadSchema(f"it is of the kind {schema.kind}, and decode.format says {self._kind}")
            log.info("schema %d is read from now on", number)
            return self._make(schema)
        except NoSuchSchema as error:
            raise Undecodable(
                Reason.UNKNOWN_SCHEMA,
                f"the registry has no schema {number}; check that decode.registry.url is the one the feed writes with",
            ) from error
        except BadSchema as error:
            raise Undecodable(Reason.UNUSABLE_SCHEMA, f"schema {number} cannot be used: {error}") from error


def _shorten(kept: OrderedDict[int, Any], most: int) -> None:
    while len(kept) > most:
        kept.popitem(last=False)


def _reader_of(kind: Kind) -> Callable[[Schema], Reader]:
    module, name = _READERS[kind]
    try:
        made: Callable[[Schema], Reader] = getattr(import_module(module), name)
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"decode.format: reading {kind} needs {error.name}, which is not installed here: pip install 'memstream[registry]'"
        ) from error
    return made
