"""The root command: a click group that imports a command's module only when that command is used.

Owns the looking up, the help's layout and the answer to an unknown command.
"""

from __future__ import annotations

from typing import Any

import click
from click.shell_completion import CompletionItem

from sandboxrun.cli.table import COMMANDS, SECTIONS


class LazyGroup(click.Group):
    """The commands of `cli/table.py`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Their names, in the table's order."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one."""
        if cmd_name not in COMMANDS:
            return None
        from importlib import import_module

        module, _, attribute = COMMANDS[cmd_name].target.partition(":")
        command: click.Command = getattr(import_module(f"sandboxrun.cli.commands.{module}"), attribute)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that `args` begins with. Raises UsageError for one there is not."""
        if args[0] in COMMANDS or args[0].startswith("-"):
            return super().resolve_command(ctx, args)
        from sandboxrun.errors import UsageError, did_you_mean

        help = did_you_mean(args[0], COMMANDS) or "`sandboxrun --help` lists the commands"
        raise UsageError(f'there is no command "{args[0]}"', help=help)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list in the help, from the table alone."""
        width = max(map(len, COMMANDS))
        for title, entries in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(name.ljust(width), entry.help) for name, entry in entries.items()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """What can follow: commands from the table, else as click has it."""
        found = [CompletionItem(n, help=e.help) for n, e in COMMANDS.items() if n.startswith(incomplete)]
        return [*found, *click.Command.shell_complete(self, ctx, incomplete)]

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Where to begin."""
        with formatter.section("A first result"):
            formatter.write_dl(
                [
                    ("sandboxrun run -- uname -a", "one command in the closed default sandbox"),
                    ("sandboxrun init", "a profile to start from; then plan, apply, ps, logs, destroy"),
                ]
            )


def root() -> LazyGroup:
    """The group as the command line has it."""
    from sandboxrun import __version__

    def show_version(ctx: click.Context, option: click.Parameter, value: Any) -> None:
        if value and not ctx.resilient_parsing:
            click.echo(f"sandboxrun {__version__}")
            ctx.exit()

    version = click.Option(
        ["--version"],
        is_flag=True,
        expose_value=False,
        is_eager=True,
        callback=show_version,
        help="Print the version and exit.",
    )
    return LazyGroup(
        name="sandboxrun",
        params=[version],
        help="Run agents in sandboxes: a reviewed file declares what each may do, and sandboxrun verifies it.",
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    )
