"""What an agent writes, on its way to a pipe, a terminal and nobody, beside `docker run`.

Owns that measure. Both keep nothing but the engine's own log, except that sandboxrun keeps it as evidence as well.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator

from msgspec import structs

from benchmarks.table import Result, compared
from benchmarks.timing import Times, in_turns
from benchmarks.world import IMAGE, LABEL, World

MB = 1_000_000
TARGET = 1.2
# 20 MB of lines are 2.5 million of them, which the engine takes one by one.
COMMANDS = {
    ("many lines", 20): "seq 2500000",
    ("many lines", 200): "seq 22500000",
    ("one line", 20): f"head -c {20 * MB} /dev/zero | tr '\\0' x",
    ("one line", 200): f"head -c {200 * MB} /dev/zero | tr '\\0' x",
}
SINKS = {"pipe": "to a pipe", "terminal": "to a terminal", "null": "to nobody"}


def output(world: World, sizes: tuple[int, ...], rounds: int) -> Iterator[Result]:
    """Output of these sizes in MB, each kind to each reader. Nothing where there is no docker command."""
    docker = shutil.which("docker")
    if docker is None:
        return
    peaks: dict[tuple[str, str, int], Times] = {}
    for (kind, size), script in COMMANDS.items():
        if size not in sizes:
            continue
        profile = world.profile(f"output-{kind[:3]}-{size}", command=json.dumps(["sh", "-c", script]))
        ours = world.sandboxrun("run", "run", "--quiet", "--file", str(profile))
        argv = (docker, "run", "--rm", "--network", "none", "--label", f"{LABEL}={world.token}", IMAGE, "sh", "-c")
        theirs = structs.replace(ours, name="docker run", argv=(*argv, script))
        for sink, where in SINKS.items():
            programs = [structs.replace(program, sink=sink) for program in (ours, theirs)]
            run, other = in_turns(programs, rounds, warm=False)
            peaks[kind, sink, size] = run
            yield compared(f"{size} MB, {kind}, {where}", run, other, TARGET)
        shutil.rmtree(profile.parent)
    for (kind, sink, size), run in peaks.items():
        if size != min(sizes):
            small, large = peaks[kind, sink, min(sizes)].peak / 1e6, run.peak / 1e6
            yield Result(
                measure=f"peak memory, {kind}, {SINKS[sink]}", a=f"run, {size} MB", a_ms=large,
                b=f"run, {min(sizes)} MB", b_ms=small, ratio=large / small, target=TARGET, unit="MB",
            )  # fmt: skip
