"""The time as an HTTP Date field tells it.

Written out because the standard library's parser for it imports the whole of email.
"""

from __future__ import annotations

from datetime import UTC, datetime

_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def parse_date(text: str) -> datetime | None:
    """`Tue, 24 Nov 2026 09:50:20 GMT` as a UTC time; None for any other form (RFC 9110, 5.6.7)."""
    try:
        _, day, month, year, clock, zone = text.split(" ")
        hour, minute, second = (int(part) for part in clock.split(":"))
        if zone != "GMT":
            return None
        return datetime(int(year), _MONTHS.index(month) + 1, int(day), hour, minute, second, tzinfo=UTC)
    except ValueError:
        return None
