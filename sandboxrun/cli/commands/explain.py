"""`sandboxrun explain`: all about an option of the profile."""

from __future__ import annotations

import click

from sandboxrun.cli.options import as_json
from sandboxrun.cli.output import result


@click.command()
@click.argument("option", required=False)
@as_json
def explain(option: str | None, as_json: bool) -> None:
    """Show the documentation of OPTION: what it does, its forms, its default, and what a change requires.

    Use a dot for an option inside another: workspace.access. Without OPTION, lists all.
    """
    from sandboxrun.cli import explaining

    if option is None:
        listed = explaining.options()
        if as_json:
            result(dict(listed))
            return
        width = max(len(name) for name, _ in listed)
        result("\n".join(f"{name:<{width}}  {description}" for name, description in listed))
        return
    found = explaining.explain(option)
    if not as_json:
        result(explaining.text(found))
        return
    facts = {name.split()[-1]: fact for name, fact in found.facts.items()}
    result({"option": found.name, "description": found.description, **facts, "schema": found.schema})
