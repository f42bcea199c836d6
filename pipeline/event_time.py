"""Event times as feeds write them: ISO 8601 and RFC 3339, RFC 822 (every RSS feed), compact dates, seconds since 1970 or parts of them.

Python's own parsers read them (`datetime.fromisoformat`, `email.utils`). What could mean two things is refused: 03/04/2025, or a zone's
name that RFC 822 does not know.

No clock is asked anywhere (REPLAY-EXACT), so what is too late is for the caller to say, from the record's own timestamp.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Final

LATEST_MS: Final = 4_102_444_800_000
"""2100-01-01. A watermark that once jumped ten thousand years ahead would never come back."""

_SECONDS_BELOW: Final = 100_000_000_000
_MILLISECONDS_BELOW: Final = 100_000_000_000_000
_MICROSECONDS_BELOW: Final = 100_000_000_000_000_000
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_NUMBER: Final = re.compile(r"-?[0-9]{9,19}(\.[0-9]{1,9})?")
_COMPACT: Final = re.compile(r"(19[7-9]|20[0-9])[0-9]{5}([0-9]{6})?")
_MIDNIGHT: Final = re.compile(r"T24:?00(:?00(\.0+)?)?(?![0-9])")
_LEAP: Final = re.compile(r"(?<=:[0-5][0-9]:)60(\.[0-9]+)?")
_RFC_822: Final = re.compile(
    r"([A-Za-z]{3,9},?\s+)?[0-9]{1,2}\s+[A-Za-z]{3}[a-z]*\s+[0-9]{2,4}\s+[0-9]{1,2}:[0-9]{2}(:[0-9]{2})?\s+(?P<zone>\S+)"
)
_ZONES: Final = frozenset(("UT", "GMT", "UTC", "Z", "EST", "EDT", "CST", "CDT", "MST", "MDT", "PST", "PDT"))


def parse_ms(value: object) -> int:
    """Milliseconds since the epoch; may be negative or absurdly late.

    Numbers of 8 and 14 digits that are dates (20251230, 20251230080000) are dates; others below 1e11 are seconds (up to the year 5138),
    below 1e14 milliseconds, below 1e17 microseconds, the rest nanoseconds (each from March 1973 on, so that none is in doubt). A time
    without a zone is UTC; a leap second is the first of the next minute.
    Raises TypeError for what is neither a string nor a number and ValueError for what cannot be read.

    >>> parse_ms("2025-12-30T09:00:00+01:00"), parse_ms(1_767_081_600), parse_ms("1767081600000")
    (1767081600000, 1767081600000, 1767081600000)
    >>> parse_ms("Tue, 30 Dec 2025 09:00:00 +0100"), parse_ms("2025-12-30t08:00:00z"), parse_ms(20251230080000)
    (1767081600000, 1767081600000, 1767081600000)
    """
    if isinstance(value, str):
        return _text_ms(value.strip())
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError("neither a string nor a number")
    if isinstance(value, int) and _COMPACT.fullmatch(str(value)) and (compact := _compact_ms(str(value))) is not None:
        return compact
    return _number_ms(value)


def _text_ms(text: str) -> int:
    if _COMPACT.fullmatch(text) and (compact := _compact_ms(text)) is not None:
        return compact
    if _NUMBER.fullmatch(text):
        return _number_ms(float(text) if "." in text else int(text))
    try:
        time = _rfc_822(text) or _iso(text.upper())
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{text[:64]!a} is neither an ISO 8601 nor an RFC 822 time") from error
    return _ms(time)


def _iso(text: str) -> datetime:
    """ISO 8601, with the end of a day written as 24:00 and leap seconds, which Python does not read."""
    later = timedelta()
    if _MIDNIGHT.search(text):
        text, later = _MIDNIGHT.sub("T00:00", text), timedelta(days=1)
    if _LEAP.search(text):
        text, later = _LEAP.sub("59", text), timedelta(seconds=1)
    return datetime.fromisoformat(text) + later


def _rfc_822(text: str) -> datetime | None:
    """The dates of mail and RSS; None where it is none. Raises ValueError for a zone that it does not know."""
    match = _RFC_822.fullmatch(text)
    if match is None:
        return None
    zone = match["zone"]
    if not (zone.upper() in _ZONES or re.fullmatch(r"[+-][0-9]{4}", zone)):
        raise ValueError(f"the zone {zone[:16]!a} may be several")
    return parsedate_to_datetime(text)


def _compact_ms(digits: str) -> int | None:
    """20251230 or 20251230080000; None where that is no date."""
    try:
        return _ms(datetime.strptime(digits, "%Y%m%d" if len(digits) == 8 else "%Y%m%d%H%M%S"))
    except ValueError:
        return None


def _ms(time: datetime) -> int:
    return ((time if time.tzinfo else time.replace(tzinfo=UTC)) - _EPOCH) // timedelta(milliseconds=1)


def _number_ms(number: float) -> int:
    # An infinity (JSON's 1e999) ends here, before anything can overflow.
    if not abs(number) < 10 * LATEST_MS * 1_000_000:
        raise ValueError("neither seconds nor milli-, micro- or nanoseconds since 1970")
    if abs(number) < _SECONDS_BELOW:
        return round(number * 1000)
    if abs(number) < _MILLISECONDS_BELOW:
        return round(number)
    return round(number / 1_000) if abs(number) < _MICROSECONDS_BELOW else round(number / 1_000_000)


def checked_ms(time_ms: int, latest_ms: int) -> int:
    """`time_ms` itself. Raises ValueError where it lies before 1970 or after `latest_ms` or `LATEST_MS`."""
    latest_ms = min(latest_ms, LATEST_MS)
    if time_ms < 0:
        raise ValueError("before 1970")
    if time_ms > latest_ms:
        raise ValueError(f"{(time_ms - latest_ms) / 1000:.0f} s after the latest that is possible")
    return time_ms
