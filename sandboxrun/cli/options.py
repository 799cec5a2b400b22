"""The options, each declared once: a decorator a option, and groups of those that go together.

Owns names, help texts and what is read from the text. What a command does with them is its own.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import click

from sandboxrun.errors import UsageError

Decorator = Callable[[Any], Any]


class Given(NamedTuple):
    """What was given for the options that commands share; what a command does not have is as if it was left out."""

    files: tuple[Path, ...] = ()
    vars: tuple[str, ...] = ()
    var_files: tuple[Path, ...] = ()
    allow_outside: bool = False
    evidence: Path | None = None
    policy: Path | None = None
    host: str | None = None
    names: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()
    replace: tuple[str, ...] = ()
    rerun: str | None = None
    refresh_only: bool = False
    parallelism: int = 4
    lock_timeout: float = 60.0
    form: str | None = None
    yes: bool = False
    take_over: bool = False
    as_json: bool = False
    quiet: bool = False
    verbose: bool = False


class Seconds(click.ParamType):  # type: ignore[type-arg]  # generic from click 8.2 on
    """A duration as a profile writes it (`90s`, `30m`, `1h30m`), or a number of seconds; in seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The seconds. Fails for what is neither."""
        if isinstance(value, (int, float)):
            return float(value)
        from sandboxrun.spec.types import SECOND, parse_duration

        try:
            return float(value) if value.replace(".", "", 1).isdecimal() else parse_duration(value) / SECOND
        except ValueError:
            self.fail(f'"{value}" is not a duration, such as 90s, 30m or 1h30m', param, ctx)


class Bytes(click.ParamType):  # type: ignore[type-arg]  # generic from click 8.2 on
    """A size as a profile writes it (`512m`, `5GB`), in bytes."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The bytes. Fails for what is no size."""
        from sandboxrun.spec.types import parse_size

        try:
            return parse_size(str(value))
        except ValueError:
            self.fail(f'"{value}" is not a size, such as 512m or 5g', param, ctx)


_PATH = click.Path(path_type=Path)


def _file(*spelled: str) -> Decorator:
    return click.option(
        *spelled,
        "files",
        multiple=True,
        type=_PATH,
        metavar="FILE",
        help="The profile; several are merged, later ones over earlier ones. Default: sandbox.yaml, sandbox.yml.",
    )


file = _file("-f", "--file")
file_spelled_out = _file("--file")  # where -f means follow
var = click.option("--var", "vars", multiple=True, metavar="NAME=VALUE", help="Set a variable.")
var_file = click.option(
    "--var-file",
    "var_files",
    multiple=True,
    type=_PATH,
    metavar="FILE",
    help="Read variables from a YAML or dotenv file.",
)
allow_outside = click.option(
    "--allow-outside", is_flag=True, help="Let binds, workspaces, secrets and configs name paths outside the project."
)
evidence = click.option(
    "--evidence",
    type=_PATH,
    metavar="DIR",
    help="Where to save evidence, relative to the project. Default: .sandboxrun/evidence.",
)
directory = click.option(
    "--dir",
    "directory",
    type=_PATH,
    metavar="DIR",
    help="The directory with the evidence. Default: .sandboxrun/evidence.",
)
policy = click.option(
    "--policy",
    type=_PATH,
    metavar="FILE",
    help="Refuse what this policy does not allow. Default: sandboxrun-policy.yaml in the project's root.",
)
host = click.option(
    "--host",
    metavar="URL",
    help="The engine: unix:///path, tcp://host:port or ssh://user@host. Default: same as the docker CLI.",
)
quiet = click.option("-q", "--quiet", is_flag=True, help="Print only the result and errors.")
verbose = click.option("-v", "--verbose", is_flag=True, help="Print each step.")
target = click.option(
    "--target",
    "targets",
    multiple=True,
    metavar="NAME",
    help='Only this sandbox (all of its for_each, or one: reviewer["lint"]), and what it depends on.',
)
replace = click.option("--replace", multiple=True, metavar="NAME", help="Replace this sandbox even if nothing changed.")
rerun = click.option(
    "--rerun",
    is_flag=False,
    flag_value="all",
    type=click.Choice(["all", "failed"]),
    help="Run sandboxes again that have completed; --rerun=failed: those that failed or were stopped.",
)
refresh_only = click.option("--refresh-only", is_flag=True, help="Only look for changes made outside sandboxrun.")
parallelism = click.option(
    "--parallelism",
    type=click.IntRange(1, 64),
    default=4,
    show_default=True,
    metavar="N",
    help="How many steps to run at once.",
)
lock_timeout = click.option(
    "--lock-timeout",
    type=Seconds(),
    default=60.0,
    metavar="DURATION",
    help="How long to wait for another run of the project. Default: 60s.",
)
take_over = click.option(
    "--take-over", is_flag=True, help="Also change or remove what a profile in another directory made under this name."
)
yes = click.option("-y", "--yes", is_flag=True, help="Skip the confirmation.")
as_json = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
detailed_exitcode = click.option(
    "--detailed-exitcode", is_flag=True, help="Exit with 0 for no changes, 1 for an error, 2 for changes."
)
out = click.option("--out", type=_PATH, metavar="FILE", help="Save the plan, for apply to carry out exactly as shown.")
wait = click.option(
    "--wait",
    is_flag=True,
    help="Wait until all have ended, tear them down, and exit with the first code that is not 0.",
)
wait_timeout = click.option(
    "--wait-timeout",
    type=Seconds(),
    metavar="DURATION",
    help="With --wait: stop waiting after this; the sandboxes keep running.",
)
verifying = click.option(
    "--verify", "verifying", is_flag=True, help="Start nothing unless probes show that all restrictions hold."
)
timeout = click.option("--timeout", type=Seconds(), metavar="DURATION", help="End a named sandbox that runs longer.")
timeout_of_wait = click.option(
    "--timeout", type=Seconds(), metavar="DURATION", help="Stop waiting after this; the sandboxes keep running."
)
interactive = click.option(
    "-i", "--interactive", is_flag=True, help="Pass standard input (with run: the terminal) to the sandbox."
)
raw = click.option("--raw", is_flag=True, help="Print terminal escapes unchanged, instead of making them visible.")
names = click.argument("names", nargs=-1, metavar="[NAME]...")


def format_of(*formats: str) -> Decorator:
    """`--format`, with what the command can write; the first is the default. `--json` is short for one of them."""
    return click.option(
        "--format", "form", type=click.Choice(formats), help=f"How to print the result. Default: {formats[0]}."
    )


def chosen_format(given: Given, default: str = "text") -> str:
    """What `--format` and `--json` come to. Raises UsageError where they clash."""
    if given.as_json and given.form not in (None, "json"):
        raise UsageError(f"--json and --format {given.form} exclude each other")
    return "json" if given.as_json else given.form or default


def check_json_asks_nobody(given: Given) -> None:
    """Raise UsageError for --json without --yes: JSON lines leave no room for a question."""
    if given.as_json and not given.yes:
        raise UsageError("--json cannot ask for confirmation", help="review the plan first, then pass --yes as well")


def agreed(given: Given) -> bool:
    """Whether what was made from another directory may be changed: it was asked for, or will be."""
    return given.take_over or not given.yes


def taking(*options: Decorator) -> Decorator:
    """A command's options and arguments, in the help's order. Those that commands share come as `given`."""

    def decorate(function: Callable[..., Any]) -> Any:
        @functools.wraps(function)
        def packed(**values: Any) -> Any:
            shared = {name: values.pop(name) for name in Given._fields if name in values}
            return function(given=Given(**shared), **values)

        decorated: Any = packed
        for option in reversed(options):
            decorated = option(decorated)
        return decorated

    return decorate


# Those of every command on a profile; on a profile, an engine and the evidence; on how much is printed
PROFILE = (file, var, var_file, allow_outside)
PROJECT = (*PROFILE, evidence, host)
SPOKEN = (quiet, verbose)


class WithCommand(click.Command):
    """A command whose arguments may be followed by `-- COMMAND...`, passed as `command` (None: nothing followed)."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Set the sandbox's command aside before click reads the rest."""
        ours, dashes, theirs = args, None, []
        if "--" in args:
            dashes = args.index("--")
            ours, theirs = args[:dashes], args[dashes + 1 :]
        left = super().parse_args(ctx, ours)
        ctx.params["command"] = tuple(theirs) if dashes is not None else None
        return left

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        """The usage line's words."""
        return [*super().collect_usage_pieces(ctx), "[-- COMMAND...]"]
