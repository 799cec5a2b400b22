"""What is written, where and in which colours: results on stdout, everything else on stderr.

Owns colours and the streams. What an agent or a profile wrote has been through `printable` before it gets here.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from typing import IO, TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from sandboxrun.errors import Diagnostic

_unread = False  # whether stderr is a pipe that is full and that nobody reads
_COLOURS = ("cyan", "yellow", "green", "magenta", "blue", "bright_cyan", "bright_yellow", "bright_green")


def coloured(stream: IO[Any]) -> bool:
    """Whether colours are wanted there: a terminal, and NO_COLOR unset or empty."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def terminal_width() -> int | None:
    """The columns of the terminal that results go to; None where something else reads them."""
    if not sys.stdout.isatty():
        return None
    import shutil

    return shutil.get_terminal_size().columns


def tell(diagnostic: Diagnostic) -> None:
    """A diagnostic, on stderr; -q does not hide it."""
    from sandboxrun.report.diagnostics import diagnostic_text

    shout(diagnostic_text(diagnostic, colour=coloured(sys.stderr)))


def tell_all(diagnostics: Iterable[Diagnostic]) -> None:
    """Each of them, as `tell` does."""
    for diagnostic in diagnostics:
        tell(diagnostic)


def result(text: str) -> None:
    """Print a result, on stdout; a missing line end is added."""
    click.echo(text, nl=not text.endswith("\n"), color=True)


def note(text: str, *, quiet: bool = False) -> None:
    """Tell something beside the result, on stderr, unless `quiet`."""
    if not quiet:
        shout(text)


def shout(text: str, *, patience: float = 2.0) -> None:
    """A line on stderr, which may be closed, full, or not be read: nothing fails for it, nor waits for long."""
    global _unread
    from sandboxrun.report.streams import write_all

    try:
        write_all(sys.stderr, f"{text}\n".encode("utf-8", "backslashreplace"), patience=0.0 if _unread else patience)
    except TimeoutError:
        _unread = True
    except (OSError, ValueError):
        return


def warn(message: str, help: str | None = None) -> None:
    """A warning, on stderr, in a diagnostic's form; -q does not hide it."""
    from sandboxrun.errors import Diagnostic

    tell(Diagnostic(message=message, help=help, severity="warning"))


def json_text(data: Any) -> str:
    """Data as JSON for a program to read: indented, no escapes beyond ASCII, a line end."""
    import json

    return json.dumps(data, indent=2, ensure_ascii=True) + "\n"


def colour_of(position: int) -> str:
    """The colour of the `position`-th of several sandboxes."""
    return _COLOURS[position % len(_COLOURS)]
