"""`sandboxrun apply`: the plan, carried out."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sandboxrun.cli import options as opt

if TYPE_CHECKING:
    from sandboxrun.backend.docker.client import Engine
    from sandboxrun.cli.changing import Telling
    from sandboxrun.cli.signals import CleanStop
    from sandboxrun.evidence.store import Store
    from sandboxrun.lifecycle.apply import ApplySettings
    from sandboxrun.lifecycle.saved import SavedPlan
    from sandboxrun.plan.planner import Options
    from sandboxrun.spec.project import Profile


@click.command()
@click.argument("planfile", required=False, type=click.Path(path_type=Path), metavar="[PLANFILE]")
@opt.on_project
@opt.target
@opt.replace
@opt.rerun
@opt.refresh_only
@opt.parallelism
@opt.verifying
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
    verifying: bool,
    wait: bool,
    wait_timeout: float | None,
    lock_timeout: float,
    yes: bool,
    as_json: bool,
    talk: opt.Talk,
) -> int:
    """Create, update or remove sandboxes to match the profile. Shows the plan and asks first, unless -y.

    PLANFILE, from plan --out, is carried out exactly as shown, or refused if anything has changed since. With --wait
    the exit code is the agents' own.
    """
    from sandboxrun.backend.docker.connect import import_ahead
    from sandboxrun.errors import UsageError
    from sandboxrun.plan.planner import Options

    opt.check_json_asks_nobody(as_json, yes)
    if wait_timeout is not None and not wait:
        raise UsageError("--wait-timeout goes with --wait")
    if refresh_only and (replace or rerun or wait or verifying):
        raise UsageError("--refresh-only changes nothing: --replace, --rerun, --wait and --verify do not go with it")
    chosen = Options(targets=targets, replace=replace, rerun=rerun, refresh_only=refresh_only)
    import_ahead()
    profile, saved = _profile(given, planfile, chosen)
    from sandboxrun.cli.changing import Telling
    from sandboxrun.cli.confirming import Asking
    from sandboxrun.cli.project import open_engine, open_store
    from sandboxrun.cli.signals import CleanStop

    store = open_store(profile, given)
    with (
        CleanStop() as stopping,
        open_engine(host, _connections(parallelism, profile, wait, verifying)) as engine,
        Telling(talk, as_json) as telling,
    ):
        settings = _settings(telling, stopping, parallelism, lock_timeout)
        asking = Asking("apply", yes=yes, show=telling.plan, begin=stopping.before(telling.begin))
        project, change = (engine, profile, store), {"options": chosen, "settings": settings, "expected": saved}
        with telling.proving(engine, profile, settings, wanted=verifying) as proof:
            code = _carry_out(project, telling, wait_timeout, wait=wait, confirm=asking, proof=proof, **change)
        return stopping.exit_code(1 if asking.declined else code)


def _carry_out(
    project: tuple[Engine, Profile, Store], telling: Telling, patience: float | None, *, wait: bool, **change: Any
) -> int:
    """The change, told; the exit code."""
    if wait:
        from sandboxrun.lifecycle.waits import apply_and_wait

        waited = apply_and_wait(*project, patience=patience, **change)
        telling.waited(waited)
        return waited.exit_code
    from sandboxrun.lifecycle import apply as converge

    telling.ended(converge.apply(*project, **change))
    return 0


def _settings(telling: Telling, stopping: CleanStop, parallelism: int, lock_timeout: float) -> ApplySettings:
    from sandboxrun.backend.owner import process_began
    from sandboxrun.lifecycle.apply import ApplySettings

    return ApplySettings(
        parallelism=parallelism,
        lock_wait=lock_timeout,
        listener=telling.listener,
        on_wait=telling.waiting,
        stop=stopping.stop,
        environment=os.environ,
        began=process_began(),
    )


def _connections(parallelism: int, profile: Profile, wait: bool, verifying: bool) -> int:
    """How many threads ask the engine at once; a wait has three a sandbox, and four probes run side by side."""
    waiting = 3 * len(profile.sandboxes) + 2 if wait else 0
    return max(parallelism, waiting, 16 if verifying else 0)


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
    from sandboxrun.lifecycle.saved import read_saved

    saved = read_saved(planfile)
    return load_saved(given, saved), saved
