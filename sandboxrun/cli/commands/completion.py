"""`sandboxrun completion`: the script that teaches a shell the commands, options and sandbox names."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from sandboxrun.cli.group import COMPLETING, root
from sandboxrun.cli.output import result


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]), metavar="bash|zsh|fish")
def completion(shell: str) -> None:
    """Print the completion script of SHELL.

    For bash, add to ~/.bashrc:  eval "$(sandboxrun completion bash)"
    """
    found = get_completion_class(shell)
    if found is None:
        raise click.UsageError(f"there is no completion for {shell}")
    result(found(root(), {}, "sandboxrun", COMPLETING).source())
