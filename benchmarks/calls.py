"""What the seccomp profile costs a program: the same commands with it, with the engine's own, and with none.

Owns those measures. The commands time themselves inside their sandbox: what stands around them is not counted.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from benchmarks import raw
from benchmarks.table import Result, compared
from benchmarks.timing import BenchmarkError, Times, Took
from benchmarks.world import IMAGE, World

# Each takes about a second on a quiet machine.
COMMANDS: Mapping[str, str] = {
    "two million calls": "dd if=/dev/zero of=/dev/null bs=1 count=1000000",
    "a thousand processes": "sh -c 'i=0; while [ $i -lt 1000 ]; do /bin/busybox true; i=$((i+1)); done'",
    "computing": "sh -c 'dd if=/dev/zero bs=1M count=100 | sha256sum'",
}
PROFILES = ("sandboxrun", "engine", "unconfined")
TARGET = 1.1  # computing must cost nothing that can be seen

_SANDBOX = """\
  s-{name}:
    image: {image}
    command: [sh, -c, {command}]
    network_mode: none
    security_opt: [seccomp={name}]
"""


def seccomp(world: World, rounds: int) -> Iterator[Result]:
    """Each command under each of the profiles, in turns."""
    for title, command in COMMANDS.items():
        containers = json.loads(world.payloads(_write(world, title, f"time -p {command}")).read_text())
        runs: dict[str, list[Took]] = {name: [] for name in PROFILES}
        for number in range(rounds + 1):
            for name, container in zip(PROFILES, containers, strict=True):
                took = _run(world.socket, container)
                if number:  # the first warms up
                    runs[name].append(took)
        own, engine, none = (Times(name=f"seccomp={name}", runs=tuple(seen)) for name, seen in runs.items())
        yield compared(f"{title}, inside", own, none, TARGET if title == "computing" else None)
        yield compared(f"{title}, inside", own, engine)


def _write(world: World, title: str, command: str) -> Path:
    part = f"seccomp-{title.split()[-1]}"
    path = world.folder / part / "sandbox.yaml"
    path.parent.mkdir(exist_ok=True)
    text = "".join(_SANDBOX.format(name=name, image=IMAGE, command=json.dumps(command)) for name in PROFILES)
    path.write_text(f"name: {world.project(part)}\nsandboxes:\n{text}")
    return path


def _run(socket: str, container: Mapping[str, object]) -> Took:
    """One container from its creation to its removal; what `time -p` in it said."""
    connection = raw.Connection(socket)
    made = raw.start(connection, dict(container))
    connection.request("POST", f"/containers/{made}/wait")
    said = connection.request("GET", f"/containers/{made}/logs?stderr=1&stdout=1").decode(errors="replace")
    connection.request("DELETE", f"/containers/{made}?force=1&v=1")
    connection.close()
    found = {name: float(value) for name, value in re.findall(r"(real|user|sys) ([0-9.]+)", said)}
    if found.keys() != {"real", "user", "sys"}:
        raise BenchmarkError(f"no time in what the sandbox said: {said[-500:]}")
    return Took(wall=found["real"], cpu=found["user"] + found["sys"], peak=0)
