"""`sandboxrun schema`: the formats as JSON Schema."""

from __future__ import annotations

import click

from sandboxrun.cli.output import result


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
