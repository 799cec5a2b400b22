"""What the host's kernel keeps as a sandbox's limits: its cgroup's files, of version 1 and 2, and its ulimits. Pure.

A limit that is tighter than declared holds.
"""

from __future__ import annotations

from sandboxrun.probe.outside import Answer, Check, Looked, first_number, listed
from sandboxrun.probe.outside_process import OPEN
from sandboxrun.spec.types import format_size

_NO_LIMIT = "no limit"
# What every container may have: null, zero, full, random, urandom, tty, console, ptmx, pts, and net/tun by older runc.
_COMMON = frozenset({"1:3", "1:5", "1:7", "1:8", "1:9", "5:0", "5:1", "5:2", "136:*", "10:200"})


def memory(looked: Looked) -> Answer | str:
    """The hard limit."""
    return _size(looked, "memory", looked.spec.mem_limit or -1)


def swap(looked: Looked) -> Answer | str:
    """What it may swap: version 1 counts memory and swap together, version 2 swap alone."""
    spec = looked.spec
    both = spec.mem_limit or -1 if spec.memswap_limit is None else spec.memswap_limit or -1
    alone = looked.outside.cgroup_version == 2
    return _size(looked, "swap", both - spec.mem_limit if alone and both > 0 else both)


def _size(looked: Looked, name: str, declared: int) -> Answer:
    found = first_number(looked.outside.cgroup.get(name, ""))
    return Answer(
        expected=_shown(declared),
        seen="unknown" if found is None else _shown(found),
        holds=_within(found, declared),
        note=f"{OPEN}: {_NO_LIMIT}" if declared < 0 else "",
    )


def _shown(size: int) -> str:
    return _NO_LIMIT if size < 0 else format_size(size)


def _within(found: int | None, declared: int) -> bool | None:
    if found is None:
        return None
    return declared < 0 or 0 <= found <= declared


def pids(looked: Looked) -> Answer | str:
    """Processes and threads, in all."""
    declared = looked.spec.pids_limit or -1
    found = first_number(looked.outside.cgroup.get("pids", ""))
    return Answer(
        expected=_NO_LIMIT if declared < 0 else str(declared),
        seen="unknown" if found is None else _NO_LIMIT if found < 0 else str(found),
        holds=_within(found, declared),
        note=f"{OPEN}: {_NO_LIMIT}" if declared < 0 else "",
    )


def cpus(looked: Looked) -> Answer | str:
    """CPU time: how much of each period."""
    declared = looked.spec.cpus
    words = looked.outside.cgroup.get("cpu", "").split()
    quota = first_number(words[0]) if words else None
    period = first_number(words[1]) if len(words) > 1 else None
    if quota is None or not period:
        return Answer(expected=f"{declared:g}", seen="unknown", holds=None)
    found = 0.0 if quota < 0 else quota / period
    # The kernel counts whole microseconds of its period.
    holds = not declared or 0 < found <= declared + 1 / period
    return Answer(
        expected=f"{declared:g}" if declared else _NO_LIMIT,
        seen=f"{found:g}" if found else _NO_LIMIT,
        holds=holds,
        note="" if declared else f"{OPEN}: {_NO_LIMIT}",
    )


def cpuset(looked: Looked) -> Answer | str:
    """The CPUs it may run on."""
    if looked.spec.cpuset is None:
        return "the profile binds it to no CPUs"
    declared, found = looked.spec.cpuset, looked.outside.cgroup.get("cpuset", "").strip()
    if not found:
        return Answer(expected=declared, seen="unknown", holds=None)
    return Answer(expected=declared, seen=found, holds=_numbers(found) <= _numbers(declared))


def _numbers(text: str) -> frozenset[int]:
    numbers: set[int] = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        numbers |= set(range(int(first), int(last or first) + 1))
    return frozenset(numbers)


def devices(looked: Looked) -> Answer | str:
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
    return Answer(
        expected=f"the common ones and {listed(declared)}" if declared else "the common ones",
        seen=listed(extra) if extra else "no other" if text else "unknown",
        holds=not extra if text else None,
        note=f"{OPEN}: {listed(declared)}" if declared else "",
    )


def ulimits(looked: Looked) -> Answer | str:
    """Each declared limit of the first process; processes can only lower them."""
    declared = {name: (limit.soft, limit.hard) for name, limit in looked.spec.ulimits.items()}
    if not declared:
        return "the profile sets none"
    found = {name: looked.outside.limits.get(name) for name in declared}
    wide = [name for name, limit in found.items() if limit is not None and not _tight(limit, declared[name])]
    return Answer(
        expected=listed(f"{name} {_pair(limit)}" for name, limit in declared.items()),
        seen=listed(f"{name} {'unknown' if limit is None else _pair(limit)}" for name, limit in found.items()),
        holds=False if wide else None if None in found.values() else True,
    )


def _tight(found: tuple[int, int], declared: tuple[int, int]) -> bool:
    return all(most < 0 or 0 <= value <= most for value, most in zip(found, declared, strict=True))


def _pair(limit: tuple[int, int]) -> str:
    soft, hard = (_NO_LIMIT if value < 0 else str(value) for value in limit)
    return soft if soft == hard else f"{soft} to {hard}"


def oom(looked: Looked) -> Answer | str:
    """Not spared when the host runs out of memory."""
    declared, found = looked.spec.oom_score_adj, looked.outside.oom_score_adj
    return Answer(
        expected=f"at least {declared}",
        seen="unknown" if found is None else str(found),
        holds=None if found is None else found >= declared,
    )


CHECKS = (
    Check(
        id="memory-limit",
        title="memory is limited",
        field="HostConfig.Memory",
        parts=("cgroup", "cgroup memory"),
        look=memory,
        kernel=False,
    ),
    Check(
        id="swap-limit",
        title="swap is limited",
        field="HostConfig.MemorySwap",
        parts=("cgroup", "cgroup swap"),
        look=swap,
        kernel=False,
    ),
    Check(
        id="pids-limit",
        title="processes are limited",
        field="HostConfig.PidsLimit",
        parts=("cgroup", "cgroup pids"),
        look=pids,
        kernel=False,
    ),
    Check(
        id="cpu-quota",
        title="CPU time is limited",
        field="HostConfig.NanoCpus",
        parts=("cgroup", "cgroup cpu"),
        look=cpus,
        kernel=False,
    ),
    Check(
        id="cpuset",
        title="runs on the declared CPUs",
        field="HostConfig.CpusetCpus",
        parts=("cgroup", "cgroup cpuset"),
        look=cpuset,
        kernel=False,
    ),
    Check(
        id="devices",
        title="opens no device beyond the declared ones",
        field="HostConfig.Devices",
        parts=("cgroup", "cgroup devices"),
        look=devices,
    ),
    Check(
        id="ulimits",
        title="each process is limited",
        field="HostConfig.Ulimits",
        parts=("limits",),
        look=ulimits,
    ),
    Check(
        id="oom-score",
        title="is not spared when memory runs out",
        field="HostConfig.OomScoreAdj",
        parts=("oom_score_adj",),
        look=oom,
    ),
)
