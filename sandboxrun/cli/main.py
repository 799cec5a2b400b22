"""The entry point, and the one place where errors become text and an exit code.

Owns the handling of everything that a command raises. A traceback never reaches the user: it goes to a file.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import io
import os
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import click

from sandboxrun.cli.group import BROKEN_PIPE, COMPLETING, OPTIONS_ELSEWHERE, TTY, YES, code_of_failure, root
from sandboxrun.cli.output import hidden, hide, note, tell, warn

if TYPE_CHECKING:
    from sandboxrun.errors import Diagnostic
    from sandboxrun.tracing import Opened

STDOUT = "stdout"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line `arguments`; the exit code. Without, it is the process's own, which ends then."""
    code = _main(sys.argv[1:] if arguments is None else arguments)
    if arguments is None:
        _end(code)
    return code


def _end(code: int) -> None:
    """End the process at once, once what was to be done at its end is done: to take the interpreter apart is 5 % of a
    plan's CPU time. One with threads to wait for ends in the usual way."""
    if any(not thread.daemon for thread in threading.enumerate() if thread is not threading.main_thread()):
        return
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code & 0xFF)


def _main(arguments: Sequence[str]) -> int:
    given = list(arguments)
    try:
        gc.set_threshold(50_000, 20, 20)  # imports make objects that stay: looking through them is 8 % of a start
        hide(())
        _open_streams()
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(AttributeError):  # a stream that a caller put in its place may lack it
                stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
        group = root()
        if COMPLETING in os.environ:
            group.main(given, prog_name="sandboxrun", complete_var=COMPLETING)
        with _traced(given) as root_span:
            code = _run(group, given, root_span)
        if code in (130, BROKEN_PIPE):  # what is left must not keep it waiting
            _drop_stdout()
        sys.stdout.flush()
        return code
    except OSError as error:  # reported now, not by the interpreter's last flush
        return _stdout_failed(error, given)
    except KeyboardInterrupt:
        _drop_stdout()
        return 130


def _traced(arguments: list[str]) -> contextlib.AbstractContextManager[Opened | None]:
    """The span of the whole command; None unless the user wants traces."""
    wanted = os.environ.get("OTEL_TRACES_EXPORTER", "").strip().lower() not in ("", "none")
    if not wanted or os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return contextlib.nullcontext()
    from sandboxrun.tracing import command

    return command(arguments, warn)


def _run(group: click.Group, arguments: list[str], root_span: Opened | None = None) -> int:
    """Parse, call, and turn what comes of it into an exit code. Raises an OSError of stdout's only."""
    code, failure = _invoke(group, arguments)
    if root_span is not None:
        root_span.set({"process.exit.code": code})
        if failure is not None:
            root_span.fail(failure)
    return code


def _invoke(group: click.Group, arguments: list[str]) -> tuple[int, BaseException | None]:
    """The exit code, and the error that it is of."""
    context: click.Context | None = None
    try:
        if not arguments:
            arguments = ["--help"]
        with group.make_context("sandboxrun", list(arguments)) as context:
            return int(group.invoke(context) or 0), None
    except click.exceptions.Exit as exit:
        return exit.exit_code, None
    except BrokenPipeError:
        raise
    except (KeyboardInterrupt, click.Abort) as interrupt:
        note("interrupted")
        return 130, interrupt
    except Exception as error:
        if isinstance(error, OSError) and error.filename == STDOUT:
            raise
        command = context.invoked_subcommand if context is not None else None
        return code_of_failure(command, arguments, _report(error, arguments)), error


def _report(error: Exception, arguments: Sequence[str]) -> int:
    """Say what went wrong, on stderr; the usual exit code."""
    match error:
        case click.ClickException():
            return _report_usage(error, arguments)
        case OSError(filename=str() | bytes() | os.PathLike()):
            from sandboxrun.errors import Diagnostic

            _tell(Diagnostic(message=f"{os.fsdecode(error.filename)}: {error.strerror or error}"))
            return 1
    if "sandboxrun.errors" in sys.modules:
        from sandboxrun.errors import SandboxrunError

        if isinstance(error, SandboxrunError):
            _tell(*error.diagnostics)
            return int(error.exit_code)
    return _report_bug(error)


def _report_usage(error: click.ClickException, arguments: Sequence[str]) -> int:
    """What click found wrong with the command line, in our own form."""
    from sandboxrun.errors import Diagnostic

    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "sandboxrun"
    message = error.format_message()
    help = None
    if isinstance(error, click.NoSuchOption) and context is not None:
        message = f"no such option {error.option_name}"
        known = [name for option in context.command.get_params(context) for name in option.opts]
        help = _advice(error.option_name, context.info_name or "", known, arguments)
    message = (message[:1].lower() + message[1:]).rstrip(".").replace("\n", " ")
    _tell(Diagnostic(message=message, help=help or f"see `{path} --help`"))
    return error.exit_code


def _advice(option: str, command: str, known: list[str], arguments: Sequence[str]) -> str | None:
    """What to write in place of an option that there is not; None where nothing comes near it."""
    from sandboxrun.errors import did_you_mean

    for word in arguments:  # -target=a is read as -t
        long = f"-{word.partition('=')[0]}"
        if word.startswith(option) and not word.startswith("--") and len(word) > len(option):
            if long in known:
                return f"write {long}: a long option has two dashes"
            option = long if long in OPTIONS_ELSEWHERE else option
    if option == "--rerun" and command == "run":
        return "leave it out: run always runs again"
    help = OPTIONS_ELSEWHERE.get(option)
    if help == YES and YES not in known:
        return f"leave it out: {command} does not ask"
    if help == TTY and "-i" not in known:
        help = None
    if help is not None:
        return f"use {help} (--yes)" if help == YES else help
    return did_you_mean(option, known)


def _report_bug(error: Exception) -> int:
    from sandboxrun.errors import Diagnostic

    path = _write_crash(error)
    help = f"what led to it is in {path}; please report it" if path else "please report it"
    said = f"{type(error).__name__}: {error}".splitlines()[0]
    _tell(Diagnostic(message=f"this is a bug in sandboxrun: {said}", help=help))
    return 1


def _write_crash(error: BaseException) -> Path | None:
    """Write the traceback to a new file that only the user can read; None when that fails too."""
    import tempfile
    import traceback

    from sandboxrun.evidence.errors import EvidenceError
    from sandboxrun.evidence.folder import state_path

    folders: list[Path | None] = [None]
    with contextlib.suppress(EvidenceError):
        folders.insert(0, state_path())
    for folder in folders:
        with contextlib.suppress(OSError):
            if folder is not None:
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(prefix="sandboxrun-crash-", suffix=".log", dir=folder)
            with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
                file.write(hidden("".join(traceback.format_exception(error))))
            return Path(name)
    return None


def _tell(*diagnostics: Diagnostic) -> None:
    with contextlib.suppress(BrokenPipeError):
        for diagnostic in diagnostics:
            tell(diagnostic)


class _Stdout(io.FileIO):
    """Standard output, whose errors say so: any other file's may have the same number."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError as error:
            error.filename = STDOUT
            raise


def _open_streams() -> None:
    """Standard streams that the caller has closed fail when they are used, and no file takes their number."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDONLY)
        if getattr(sys, name) is None:
            stream = open(number, "w" if number else "r", encoding="utf-8", closefd=False)  # noqa: SIM115
            setattr(sys, name, stream)
            setattr(sys, f"__{name}__", stream)
    stdout: TextIO = sys.stdout
    if stdout is sys.__stdout__ and stdout.fileno() == 1:
        buffer = io.BufferedWriter(_Stdout(1, "w", closefd=False))
        sys.stdout = io.TextIOWrapper(buffer, stdout.encoding, line_buffering=stdout.isatty())


def _stdout_failed(error: OSError, arguments: list[str]) -> int:
    """`sandboxrun logs | head` ends quietly; a full disk is reported. Nothing is left for the last flush."""
    _drop_stdout()
    if isinstance(error, BrokenPipeError):
        return BROKEN_PIPE
    from sandboxrun.cli.lines import OutputFailed

    failed = OutputFailed(error)
    _tell(*failed.diagnostics)
    return code_of_failure(next(iter(arguments), None), arguments, failed.exit_code)


def _drop_stdout() -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    with contextlib.suppress(OSError, ValueError):
        os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
