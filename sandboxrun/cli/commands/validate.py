"""`sandboxrun validate`: check profiles without an engine.

Owns how the result is printed.
"""

from __future__ import annotations

import click

from sandboxrun.cli.options import PROFILE, SPOKEN, Given, as_json, chosen_format, format_of, taking
from sandboxrun.cli.output import hide, result, tell_all


@click.command()
@taking(*PROFILE, format_of("text", "json", "github"), as_json, *SPOKEN)
def validate(given: Given) -> int:
    """Check a profile: its structure, values and templates. Needs no engine.

    Several --file are merged into one profile, as in all commands.
    """
    from sandboxrun.cli.project import inputs_of, profile_files
    from sandboxrun.errors import Diagnostic, ProfileError, amount
    from sandboxrun.profile.loader import load

    form, files = chosen_format(given), profile_files(given)
    faults: tuple[Diagnostic, ...] = ()
    warnings: tuple[Diagnostic, ...] = ()
    addresses: list[str] = []
    try:
        profile = load(files, inputs=inputs_of(given), allow_outside=given.allow_outside)
        hide(profile.sensitive)
        warnings, addresses = profile.warnings, [sandbox.address for sandbox in profile.sandboxes]
    except ProfileError as error:
        if form == "text":
            raise
        faults = error.diagnostics
    if form == "json":
        from sandboxrun.report.diagnostics import diagnostics_json

        result({**diagnostics_json(faults or warnings), "sandboxes": addresses})
    elif form == "github":
        from sandboxrun.report.diagnostics import annotations_text

        if faults or warnings:
            result(annotations_text(faults or warnings))
    else:
        tell_all(warnings)
        if not given.quiet:
            for file in files[:-1]:
                result(f"{file}: valid, merged into {files[-1]}")
            named = f": {', '.join(addresses)}" if given.verbose and addresses else ""
            result(f"{files[-1]}: valid, {amount(len(addresses), 'sandbox', 'es')}{named}")
    return 1 if faults else 0
