"""`sandboxrun validate`, `render` and `schema`: a profile checked and printed, without an engine; its JSON Schema."""

from __future__ import annotations

import click

from sandboxrun.cli import options as opt
from sandboxrun.cli.output import hide, result, tell_all


@click.command()
@opt.taking(*opt.PROFILE, opt.format_of("text", "json", "github"), opt.as_json, *opt.SPOKEN)
def validate(given: opt.Given) -> int:
    """Check a profile: its structure, values and templates. Needs no engine.

    Several --file are merged into one profile, as in all commands.
    """
    from sandboxrun.errors import Diagnostic, ProfileError, amount
    from sandboxrun.profile.loader import load

    form, files = opt.chosen_format(given), opt.profile_files(given)
    faults: tuple[Diagnostic, ...] = ()
    warnings: tuple[Diagnostic, ...] = ()
    addresses: list[str] = []
    try:
        profile = load(files, inputs=opt.inputs_of(given), allow_outside=given.allow_outside)
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
            result(annotations_text(faults or warnings), annotated=True)
    else:
        tell_all(warnings)
        if not given.quiet:
            for file in files[:-1]:
                result(f"{file}: valid, merged into {files[-1]}")
            named = f": {', '.join(addresses)}" if given.verbose and addresses else ""
            result(f"{files[-1]}: valid, {amount(len(addresses), 'sandbox', 'es')}{named}")
    return 1 if faults else 0


@click.command()
@opt.taking(
    *opt.PROFILE,
    click.option("--format", "form", type=click.Choice(["yaml", "json"]), help="How to print it. Default: yaml."),
    opt.as_json,
    click.option("--defaults", is_flag=True, help="Include options that are not set (JSON always does)."),
)
def render(given: opt.Given, defaults: bool) -> None:
    """Print the effective profile: templates rendered, bases merged, every value with its source.

    Sensitive values are masked.
    """
    form = opt.chosen_format(given, default="yaml")
    profile = opt.load_profile(given)
    from sandboxrun.profile.render import render_json, render_yaml

    result(render_json(profile) if form == "json" else render_yaml(profile, defaults=defaults))


@click.command()
@click.option("--evidence", is_flag=True, help="Print the schema of a run's index.json.")
@click.option("--plan", is_flag=True, help="Print the schema of plan --json.")
@click.option("--audit", is_flag=True, help="Print the schema of audit --json.")
@click.option("--policy", is_flag=True, help="Print the schema of a policy.")
@click.option("--verify", is_flag=True, help="Print the schema of verify --json.")
def schema(**asked: bool) -> None:
    """Print the JSON Schema of a profile.

    Editors find it by a profile's first line:
    # yaml-language-server: $schema=sandbox.schema.json
    """
    named = [name for name, wanted in asked.items() if wanted]
    if len(named) > 1:
        raise click.UsageError(f"{' and '.join(f'--{name}' for name in named)} exclude each other")
    if named:
        from sandboxrun.profile.files import data_directory

        result((data_directory("schemas") / f"{named[0]}.schema.json").read_text(encoding="utf-8"))
    else:
        from sandboxrun.profile.render import schema_text

        result(schema_text())
