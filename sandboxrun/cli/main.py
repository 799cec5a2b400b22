"""The entry point: the commands, what `--help` says of each, what the exit codes mean; and the one place where errors
become text and an exit code.

The lists are data, and a command's module is imported only when that command is used, so that `--help` imports none. A
traceback never reaches the user: it goes to a file.
"""

from __future__ import annotations

import atexit
import contextlib
import io
import os
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TextIO

import click
from click.shell_completion import CompletionItem

from sandboxrun.cli.output import hidden, hide, note, tell, warn

if TYPE_CHECKING:
    from sandboxrun.errors import Diagnostic
    from sandboxrun.tracing import Opened


class CommandEntry(NamedTuple):
    """A command: "module:attribute" below `sandboxrun.cli.commands`, and its line in the list of commands."""

    target: str
    help: str


SECTIONS: Mapping[str, Mapping[str, CommandEntry]] = {
    "Profile": {
        "init": CommandEntry("init:init", "Write a commented sandbox.yaml to start from."),
        "validate": CommandEntry("validate:validate", "Check profiles and report all errors, each with its line."),
        "render": CommandEntry("validate:render", "Print the effective profile and the source of each value."),
        "schema": CommandEntry(
            "validate:schema", "Print the JSON Schema of a profile, for editors and other programs."
        ),
        "explain": CommandEntry("explain:explain", "Show the documentation of an option or an audit rule."),
    },
    "Review": {
        "audit": CommandEntry("audit:audit", "Review profiles and Compose files: what their sandboxes may do."),
        "diff": CommandEntry("audit:diff", "Show what one profile's sandboxes may do that another's could not."),
    },
    "Sandboxes": {
        "plan": CommandEntry("plan:plan", "Show what apply would do, option by option, and why."),
        "apply": CommandEntry("apply:apply", "Create, update or remove sandboxes to match the profile."),
        "run": CommandEntry("run:run", "Run sandboxes to their end, save the evidence, clean up."),
        "ps": CommandEntry("ps:ps", "List the project's sandboxes."),
        "logs": CommandEntry("logs:logs", "Show the output of sandboxes."),
        "exec": CommandEntry("logs:exec_", "Run a command in a sandbox."),
        "verify": CommandEntry("verify:verify", "Probe from inside whether each restriction holds."),
        "wait": CommandEntry("apply:wait", "Wait until sandboxes have ended."),
        "destroy": CommandEntry("apply:destroy", "Save all evidence, then remove the sandboxes."),
        "reap": CommandEntry("reap:reap", "Collect sandboxes that nobody waits for any more."),
    },
    "Evidence": {"evidence": CommandEntry("evidence:evidence", "Check, show, keep and remove the evidence of runs.")},
    "Other": {
        "gateway": CommandEntry("doctor:gateway", "Build the image of the sandboxes' gateways."),
        "doctor": CommandEntry("doctor:doctor", "Show what the engine offers, and what it cannot enforce."),
        "completion": CommandEntry("init:completion", "Print the completion script of a shell."),
    },
}

COMMANDS: Mapping[str, CommandEntry] = {name: entry for part in SECTIONS.values() for name, entry in part.items()}

# -- what users of Compose, Terraform and kubectl type


def _by_word(helps: Mapping[str, str]) -> Mapping[str, str]:
    return {word: help for words, help in helps.items() for word in words.split()}


COMMANDS_ELSEWHERE = _by_word(
    {
        "up": "use `sandboxrun apply`; with --wait it stays until the sandboxes have ended",
        "create start deploy": "use `sandboxrun apply`",
        "restart": "use `sandboxrun apply --replace SANDBOX`, or --rerun for one that has ended",
        "down": "use `sandboxrun destroy`",
        "stop kill rm remove delete": "use `sandboxrun destroy --target SANDBOX`: it saves the evidence first",
        "ls list get status": "use `sandboxrun ps`",
        "describe inspect": "use `sandboxrun ps --json`",
        "attach tail": "use `sandboxrun logs --follow SANDBOX`",
        "config convert": "use `sandboxrun render`",
        "show": "use `sandboxrun render` for the profile, `sandboxrun plan` for what apply would do",
        "preview graph": "use `sandboxrun plan`",
        "lint check": "use `sandboxrun validate`, and `sandboxrun audit` for a review",
        "scan": "use `sandboxrun audit`",
        "test": "use `sandboxrun verify`: it probes from inside whether each restriction holds",
        "new": "use `sandboxrun init`",
        "refresh": "use `sandboxrun plan --refresh-only`",
        "state": "use `sandboxrun ps`: the engine's objects are the state",
        "top": "use `sandboxrun exec SANDBOX top`; the evidence has what a sandbox used",
        "stats": "use `sandboxrun apply --wait` or `sandboxrun wait`, which show it; the evidence has it too",
        "history": "use `sandboxrun evidence`",
        "report": "use `sandboxrun evidence show`",
        "login": "use `docker login`: its credentials are used",
        "info": "use `sandboxrun doctor`",
        "version": "use `sandboxrun --version`",
        "pull": "apply and run pull what they need; see pull_policy in the profile",
        "build push": "build and push the image in an earlier step, then name it by digest in image:",
        "cp": "name what is to be kept under evidence: {artifacts: […]}",
        "events watch": "use `sandboxrun wait`, or `sandboxrun logs --follow SANDBOX`",
        "help": "use `sandboxrun --help`, or `sandboxrun COMMAND --help`",
        "clean prune": "use `sandboxrun destroy`, or `sandboxrun reap` for what nobody waits for any more",
        "shell sh bash": "use `sandboxrun exec -i -t SANDBOX sh`",
        "taint": "use `sandboxrun apply --replace SANDBOX`",
        "pause unpause": "a sandbox runs from its start to its end",
    }
)

YES = "-y"
TTY = "leave it out: -i passes the terminal"
OPTIONS_ELSEWHERE = _by_word(
    {
        "--auto-approve --force --assume-yes --no-input --yes -y": YES,
        "--force-recreate --recreate": "use --replace SANDBOX",
        "--tty -t": TTY,
        "--remove-orphans": "leave it out: apply removes what is no longer declared",
        "--volumes": "leave it out: destroy removes the project's volumes, too",
        "--no-color": "set NO_COLOR=1",
        "--project-name": "set name: in the profile",
        "--dry-run --check": "use `sandboxrun plan`",
        "--all": "leave it out: without names a command is about all sandboxes",
        "--rmi": "leave it out: images stay on the engine",
        "--rm": "run removes the sandbox once its evidence is saved",
        "--detach -d": "use `sandboxrun apply`: its sandboxes run in the background",
        "--memory": "set mem_limit: in the profile, or in a file beside it: -f sandbox.yaml -f more.yaml",
        "--cpus": "set cpus: in the profile, or in a file beside it: -f sandbox.yaml -f more.yaml",
        "--volume --mount": "set volumes: or workspace: in the profile",
        "--network": "set egress: or network_mode: in the profile",
        "--env": "set environment: in the profile; --var sets a variable of its templates",
        "--env-file": "set env_file: in the profile",
        "--privileged": "a privileged container is not a sandbox; list single capabilities in cap_add:",
        "--build": "build and push the image in an earlier step, then name it by digest in image:",
        "--watch": "use `sandboxrun wait`, or `sandboxrun logs --follow`",
    }
)
# of docker run's options those that are not called like a key of the profile
DOCKER_RUN = _by_word(
    {
        "-e": OPTIONS_ELSEWHERE["--env"],
        "-m": OPTIONS_ELSEWHERE["--memory"],
        "-u": "set user: in the profile",
        "-w --workdir": "set working_dir: in the profile",
        "-p --publish": "a sandbox publishes no ports; read results as evidence, or use `sandboxrun exec`",
        "--name": "leave it out: containers are named after project and sandbox",
        "--pull": "set pull_policy: in the profile",
    }
)

# -- exit codes

# code → what it means, for the docs
TABLE: Mapping[str, str] = {
    "0": "done; with plan --detailed-exitcode: no changes; with doctor: everything can be enforced; with verify: "
    "everything holds",
    "1": "failed: the profile is wrong, no plan can be made, a step failed, doctor found what can't be enforced, "
    "verify what does not hold or is unknown, evidence verify what differs from the record, or reap left something",
    "2": "the command line is wrong; with plan --detailed-exitcode: there are changes",
    "3": "audit: something could not be audited, the command line and the policy included; evidence verify: nothing "
    "differs, but the seals could not be checked",
    "124": "run, wait, apply --wait: a sandbox was ended by its timeout, or did not end in time",
    "125": "run, exec, wait, apply --wait: sandboxrun failed, not the agent",
    "129": "ended by SIGHUP: the terminal or the connection to it ended",
    "130": "ended by SIGINT (^C)",
    "141": "stdout or stderr was closed before everything was written",
    "143": "ended by SIGTERM",
    "other": "run, exec, wait, apply --wait: the agent's own code; 137 when it was killed, as for too much memory",
}

BROKEN_PIPE = 141
COMPLETING = "_SANDBOXRUN_COMPLETE"  # set by the completion scripts
_OWN = 125
# (command, the option that makes it so) → the code of every failure, where the usual one could be taken for a result
_FAILS_WITH: Mapping[tuple[str, str | None], int] = {
    ("run", None): _OWN,
    ("exec", None): _OWN,
    ("wait", None): _OWN,
    ("apply", "--wait"): _OWN,
    ("plan", "--detailed-exitcode"): 1,
    ("audit", None): 3,
}


def code_of_failure(command: str | None, arguments: Sequence[str], usual: int) -> int:
    """The exit code of a failure of `command` that would be `usual` elsewhere.

    `arguments` are looked at as they were written: they may be what could not be understood.
    """
    if usual not in (1, 2):
        return usual  # a timeout says more than that
    ours = arguments[: arguments.index("--")] if "--" in arguments else arguments
    for (name, option), code in _FAILS_WITH.items():
        if name == command and (option is None or option in ours):
            return code
    return usual


class LazyGroup(click.Group):
    """The commands of the table above."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        from importlib import import_module

        module, _, attribute = COMMANDS[cmd_name].target.partition(":")
        command: click.Command = getattr(import_module(f"sandboxrun.cli.commands.{module}"), attribute)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that `args` begins with. Raises UsageError for one there is not."""
        if args[0] in COMMANDS or args[0].startswith("-"):
            return super().resolve_command(ctx, args)
        from sandboxrun.errors import UsageError, did_you_mean

        known = COMMANDS_ELSEWHERE.get(args[0]) or did_you_mean(args[0], COMMANDS)
        help = known or "`sandboxrun --help` lists the commands"
        raise UsageError(f'there is no command "{args[0]}"', help=help)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list in the help, from the table alone."""
        width = max(map(len, COMMANDS))
        for title, entries in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(name.ljust(width), entry.help) for name, entry in entries.items()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """What can follow: commands from the table, else as click has it."""
        found = [CompletionItem(n, help=e.help) for n, e in COMMANDS.items() if n.startswith(incomplete)]
        return [*found, *click.Command.shell_complete(self, ctx, incomplete)]

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("A first result"):
            formatter.write_dl(
                [
                    ("sandboxrun run -- uname -a", "one command in the closed default sandbox"),
                    ("sandboxrun init", "a profile to start from; then plan, apply, ps, logs, destroy"),
                ]
            )


def root() -> LazyGroup:
    """The group as the command line has it."""
    from sandboxrun import __version__

    def show_version(ctx: click.Context, option: click.Parameter, value: Any) -> None:
        if value and not ctx.resilient_parsing:
            click.echo(f"sandboxrun {__version__}")
            ctx.exit()

    version = click.Option(
        ["--version"],
        is_flag=True,
        expose_value=False,
        is_eager=True,
        callback=show_version,
        help="Print the version and exit.",
    )
    return LazyGroup(
        name="sandboxrun",
        params=[version],
        help="Run agents in sandboxes: a reviewed file declares what each may do, and sandboxrun verifies it.",
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    )


# -- One run of the command line


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
        hide(())
        _open_streams()
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(AttributeError):  # a stream that a caller put in its place may lack it
                stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
        group = root()
        if COMPLETING in os.environ:
            group.main(given, prog_name="sandboxrun", complete_var=COMPLETING)
        with _traced(given) as root_span:
            code, failure = _invoke(group, given)
            if root_span is not None:
                root_span.set({"process.exit.code": code})
                if failure is not None:
                    root_span.fail(failure)
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


def _invoke(group: click.Group, arguments: list[str]) -> tuple[int, BaseException | None]:
    """Parse, call, and turn what comes of it into an exit code, and the error that it is of. Raises an OSError of
    stdout's only."""
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
    """Say what went wrong, on stderr; the usual exit code. What nobody foresaw is a bug."""
    from sandboxrun.errors import Diagnostic, SandboxrunError

    match error:
        case click.ClickException():
            return _report_usage(error, arguments)
        case OSError(filename=str() | bytes() | os.PathLike()):
            _tell(Diagnostic(message=f"{os.fsdecode(error.filename)}: {error.strerror or error}"))
            return 1
        case SandboxrunError():
            _tell(*error.diagnostics)
            return int(error.exit_code)
    path = _write_crash(error)
    help = f"what led to it is in {path}; please report it" if path else "please report it"
    said = f"{type(error).__name__}: {error}".splitlines()[0]
    _tell(Diagnostic(message=f"this is a bug in sandboxrun: {said}", help=help))
    return 1


def _report_usage(error: click.ClickException, arguments: Sequence[str]) -> int:
    """What click found wrong with the command line, in our own form."""
    from sandboxrun.errors import Diagnostic

    context = getattr(error, "ctx", None)
    named = next((f" {word}" for word in arguments[:1] if word in COMMANDS), "")
    path = context.command_path if context is not None else f"sandboxrun{named}"
    message = error.format_message()
    help = None
    params = context.command.get_params(context) if context else []
    known = [name for param in params for name in param.opts if name.startswith("-")]
    if isinstance(error, click.NoSuchOption) and context is not None:
        message = f"no such option {error.option_name}"
        help = _advice(error.option_name, context.info_name or "", known, arguments)
        if context.parent is None:
            help = _after_its_command(error.option_name, context, arguments) or help
    elif "unexpected extra argument" in message and "--file" in known:
        file = next((word for word in arguments if word.endswith((".yaml", ".yml"))), None)
        other = "name a sandbox with --target NAME" if "--target" in known else None
        help = other if file is None else f"write --file {file}"
    message = " ".join((message[:1].lower() + message[1:]).rstrip(".").split())  # choices come in lines of their own
    _tell(Diagnostic(message=message, help=help or f"see `{path} --help`"))
    return error.exit_code


def _after_its_command(option: str, context: click.Context, arguments: Sequence[str]) -> str | None:
    """Where to write an option of a command that was given before it, as Compose has `-f`."""
    group, name = context.command, next((word for word in arguments if word in COMMANDS), "")
    command = group.get_command(context, name) if isinstance(group, click.Group) else None
    if command is None or all(option not in param.opts for param in command.params):
        return None
    return f"write it after the command: sandboxrun {name} {option}"


def _advice(option: str, command: str, known: list[str], arguments: Sequence[str]) -> str | None:
    """What to write in place of an option that there is not; None where nothing comes near it."""
    from sandboxrun.errors import did_you_mean
    from sandboxrun.spec.spec import ROWS

    for word in arguments:  # -target=a is read as -t
        long = f"-{word.partition('=')[0]}"
        if option[1:] in word and word[:1] == "-" != word[1:2] and len(word) > len(option):
            if long in known:
                return f"write {long}: a long option has two dashes"
            option = long if long in OPTIONS_ELSEWHERE else option
    if option == "--rerun" and command == "run":
        return "leave it out: run always runs again"
    help = OPTIONS_ELSEWHERE.get(option) or (DOCKER_RUN.get(option) if command == "run" else None)
    if help == YES and YES not in known:
        return f"leave it out: {command} does not ask"
    if help == TTY and "-i" not in known:
        help = None
    if help is not None:
        return f"use {help} (--yes)" if help == YES else help
    if (key := option[2:].replace("-", "_")) in {row.key for row in ROWS if row.settable}:
        return f"set {key}: in the profile"
    meant = did_you_mean(option, known)
    if command != "run" or "--" in arguments or arguments[1:2] == [] or arguments[1].startswith("-"):
        return meant
    words = f"for a command write: sandboxrun run -- {' '.join(arguments[1:])}"  # docker run's: it names no sandbox
    return f"{meant} Or {words}" if meant is not None else words


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
