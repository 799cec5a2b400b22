"""Sizes and durations in Compose's words: text to integers and back.

Sizes are bytes (int), durations nanoseconds (int), the engine's own units. Pure; raises ValueError only.
"""

from __future__ import annotations

import re

_SIZE = re.compile(r"([0-9]{1,40}(?:\.[0-9]{1,40})?)\s*(b|kb?|mb?|gb?|tb?|kib|mib|gib|tib)?", re.IGNORECASE)
_POWER = {"b": 0, "k": 1, "m": 2, "g": 3, "t": 4}
_DURATION = re.compile(r"([0-9]{1,40}(?:\.[0-9]{1,40})?)(h|ms|us|µs|ns|m|s|d)")
_NANOSECONDS = {
    "ns": 1,
    "us": 1_000,
    "µs": 1_000,
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60 * 1_000_000_000,
    "h": 3600 * 1_000_000_000,
    "d": 24 * 3600 * 1_000_000_000,
}
SECOND = _NANOSECONDS["s"]
LARGEST = 2**63 - 1


def parse_size(text: str) -> int:
    """`512m`, `1.5g`, `64kb`, `4096` in bytes; the units are powers of 1024, as in Compose."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ValueError("not a size")
    number, unit = match.group(1), (match.group(2) or "b").lower()
    size = round(float(number) * 1024 ** _POWER[unit[0]]) if "." in number else int(number) * 1024 ** _POWER[unit[0]]
    if size > LARGEST:
        raise ValueError("larger than the engine can count")
    return size


def format_size(size: int) -> str:
    """The shortest exact text: 536870912 is `512m`, 1000 is `1000`."""
    for unit in ("t", "g", "m", "k"):
        step = 1024 ** _POWER[unit]
        if size and size % step == 0:
            return f"{size // step}{unit}"
    return str(size)


def parse_duration(text: str) -> int:
    """`30s`, `1h30m`, `1.5s`, `500ms`, `2d` in nanoseconds."""
    text = text.strip()
    total, at = 0, 0
    for match in _DURATION.finditer(text):
        if match.start() != at:
            raise ValueError("not a duration")
        number, unit = match.group(1), _NANOSECONDS[match.group(2)]
        total += round(float(number) * unit) if "." in number else int(number) * unit
        at = match.end()
    if at == 0 or at != len(text):
        if text == "0":
            return 0
        raise ValueError("not a duration")
    if total > LARGEST:
        raise ValueError("longer than the engine can count")
    return total


def format_duration(nanoseconds: int) -> str:
    """The canonical text: 5400 s is `1h30m`, 1500 ms is `1s500ms`, 0 is `0s`."""
    parts, rest = [], nanoseconds
    for unit in ("h", "m", "s", "ms", "us", "ns"):
        count, rest = divmod(rest, _NANOSECONDS[unit])
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or "0s"
