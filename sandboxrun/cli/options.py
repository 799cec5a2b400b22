"""The options, each declared once: a decorator a option, and groups of those that go together; and what commands work
on by them: the profile, the engine, the evidence store, the sandboxes that names mean.

Owns names, help texts, what is read from the text, the default file names, and the words for what is not there.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click
from msgspec import structs

from sandboxrun.errors import UsageError, did_you_mean, quoted
from sandboxrun.spec.names import PROFILES
from sandboxrun.spec.names import PROJECT as PROJECT_NAME

if TYPE_CHECKING:
    from sandboxrun.backend.base import Backend
    from sandboxrun.backend.docker.client import Engine
    from sandboxrun.backend.session import Event
    from sandboxrun.evidence.store import Store
    from sandboxrun.lifecycle.apply import ApplySettings
    from sandboxrun.lifecycle.saved import SavedPlan
    from sandboxrun.plan.planner import Options
    from sandboxrun.profile.variables import Inputs
    from sandboxrun.spec.project import Profile
    from sandboxrun.spec.state import ObservedSandbox


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


class _Quantity(click.ParamType):  # type: ignore[type-arg]  # generic from click 8.2 on
    """A number with a unit, as a profile writes it. `units` are the suffixes of which one is needed, where a number
    alone could be taken for another: 30 days of evidence would be 30 seconds of it."""

    examples = ""
    units: tuple[str, ...] = ()

    def parse(self, text: str) -> float | int:
        """The number in seconds, or in bytes. Raises ValueError."""
        raise NotImplementedError

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float | int:
        """The number. Fails for what is none, and for one that lacks its unit."""
        if isinstance(value, int | float):
            return value
        try:
            found = self.parse(value)
        except ValueError:
            self.fail(f'"{value}" is not a {self.name}, such as {self.examples}', param, ctx)
        if self.units and found and value.strip()[-1:].isdecimal():
            *others, last = (f"{value.strip()}{unit}" for unit in self.units)
            self.fail(f'"{value}" has no unit: write {", ".join(others)} or {last}', param, ctx)
        return found


class Seconds(_Quantity):
    """A duration as a profile writes it (`90s`, `30m`, `1h30m`), or a number of seconds; in seconds."""

    name, examples = "duration", "90s, 30m or 1h30m"

    def parse(self, text: str) -> float:
        """The seconds."""
        from sandboxrun.spec.types import SECOND, parse_duration

        return float(text) if text.replace(".", "", 1).isdecimal() else parse_duration(text) / SECOND


class Age(Seconds):
    """How old something has to be to be removed: a duration with its unit, in seconds."""

    examples, units = "12h or 30d", ("m", "h", "d")


class Bytes(_Quantity):
    """How much may stay: a size with its unit as a profile writes it (`512m`, `5GB`), in bytes."""

    name, examples, units = "size", "512m or 5g", ("b", "m", "g")

    def parse(self, text: str) -> int:
        """The bytes."""
        from sandboxrun.spec.types import parse_size

        return parse_size(text)


def duration(*names: str, help: str, default: float | None = None) -> Decorator:
    """An option that takes a duration, in seconds."""
    return click.option(*names, type=Seconds(), metavar="DURATION", default=default, help=help)


def age(*names: str, help: str) -> Decorator:
    """An option that takes the age of what is removed, in seconds."""
    return click.option(*names, type=Age(), metavar="DURATION", help=help)


def size(*names: str, help: str) -> Decorator:
    """An option that takes a size, in bytes."""
    return click.option(*names, type=Bytes(), metavar="SIZE", help=help)


def path(*names: str, help: str, metavar: str = "FILE", multiple: bool = False) -> Decorator:
    """An option that takes a path."""
    return click.option(*names, multiple=multiple, type=click.Path(path_type=Path), metavar=metavar, help=help)


def flag(*names: str, help: str) -> Decorator:
    """An option that is given or not."""
    return click.option(*names, is_flag=True, help=help)


_FILE = "The profile; several are merged, later ones over earlier ones. Default: sandbox.yaml, sandbox.yml."
file = path("-f", "--file", "files", multiple=True, help=_FILE)
file_spelled_out = path("--file", "files", multiple=True, help=_FILE)  # where -f means follow
var = click.option("--var", "vars", multiple=True, metavar="NAME=VALUE", help="Set a variable.")
var_file = path("--var-file", "var_files", multiple=True, help="Read variables from a YAML or dotenv file.")
allow_outside = flag(
    "--allow-outside", help="Let binds, workspaces, secrets and configs name paths outside the project."
)
_EVIDENCE = "Where to save evidence, relative to the project. Default: .sandboxrun/evidence."
evidence = path("--evidence", metavar="DIR", help=_EVIDENCE)
_DIRECTORY = "The directory with the evidence. Default: .sandboxrun/evidence."
directory = path("--dir", "directory", metavar="DIR", help=_DIRECTORY)
_POLICY = "Refuse what this policy does not allow. Default: sandboxrun-policy.yaml in the project's root."
policy = path("--policy", help=_POLICY)
_HOST = "The engine: unix:///path, tcp://host:port or ssh://user@host. Default: same as the docker CLI."
host = click.option("--host", metavar="URL", help=_HOST)
quiet = flag("-q", "--quiet", help="Print only the result and errors.")
verbose = flag("-v", "--verbose", help="Print each step.")
_TARGET = 'Only this sandbox (all of its for_each, or one: reviewer["lint"]), and what it depends on.'
target = click.option("--target", "targets", multiple=True, metavar="NAME", help=_TARGET)
replace = click.option("--replace", multiple=True, metavar="NAME", help="Replace this sandbox even if nothing changed.")
_RERUN = "Run sandboxes again that have completed; --rerun=failed: those that failed or were stopped."
rerun = click.option("--rerun", is_flag=False, flag_value="all", type=click.Choice(["all", "failed"]), help=_RERUN)
refresh_only = flag("--refresh-only", help="Only look for changes made outside sandboxrun.")
_STEPS: dict[str, Any] = {"default": 4, "show_default": True, "metavar": "N", "help": "How many steps to run at once."}
parallelism = click.option("--parallelism", type=click.IntRange(1, 64), **_STEPS)
lock_timeout = duration(
    "--lock-timeout", default=60.0, help="How long to wait for another run of the project. Default: 60s."
)
take_over = flag("--take-over", help="Also change or remove what a profile in another directory made under this name.")
yes = flag("-y", "--yes", help="Skip the confirmation.")
as_json = flag("--json", "as_json", help="Print the result as JSON.")
detailed_exitcode = flag("--detailed-exitcode", help="Exit with 0 for no changes, 1 for an error, 2 for changes.")
out = path("--out", help="Save the plan, for apply to carry out exactly as shown.")
wait = flag("--wait", help="Wait until all have ended, tear them down, and exit with the first code that is not 0.")
wait_timeout = duration("--wait-timeout", help="With --wait: stop waiting after this; the sandboxes keep running.")
verifying = flag("--verify", "verifying", help="Start nothing unless probes show that all restrictions hold.")
timeout = duration("--timeout", help="End a named sandbox that runs longer.")
timeout_of_wait = duration("--timeout", help="Stop waiting after this; the sandboxes keep running.")
interactive = flag("-i", "--interactive", help="Pass standard input (with run: the terminal) to the sandbox.")
raw = flag("--raw", help="Print terminal escapes unchanged, instead of making them visible.")
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


class Subcommands(click.Group):
    """A command with commands of its own; without one of them it prints its help."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As click reads them."""
        return super().parse_args(ctx, args or ["--help"])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that `args` begins with. Raises UsageError for one there is not."""
        if args[0] not in self.commands and not args[0].startswith("-"):
            path = ctx.command_path
            help = did_you_mean(args[0], self.commands) or f"`{path} --help` lists the commands"
            raise UsageError(f'there is no command "{path.partition(" ")[2]} {args[0]}"', help=help)
        return super().resolve_command(ctx, args)


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


# -- From options to what commands work on


_STREAM = r"-|/dev/stdin|/dev/fd/\d+|/proc/[^/]+/fd/\d+"


def default_files() -> tuple[Path, ...]:
    """The profile in the current directory, if there is one."""
    # an empty directory keeps the place while a sandbox may write beside it
    found = [Path(name) for name in PROFILES if os.path.lexists(name) and not os.path.isdir(name)]
    if len(found) > 1:
        raise UsageError("there are both sandbox.yaml and sandbox.yml", help="pass the one you mean with --file")
    return tuple(found)


def profile_files(given: Given, *, spared: bool = False) -> tuple[Path, ...]:
    """The files of the profile. Raises UsageError when there is none. `spared`: the command can do without, by
    --project."""
    files = given.files or default_files()
    if not files:
        raise UsageError(
            f"there is no profile here: neither sandbox.yaml nor sandbox.yml is in {os.getcwd()}",
            help="name the project with --project NAME, or pass its profile with --file"
            if spared
            else "create one with `sandboxrun init`, or pass one with --file",
        )
    for file in files:
        if re.fullmatch(_STREAM, os.path.normpath(file)):
            raise UsageError(
                f"a profile can't be read from a stream: {file}",
                help="write it to a file in the project's directory: relative paths start there",
            )
    return files


def inputs_of(given: Given) -> Inputs:
    """What the command line gives the profile's variables."""
    from sandboxrun.profile.variables import Inputs

    return Inputs(vars=given.vars, var_files=given.var_files, environment=os.environ)


def load_profile(given: Given, *, spared: bool = False) -> Profile:
    """The profile that the options name. Raises UsageError, ProfileError. `spared`: the command can do without, by
    --project, and says so."""
    from sandboxrun.errors import Diagnostic, ProfileError
    from sandboxrun.profile.loader import load

    files = profile_files(given, spared=spared)
    try:
        return announced(load(files, inputs=inputs_of(given), allow_outside=given.allow_outside))
    except ProfileError as error:
        if not spared:
            raise
        way_out = Diagnostic(message="with --project NAME the profile is not needed", severity="notice")
        raise ProfileError(*error.diagnostics, way_out) from error


def check_project(name: str | None) -> None:
    """Raise UsageError for what can't be the name of a project."""
    if name is not None and not re.fullmatch(PROJECT_NAME, name):
        raise UsageError(f"{quoted(name)} is not a project's name", help="use lower-case letters, digits, - and _")


def enforced(profile: Profile, given: Given) -> Profile:
    """The profile, which the policy allows: that of --policy, or of the project's root. Raises ProfileError."""
    from sandboxrun.lifecycle.places import enforce

    enforce(profile, given.policy, os.environ)
    return profile


def announced(profile: Profile) -> Profile:
    """The profile: from now on its sensitive values are masked in all output. Its warnings are shown."""
    from sandboxrun import tracing
    from sandboxrun.cli.output import hide, tell_all

    hide(profile.sensitive)
    tracing.hide(profile.sensitive)
    tell_all(profile.warnings)
    return profile


def open_store(profile: Profile, given: Given) -> Store:
    """The store of the project's evidence."""
    from sandboxrun.evidence.store import Store

    return Store(project_directory=profile.directory, root=given.evidence)


def store_in(directory: Path | None) -> Store:
    """The store in a directory, without a profile; by default the one of the current directory's project."""
    from sandboxrun.evidence.store import Store

    project, root = Path.cwd(), None
    if directory is not None:
        root = Path(os.path.abspath(directory))
        if root.parts[-2:] == (".sandboxrun", "evidence"):
            project, root = root.parent.parent, None
    return Store(project_directory=project, root=root)


def open_engine(host: str | None, parallelism: int = 4) -> Engine:
    """The engine. Raises EngineUnreachable, UsageError."""
    from sandboxrun.backend.docker.client import connect

    return connect(host, parallelism=parallelism)


def no_engine() -> AbstractContextManager[Backend]:
    """An engine that has nothing, for plans that ask none."""
    from sandboxrun.backend.fake import Fake, World

    return nullcontext(Fake(World(blank=True)))


def load_saved(given: Given, saved: SavedPlan) -> Profile:
    """The profile that a plan was made from, with the values it was made with; sensitive ones are given again.

    The command line's names and values win, so that a plan that does not fit them is refused as stale.
    """

    from sandboxrun.profile.loader import load

    named = {text.partition("=")[0] for text in given.vars}
    values = {name: value for name, value in saved.inputs.items() if name not in named}
    inputs = structs.replace(inputs_of(given), values=values)
    return announced(load(saved.files, inputs=inputs, directory=saved.directory, allow_outside=given.allow_outside))


def settings(
    given: Given, listener: Callable[[Event], None], on_wait: Callable[[str], None], **rest: Any
) -> ApplySettings:
    """How an apply goes; `listener` hears of its steps, `on_wait` of waiting for the project's lock."""
    from sandboxrun.lifecycle.apply import ApplySettings

    return ApplySettings(
        parallelism=given.parallelism,
        lock_wait=given.lock_timeout,
        listener=listener,
        on_wait=on_wait,
        environment=os.environ,
        **rest,
    )


def choices(given: Given) -> Options:
    """What the command line says of the plan to make."""
    from sandboxrun.plan.planner import Options

    return Options(
        targets=given.targets,
        replace=given.replace,
        rerun="failed" if given.rerun == "failed" else given.rerun is not None,
        refresh_only=given.refresh_only,
    )


# -- sandboxes by name, without a plan


def observed(engine: Engine, profile: Profile) -> tuple[ObservedSandbox, ...]:
    """The project's containers, in the profile's order, those it does not declare last."""
    from sandboxrun.backend.docker.observe import own_sandboxes

    seen = own_sandboxes(engine, profile.names)
    return tuple(sorted(seen, key=lambda o: (profile.position(o.address), o.address, o.one_off, o.created)))
