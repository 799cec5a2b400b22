"""`sandboxrun destroy`: everything of the project off the engine, its evidence saved."""

from __future__ import annotations

from pathlib import Path

import click

from sandboxrun.cli import options as opt
from sandboxrun.cli import project
from sandboxrun.cli.changing import Asking, CleanStop, Telling
from sandboxrun.spec.names import Names
from sandboxrun.spec.project import undeclared


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
    from sandboxrun.backend.docker.client import import_ahead

    opt.check_json_asks_nobody(given)
    import_ahead()
    declared = project.load_profile(given) if name is None else None
    project.check_project(name)
    from sandboxrun.lifecycle import apply as converge

    with (
        CleanStop() as stopping,
        project.open_engine(given.host, given.parallelism) as engine,
        Telling(given, given.as_json) as telling,
    ):
        profile = declared
        if profile is None:  # who names the project means all of it
            given = given._replace(take_over=True)
            names = next((found.names for found in engine.projects(name)), Names(project=name or ""))
            profile = undeclared(names, Path.cwd())
        store = project.open_store(profile, given)
        settings = project.settings(
            given, telling.listener, telling.waiting, stop=stopping.stop, take_over=opt.agreed(given)
        )
        asking = Asking("destroy", given, show=telling.plan, begin=stopping.before(telling.begin))
        targets = given.targets
        telling.ended(converge.destroy(engine, profile, store, targets=targets, settings=settings, confirm=asking))
        return stopping.exit_code(1 if asking.declined else 0)
