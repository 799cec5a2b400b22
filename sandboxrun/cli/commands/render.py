"""`sandboxrun render` and `sandboxrun schema`: the effective profile, and the formats as JSON Schema."""

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
        result(_shipped(named[0]))
    else:
        from sandboxrun.profile.schema import schema_text

        result(schema_text())


def _shipped(name: str) -> str:
    from sandboxrun.profile.files import data_directory

    return (data_directory("schemas") / f"{name}.schema.json").read_text(encoding="utf-8")
