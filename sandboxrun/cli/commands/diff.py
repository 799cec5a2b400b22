"""`sandboxrun diff`: what the sandboxes of one file may do that those of another could not."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sandboxrun.cli import options as opt
from sandboxrun.cli import project
from sandboxrun.cli.output import result
from sandboxrun.errors import UsageError

if TYPE_CHECKING:
    from sandboxrun.audit.diff import PrivilegeDiff

RUNNING = "running"


@click.command()
@click.argument("old")
@click.argument("new")
@opt.taking(*opt.PROJECT, opt.format_of("text", "json", "markdown"), opt.as_json)
@click.option("--fail-on-widening", is_flag=True, help="Exit with 1 if a sandbox may do more, or maybe.")
def diff(given: opt.Given, old: str, new: str, fail_on_widening: bool) -> int:
    """Compare what the sandboxes of OLD and NEW may do, axis by axis, each difference with a witness.

    Each is a profile or Compose file, REVISION:FILE, or a revision (of the profile that --file names). One may be the
    word `running`: the other profile's sandboxes as they are on the engine. MAYBE means that nobody can tell.
    """
    from sandboxrun.lifecycle.comparing import between
    from sandboxrun.report import privilege

    form = opt.chosen_format(given)
    if RUNNING in (old, new):
        found = _with_running(given, old, new)
    else:
        found = between(_side(old, given.files), _side(new, given.files), project.inputs_of(given))
    match form:
        case "json":
            result(privilege.diff_json(found))
        case "markdown":
            result(privilege.diff_markdown(found))
        case _:
            result(privilege.diff_text(found))
    return 1 if fail_on_widening and found.widens else 0


def _with_running(given: opt.Given, old: str, new: str) -> PrivilegeDiff:
    """What runs beside a profile on the disk, which is loaded as `plan` loads it."""
    from sandboxrun.lifecycle import apply as planning
    from sandboxrun.lifecycle.comparing import with_running

    name = new if old == RUNNING else old
    if not os.path.exists(name):
        raise UsageError(f'"{name}" is not a file', help=f"`{RUNNING}` is compared with a profile on the disk")
    profile = project.load_profile(given._replace(files=(Path(name),)))
    with project.open_engine(given.host) as engine:
        plan = planning.plan(engine, profile, project.open_store(profile, given))
    return with_running(plan, profile, running_is_new=new == RUNNING)


def _side(text: str, files: tuple[Path, ...]) -> tuple[str | None, Path]:
    """A revision (None is the disk) and a path."""
    if os.path.exists(text):
        return None, Path(text)
    revision, colon, path = text.partition(":")
    if colon and path:
        return revision, Path(path)
    named = files or project.default_files()
    if len(named) != 1:
        raise UsageError(f'"{text}" is not a file', help="for a revision, pass its profile with --file")
    return text, named[0]
