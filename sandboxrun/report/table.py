"""Plain tables: columns two spaces apart; and numbers as a person says them. Owns the layout. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sandboxrun.errors import one_line

_WIDEST = 250  # columns


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """The rows below their heads, each cell on its line, no spaces at line ends. No rows give the heads alone. Others
    are not filled up to a cell that is wider than a terminal: somebody may have written a name of 60,000 characters."""
    lines = [tuple(heads), *(tuple(map(one_line, row)) for row in rows)]
    widths = [min(_WIDEST, max(columns(line[n]) for line in lines)) for n in range(len(heads))]
    return "\n".join(
        "  ".join(cell + " " * (width - columns(cell)) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def columns(text: str) -> int:
    """How many columns of a terminal `text` takes: wide characters two, combining ones none."""
    if text.isascii():
        return len(text)
    from unicodedata import combining, east_asian_width

    return sum(0 if combining(c) else 2 if east_asian_width(c) in "WF" else 1 for c in text)


def duration(seconds: float) -> str:
    """A duration as a person says it: `0.4s`, `12.3s`, `3m05s`, `2h03m`."""
    if seconds < 60:
        return f"{max(0.0, seconds):.1f}s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"


def size(count: int) -> str:
    """Bytes with one digit after the point: `41.2 MiB`."""
    number = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if number < 1024:
            return f"{number:.1f} {unit}" if unit != "B" else f"{count} B"
        number /= 1024
    return f"{number:.1f} TiB"
