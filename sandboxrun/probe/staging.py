"""The sandboxes that are started to be looked at: the profile's own with the program in its place, and the weak one.

Owns what differs from the declared spec in each phase, and what the weak one is. Pure.
"""

from __future__ import annotations

from typing import Any

from msgspec import structs

from sandboxrun.probe.program import RAISING, SHM, command, small_memory, small_processes, swap, tmpfs_sizes
from sandboxrun.probe.verdicts import Context, Phase
from sandboxrun.spec.option_types import NAMES, read_options
from sandboxrun.spec.project import NetworkSpec
from sandboxrun.spec.records import Attachment, EvidencePolicy, FileRef, Healthcheck, Lifetime
from sandboxrun.spec.spec import SandboxSpec, settle
from sandboxrun.spec.types import SECOND, freeze

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


def weak(spec: SandboxSpec) -> SandboxSpec:
    """A sandbox of the same image with every restriction taken off that an option can take off.

    It is root with nearly all capabilities, writes everywhere, has no limits, and reaches whatever the engine's host
    reaches: the negative control. It has none of the profile's files, volumes, secrets and variables.
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
            mem_limit=0,
            cpus=0.0,
            pids_limit=0,
            ulimits=freeze({}),
            shm_size=2 * spec.shm_size,
            oom_score_adj=0,
            environment=freeze({"SANDBOXRUN_PROBE": MARK}),
            networks=freeze({WEAK_NETWORK: Attachment()}),
            dns=("127.0.0.1",),
        )
    )
