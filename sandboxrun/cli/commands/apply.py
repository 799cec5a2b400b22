"""`sandboxrun apply`: the plan, carried out."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sandboxrun.cli import options as opt

if TYPE_CHECKING:
    from sandboxrun.cli.changing import Telling
    from sandboxrun.cli.signals import CleanStop
    from sandboxrun.model.declared import Profile
    from sandboxrun.plan.planner import Options
    from sandboxrun.workflow.converge import Settings
    from sandboxrun.workflow.saved import SavedPlan


@click.command()
@click.argument("planfile", required=False, type=click.Path(path_type=Path), metavar="[PLANFILE]")
@opt.on_project
@opt.target
@opt.replace
@opt.rerun
@opt.refresh_only
@opt.parallelism
@opt.wait
@opt.wait_timeout
@opt.lock_timeout
@opt.yes
@opt.as_json
@opt.telling
def apply(
    planfile: Path | None,
    given: opt.Given,
    host: str | None,
    targets: tuple[str, ...],
    replace: tuple[str, ...],
    rerun: bool,
    refresh_only: bool,
    parallelism: int,
    wait: bool,
    wait_timeout: float | None,
    lock_timeout: float,
    yes: bool,
    as_json: bool,
    talk: opt.Talk,
) -> int:
    """Make the engine hold what the profile declares: shows the plan, asks unless -y, carries it out, reads all back.

    PLANFILE, from plan --out, is carried out as it was shown, or refused when anything has moved since. With --wait
    the exit code is the agents' own.
    """
    from sandboxrun.errors import UsageError
    from sandboxrun.plan.planner import Options

    opt.check_json_asks_nobody(as_json, yes)
    if wait_timeout is not None and not wait:
        raise UsageError("--wait-timeout goes with --wait")
    if refresh_only and (replace or rerun or wait):
        raise UsageError("--refresh-only changes nothing: it goes with neither --replace nor --rerun nor --wait")
    chosen = Options(targets=targets, replace=replace, rerun=rerun, refresh_only=refresh_only)
    profile, saved = _profile(given, planfile, chosen)
    from sandboxrun.cli.changing import Telling
    from sandboxrun.cli.confirming import Asking
    from sandboxrun.cli.project import open_engine, open_store
    from sandboxrun.cli.signals import CleanStop
    from sandboxrun.workflow import converge

    store = open_store(profile, given)
    with (
        CleanStop() as stopping,
        open_engine(host, _connections(parallelism, profile, wait)) as engine,
        Telling(talk, as_json) as telling,
    ):
        settings = _settings(telling, stopping, parallelism, lock_timeout)
        asking = Asking("apply", yes=yes, show=telling.plan, begin=stopping.before(telling.begin))
        project = (engine, profile, store)
        if wait:
            from sandboxrun.workflow.waits import apply_and_wait

            waited = apply_and_wait(
                *project, options=chosen, settings=settings, confirm=asking, expected=saved, patience=wait_timeout
            )
            telling.waited(waited)
            code = waited.exit_code
        else:
            outcome = converge.apply(*project, options=chosen, settings=settings, confirm=asking, expected=saved)
            telling.ended(outcome)
            code = 0
        return stopping.exit_code(1 if asking.declined else code)


def _settings(telling: Telling, stopping: CleanStop, parallelism: int, lock_timeout: float) -> Settings:
    from sandboxrun.workflow.converge import Settings

    return Settings(
        parallelism=parallelism,
        lock_wait=lock_timeout,
        listener=telling.listener,
        on_wait=telling.waiting,
        stop=stopping.stop,
        environment=os.environ,
    )


def _connections(parallelism: int, profile: Profile, wait: bool) -> int:
    """How many threads ask the engine at once; a wait has three a sandbox."""
    return max(parallelism, 3 * len(profile.sandboxes) + 2) if wait else parallelism


def _profile(given: opt.Given, planfile: Path | None, chosen: Options) -> tuple[Profile, SavedPlan | None]:
    """The profile; of a saved plan, the one it was made from, with its values and those that it does not hold."""
    from sandboxrun.cli.project import load_profile, load_saved
    from sandboxrun.errors import UsageError
    from sandboxrun.plan.planner import Options

    if planfile is None:
        return load_profile(given), None
    if given.files or chosen != Options():
        raise UsageError(
            "a saved plan says itself what it is of: --file, --target, --replace, --rerun and --refresh-only "
            "do not go with it"
        )
    from sandboxrun.workflow.saved import read_saved

    saved = read_saved(planfile)
    return load_saved(given, saved), saved
