"""`sandboxrun render`: the effective profile."""

from __future__ import annotations

import click

from sandboxrun.cli.options import PROFILE, Given, as_json, chosen_format, taking
from sandboxrun.cli.output import result


@click.command()
@taking(
    *PROFILE,
    click.option("--format", "form", type=click.Choice(["yaml", "json"]), help="How to print it. Default: yaml."),
    as_json,
    click.option("--defaults", is_flag=True, help="Include options that are not set (JSON always does)."),
)
def render(given: Given, defaults: bool) -> None:
    """Print the effective profile: templates rendered, bases merged, every value with its source.

    Sensitive values are masked.
    """
    from sandboxrun.cli.project import load_profile

    form = chosen_format(given, default="yaml")
    profile = load_profile(given)
    from sandboxrun.profile.render import render_json, render_yaml

    result(render_json(profile) if form == "json" else render_yaml(profile, defaults=defaults))
