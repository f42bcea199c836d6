"""Event times as feeds write them, and what could mean two things."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from pipeline.event_time import parse_ms


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("Tue, 30 Dec 2025 09:00:00 +0100", "2025-12-30T08:00:00"),
        ("Tue, 30 Dec 2025 08:00:00 GMT", "2025-12-30T08:00:00"),
        ("30 Dec 2025 08:00 UT", "2025-12-30T08:00:00"),
        ("Tue, 30 Dec 25 03:00:00 EST", "2025-12-30T08:00:00"),
        ("2025-12-30t08:00:00z", "2025-12-30T08:00:00"),
        ("2025-12-30 08:00", "2025-12-30T08:00:00"),
        ("20251230T080000Z", "2025-12-30T08:00:00"),
        (20251230, "2025-12-30T00:00:00"),
        ("20251230", "2025-12-30T00:00:00"),
        (20251230080000, "2025-12-30T08:00:00"),
        ("20251230080000", "2025-12-30T08:00:00"),
        ("2025-12-31T24:00:00Z", "2026-01-01T00:00:00"),
        ("2025-12-31T24:00Z", "2026-01-01T00:00:00"),
        ("2016-12-31T23:59:60Z", "2017-01-01T00:00:00"),
        (1_767_081_600, "2025-12-30T08:00:00"),
        (1_767_081_600_000, "2025-12-30T08:00:00"),
        (1_767_081_600_000_123, "2025-12-30T08:00:00"),
        ("1767081600000000000", "2025-12-30T08:00:00"),
        (99_999_999, "1973-03-03T09:46:39"),
    ],
)
def test_it_is_read_as_it_is_meant(written: object, meant: str) -> None:
    assert datetime.fromtimestamp(parse_ms(written) / 1000, UTC).replace(tzinfo=None).isoformat() == meant


@pytest.mark.parametrize(
    "written",
    [
        "03/04/2025",
        "20251399",
        "Tue, 30 Dec 2025 09:00:00 IST",
        "Tue, 30 Dec 2025 09:00:00 Europe/Berlin",
        "30 Foo 2025 09:00:00 GMT",
        "2025-12-30T24:01:00Z",
        "2025-12-30T08:61:00Z",
        "yesterday",
        "",
    ],
)
def test_what_could_mean_two_things_or_nothing_is_refused(written: str) -> None:
    with pytest.raises(ValueError, match="neither an ISO 8601 nor an RFC 822 time"):
        parse_ms(written)
