"""`sandboxrun validate`: check profiles without an engine.

Owns how a verdict is printed. An unchanged profile's verdict comes from the cache, without importing what reads
YAML, so nothing heavy may be imported above the look-up.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sandboxrun.cli.options import Given, Talk, as_json, chosen_format, format_of, on_profile, telling
from sandboxrun.cli.output import json_text, result

if TYPE_CHECKING:
    from sandboxrun.errors import Diagnostic


@click.command()
@on_profile
@format_of("text", "json", "github")
@as_json
@telling
@click.pass_context
def validate(ctx: click.Context, given: Given, form: str | None, as_json: bool, talk: Talk) -> int:
    """Check a profile: its form, its values, its templates. No engine is asked.

    Several --file are merged into one profile, as in all commands.
    """
    from sandboxrun.cli.project import profile_files

    form = chosen_format(form, as_json)
    files = profile_files(given)
    addresses = _verdict(given, files)
    if isinstance(addresses, list):
        return _refused(addresses, form)
    _accepted(files, addresses, form, talk)
    return 0


def _verdict(given: Given, files: tuple[Path, ...]) -> tuple[str, ...] | list[Diagnostic]:
    """The addresses that a valid profile declares, or the faults."""
    from sandboxrun.cli.project import load_checked, verdict_key
    from sandboxrun.profile.cache import VerdictCache

    known = VerdictCache(os.environ).knows(files, verdict_key(given))
    if known is not None:
        return known
    from sandboxrun.errors import ProfileError

    try:
        loaded = load_checked(given, files)
    except ProfileError as error:
        return list(error.diagnostics)
    return tuple(sandbox.address for sandbox in loaded.profile.sandboxes)


def _accepted(files: tuple[Path, ...], addresses: tuple[str, ...], form: str, talk: Talk) -> None:
    if form == "json":
        counts = {"valid": True, "error_count": 0, "warning_count": 0}
        result(json_text({"format_version": "1.0", **counts, "diagnostics": [], "sandboxes": list(addresses)}))
        return
    if talk.quiet or form == "github":
        return
    counted = f"{len(addresses)} sandbox{'' if len(addresses) == 1 else 'es'}"
    for file in files[:-1]:
        result(f"{file}: valid, merged into {files[-1]}")
    result(f"{files[-1]}: valid, {counted}" + (f": {', '.join(addresses)}" if talk.verbose and addresses else ""))


def _refused(faults: list[Diagnostic], form: str) -> int:
    from sandboxrun.report import diagnostics

    match form:
        case "json":
            result(json_text({**diagnostics.diagnostics_json(faults), "sandboxes": []}))
            return 1
        case "github":
            result(diagnostics.annotations_text(faults))
            return 1
    from sandboxrun.errors import ProfileError

    raise ProfileError(*faults)
