"""The reaper: from a sandbox's exit to its evidence stored and its container gone, and fifty at once."""

from __future__ import annotations

import contextlib
import signal
import statistics
import subprocess
from collections.abc import Callable, Iterator

from benchmarks.table import Result, compared
from benchmarks.timing import BenchmarkError, Program, in_turns
from benchmarks.world import LABEL, WORKERS, World

_BRIEF = '[sleep, "1"]'  # an apply has given its lock back by then


def latency(world: World, to_gone: Callable[[World, Program, str], float], rounds: int) -> Iterator[Result]:
    """`reap --watch` beside the raw calls of somebody who watches the events."""
    profile, project = world.profile("reap", command=_BRIEF), world.project("reap")
    ours = world.sandboxrun("reap --watch", "apply", "--yes", "--quiet", "--file", str(profile))
    floor = world.raw("raw, evidence asked for", "watch-collect", str(world.payloads(profile)))
    seen: dict[str, list[float]] = {}
    with _watching(world, project):
        for _ in range(rounds):
            seen.setdefault("ours", []).append(to_gone(world, ours, f"sandboxrun.project={project}"))
            seen.setdefault("floor", []).append(to_gone(world, floor, f"{LABEL}={world.token}"))
            (profile.parent / ".sandboxrun" / "evidence" / "chain.jsonl").unlink()  # or it counts as done
    a, b = (statistics.median(seen[name]) * 1000 for name in ("ours", "floor"))
    yield Result(
        measure="exit to reaped by --watch", a=ours.name, a_ms=a, b=floor.name, b_ms=b, ratio=a / b,
        least=min(seen["ours"]) / min(seen["floor"]), target=1.3,
    )  # fmt: skip


@contextlib.contextmanager
def _watching(world: World, project: str) -> Iterator[None]:
    """A reaper that follows the engine already."""
    program = world.sandboxrun("reap --watch", "reap", "--project", project, "--watch")
    process = subprocess.Popen(
        program.argv, env=dict(program.env), cwd=program.directory, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    assert process.stderr is not None
    if "Following" not in (said := process.stderr.readline()):
        raise BenchmarkError(f"the reaper does not follow the engine: {said}")
    try:
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)
        process.stderr.close()


def throughput(world: World, count: int, rounds: int) -> Iterator[Result]:
    """`reap` of what has ended, beside what `docker rm -f` does to as many that run."""
    ended = world.profile("reap-many", count, command='["true"]')
    file = world.payloads(ended)
    given = ("--file", str(ended))
    _, reaped, _, removed, _, collected = in_turns(
        [
            world.sandboxrun("apply", "apply", "--yes", "--quiet", "--rerun", *given),
            world.sandboxrun("reap", "reap", "--quiet", *given),
            world.raw("raw create + start", "up", str(file), str(WORKERS)),
            world.raw("raw stop + remove", "down", f"{LABEL}={world.token}", str(WORKERS)),
            world.raw("raw create + start", "up", str(file), str(WORKERS)),
            world.raw("raw, evidence asked for", "collect", f"{LABEL}={world.token}", str(WORKERS)),
        ],
        rounds,
        warm=False,
    )
    yield compared(f"reap of {count}, evidence included", reaped, removed)
    yield compared(f"reap of {count}, evidence included", reaped, collected)
