"""`sandboxrun logs` and `exec`: what sandboxes have written, from engine or evidence; a command in one that runs."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Collection
from functools import partial
from typing import TYPE_CHECKING, BinaryIO

import click

from sandboxrun.backend.errors import EngineTimeout, EngineUnreachable, NotFound
from sandboxrun.cli import options as opt
from sandboxrun.cli.lines import Lines
from sandboxrun.cli.output import note, warn
from sandboxrun.errors import SandboxrunError, UsageError
from sandboxrun.evidence.errors import EvidenceError
from sandboxrun.evidence.folder import chunks_of
from sandboxrun.evidence.store import STDERR, STDOUT, ChainEntry, Store
from sandboxrun.report.streams import reader_gone
from sandboxrun.spec.names import check_names, matches
from sandboxrun.spec.state import ObservedSandbox
from sandboxrun.threads import begin

if TYPE_CHECKING:
    from sandboxrun.backend.docker.client import Engine
    from sandboxrun.spec.project import Profile
    from sandboxrun.spec.state import ObservedSandbox


_NEVER = "no container, and no evidence of a run"
_CHUNK = 1 << 20  # bytes of a log that are looked at at once
_LAST = 1.0  # seconds between the end of a terminal and that of its command, at most: else it goes on without
_SHOWN = 1_000  # sandboxes that only the evidence knows: a chain that came with a checkout may name half a million
_TAILED = 256 << 20  # bytes at a log's end in which `--tail` finds its lines


@click.command()
@opt.taking(
    opt.names,
    opt.file_spelled_out,
    *opt.PROJECT[1:],
    click.option("-f", "--follow", is_flag=True, help="Follow the output until they end."),
    click.option("--tail", type=click.IntRange(0), metavar="N", help="Show only the last N lines of each."),
    opt.flag("--timestamps", "-t", help="Prefix each line with its time (only for containers that still exist)."),
    opt.raw,
    *opt.SPOKEN,
)
def logs(given: opt.Given, follow: bool, tail: int | None, timestamps: bool, raw: bool) -> None:
    """Show the output of sandboxes; NAME is one, or all of a for_each. Without NAME, all.

    Reads the evidence of those torn down, and of all if the engine cannot be reached. Makes terminal escapes visible.
    """
    names = given.names
    for name in names:
        if name.endswith((".yaml", ".yml")):
            raise UsageError(f'there is no sandbox "{name}"', help=f"here -f means follow: write --file {name}")
    profile = opt.load_profile(given)
    from sandboxrun.lifecycle.places import never_shown

    store = opt.open_store(profile, given)
    with contextlib.ExitStack() as stack:
        engine, live, why = None, dict[str, ObservedSandbox](), "has been torn down"
        try:
            engine = stack.enter_context(opt.open_engine(given.host))
            live = {o.label: o for o in opt.observed(engine, profile) if not o.kept}
        except (EngineUnreachable, EngineTimeout) as error:
            if follow or not _kept(store, profile, set(), names)[0]:
                raise
            warn(f"{error.diagnostics[0].message}; only what the evidence has is shown")
            engine, why = None, "may be on the engine again"
        kept, known = _kept(store, profile, {o.run for o in live.values()}, names)
        there = [*(s.address for s in profile.sandboxes), *(o.address for o in live.values()), *known]
        check_names(names, there, profile.left_out)
        live = {label: o for label, o in live.items() if not names or matches(o.address, names)}
        shown = {o.address for o in live.values()}
        old = {a: e for a, e in kept.items() if a not in shown}
        if len(old) < (total := sum(a not in shown and (not names or matches(a, names)) for a in known)):
            warn(f"the evidence has the output of {total} sandboxes: only {len(old)} are shown", "pass a NAME")
        silent = [s.address for s in profile.sandboxes if s.address not in shown | old.keys()]
        silent = [address for address in silent if not names or matches(address, names)]
        absent = [name for name in names if not any(matches(address, (name,)) for address in (*shown, *old))]
        missing = [address for address in silent if matches(address, absent)]
        rest = [address for address in silent if address not in missing]
        if rest and (names or not (live or old)):
            note(f"{', '.join(rest)}: {_NEVER}", quiet=given.quiet)
        lines = Lines([*live, *old], raw=raw, sensitive=never_shown(profile, os.environ))
        for entry in old.values():
            note(f"{entry.sandbox} {why}; this is from its evidence, {entry.folder}", quiet=given.quiet)
            _from_evidence(store, entry, lines, tail)
        if engine is not None:
            _from_engine(engine, live, lines, follow, tail, timestamps)
        lines.finish()
        lines.check()
        if missing:  # one that was named
            raise SandboxrunError(f"{', '.join(missing)}: {_NEVER}", help="`sandboxrun ps -a` lists what has run")


def _kept(
    store: Store, profile: Profile, live: set[str], names: Collection[str]
) -> tuple[dict[str, ChainEntry], set[str]]:
    """The newest run of each sandbox of these names whose evidence is kept and whose container is gone, in the
    profile's order, and behind it no more than are shown; and the addresses of all such sandboxes."""
    gone, declared = live | store.removed().keys(), {s.address: None for s in profile.sandboxes}
    found, known = dict[str, ChainEntry](), set[str]()
    for entry in store.each(profile.project, newest_first=True):
        if entry.run in gone or entry.sandbox in known:
            continue
        known.add(entry.sandbox)
        if (entry.sandbox in declared or len(found) < _SHOWN) and (not names or matches(entry.sandbox, names)):
            found[entry.sandbox] = entry
    order = [*(a for a in declared if a in found), *(a for a in reversed(found) if a not in declared)]
    return {address: found[address] for address in order}, known


def _from_evidence(store: Store, entry: ChainEntry, lines: Lines, tail: int | None) -> None:
    for stream, name in ((1, STDOUT), (2, STDERR)):
        try:
            with store.open(entry, name) as file:
                if tail is not None:
                    to_last_lines(file, tail)
                for data in chunks_of(file):
                    lines(entry.sandbox, stream, data)
                    lines.check()
        except EvidenceError as error:
            warn(f"{entry.sandbox}: {error.diagnostics[0].message}")


def to_last_lines(file: BinaryIO, count: int) -> None:
    """Move to where the last `count` lines begin, of those in the last 256 MiB; an unfinished last one counts.

    A file that a checkout brought may be of any size, and nothing but line ends: a part of it is looked at at a time.
    """
    size = file.seek(0, os.SEEK_END)
    if count == 0:
        return
    end, least = size - 1, max(0, size - _TAILED)  # what the last byte may end is the last line itself
    while end > least:
        start = file.seek(max(least, end - _CHUNK))
        data = file.read(end - start)
        if count <= data.count(b"\n"):
            at = len(data)
            for _ in range(count):
                at = data.rfind(b"\n", 0, at)
            file.seek(start + at + 1)
            return
        count, end = count - data.count(b"\n"), start
    file.seek(least)


def _from_engine(
    engine: Engine, live: dict[str, ObservedSandbox], lines: Lines, follow: bool, tail: int | None, timestamps: bool
) -> None:
    """Each container's log; with `follow`, all at once and until each has ended."""
    faults: list[BaseException] = []

    def copy(label: str, sandbox: ObservedSandbox) -> None:
        try:
            with engine.logs(sandbox.id, follow=follow, tail=tail, timestamps=timestamps) as output:
                for stream, data in output:
                    lines(label, stream, data)
                    lines.check()
        except NotFound:
            pass  # removed meanwhile: its log is among the evidence

    threads = []
    for label, sandbox in live.items():
        threads.append(begin(partial(copy, label, sandbox), name=f"log of {label}", failed=faults.append))
        while not follow and threads[-1].is_alive():
            threads[-1].join(0.2)  # bounded, so that ^C is seen
    while not faults and any(thread.is_alive() for thread in threads):
        if reader_gone(sys.stdout):  # seen here, although nothing is written for a long time
            raise BrokenPipeError
        threads[0].join(0.2)
        threads = [thread for thread in threads if thread.is_alive()] or threads
    if faults:
        raise faults[0]


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
    from sandboxrun.cli.lines import Lines, send_input, show, terminal_pump

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
    profile = opt.load_profile(given)
    with opt.open_engine(given.host) as engine:
        sandbox = the_running(engine, profile, name)
        started = engine.exec(sandbox.id, words, user=user, workdir=workdir, env=env, tty=tty, stdin=interactive)
        with started:
            if tty:
                assert started.terminal is not None
                with terminal_pump() as pump:
                    pump(started.terminal, show)
                try:
                    return started.exit_code(timeout=_LAST)
                except EngineTimeout:
                    warn("the connection to the terminal ended and the command still runs; its output is lost")
                    return started.exit_code()
            if interactive:
                send_input(started)
            lines = Lines([sandbox.address], raw=raw)
            try:
                for stream, data in started:
                    lines(sandbox.address, stream, data)
                    lines.check()
            except KeyboardInterrupt:  # an engine passes no signal on to a command
                warn(f"the command may still run in {sandbox.address}", "with -it, Ctrl-C ends the command itself")
                raise
            lines.finish()
            lines.check()
            return started.exit_code()


def the_running(engine: Engine, profile: Profile, name: str) -> ObservedSandbox:
    """The one running container that `name` means. Raises SandboxrunError for none, several or a paused one."""
    from sandboxrun.spec.state import Running

    there = opt.observed(engine, profile)
    check_names((name,), [*(s.address for s in profile.sandboxes), *(o.address for o in there)], profile.left_out)
    running = [o for o in there if matches(o.address, (name,)) and isinstance(o.state, Running)]
    if not running:
        help = "`sandboxrun ps` lists what is running; apply starts it, with --rerun one that has ended"
        raise SandboxrunError(f"{name} is not running", help=help)
    if len(running) > 1:
        listed = ", ".join(dict.fromkeys(o.address for o in running))
        raise UsageError(f'"{name}" means several running sandboxes: {listed}', help="name one of them")
    (found,) = running
    if isinstance(found.state, Running) and found.state.paused:
        raise SandboxrunError(f"{found.address} is paused", help="apply resumes it")
    return found
