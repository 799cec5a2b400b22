"""`sandboxrun reap`: collect what nobody waits for any more, evidence first."""

from __future__ import annotations

import re
from pathlib import Path

import click

from sandboxrun.backend.docker.client import import_ahead
from sandboxrun.cli import options as opt
from sandboxrun.cli import project
from sandboxrun.cli.changing import CleanStop, Telling
from sandboxrun.cli.output import result, tell_all
from sandboxrun.errors import UsageError, quoted
from sandboxrun.lifecycle import reap as reaping
from sandboxrun.lifecycle.reap import Homes, Scope
from sandboxrun.report.reap import left_diagnostics, reap_plain, reap_text
from sandboxrun.spec.names import PROJECT


@click.command()
@opt.taking(
    *opt.PROJECT,
    click.option("--project", "name", metavar="NAME", help="Reap this project, without its profile."),
    click.option("--all", "everything", is_flag=True, help="Reap all projects on the engine."),
    click.option(
        "--job",
        metavar="ID",
        help="Reap all that this CI job made, in any project: it is over. What a living process waits for stays.",
    ),
    click.option(
        "--older-than",
        type=opt.Seconds(),
        metavar="DURATION",
        help="Of these, only sandboxes that were created at least this long ago.",
    ),
    click.option(
        "--evidence-dir",
        type=click.Path(path_type=Path),
        metavar="DIR",
        help="Where to save the evidence of runs that belong to others. Without it, these are left and reported.",
    ),
    click.option("--dry-run", is_flag=True, help="Only show what would be reaped."),
    opt.parallelism,
    opt.lock_timeout,
    opt.as_json,
    *opt.SPOKEN,
)
def reap(
    given: opt.Given,
    name: str | None,
    everything: bool,
    job: str | None,
    older_than: float | None,
    evidence_dir: Path | None,
    dry_run: bool,
) -> int:
    """Save the evidence of sandboxes that nobody waits for any more, then remove them, and what they left.

    These are sandboxes that have ended, that are past their ttl or timeout, or whose `run` is gone. Those of a process
    that still runs are left to it. Asks nothing. Exits with 1 if something could not be reaped.
    """
    import_ahead()
    if name is not None and everything:
        raise UsageError("--project and --all exclude each other")
    if name is not None and not re.fullmatch(PROJECT, name):
        raise UsageError(f"{quoted(name)} is not a project's name", help="use lower-case letters, digits, - and _")
    profile = own = None
    if name is None and job is None and not everything:
        profile = project.load_profile(given)
        name, own = profile.project, project.open_store(profile, given)
    scope = Scope(project=name, older_than=older_than, job=job)
    homes = Homes(own=own, profile=profile, elsewhere=evidence_dir)
    with (
        CleanStop() as stopping,
        project.open_engine(given.host, given.parallelism) as engine,
        Telling(given) as telling,
    ):
        settings = project.settings(given, telling.listener, telling.waiting, stop=stopping.stop)
        stopping.begin()
        done = reaping.reap(engine, scope, homes=homes, settings=settings, dry_run=dry_run)
    if given.as_json:
        result(reap_plain(done))
    elif not given.quiet or done.reaped:
        result(reap_text(done))
    tell_all(left_diagnostics(done))
    return stopping.exit_code(1 if done.left else 0)
