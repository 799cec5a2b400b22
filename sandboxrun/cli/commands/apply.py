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
@opt.taking(
    click.argument("planfile", required=False, type=click.Path(path_type=Path), metavar="[PLANFILE]"),
    *opt.PROJECT,
    opt.target,
    opt.replace,
    opt.rerun,
    opt.refresh_only,
    opt.parallelism,
    opt.verifying,
    opt.wait,
    opt.wait_timeout,
    opt.lock_timeout,
    opt.yes,
    opt.as_json,
    *opt.SPOKEN,
)
def apply(given: opt.Given, planfile: Path | None, verifying: bool, wait: bool, wait_timeout: float | None) -> int:
    """Create, update or remove sandboxes to match the profile. Shows the plan and asks first, unless -y.

    PLANFILE, from plan --out, is carried out exactly as shown, or refused if anything has changed since. With --wait
    the exit code is the agents' own.
    """
    from sandboxrun.backend.docker.client import import_ahead
    from sandboxrun.cli.project import choices
    from sandboxrun.errors import UsageError

    opt.check_json_asks_nobody(given)
    if wait_timeout is not None and not wait:
        raise UsageError("--wait-timeout goes with --wait")
    if given.refresh_only and (given.replace or given.rerun or wait or verifying):
        raise UsageError("--refresh-only changes nothing: --replace, --rerun, --wait and --verify do not go with it")
    chosen = choices(given)
    import_ahead()
    profile, saved = _profile(given, planfile, chosen)
    from sandboxrun.cli.changing import Telling
    from sandboxrun.cli.confirming import Asking
    from sandboxrun.cli.project import open_engine, open_store
    from sandboxrun.cli.signals import CleanStop

    store = open_store(profile, given)
    with (
        CleanStop() as stopping,
        open_engine(given.host, _connections(given.parallelism, profile, wait, verifying)) as engine,
        Telling(given, given.as_json) as telling,
    ):
        settings = _settings(telling, stopping, given)
        asking = Asking("apply", yes=given.yes, show=telling.plan, begin=stopping.before(telling.begin))
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


def _settings(telling: Telling, stopping: CleanStop, given: opt.Given) -> ApplySettings:
    from sandboxrun.backend.owner import process_began
    from sandboxrun.lifecycle.apply import ApplySettings

    return ApplySettings(
        parallelism=given.parallelism,
        lock_wait=given.lock_timeout,
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
