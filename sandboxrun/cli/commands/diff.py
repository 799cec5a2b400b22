"""`sandboxrun diff`: what one profile's sandboxes may do that another's could not."""

from __future__ import annotations

import os
from pathlib import Path

import click

from sandboxrun.cli import options as opt
from sandboxrun.cli.output import result
from sandboxrun.errors import UsageError


@click.command()
@click.argument("old")
@click.argument("new")
@opt.taking(opt.file, opt.var, opt.var_file, opt.format_of("text", "json", "markdown"), opt.as_json)
@click.option("--fail-on-widening", is_flag=True, help="Exit with 1 if a sandbox may do more, or maybe.")
def diff(given: opt.Given, old: str, new: str, fail_on_widening: bool) -> int:
    """Compare what the sandboxes of OLD and NEW may do, axis by axis, each difference with a witness.

    Each is a profile, REVISION:PROFILE, or a revision (of the profile that --file names). A sandbox that neither has
    is not compared; MAYBE means that the files don't tell.
    """
    from sandboxrun.lifecycle.comparing import between
    from sandboxrun.profile.variables import Inputs
    from sandboxrun.report import privilege

    form = opt.chosen_format(given)
    found = between(
        _side(old, given.files), _side(new, given.files), Inputs(vars=given.vars, var_files=given.var_files)
    )
    match form:
        case "json":
            result(privilege.diff_json(found))
        case "markdown":
            result(privilege.diff_markdown(found))
        case _:
            result(privilege.diff_text(found))
    return 1 if fail_on_widening and found.widens else 0


def _side(text: str, files: tuple[Path, ...]) -> tuple[str | None, Path]:
    """A revision (None is the disk) and a path."""
    if os.path.exists(text):
        return None, Path(text)
    revision, colon, path = text.partition(":")
    if colon and path:
        return revision, Path(path)
    from sandboxrun.cli.project import default_files

    named = files or default_files()
    if len(named) != 1:
        raise UsageError(f'"{text}" is not a file', help="for a revision, pass its profile with --file")
    return text, named[0]
