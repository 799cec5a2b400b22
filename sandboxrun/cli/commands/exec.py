"""`sandboxrun exec`: a command in a sandbox that runs."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from sandboxrun.cli import options as opt
from sandboxrun.cli import project
from sandboxrun.cli.output import warn
from sandboxrun.errors import SandboxrunError, UsageError
from sandboxrun.spec.names import check_names, matches

if TYPE_CHECKING:
    from sandboxrun.backend.docker.client import Engine
    from sandboxrun.spec.project import Profile
    from sandboxrun.spec.state import ObservedSandbox


@click.command(name="exec", context_settings={"allow_interspersed_args": False})
@opt.taking(
    click.argument("name", metavar="NAME"),
    click.argument("argv", nargs=-1, metavar="[--] COMMAND...", type=click.UNPROCESSED),
    *opt.PROFILE,
    opt.host,
    opt.interactive,
    click.option("-t", "--tty", is_flag=True, help="Allocate a terminal."),
    click.option("--user", metavar="USER", help="Run as this user instead of the sandbox's own."),
    click.option("--workdir", "-w", metavar="DIR", help="Run in this directory instead of the sandbox's own."),
    click.option("--env", "-e", multiple=True, metavar="NAME=VALUE", help="Set an environment variable."),
    opt.raw,
)
def exec_(
    given: opt.Given,
    name: str,
    argv: tuple[str, ...],
    interactive: bool,
    tty: bool,
    user: str | None,
    workdir: str | None,
    env: tuple[str, ...],
    raw: bool,
) -> int:
    """Run COMMAND in the running sandbox NAME, as the sandbox's own user. Its exit code is passed on.

    Put options before NAME.
    """
    from sandboxrun.cli.lines import Lines, TerminalPump, send_input, show

    words = argv[1:] if argv[:1] == ("--",) else argv
    if not words:
        raise UsageError("there is no command to run", help=f"write it after the name: sandboxrun exec {name} -- ls")
    if tty and not (interactive and sys.stdin.isatty()):
        raise UsageError("--tty needs --interactive, and a terminal as standard input")
    if user is not None:
        root = user.partition(":")[0] in ("0", "root")
        warn(
            f"running as {'root' if root else user} instead of the sandbox's own user",
            "leave --user out: the profile's user is what was reviewed",
        )
    profile = project.load_profile(given)
    with project.open_engine(given.host) as engine:
        sandbox = the_running(engine, profile, name)
        started = engine.exec(sandbox.id, words, user=user, workdir=workdir, env=env, tty=tty, stdin=interactive)
        with started:
            if tty:
                assert started.terminal is not None
                with TerminalPump() as pump:
                    pump(started.terminal, show)
                return started.exit_code()
            if interactive:
                send_input(started)
            lines = Lines([sandbox.address], raw=raw)
            for stream, data in started:
                lines(sandbox.address, stream, data)
                lines.check()
            lines.finish()
            lines.check()
            return started.exit_code()


def the_running(engine: Engine, profile: Profile, name: str) -> ObservedSandbox:
    """The one running container that `name` means. Raises SandboxrunError for none, several or a paused one."""
    from sandboxrun.spec.state import Running

    there = project.observed(engine, profile)
    check_names((name,), [*(s.address for s in profile.sandboxes), *(o.address for o in there)])
    running = [o for o in there if matches(o.address, (name,)) and isinstance(o.state, Running)]
    if not running:
        raise SandboxrunError(f"{name} is not running", help="`sandboxrun ps` lists what is running; apply starts it")
    if len(running) > 1:
        listed = ", ".join(dict.fromkeys(o.address for o in running))
        raise UsageError(f'"{name}" means several running sandboxes: {listed}', help="name one of them")
    (found,) = running
    if isinstance(found.state, Running) and found.state.paused:
        raise SandboxrunError(f"{found.address} is paused", help="apply resumes it")
    return found
