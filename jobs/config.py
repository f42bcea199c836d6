"""From a YAML file and `--set` to the configuration of a stream; every mistake named by its key, with what to do about it."""

from __future__ import annotations

import difflib
import re
from collections.abc import Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeGuard

import yaml
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from actors.config import StreamConfig
from pipeline.errors import ConfigurationError

_MISSING: Final = {
    "kafka.bootstrap_servers": "name your brokers, as in --set kafka.bootstrap_servers=127.0.0.1:9092; `memstream demo` brings its own",
    "kafka.topics": "name the topics of this stream, as in --set kafka.topics=[news]",
}
_QUOTED: Final = re.compile(r"""('(?:[^'"]|<[a-z -]+>)')|['"].*['"]""")
"""What YAML's messages quote: one character or a `'<block end>'` of the parser's own, or something of the file, up to the last quote."""
_OVERRIDE: Final = re.compile(r"(?P<key>[A-Za-z_][\w.]*)=(?P<value>.*)", re.DOTALL)


def load_config(path: Path | None, overrides: Sequence[str] | None = None) -> StreamConfig:
    """The configuration in a file (none: all defaults) with `KEY=VALUE` overrides laid over it.

    Raises:
        ConfigurationError: each key that is unknown, missing or wrong, one a line.
    """
    tree = {} if path is None else _read(path)
    for override in overrides or ():
        _put(tree, override)
    return parse_config(tree)


def parse_config(tree: Mapping[str, Any]) -> StreamConfig:
    """The configuration that a tree of YAML's types holds. Raises ConfigurationError."""
    # A section whose keys are all commented out reads as null.
    sections = {key: {} if value is None and _section((key,)) else value for key, value in tree.items()}
    try:
        return StreamConfig.model_validate({"kafka": {}, **sections})
    except ValidationError as error:
        faults = error.errors(include_url=False, include_context=False)
        raise ConfigurationError("\n".join(map(_told, faults))) from None


def as_yaml(config: StreamConfig) -> str:
    """The effective configuration, defaults filled in and secrets masked: what a snapshot's manifest holds, too."""
    return yaml.safe_dump(config.effective(), sort_keys=False, allow_unicode=True)


class _Loader(yaml.SafeLoader):
    """YAML, but a key that stands twice in a mapping is a mistake: the first one would be dropped without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [key.value for key, _ in node.value]
        for key, _ in node.value:
            if keys.count(key.value) > 1:
                known = key.value if key.value in {name.rpartition(".")[2] for name in _all_keys(StreamConfig)} else "of this line"
                raise yaml.constructor.ConstructorError(None, None, f"the key {known} stands here twice", key.start_mark)
        return super().construct_mapping(node, deep)


def _read(path: Path) -> dict[str, Any]:
    try:
        tree = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"cannot read the configuration {path}: {error}") from error
    except yaml.YAMLError as error:
        raise ConfigurationError(f"{path} is not YAML: {_fault(error)}") from None
    if not isinstance(tree, dict | None):
        raise ConfigurationError(f"{path} must hold keys with values, as infra/config/example.yaml does; it holds a {type(tree).__name__}")
    return tree or {}


def _fault(error: yaml.YAMLError) -> str:
    """What is wrong and where, without the line itself: there may be a secret in it."""
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    place = "" if mark is None else f"line {mark.line + 1}, column {mark.column + 1}: "
    problem = " ".join(str(getattr(error, "problem", None) or getattr(error, "reason", None) or "it cannot be read").split())
    return place + _QUOTED.sub(lambda found: found[1] or "...", problem)


def _put(tree: dict[str, Any], override: str) -> None:
    """Set `a.b=c` in the tree; lists may be written `[a, b]`, or as one value."""
    match = _OVERRIDE.fullmatch(override)
    if match is None:
        raise ConfigurationError(f"--set {override}: want KEY=VALUE, as in --set replicas.count=2")
    *sections, name = match["key"].split(".")
    for section in sections:
        inner = tree.get(section)
        tree[section] = tree = dict(inner) if isinstance(inner, Mapping) else {}
    tree[name] = _value(match["key"], match["value"])


def _value(key: str, text: str) -> Any:
    try:
        value = yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise ConfigurationError(f"--set {key}: its value is not YAML: {_fault(error)}") from None
    field = _field(tuple(key.split(".")))
    listed = field is not None and str(field.annotation).startswith("tuple[")
    return [value] if listed and isinstance(value, str | int) else value


def _told(fault: ErrorDetails) -> str:
    """One line: the key, what is wrong, and what it is for."""
    path = tuple(str(part) for part in fault["loc"])
    key = ".".join(path) or "the configuration"
    if fault["type"] == "extra_forbidden":
        meant = _meant(path)
        if meant is not None:
            return f"{key}: there is no such key; did you mean {meant}?"
        # A secret that a stray line feed has put where a key should be looks like this.
        place = ".".join(path[:-1]) or "the configuration"
        return f"{place}: a key of {len(path[-1])} characters, like none that there is, so it is not shown; known here: {_known(path[:-1])}"
    if fault["type"] == "missing":
        return f"{key}: missing; {_MISSING.get(key, _purpose(path))}"
    if fault["type"] == "tuple_type":
        return f"{key}: must be a list, as in [first, second]; {_purpose(path)}"
    wrong = fault["msg"].removeprefix("Value error, ")
    purpose = "" if _section(path) is not None else _purpose(path)  # of keys that do not fit together, a section's purpose says nothing
    return f"{key}: {wrong[:1].lower()}{wrong[1:]}; {purpose}".removesuffix("; ")


def _meant(path: tuple[str, ...]) -> str | None:
    """The nearest key of that section, or the same key in another one."""
    *above, name = path
    near = difflib.get_close_matches(name, _keys(tuple(above)), n=1, cutoff=0.6)
    if near:
        return ".".join([*above, near[0]])
    return next((key for key in _all_keys(StreamConfig) if key.rpartition(".")[2] == name), None)


def _keys(path: tuple[str, ...]) -> list[str]:
    section = _section(path)
    return [] if section is None else list(section.model_fields)


def _known(path: tuple[str, ...]) -> str:
    return ", ".join(_keys(path))


def _all_keys(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        yield prefix + name
        if _is_section(field.annotation):
            yield from _all_keys(field.annotation, f"{prefix}{name}.")


def _purpose(path: tuple[str, ...]) -> str:
    field = _field(path)
    return "" if field is None else (field.description or "")


def _field(path: tuple[str, ...]) -> FieldInfo | None:
    section = _section(path[:-1])
    return section.model_fields.get(path[-1]) if section is not None and path else None


def _section(path: tuple[str, ...]) -> Any:
    """The model of a section by its path; None where there is no such section."""
    model: Any = StreamConfig
    for name in path:
        field = model.model_fields.get(name)
        if field is None or not _is_section(field.annotation):
            return None
        model = field.annotation
    return model


def _is_section(annotation: Any) -> TypeGuard[type[BaseModel]]:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)
