"""Protobuf: protoc compiles the registry's text, in a process of its own; Google's library reads, within its own limits.

In a process of its own because it is a C++ program that is given others' texts: one that hangs or dies costs a schema, not the stream.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path, PurePosixPath
from typing import Any, Final

import grpc_tools
from google.protobuf import json_format
from google.protobuf.descriptor_pb2 import DescriptorProto, FileDescriptorProto, FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from pipeline.records import Reason
from pipeline.schemas.framing import message_indexes
from pipeline.schemas.plain import plain, require_level
from pipeline.schemas.registry import BadSchema, Schema
from pipeline.undecodable import Undecodable

COMPILE_TIMEOUT_S: Final = 20.0

_MAIN: Final = "memstream.schema.proto"
_BUILT_IN: Final = (Path(__file__).with_name("protos"), Path(grpc_tools.__file__).with_name("_proto"))
_SIMPLE: Final = frozenset(
    f"google.protobuf.{name}"
    for name in [
        "Timestamp",
        "Duration",
        "Struct",
        "Value",
        "ListValue",
        "StringValue",
        "BytesValue",
        "BoolValue",
        "Int32Value",
        "Int64Value",
        "UInt32Value",
        "UInt64Value",
        "FloatValue",
        "DoubleValue",
    ]
)
"""Messages that mean one value each: JSON has a text, a number or an object for them. (Protobuf's JSON mapping.)"""


class ProtobufReader:
    """Reads messages of one schema. Raises BadSchema."""

    def __init__(self, schema: Schema) -> None:
        self._pool = DescriptorPool()
        try:
            for file in compiled(schema).file:
                self._pool.Add(file)
                if file.name == _MAIN:
                    self._file = file
        except TypeError as error:  # what the pool raises for a file that does not fit the others
            raise BadSchema(f"its descriptors do not fit together: {error}") from error

    def read(self, data: bytes) -> Any:
        """The message as JSON would have it, fields by the names in the schema. Raises Undecodable."""
        indexes, data = message_indexes(data)
        kind = GetMessageClass(self._pool.FindMessageTypeByName(_message_name(self._file, indexes)))
        try:
            return _plain(kind.FromString(data), 0)
        except Undecodable:
            raise
        except Exception as error:  # the failure boundary: DecodeError, and what the JSON mapping says of years beyond 9999
            raise Undecodable(Reason.BAD_PAYLOAD, f"the bytes are no {kind.DESCRIPTOR.full_name}: {error}") from error


def _message_name(file: FileDescriptorProto, indexes: tuple[int, ...]) -> str:
    messages, names = file.message_type, [file.package] if file.package else []
    for index in indexes:
        if not 0 <= index < len(messages):
            raise Undecodable(Reason.BAD_PAYLOAD, f"it is to be message {list(indexes)}, and the schema has no such one")
        found: DescriptorProto = messages[index]
        names.append(found.name)
        messages = found.nested_type
    return ".".join(names)


def _plain(message: Message, level: int) -> Any:
    if message.DESCRIPTOR.full_name in _SIMPLE:
        return plain(json_format.MessageToDict(message), level)
    require_level(level + 1)
    return {field.name: _field(field, value, level + 1) for field, value in message.ListFields()}


def _field(field: Any, value: Any, level: int) -> Any:
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        require_level(level + 1)
        inner = field.message_type.fields_by_name["value"]
        return {str(name): _one(inner, value[name], level + 1) for name in value}
    if field.is_repeated:
        require_level(level + 1)
        return [_one(field, each, level + 1) for each in value]
    return _one(field, value, level)


def _one(field: Any, value: Any, level: int) -> Any:
    if field.message_type is not None:
        return _plain(value, level)
    if field.enum_type is not None:
        symbol = field.enum_type.values_by_number.get(value)
        return value if symbol is None else symbol.name
    return value


def compiled(schema: Schema) -> FileDescriptorSet:
    """The descriptors of a schema and of all that it imports, each after those that it needs. Raises BadSchema."""
    with tempfile.TemporaryDirectory(prefix="memstream-protoc-") as folder:
        for name, text in (*schema.references, (_MAIN, schema.text)):
            _write(Path(folder), name, text)
        _protoc(Path(folder))
        return FileDescriptorSet.FromString((Path(folder) / "out").read_bytes())


def _write(folder: Path, name: str, text: str) -> None:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.name.endswith(".proto") or len(name) > 255 or not name.isprintable():
        raise BadSchema(f"it imports {name[:80]!r}, which is no name of a file")
    target = folder / "in" / path
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
    except (OSError, UnicodeEncodeError) as error:
        raise BadSchema(f"its text cannot be written down for the compiler: {error}") from error


def _protoc(folder: Path) -> None:
    roots = [f"-I{root}" for root in (folder / "in", *_BUILT_IN)]
    command = [
        sys.executable,
        "-P",
        "-m",
        "grpc_tools.protoc",
        *roots,
        "--include_imports",
        f"--descriptor_set_out={folder / 'out'}",
        _MAIN,
    ]
    try:
        done = subprocess.run(command, capture_output=True, timeout=COMPILE_TIMEOUT_S, stdin=subprocess.DEVNULL, cwd=folder, check=False)
    except subprocess.TimeoutExpired as error:
        raise BadSchema(f"protoc was not through with it after {COMPILE_TIMEOUT_S:g} s") from error
    if done.returncode != 0:
        told = done.stderr.decode("utf-8", "replace").strip().replace(f"{_MAIN}:", "line ")
        raise BadSchema(f"protoc does not take it: {told[:300] or f'it ended with {done.returncode}'}")
