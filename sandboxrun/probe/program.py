"""The program that looks: its output read, its file for an architecture, its arguments, and the sandboxes that are
started with it: the profile's own with the program in its place, and the weak one.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from msgspec import structs

from sandboxrun.errors import SandboxrunError
from sandboxrun.probe.network import requests
from sandboxrun.probe.verdicts import OUTCOME, Context, Phase, Seen
from sandboxrun.spec import types as units
from sandboxrun.spec.option_types import NAMES, read_options
from sandboxrun.spec.project import NetworkSpec
from sandboxrun.spec.records import Attachment, EvidencePolicy, FileRef, Healthcheck, Lifetime, Ulimit
from sandboxrun.spec.spec import SandboxSpec, settle
from sandboxrun.spec.types import SECOND, freeze

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
        if not _NAME.fullmatch(name) or name in found:
            continue
        values: dict[str, str] = {}
        for key, equals, value in (field.partition("=") for field in fields[:MOST_VALUES]):
            if equals and _KEY.fullmatch(key):
                values.setdefault(key, unescaped(value[:LONGEST]))
        found[name] = freeze(values)
    return freeze(found)


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
    """What was seen with what is known from outside: how the run ended (`spec.state.How`), its code, whether the
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


# -- the sandboxes that are started to be looked at

CONFIG = "sandboxrun-probe"  # the key that the program has among the profile's configs
WEAK_NETWORK = "sandboxrun-weak"  # the key of the network that the weak sandboxes join
WEAK_NETWORK_SPEC = NetworkSpec(driver_opts=freeze({}))  # neighbours reach each other, and the host
# An engine that is nested itself lacks the first; kernels before 5.9 the others, and SYS_ADMIN includes them
_SELDOM = frozenset({"SYS_RESOURCE", "BPF", "PERFMON", "CHECKPOINT_RESTORE"})
MIB = 1024**2
MARK = "sandboxrun-stands-for-a-secret"
_FILES = (
    FileRef(source=CONFIG, uid=0, gid=0, mode=0o555),
    FileRef(source=CONFIG, target=RAISING, uid=0, gid=0, mode=0o4555),
)
_TIMEOUT = {Phase.BATTERY: 60, Phase.PROCESSES: 30, Phase.MEMORY: 30, Phase.STUBBORN: 2}  # seconds


def is_probe(spec: SandboxSpec) -> bool:
    """Whether a sandbox is one of these, by what it was made with."""
    return any(config.source == CONFIG for config in spec.configs)


def staged(context: Context, phase: Phase) -> SandboxSpec:
    """The sandbox as it is started for a phase: as declared, with the program in place of its command.

    What a phase uses up is smaller than declared: a limit of many gigabytes is neither filled nor left to be filled.
    """
    spec = context.spec
    changed: dict[str, Any] = {"configs": (*spec.configs, *_FILES)}
    match phase:
        case Phase.MEMORY if spec.mem_limit:
            small, more = small_memory(context), swap(context)
            changed |= {"mem_limit": small, "memswap_limit": -1 if more is None else small + more, "mem_reservation": 0}
        case Phase.PROCESSES if spec.pids_limit > 0:
            changed |= {"pids_limit": small_processes(context)}
        case Phase.STUBBORN:
            changed |= {"stop_grace_period": SECOND}
    return settle(structs.replace(spec, **changed, **_started(phase, command(phase, context), _TIMEOUT[phase])))


def staged_weak(context: Context, phase: Phase) -> SandboxSpec:
    """The weak sandbox as it is started for a phase. `context` is the strong one's, with the weak one's addresses."""
    started = _started(phase, command(phase, context, weak=True), 60)
    started["stop_grace_period"] = SECOND  # it has nothing to finish, and neighbours ignore TERM
    return settle(structs.replace(weak(context.spec), configs=_FILES, **started))


def _started(phase: Phase, argv: tuple[str, ...], seconds: int) -> dict[str, Any]:
    return {
        "entrypoint": (),
        "command": argv,
        "tty": False,
        "stdin_open": False,
        "healthcheck": Healthcheck(disable=True),
        "depends_on": freeze({}),
        "restart": "no",
        "lifetime": Lifetime(timeout=seconds * SECOND),
        "evidence": EvidencePolicy(filesystem_changes=False, patch=False),
    }


def _opened(spec: SandboxSpec) -> dict[str, str]:
    """Something on every path that the sandbox has something on, lest the image's volumes have none; twice as large as
    declared, and for programs and devices too."""
    sizes = {path: 2 * size for path, size in tmpfs_sizes(spec).items() if path != SHM}
    targets = [mount.target for mount in spec.volumes] + ([spec.workspace.target] if spec.workspace else [])
    sizes |= {path.rstrip("/"): MIB for path in targets}
    return {path: read_options(f"exec,suid,dev,mode=1777,size={size}") for path, size in sorted(sizes.items())}


def _raised(spec: SandboxSpec) -> dict[str, Ulimit]:
    """More than is declared: an engine may have limits of its own that are as low, and then there is no difference."""
    most = {name: limit.hard + 128 for name, limit in spec.ulimits.items() if 0 <= limit.hard <= 1 << 17}
    return {name: Ulimit(soft=each, hard=each) for name, each in most.items()}


def weak(spec: SandboxSpec) -> SandboxSpec:
    """A sandbox of the same image with every restriction taken off that an option can take off.

    It is root with nearly all capabilities, writes everywhere, has no limits or higher ones, and reaches whatever the
    engine's host reaches: the negative control. It has none of the profile's files, volumes, secrets and variables.
    """
    return settle(
        SandboxSpec(
            image=spec.image,
            platform=spec.platform,
            pull_policy=spec.pull_policy,
            runtime=spec.runtime,
            init=spec.init,
            user="0:0",
            group_add=("1", "2"),
            cap_drop=(),
            cap_add=tuple(name for name in NAMES if name not in _SELDOM),
            security_opt=freeze({"no-new-privileges": "false", "seccomp": "unconfined", "apparmor": "unconfined"}),
            read_only=False,
            tmpfs=freeze(_opened(spec)),
            ipc="shareable",
            userns_mode="host",  # where the engine maps its users, root can do little
            mem_limit=0,
            cpus=0.0,
            pids_limit=0,
            ulimits=freeze(_raised(spec)),
            shm_size=2 * spec.shm_size,
            oom_score_adj=0,
            environment=freeze({"SANDBOXRUN_PROBE": MARK}),
            networks=freeze({WEAK_NETWORK: Attachment()}),
            dns=("127.0.0.1",),
        )
    )
