"""The results and their table.

Owns what a result is, and how all of them are printed.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from msgspec import structs

from benchmarks.timing import Times
from sandboxrun.data import Data


class Result(Data):
    """A measure beside what it is measured by. `ratio` is of medians, `least` of the quickest runs, `cpu` of the
    programs' own CPU seconds; `target` is the most that `ratio` should be, None where there is none."""

    measure: str
    a: str
    a_ms: float
    b: str
    b_ms: float
    ratio: float
    least: float | None = None
    cpu: float | None = None
    target: float | None = None
    unit: str = "ms"

    @property
    def verdict(self) -> str:
        """ok, over, or nothing where there is no target."""
        if self.target is None:
            return ""
        return "ok" if self.ratio <= self.target else "over"


def compared(measure: str, a: Times, b: Times, target: float | None = None) -> Result:
    """Two programs' times."""
    return Result(
        measure=measure,
        a=a.name,
        a_ms=a.wall * 1000,
        b=b.name,
        b_ms=b.wall * 1000,
        ratio=a.wall / b.wall,
        least=a.least / b.least,
        cpu=a.cpu / b.cpu if b.cpu else None,
        target=target,
    )


_HEAD = ("measure", "A", "B", "A/B", "least", "CPU", "target", "")


def row(result: Result) -> tuple[str, ...]:
    """A line of the table."""
    return (
        result.measure,
        f"{result.a} {result.a_ms:.0f} {result.unit}",
        f"{result.b} {result.b_ms:.0f} {result.unit}",
        f"{result.ratio:.2f}",
        "" if result.least is None else f"{result.least:.2f}",
        "" if result.cpu is None else f"{result.cpu:.2f}",
        "" if result.target is None else f"<= {result.target:g}",
        result.verdict,
    )


def table(results: Iterable[Result]) -> str:
    """All of them, in columns."""
    lines = [_HEAD, *(row(result) for result in results)]
    widths = [max(len(line[n]) for line in lines) for n in range(len(_HEAD))]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in lines)


def plain(results: Iterable[Result]) -> list[dict[str, Any]]:
    """The same as data."""
    return [{**structs.asdict(result), "verdict": result.verdict} for result in results]
