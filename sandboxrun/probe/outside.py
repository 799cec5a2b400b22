"""What the host shows of a running container, check by check, as text of its kernel; and what the engine shows of it,
option by option. Pure.

Every process of the container is looked at, one that came in later (an exec) like the first. A limit that is tighter
than declared holds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import reduce
from operator import or_
from typing import Any

from sandboxrun.backend.base import Accounts, EngineTerms
from sandboxrun.data import Data
from sandboxrun.errors import few, shown
from sandboxrun.plan.changes import Difference
from sandboxrun.probe import filesystem
from sandboxrun.probe.privilege import allowed, names
from sandboxrun.probe.verdicts import (
    GVISOR,
    NOTHING,
    Answer,
    Comparison,
    Finding,
    bits,
    every,
    first_number,
    mounted_at,
    quota,
)
from sandboxrun.spec import forms
from sandboxrun.spec.options import INIT_AT
from sandboxrun.spec.privilege import DEFAULT_CAPABILITIES
from sandboxrun.spec.spec import SandboxSpec
from sandboxrun.spec.types import format_size, freeze

# -- What the host shows of a running container, as text of its kernel: the types, and how the text is read

NAMESPACES = ("pid", "mnt", "net", "ipc", "uts", "cgroup")
SETS = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")


class Process(Data):
    """One process: the fields of its status, and where its namespace links lead (`net:[4026531840]`), by kind."""

    pid: int
    status: Mapping[str, str]
    namespaces: Mapping[str, str]

    @property
    def name(self) -> str:
        """What it calls itself, with its number on the host."""
        return f"{self.status.get('Name', '?')} ({self.pid})"

    def ids(self, field: str) -> tuple[int, ...]:
        """The numbers of `Uid`, `Gid` or `Groups`."""
        return tuple(int(word) for word in self.status.get(field, "").split() if word.isdigit())


class MountLine(Data):
    """One line of mountinfo. `root` is what of the filesystem is mounted, `peers` its `shared:1 master:2` fields,
    `system` the options of the filesystem itself."""

    target: str
    root: str
    options: frozenset[str]
    peers: tuple[str, ...]
    type: str
    system: frozenset[str] = frozenset()

    @property
    def writable(self) -> bool:
        """Whether this mount can be written to."""
        return "ro" not in self.options


class Outside(Data):
    """A container as the host sees it. The first process is the engine's own (`State.Pid`).

    `host` are the namespaces that are not the sandbox's to have, by whom they belong to; `cgroup` the texts of its
    cgroup's files by name; `present` those of the paths to be masked that this host has; `kept` its mounts, writable as
    they are, whose files are of users that it is none of; `unread` what could not be read, with the reason.
    """

    processes: tuple[Process, ...] = ()
    host: Mapping[str, str] = freeze({})
    limits: Mapping[str, tuple[int, int]] = freeze({})  # -1 is unlimited
    mounts: tuple[MountLine, ...] = ()
    cgroup_version: int = 2
    cgroup: Mapping[str, str] = freeze({})
    interfaces: tuple[str, ...] = ()
    oom_score_adj: int | None = None
    uid_map: str = ""
    gid_map: str = ""
    present: frozenset[str] = frozenset()
    kept: frozenset[str] = frozenset()
    unread: Mapping[str, str] = freeze({})


def read_status(text: str) -> Mapping[str, str]:
    """The fields of /proc/<pid>/status. The kernel escapes line ends in a name, so every line is the kernel's."""
    pairs = (line.partition(":") for line in text.split("\n") if ":" in line)
    return freeze({name: value.strip() for name, _, value in pairs})


# What /proc/<pid>/limits calls the ulimits.
_LIMITS = {
    f"Max {title}": name
    for title, _, name in (
        pair.partition("=")
        for pair in (
            "cpu time=cpu,file size=fsize,data size=data,stack size=stack,core file size=core,resident set=rss,"
            "processes=nproc,open files=nofile,locked memory=memlock,file locks=locks,pending signals=sigpending,"
            "msgqueue size=msgqueue,nice priority=nice,realtime priority=rtprio,realtime timeout=rttime"
        ).split(",")
    )
}


def read_limits(text: str) -> Mapping[str, tuple[int, int]]:
    """/proc/<pid>/limits as (soft, hard) by a ulimit's name; -1 is unlimited."""
    found = {}
    for title, name in _LIMITS.items():
        for line in text.split("\n"):
            words = line.removeprefix(title).split()
            if line.startswith(f"{title} ") and len(words) >= 2:
                soft, hard = (-1 if word == "unlimited" else int(word) for word in words[:2])
                found[name] = (soft, hard)
    return freeze(found)


def read_mounts(text: str) -> tuple[MountLine, ...]:
    """/proc/<pid>/mountinfo. Lines that are not in its form are left out: there are none."""
    found = []
    for line in text.split("\n"):
        before, dash, after = line.partition(" - ")
        fields, kind = before.split(" "), after.split(" ")
        if dash and len(fields) >= 6 and len(kind) >= 2:
            found.append(
                MountLine(
                    target=mounted_at(fields[4]),
                    root=mounted_at(fields[3]),
                    options=frozenset(fields[5].split(",")),
                    peers=tuple(fields[6:]),
                    type=kind[0],
                    system=frozenset(kind[2].split(",")) if len(kind) > 2 else frozenset(),
                )
            )
    return tuple(found)


def read_cgroups(text: str) -> Mapping[str, str]:
    """/proc/<pid>/cgroup: the path by controller; "" is the unified hierarchy's."""
    found = {}
    for line in text.split("\n"):
        _, colon, rest = line.partition(":")
        names, colon, path = rest.partition(":")
        if colon:
            found.update(dict.fromkeys(names.split(","), path))
    return freeze(found)


def read_interfaces(text: str) -> tuple[str, ...]:
    """The names in /proc/<pid>/net/dev."""
    return tuple(line.partition(":")[0].strip() for line in text.split("\n") if ":" in line)


def inside(number: int, id_map: str) -> int | None:
    """An id of the host as the sandbox knows it, by its uid_map or gid_map; None where it has none for it."""
    for line in id_map.split("\n"):
        words = line.split()
        if len(words) == 3 and all(word.isdigit() for word in words):
            first, host, count = map(int, words)
            if host <= number < host + count:
                return first + number - host
    return None


def listed(words: Iterable[str], most: int = 8) -> str:
    """Some words, and how many more there are."""
    return few(dict.fromkeys(words), most)


# -- How one thing is looked at from outside: what a check is given, what it answers, and how answers become …

SENTRY = "the runtime's own kernel answers in there; its processes on the host are not the sandbox's"


class Looked(Data):
    """What a check is given. `devices` are the numbers of the declared ones (`c 10:229`), `volumes` the paths that the
    image declares as volumes."""

    spec: SandboxSpec
    outside: Outside
    accounts: Accounts | None = None
    devices: frozenset[str] = frozenset()
    volumes: frozenset[str] = frozenset()


class Check(Data, kw_only=False):
    """One thing that is looked at. `parts` are what it reads, by their names in `Outside.unread`; `kernel`: it reads
    what the host's kernel says of the processes, which means nothing where another kernel runs them. `look` gives the
    answer, or as a text why it does not apply."""

    id: str
    title: str
    parts: tuple[str, ...]
    look: Callable[[Looked], Answer]
    kernel: bool = True


def findings(
    sandbox: str, looked: Looked, checks: Iterable[Check], fields: Mapping[str, str] = NOTHING
) -> tuple[Finding, ...]:
    """One finding a check, in their order; `fields` are the engine's own names of the checks."""
    return tuple(
        Finding.of(sandbox, check.id, check.title, fields.get(check.id, ""), _answer(looked, check)) for check in checks
    )


def _answer(looked: Looked, check: Check) -> Answer:
    if check.kernel and (looked.spec.runtime or "").startswith(GVISOR):
        return SENTRY
    unread = [looked.outside.unread[part] for part in check.parts if part in looked.outside.unread]
    if "processes" in check.parts and not looked.outside.processes:
        unread.append("no process of it was seen")
    return Comparison(seen="not read", note=unread[0]) if unread else check.look(looked)


# -- What the engine shows of a running sandbox, option by option, against what is declared. Pure

_LONGEST = 300
DRIFT = "changed on the engine since it was applied: apply puts it right"
STALE = "the profile has changed since it was applied: apply brings it in line"


def options(
    sandbox: str,
    differences: Iterable[Difference],
    *,
    applied: bool,
    terms: EngineTerms,
    sensitive: frozenset[str] = frozenset(),
) -> tuple[Finding, ...]:
    """A finding for each option that reaches the engine and differs; one for all of them where none does. `applied`:
    whether it is known what was asked when the sandbox was made, so that drift differs from a changed profile."""

    def short(value: Any) -> str:
        text = shown(value, sensitive)
        return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"

    found = []
    for one in differences:
        if one.key in terms.options:
            note = DRIFT if one.drift or not applied else STALE
            answer = Comparison(short(one.after), short(one.before), False, note)
            title = f"{one.key} is as declared"
            found.append(Finding.of(sandbox, f"option {one.key}", title, terms.options[one.key], answer))
    if not found:
        answer = Comparison("as declared", f"{terms.shown} options as declared", True)
        title = "the engine shows every option as declared"
        found = [Finding.of(sandbox, "options", title, terms.checks.get("options", ""), answer)]
    return tuple(found)


# -- Processes: who they are, what they may, what they see

OPEN = "declared open"
_UNKNOWN_USER = "the declared user's number could not be looked up"


def user(looked: Looked) -> Answer:
    """All four user and group ids of every process."""
    accounts, outside = looked.accounts, looked.outside
    if accounts is None:
        return Comparison(looked.spec.user, note=_UNKNOWN_USER)
    wanted = {(accounts.uid, accounts.gid)}
    seen = {
        (inside(uid, outside.uid_map), inside(gid, outside.gid_map))
        for process in outside.processes
        for uid, gid in zip(process.ids("Uid"), process.ids("Gid"), strict=False)
    }
    complete = all(len(p.ids("Uid")) == len(p.ids("Gid")) == 4 for p in outside.processes)
    others = [p.name for p in outside.processes if set(p.ids("Uid")) != set(outside.processes[0].ids("Uid"))]
    return Comparison(
        expected=f"{accounts.uid}:{accounts.gid}",
        seen=listed(sorted(f"{'?' if u is None else u}:{'?' if g is None else g}" for u, g in seen)) or "nothing",
        holds=complete and seen == wanted,
        note=f"{OPEN}: root" if accounts.uid == 0 else f"also {listed(others)}" if others else "",
    )


def groups(looked: Looked) -> Answer:
    """The supplementary groups: the user's own, and those that the profile or the image's /etc/group give."""
    accounts, outside = looked.accounts, looked.outside
    if accounts is None:
        return Comparison(note=_UNKNOWN_USER)
    seen = {inside(gid, outside.gid_map) for process in outside.processes for gid in process.ids("Groups")}
    most = {accounts.gid, *accounts.groups}
    return Comparison(
        expected=f"only {listed(map(str, sorted(most)))}",
        seen=listed(sorted("?" if gid is None else str(gid) for gid in seen)) or "none",
        holds=seen <= most,
        note=f"{OPEN}: {listed(looked.spec.group_add)}" if looked.spec.group_add else "",
    )


def capabilities(looked: Looked) -> Answer:
    """No set of any process has more than the profile leaves."""
    most = allowed(looked.spec.cap_add, looked.spec.cap_drop)
    sets = [bits(process.status.get(field, "")) for process in looked.outside.processes for field in SETS]
    held = reduce(or_, (one or 0 for one in sets), 0)
    opened = [f"+{name}" for name in looked.spec.cap_add]
    if "ALL" not in looked.spec.cap_drop:
        opened += [name for name in sorted(DEFAULT_CAPABILITIES) if name not in looked.spec.cap_drop]
    return Comparison(
        expected=f"at most {listed(names(most), 16)}" if most else "none",
        seen=listed(names(held), 16) or "none",
        holds=every(None if one is None else not one & ~most for one in sets),
        note=f"{OPEN}: {listed(opened, 16)}" if opened else "",
    )


def no_new_privileges(looked: Looked) -> Answer:
    """No process can gain any by executing a file."""
    return _flag(looked, "NoNewPrivs", "1", "1", looked.spec.security_opt.get("no-new-privileges") != "true")


def seccomp(looked: Looked) -> Answer:
    """A filter is on every process. What it holds only a probe from inside can tell."""
    return _flag(looked, "Seccomp", "2", "2 (filter)", looked.spec.security_opt.get("seccomp") == "unconfined")


def _flag(looked: Looked, field: str, wanted: str, expected: str, opened: bool) -> Comparison:
    """A field of every process's status."""
    processes = looked.outside.processes
    seen = listed(sorted({process.status.get(field, "?") for process in processes}))
    if opened:
        return Comparison(expected="off", seen=seen, holds=True, note=f"{OPEN}: security_opt")
    without = [process.name for process in processes if process.status.get(field) != wanted]
    note = f"not so: {listed(without)}" if without else ""
    return Comparison(expected=expected, seen=seen, holds=not without, note=note)


def namespaces(looked: Looked) -> Answer:
    """None is shared with the host or with another sandbox."""
    shared, missing = [], []
    for process in looked.outside.processes:
        for kind in NAMESPACES:
            link = process.namespaces.get(kind)
            if link is None:
                missing.append(kind)
            elif link in looked.outside.host:
                shared.append(f"{kind} of {looked.outside.host[link]}")
    expected = f"its own {', '.join(NAMESPACES)}"
    if shared:
        return Comparison(expected=expected, seen=f"shared: {listed(shared)}", holds=False)
    if missing:
        return Comparison(expected=expected, note=f"unknown: {listed(missing)}")
    return Comparison(expected=expected, seen="its own", holds=True)


# -- Limits: the files of its cgroup, of version 1 and 2, and its ulimits

_NO_LIMIT = "no limit"
_ROUNDED = 1e-5  # of CPUs: the kernel counts whole microseconds of a tenth of a second
# What every container may have: null, zero, full, random, urandom, tty, console, ptmx, pts, and net/tun by older runc.
_COMMON = frozenset({"1:3", "1:5", "1:7", "1:8", "1:9", "5:0", "5:1", "5:2", "136:*", "10:200"})


def memory(looked: Looked) -> Answer:
    """The hard limit."""
    return _most(looked, "memory", looked.spec.mem_limit or -1, format_size)


def swap(looked: Looked) -> Answer:
    """What it may swap: version 1 counts memory and swap together, version 2 swap alone."""
    spec = looked.spec
    both = spec.mem_limit or -1 if spec.memswap_limit is None else spec.memswap_limit or -1
    alone = looked.outside.cgroup_version == 2
    return _most(looked, "swap", both - spec.mem_limit if alone and both > 0 else both, format_size)


def pids(looked: Looked) -> Answer:
    """Processes and threads, in all."""
    return _most(looked, "pids", looked.spec.pids_limit or -1, str)


def cpus(looked: Looked) -> Answer:
    """CPU time: how much of each period."""
    return _most(looked, "cpu", looked.spec.cpus or -1, "{:g}".format)


def _most(looked: Looked, name: str, declared: float, show: Callable[[Any], str]) -> Comparison:
    found = (quota if name == "cpu" else first_number)(looked.outside.cgroup.get(name, ""))
    return Comparison(
        expected=_NO_LIMIT if declared < 0 else show(declared),
        seen="unknown" if found is None else _NO_LIMIT if found < 0 else show(found),
        holds=None if found is None else declared < 0 or 0 <= found <= declared + _ROUNDED,
        note=f"{OPEN}: {_NO_LIMIT}" if declared < 0 else "",
    )


def cpuset(looked: Looked) -> Answer:
    """The CPUs it may run on."""
    if looked.spec.cpuset is None:
        return "the profile binds it to no CPUs"
    declared, found = looked.spec.cpuset, looked.outside.cgroup.get("cpuset", "").strip()
    if not found:
        return Comparison(expected=declared, seen="unknown")
    return Comparison(expected=declared, seen=found, holds=forms.cpu_numbers(found) <= forms.cpu_numbers(declared))


def devices(looked: Looked) -> Answer:
    """The devices that it may open, beside those that every container has."""
    if looked.outside.cgroup_version == 2:
        return "cgroup v2 keeps them in a program of the kernel, not in a file: the probe from inside tries them"
    text, extra = looked.outside.cgroup.get("devices", ""), []
    for line in text.split("\n"):
        kind, _, rest = line.partition(" ")
        number, _, access = rest.partition(" ")
        known = number in _COMMON or f"{kind} {number}" in looked.devices
        if kind and set(access) & set("rw") and not (kind in ("c", "b") and known):
            extra.append(line.strip())
    declared = [device.source for device in looked.spec.devices]
    return Comparison(
        expected=f"the common ones and {listed(declared)}" if declared else "the common ones",
        seen=listed(extra) if extra else "no other" if text else "unknown",
        holds=not extra if text else None,
        note=f"{OPEN}: {listed(declared)}" if declared else "",
    )


def ulimits(looked: Looked) -> Answer:
    """Each declared limit of the first process; processes can only lower them."""
    declared = {name: (limit.soft, limit.hard) for name, limit in looked.spec.ulimits.items()}
    if not declared:
        return "the profile sets none"
    found = {name: looked.outside.limits.get(name) for name in declared}
    wide = [
        name
        for name, limit in found.items()
        if limit is not None
        and not all(most < 0 or 0 <= value <= most for value, most in zip(limit, declared[name], strict=True))
    ]

    def shown(name: str, limit: tuple[int, int] | None) -> str:
        words = [_NO_LIMIT if value < 0 else str(value) for value in limit or ()]
        return f"{name} {' to '.join(dict.fromkeys(words)) or 'unknown'}"

    return Comparison(
        expected=listed(shown(name, limit) for name, limit in declared.items()),
        seen=listed(shown(name, limit) for name, limit in found.items()),
        holds=False if wide else None if None in found.values() else True,
    )


def oom(looked: Looked) -> Answer:
    """Not spared when the host runs out of memory."""
    declared, found = looked.spec.oom_score_adj, looked.outside.oom_score_adj
    return Comparison(
        expected=f"at least {declared}",
        seen="unknown" if found is None else str(found),
        holds=None if found is None else found >= declared,
    )


# -- Filesystem and network: its mounts, its interfaces

# Paths that the engine hides or makes read-only, where the host has them.
MASKED = ("/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/sched_debug", "/proc/scsi")
MASKED_SYS = ("/sys/firmware",)
READ_ONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")
# The engine's init is /sbin/docker-init, which is elsewhere where the image's /sbin is a link.
_INIT = ("/sbin/docker-init", "/usr/sbin/docker-init", "/usr/bin/docker-init", INIT_AT)
_ENGINES_OWN = frozenset(
    "/ /proc /dev /dev/pts /dev/mqueue /dev/shm /dev/console /sys /dev/init /run/podman-init /run/.containerenv "
    "/etc/resolv.conf /etc/hostname /etc/hosts".split()
) | {*_INIT}
_READ_ONLY_OWN = (*_INIT, "/sys", "/dev/init", "/run/podman-init")
# Tunnels that the kernel puts into every network namespace once their modules are loaded; they are down.
_FALLBACK = frozenset(
    "tunl0 gre0 gretap0 erspan0 ip_vti0 ip6_vti0 sit0 ip6tnl0 ip6gre0 ip6gretap0 ip6erspan0 teql0".split()
)


def root(looked: Looked) -> Answer:
    """The root filesystem is mounted read-only where that is declared."""
    roots = [mount for mount in looked.outside.mounts if mount.target == "/"]
    if not roots:
        return Comparison(seen="unknown")
    seen = "writable" if roots[-1].writable else "read-only"
    if not looked.spec.read_only:
        return Comparison(expected="writable", seen=seen, holds=True, note=f"{OPEN}: read_only")
    return Comparison(expected="read-only", seen=seen, holds=not roots[-1].writable)


def mounts(looked: Looked) -> Answer:
    """Nothing is mounted but what is declared and what every container has; writable only where declared so."""
    declared = _declared(looked)
    found = {mount.target: mount for mount in looked.outside.mounts if not _engines_own(mount)}
    links = _moved(declared, found)
    wrong = []
    for target, mount in found.items():
        path = links.get(target, target)
        # What protects a part of something declared is read-only.
        part = not mount.writable and any(path.startswith(f"{one}/") for one in declared)
        if not (declared[path] or not mount.writable if path in declared else part):
            wrong.append(_said(mount))
    # The engine's own program, the kernel's settings, and the limits themselves are never writable.
    own = [m for m in looked.outside.mounts if m.target in _READ_ONLY_OWN or m.type in ("cgroup", "cgroup2")]
    wrong += [_said(mount) for mount in own if mount.writable and mount.target not in looked.outside.kept]
    absent = [target for target in declared if target not in found and target not in links.values()]
    wrong += [f"{target} (not there)" for target in absent if target not in looked.volumes]
    return Comparison(
        expected=listed(f"{path}{'' if writable else ' (read-only)'}" for path, writable in declared.items()) or "none",
        seen=listed(wrong) if wrong else "these and no other",
        holds=not wrong if looked.outside.mounts else None,
    )


def _declared(looked: Looked) -> Mapping[str, bool]:
    """Where something is to be mounted, and whether it may be written to."""
    found = filesystem.declared(looked.spec)
    found |= {"/run/secrets": False} if looked.spec.secrets else {}
    found |= {"/run/configs": False} if looked.spec.configs else {}
    return dict(sorted({**dict.fromkeys((path.rstrip("/") for path in looked.volumes), True), **found}.items()))


def _engines_own(mount: MountLine) -> bool:
    """What it mounts into every container; a device file of its own, as where devices can't be made, is no folder of
    the host's."""
    target, device = mount.target, mount.type in ("devtmpfs", "tmpfs") and mount.root != "/"
    return target in _ENGINES_OWN or target.startswith(("/proc/", "/sys/")) or (target.startswith("/dev/") and device)


def _moved(declared: Mapping[str, bool], found: Mapping[str, MountLine]) -> Mapping[str, str]:
    """Mounts at the target of an image's symlink in the declared path (/var/run to /run), by that target."""
    missing = [path for path in declared if path not in found]
    moved: dict[str, str] = {}
    for target in found:
        same = [path for path in missing if path.rpartition("/")[2] == target.rpartition("/")[2]]
        if target not in declared and len(same) == 1:
            moved[target] = same[0]
            missing.remove(same[0])
    return moved


def _said(mount: MountLine) -> str:
    return f"{mount.target} ({'writable' if mount.writable else 'read-only'}, {mount.type})"


def propagation(looked: Looked) -> Answer:
    """What is mounted inside never appears on the host."""
    shared = [m.target for m in looked.outside.mounts if any(peer.startswith("shared:") for peer in m.peers)]
    return Comparison(
        expected="none shared",
        seen=f"shared: {listed(shared)}" if shared else "none shared",
        holds=not shared if looked.outside.mounts else None,
    )


def masked(looked: Looked) -> Answer:
    """The kernel's own files that tell of the host, or change it."""
    over = {mount.target: mount for mount in looked.outside.mounts}
    hidden, closed = (  # what is mounted over each of those that this host has
        {path: over.get(path) for path in paths if path in looked.outside.present}
        for paths in ((*MASKED, *MASKED_SYS), READ_ONLY)
    )
    bare = [path for path, mount in hidden.items() if mount is None]
    bare += [f"{path} (writable)" for path, mount in closed.items() if mount is None or mount.writable]
    return Comparison(
        expected="hidden or read-only",
        seen=f"open: {listed(bare)}" if bare else f"{len(hidden)} hidden, {len(closed)} read-only",
        holds=not bare if looked.outside.mounts else None,
    )


def network(looked: Looked) -> Answer:
    """No interface where it is to have none, and one where it has a gateway."""
    spec, outside = looked.spec, looked.outside
    interfaces = [name for name in outside.interfaces if name not in _FALLBACK]
    if spec.network_mode == "none" or (spec.egress is not None and spec.egress.mode == "none"):
        others = [name for name in interfaces if name != "lo"]
        shown = listed(interfaces) or "nothing"
        return Comparison(expected="lo alone", seen=shown, holds=not others if interfaces else None)
    if spec.egress is None or not spec.egress.has_gateway:
        return "its networks determine what it reaches"
    # Where a default route of it leads nobody answers: that is its network's seal, which is looked at by itself.
    return Comparison(
        expected="lo and one other",
        seen=listed(interfaces) or "nothing",
        holds=len(interfaces) <= 2 if interfaces else None,
    )


PROCESS_CHECKS = (
    Check("user", "runs as the declared user", ("processes", "maps"), user),
    Check("groups", "has no group beyond the declared ones", ("processes", "maps"), groups),
    Check("capabilities", "has no capability beyond the declared ones", ("processes",), capabilities),
    Check("no-new-privileges", "gains no privilege by executing a file", ("processes",), no_new_privileges),
    Check("seccomp", "system calls are filtered", ("processes",), seccomp),
    Check("namespaces", "shares no namespace", ("processes", "namespaces"), namespaces),
)
CHECKS = (
    *PROCESS_CHECKS,
    Check("memory-limit", "memory is limited", ("cgroup", "cgroup memory"), memory, kernel=False),
    Check("swap-limit", "swap is limited", ("cgroup", "cgroup swap"), swap, kernel=False),
    Check("pids-limit", "processes are limited", ("cgroup", "cgroup pids"), pids, kernel=False),
    Check("cpu-quota", "CPU time is limited", ("cgroup", "cgroup cpu"), cpus, kernel=False),
    Check("cpuset", "runs on the declared CPUs", ("cgroup", "cgroup cpuset"), cpuset, kernel=False),
    Check("devices", "opens no device beyond the declared ones", ("cgroup", "cgroup devices"), devices),
    Check("ulimits", "each process is limited", ("limits",), ulimits),
    Check("oom-score", "is not spared when memory runs out", ("oom_score_adj",), oom),
    Check("root", "the root filesystem is read-only", ("mounts",), root),
    Check("mounts", "only what is declared is mounted", ("mounts",), mounts),
    Check("propagation", "no mount is shared with the host", ("mounts",), propagation),
    Check("masked-paths", "the kernel's files are hidden", ("mounts",), masked),
    Check("network", "is on no network but the declared ones", ("network",), network),
)
