"""Event times as feeds write them: ISO 8601, or seconds or milliseconds since 1970, as numbers or as text.

No clock is asked anywhere (REPLAY-EXACT), so what is too late is for the caller to say, from the record's own timestamp.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Final

LATEST_MS: Final = 4_102_444_800_000
"""2100-01-01. A watermark that once jumped ten thousand years ahead would never come back."""

_SECONDS_BELOW: Final = 100_000_000_000
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_NUMBER: Final = re.compile(r"-?[0-9]{9,18}(\.[0-9]{1,9})?")  # shorter ones are dates: 20251230


def parse_ms(value: object) -> int:
    """Milliseconds since the epoch; may be negative or absurdly late.

    Numbers below 100,000,000,000 are seconds (up to the year 5138), the others milliseconds (from March 1973 on). A time without a zone
    is UTC. Raises TypeError for what is neither a string nor a number and ValueError for what cannot be read.

    >>> parse_ms("2025-12-30T09:00:00+01:00"), parse_ms(1_767_081_600), parse_ms("1767081600000")
    (1767081600000, 1767081600000, 1767081600000)
    """
    if isinstance(value, str):
        return _text_ms(value.strip())
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError("neither a string nor a number")
    return _number_ms(value)


def _text_ms(text: str) -> int:
    if _NUMBER.fullmatch(text):
        return _number_ms(float(text) if "." in text else int(text))
    try:
        time = datetime.fromisoformat(text)
    except ValueError as error:
        raise ValueError(f"{text[:64]!a} is no ISO 8601 time") from error
    return ((time if time.tzinfo else time.replace(tzinfo=UTC)) - _EPOCH) // timedelta(milliseconds=1)


def _number_ms(number: float) -> int:
    # An infinity (JSON's 1e999), microseconds and nanoseconds end here, before anything can overflow.
    if abs(number) > 10 * LATEST_MS:
        raise ValueError("neither seconds nor milliseconds since 1970")
    return round(number * 1000) if abs(number) < _SECONDS_BELOW else round(number)


def checked_ms(time_ms: int, latest_ms: int) -> int:
    """`time_ms` itself. Raises ValueError where it lies before 1970 or after `latest_ms` or `LATEST_MS`."""
    latest_ms = min(latest_ms, LATEST_MS)
    if time_ms < 0:
        raise ValueError("before 1970")
    if time_ms > latest_ms:
        raise ValueError(f"{(time_ms - latest_ms) / 1000:.0f} s after the latest that is possible")
    return time_ms
