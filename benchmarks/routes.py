"""A run of `true` over tcp and ssh, beside the same over the engine's socket.

Owns that measure. Both routes are forwarders on this machine: what they take is in the figures, a network's latency
is not.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from msgspec import structs

from benchmarks.table import Result, compared
from benchmarks.timing import in_turns
from benchmarks.world import World
from tests.engine.forwarders import ssh_command, tcp_forwarder


def routes(world: World, rounds: int) -> Iterator[Result]:
    """Over each route, in turns."""
    unix = world.sandboxrun("run, unix", "run", "--file", str(world.profile("routes", command='["true"]')))
    path = f"{ssh_command(world.folder / 'ssh', world.socket)}{os.pathsep}{unix.env['PATH']}"
    with tcp_forwarder(world.socket) as address:
        over_tcp = {**unix.env, "DOCKER_HOST": f"tcp://{address}"}
        over_ssh = {**unix.env, "DOCKER_HOST": "ssh://me@engine.example.com", "PATH": path}
        programs = [
            unix,
            structs.replace(unix, name="run, tcp", env=over_tcp),
            structs.replace(unix, name="run, ssh", env=over_ssh),
        ]
        local, tcp, ssh = in_turns(programs, rounds)
    yield compared("run of true over tcp", tcp, local)
    yield compared("run of true over ssh", ssh, local)
