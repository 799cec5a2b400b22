"""How runs ended, in words and as data: what apply, run, wait and destroy tell at their end.

Owns the words. Pure.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sandboxrun.errors import printable
from sandboxrun.evidence.outcome import Ending, How

if TYPE_CHECKING:
    from sandboxrun.evidence.capture import Captured
    from sandboxrun.evidence.index import Index


def ended(ending: Ending) -> str:
    """How a run ended, as a clause."""
    code = ending.exit_code
    match ending.how:
        case How.EXITED:
            return "exited with 0"
        case How.FAILED:
            return f"failed with {code}"
        case How.OOM:
            return "was killed for exceeding its memory limit" + ("" if code is None else f" (exit code {code})")
        case How.TIMEOUT:
            return "was ended by its timeout"
        case How.KILLED:
            return "was killed" + ("" if code is None else f" (exit code {code})")
        case How.ENGINE_LOST:
            return "was lost with the engine"
        case How.NOT_STARTED:
            return "was never started"


def evidence_line(captured: Captured, note: str = "") -> str:
    """One line on a run: how it ended, how long it took, where its evidence is."""
    index = captured.index
    if index is None:
        return printable(f"no evidence could be kept: {captured.failure or 'for no reason that is known'}")
    parts = [f"{index.sandbox} {ended(index.ending)}"]
    if index.ran_seconds is not None:
        parts[0] += f" after {seconds(index.ran_seconds)}"
    if note or index.ending.detail:
        parts[0] += f" ({note or index.ending.detail})"
    parts += _used(index)
    if captured.folder is not None:
        parts.append(f"evidence in {shown_path(captured.folder)}")
    return printable("; ".join(parts))


def missing_lines(captured: Captured) -> list[str]:
    """What of the evidence could not be kept."""
    index = captured.index
    if index is None:
        return []
    lines = [f"{index.sandbox}: {m.part} not kept: {m.reason}" for m in index.missing]
    if index.refused_total:
        lines.append(f"{index.sandbox}: {index.refused_total} files were not taken over; index.json says which and why")
    return [printable(line) for line in lines]


def _used(index: Index) -> list[str]:
    usage = index.usage
    if usage is None or usage.memory_peak_bytes is None:
        return []
    return [f"{usage.memory_peak_bytes / 2**20:.0f} MiB at most"]


def seconds(count: float) -> str:
    """A stretch of time for people: 40ms, 1.4s, 12s, 3m20s, 2h05m."""
    if count < 1:
        return f"{count * 1000:.0f}ms"
    if count < 10:
        return f"{count:.1f}s"
    whole = round(count)
    minutes, rest = divmod(whole, 60)
    hours, left = divmod(minutes, 60)
    if hours:
        return f"{hours}h{left:02}m"
    return f"{minutes}m{rest:02}s" if minutes else f"{whole}s"


def shown_path(path: Path) -> str:
    """A path as short as it can be from here."""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith(os.pardir) else relative


def plain(captured: Iterable[Captured]) -> list[dict[str, Any]]:
    """Runs as data."""
    return [_plain(one) for one in captured]


def _plain(captured: Captured) -> dict[str, Any]:
    index = captured.index
    if index is None:
        return {"failure": captured.failure}
    return {
        "sandbox": index.sandbox,
        "run": index.run,
        "outcome": index.ending.how.value,
        "exit_code": index.ending.exit_code,
        "ran_seconds": index.ran_seconds,
        "evidence": str(captured.folder) if captured.folder is not None else None,
        "missing": [m.part for m in index.missing],
    }
