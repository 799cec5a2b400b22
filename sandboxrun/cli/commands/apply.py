"""`sandboxrun apply`, `wait` and `destroy`: the plan carried out, its end waited for, all off the engine again."""

from __future__ import annotations

from pathlib import Path

import click

from sandboxrun.cli import options as opt
from sandboxrun.cli.changing import Asking, CleanStop, Telling
from sandboxrun.cli.output import hidden, note, result
from sandboxrun.errors import UsageError
from sandboxrun.spec.names import Names
from sandboxrun.spec.project import undeclared


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
    from sandboxrun.backend.owner import process_began
    from sandboxrun.plan.planner import Options

    opt.check_json_asks_nobody(given)
    if wait_timeout is not None and not wait:
        raise UsageError("--wait-timeout requires --wait")
    if given.refresh_only and (given.replace or given.rerun or wait or verifying):
        raise UsageError(
            "--refresh-only changes nothing: it cannot be combined with --replace, --rerun, --wait or --verify"
        )
    if planfile is not None and planfile.suffix in (".yaml", ".yml"):
        raise UsageError(f"{planfile} is a profile, not a saved plan", help=f"write --file {planfile}")
    chosen = opt.choices(given)
    if planfile is None:
        saved, profile = None, opt.load_profile(given)
    elif given.files or chosen != Options():
        raise UsageError(
            "a saved plan cannot be combined with --file, --target, --replace, --rerun or --refresh-only",
            help=None if planfile.exists() else f"for one sandbox write: --target {planfile}",
        )
    else:
        from sandboxrun.lifecycle.saved import read_saved

        saved = read_saved(planfile)
        profile = opt.load_saved(given, saved)
    opt.enforced(profile, given)
    from sandboxrun.lifecycle import apply as converge
    from sandboxrun.lifecycle.job import apply_and_wait

    store = opt.open_store(profile, given)
    # What asks the engine at once: a wait has three threads a sandbox, and four probes run side by side.
    connections = max(given.parallelism, 3 * len(profile.sandboxes) + 2 if wait else 0, 16 if verifying else 0)
    with (
        CleanStop() as stopping,
        opt.open_engine(given.host, connections) as engine,
        Telling(given, given.as_json) as telling,
    ):
        settings = opt.settings(
            given,
            telling.listener,
            telling.waiting,
            stop=stopping.stop,
            began=process_began(),
            take_over=opt.agreed(given),
            glance=telling.glance,
        )
        asking = Asking("apply", given, telling, stopping)
        code = 0
        with telling.proving(engine, profile, settings, wanted=verifying) as proof:
            if wait:
                waited = apply_and_wait(
                    engine, profile, store, patience=wait_timeout,
                    options=chosen, settings=settings, expected=saved, confirm=asking, proof=proof,
                )  # fmt: skip
                telling.waited(waited)
                if waited.failed is not None:
                    raise waited.failed
                code = waited.exit_code
            else:
                outcome = converge.apply(
                    engine, profile, store, options=chosen, settings=settings, expected=saved, confirm=asking,
                    proof=proof,
                )  # fmt: skip
                telling.ended(outcome)
        return stopping.exit_code(1 if asking.declined else code)


@click.command()
@opt.taking(opt.names, *opt.PROJECT, opt.timeout_of_wait, opt.as_json, *opt.SPOKEN)
def wait(given: opt.Given, timeout: float | None) -> int:
    """Wait until sandboxes have ended; NAME is one, or all of a for_each. Without NAME, all.

    Prints their exit codes, and exits with the first that is not 0. Enforces the profile's timeouts meanwhile.
    """
    profile = opt.load_profile(given)
    from sandboxrun.backend.owner import process_began
    from sandboxrun.lifecycle.job import wait_for, without_code
    from sandboxrun.plan.planner import select
    from sandboxrun.report.table import table
    from sandboxrun.spec.state import first_failure

    chosen = select(profile, given.names)
    store = opt.open_store(profile, given)
    with opt.open_engine(given.host, parallelism=max(4, 2 * len(chosen) + 2)) as engine, Telling(given) as telling:
        note(f"waiting for {', '.join(s.address for s in chosen)}", quiet=not given.verbose)
        how = opt.settings(given, telling.listener, telling.waiting, began=process_began(), glance=telling.glance)
        found = wait_for(engine, profile, store, chosen, patience=timeout, settings=how)
    if given.as_json:
        result({hidden(address): code for address, code in found.items()})
    else:
        others = without_code(store, profile, found)
        rows = [(address, others[address] if code is None else str(code)) for address, code in found.items()]
        result(table(("SANDBOX", "EXIT CODE"), rows))
    return first_failure(found.values())


@click.command()
@opt.taking(
    *opt.PROJECT,
    click.option(
        "--project",
        "name",
        metavar="NAME",
        help="Destroy what this project has on the engine, without its profile. Evidence is saved in the current "
        "directory, or in --evidence.",
    ),
    opt.target,
    opt.parallelism,
    opt.lock_timeout,
    opt.take_over,
    opt.yes,
    opt.as_json,
    *opt.SPOKEN,
)
def destroy(given: opt.Given, name: str | None) -> int:
    """Save all evidence of the project, then remove its sandboxes. Asks first, unless -y."""
    opt.check_json_asks_nobody(given)
    declared = opt.load_profile(given, spared=True) if name is None else None
    opt.check_project(name)
    from sandboxrun.lifecycle import apply as converge

    with (
        CleanStop() as stopping,
        opt.open_engine(given.host, given.parallelism) as engine,
        Telling(given, given.as_json) as telling,
    ):
        profile = declared
        if profile is None:  # who names the project means all of it
            given = given._replace(take_over=True)
            names = next((found.names for found in engine.projects(name)), Names(project=name or ""))
            profile = undeclared(names, Path.cwd())
        store = opt.open_store(profile, given)
        settings = opt.settings(
            given, telling.listener, telling.waiting, stop=stopping.stop, take_over=opt.agreed(given)
        )
        asking, targets = Asking("destroy", given, telling, stopping), given.targets
        telling.ended(converge.destroy(engine, profile, store, targets=targets, settings=settings, confirm=asking))
        return stopping.exit_code(1 if asking.declined else 0)
