"""From a YAML file and `--set` to the configuration of a deployment; every mistake named by its key, with what to do about it.

    what stands beside `streams:` <- a stream's own <- --set KEY <- --set streams.NAME.KEY      each laid over the one before, key by key

A file without `streams:` is one stream that shares with nobody.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import Any, Final, TypeAlias, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from actors.config import STREAM_NAME, DeploymentConfig, StreamConfig
from actors.http.config import HttpConfig
from jobs.config_faults import Place, key_names, misplaced, plain, told
from jobs.config_keys import is_list, is_section
from pipeline.errors import ConfigurationError

M = TypeVar("M", bound=BaseModel)
Tree: TypeAlias = Mapping[str, Any]

_QUOTED: Final = re.compile(r"""('(?:[^'"]|<[a-z -]+>)')|['"].*['"]""")
"""What YAML's messages quote: one character or a `'<block end>'` of the parser's own, or something of the file, up to the last quote."""
_OVERRIDE: Final = re.compile(r"(?P<key>[A-Za-z_][\w.-]*)=(?P<value>.*)", re.DOTALL)
_DEEPEST: Final = 6
"""No section lies deeper; YAML's aliases can nest without end."""


def load_config(path: Path | None, overrides: Sequence[str] | None = None) -> DeploymentConfig:
    """The configuration in a file (none: all defaults) with `KEY=VALUE` overrides laid over it.

    Raises:
        ConfigurationError: each key that is unknown, missing or wrong, one a line.
    """
    return parse_config({} if path is None else _read(path), overrides or ())


def load_stream(path: Path | None, overrides: Sequence[str] | None = None, name: str | None = None) -> StreamConfig:
    """The stream of that name in such a file, or the only one. Raises ConfigurationError, also where there are several."""
    return load_config(path, overrides).stream(name)


def parse_config(tree: Tree, overrides: Sequence[str] = ()) -> DeploymentConfig:
    """The configuration that a tree of YAML's types holds. Raises ConfigurationError."""
    shared = {key: value for key, value in tree.items() if key != "streams"}
    own = _own_of(tree)
    over: dict[str, Any] = {}
    over_one: dict[str | None, dict[str, Any]] = {name: {} for name in own}
    for override in overrides:
        _put(over, over_one, override)
    faults: list[str] = []
    front = merged(*({"http": each.pop("http")} for each in (shared, over) if "http" in each))
    http = _checked(HttpConfig, front.get("http", {}), faults, Place(above=("http",)))
    streams = []
    for name, its_own in own.items():
        place = Place(stream=name, own=(its_own, over_one[name]), shared=(shared, over))
        faults += misplaced(place)
        whole = merged({"kafka": {}}, shared, place.fitting(its_own), over, place.fitting(over_one[name]))
        streams.append(_checked(StreamConfig, whole if name is None else {**whole, "stream": name}, faults, place))
    if faults:
        raise ConfigurationError("\n".join(dict.fromkeys(faults)))
    try:
        return DeploymentConfig.model_validate({"streams": streams, "http": http})
    except ValidationError as error:
        raise ConfigurationError("\n".join(plain(each["msg"]) for each in error.errors())) from None


def as_yaml(config: DeploymentConfig) -> str:
    """The effective configuration, defaults filled in and secrets masked: a file that could be given again."""
    return yaml.safe_dump(config.effective(), sort_keys=False, allow_unicode=True)


def merged(*layers: Tree) -> dict[str, Any]:
    """Trees laid over one another, key by key; a section whose keys are all commented out reads as null, and says nothing.

    >>> merged({"kafka": {"start": "latest"}, "memory": {"blocks": 2}}, {"kafka": {"topics": ["a"]}, "memory": None})
    {'kafka': {'start': 'latest', 'topics': ['a']}, 'memory': {'blocks': 2}}
    """
    return reduce(_laid_over, layers, {})


def _laid_over(lower: Tree, upper: Tree, path: tuple[str, ...] = ()) -> dict[str, Any]:
    whole = dict(lower)
    for key, value in upper.items():
        below, here = whole.get(key), (*path, key)
        section = is_section(here)
        if section and value is None:
            whole[key] = {} if below is None else below
        elif isinstance(value, Mapping) and len(path) < _DEEPEST and (section or isinstance(below, Mapping)):
            whole[key] = _laid_over(below if isinstance(below, Mapping) else {}, value, here)
        else:
            whole[key] = value
    return whole


def _own_of(tree: Tree) -> dict[str | None, Tree]:
    """What is each stream's own, by their names; one without a name where the tree has no `streams`."""
    if "streams" not in tree:
        return {None: {}}
    streams = tree["streams"]
    if not isinstance(streams, Mapping) or not streams:
        raise ConfigurationError(
            "streams: must hold the streams by their names, each with keys of its own, as infra/config/streams.yaml does"
        )
    faults = []
    for name, own in streams.items():
        # What is no stream's name, or has nothing below it, may be a secret that a stray line feed has put there.
        if not isinstance(name, str) or not re.fullmatch(STREAM_NAME, name):
            faults.append(
                f"streams: a name of {len(str(name))} characters that cannot be one: want letters, digits, '.', '_' and '-', 63 at most,"
                " and quotes around what YAML takes for a number or a date"
            )
        elif not isinstance(own, Mapping):
            faults.append(f"streams: below a name of {len(name)} characters stand no keys; want at least kafka.topics there, or {{}}")
    if faults:
        raise ConfigurationError("\n".join(faults))
    return dict(streams)


def _checked(model: type[M], tree: Tree, faults: list[str], place: Place) -> M | None:
    """The tree as that model; None, and what is wrong among the faults, if it cannot be."""
    try:
        return model.model_validate(tree)
    except ValidationError as error:
        faults += [told(fault, place) for fault in error.errors(include_url=False, include_context=False)]
        return None


# ---------------------------------------------------------------------- files


class _Loader(yaml.SafeLoader):
    """YAML, but a key that stands twice in a mapping is a mistake: the first one would be dropped without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [key.value for key, _ in node.value]
        for key, _ in node.value:
            if keys.count(key.value) > 1:
                known = key.value if key.value in key_names() else "of this line"
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


# ---------------------------------------------------------------------- --set


def _put(over: dict[str, Any], over_one: dict[str | None, dict[str, Any]], override: str) -> None:
    """Note `a.b=c`, for all streams or, as `streams.NAME.a.b=c`, for one; lists may be written `[a, b]`, or as one value."""
    match = _OVERRIDE.fullmatch(override)
    if match is None:
        raise ConfigurationError(f"--set {override}: want KEY=VALUE, as in --set replicas.count=2")
    tree, key = over, match["key"]
    if key.split(".")[0] == "streams":
        name, key = _stream_and_key(key, [name for name in over_one if name is not None])
        tree = over_one[name]
    *sections, last = path = tuple(key.split("."))
    for section in sections:
        inner = tree.get(section)
        tree[section] = tree = dict(inner) if isinstance(inner, Mapping) else {}
    tree[last] = _value(match["key"], path, match["value"])


def _stream_and_key(key: str, names: Sequence[str]) -> tuple[str, str]:
    """A stream's name may hold dots itself.

    >>> _stream_and_key("streams.a.b.kafka.topics", ["a", "a.b"])
    ('a.b', 'kafka.topics')
    """
    rest = key.removeprefix("streams").removeprefix(".")
    found = [name for name in names if rest.startswith(f"{name}.") and len(rest) > len(name) + 1]
    if not found:
        there = f"there are {', '.join(names)}" if names else "the configuration has one stream alone, and no streams"
        raise ConfigurationError(f"--set {key}: want streams.NAME.KEY=VALUE with the name of a stream; {there}")
    name = max(found, key=len)
    return name, rest.removeprefix(f"{name}.")


def _value(key: str, path: tuple[str, ...], text: str) -> Any:
    try:
        value = yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise ConfigurationError(f"--set {key}: its value is not YAML: {_fault(error)}") from None
    return [value] if is_list(path) and isinstance(value, str | int) else value
