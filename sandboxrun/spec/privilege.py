"""Which of two specs may do more: one partial order an axis, and which options each axis is made of.

Owns the orders. A change that no order can judge is MAYBE, which counts as wider. Pure. A test names an option that
belongs to no axis.
"""

from __future__ import annotations

import enum
import ipaddress
import json
import posixpath
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial, reduce
from operator import or_
from typing import Any

from sandboxrun.data import Data, json_as
from sandboxrun.spec import forms, seccomp
from sandboxrun.spec.forms import covers, image_parts
from sandboxrun.spec.option_types import NAMES, OPEN, OPEN_PORTS, Egress, options_of
from sandboxrun.spec.project import FileSpec, NetworkSpec, VolumeSpec
from sandboxrun.spec.records import FileRef, Lifetime, Mount
from sandboxrun.spec.spec import SandboxSpec
from sandboxrun.spec.types import format_duration, format_size, freeze, parse_size

INFINITE = float("inf")


class Way(enum.Enum):
    """How a change of one axis goes."""

    WIDENED = "WIDENED"
    MAYBE = "MAYBE"
    NARROWED = "NARROWED"
    UNCHANGED = "UNCHANGED"


class Step(Data, kw_only=False):
    """One difference: which way, where it is written, and in a sentence that goes on after the sandbox's name."""

    way: Way
    key: str
    witness: str
    item: str | None = None

    @property
    def state(self) -> tuple[str, str]:
        """The sentence as one of what is, not of what changes, and what was before, where it says so."""
        plain = self.witness.replace("may now ", "may ").replace("is now ", "is ").removeprefix("now ")
        clause, _, before = plain.partition(", was ")
        return clause, before


class Side(Data):
    """One of the two: a settled spec, and what its names stand for in its profile."""

    spec: SandboxSpec
    networks: Mapping[str, NetworkSpec] = freeze({})
    volumes: Mapping[str, VolumeSpec] = freeze({})
    secrets: Mapping[str, FileSpec] = freeze({})
    configs: Mapping[str, FileSpec] = freeze({})
    workspace: str = ""  # the directory behind a copied workspace
    project: str = ""  # whose volumes and networks they are; "" where only the options are compared


Compare = Callable[[Side, Side], Iterator[Step]]


class Axis(Data):
    """A part of what a sandbox may do."""

    name: str
    keys: tuple[str, ...]
    compare: Compare


# It may do more; it may do less; nobody can tell from the files. Each takes a key, a witness, and an item.
wider, narrower, maybe = (partial(Step, way) for way in (Way.WIDENED, Way.NARROWED, Way.MAYBE))


def _changed(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[str]:
    """The names whose values differ, sorted."""
    return (name for name in sorted({*before, *after}) if before.get(name) != after.get(name))


def _ordered(key: str, ranks: Sequence[Any], more: str, less: str = "", item: str | None = None) -> Iterator[Step]:
    """Anything with an order, switches too, by its rank before and after: what has more lets the sandbox do more."""
    old, new = ranks
    if old != new:
        yield wider(key, more, item) if new > old else narrower(key, less or more, item)


def _sets(key: str, values: Sequence[Iterable[str]], more: str, less: str) -> Iterator[Step]:
    """Sets, before and after; the sentences have a place for what was added or removed."""
    before, after = map(set, values)
    yield from (wider(key, more.format(one), one) for one in sorted(after - before))
    yield from (narrower(key, less.format(one), one) for one in sorted(before - after))


def _amounts(
    key: str,
    values: Sequence[float],
    what: str,
    show: Callable[[int], str] = str,
    item: str | None = None,
) -> Iterator[Step]:
    """Limits, before and after: more is wider, and infinite the widest."""
    before, after = (
        "unlimited" if value == INFINITE else show(int(value)) if value == int(value) else str(value)
        for value in values
    )
    use = f"use {what}: {after}, was {before}"
    yield from _ordered(key, values, f"may now {use}", f"may only {use}", item)


# -- privilege

# What engines give where nothing is dropped.
DEFAULT_CAPABILITIES = frozenset(
    """AUDIT_WRITE CHOWN DAC_OVERRIDE FOWNER FSETID KILL MKNOD NET_BIND_SERVICE NET_RAW SETFCAP SETGID SETPCAP SETUID
    SYS_CHROOT""".split()
)


def capabilities(add: Iterable[str], drop: Iterable[str]) -> frozenset[str]:
    """The most that processes with these options may hold, as the engine works it out."""
    added, dropped = frozenset(add), frozenset(drop)
    if "ALL" in added:
        return frozenset(NAMES) - dropped
    return (frozenset() if "ALL" in dropped else DEFAULT_CAPABILITIES - dropped) | added


def _capabilities(old: Side, new: Side) -> Iterator[Step]:
    before, after = (capabilities(spec.cap_add, spec.cap_drop) for spec in (old.spec, new.spec))
    cause = "cap_add" if old.spec.cap_add != new.spec.cap_add else "cap_drop"
    if after - before:
        written = next((one for one in new.spec.cap_add if one in after - before), None)
        yield wider(cause, f"now has the capabilities {', '.join(sorted(after - before))}", written)
    if before - after:
        yield narrower(cause, f"no longer has the capabilities {', '.join(sorted(before - after))}")


# Of an action that is neither denying nor allowing (a tracer or a listener decides) nobody can tell.
_DENYING = ("SCMP_ACT_ERRNO", "SCMP_ACT_KILL", "SCMP_ACT_KILL_THREAD", "SCMP_ACT_KILL_PROCESS", "SCMP_ACT_TRAP")


def _rules(value: str) -> dict[str, set[str]] | None:
    """The calls that a seccomp profile allows, each with its conditions ("" is none); None where it allows by default
    or cannot be read."""
    profile = json_as(dict, seccomp.to_engine(value) or "" if value in seccomp.NAMES else value)
    if profile.get("defaultAction") not in _DENYING:
        return None
    allowed: dict[str, set[str]] = {}
    rows = profile.get("syscalls")
    for row in rows if isinstance(rows, list) else ():
        if not isinstance(row, dict) or row.get("action") in _DENYING:
            continue
        names = row.get("names") or [row.get("name")]
        if row.get("action") not in ("SCMP_ACT_ALLOW", "SCMP_ACT_LOG") or not isinstance(names, list):
            return None
        conditions = {name: row[name] for name in ("args", "includes", "excludes") if row.get(name)}
        text = json.dumps(conditions, sort_keys=True) if conditions else ""
        for name in names:
            allowed.setdefault(str(name), set()).add(text)
    return allowed


def _calls(old: Side, new: Side) -> Iterator[Step]:
    before, after = (side.spec.security_opt.get("seccomp", seccomp.OWN) for side in (old, new))
    if before == after:
        return
    order = (seccomp.OWN, seccomp.DEBUG, seccomp.ENGINE, seccomp.UNCONFINED)
    if (before in order and after in order) or seccomp.UNCONFINED in (before, after):
        known = [value if value in order else "a profile of its own" for value in (before, after)]
        ranks = [order.index(value) if value in order else 0 for value in (before, after)]  # its own: beside the widest
        told = f"now has the seccomp profile {known[1]}, was {known[0]}"
        yield from _ordered("security_opt", ranks, told, item="seccomp")
        return
    one, other = _rules(before), _rules(after)
    if one is None or other is None:
        yield maybe("security_opt", "now has another seccomp profile", "seccomp")
        return
    added = sorted(name for name, rules in other.items() if not _covered(rules, one.get(name)))
    removed = sorted(name for name, rules in one.items() if not _covered(rules, other.get(name)))
    if added:
        yield wider("security_opt", f"may now call {', '.join(added)}", "seccomp")
    if removed:
        yield narrower("security_opt", f"may no longer call {', '.join(removed)}", "seccomp")


def _covered(rules: set[str], by: set[str] | None) -> bool:
    return by is not None and ("" in by or rules <= by)


def _confinement(old: Side, new: Side) -> Iterator[Step]:
    before, after = old.spec.security_opt, new.spec.security_opt
    nnp = "no-new-privileges"
    if before.get(nnp) != after.get(nnp):
        less, more = "gets no more privileges from setuid programs", "may now get root from setuid programs"
        yield narrower("security_opt", less, nnp) if after.get(nnp) == "true" else wider("security_opt", more, nnp)
    for name, off in (("apparmor", "unconfined"), ("label", "disable")):
        if before.get(name) != after.get(name):
            words = "AppArmor profile" if name == "apparmor" else "SELinux label"
            if after.get(name) == off:
                yield wider("security_opt", f"is no longer confined by an {words}", name)
            elif before.get(name) == off:
                yield narrower("security_opt", f"is confined by an {words}", name)
            else:
                yield maybe("security_opt", f"is confined by another {words}", name)
    for name in _changed(before, after):
        if name.startswith("label="):
            yield maybe("security_opt", f"{name} is now {after.get(name) or 'not set'}", name)


def _user(old: Side, new: Side) -> Iterator[Step]:
    before, after = old.spec.user, new.spec.user
    if before == after:
        return
    root = [
        any(part == "root" or (part.isdecimal() and int(part) == 0) for part in user.split(":"))
        for user in (before, after)
    ]
    if root == [False, True]:
        yield wider("user", f"now runs as root ({after})")
    elif root == [True, False]:
        yield narrower("user", f"no longer runs as root, but as {after or 'its image says'}")
    elif not before:  # which may be root
        yield narrower("user", f"runs as {after}: its image no longer decides")
    elif not after:
        yield wider("user", f"now runs as its image says, which may be root, was {before}")
    else:
        yield maybe("user", f"now runs as {after}, was {before}: files of that user are its own")


def _groups(old: Side, new: Side) -> Iterator[Step]:
    added = (old.spec.group_add, new.spec.group_add)
    yield from _sets("group_add", added, "is now in the group {}", "left the group {}")


def _namespaces(old: Side, new: Side) -> Iterator[Step]:
    host = [side.spec.userns_mode == "host" for side in (old, new)]
    more, less = "no longer has the engine's user namespace", "has the engine's user namespace"
    yield from _ordered("userns_mode", host, more, less)
    before, after, order = old.spec.ipc, new.spec.ipc, ("none", "private", "shareable")
    if before != after:
        known = before in order and after in order
        step = maybe if not known else wider if order.index(after) > order.index(before) else narrower
        yield step("ipc", f"ipc is now {after}, was {before}")


def _values(key: str, what: str) -> Compare:
    """A mapping of which nobody can tell what a value means."""

    def compare(old: Side, new: Side) -> Iterator[Step]:
        after = getattr(new.spec, key)
        for name in _changed(getattr(old.spec, key), after):
            yield maybe(key, f"{what} {name} is now {after.get(name, 'not set')}", name)

    return compare


def _devices(old: Side, new: Side) -> Iterator[Step]:
    before = {device.source: set(device.permissions) for device in old.spec.devices}
    after = {device.source: set(device.permissions) for device in new.spec.devices}
    targets = {device.source: device.target for device in new.spec.devices}
    for source in sorted({*before, *after}):
        more = after.get(source, set()) - before.get(source, set())
        less = before.get(source, set()) - after.get(source, set())
        if more:
            yield wider("devices", f"may now use the device {source} ({''.join(sorted(more))})", targets.get(source))
        if less:
            yield narrower("devices", f"may no longer use the device {source} ({''.join(sorted(less))})")
    count = [INFINITE if side.spec.gpus == -1 else side.spec.gpus or 0 for side in (old, new)]
    yield from _amounts("gpus", count, "GPUs")


def _runtime(old: Side, new: Side) -> Iterator[Step]:
    before, after = old.spec.runtime, new.spec.runtime
    if before == after:
        return
    own_kernel = ("runsc", "kata", "kata-runtime", "io.containerd.kata.v2", "io.containerd.runsc.v1")
    if before in own_kernel and after not in own_kernel:
        yield wider("runtime", f"now talks to the host's kernel: the runtime is {after or 'the default'}, was {before}")
    elif after in own_kernel and before not in own_kernel:
        yield narrower("runtime", f"has a kernel of its own: the runtime is {after}")
    else:
        yield maybe("runtime", f"the runtime is now {after or 'the default'}, was {before or 'the default'}")


# -- files


def _root(old: Side, new: Side) -> Iterator[Step]:
    writable = (not old.spec.read_only, not new.spec.read_only)
    more, less = "may now write to its root filesystem", "may no longer write to its root filesystem"
    yield from _ordered("read_only", writable, more, less)


_MODES = ("", "copy", "ro", "rw")


def _normal(path: str) -> str:
    """A host path; one of the project begins with a dot, so that `.` is above `./data`."""
    plain = posixpath.normpath(path)
    return plain if plain == "." or plain.startswith(("/", "..", "~", "$")) else f"./{plain}"


def places(side: Side) -> Mapping[str, tuple[str, str, str | None]]:
    """What of the host it sees: path or volume → mode ("copy", "ro", "rw"), and where that is written."""
    spec, work = side.spec, side.spec.workspace
    seen = [
        (_place(side, mount), ("ro" if mount.read_only else "rw", "volumes", mount.target)) for mount in spec.volumes
    ]
    if work is not None:
        seen.append((_normal(side.workspace or work.source), (work.access, "workspace", "access")))
    found: dict[str, tuple[str, str, str | None]] = {}
    for source, entry in seen:
        if source not in found or _MODES.index(entry[0]) >= _MODES.index(found[source][0]):
            found[source] = entry
    return found


def _place(side: Side, mount: Mount) -> str:
    """What a mount shows: a path of the host, also where a volume's options bind one, or a volume."""
    if mount.type == "bind":
        return _normal(mount.source or "")
    spec = side.volumes.get(mount.source or "")
    device = spec.bound if spec is not None else ""
    if device and not forms.is_of_the_host(device):
        return f"volume {mount.source} ({device})"
    return _normal(device) if device else f"volume {mount.source}"


def _mode_of(path: str, among: Mapping[str, tuple[str, str, str | None]]) -> str:
    """The greatest mode in which a path is seen, by itself or with a directory above it."""
    modes = (mode for source, (mode, _, _) in among.items() if forms.below(path, source))
    return max(modes, key=_MODES.index, default="")


_WORDS = {"copy": "read a copy of", "ro": "read", "rw": "write to"}


def _mounts(old: Side, new: Side) -> Iterator[Step]:
    before, after = places(old), places(new)
    for path, (mode, key, item) in sorted(after.items()):
        had = _mode_of(path, before)
        if _MODES.index(mode) > _MODES.index(had) and {mode, had} != {"copy", "ro"}:
            yield wider(key, f"may now {_WORDS[mode]} {path}{f', was to {_WORDS[had]} it' if had else ''}", item)
    for path, (mode, key, _) in sorted(before.items()):
        has = _mode_of(path, after)
        if _MODES.index(has) < _MODES.index(mode) and {mode, has} != {"copy", "ro"}:
            yield narrower(key, f"may no longer {_WORDS[mode]} {path}")
    one, other = old.spec.workspace, new.spec.workspace
    yield from _sets(
        "workspace",
        [workspace.writable if workspace is not None else () for workspace in (one, other)],
        "may now write to {}, which the host runs",
        "may no longer write to {}, which the host runs",
    )
    if one is not None and other is not None:
        if fewer := sorted(set(one.exclude) - set(other.exclude)):
            yield wider("workspace", f"its copy now holds {', '.join(fewer)}", "exclude")
        if more := sorted(set(other.exclude) - set(one.exclude)):
            yield narrower("workspace", f"its copy leaves out {', '.join(more)}", "exclude")
    shared = ({mount.source or "" for mount in spec.volumes if mount.type == "volume"} for spec in (old.spec, new.spec))
    for name in sorted(set.intersection(*shared)):
        declared = [side.volumes.get(name) or VolumeSpec() for side in (old, new)]
        yield from (maybe("volumes", words) for words in _another(f"the volume {name}", name, *declared))


def _another(what: str, key: str, old: VolumeSpec | NetworkSpec, new: VolumeSpec | NetworkSpec) -> Iterator[str]:
    """What makes a volume or network another one. Of options the names only: a value may hold a password."""
    before, after = (
        f"the existing {one.name or key}" if one.external else one.name or "the project's own" for one in (old, new)
    )
    if before != after:
        yield f"{what} is now {after}, was {before}"
    if options := list(_changed(old.driver_opts, new.driver_opts)):
        yield f"{what} has other options: {', '.join(options)}"


def _tmpfs(old: Side, new: Side) -> Iterator[Step]:
    before, after = old.spec.tmpfs, new.spec.tmpfs
    for path in _changed(before, after):
        one, other = before.get(path), after.get(path)
        if one is None:
            yield wider("tmpfs", f"may now write to a tmpfs at {path}", path)
        if other is None:
            yield narrower("tmpfs", f"has no tmpfs at {path}")
            continue
        flags = (set((one or "noexec,nosuid,nodev,ro").split(",")), set(other.split(",")))
        uses = {"exec": "run programs", "suid": "use setuid programs", "dev": "use devices", "rw": "write"}
        for flag, words in uses.items():
            if flag != "rw" or one is not None:
                more, less = f"may now {words} in {path}", f"may no longer {words} in {path}"
                yield from _ordered("tmpfs", [flag in options for options in flags], more, less, path)
        if one is not None:
            sizes = [_unlimited(parse_size(options_of(text).get("size", "0")), 0) for text in (one, other)]
            yield from _amounts("tmpfs", sizes, f"memory in {path}", format_size, path)


# -- network


def level(side: Side) -> str:
    """How far it reaches, in words."""
    spec = side.spec
    if spec.networks:
        outer = any(not _network(side, name).internal for name in spec.networks)
        return "unfiltered" if outer else "internal networks"
    mode = spec.egress.mode if spec.egress is not None else "none"
    return {"none": "nothing", "allow": "listed hosts", "open": "every public host"}[mode]


def _network(side: Side, name: str) -> NetworkSpec:
    return side.networks.get(name) or NetworkSpec()


_WIDEST = ("every public host", "unfiltered")


def _reach(old: Side, new: Side) -> Iterator[Step]:
    before, after = level(old), level(new)
    one, other = old.spec.egress, new.spec.egress
    yield from _joined(old, new)
    keys = ("networks", "egress", "network_mode")
    cause = next((key for key in keys if getattr(old.spec, key) != getattr(new.spec, key)), "networks")
    if before != after and (before in _WIDEST or after in _WIDEST):
        ranks = [_WIDEST.index(reach) if reach in _WIDEST else -1 for reach in (before, after)]
        words = "anything, unfiltered" if after == "unfiltered" else after
        more, less = f"may now reach {words}, was {before}", f"may only reach {after}, was {before}"
        yield from _ordered(cause, ranks, more, less)
    if "unfiltered" not in (before, after):  # which reaches everything that is listed, and private addresses as well
        yield from _destinations(one, other)
        yield from _private(one, other)
        resolvers = [egress.resolvers if egress is not None else () for egress in (one, other)]
        if resolvers[0] != resolvers[1] and "nothing" not in (before, after):
            yield maybe(
                "egress", f"its gateway now asks {', '.join(resolvers[1]) or 'the engine'} for names", "resolvers"
            )


def _destinations(old: Egress | None, new: Egress | None) -> Iterator[Step]:
    before, after = _opened(old), _opened(new)
    sides = ((after, before, wider, "may now"), (before, after, narrower, "may no longer"))
    for these, those, step, words in sides:
        for destination in these:
            if destination in _PUBLIC or any(covers(listed, destination) for listed in those):
                continue
            port = destination.removeprefix("*:") if destination.startswith("*:") else ""
            shown = f"every public name on port {port}" if port else destination
            item = "ports" if port else destination if step is wider else "allow"
            yield step("egress", f"{words} open {shown}", item)


_PUBLIC = tuple(f"*:{port}" for port in sorted(OPEN_PORTS))  # told by the level


def _opened(egress: Egress | None) -> tuple[str, ...]:
    """What it opens as destinations; `*` stands for every public name."""
    if egress is None:
        return ()
    return (*(_PUBLIC if egress.mode == OPEN else ()), *(f"*:{port}" for port in egress.ports), *egress.allow)


def _within(network: str, among: Iterable[str]) -> bool:
    inner = ipaddress.ip_network(network)
    for one in among:
        outer = ipaddress.ip_network(one)
        if inner.version == outer.version and inner.subnet_of(outer):  # type: ignore[arg-type]
            return True
    return False


def _private(old: Egress | None, new: Egress | None) -> Iterator[Step]:
    before, after = (egress.private_networks if egress is not None else () for egress in (old, new))
    for these, those, step, words in ((after, before, wider, "may now"), (before, after, narrower, "may no longer")):
        for network in these:
            if not _within(network, those):
                yield step("egress", f"{words} reach private addresses in {network}", "private_networks")


def _joined(old: Side, new: Side) -> Iterator[Step]:
    before, after = old.spec.networks, new.spec.networks
    yield from _sets("networks", (before, after), "is now on the network {}", "left the network {}")
    for name in sorted({*before} & {*after}):
        one, other = _network(old, name), _network(new, name)
        outer = [not net.internal for net in (one, other)]
        more, less = f"the network {name} now leads outside", f"the network {name} now has no way out"
        yield from _ordered("networks", outer, more, less, name)
        if one.internal == other.internal:
            more, less = f"the network {name} now has IPv6", f"the network {name} has no IPv6"
            yield from _ordered("networks", (one.enable_ipv6, other.enable_ipv6), more, less, name)
        yield from (maybe("networks", words, name) for words in _another(f"the network {name}", name, one, other))
        if one.subnet != other.subnet:
            was, now = (net.subnet or "of the engine's choice" for net in (one, other))
            yield maybe("networks", f"the subnet of the network {name} is now {now}, was {was}", name)


def _names(old: Side, new: Side) -> Iterator[Step]:
    before, after = old.spec.extra_hosts, new.spec.extra_hosts
    for name in _changed(before, after):
        way, addresses = ("now", after[name]) if name in after else ("no longer", before[name])
        yield maybe("extra_hosts", f"the name {name} {way} leads to {', '.join(addresses)}", name)
    servers = [{one for one in side.spec.dns if not _is_loopback(one)} for side in (old, new)]
    yield from _sets("dns", servers, "may now ask the name server {}", "may no longer ask the name server {}")


def _is_loopback(text: str) -> bool:
    try:
        return ipaddress.ip_address(text).is_loopback
    except ValueError:
        return False


# -- limits, time, secrets, image


def _unlimited(value: float | None, *also: float) -> float:
    return INFINITE if value is None or value in also else value


def _limits(old: Side, new: Side) -> Iterator[Step]:
    one, other = old.spec, new.spec
    for key, none, words, show in (
        ("mem_limit", (0,), "memory", format_size),
        ("cpus", (0,), "CPUs", str),
        ("pids_limit", (0, -1), "processes", str),
        ("shm_size", (), "/dev/shm", format_size),
        ("mem_reservation", (), "reserved memory", format_size),
        ("cpu_shares", (), "shares of the CPU", str),
    ):
        values = [_unlimited(getattr(spec, key), *none) for spec in (one, other)]
        yield from _amounts(key, values, words, show)
    swaps = [  # what it may have beyond its memory
        _unlimited(spec.memswap_limit if spec.mem_limit else None, 0, -1) - spec.mem_limit for spec in (one, other)
    ]
    yield from _amounts("memswap_limit", swaps, "swap", format_size)
    for name in sorted({*one.ulimits, *other.ulimits}):
        hard = [_unlimited(spec.ulimits[name].hard if name in spec.ulimits else None, -1) for spec in (one, other)]
        yield from _amounts("ulimits", hard, f"the ulimit {name}", str, name)
    if one.workspace is not None and other.workspace is not None:
        copies = [_unlimited(work.size) for work in (one.workspace, other.workspace)]
        yield from _amounts("workspace", copies, "space for its workspace", format_size, "size")
    sizes = [spec.storage_opt.get("size") for spec in (one, other)]
    if sizes[0] != sizes[1]:
        try:
            amounts = [_unlimited(parse_size(size.lower()) if size else None) for size in sizes]
            yield from _amounts("storage_opt", amounts, "disk", format_size, "size")
        except ValueError:
            yield maybe("storage_opt", f"the disk's bound is now {sizes[1]}", "size")
    rest = [{k: v for k, v in spec.storage_opt.items() if k != "size"} for spec in (one, other)]
    if rest[0] != rest[1]:
        yield maybe("storage_opt", "the storage driver has other options")
    scores, told = [-spec.oom_score_adj for spec in (one, other)], f"oom_score_adj is now {other.oom_score_adj}"
    yield from _ordered("oom_score_adj", scores, f"{told}, was {one.oom_score_adj}")
    if one.cpuset != other.cpuset:
        before, after = (None if spec.cpuset is None else forms.cpu_numbers(spec.cpuset) for spec in (one, other))
        if after is None or (before is not None and after - before):
            yield wider("cpuset", f"may now run on the CPUs {other.cpuset or 'that there are'}")
        else:
            yield narrower("cpuset", f"may only run on the CPUs {other.cpuset}")


def _stays_words(lifetime: Lifetime) -> str:
    if lifetime.on_complete == "remove":
        return "is removed after its end"
    until = f"for {format_duration(lifetime.keep_for)}" if lifetime.keep_for is not None else "until it is removed"
    return f"is kept {'after a failure' if lifetime.on_complete == 'keep_on_failure' else 'after its end'} {until}"


_KEEPING = ("remove", "keep_on_failure", "keep")


def _time(old: Side, new: Side) -> Iterator[Step]:
    for key, words in (("timeout", "run for"), ("idle", "be silent for"), ("ttl", "stay for")):
        times = [_unlimited(getattr(side.spec.lifetime, key)) for side in (old, new)]
        before, after = ("ever" if value == INFINITE else format_duration(int(value)) for value in times)
        told = f"{words} {after}, was {before}"
        yield from _ordered("lifetime", times, f"may now {told}", f"may only {told}", key)
    if all(side.spec.lifetime.timeout is not None for side in (old, new)):
        unheld = [not side.spec.init for side in (old, new)]
        watched = "its timeout holds only while sandboxrun watches it: no init does"
        yield from _ordered("init", unheld, watched, "its timeout is held by its init")
    graces = [side.spec.stop_grace_period for side in (old, new)]
    before, after = map(format_duration, graces)
    told = f"go on for {after} after it is told to stop, was {before}"
    yield from _ordered("stop_grace_period", graces, f"may now {told}", f"may only {told}")
    kept = [  # how much stays of it after its end: what it wrote lies on the engine as long
        (rank := _KEEPING.index(life.on_complete), _unlimited(life.keep_for) if rank else 0.0)
        for life in (old.spec.lifetime, new.spec.lifetime)
    ]
    key = "keep_for" if kept[0][0] == kept[1][0] else "on_complete"
    stays = f"{_stays_words(new.spec.lifetime)}, was: {_stays_words(old.spec.lifetime)}"
    yield from _ordered("lifetime", kept, stays, item=key)
    ranks = [_restarts(side.spec.restart) for side in (old, new)]
    if old.spec.restart != new.spec.restart:
        step = wider if ranks[1] > ranks[0] else narrower if ranks[1] < ranks[0] else maybe
        yield step("restart", f"restart is now {new.spec.restart}, was {old.spec.restart}")


def _restarts(policy: str) -> float:
    name, _, count = policy.partition(":")
    if name == "no":
        return 0
    return int(count) if name == "on-failure" and count else INFINITE


def _given(old: Side, new: Side) -> Iterator[Step]:
    """Its secrets, and what else of the host comes to it as a file: configs that are not written in the profile."""
    before, after = _refs(old), _refs(new)
    for name in sorted({*before, *after}):
        item = after[name][0].file_name if name in after else None
        if name not in before:
            yield wider("secrets", f"now holds the secret {name}", item)
        elif name not in after:
            yield narrower("secrets", f"no longer holds the secret {name}")
        elif old.secrets.get(name) != new.secrets.get(name):
            yield maybe("secrets", f"the secret {name} is taken from elsewhere", item)
        else:
            yield from _readers(name, before[name], after[name])
    taken = [set(_taken(side)) for side in (old, new)]
    yield from (
        wider("configs", f"now gets {what}, as the config {name}", name) for name, what in sorted(taken[1] - taken[0])
    )
    yield from (
        narrower("configs", f"no longer gets {what}, as the config {name}")
        for name, what in sorted(taken[0] - taken[1])
    )


def _refs(side: Side) -> Mapping[str, list[FileRef]]:
    """The files that each secret is, by its key: one may be given several times."""
    found: dict[str, list[FileRef]] = {}
    for ref in side.spec.secrets:
        found.setdefault(ref.source, []).append(ref)
    return found


def _readers(name: str, before: Sequence[FileRef], after: Sequence[FileRef]) -> Iterator[Step]:
    """Who may read a secret that is the same."""
    modes = [reduce(or_, (ref.mode for ref in refs)) for refs in (before, after)]
    if modes[0] != modes[1]:
        step = wider if modes[1] & ~modes[0] else narrower
        yield step("secrets", f"the secret {name} now has mode {modes[1]:04o}", after[0].file_name)
    owners = [{(ref.uid, ref.gid) for ref in refs} for refs in (before, after)]
    if owners[0] != owners[1]:
        yield maybe("secrets", f"the secret {name} now belongs to another user or group", after[0].file_name)


def _taken(side: Side) -> Iterator[tuple[str, str]]:
    """The configs that are made of the caller's variables and files, and of what."""
    for ref in side.spec.configs:
        spec = side.configs.get(ref.source) or FileSpec()
        if spec.environment is not None:
            yield ref.source, f"the caller's {spec.environment}"
        elif spec.file is not None:
            yield ref.source, spec.file


def _project(old: Side, new: Side) -> Iterator[Step]:
    """An apply takes what the engine has of that name for its own: it removes what the profile does not declare."""
    if old.project and new.project and old.project != new.project:
        yield maybe(
            "name", f"the project is now {new.project}, was {old.project}: what there is of that name is its own"
        )


def _image(old: Side, new: Side) -> Iterator[Step]:
    before, after = old.spec.image, new.spec.image
    if before == after:
        return
    free = ["@" not in image for image in (before, after)]
    more = f"its image {after} may change after the review: it has no digest any more"
    yield from _ordered("image", free, more, f"its image {_short(after)} can no longer change: it has a digest")
    if free[0] == free[1] or image_parts(before)[0] != image_parts(after)[0]:
        yield maybe("image", f"runs another image, {_short(after)}, was {_short(before)}")


def _short(image: str) -> str:
    name, at, digest = image.partition("@")
    return f"{name}{at}{digest[:19]}" + ("…" if digest else "")


def _kept(old: Side, new: Side) -> Iterator[Step]:
    one, other = old.spec.evidence, new.spec.evidence
    for key, words in (("filesystem_changes", "its changes of files"), ("patch", "the patch of its workspace")):
        lost = [not getattr(policy, key) for policy in (one, other)]
        yield from _ordered("evidence", lost, f"{words} is no longer kept", f"{words} is kept", key)
    for key, words in (("artifacts_limit", "artifacts"), ("logs_limit", "output")):
        values = [_unlimited(getattr(policy, key), 0) for policy in (one, other)]
        yield from _amounts("evidence", values, f"the host's disk for {words}", format_size, key)
    yield from _sets(
        "evidence", (one.artifacts, other.artifacts), "{} is now copied to the host", "{} is no longer copied"
    )
    bounds = [bound for side in (old, new) if (bound := _log_bound(side.spec)) is not None]
    if old.spec.logging != new.spec.logging:
        if len(bounds) < 2:
            yield maybe("logging", "its output is kept otherwise")
        else:
            yield from _amounts("logging", bounds, "the host's disk for its log", format_size)


def _log_bound(spec: SandboxSpec) -> float | None:
    options = spec.logging.options
    local = spec.logging.driver == "local"
    try:
        text = options.get("max-size", "20m" if local else "")
        size = INFINITE if text in ("", "-1") else parse_size(text)
        files = int(options.get("max-file", "5" if local else "1"))
    except ValueError:
        return None
    return size * files


AXES: tuple[Axis, ...] = (
    Axis(name="capabilities", keys=("cap_add", "cap_drop"), compare=_capabilities),
    Axis(name="system calls", keys=("security_opt",), compare=_calls),
    Axis(name="confinement", keys=("security_opt",), compare=_confinement),
    Axis(name="user", keys=("user",), compare=_user),
    Axis(name="groups", keys=("group_add",), compare=_groups),
    Axis(name="namespaces", keys=("userns_mode", "ipc"), compare=_namespaces),
    Axis(name="kernel parameters", keys=("sysctls",), compare=_values("sysctls", "the sysctl")),
    Axis(name="devices", keys=("devices", "gpus"), compare=_devices),
    Axis(name="runtime", keys=("runtime",), compare=_runtime),
    Axis(name="annotations", keys=("annotations",), compare=_values("annotations", "the runtime's annotation")),
    Axis(name="root filesystem", keys=("read_only",), compare=_root),
    Axis(name="mounts", keys=("volumes", "workspace"), compare=_mounts),
    Axis(name="tmpfs", keys=("tmpfs",), compare=_tmpfs),
    Axis(name="network", keys=("network_mode", "networks", "egress"), compare=_reach),
    Axis(name="names", keys=("extra_hosts", "dns"), compare=_names),
    Axis(
        name="limits",
        keys=("mem_limit", "memswap_limit", "mem_reservation", "cpus", "cpu_shares", "cpuset", "pids_limit", "ulimits",
              "shm_size", "storage_opt", "oom_score_adj"),
        compare=_limits,
    ),
    Axis(name="lifetime", keys=("lifetime", "init", "stop_grace_period", "restart"), compare=_time),
    Axis(name="secrets", keys=("secrets", "configs"), compare=_given),
    Axis(name="project", keys=(), compare=_project),
    Axis(name="image", keys=("image",), compare=_image),
    Axis(name="evidence", keys=("evidence", "logging"), compare=_kept),
    Axis(  # what the task is, not what it may do
        name="task",
        keys=("command", "entrypoint", "working_dir", "environment", "tty", "stdin_open", "stop_signal",
              "healthcheck", "hostname", "labels", "platform", "pull_policy", "depends_on", "dns_search", "dns_opt"),
        compare=lambda old, new: iter(()),
    ),
)  # fmt: skip
