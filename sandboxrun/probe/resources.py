"""Controls of resources: limits as the kernel holds them, and what becomes of a program that goes beyond. Pure."""

from __future__ import annotations

from sandboxrun.probe.program import complete, small_memory, small_processes, swap
from sandboxrun.probe.verdicts import (
    OUTCOME,
    Answer,
    Comparison,
    Context,
    Control,
    Phase,
    Seen,
    every,
    fails,
    first_number,
    number,
    quota,
    result,
    value,
)

GVISOR = "gVisor shows no cgroup inside; `sandboxrun verify --running` reads it on the host"
TOLERANCE = 1.25  # the quota is counted again every tenth of a second: the last one may count twice


def _limit(seen: Seen, v1: str, v2: str) -> int | None:
    """A limit of either version's; -1 for none set, None where it could not be read."""
    return first_number(value(seen, "cgroup", v1) or value(seen, "cgroup", v2))


def _shown(limit: float | None, unit: str) -> str:
    if limit is None:
        return ""
    return "unlimited" if limit < 0 else f"{limit:{'g' if isinstance(limit, float) else 'd'}} {unit}"


def _within(limit: float | None, most: float, unit: str) -> Comparison:
    """Whether a limit is one, and no wider than declared."""
    return Comparison(_shown(most, unit), _shown(limit, unit), None if limit is None else 0 < limit <= most + 1e-6)


# -- the limits themselves ------------------------------------------------------------------------------------------

_NO_MEMORY, _ANY_SWAP = "the profile sets no mem_limit", "the profile allows any amount of swap"
_NO_PROCESSES, _NO_CPUS = "the profile sets no pids_limit", "the profile sets no cpus"


def memory_limit(seen: Seen, context: Context) -> Answer:
    """The hard limit of its cgroup, in bytes."""
    if context.gvisor or not context.spec.mem_limit:
        return GVISOR if context.gvisor else _NO_MEMORY
    return _within(_limit(seen, "v1.memory", "v2.memory.max"), context.spec.mem_limit, "bytes")


def swap_limit(seen: Seen, context: Context) -> Answer:
    """Swap alone, in bytes: version 1 counts it together with memory."""
    if context.gvisor or not context.spec.mem_limit:
        return GVISOR if context.gvisor else _NO_MEMORY
    most = swap(context)
    if most is None:
        return _ANY_SWAP
    found = _limit(seen, "", "v2.memory.swap.max")
    both, memory = _limit(seen, "v1.memory.swap", ""), _limit(seen, "v1.memory", "")
    if both is not None and memory is not None:  # version 1 counts it together with memory
        found = -1 if both < 0 else both - memory
    return Comparison(f"{most} bytes", _shown(found, "bytes"), None if found is None else 0 <= found <= most)


def pids_limit(seen: Seen, context: Context) -> Answer:
    """Processes and threads, in all."""
    if context.gvisor or context.spec.pids_limit <= 0:
        return GVISOR if context.gvisor else _NO_PROCESSES
    return _within(_limit(seen, "v1.pids", "v2.pids.max"), context.spec.pids_limit, "processes")


def cpu_quota(seen: Seen, context: Context) -> Answer:
    """CPUs, as the quota of each period amounts to."""
    if context.gvisor or not context.spec.cpus:
        return GVISOR if context.gvisor else _NO_CPUS
    return _within(_quota(seen), context.spec.cpus, "CPUs")


def _quota(seen: Seen) -> float | None:
    v1, period = value(seen, "cgroup", "v1.cpu.quota"), value(seen, "cgroup", "v1.cpu.period")
    return quota(f"{v1} {period}" if v1 else value(seen, "cgroup", "v2.cpu.max"))


# -- CPU time, as used ----------------------------------------------------------------------------------------------


def cpu_time(seen: Seen, context: Context) -> Answer:
    """What several busy processes got of it."""
    spec = context.spec
    if context.gvisor:
        return "gVisor counts CPU time by a clock of its own"
    if context.host_cpus and spec.cpus >= context.host_cpus:
        return f"the host has {context.host_cpus} CPUs"
    if not spec.cpus:
        return _NO_CPUS
    expected = f"at most {spec.cpus:g} and a quarter"
    used, wall = number(value(seen, "processors", "used_ms")), number(value(seen, "processors", "wall_ms"))
    if used is None or not wall:
        return Comparison(expected)
    return Comparison(expected, f"{used / wall:.2f}", used / wall <= spec.cpus * TOLERANCE + 0.1)


def _took_more(strong: Seen, weak: Seen, context: Context) -> bool:
    """Where others keep the host busy, so that it can't use more, that it has no quota is what is left to see."""
    used = cpu_time(weak, context)
    return _quota(weak) == -1 or (isinstance(used, Comparison) and used.holds is False)


# -- limits of each process -----------------------------------------------------------------------------------------


def ulimits(seen: Seen, context: Context) -> Answer:
    """Soft and hard, as they are and after the program raised them as far as it could."""
    declared = context.spec.ulimits
    if not declared:
        return "the profile sets none"
    before, raised = seen.get("limits", {}), seen.get("limits.raised", {})
    names = sorted({key.partition(".")[0] for key in before})
    shown = (f"{name}: {before.get(f'{name}.soft')}/{before.get(f'{name}.hard')}" for name in names)
    within = (
        None if (found := number(limits.get(f"{name}.{kind}", ""))) is None else most < 0 or 0 <= found <= most
        for name, limit in declared.items()
        for limits, kind, most in (
            (before, "soft", limit.soft),
            (before, "hard", limit.hard),
            (raised, "hard", limit.hard),
        )
    )
    expected = ", ".join(f"{name}: {limit.soft}/{limit.hard}" for name, limit in declared.items())
    return Comparison(expected, ", ".join(shown) if raised else "", every(within))


def open_files(seen: Seen, context: Context) -> Answer:
    """Files are opened until one can't be."""
    limit = context.spec.ulimits.get("nofile")
    if limit is None or limit.hard < 0:
        return "the profile sets no ulimits.nofile"
    if limit.hard + 64 > 1 << 17:
        return "so many are not opened; see ulimits"
    opened, last = value(seen, "files", "open"), value(seen, "files", "last")
    count = number(opened)
    return Comparison(
        f"EMFILE at {limit.hard}",
        f"{opened} open, then {result(last)}" if "files" in seen else "",
        count <= limit.hard and fails(last, "EMFILE", "ENFILE") if last and count is not None else None,
    )


# -- those that may end the sandbox ---------------------------------------------------------------------------------


def memory(seen: Seen, context: Context) -> Answer:
    """Memory is taken until the program is killed, or has more than it may."""
    more = swap(context)
    if not context.spec.mem_limit or more is None:
        return _ANY_SWAP if context.spec.mem_limit else _NO_MEMORY
    expected = f"killed for memory at {small_memory(context) + more} bytes"
    if taken := value(seen, "memory", "taken"):
        return Comparison(expected, f"took {taken} bytes", False)
    how, code = value(seen, OUTCOME, "how"), value(seen, OUTCOME, "exit_code") or "unknown"
    begun = value(seen, "memory.begin", "map") == "ok" and OUTCOME in seen
    killed = value(seen, OUTCOME, "oom_killed") == "yes" if begun else None
    return Comparison(expected, f"ended: {how}, exit code {code}" if how else "", killed)


def processes(seen: Seen, context: Context) -> Answer:
    """Processes are made until one can't be."""
    if context.spec.pids_limit <= 0:
        return _NO_PROCESSES
    most, begun = small_processes(context), "processes.begin" in seen
    made, last = value(seen, "processes", "made"), value(seen, "processes", "last")
    expected, count = f"EAGAIN before {most} more", number(made)
    shown = f"{made} more processes, then {result(last)}" if made else "ended by its runtime" if begun else ""
    if count is None and context.gvisor and begun and not complete(seen):
        return Comparison(expected, shown, True)  # it ends the sandbox at its limit
    return Comparison(expected, shown, count < most and fails(last, "EAGAIN") if last and count is not None else None)


def deadline(seen: Seen, context: Context) -> Answer:
    """The program ignores TERM and outlives its deadline, if it is let."""
    if value(seen, "stubborn", "outlived"):
        return Comparison("ended: timeout", "ended by itself, after its deadline", False)
    how, seconds = value(seen, OUTCOME, "how"), value(seen, OUTCOME, "seconds")
    shown = f"ended: {how}" + (f", after {seconds} s" if seconds else "") if how else ""
    begun = "stubborn.begin" in seen and OUTCOME in seen
    return Comparison("ended: timeout", shown, how == "timeout" if begun else None)


CONTROLS = (
    Control("memory-limit", "Memory is limited", memory_limit),
    Control("swap-limit", "Swap is limited", swap_limit),
    Control("memory", "Memory beyond the limit ends it, as OOM", memory, Phase.MEMORY),
    Control("pids-limit", "Processes are limited", pids_limit),
    Control("processes", "A fork loop ends at the limit", processes, Phase.PROCESSES),
    Control("ulimits", "Limits of each process", ulimits),
    Control("open-files", "A loop that opens files ends at the limit", open_files),
    Control("cpu-quota", "CPU time is limited", cpu_quota),
    Control("cpu-time", "CPU time over wall time", cpu_time, negative=_took_more),
    Control("deadline", "A command that ignores TERM is killed at the deadline", deadline, Phase.STUBBORN),
)
