"""Plain tables: columns two spaces apart. Owns the layout. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sandboxrun.errors import one_line

_ELLIPSIS = "…"


def table(
    heads: Sequence[str],
    rows: Iterable[Sequence[str | int | float | None]],
    *,
    right: Iterable[str] = (),
    width: int | None = None,
) -> str:
    """The rows below their heads, no spaces at line ends; None is shown as `-`, "" stays empty.

    `right` names the columns that are aligned to the right. With `width` (characters of a line) the last column is
    cut to it; other columns never are, since they are what rows are told apart by. No rows give the heads alone.
    """
    lines = [tuple(heads), *(tuple(_cell(value) for value in row) for row in rows)]
    widths = [max(columns(line[n]) for line in lines) for n in range(len(heads))]
    aligned = [head in set(right) for head in heads]
    return "\n".join(_line(line, widths, aligned, width) for line in lines)


def _cell(value: str | int | float | None) -> str:
    return "-" if value is None else one_line(str(value))


def _line(cells: tuple[str, ...], widths: list[int], right: list[bool], width: int | None) -> str:
    padded = []
    for cell, wanted, to_right in zip(cells, widths, right, strict=True):
        space = " " * (wanted - columns(cell))
        padded.append(space + cell if to_right else cell + space)
    line = "  ".join(padded).rstrip()
    if width is None or columns(line) <= width:
        return line
    before = "  ".join(padded[:-1])
    room = width - columns(before) - 2 - 1
    return line if room < 1 else f"{before}  {_cut(padded[-1].rstrip(), room)}{_ELLIPSIS}"


def _cut(text: str, room: int) -> str:
    while columns(text) > room:
        text = text[:-1]
    return text


def columns(text: str) -> int:
    """How many columns of a terminal `text` takes: wide characters two, combining ones none."""
    if text.isascii():
        return len(text)
    from unicodedata import combining, east_asian_width

    return sum(0 if combining(c) else 2 if east_asian_width(c) in "WF" else 1 for c in text)
