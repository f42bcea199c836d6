"""The keys that there are: of a stream, and of what all streams share. A path is a key's place, a part for each section."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final, TypeAlias, TypeGuard

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from actors.config import DeploymentConfig, StreamConfig

Path: TypeAlias = tuple[str, ...]

ROOT: Final[Mapping[str, FieldInfo]] = {**StreamConfig.model_fields, **DeploymentConfig.model_fields}
"""What may stand at the top of a file."""


def keys_of(path: Path) -> Mapping[str, FieldInfo]:
    """The keys of a section; empty where there is no such section."""
    keys = ROOT
    for name in path:
        field = keys.get(name)
        keys = field.annotation.model_fields if field is not None and _is_model(field.annotation) else {}
    return keys


def is_section(path: Path) -> bool:
    return bool(path) and bool(keys_of(path))


def is_list(path: Path) -> bool:
    field = field_of(path)
    return field is not None and str(field.annotation).startswith("tuple[")


def field_of(path: Path) -> FieldInfo | None:
    return keys_of(path[:-1]).get(path[-1]) if path else None


def purpose(path: Path) -> str:
    field = field_of(path)
    return "" if field is None else (field.description or "")


def all_keys(path: Path = ()) -> Iterator[str]:
    """Every key, with dots, the sections themselves included."""
    for name in keys_of(path):
        yield ".".join((*path, name))
        yield from all_keys((*path, name))


def _is_model(annotation: Any) -> TypeGuard[type[BaseModel]]:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)
