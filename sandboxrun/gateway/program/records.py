"""The gateway's records: one JSON object a line on stdout.

Owns their form, their bounds and their budget. Must not decide what is let through.
"""

from __future__ import annotations

import functools
import json
import os
import time
from collections.abc import Callable
from typing import Any

MAX_TEXT = 255  # characters of anything that a client wrote
OVERHEAD = 64  # bytes that a log keeps beside each line
_encode = json.JSONEncoder(separators=(",", ":")).encode


def timestamp(seconds: float) -> str:
    """UTC, to the millisecond, as RFC 3339 has it."""
    whole = int(seconds)
    return f"{_second(whole)}.{int((seconds - whole) * 1000):03d}Z"


@functools.lru_cache(maxsize=4)
def _second(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


class Records:
    """Writes records. What clients cause counts towards the budget; when it is used up, `spent` is true for good.

    A log is bounded: without a budget, a client could push out of it what it did before.
    """

    def __init__(self, write: Callable[[bytes], None]) -> None:
        """`write` takes whole lines, several at a time, when they are flushed."""
        self._write = write
        self._lines: list[str] = []
        self._left: int | None = None
        self.spent = False
        self.unrecorded = 0

    def allot(self, budget: int) -> None:
        """Set the budget in bytes, for all that is recorded from the start; a later call changes nothing."""
        if self._left is None:
            self._left = budget

    def tell(self, event: str, **values: Any) -> None:
        """An event that no client can cause; it counts towards nothing."""
        self._add({"event": event, "time": timestamp(time.time()), **values})

    def client(self, event: str, began: float | None, values: dict[str, Any]) -> None:
        """What a client caused, at `began` (seconds since 1970; None: now). Past the budget it is only counted."""
        if self.spent:
            self.unrecorded += 1
            return
        cost = self._add({"event": event, "time": timestamp(time.time() if began is None else began), **values})
        self._left = (self._left or 0) - cost
        if self._left <= 0:
            self.spent = True
            self.tell("budget")

    def _add(self, values: dict[str, Any]) -> int:
        line = _encode(values)
        self._lines.append(line)
        return len(line) + OVERHEAD

    def flush(self) -> None:
        """Write what has gathered."""
        lines, self._lines = self._lines, []
        if lines:
            lines.append("")
            self._write("\n".join(lines).encode("ascii"))


def to_stdout(data: bytes) -> None:
    """Write all of it, waiting where the reader is slow. What can't be recorded must not be let through: exits."""
    left = memoryview(data)
    try:
        while left:
            left = left[os.write(1, left) :]
    except OSError:
        os._exit(1)


def clipped(text: str) -> str:
    """`text`, with an end to it."""
    return text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]}…"
