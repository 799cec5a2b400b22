"""Plain tables: columns two spaces apart. Owns the layout. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sandboxrun.errors import one_line


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """The rows below their heads, each cell on its line, no spaces at line ends. No rows give the heads alone."""
    lines = [tuple(heads), *(tuple(map(one_line, row)) for row in rows)]
    widths = [max(columns(line[n]) for line in lines) for n in range(len(heads))]
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
