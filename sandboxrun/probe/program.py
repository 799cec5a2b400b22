"""The program that looks: its file for an architecture, where it is in a sandbox, its arguments, and its output
read.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from sandboxrun.errors import SandboxrunError
from sandboxrun.probe.requests import requests
from sandboxrun.probe.verdicts import OUTCOME, Context, Phase, Seen
from sandboxrun.spec import types as units
from sandboxrun.spec.spec import SandboxSpec
from sandboxrun.spec.types import freeze

# -- What the program printed, read: a line a probe, `name TAB key=value TAB ...`

MOST_BYTES, MOST_LINES, MOST_VALUES, LONGEST = 1 << 20, 2000, 200, 4096
_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}")
_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_./-]{0,63}")
_ESCAPE = re.compile(r"\\x([0-9a-f]{2})")


def parse(output: bytes) -> Seen:
    """What every probe saw. A line that is none is left out; of two with one name the first counts, for the program
    itself prints each once."""
    found: dict[str, Mapping[str, str]] = {}
    for line in output[:MOST_BYTES].split(b"\n")[:MOST_LINES]:
        name, *fields = line.decode("ascii", errors="replace").split("\t")
        if _NAME.fullmatch(name) and name not in found:
            found[name] = freeze(_values(fields[:MOST_VALUES]))
    return freeze(found)


def _values(fields: list[str]) -> dict[str, str]:
    values: dict[str, str] = {}
    for field in fields:
        key, equals, value = field.partition("=")
        if equals and _KEY.fullmatch(key):
            values.setdefault(key, unescaped(value[:LONGEST]))
    return values


def unescaped(text: str) -> str:
    """The program writes bytes that are no printable ASCII, and the backslash, as \\x and two digits."""
    data = b"".join(
        bytes([int(part, 16)]) if at % 2 else part.encode("ascii", errors="replace")
        for at, part in enumerate(_ESCAPE.split(text))
    )
    return data.decode("utf-8", errors="replace")


def complete(seen: Seen) -> bool:
    """Whether the program came to its end."""
    return "end" in seen


def with_outcome(
    seen: Seen,
    *,
    how: str,
    exit_code: int | None = None,
    oom_killed: bool = False,
    seconds: float | None = None,
    gateway: str = "",
    passed: str = "",
) -> Seen:
    """What was seen with what is known from outside: how the run ended (`spec.outcome.How`), its code, whether the
    kernel killed it for memory, how many seconds it ran, the address of its gateway, and each host:port that this let
    pass."""
    outcome = {
        "how": how,
        "exit_code": "" if exit_code is None else str(exit_code),
        "oom_killed": "yes" if oom_killed else "no",
        "seconds": "" if seconds is None else f"{seconds:.3f}",
        "gateway": gateway,
        "passed": passed,
    }
    return freeze({**seen, OUTCOME: freeze(outcome)})


# -- The program that looks: its file for an architecture, its path in a sandbox, and its arguments

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
            for name in ("nofile", "core"):
                limit = context.spec.ulimits.get(name)
                if limit is not None and limit.hard >= 0:
                    yield name, limit.hard
            yield from (("tmpfs", f"{size}:{path}") for path, size in tmpfs_sizes(context.spec).items())
            yield from (("noexec", path) for path in noexec_paths(context))
            yield from (("host", address) for address in context.hosts)
            yield from (("neighbour", address) for address in context.neighbours)
            yield from _places(context, weak)
            if not weak:
                if context.gateway is not None:
                    yield "gateway", context.gateway
                yield from (("request", request.argument) for request in requests(context))


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
