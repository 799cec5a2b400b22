"""What the program printed, read: a line a probe, `name TAB key=value TAB ...`.

The output is hostile: an image may hold anything that ends up in it. Must not raise, and keeps bounded amounts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from sandboxrun.model.types import freeze
from sandboxrun.probe.types import Seen

MOST_BYTES, MOST_LINES, MOST_VALUES, LONGEST = 1 << 20, 2000, 200, 4096
OUTCOME = "@outcome"  # no line can have this name: what is known from outside
_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}")
_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_./-]{0,63}")
_ESCAPE = re.compile(r"\\x([0-9a-f]{2})")


def parse(output: bytes) -> Seen:
    """What every probe saw. A line that is none is left out; of two with one name the first counts, for the program
    itself prints each once."""
    found: dict[str, Mapping[str, str]] = {}
    for line in output[:MOST_BYTES].split(b"\n")[:MOST_LINES]:
        name, *fields = line.decode("ascii", errors="replace").split("\t")
        if _NAME.fullmatch(name) and name not in found:
            found[name] = freeze(_values(fields[:MOST_VALUES]))
    return freeze(found)


def _values(fields: list[str]) -> dict[str, str]:
    values: dict[str, str] = {}
    for field in fields:
        key, equals, value = field.partition("=")
        if equals and _KEY.fullmatch(key):
            values.setdefault(key, unescaped(value[:LONGEST]))
    return values


def unescaped(text: str) -> str:
    """The program writes bytes that are no printable ASCII, and the backslash, as \\x and two digits."""
    data = b"".join(
        bytes([int(part, 16)]) if at % 2 else part.encode("ascii", errors="replace")
        for at, part in enumerate(_ESCAPE.split(text))
    )
    return data.decode("utf-8", errors="replace")


def complete(seen: Seen) -> bool:
    """Whether the program came to its end."""
    return "end" in seen


def with_outcome(
    seen: Seen, *, how: str, exit_code: int | None = None, oom_killed: bool = False, seconds: float | None = None
) -> Seen:
    """What was seen with what is known from outside: how the run ended (`evidence.outcome.How`), its code, whether the
    kernel killed it for memory, and how many seconds it ran."""
    outcome = {
        "how": how,
        "exit_code": "" if exit_code is None else str(exit_code),
        "oom_killed": "yes" if oom_killed else "no",
        "seconds": "" if seconds is None else f"{seconds:.3f}",
    }
    return freeze({**seen, OUTCOME: freeze(outcome)})
