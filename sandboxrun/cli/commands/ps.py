"""`sandboxrun ps`: the project's sandboxes on the engine, and with -a those that the evidence records."""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, assert_never

import click

from sandboxrun.backend.errors import EngineTimeout, EngineUnreachable
from sandboxrun.cli import options as opt
from sandboxrun.cli.output import note, result, warn
from sandboxrun.errors import ExitCode, UsageError
from sandboxrun.evidence.errors import EvidenceError
from sandboxrun.evidence.index import remainder
from sandboxrun.evidence.store import ChainEntry, Reading, Store
from sandboxrun.plan.decide import differences
from sandboxrun.report.table import duration, table
from sandboxrun.spec.names import check_names, matches
from sandboxrun.spec.project import undeclared
from sandboxrun.spec.state import Created, Ended, How, ObservedSandbox, Running, Snapshot, State, parse_time
from sandboxrun.spec.types import format_size

if TYPE_CHECKING:
    from sandboxrun.spec.project import Profile

_LISTED = 10_000  # recorded runs, the newest: a chain that came with a checkout may have half a million


class Line(NamedTuple):
    """One sandbox, as it is listed and as JSON has it."""

    address: str
    state: str
    since: str | None  # RFC 3339
    image: str = ""
    memory: int = 0  # bytes, 0: no limit
    cpus: float = 0.0
    health: str | None = None
    differs: str = ""
    run: str = ""
    exit_code: int | None = None
    container: str | None = None
    evidence: str | None = None
    ran_seconds: float | None = None


@click.command()
@opt.taking(
    opt.names,
    *opt.PROJECT,
    click.option("-a", "--all", "everything", is_flag=True, help="Also list the runs recorded in the evidence."),
    click.option("--all-projects", is_flag=True, help="List what all projects have on the engine. Needs no profile."),
    opt.as_json,
    *opt.SPOKEN,
)
def ps(given: opt.Given, everything: bool, all_projects: bool) -> None:
    """List sandboxes: their state, limits and health, and whether they match the profile.

    NAME is one, or all of a for_each. Without NAME, all. With -a, the recorded runs are listed even if the engine
    cannot be reached.
    """
    if all_projects:
        if everything or given.names:
            raise UsageError("--all-projects lists what is on the engine: it cannot be combined with -a or a NAME")
        return _all_projects(given)
    profile = opt.load_profile(given)
    store = opt.open_store(profile, given)
    live, now = list[Line](), datetime.now(UTC)
    try:
        with opt.open_engine(given.host) as engine:
            snapshot = engine.observe(profile, store)
        live, now = [_live(o, profile, snapshot) for o in snapshot.sandboxes], snapshot.taken
    except (EngineUnreachable, EngineTimeout) as error:
        if not everything:
            raise
        warn(f"{error.diagnostics[0].message}; only runs recorded in the evidence are listed")
    names = given.names
    kept = _recorded(store, profile, {line.run for line in live}, names)
    known = {*(s.address for s in profile.sandboxes), *(line.address for line in live), *kept.addresses}
    check_names(names, known, profile.left_out)
    shown = [line for line in live if not names or matches(line.address, names)]
    shown += _lines(store, kept) if everything else []
    shown.sort(key=lambda line: (profile.position(line.address), line.address))
    if given.as_json:
        result([line._asdict() for line in shown])
    elif shown:
        result(_text(shown, now))
    else:
        hidden = f"; -a lists {kept.runs} from the evidence" if kept.runs and not everything else ""
        note(f"project {profile.project} has no sandboxes on the engine{hidden}", quiet=given.quiet)


def _all_projects(given: opt.Given) -> None:
    """What each project has on the engine."""
    found: list[tuple[str, Line]] = []
    with opt.open_engine(given.host) as engine:
        now = datetime.now(UTC)
        for one in engine.projects():
            profile = undeclared(one.names, Path.cwd())
            snapshot = engine.observe(profile, opt.store_in(None))
            found += [(profile.project, _live(o, profile, snapshot)) for o in snapshot.sandboxes]
            now = snapshot.taken
    if given.as_json:
        result([{"project": name, **line._asdict(), "differs": ""} for name, line in found])
    elif found:
        rows = [(name, e.address, e.state, _ago(e.since, now), e.image, (e.container or "")[:12]) for name, e in found]
        result(table(("PROJECT", "SANDBOX", "STATE", "SINCE", "IMAGE", "CONTAINER"), rows))
    else:
        note("no project has sandboxes on the engine", quiet=given.quiet)


def _live(sandbox: ObservedSandbox, profile: Profile, snapshot: Snapshot) -> Line:
    state = sandbox.state
    since = state.started if isinstance(state, Running) else state.finished if isinstance(state, Ended) else None
    return Line(
        address=sandbox.address,
        state="timeout" if sandbox.timed_out else state_words(state),
        since=_time(since),
        image=sandbox.spec.image,
        memory=sandbox.spec.mem_limit,
        cpus=sandbox.spec.cpus,
        health=getattr(state, "health", None),
        differs=_differs(sandbox, profile, snapshot),
        run=sandbox.run,
        exit_code=ExitCode.TIMEOUT if sandbox.timed_out else state.exit_code if isinstance(state, Ended) else None,
        container=sandbox.id,
    )


def state_words(state: State) -> str:
    """A state in a word or two."""
    match state:
        case Created():
            return "created"
        case Running(paused=True):
            return "paused"
        case Running():
            return "running"
        case Ended(started=None):  # its command is not there, or the engine could not start it
            return "not started"
        case Ended(out_of_memory=True):
            return "out of memory"
        case Ended(how="engine_lost"):
            return "lost"
        case Ended(exit_code=code):
            return f"exited {code}"
        case _:
            assert_never(state)


def _time(when: datetime | None) -> str | None:
    return None if when is None else when.isoformat(timespec="seconds").replace("+00:00", "Z")


def _differs(sandbox: ObservedSandbox, profile: Profile, snapshot: Snapshot) -> str:
    """What is not as declared, in words; "" where all is."""
    declared = profile.sandbox(sandbox.address)
    if sandbox.kept:
        until = sandbox.kept_until
        return f"kept until {_time(until)}" if until is not None else "kept"
    if sandbox.one_off:
        return "one run"
    if declared is None:
        return "not declared"
    if not isinstance(sandbox.state, Running):
        return ""
    found = differences(declared, sandbox, snapshot)
    drift = [d.key for d in found if d.drift]
    changed = [d.key for d in found if not d.drift]
    words = [f"drift: {', '.join(drift)}"] if drift else []
    return "; ".join([*words, *([f"profile changed: {', '.join(changed)}"] if changed else [])])


class Recorded(NamedTuple):
    """The runs of these names that were torn down: the newest of them, how many there are; and the addresses of all."""

    newest: list[ChainEntry]
    runs: int
    addresses: set[str]


def _recorded(store: Store, profile: Profile, live: set[str], names: Collection[str]) -> Recorded:
    newest, count, addresses = list[ChainEntry](), 0, set[str]()
    for entry in store.each(profile.project, newest_first=True):
        if entry.run in live:
            continue
        addresses.add(entry.sandbox)
        if not names or matches(entry.sandbox, names):
            count += 1
            newest += [entry] if count <= _LISTED else []
    return Recorded(newest, count, addresses)


def _lines(store: Store, kept: Recorded) -> list[Line]:
    """A line each, the oldest first."""
    if kept.runs > _LISTED:
        help = "pass a NAME, or remove old ones: see `sandboxrun evidence prune --help`"
        warn(f"only the newest {_LISTED} of {kept.runs} recorded runs are listed", help)
    lines, removed, reading = [], store.removed(), Reading()
    for entry in kept.newest:
        code, ran, gone = None, None, removed.get(entry.run)
        words = entry.outcome.value.replace("_", " ")
        try:
            index = store.index(entry, reading) if gone is None else remainder(entry, gone)
            ran, code = index.ran_seconds, index.ending.exit_code
            if code is not None and entry.outcome is How.TIMEOUT:
                code = index.ending.code
        except EvidenceError:
            words += " (evidence lost)" if reading.left >= 0 else " (evidence not read)"
        lines.append(
            Line(
                address=entry.sandbox,
                state=f"{words} {code}" if code is not None else words,
                since=entry.finished_at,
                run=entry.run,
                exit_code=code,
                evidence=str(store.path / entry.folder) if gone is None else None,
                ran_seconds=ran,
            )
        )
    if reading.left < 0:
        warn("not all evidence was read: it is too large")
    return lines[::-1]


def _text(lines: list[Line], now: datetime) -> str:
    """Those on the engine, and below them the runs that ended, of which other things matter."""
    live = [
        (
            line.address,
            line.state,
            _ago(line.since, now),
            line.image,
            format_size(line.memory) if line.memory else "no limit",
            f"{line.cpus:g}" if line.cpus else "no limit",
            line.health or "",
            line.differs,
        )
        for line in lines
        if line.container is not None
    ]
    kept = [
        (
            line.address,
            line.state,
            _ago(line.since, now),
            duration(line.ran_seconds) if line.ran_seconds is not None else "",
            (line.evidence or "removed").rpartition("/")[2],
        )
        for line in lines
        if line.container is None
    ]
    tables = []
    if live:
        tables.append(table(("SANDBOX", "STATE", "SINCE", "IMAGE", "MEMORY", "CPUS", "HEALTH", "DIFFERS"), live))
    if kept:
        tables.append(table(("SANDBOX", "ENDED", "WHEN", "RAN", "EVIDENCE"), kept))
    return "\n\n".join(tables)


def _ago(since: str | None, now: datetime) -> str:
    then = parse_time(since)
    if then is None:
        return ""
    count = max(0, round((now - then).total_seconds()))
    return f"{count}s ago" if count < 60 else f"{duration(count)} ago"
