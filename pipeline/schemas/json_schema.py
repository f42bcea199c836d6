"""JSON Schema: what a schema does not allow is no document. jsonschema-rs validates, in time that has a bound.

Python's own validator would follow a pattern such as `^(a+)+$` without end, and any reference to wherever it leads.
"""

from __future__ import annotations

from typing import Any, Final, NoReturn

import jsonschema_rs

from pipeline.records import Reason
from pipeline.schemas.registry import BadSchema, Schema
from pipeline.strict_json import strict_json
from pipeline.undecodable import Undecodable

_MOST_TOLD: Final = 200


class JsonReader:
    """Reads JSON of one schema; draft 7 where it names none, as Confluent's serializers take it. Raises BadSchema."""

    def __init__(self, schema: Schema) -> None:
        try:
            root = strict_json(schema.text)
            named = [(name, strict_json(text)) for name, text in schema.references]
            registry = jsonschema_rs.Registry(named, draft=jsonschema_rs.Draft7, retriever=_refuse)
            kind = jsonschema_rs.Draft7Validator if _names_no_draft(root) else jsonschema_rs.validator_cls_for(root)
            # a linear engine for patterns: what needs look-around is refused here rather than followed without end
            self._validator = kind(root, registry=registry, retriever=_refuse, pattern_options=jsonschema_rs.RegexOptions(), mask="...")
        except Exception as error:  # the failure boundary: the library raises whatever it likes at others' schemas
            raise BadSchema(f"it is no JSON Schema that can be used: {' '.join(str(error).split())[:_MOST_TOLD]}") from error

    def read(self, data: bytes) -> Any:
        """The value. Raises Undecodable."""
        item = _json(data)
        fault = next(iter(self._validator.iter_errors(item)), None)
        if fault is not None:
            place = ".".join(map(str, fault.instance_path)) or "the value"
            raise Undecodable(Reason.SCHEMA_VIOLATION, f"{place[:_MOST_TOLD]}: {fault.message[:_MOST_TOLD]}")
        return item


def _json(data: bytes) -> Any:
    try:
        return strict_json(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise Undecodable(Reason.BAD_UTF8, f"byte {error.start}: {error.reason}") from error
    except ValueError as error:
        raise Undecodable(Reason.BAD_JSON, str(error)) from error


def _names_no_draft(root: Any) -> bool:
    return not (isinstance(root, dict) and "$schema" in root)


def _refuse(uri: str) -> NoReturn:
    raise ValueError(f"it refers to {uri}, which is not among its references in the registry")
