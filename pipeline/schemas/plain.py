"""Values of Avro and Protobuf as JSON would have them, so that fields, envelopes and times are found in them alike.

Times become ISO 8601 texts, decimals numbers, identifiers texts. Bytes stay bytes: no field can be read from them.
"""

from __future__ import annotations

from datetime import date, datetime, time
from decimal import Decimal
from typing import Any
from uuid import UUID

from pipeline.records import Reason
from pipeline.strict_json import MAX_DEPTH, TOO_DEEP
from pipeline.undecodable import Undecodable


def plain(value: Any, level: int = 0) -> Any:
    """A value of objects, arrays, texts, numbers, booleans, null and bytes. Raises Undecodable for more than `MAX_DEPTH` levels.

    >>> from datetime import UTC
    >>> plain({"at": datetime(2025, 12, 30, 8, tzinfo=UTC), "price": Decimal("9.50"), "day": date(2025, 12, 30)})
    {'at': '2025-12-30T08:00:00+00:00', 'price': 9.5, 'day': '2025-12-30'}
    """
    if isinstance(value, dict):
        require_level(level + 1)
        return {str(name): plain(inner, level + 1) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        require_level(level + 1)
        return [plain(inner, level + 1) for inner in value]
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    return str(value) if isinstance(value, UUID) else value


def require_level(level: int) -> None:
    if level > MAX_DEPTH:
        raise Undecodable(Reason.BAD_PAYLOAD, TOO_DEEP)
