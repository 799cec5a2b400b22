"""Reads what the host's kernel says of a running container: /proc and cgroup files, bounded.

Owns the opening of those files, and the proof that they are the container's. Nothing in the container is entered or
asked; what could not be read is told by part, with the reason. No decisions.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import attrs

from sandboxrun.engine.client import Engine
from sandboxrun.model.types import freeze
from sandboxrun.probe.outside import (
    NAMESPACES,
    MountLine,
    Outside,
    Process,
    first_number,
    read_cgroups,
    read_interfaces,
    read_limits,
    read_mounts,
    read_status,
)
from sandboxrun.probe.outside_places import MASKED, MASKED_SYS, READ_ONLY

PROC = Path("/proc")
MOST_BYTES = 4 << 20
MOST_PROCESSES = 4096
PATIENCE = 5.0  # seconds that a runtime may take to become the sandbox's command
_RUNTIMES = ("runc:", "crun")  # what it calls itself until then; one that goes on calling itself so only waits
_EVERYTHING = (
    *("processes", "namespaces", "maps", "limits", "mounts", "network", "oom_score_adj", "cgroup"),
)  # what checks read, by the names they have in `Outside.unread`
_GONE = (FileNotFoundError, ProcessLookupError)


def unreadable(reason: str) -> Outside:
    """Nothing could be read, all for one reason."""
    return Outside(unread=freeze(dict.fromkeys(_EVERYTHING, reason)))


def look(engine: Engine, inspect: Mapping[str, Any], others: Mapping[str, str]) -> Outside:
    """What this host shows of the container. `others` are namespaces of other sandboxes, by whom they belong to.

    Does not raise: what can't be read, or is not certainly the container's, stands in `unread`.
    """
    if not engine.shares_filesystem():
        return unreadable(f"the engine's processes can't be seen from here: {engine.filesystem_reason()}")
    pid = int((inspect.get("State") or {}).get("Pid") or 0)
    container = str(inspect["Id"])
    if pid <= 0:
        return unreadable("the engine tells no process of it")
    try:
        cgroups = read_cgroups(_read(PROC / str(pid) / "cgroup"))
    except OSError as error:
        return unreadable(_why(error))
    if not _is_in(container, cgroups):
        return unreadable(f"process {pid}, which the engine tells, is in no cgroup of the container here")
    _settle(pid)
    found = _Reading(container, pid, cgroups, others)
    return found.outside(_host_namespaces(engine))


def _settle(pid: int) -> None:
    """Wait until the runtime has made way for the sandbox's command: it gives up its rights last of all."""
    until = monotonic() + PATIENCE
    with contextlib.suppress(OSError):
        while read_status(_read(PROC / str(pid) / "status")).get("Name", "").startswith(_RUNTIMES):
            if monotonic() > until:
                return  # then that is what runs there
            sleep(0.02)


def namespaces_of(pid: int) -> Mapping[str, str]:
    """Where a process's namespace links lead, by kind. Raises OSError."""
    return freeze({kind: os.readlink(PROC / str(pid) / "ns" / kind) for kind in NAMESPACES})


def _host_namespaces(engine: Engine) -> Mapping[str, str]:
    """The namespaces that are the host's: this process's, the first process's and the engine's own."""
    found: dict[str, str] = {}
    for pid in (os.getpid(), 1, engine.transport.peer_pid() or 0):
        try:
            found |= dict.fromkeys(namespaces_of(pid).values(), "the host")
        except OSError:
            continue  # this process's own are always there; the others are mostly the same
    return found


def _is_in(container: str, cgroups: Mapping[str, str]) -> bool:
    return any(container in path for path in cgroups.values())


def _read(path: Path) -> str:
    with path.open("rb") as file:
        data = file.read(MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        raise OSError(f"{path} is longer than {MOST_BYTES} bytes")
    return data.decode("utf-8", "backslashreplace")


def _why(error: OSError) -> str:
    if isinstance(error, PermissionError):
        return "this user may not read it: run as root, or with the right to trace the engine's processes"
    if isinstance(error, _GONE):
        return "it ended while it was looked at"
    return str(error)


class _Reading:
    """One container being read. Each part by itself: what one can't be read for leaves the others standing."""

    def __init__(self, container: str, pid: int, cgroups: Mapping[str, str], others: Mapping[str, str]) -> None:
        self._container, self._pid, self._cgroups, self._others = container, pid, cgroups, others
        self._unread: dict[str, str] = {}
        self._hierarchies = _hierarchies()

    def outside(self, host: Mapping[str, str]) -> Outside:
        """All of it; the first process must still be the container's in the end, else nothing of it counts."""
        version = 1 if "memory" in self._cgroups else 2
        made = Outside(
            processes=tuple(self._part("processes", self._processes, ())),
            host=freeze({**self._others, **host}),
            limits=self._part("limits", lambda: read_limits(self._file("limits")), freeze({})),
            mounts=self._part("mounts", lambda: read_mounts(self._file("mountinfo")), ()),
            cgroup_version=version,
            cgroup=freeze(self._limits(version)),
            interfaces=self._part("network", lambda: read_interfaces(self._file("net/dev")), ()),
            oom_score_adj=self._part("oom_score_adj", lambda: first_number(self._file("oom_score_adj")), None),
            uid_map=self._part("maps", lambda: self._file("uid_map"), ""),
            gid_map=self._part("maps", lambda: self._file("gid_map"), ""),
            present=frozenset(path for path in (*MASKED, *MASKED_SYS, *READ_ONLY) if os.path.exists(path)),
        )
        try:
            still = _is_in(self._container, read_cgroups(self._file("cgroup")))
        except OSError as error:
            return unreadable(_why(error))
        if not still:
            return unreadable("it ended while it was looked at")
        return attrs.evolve(made, unread=freeze(self._unread))

    def _part(self, name: str, read: Callable[[], Any], nothing: Any) -> Any:
        try:
            return read()
        except (OSError, ValueError) as error:
            self._unread[name] = _why(error) if isinstance(error, OSError) else "the kernel's form of it is not known"
            return nothing

    def _file(self, name: str) -> str:
        return _read(PROC / str(self._pid) / name)

    # -- processes -------------------------------------------------------------------------------------------

    def _processes(self) -> list[Process]:
        """The first one first, then every other in its cgroup, those of an exec too."""
        first = self._process(self._pid)
        others = [pid for pid in self._pids() if pid != self._pid]
        if len(others) > MOST_PROCESSES:
            raise OSError(f"it has more than {MOST_PROCESSES} processes")
        found = [first]
        for pid in others:
            try:
                found.append(self._process(pid))
            except _GONE:
                continue
        return [process for process in found if process.status.get("State", "")[:1] not in ("Z", "X")]

    def _process(self, pid: int) -> Process:
        """Read, and only then looked at whose it is: a number may be another process's by now."""
        status = read_status(_read(PROC / str(pid) / "status"))
        try:
            namespaces = namespaces_of(pid)
        except _GONE:
            if status.get("State", "")[:1] not in ("Z", "X"):
                raise
            namespaces = freeze({})
        except OSError as error:
            self._unread["namespaces"] = _why(error)
            namespaces = freeze({})
        if not _is_in(self._container, read_cgroups(_read(PROC / str(pid) / "cgroup"))):
            raise ProcessLookupError(pid)
        return Process(pid=pid, status=status, namespaces=namespaces)

    def _pids(self) -> list[int]:
        """Every process of the container, by its cgroup and those below it."""
        for controller in ("pids", "memory", "devices", ""):
            folders = self._folders(controller)
            if folders:
                files = sorted(folders[0].rglob("cgroup.procs"))
                return [int(word) for file in files for word in _read(file).split() if word != "0"]
        raise OSError("its cgroup is not mounted here")

    # -- cgroup ----------------------------------------------------------------------------------------------

    def _folders(self, controller: str) -> list[Path]:
        """The folders of its cgroup: the container's own first, and those below it that lead to the first process."""
        path = self._cgroups.get(controller)
        for mount in self._hierarchies:
            named = mount.type == "cgroup2" if controller == "" else controller in mount.system
            below = _below(path or "", mount.root) if named else None
            if below is None:
                continue
            parts = below.split("/")
            own = next((n for n, part in enumerate(parts) if self._container in part), None)
            if own is not None:
                folders = [Path(mount.target, *parts[: n + 1]) for n in range(own, len(parts))]
                return [folder for folder in folders if folder.is_dir()]
        return []

    def _limits(self, version: int) -> Mapping[str, str]:
        """The texts of what limits it, in version 2's form where the versions differ."""
        found = {}
        for name, (controller, *files) in (_V1 if version == 1 else _V2).items():
            text = self._part(f"cgroup {name}", lambda c=controller, f=files: self._limit(c, f), "")  # type: ignore[misc]
            found[name] = text
        return found

    def _limit(self, controller: str, files: Iterable[str]) -> str:
        folders = self._folders(controller)
        if not folders:
            raise OSError("its cgroup is not mounted here")
        texts = [" ".join(_read(folder / file).strip() for file in files) for folder in folders]
        return next((text for text in texts if first_number(text) != -1), texts[0])


def _hierarchies() -> tuple[MountLine, ...]:
    try:
        mounts = read_mounts(_read(PROC / "self" / "mountinfo"))
    except OSError:
        return ()
    return tuple(mount for mount in mounts if mount.type in ("cgroup", "cgroup2"))


def _below(path: str, root: str) -> str | None:
    """A cgroup's path below the part of the hierarchy that is mounted."""
    if root == "/":
        return path.strip("/")
    return path.removeprefix(root).strip("/") if f"{path}/".startswith(f"{root}/") else None


# What limits it: controller, then the files whose texts are joined.
_V1 = {
    "memory": ("memory", "memory.limit_in_bytes"),
    "swap": ("memory", "memory.memsw.limit_in_bytes"),
    "pids": ("pids", "pids.max"),
    "cpu": ("cpu", "cpu.cfs_quota_us", "cpu.cfs_period_us"),
    "cpuset": ("cpuset", "cpuset.cpus"),
    "devices": ("devices", "devices.list"),
}
_V2 = {
    "memory": ("", "memory.max"),
    "swap": ("", "memory.swap.max"),
    "pids": ("", "pids.max"),
    "cpu": ("", "cpu.max"),
    "cpuset": ("", "cpuset.cpus"),
}


def device_numbers(paths: Iterable[str]) -> Iterator[str]:
    """The numbers of devices as a cgroup lists them: `c 10:229`. Those that are not there have none."""
    import stat

    for path in paths:
        try:
            found = os.stat(path)
        except OSError:
            continue
        kind = "b" if stat.S_ISBLK(found.st_mode) else "c"
        yield f"{kind} {os.major(found.st_rdev)}:{os.minor(found.st_rdev)}"
