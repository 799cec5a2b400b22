"""`sandboxrun validate`: check profiles without an engine.

Owns how a verdict is printed. An unchanged profile's verdict comes from the cache, without importing what reads
YAML, so nothing heavy may be imported above the look-up.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sandboxrun.cli.options import Given, Talk, as_json, chosen_format, format_of, on_profile, telling
from sandboxrun.cli.output import hide, result, tell_all

if TYPE_CHECKING:
    from sandboxrun.errors import Diagnostic


@click.command()
@on_profile
@format_of("text", "json", "github")
@as_json
@telling
@click.pass_context
def validate(ctx: click.Context, given: Given, form: str | None, as_json: bool, talk: Talk) -> int:
    """Check a profile: its structure, values and templates. Needs no engine.

    Several --file are merged into one profile, as in all commands.
    """
    from sandboxrun.cli.project import profile_files

    form = chosen_format(form, as_json)
    files = profile_files(given)
    addresses, found = _verdict(given, files)
    if addresses is None:
        return _refused(found, form)
    _accepted(files, addresses, found, form, talk)
    return 0


def _verdict(given: Given, files: tuple[Path, ...]) -> tuple[tuple[str, ...] | None, tuple[Diagnostic, ...]]:
    """The addresses that a valid profile declares, and warnings; None and the faults of another."""
    from sandboxrun.cli.project import load_checked, verdict_key
    from sandboxrun.profile.cache import VerdictCache

    known = VerdictCache(os.environ).knows(files, verdict_key(given))
    if known is not None:
        return known, ()
    from sandboxrun.errors import ProfileError

    try:
        loaded = load_checked(given, files)
    except ProfileError as error:
        return None, error.diagnostics
    hide(loaded.profile.sensitive)
    return tuple(sandbox.address for sandbox in loaded.profile.sandboxes), loaded.profile.warnings


def _accepted(
    files: tuple[Path, ...], addresses: tuple[str, ...], warnings: tuple[Diagnostic, ...], form: str, talk: Talk
) -> None:
    if warnings:
        _warned(warnings, form)
    if form == "json":
        counts = {"valid": True, "error_count": 0, "warning_count": len(warnings)}
        told: list[Any] = []
        if warnings:
            from sandboxrun.report.diagnostics import diagnostic_json

            told = list(map(diagnostic_json, warnings))
        result({"format_version": "1.0", **counts, "diagnostics": told, "sandboxes": list(addresses)})
        return
    if talk.quiet or form == "github":
        return
    counted = f"{len(addresses)} sandbox{'' if len(addresses) == 1 else 'es'}"
    for file in files[:-1]:
        result(f"{file}: valid, merged into {files[-1]}")
    result(f"{files[-1]}: valid, {counted}" + (f": {', '.join(addresses)}" if talk.verbose and addresses else ""))


def _warned(warnings: tuple[Diagnostic, ...], form: str) -> None:
    """Shown where the form is for people; JSON holds them itself."""
    if form == "github":
        from sandboxrun.report.diagnostics import annotations_text

        result(annotations_text(warnings))
    elif form == "text":
        tell_all(warnings)


def _refused(faults: tuple[Diagnostic, ...], form: str) -> int:
    from sandboxrun.report import diagnostics

    match form:
        case "json":
            result({**diagnostics.diagnostics_json(faults), "sandboxes": []})
            return 1
        case "github":
            result(diagnostics.annotations_text(faults))
            return 1
    from sandboxrun.errors import ProfileError

    raise ProfileError(*faults)
