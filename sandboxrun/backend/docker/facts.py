"""What an engine offers, read out of its own answers: for `doctor`, and for refusing early what it could not enforce.
And of its machine: whether a path means the same there, whether it drops what has no way back, and whether gateways may
listen on low ports.
"""

from __future__ import annotations

import enum
import os
import re
import secrets
import socket
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sandboxrun.backend.docker.codec import taken_by
from sandboxrun.backend.docker.transport import TransportError
from sandboxrun.backend.errors import EngineError, NotFound
from sandboxrun.data import Data
from sandboxrun.errors import UsageError, quoted
from sandboxrun.spec.state import Sample

if TYPE_CHECKING:
    from sandboxrun.backend.docker.client import Engine

Json = Mapping[str, Any]


class Quota(enum.Enum):
    """Whether a container's disk use can be limited (`storage_opt: {size: …}`)."""

    YES = "yes"
    NO = "no"
    UNKNOWN = "unknown"  # depends on a mount option that the engine does not report


class Limits(Data):
    """Which limits the engine says its kernel enforces."""

    memory: bool
    swap: bool
    cpus: bool
    cpu_shares: bool
    cpuset: bool
    pids: bool
    oom_kill_disable: bool


class Pool(Data):
    """Addresses that networks without a subnet of their own are cut from: `base`, in pieces of prefix `size`."""

    base: str
    size: int


class EngineFacts(Data):
    """An engine. Source: GET /version, /info and /networks."""

    name: str
    version: str
    api_version: str
    os: str
    system: str
    architecture: str
    kernel: str
    cpus: int
    memory: int  # bytes
    cgroup_version: int
    cgroup_driver: str
    runtimes: tuple[str, ...]
    default_runtime: str
    runc: str  # its version; "" where the engine does not say
    seccomp: str | None  # the default profile's name; None: no seccomp
    apparmor: bool
    selinux: bool
    userns: bool
    rootless: bool
    limits: Limits
    storage_driver: str
    storage_quota: Quota
    logging_driver: str
    pools: tuple[Pool, ...]
    free_subnets: int
    is_podman: bool
    warnings: tuple[str, ...]


# By limit the fields of /info that must hold.
_LIMITS = {"memory": "MemoryLimit", "swap": "SwapLimit", "cpus": "CpuCfsQuota CpuCfsPeriod", "cpu_shares": "CPUShares"}
_LIMITS |= {"cpuset": "CPUSet", "pids": "PidsLimit", "oom_kill_disable": "OomKillDisable"}
# libnetwork's own (ipamutils), used when the engine tells no others; 20.10 to 28 agree.
_SIXTEENS = "172.17.0.0/16 172.18.0.0/16 172.19.0.0/16 172.20.0.0/14 172.24.0.0/14 172.28.0.0/14"
DEFAULT_POOLS = (*(Pool(base=base, size=16) for base in _SIXTEENS.split()), Pool(base="192.168.0.0/16", size=20))


def engine_facts(version: Json, info: Json, networks: Sequence[Json]) -> EngineFacts:
    """The facts of the engine whose answers these are. What an engine leaves out counts as not offered."""
    security = security_of(info)
    told = info.get("DefaultAddressPools") or ()
    pools = tuple(Pool(base=str(p["Base"]), size=int(p["Size"])) for p in told) or DEFAULT_POOLS
    cgroup = str(info.get("CgroupVersion") or "")
    podman = is_podman(version, info)
    return EngineFacts(
        name="Podman" if podman else "Docker",
        version=str(version.get("Version", "")),
        api_version=str(version.get("ApiVersion", "")),
        os=str(version.get("Os") or info.get("OSType") or ""),
        system=str(info.get("OperatingSystem", "")),
        architecture=str(version.get("Arch") or info.get("Architecture") or ""),
        kernel=str(info.get("KernelVersion") or version.get("KernelVersion") or ""),
        cpus=int(info.get("NCPU") or 0),
        memory=int(info.get("MemTotal") or 0),
        cgroup_version=int(cgroup) if re.fullmatch("[0-9]", cgroup) else 1,
        cgroup_driver=str(info.get("CgroupDriver", "")),
        runtimes=tuple(sorted(info.get("Runtimes") or ())),
        default_runtime=str(info.get("DefaultRuntime", "")),
        runc=next((str(c.get("Version", "")) for c in version.get("Components") or () if c.get("Name") == "runc"), ""),
        seccomp=security["seccomp"].get("profile", "default") if "seccomp" in security else None,
        apparmor="apparmor" in security,
        selinux="selinux" in security,
        userns="userns" in security,
        rootless="rootless" in security,
        limits=Limits(**{name: all(map(info.get, keys.split())) for name, keys in _LIMITS.items()}),
        storage_driver=str(info.get("Driver", "")),
        storage_quota=_quota(info),
        logging_driver=str(info.get("LoggingDriver", "")),
        pools=pools,
        free_subnets=free_subnets(pools, map(str, taken_by(networks))),
        is_podman=podman,
        warnings=tuple(str(w) for w in info.get("Warnings") or ()),
    )


# Engines that don't hand `dns` to containers whose only network is internal: from, and up to but not including.
_KEEPS_NAMES = (((23, 0, 11), (24, 0, 0)), ((25, 0, 5), (26, 1, 3)))


def hands_names(version: str) -> bool:
    """Whether an engine of this version asks the name server of a container on an internal network."""
    return not any(first <= number_of(version) < end for first, end in _KEEPS_NAMES)


def number_of(version: str) -> tuple[int, ...]:
    """The first three parts of a version; () where it has no such number."""
    found = re.match(r"([0-9]+)\.([0-9]+)\.([0-9]+)", version)
    return tuple(map(int, found.groups())) if found else ()


def is_podman(version: Json, info: Json) -> bool:
    """Podman names itself in /version; in /info only the library that it builds images with."""
    names = [str(c.get("Name")) for c in version.get("Components") or ()]
    return any("podman" in name.lower() for name in names) or "BuildahVersion" in info


def security_of(info: Json) -> dict[str, dict[str, str]]:
    """`name=seccomp,profile=default` by name; engines before 1.25 and Podman may give the bare name."""
    found: dict[str, dict[str, str]] = {}
    for option in info.get("SecurityOptions") or ():
        pairs: dict[str, str] = {}
        for part in option.split(","):
            key, equals, value = part.partition("=")
            pairs[key if equals else "name"] = value if equals else key
        found[pairs.pop("name", option)] = pairs
    return found


def _quota(info: Json) -> Quota:
    """overlay2 has quotas only on xfs mounted with pquota (20.10, 26.1, 28.5); btrfs and zfs have their own."""
    driver = str(info.get("Driver", ""))
    status = {pair[0]: pair[1] for pair in info.get("DriverStatus") or () if len(pair) == 2}
    if driver in ("btrfs", "zfs", "devicemapper", "windowsfilter"):
        return Quota.YES
    if driver in ("overlay2", "overlay", "vfs") and status.get("Backing Filesystem", "xfs") == "xfs":
        return Quota.UNKNOWN
    return Quota.NO


def free_subnets(pools: Sequence[Pool], used: Iterable[str]) -> int:
    """How many more IPv4 networks the pools have room for; what is no pool has none. The engine also leaves out what
    its host's routes use."""
    from ipaddress import IPv4Network, ip_network

    taken = [n for n in (ip_network(u, strict=False) for u in used) if isinstance(n, IPv4Network)]
    free = 0
    for pool in pools:
        try:
            base = ip_network(pool.base, strict=False)
        except ValueError:
            continue
        if not isinstance(base, IPv4Network) or not base.prefixlen <= pool.size <= 32:
            continue
        pieces: set[int] = set()
        step = 1 << (32 - pool.size)
        for network in taken:
            if network.overlaps(base):
                first = max(int(network.network_address), int(base.network_address)) // step
                last = min(int(network.broadcast_address), int(base.broadcast_address)) // step
                pieces.update(range(first, last + 1))
        free += (1 << (pool.size - base.prefixlen)) - len(pieces)
    return free


# -- Whether a path means the same to the engine as to this process

OVERRIDE = "SANDBOXRUN_SHARED_FILESYSTEM"
_CONTAINER_MARKS = ("/.dockerenv", "/run/.containerenv")


def sharing(engine: Engine) -> tuple[bool, str]:
    """Whether the filesystem is shared, and why (a clause). Raises UsageError for a variable that says neither."""
    told = os.environ.get(OVERRIDE, "")
    if told in ("0", "1"):
        return told == "1", f"{OVERRIDE}={told} says so"
    if told:
        raise UsageError(f"{OVERRIDE} is {quoted(told)}", help="set it to 1 or 0, or unset it")
    try:
        against = _other_root(engine) or _other_host(engine) or _other_paths(engine)
    except (EngineError, TransportError, OSError) as error:
        return False, f"it could not be found out: {error}"
    if against:
        return False, against
    return True, "the engine runs on this machine, with the same root folder"


def _other_root(engine: Engine) -> str | None:
    """Evidence from the socket: a listener in a foreign pid namespace, or with another root folder."""
    pid = engine.transport.peer_pid()
    if pid is None:
        return f"the engine is reached over {engine.endpoint.partition('://')[0]}"
    if pid == 0:
        return "the engine runs outside this container: its socket was mounted in"
    try:
        theirs, ours = os.stat(f"/proc/{pid}/root/"), os.stat("/")
    except PermissionError:
        # Not root: the listener's root cannot be seen. On a plain host it is ours; inside a container, who knows.
        mounts = Path("/proc/self/mountinfo").read_text("utf-8", "replace").splitlines()
        roots = [line for line in mounts if line.split(" ")[4:5] == ["/"]]
        layered = any(" - overlay " in line or " - fuse.fuse-overlayfs " in line for line in roots)
        if not layered and not any(os.path.exists(mark) for mark in _CONTAINER_MARKS):
            return None
        return "this process runs in a container, and cannot see the engine's root folder"
    same = (theirs.st_dev, theirs.st_ino) == (ours.st_dev, ours.st_ino)
    return None if same else "the engine's root folder is a different one"


def _other_host(engine: Engine) -> str | None:
    """Evidence from the engine itself: a socket may be forwarded from another machine, or from a virtual one."""
    info = engine.info()
    lines = (line.split() for line in Path("/proc/meminfo").read_text("ascii").splitlines())
    memory = next((int(words[1]) * 1024 for words in lines if words[0] == "MemTotal:"), 0)
    here = {"Name": socket.gethostname(), "KernelVersion": os.uname().release, "MemTotal": memory}
    for key, ours in here.items():
        if info.get(key) != ours:
            return f"the engine runs on another machine ({key} is {info.get(key)} there, {ours} here)"
    return None


def _other_paths(engine: Engine) -> str | None:
    """Evidence from a bind that the engine is asked to check, of the current folder: it may see another tree.

    The call names an image that cannot exist, so nothing is ever made. A folder that cannot exist either is the
    control: an engine that does not look at the path first (Podman) tells nothing, which is no evidence against.
    """
    token = secrets.token_hex(16)
    if _sees(engine, f"/sandboxrun-{token}", token):
        return None
    return None if _sees(engine, os.getcwd(), token) else f"the engine sees no folder {os.getcwd()}"


def _sees(engine: Engine, path: str, token: str) -> bool:
    mount = {"Type": "bind", "Source": path, "Target": "/mnt", "ReadOnly": True}
    payload = {"Image": f"sandboxrun-none:{token}", "HostConfig": {"Mounts": [mount]}}
    try:
        engine.create_container(f"sandboxrun-check-{token}", payload)
    except NotFound:
        return True
    except EngineError as error:
        if "does not exist" in error.cause:
            return False
        raise
    raise EngineError("checking the filesystem", "the engine made a container of an image that does not exist")


# -- Whether the engine's machine drops packets from senders to whom no way leads back (`rp_filter`)

SETTINGS = "/proc/sys/net/ipv4/conf"


def filters_paths(engine: Engine) -> bool | None:
    """Whether it does on networks that are made from now on; None where that can't be seen from here."""
    pid = engine.transport.peer_pid()
    if not pid:
        return None
    try:
        if os.readlink(f"/proc/{pid}/ns/net") != os.readlink("/proc/self/ns/net"):
            return None  # what /proc shows is this process's network
        return any(int(Path(SETTINGS, of, "rp_filter").read_text("ascii")) > 0 for of in ("all", "default"))
    except (OSError, ValueError):
        return None


# -- What a container uses


def sample_of(stats: Json) -> Sample | None:
    """A `GET /containers/{id}/stats` answer as a sample; None for a container that is not running.

    Memory is less droppable cache: `total_inactive_file` under cgroup v1, `inactive_file` under v2.
    """
    usage, cpu_ns = _number(stats, "memory_stats", "usage"), _number(stats, "cpu_stats", "cpu_usage", "total_usage")
    if usage is None and not cpu_ns:
        return None
    caches = (_number(stats, "memory_stats", "stats", key) for key in ("total_inactive_file", "inactive_file"))
    cache = next((found for found in caches if found is not None), 0)
    entries = _at(stats, "blkio_stats", "io_service_bytes_recursive")
    moved = {"read": 0, "write": 0} if isinstance(entries, list) else {}
    for entry in entries if moved else ():
        operation = str(_at(entry, "op")).lower()  # the two cgroup versions differ in its case
        if operation in moved:
            moved[operation] += _number(entry, "value") or 0
    networks = _at(stats, "networks")
    cards = list(networks.values()) if isinstance(networks, Mapping) else []
    return Sample(
        time=str(stats.get("read", "")),
        cpu_ns=cpu_ns,
        throttled_ns=_number(stats, "cpu_stats", "throttling_data", "throttled_time"),
        memory_bytes=usage - cache if usage is not None and cache < usage else usage,
        memory_peak_bytes=_number(stats, "memory_stats", "max_usage") or None,
        memory_limit_bytes=_number(stats, "memory_stats", "limit"),
        pids=_number(stats, "pids_stats", "current"),
        read_bytes=moved.get("read"),
        write_bytes=moved.get("write"),
        received_bytes=sum(_number(card, "rx_bytes") or 0 for card in cards) if cards else None,
        sent_bytes=sum(_number(card, "tx_bytes") or 0 for card in cards) if cards else None,
    )


def _at(value: Any, *path: str) -> Any:
    """What is at a path of keys; None where there is none."""
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _number(value: Any, *path: str) -> int | None:
    found = _at(value, *path)
    return found if isinstance(found, int) and not isinstance(found, bool) else None
