"""What is measured, beside what, and the target of each.

Owns the list. A measure is a function of the world that yields results; it leaves nothing behind that it needs no
more.
"""

from __future__ import annotations

import statistics
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing

from benchmarks import gateway as proxies
from benchmarks import raw
from benchmarks.calls import seccomp
from benchmarks.costs import isolation
from benchmarks.output import output
from benchmarks.reaping import latency, throughput
from benchmarks.reviewing import reviewing
from benchmarks.routes import routes
from benchmarks.table import Result, compared
from benchmarks.timing import Program, Times, in_turns
from benchmarks.verifying import verifying
from benchmarks.world import LABEL, WORKERS, World
from sandboxrun.data import Data


class Effort(Data):
    """How much is measured: `rounds` of quick programs, `few` of slow ones, and how many sandboxes."""

    rounds: int = 11
    few: int = 3
    plans: tuple[int, ...] = (1, 10, 50, 100, 200, 500)
    applies: tuple[int, ...] = (10, 50)
    outputs: tuple[int, ...] = (20, 200)  # MB
    profiles: int = 1000


QUICK = Effort(rounds=5, few=1, plans=(1, 10), applies=(10,), outputs=(20,), profiles=100)

PLAN_TARGETS = {10: 2.5, 100: 1.3, 200: 1.1}  # to `docker compose up -d`, which looks at labels only
APPLY_TARGETS = {10: (1.2, 1.15), 50: (1.05, 0.95)}  # to raw, to `docker compose up -d`
MOST_COMPOSED = 200
PEAK = 80  # MB


def start(world: World, effort: Effort) -> Iterator[Result]:
    """The start of the process."""
    nothing, version, help, bare = in_turns(
        [
            world.python("python -c pass", "-c", "pass"),
            world.sandboxrun("--version", "--version"),
            world.sandboxrun("--help", "--help"),
            world.python("click --help", "-c", _BARE, "--help"),
        ],
        effort.rounds,
    )
    yield compared("start: --version", version, nothing, 5)
    yield compared("start: --help", help, nothing, 6)
    yield compared("start: --help beside a bare click's", help, bare)


_BARE = "import click; click.command()(lambda: None)()"


def validate(world: World, effort: Effort) -> Iterator[Result]:
    """Checking one profile. Nothing is kept between two calls."""
    checked = world.sandboxrun("validate", "validate", "--file", str(world.profile("validate")))
    cold, nothing = in_turns([checked, world.python("python -c pass", "-c", "pass")], effort.rounds)
    yield compared("validate", cold, nothing, 10)


def plan(world: World, effort: Effort) -> Iterator[Result]:
    """Plan and no-op apply of running, unchanged sandboxes, and their memory."""
    label = f"sandboxrun.project={world.project('plan')}"
    each: dict[int, tuple[float, float]] = {}
    for count in effort.plans:
        given = ("--file", str(world.profile("plan", count)))
        world.sandboxrun("apply", "apply", "--yes", "--quiet", *given).run()
        programs = [
            world.sandboxrun("plan", "plan", *given),
            world.sandboxrun("apply", "apply", "--yes", *given),
            world.raw("raw list + inspect", "list", label),
            world.python("python -c pass", "-c", "pass"),
        ]
        if count <= MOST_COMPOSED and (up := _composed_up(world, count)) is not None:
            programs.append(up)
        planned, applied, floor, nothing, *composed = in_turns(programs, effort.rounds if count < 200 else effort.few)
        each[count] = planned.least, floor.least
        for times in composed:
            yield compared(f"plan of {count}", planned, times, PLAN_TARGETS.get(count))
            yield compared(f"no-op apply of {count}", applied, times)
        yield compared(f"plan of {count}", planned, floor)
        yield compared(f"plan of {count}", planned, nothing, 11 if count == 1 else None)
        if count == 500:
            yield _peak(planned)
    if {100, 500} <= each.keys():
        yield _growth(each)
    world.clean()


def _composed_up(world: World, count: int) -> Program | None:
    """compose's no-op, once all of it runs."""
    up = world.composed("compose up -d", world.compose_file(count), "up", "-d")
    if up is not None:
        up.run()
    return up


def _peak(planned: Times) -> Result:
    most = planned.peak / 1e6
    return Result(
        measure="peak memory, plan of 500", a="plan", a_ms=most, b="target", b_ms=PEAK, ratio=most / PEAK, target=1,
        unit="MB",
    )  # fmt: skip


def _growth(each: Mapping[int, tuple[float, float]]) -> Result:
    ours, floor = ((each[500][n] - each[100][n]) / 400 * 1000 for n in (0, 1))
    return Result(
        measure="plan, each sandbox from 100 to 500", a="plan, 1000 of them", a_ms=ours * 1000, b="raw inspect",
        b_ms=floor * 1000, ratio=ours / floor, target=1.5,
    )  # fmt: skip


def apply(world: World, effort: Effort) -> Iterator[Result]:
    """The first apply, and destroy."""
    for count in effort.applies:
        profile = world.profile("apply", count)
        file, composed = world.payloads(profile), world.compose_file(count)
        given = ("--file", str(profile))
        programs = [
            world.sandboxrun("apply", "apply", "--yes", "--quiet", *given),
            world.sandboxrun("destroy", "destroy", "--yes", "--quiet", *given),
            world.raw("raw create + start", "up", str(file), str(WORKERS)),
            world.raw("raw stop + remove", "down", f"{LABEL}={world.token}", str(WORKERS)),
            world.raw("raw create + start", "up", str(file), str(WORKERS)),
            world.raw("raw, evidence asked for", "collect", f"{LABEL}={world.token}", str(WORKERS)),
            world.composed("compose up -d", composed, "up", "-d"),
            world.composed("compose down -t 0", composed, "down", "-t", "0"),
        ]
        there = [program for program in programs if program is not None]
        applied, destroyed, up, down, _, collected, *others = in_turns(there, effort.few, warm=False)
        to_raw, to_compose = APPLY_TARGETS.get(count, (None, None))
        last = count == max(APPLY_TARGETS)  # of fewer, the start of the process weighs more than the teardown
        yield compared(f"first apply of {count}, read-back included", applied, up, to_raw)
        yield compared(f"destroy of {count}, evidence included", destroyed, down)
        yield compared(f"destroy of {count}, evidence included", destroyed, collected, 1.1 if last else None)
        if others:
            yield compared(f"first apply of {count}, read-back included", applied, others[0], to_compose)
            yield compared(f"destroy of {count}, evidence included", destroyed, others[1], 1.2 if last else None)


def run(world: World, effort: Effort) -> Iterator[Result]:
    """One run of `true`."""
    profile = world.profile("run", command='["true"]')
    programs = [
        world.sandboxrun("run", "run", "--file", str(profile)),
        world.raw("raw create to remove", "run", str(world.payloads(profile))),
        world.composed("compose run --rm", world.compose_file(1), "run", "--rm", "-T", "s-0", "true"),
    ]
    ours, floor, *others = in_turns([program for program in programs if program is not None], effort.rounds)
    yield compared("run of true, evidence included", ours, floor, 2.1)
    for times in others:
        yield compared("run of true, evidence included", ours, times, 1.5)


def exit(world: World, effort: Effort) -> Iterator[Result]:
    """From a sandbox's exit to its evidence stored and its container gone, by the engine's events: of one that ends
    while it is still being started, and of one that has run for a while."""
    for name, command in (("exit", '["true"]'), ("exit-later", '[sleep, "1"]')):
        yield from _exit(world, effort, name, command)


def _exit(world: World, effort: Effort, name: str, command: str) -> Iterator[Result]:
    profile = world.profile(name, command=command)
    file = world.payloads(profile)
    ours = world.sandboxrun("run", "run", "--file", str(profile))
    floors = (
        (world.raw("raw events, logs, remove", "watch", str(file)), None),
        (world.raw("raw, evidence asked for", "watch-collect", str(file)), 1.3),
    )
    seen: dict[str, list[float]] = {}
    for _ in range(effort.rounds):
        seen.setdefault("run", []).append(_to_gone(world, ours, f"sandboxrun.project={world.project(name)}"))
        for floor, _target in floors:
            seen.setdefault(floor.name, []).append(_to_gone(world, floor, f"{LABEL}={world.token}"))
    what = "exit to evidence stored, gone" if name == "exit" else "the same, of one that ran 1 s"
    for floor, target in floors:
        a, b = (statistics.median(seen[name]) * 1000 for name in ("run", floor.name))
        least = min(seen["run"]) / min(seen[floor.name])
        yield Result(
            measure=what, a="run", a_ms=a, b=floor.name, b_ms=b, ratio=a / b, least=least, target=target,
        )  # fmt: skip


def _to_gone(world: World, program: Program, label: str) -> float:
    """Run it; seconds between its container's end and its removal."""
    filters = raw.quoted({"label": [label], "event": ["die", "destroy"]})
    at: dict[str, int] = {}
    listening, over = threading.Event(), threading.Event()

    def listen() -> None:
        with closing(raw.Connection(world.socket)) as connection:
            events = connection.lines(f"/events?filters={filters}", begun=listening.set)
            for event in events:
                at[event["Action"]] = event["timeNano"]
                if event["Action"] == "destroy":
                    break
        over.set()

    threading.Thread(target=listen, daemon=True).start()
    listening.wait(10)
    program.run()
    over.wait(10)
    return (at["destroy"] - at["die"]) / 1e9


def reap(world: World, effort: Effort) -> Iterator[Result]:
    """The reaper."""
    yield from latency(world, _to_gone, effort.rounds)
    yield from throughput(world, effort.applies[-1], effort.few)


def gateway(world: World, effort: Effort) -> Iterator[Result]:
    """The egress gateway beside squid."""
    yield from proxies.gateway(world, count=400, rounds=effort.rounds)


MEASURES: Mapping[str, Callable[[World, Effort], Iterator[Result]]] = {
    "start": start,
    "validate": validate,
    "audit": lambda world, effort: reviewing(world, effort.profiles, effort.rounds, effort.few),
    "run": run,
    "exit": exit,
    "reap": reap,
    "routes": lambda world, effort: routes(world, effort.rounds),
    "output": lambda world, effort: output(world, effort.outputs, effort.few),
    "isolation": lambda world, effort: isolation(world, effort.rounds),
    "verify": lambda world, effort: verifying(world, effort.few),
    "seccomp": lambda world, effort: seccomp(world, effort.rounds),
    "apply": apply,
    "plan": plan,
    "gateway": gateway,
}
