"""`sandboxrun apply`: the plan, carried out."""

from __future__ import annotations

from pathlib import Path

import click

from sandboxrun.cli import options as opt
from sandboxrun.cli import project
from sandboxrun.cli.changing import Asking, CleanStop, Telling
from sandboxrun.errors import UsageError


@click.command()
@opt.taking(
    click.argument("planfile", required=False, type=click.Path(path_type=Path), metavar="[PLANFILE]"),
    *opt.PROJECT,
    opt.policy,
    opt.target,
    opt.replace,
    opt.rerun,
    opt.refresh_only,
    opt.parallelism,
    opt.verifying,
    opt.wait,
    opt.wait_timeout,
    opt.lock_timeout,
    opt.take_over,
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
    from sandboxrun.backend.owner import process_began
    from sandboxrun.plan.planner import Options

    opt.check_json_asks_nobody(given)
    if wait_timeout is not None and not wait:
        raise UsageError("--wait-timeout requires --wait")
    if given.refresh_only and (given.replace or given.rerun or wait or verifying):
        raise UsageError(
            "--refresh-only changes nothing: it cannot be combined with --replace, --rerun, --wait or --verify"
        )
    chosen = project.choices(given)
    import_ahead()
    if planfile is None:
        saved, profile = None, project.load_profile(given)
    elif given.files or chosen != Options():
        raise UsageError("a saved plan cannot be combined with --file, --target, --replace, --rerun or --refresh-only")
    else:
        from sandboxrun.lifecycle.saved import read_saved

        saved = read_saved(planfile)
        profile = project.load_saved(given, saved)
    project.enforced(profile, given)
    from sandboxrun.lifecycle import apply as converge
    from sandboxrun.lifecycle.waits import apply_and_wait

    store = project.open_store(profile, given)
    # What asks the engine at once: a wait has three threads a sandbox, and four probes run side by side.
    connections = max(given.parallelism, 3 * len(profile.sandboxes) + 2 if wait else 0, 16 if verifying else 0)
    with (
        CleanStop() as stopping,
        project.open_engine(given.host, connections) as engine,
        Telling(given, given.as_json) as telling,
    ):
        settings = project.settings(
            given,
            telling.listener,
            telling.waiting,
            stop=stopping.stop,
            began=process_began(),
            take_over=opt.agreed(given),
            glance=telling.glance,
        )
        asking = Asking("apply", given, show=telling.plan, begin=stopping.before(telling.begin))
        code = 0
        with telling.proving(engine, profile, settings, wanted=verifying) as proof:
            if wait:
                waited = apply_and_wait(
                    engine, profile, store, patience=wait_timeout,
                    options=chosen, settings=settings, expected=saved, confirm=asking, proof=proof,
                )  # fmt: skip
                telling.waited(waited)
                code = waited.exit_code
            else:
                outcome = converge.apply(
                    engine, profile, store, options=chosen, settings=settings, expected=saved, confirm=asking,
                    proof=proof,
                )  # fmt: skip
                telling.ended(outcome)
        return stopping.exit_code(1 if asking.declined else code)
