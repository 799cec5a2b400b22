"""A subject as one side of the privilege diff, and what it has beside the options of a profile.

Owns how a Compose service becomes a side, and the grants that no option expresses. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from sandboxrun.audit.rules.filesystem import engine_socket
from sandboxrun.audit.subject import Building, GivenFile, Mounted, Scratch, Subject, host_path
from sandboxrun.data import Data
from sandboxrun.spec import seccomp
from sandboxrun.spec.option_types import CLOSED
from sandboxrun.spec.privilege import Side, Step, maybe, narrower, wider
from sandboxrun.spec.project import FileSpec, NetworkSpec
from sandboxrun.spec.records import Attachment, Device, FileRef, Logging, Mount, Ulimit
from sandboxrun.spec.spec import SandboxSpec
from sandboxrun.spec.types import format_size, freeze, parse_size


class Grant(Data):
    """Something that a sandbox may do, as `more` ("may now …") and `less`. `certain` is False where having it is not
    known to be more than not having it."""

    axis: str
    key: str
    more: str
    less: str
    item: str | None = None
    certain: bool = True

    @property
    def identity(self) -> tuple[object, ...]:
        """What makes two of them one."""
        return (self.axis, self.key, self.more)


def compare_grants(old: tuple[Grant, ...], new: tuple[Grant, ...]) -> Iterator[tuple[str, Step]]:
    """What was added and what is gone, with their axes."""
    before, after = ({grant.identity: grant for grant in grants} for grants in (old, new))
    for identity, grant in after.items():
        if identity not in before:
            yield grant.axis, (wider if grant.certain else maybe)(grant.key, grant.more, grant.item)
    for identity, grant in before.items():
        if identity not in after:
            yield grant.axis, (narrower if grant.certain else maybe)(grant.key, grant.less, grant.item)


_NAMESPACES = {
    "pid": "processes",
    "ipc": "shared memory",
    "uts": "host name",
    "cgroup": "cgroups",
    "network": "network",
}
_CONFINED = ("no-new-privileges", "seccomp", "apparmor", "label")  # the options' own axes compare these


def grants(s: Subject, free: tuple[str, ...] = ()) -> tuple[Grant, ...]:
    """What no option of a profile expresses. `free` are options that a variable decides, as `option=variable`."""
    return (*_kernel(s), *_host(s), *_reached(s), *_run_beside(s), *_given(s), *_decided(free))


def _one(axis: str, key: str, what: str, item: str | None = None, *, certain: bool = True) -> Grant:
    """A grant by a clause that begins with its verb."""
    verb, _, rest = what.partition(" ")
    first = (f"{verb} now {rest}", f"{verb} no longer {rest}") if verb in ("is", "may") else None
    more, less = first or (f"now {what}", f"no longer {what}")
    return Grant(axis=axis, key=key, more=more, less=less, item=item, certain=certain)


def _kernel(s: Subject) -> Iterator[Grant]:
    if s.privileged:
        yield _one("capabilities", "privileged", "is privileged: it controls the host")
    for which, words in _NAMESPACES.items():
        mode = s.namespaces.get(which, "")
        key = "network_mode" if which == "network" else which
        if mode == "host":
            yield _one("namespaces", key, f"shares the host's {words}")
        elif mode.startswith(("container:", "service:", "ns:")):
            yield _one("namespaces", key, f"shares the {words} of {mode}")
    for rule in s.device_rules:
        yield _one("devices", "device_cgroup_rules", f'may use the devices "{rule}"', rule)
    if s.cgroup_parent:
        yield _one("limits", "cgroup_parent", f"is in the cgroup {s.cgroup_parent}", certain=False)
    if s.oom_kill_disable:
        yield _one("limits", "oom_kill_disable", "is not ended beyond its memory limit")
    for name, value in s.security.items():
        if name not in _CONFINED and not name.startswith("label=") and value.lower() not in ("false", ""):
            yield _one("confinement", "security_opt", f"has the security option {name}={value}", name)


def _host(s: Subject) -> Iterator[Grant]:
    for hit in engine_socket.check(s):
        yield _one("mounts", hit.key, "has the engine's socket: it controls the host", hit.item)
    for source in s.volumes_from:
        yield _one("mounts", "volumes_from", f"has the mounts of {source}", source)
    for mount in s.mounts:
        if mount.propagation.removeprefix("r") in ("shared", "slave"):
            yield _one("mounts", mount.key, f"propagates mounts at {mount.target} ({mount.propagation})", mount.target)


def _reached(s: Subject) -> Iterator[Grant]:
    for port in s.ports:
        where = port.address or "all interfaces"
        yield _one("ports", "ports", f"is reached on port {port.target} from {where}", port.written or port.target)
    for network in s.networks:
        if network.driver in ("macvlan", "ipvlan"):
            yield _one("network", "networks", f"is on the local network ({network.driver})", network.name)


def _run_beside(s: Subject) -> Iterator[Grant]:
    for hook in s.hooks:
        if hook.privileged:
            yield _one("capabilities", hook.key, f"runs a privileged {hook.key}: it controls the host")
        elif hook.user.partition(":")[0] in ("root", "0"):
            yield _one("user", hook.key, f"runs {hook.key} as root")
    if s.provider:
        yield _one("runtime", "provider", f"runs the plug-in {s.provider} on the host")
    for path, target in s.watched:
        yield _one("mounts", "develop", f"copies {path} of the host to {target or 'itself'}", path)
    for key, address in s.remote:
        yield _one("image", key, f"takes a file from {address}", certain=False)
    if s.build is not None:
        yield from _built(s.build)


def _built(build: Building) -> Iterator[Grant]:
    yield _one("image", "build", f"is built from {build.context}", "context", certain=False)
    for name in build.entitlements:
        yield _one("image", "build", f"is built with the entitlement {name}", "entitlements")
    if build.privileged:
        yield _one("image", "build", "is built privileged", "privileged")
    if build.ssh:
        yield _one("secrets", "build", "is built with the caller's SSH keys", "ssh")
    if build.network == "host":
        yield _one("network", "build", "is built on the host's network", "network")


def _given(s: Subject) -> Iterator[Grant]:
    for name, value in s.environment.items():
        own = (name,) if value is None and name not in s.masked else ()
        for source in own or s.passed.get(name, ()):
            yield _one("secrets", "environment", f"gets the caller's {source}", name)
    for path in s.env_files:
        yield _one("secrets", "env_file", f"gets the variables of {path}", path, certain=False)


def _decided(free: tuple[str, ...]) -> Iterator[Grant]:
    for text in free:
        option, _, variable = text.partition("=")
        yield _one("variables", option, f"lets ${{{variable}}} decide {option}", certain=False)


# -- a Compose service as options


def side_of_service(s: Subject) -> Side:
    """What of a Compose service options express, with the engine's defaults for what it leaves out."""
    plain: Mapping[str, Any] = s.options()
    networks = dict(_networks(s))
    spec = SandboxSpec(
        image=s.image or "",
        user=s.user or "",
        group_add=s.groups,
        cap_add=tuple(map(_capability, s.cap_add)),
        cap_drop=tuple(map(_capability, s.cap_drop)),
        security_opt=freeze({**s.security, "seccomp": _seccomp(s.security.get("seccomp", "default"))}),
        userns_mode="host" if s.namespaces.get("userns") == "host" else None,
        ipc=str(plain.get("ipc")) if plain.get("ipc") in ("none", "shareable") else "private",
        devices=tuple(Device(source=d.source, target=d.target, permissions=d.permissions) for d in s.devices),
        gpus=-1 if s.gpus else None,
        runtime=s.runtime or None,
        sysctls=s.sysctls,
        read_only=s.read_only,
        volumes=tuple(_mount(mount) for mount in s.mounts if mount.source),
        tmpfs=freeze({scratch.target: _tmpfs(scratch) for scratch in s.scratch}),
        network_mode="bridge" if networks else "none",
        networks=freeze(dict.fromkeys(networks, Attachment())),
        egress=None if networks else CLOSED,
        extra_hosts=s.hosts,
        dns=s.dns,
        restart=s.restart,
        secrets=tuple(FileRef(source=secret.name, mode=secret.mode) for secret in s.secrets),
        annotations=freeze(_texts(plain.get("annotations"))),
        logging=Logging(driver=s.log_driver or "json-file", options=s.log_options),
        **_limits(s, plain),
    )
    return Side(spec=spec, networks=freeze(networks), secrets=freeze({one.name: _file(one) for one in s.secrets}))


def _limits(s: Subject, plain: Mapping[str, Any]) -> dict[str, Any]:
    memory = s.memory or 0
    return {
        "mem_limit": memory,
        "memswap_limit": s.swap or (2 * memory or None),  # an engine allows as much swap again
        "mem_reservation": _bytes(plain.get("mem_reservation")),
        "cpus": s.cpus or 0.0,
        "cpu_shares": int(plain["cpu_shares"]) if str(plain.get("cpu_shares", "")).isdecimal() else 0,
        "cpuset": str(plain["cpuset"]) if re.fullmatch(r"\d{1,4}([-,]\d{1,4})*", str(plain.get("cpuset"))) else None,
        "pids_limit": s.pids or 0,
        "ulimits": freeze({name: Ulimit(soft=hard, hard=hard) for name, hard in s.ulimits.items()}),
        "shm_size": _bytes(plain.get("shm_size")) or 64 << 20,
        "storage_opt": freeze(_texts(plain.get("storage_opt"))),
        "oom_score_adj": s.oom_score_adj,
    }


def _texts(value: Any) -> dict[str, str]:
    match value:
        case dict():
            return {str(key): str(item) for key, item in value.items()}
        case list():
            return {key: item for key, _, item in (str(one).partition("=") for one in value)}
    return {}


def _bytes(value: Any) -> int:
    try:
        return parse_size(str(value).lower()) if value is not None else 0
    except ValueError:
        return 0


def _capability(written: str) -> str:
    return written.upper().removeprefix("CAP_")


def _seccomp(value: str) -> str:
    return seccomp.ENGINE if value in ("default", "builtin", "") else value


def _mount(mount: Mounted) -> Mount:
    source = host_path(mount.source) if mount.kind == "bind" else mount.source
    kind = "bind" if mount.kind in ("bind", "npipe") else "volume"
    return Mount(type=kind, source=source, target=mount.target, read_only=mount.read_only)


def _tmpfs(scratch: Scratch) -> str:
    flags = [name if getattr(scratch, name) else f"no{name}" for name in ("exec", "suid", "dev")]
    return ",".join(["rw", *flags, *([f"size={format_size(scratch.size)}"] if scratch.size else [])])


def _networks(s: Subject) -> Iterator[tuple[str, NetworkSpec]]:
    mode = s.namespaces.get("network", "")
    if mode == "host" or mode.startswith(("container:", "service:")):
        yield mode, NetworkSpec(external=True)
    for network in s.networks:
        options = {"isolated": str(network.isolated), "host": str(network.host_reach), "driver": network.driver}
        yield (
            network.name,
            NetworkSpec(
                internal=network.internal,
                external=network.external,
                enable_ipv6=network.ipv6,
                driver_opts=freeze(options),
            ),
        )


def _file(secret: GivenFile) -> FileSpec:
    match secret.origin:
        case "environment":
            return FileSpec(environment=secret.source)
        case "content":
            return FileSpec(content=secret.content)
    return FileSpec(file=f"{secret.origin} {secret.source}")
