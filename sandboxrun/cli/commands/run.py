"""`sandboxrun run`: sandboxes to their end, in one call."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click
from msgspec import structs

from sandboxrun.cli import options as opt

if TYPE_CHECKING:
    from sandboxrun.cli.terminal import TerminalPump
    from sandboxrun.lifecycle.job import RunResult
    from sandboxrun.lifecycle.run import RunFailed, Runner
    from sandboxrun.plan.changes import Plan
    from sandboxrun.spec.project import DeclaredSandbox, Profile


@click.command(cls=opt.WithCommand)
@opt.taking(
    opt.names,
    *opt.PROJECT,
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
    from sandboxrun.backend.docker.client import import_ahead
    from sandboxrun.cli.choosing import one_off_profile, run_choice

    import_ahead()
    profile = one_off_profile(given, base, command, own)
    chosen = run_choice(profile, given.names, command, interactive)
    how = {"command": command, "timeout": timeout}
    return _carry_out(profile, chosen, given, interactive, raw, verifying, **how)


def _carry_out(
    profile: Profile,
    chosen: tuple[DeclaredSandbox, ...],
    given: opt.Given,
    interactive: bool,
    raw: bool,
    verifying: bool,
    **how: Any,
) -> int:
    from sandboxrun.cli.changing import Telling
    from sandboxrun.cli.lines import Lines
    from sandboxrun.cli.project import open_engine, open_store
    from sandboxrun.cli.signals import Forwarding
    from sandboxrun.lifecycle.apply import ApplySettings
    from sandboxrun.lifecycle.job import code_of
    from sandboxrun.lifecycle.run import Runner, RunOptions
    from sandboxrun.plan.planner import with_dependencies

    every = [s.address for s in with_dependencies(profile, chosen)]
    lines = Lines(every, raw=raw or interactive, aside=given.as_json, sensitive=profile.sensitive)
    with contextlib.ExitStack() as stack:
        engine = stack.enter_context(
            open_engine(given.host, max(given.parallelism, 4 * len(every) + 2, 16 * verifying))
        )
        telling = stack.enter_context(Telling(given._replace(quiet=not given.verbose)))
        forwarding = Forwarding(telling.listener)
        settings = ApplySettings(
            parallelism=given.parallelism,
            lock_wait=given.lock_timeout,
            listener=forwarding.listener,
            on_wait=telling.waiting,
            environment=os.environ,
        )
        pump = stack.enter_context(_terminal()) if interactive else None
        telling.on_verifying = forwarding.begin
        proof = stack.enter_context(telling.proving(engine, profile, settings, wanted=verifying, aside=given))
        options = RunOptions(output=lines, pump=pump, proof=proof, warned=_warned(given), **how)
        runner = Runner(engine, profile, open_store(profile, given), settings, options)
        with forwarding.to(runner.signal):
            results, error = _run(runner, chosen, based=_is_of_base(profile))
    lines.finish()
    if results or error is None:
        _report(results, profile, given)
    if error is not None:
        error.exit_code = forwarding.exit_code(error.exit_code)
        raise error
    lines.check("the evidence has all of it")
    return forwarding.exit_code(code_of(results))


def _run(
    runner: Runner, chosen: tuple[DeclaredSandbox, ...], *, based: bool
) -> tuple[tuple[RunResult, ...], RunFailed | None]:
    """The run, and what failed beside it; where there is no profile (`based`), an image that can't be had is to be
    named on the command line."""

    from sandboxrun.lifecycle.run import RunFailed

    try:
        return runner.run(chosen), None
    except RunFailed as error:
        told = [
            structs.replace(d, help=BASE_IMAGE) if based and d.message.startswith("pulling image ") else d
            for d in error.diagnostics
        ]
        return error.results, RunFailed(error.results, *told, code=error.exit_code)


def _is_of_base(profile: Profile) -> bool:
    """Whether it stands in no file of the user's: a built-in base, made into a project."""
    return all(file.name.startswith("shipped:") for file in profile.files)


BASE_IMAGE = "name an image that is on the engine or that it can pull with --image IMAGE, or `docker login`"


def _warned(given: opt.Given) -> Callable[[Plan], None]:
    def warned(made: Plan) -> None:
        from sandboxrun.cli.output import tell_all
        from sandboxrun.plan.text import warnings

        tell_all(() if given.quiet else warnings(made))

    return warned


def _terminal() -> TerminalPump:
    from sandboxrun.cli.terminal import TerminalPump

    return TerminalPump()


def _report(results: tuple[RunResult, ...], profile: Profile, given: opt.Given) -> None:
    from pathlib import Path

    from sandboxrun.cli.changing import run_of
    from sandboxrun.cli.output import note, result
    from sandboxrun.report.evidence import evidence_plain, evidence_text

    runs = [run_of(one, profile) for one in results]
    if given.as_json:
        result({"runs": [evidence_plain(run) for run in runs]})
        return
    sys.stdout.flush()
    note(evidence_text(runs, sensitive=profile.sensitive, relative_to=Path.cwd()), quiet=given.quiet)
