"""What isolation costs a run: a timeout, a gateway, secrets in memory, each beside the same run without.

Owns those measures. The sandbox does nothing, so that all the time is what stands around it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from msgspec import structs

from benchmarks.table import Result, compared
from benchmarks.timing import in_turns
from benchmarks.world import IMAGE, World

_SANDBOX = """\
name: {project}
sandboxes:
  s:
    image: {image}
    command: ["true"]
{options}secrets: {{token: {{environment: SANDBOXRUN_BENCH_TOKEN}}}}
"""
OPTIONS = {
    "no network": ("network_mode: none",),
    "a timeout": ("network_mode: none", "lifetime: {timeout: 1h}"),
    "a network": ("networks: [default]",),
    "a gateway": ("egress: open",),
    "secrets": ("network_mode: none", "secrets: [token]"),
}


def isolation(world: World, rounds: int) -> Iterator[Result]:
    """One run of `true` with each of the options."""
    programs = []
    for name, options in OPTIONS.items():
        program = world.sandboxrun(f"run, {name}", "run", "--file", str(_write(world, name, options)))
        programs.append(structs.replace(program, env={**program.env, "SANDBOXRUN_BENCH_TOKEN": "value"}))
    none, timed, network, gateway, secrets = in_turns(programs, rounds)
    yield compared("run of true with a timeout", timed, none, 1.1)  # our init beside the engine's own
    yield compared("run of true with a gateway", gateway, none, 2.2)
    yield compared("run of true with a gateway", gateway, network)
    yield compared("run of true with secrets", secrets, none)


def _write(world: World, name: str, options: tuple[str, ...]) -> Path:
    part = f"costs-{name.replace(' ', '-')}"
    path = world.folder / part / "sandbox.yaml"
    path.parent.mkdir(exist_ok=True)
    lines = "".join(f"    {option}\n" for option in options)
    path.write_text(_SANDBOX.format(project=world.project(part), image=IMAGE, options=lines))
    return path
