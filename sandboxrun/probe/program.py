"""The program that looks: its file for an architecture, where it stands in a sandbox, and its arguments."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path

from sandboxrun.errors import SandboxrunError
from sandboxrun.model import units
from sandboxrun.model.spec import SandboxSpec
from sandboxrun.probe.requests import requests
from sandboxrun.probe.types import Context, Phase

BIN = Path(__file__).resolve().parent / "bin"
ARCHITECTURES = {"amd64": "x86_64", "x86_64": "x86_64", "arm64": "aarch64", "aarch64": "aarch64"}
FILE = "sandboxrun-probe"
RAISING = "sandboxrun-probe-setuid"  # the same program, root's, with the setuid bit: what it can raise is looked at
FOLDER = "/run/configs"
SHM = "/dev/shm"
SMALL_MEMORY, SMALL_PROCESSES = 64 * 1024**2, 64  # what the phases that use up a limit are started with, at most
STUBBORN_SECONDS = 8  # how long the stubborn one lives if it is let


class ProbeError(SandboxrunError):
    """A sandbox can't be probed."""


def architecture(name: str) -> str:
    """The kernel's name of an architecture that an image gives as `amd64`, `arm64/v8` ... Raises ProbeError."""
    found = ARCHITECTURES.get(name.partition("/")[0])
    if found is None:
        raise ProbeError(
            f'there is no probe program for images of the architecture "{name}"',
            help=f"it is built for {' and '.join(sorted(set(ARCHITECTURES.values())))}",
        )
    return found


def program(name: str) -> Path:
    """The program's file for an image's architecture (`amd64`, `x86_64`, `arm64` ...). Raises ProbeError."""
    path = BIN / f"probe-{architecture(name)}"
    if not path.is_file():
        raise ProbeError(f"the probe program {path.name} is missing", help="install sandboxrun again")
    return path


def command(phase: Phase, context: Context, *, weak: bool = False) -> tuple[str, ...]:
    """The whole command line in a sandbox."""
    return (f"{FOLDER}/{FILE}", *arguments(phase, context, weak=weak))


def arguments(phase: Phase, context: Context, *, weak: bool = False) -> tuple[str, ...]:
    """What the program is told, less its own name: the phase, then `key=value`, keys more than once where there are
    several values. `weak`: it plays the parts that a weak sandbox has none for (a name server, a secret, a `.git`)."""
    return (phase.value, *(f"{key}={value}" for key, value in _told(phase, context, weak)))


def _told(phase: Phase, context: Context, weak: bool) -> Iterator[tuple[str, object]]:
    match phase:
        case Phase.MEMORY:
            yield "bytes", taken_memory(context)
        case Phase.PROCESSES:
            yield "most", small_processes(context) + 32
        case Phase.STUBBORN:
            yield "seconds", STUBBORN_SECONDS
        case Phase.BATTERY:
            yield "weak", int(weak)
            yield "setuid", f"{FOLDER}/{RAISING}"
            yield from _limits(context)
            yield from (("tmpfs", f"{size}:{path}") for path, size in tmpfs_sizes(context.spec).items())
            yield from (("noexec", path) for path in noexec_paths(context))
            yield from (("host", address) for address in context.hosts)
            yield from (("neighbour", address) for address in context.neighbours)
            yield from _places(context, weak)
            if not weak:
                yield from _gateway(context)


def _places(context: Context, weak: bool) -> Iterator[tuple[str, object]]:
    spec = context.spec
    if spec.cpus:
        yield "burn", min(64, math.ceil(spec.cpus) + 1)
    if spec.secrets:
        yield "secrets", "/sandboxrun-weak/secrets" if weak else "/run/secrets"
    if git_path(context):
        yield "git", "/sandboxrun-weak/.git" if weak else git_path(context)
    if weak or spec.egress is not None or not spec.networks:
        yield "names", 1  # networks of one's own may well have name servers, which are not to be bothered


def _gateway(context: Context) -> Iterator[tuple[str, object]]:
    """The gateway's address stands in the sandbox's environment where it is not known beforehand."""
    if context.proxy is not None:
        yield "proxy", context.proxy
    yield from (("request", request.argument) for request in requests(context))


def _limits(context: Context) -> Iterator[tuple[str, object]]:
    for name in ("nofile", "core"):
        limit = context.spec.ulimits.get(name)
        if limit is not None and limit.hard >= 0:
            yield name, limit.hard


def small_memory(context: Context) -> int:
    """The memory limit of the sandbox that is filled, in bytes; 0 where there is none."""
    return min(context.spec.mem_limit, SMALL_MEMORY)


def swap(context: Context) -> int | None:
    """The swap it may use beside its memory, in bytes; None if without bound."""
    spec = context.spec
    both = spec.mem_limit if spec.memswap_limit is None else spec.memswap_limit
    return None if both < 0 else max(0, both - spec.mem_limit)


def taken_memory(context: Context) -> int:
    """How much memory the program takes: more than the limit, and not much more."""
    return small_memory(context) + (swap(context) or 0) + SMALL_MEMORY // 2


def small_processes(context: Context) -> int:
    """The process limit of the sandbox that is filled; 0 where there is none."""
    return min(context.spec.pids_limit, SMALL_PROCESSES)


def tmpfs_sizes(spec: SandboxSpec) -> dict[str, int]:
    """The size of every memory filesystem that is declared, in bytes; /dev/shm is one."""
    sizes = {}
    for path, options in spec.tmpfs.items():
        found = re.search(r"(?:^|,)size=([^,]+)", options)
        if found:
            sizes[path] = units.parse_size(found[1])
    if spec.ipc != "none":
        sizes[SHM] = spec.shm_size
    return sizes


def noexec_paths(context: Context) -> tuple[str, ...]:
    """The memory filesystems that are declared and that nothing may be run from."""
    return tuple(path for path, options in context.spec.tmpfs.items() if "noexec" in options.split(","))


def git_path(context: Context) -> str | None:
    """The .git of a workspace that is the host's own directory, writable."""
    workspace = context.spec.workspace
    return f"{workspace.target.rstrip('/')}/.git" if workspace is not None and workspace.access == "rw" else None
