"""What `doctor` says: an engine's facts in words, what of a profile it could not enforce, where an engine was sought.

Owns the words. Asks the engine for nothing but the gateway's image.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import structs

from sandboxrun.backend.docker.connect import Endpoint
from sandboxrun.backend.docker.facts import EngineFacts, Quota
from sandboxrun.errors import Diagnostic, printable

if TYPE_CHECKING:
    from sandboxrun.backend.docker.client import Engine

_QUOTA = {
    Quota.YES: "can be limited",
    Quota.NO: "can't be limited",
    Quota.UNKNOWN: "depends on a mount option (pquota) that the engine does not tell",
}
_LIMITS = {
    "memory": "memory",
    "swap": "swap",
    "cpus": "CPUs",
    "cpu_shares": "CPU shares",
    "cpuset": "cpusets",
    "pids": "processes",
}
# What settles the engine, in the order it counts; the same as backend/docker/connect.py has.
SETTINGS = ("DOCKER_SOCKET", "DOCKER_HOST", "DOCKER_CONTEXT")


def engine_lines(facts: EngineFacts, api: str, endpoint: Endpoint, shares: bool, why: str) -> list[tuple[str, str]]:
    """The engine in words: what, and what of it."""
    limits = structs.asdict(facts.limits)
    missing = [words for key, words in _LIMITS.items() if not limits[key]]
    kept = [words for key, words in _LIMITS.items() if limits[key]]
    told = [
        ("engine", f"{facts.name} {facts.version} at {endpoint}"),
        ("API", f"{api} in use, {facts.api_version} offered"),
        ("system", f"{facts.system}, {facts.architecture}, kernel {facts.kernel}"),
        ("machine", f"{facts.cpus} CPUs, {facts.memory / 2**30:.1f} GiB of memory"),
        ("cgroups", f"version {facts.cgroup_version}, driver {facts.cgroup_driver}"),
        ("limits", ", ".join(kept) + (f"; NOT {', '.join(missing)}" if missing else "")),
        ("swap", "counted: memswap_limit holds" if facts.limits.swap else "NOT counted: memswap_limit can't be held"),
        ("runtimes", f"{', '.join(facts.runtimes)}; default {facts.default_runtime}"),
        ("seccomp", f"on, profile {facts.seccomp}" if facts.seccomp else "OFF"),
        ("security", _security(facts)),
        ("storage", f"{facts.storage_driver}; a sandbox's disk use {_QUOTA[facts.storage_quota]}"),
        ("logging", f"{facts.logging_driver} by default"),
        ("networks", f"room for {facts.free_subnets} more"),
        ("files", f"{'shared with' if shares else 'not shared with'} this process: {why}"),
    ]
    return [(name, printable(text)) for name, text in told]


def _security(facts: EngineFacts) -> str:
    kinds = {"AppArmor": facts.apparmor, "SELinux": facts.selinux, "user namespaces": facts.userns}
    on = [name for name, there in {**kinds, "rootless": facts.rootless}.items() if there]
    return ", ".join(on) or "no AppArmor, SELinux, user namespaces or rootless mode"


def engine_plain(facts: EngineFacts, api: str, endpoint: Endpoint, shares: bool, why: str) -> dict[str, Any]:
    """The same as data."""
    plain = msgspec.to_builtins(facts)
    return {
        **plain,
        "api_in_use": api,
        "endpoint": endpoint.url,
        "origin": endpoint.origin,
        "shares_filesystem": shares,
        "filesystem_reason": why,
    }


def gateway_plain(engine: Engine) -> dict[str, Any]:
    """The image of sandboxes' gateways, and whether the engine has it."""
    from sandboxrun.gateway.image import reference

    return {"image": reference(), "present": engine.image(reference()) is not None}


def gateway_line(engine: Engine) -> tuple[str, str]:
    """The same in words."""
    found = gateway_plain(engine)
    return "gateway", f"image {found['image']}" if found["present"] else "NO image: `sandboxrun gateway build` makes it"


_BROADCASTS = {
    True: "of sandboxes are dropped by the host (rp_filter)",
    False: "of sandboxes reach the HOST's UDP services: set net.ipv4.conf.default.rp_filter=2, then recreate networks",
    None: "of sandboxes: whether the host drops them (rp_filter) can't be seen from here",
}


def broadcasts_line(filters: bool | None) -> tuple[str, str]:
    """What becomes of what a sandbox sends to everybody on its network, the engine's machine among them."""
    return "broadcasts", _BROADCASTS[filters]


def sought(host: str | None, environment: Mapping[str, str], taken: Endpoint | None) -> list[str]:
    """Where an engine was looked for, in the order that counts, the one that was taken marked."""
    given = [("--host", host), *((name, environment.get(name)) for name in SETTINGS)]
    lines = [f"{name:<26} {printable(value) if value else 'not given'}" for name, value in given]
    lines += ["docker's current context", "the usual socket"]
    if taken is None:
        return lines
    names = ["--host", *SETTINGS]
    at = next((n for n, name in enumerate(names) if given[n][1]), None)
    if at is None:
        at = len(lines) - 1 if taken.origin == "the default" else len(lines) - 2
        lines[at] = f"{lines[at]:<26} {printable(taken.url)}"
    lines[at] += "   <- this one"
    return lines


def advice(endpoint: Endpoint) -> list[str]:
    """What to do about an engine that does not answer."""
    if endpoint.url.startswith("unix://"):
        path = printable(endpoint.url.removeprefix("unix://"))
        return [
            f"is an engine running on this machine? Its socket would be {path}",
            f"may this user use it? See `ls -l {path}`; the engine's group is usually docker",
            "in a pipeline job, mount the socket or start the engine beside the job, and set DOCKER_HOST",
        ]
    if endpoint.url.startswith("ssh://"):
        return [f"does `ssh {printable(endpoint.url.removeprefix('ssh://'))} docker version` work?"]
    return [
        "does the engine listen on that address, and do firewalls let it through?",
        "with TLS: DOCKER_TLS_VERIFY=1, and ca.pem, cert.pem and key.pem in DOCKER_CERT_PATH",
    ]


def faults_text(faults: Iterable[Diagnostic]) -> list[str]:
    """What can't be enforced."""
    return [line for fault in faults for line in str(fault).splitlines()]
