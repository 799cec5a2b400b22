"""What is written, where and in which colours: results on stdout, everything else on stderr.

Owns colours and the streams. What an agent or a profile wrote has been through `printable` before it gets here.
"""

from __future__ import annotations

import os
import re
import sys
from typing import IO, Any

import click

_ERROR = re.compile(r"(?:^|(?<=: ))(error|warning)(?=: )", re.MULTILINE)
_COLOURS = ("cyan", "yellow", "green", "magenta", "blue", "bright_cyan", "bright_yellow", "bright_green")


def coloured(stream: IO[Any]) -> bool:
    """Whether colours are wanted there: a terminal, and NO_COLOR unset or empty."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def emphasised(text: str, stream: IO[Any]) -> str:
    """A diagnostic's text with its severity in colour."""
    if not coloured(stream):
        return text
    shades = {"error": "red", "warning": "yellow"}
    return _ERROR.sub(lambda m: click.style(m[1], fg=shades[m[1]], bold=True), text, count=1)


def result(text: str) -> None:
    """Print a result, on stdout; a missing line end is added."""
    click.echo(text, nl=not text.endswith("\n"), color=True)


def note(text: str, *, quiet: bool = False) -> None:
    """Tell something beside the result, on stderr, unless `quiet`."""
    if not quiet:
        click.echo(text, err=True, color=True)


def warn(message: str, help: str | None = None) -> None:
    """A warning, on stderr, in a diagnostic's form; -q does not hide it."""
    from sandboxrun.errors import Diagnostic

    text = str(Diagnostic(message=message, help=help, severity="warning"))
    click.echo(emphasised(text, sys.stderr), err=True, color=True)


def json_text(data: Any) -> str:
    """Data as JSON for a program to read: indented, no escapes beyond ASCII, a line end."""
    import json

    return json.dumps(data, indent=2, ensure_ascii=True) + "\n"


def colour_of(position: int) -> str:
    """The colour of the `position`-th of several sandboxes."""
    return _COLOURS[position % len(_COLOURS)]


def table(heads: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """Columns two spaces apart, as wide as they must be; nothing is cut."""
    lines = [heads, *rows]
    widths = [max(len(line[n]) for line in lines) for n in range(len(heads))]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in lines)
