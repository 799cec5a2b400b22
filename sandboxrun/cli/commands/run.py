"""`sandboxrun run`: sandboxes to their end, in one call."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from msgspec.structs import replace

from sandboxrun.cli import options as opt
from sandboxrun.cli.changing import Forwarding
from sandboxrun.cli.lines import Lines
from sandboxrun.cli.output import note, result, tell_all
from sandboxrun.errors import UsageError, did_you_mean, quoted

if TYPE_CHECKING:
    from sandboxrun.lifecycle.run import RunFailed
    from sandboxrun.spec.project import DeclaredSandbox, Profile


@click.command(cls=opt.WithCommand)
@opt.taking(
    opt.names,
    *opt.PROJECT,
    opt.policy,
    opt.interactive,
    opt.timeout,
    click.option("--base", metavar="BASE", help="Run in a built-in base (default, offline …), ignoring any profile."),
    click.option("--image", metavar="IMAGE", help="With a base: the image."),
    click.option("--user", metavar="USER", help="With a base: the user."),
    click.option("--no-workspace", is_flag=True, help="With a base: without a copy of the current directory."),
    opt.verifying,
    opt.raw,
    opt.parallelism,
    opt.lock_timeout,
    opt.as_json,
    *opt.SPOKEN,
)
def run(
    given: opt.Given,
    command: tuple[str, ...] | None,
    interactive: bool,
    timeout: float | None,
    base: str | None,
    verifying: bool,
    raw: bool,
    **own: Any,
) -> int:
    """Run sandboxes to their end: create, start, show output, save the evidence, remove. Exits with their code.

    NAME is a sandbox, or all of a for_each; without NAME, all run. COMMAND replaces the profile's. Without a
    profile, COMMAND runs in the default base, on a copy of the current directory.
    """
    from sandboxrun.cli.changing import Telling
    from sandboxrun.cli.lines import terminal_pump
    from sandboxrun.report.evidence import ended_by_itself, evidence_plain, runs_text

    profile = opt.enforced(one_off_profile(given, base, command, own), given)
    chosen = run_choice(profile, given.names, command, interactive)
    from sandboxrun.lifecycle.places import never_shown
    from sandboxrun.lifecycle.run import RunFailed, Runner, RunOptions, code_of
    from sandboxrun.plan.planner import with_dependencies
    from sandboxrun.plan.text import warnings

    every = [s.address for s in with_dependencies(profile, chosen)]
    lines = Lines(every, raw=raw or interactive, aside=given.as_json, sensitive=never_shown(profile, os.environ))
    error: RunFailed | None = None
    with contextlib.ExitStack() as stack:
        connections = max(given.parallelism, 4 * len(every) + 2, 16 * verifying)
        engine = stack.enter_context(opt.open_engine(given.host, connections))
        telling = stack.enter_context(Telling(given._replace(quiet=not given.verbose)))
        forwarding = Forwarding(telling.listener)
        telling.on_verifying = forwarding.begin
        settings = opt.settings(given, forwarding.listener, telling.waiting)
        options = RunOptions(
            command=command,
            timeout=timeout,
            output=lines,
            pump=stack.enter_context(terminal_pump()) if interactive else None,
            proof=stack.enter_context(telling.proving(engine, profile, settings, wanted=verifying, aside=given)),
            warned=lambda plan: tell_all(() if given.quiet else warnings(plan)),
        )
        runner = Runner(engine, profile, opt.open_store(profile, given), settings, options)
        with forwarding.to(runner.signal):
            try:
                results = runner.run(chosen)
            except RunFailed as failed:
                results, error = failed.results, failed
                if all(file.name.startswith("shipped:") for file in profile.files):  # its image is to be named here
                    shown = [
                        replace(d, help=_IMAGE) if d.message.startswith(_PULLING) else d for d in failed.diagnostics
                    ]
                    error = RunFailed(failed.results, *shown, code=failed.exit_code)
    lines.finish()
    if results or error is None:
        if given.as_json:
            result({"runs": [evidence_plain(run) for run in results]})
        else:
            sys.stdout.flush()
            alone = given.quiet and len(results) == 1 and ended_by_itself(results[0])  # its code says it all
            told = runs_text(results, sensitive=profile.sensitive, relative_to=Path.cwd(), brief=given.quiet)
            note(told, quiet=alone)
    tell_all(() if given.quiet else runner.notices)
    if error is not None:
        error.exit_code = forwarding.exit_code(error.exit_code)
        raise error
    lines.check("the evidence has all of it")
    return forwarding.exit_code(code_of(results))


_PULLING = "pulling image "
_IMAGE = "name an image that is on the engine or that it can pull with --image IMAGE, or `docker login`"


# -- what to run: the profile's sandboxes, or a built-in base made into a project of its own


def one_off_profile(
    given: opt.Given, base: str | None, command: tuple[str, ...] | None, own: Mapping[str, Any]
) -> Profile:
    """The profile to run: the one there is, or for a COMMAND without one a built-in base with `own` options.

    Raises UsageError.
    """
    files = given.files or opt.default_files()
    if base is None and (files or command is None):
        if any(own.values()):
            raise UsageError(
                "--image, --user and --no-workspace are for a run in a base, not for a profile's sandboxes",
                help="change the profile, or pass --base default",
            )
        return opt.load_profile(given)
    if given.files:
        raise UsageError("--base and --file exclude each other")
    if command is None:
        raise UsageError("--base needs a command", help="sandboxrun run --base default -- COMMAND")
    # a project named by the current directory, with one sandbox called after its base
    base = base or "default"
    from sandboxrun.cli.commands.init import project_name
    from sandboxrun.profile.files import bases
    from sandboxrun.profile.loader import load_data

    if base not in bases():
        known = ", ".join(bases())
        raise UsageError(f'there is no base "{base}"', help=did_you_mean(base, bases()) or f"there are: {known}")
    sandbox: dict[str, Any] = {"extends": base}
    sandbox |= {key: own[key] for key in ("image", "user") if own[key] is not None}
    if own["no_workspace"]:
        sandbox |= {"workspace": None}
    here = Path.cwd()
    data = {"name": project_name(here), "sandboxes": {base: sandbox}}
    return opt.announced(load_data(data, directory=here, inputs=opt.inputs_of(given)))


def run_choice(
    profile: Profile, names: tuple[str, ...], command: tuple[str, ...] | None, interactive: bool
) -> tuple[DeclaredSandbox, ...]:
    """The sandboxes to run. Raises UsageError for names there are not, and for choices that make no sense."""
    from sandboxrun.plan.planner import select

    if command is None:
        _check_for_command(profile, names)
    chosen = select(profile, names)
    if not chosen:
        raise UsageError("the profile declares no sandbox that could run", help="look at its when: and for_each:")
    if command is not None and not command:
        raise UsageError("there is no command after --")
    listed = ", ".join(sandbox.address for sandbox in chosen)
    if command is not None and not names and len(chosen) > 1:
        raise UsageError(f"which sandbox is to run the command? The profile has {listed}", help="name it before --")
    if interactive and len(chosen) > 1:
        raise UsageError(f"--interactive is for one sandbox, not for {listed}", help="name one")
    if interactive and not sys.stdin.isatty():
        raise UsageError("--interactive needs a terminal as standard input", help="leave it out in a pipeline")
    return chosen


def _check_for_command(profile: Profile, names: tuple[str, ...]) -> None:
    """Raise UsageError for what looks like `docker run`'s words: a command without its dashes."""
    declared = {*profile.left_out, *(word for one in profile.sandboxes for word in (one.address, one.sandbox))}
    known = [name for name in names if name in declared]
    rest = names[len(known) :]
    if len(names) > 1 and rest and tuple(known) == names[: len(known)]:
        words = " ".join([*known, "--", *rest])
        raise UsageError(f"there is no sandbox {quoted(rest[0])}", help=f"for a command write: sandboxrun run {words}")
