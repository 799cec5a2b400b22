"""The entry point, and the one place where errors become text and an exit code.

Owns the handling of everything that a command raises. A traceback never reaches the user: it goes to a file.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from sandboxrun.cli.exitcodes import BROKEN_PIPE, code_of_failure
from sandboxrun.cli.group import root

if TYPE_CHECKING:
    from sandboxrun.errors import Diagnostic, SandboxrunError

COMPLETING = "_SANDBOXRUN_COMPLETE"  # set by the completion scripts


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line `arguments` (the process's own when left out); the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError):  # a stream that a caller put in its place may lack it
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    group = root()
    if COMPLETING in os.environ:
        group.main(given, prog_name="sandboxrun", complete_var=COMPLETING)
    try:
        return _flushed(_run(group, given))
    except BrokenPipeError:
        return _no_reader()


def _run(group: click.Group, arguments: list[str]) -> int:
    """Parse, call, and turn what comes of it into an exit code. Raises BrokenPipeError only."""
    context: click.Context | None = None
    try:
        if not arguments:
            arguments = ["--help"]
        with group.make_context("sandboxrun", list(arguments)) as context:
            return int(group.invoke(context) or 0)
    except click.exceptions.Exit as exit:
        return exit.exit_code
    except BrokenPipeError:
        raise
    except (KeyboardInterrupt, click.Abort):
        click.echo("interrupted", err=True)
        return 130
    except Exception as error:
        command = context.invoked_subcommand if context is not None else None
        return code_of_failure(command, arguments, _report(error))


def _report(error: Exception) -> int:
    """Say what went wrong, on stderr; the usual exit code."""
    match error:
        case click.ClickException():
            return _report_usage(error)
        case OSError(filename=str() | bytes() | os.PathLike()):
            from sandboxrun.errors import Diagnostic

            _tell(Diagnostic(message=f"{os.fsdecode(error.filename)}: {error.strerror or error}"))
            return 1
    if "sandboxrun.errors" in sys.modules:
        from sandboxrun.errors import SandboxrunError

        if isinstance(error, SandboxrunError):
            return _report_expected(error)
    return _report_bug(error)


def _report_expected(error: SandboxrunError) -> int:
    _tell(*error.diagnostics)
    return int(error.exit_code)


def _report_usage(error: click.ClickException) -> int:
    """What click found wrong with the command line, in our own form."""
    from sandboxrun.errors import Diagnostic, did_you_mean

    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "sandboxrun"
    message = error.format_message()
    help = None
    if isinstance(error, click.NoSuchOption) and context is not None:
        message = f"no such option {error.option_name}"
        known = [name for option in context.command.get_params(context) for name in option.opts]
        help = did_you_mean(error.option_name, known)
    message = (message[:1].lower() + message[1:]).rstrip(".").replace("\n", " ")
    _tell(Diagnostic(message=message, help=help or f"see `{path} --help`"))
    return error.exit_code


def _report_bug(error: Exception) -> int:
    from sandboxrun.cli.crash import write_crash
    from sandboxrun.errors import Diagnostic

    path = write_crash(error)
    help = f"what led to it is in {path}; please report it" if path else "please report it"
    said = f"{type(error).__name__}: {error}".splitlines()[0]
    _tell(Diagnostic(message=f"this is a bug in sandboxrun: {said}", help=help))
    return 1


def _tell(*diagnostics: Diagnostic) -> None:
    from sandboxrun.cli.output import tell

    with contextlib.suppress(BrokenPipeError):
        for diagnostic in diagnostics:
            tell(diagnostic)


def _flushed(code: int) -> int:
    """Output that nobody takes is told now, not by the interpreter's last flush."""
    sys.stdout.flush()
    return code


def _no_reader() -> int:
    """`sandboxrun logs | head`: end quietly, with nothing left for the interpreter to flush."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    with contextlib.suppress(OSError, ValueError):
        os.dup2(nowhere, sys.stdout.fileno())
    return BROKEN_PIPE
