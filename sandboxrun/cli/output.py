"""What is written, where and in which colours: results on stdout, everything else on stderr.

Owns colours and the streams, and is the last to mask what the command's profile holds that is sensitive. What an agent
or a profile wrote has been through `printable` before it gets here.
"""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterable
from typing import IO, TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from sandboxrun.errors import Diagnostic

_sensitive: frozenset[str] = frozenset()  # never written, by whatever command
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


def hide(sensitive: Iterable[str]) -> None:
    """Mask these texts, and no others, in everything that is written from now on."""
    global _sensitive
    _sensitive = frozenset(sensitive)


def hidden_texts() -> frozenset[str]:
    """What `hide` was given."""
    return _sensitive


def hidden(text: str) -> str:
    """`text` with what `hide` was given masked."""
    if not _sensitive:
        return text
    from sandboxrun.errors import redact

    return redact(text, _sensitive)


def _in_a_log(text: str) -> str:
    """A text of several lines, none of which the log of a job obeys: parts of a profile are shown, and file names."""
    if os.environ.get("GITHUB_ACTIONS") != "true" or ("::" not in text and "##[" not in text):
        return text
    return "\n".join(map(without_commands, text.split("\n")))


def without_commands(line: str) -> str:
    """A line that is no workflow command whatever it holds: for what others wrote, in a job's log."""
    line = line.replace("##[", "#\u2060#[")  # the older form counts anywhere in a line
    return f"\u2060{line}" if line.lstrip().startswith("::") else line


def _is_file(stream: IO[Any]) -> bool:
    """Whether it goes to a file, where it stays as it is, and not to a log."""
    try:
        return stat.S_ISREG(os.fstat(stream.fileno()).st_mode)
    except (OSError, ValueError):
        return False


def tell(diagnostic: Diagnostic) -> None:
    """A diagnostic, on stderr; -q does not hide it."""
    from sandboxrun.report.diagnostics import diagnostic_text

    shout(diagnostic_text(diagnostic, colour=coloured(sys.stderr)))


def tell_all(diagnostics: Iterable[Diagnostic]) -> None:
    """Each of them, as `tell` does."""
    for diagnostic in diagnostics:
        tell(diagnostic)


def result(told: Any, *, indent: int | None = 2, annotated: bool = False) -> None:
    """Print a result on stdout: a text, or data as JSON, without `indent` on one line. A missing line end is added. In
    a job's log no line of a text is a command, unless it is `annotated`: has those that are meant, and no others."""
    if not isinstance(told, str):
        import json

        from sandboxrun.errors import redact_texts

        told = json.dumps(redact_texts(told, _sensitive) if _sensitive else told, indent=indent, ensure_ascii=True)
    else:
        told = hidden(told)
        if not annotated and not _is_file(sys.stdout):
            told = _in_a_log(told)
    click.echo(told, nl=not told.endswith("\n"), color=True)


def note(text: str, *, quiet: bool = False) -> None:
    """Print something besides the result, on stderr, unless `quiet`."""
    if not quiet:
        shout(text)


def shout(text: str, *, patience: float = 2.0) -> None:
    """A line on stderr, which may be closed, full, or not be read: nothing fails for it, nor waits for long."""
    global _unread
    from sandboxrun.report.streams import write_all

    line = f"{_in_a_log(hidden(text))}\n".encode("utf-8", "backslashreplace")
    try:
        write_all(sys.stderr, line, patience=0.0 if _unread else patience)
    except TimeoutError:
        _unread = True
    except (OSError, ValueError):
        return


def warn(message: str, help: str | None = None) -> None:
    """A warning, on stderr, in a diagnostic's form; -q does not hide it."""
    from sandboxrun.errors import Diagnostic

    tell(Diagnostic(message=message, help=help, severity="warning"))


def colour_of(position: int) -> str:
    """The colour of the `position`-th of several sandboxes."""
    return _COLOURS[position % len(_COLOURS)]
