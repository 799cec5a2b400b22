"""Controls of resources: limits as the kernel holds them, and what becomes of a program that goes beyond. Pure."""

from __future__ import annotations

from sandboxrun.probe.program import complete, small_memory, small_processes, swap
from sandboxrun.probe.verdicts import OUTCOME, Context, Control, Phase, Seen, every, fails, number, result, value

UNLIMITED = 1 << 62  # beyond it, version 1 of cgroups means none
GVISOR = "gVisor shows no cgroup inside; `sandboxrun verify --running` reads it on the host"
TOLERANCE = 1.25  # the quota is counted again every tenth of a second: the last one may count twice


def _limit(seen: Seen, v1: str, v2: str) -> int | None:
    """A limit of either version's; -1 for none set, None where it could not be read."""
    text = value(seen, "cgroup", v1) or value(seen, "cgroup", v2)
    if text == "max":
        return -1
    found = number(text)
    return -1 if found is not None and found >= UNLIMITED else found


def _shown(limit: float | None, unit: str) -> str:
    if limit is None:
        return ""
    return "unlimited" if limit < 0 else f"{limit:{'g' if isinstance(limit, float) else 'd'}} {unit}"


def _within(found: float | None, most: float) -> bool | None:
    """Whether a limit is one, and no wider than declared."""
    return None if found is None else 0 < found <= most


# -- the limits themselves ------------------------------------------------------------------------------------------


def _memory_applies(context: Context) -> str | None:
    return GVISOR if context.gvisor else None if context.spec.mem_limit else "the profile sets no mem_limit"


def _swap(seen: Seen) -> int | None:
    """Swap alone: version 1 counts it together with memory."""
    both, memory = _limit(seen, "v1.memory.swap", ""), _limit(seen, "v1.memory", "")
    if both is not None and memory is not None:
        return -1 if both < 0 else both - memory
    return _limit(seen, "", "v2.memory.swap.max")


def _cpus_apply(context: Context) -> str | None:
    return None if context.spec.cpus else "the profile sets no cpus"


def _quota(seen: Seen) -> float | None:
    """The CPUs that the quota amounts to; -1 for none set."""
    quota, period = value(seen, "cgroup", "v1.cpu.quota"), value(seen, "cgroup", "v1.cpu.period")
    if not quota:
        quota, _, period = value(seen, "cgroup", "v2.cpu.max").partition(" ")
    if quota in ("max", "-1"):
        return -1
    most, every_us = number(quota), number(period)
    return most / every_us if most is not None and every_us else None


# -- CPU time, as used ----------------------------------------------------------------------------------------------


def _used(seen: Seen) -> float | None:
    used, wall = number(value(seen, "processors", "used_ms")), number(value(seen, "processors", "wall_ms"))
    return used / wall if used is not None and wall else None


def _used_applies(context: Context) -> str | None:
    if context.gvisor:
        return "gVisor counts CPU time by a clock of its own"
    if context.host_cpus and context.spec.cpus >= context.host_cpus:
        return f"the host has {context.host_cpus} CPUs"
    return _cpus_apply(context)


def _used_holds(seen: Seen, context: Context) -> bool | None:
    used = _used(seen)
    return None if used is None else used <= context.spec.cpus * TOLERANCE + 0.1


# -- limits of each process -----------------------------------------------------------------------------------------


def _ulimits_seen(seen: Seen) -> str:
    before, raised = seen.get("limits", {}), seen.get("limits.raised", {})
    names = sorted({key.partition(".")[0] for key in before})
    shown = (f"{name}: {before.get(f'{name}.soft')}/{before.get(f'{name}.hard')}" for name in names)
    return ", ".join(shown) if raised else ""


def _ulimits_hold(seen: Seen, context: Context) -> bool | None:
    return every(
        None if (found := number(value(seen, probe, f"{name}.{kind}"))) is None else most < 0 or 0 <= found <= most
        for name, limit in context.spec.ulimits.items()
        for probe, kind, most in (
            ("limits", "soft", limit.soft),
            ("limits", "hard", limit.hard),
            ("limits.raised", "hard", limit.hard),
        )
    )


def _files_apply(context: Context) -> str | None:
    limit = context.spec.ulimits.get("nofile")
    if limit is None or limit.hard < 0:
        return "the profile sets no ulimits.nofile"
    return None if limit.hard + 64 <= 1 << 17 else "so many are not opened; see ulimits"


def _files_hold(seen: Seen, context: Context) -> bool | None:
    opened, last = number(value(seen, "files", "open")), value(seen, "files", "last")
    if opened is None or not last:
        return None
    return opened <= context.spec.ulimits["nofile"].hard and fails(last, "EMFILE", "ENFILE")


# -- those that may end the sandbox ---------------------------------------------------------------------------------


def _processes_apply(context: Context) -> str | None:
    return None if context.spec.pids_limit > 0 else "the profile sets no pids_limit"


def _processes_hold(seen: Seen, context: Context) -> bool | None:
    made, last = number(value(seen, "processes", "made")), value(seen, "processes", "last")
    if made is None and context.gvisor and "processes.begin" in seen and not complete(seen):
        return True  # it ends the sandbox at its limit
    if made is None or not last:
        return None
    return made < small_processes(context) and fails(last, "EAGAIN")


def _oom_seen(seen: Seen) -> str:
    taken = value(seen, "memory", "taken")
    if taken:
        return f"took {taken} bytes"
    outcome = value(seen, OUTCOME, "how")
    return f"ended: {outcome}, exit code {value(seen, OUTCOME, 'exit_code') or 'unknown'}" if outcome else ""


def _stubborn_seen(seen: Seen) -> str:
    if value(seen, "stubborn", "outlived"):
        return "ended by itself, after its deadline"
    outcome, seconds = value(seen, OUTCOME, "how"), value(seen, OUTCOME, "seconds")
    return f"ended: {outcome}" + (f", after {seconds} s" if seconds else "") if outcome else ""


CONTROLS = (
    Control(
        id="memory-limit",
        title="Memory is limited",
        applies=_memory_applies,
        expected=lambda context: f"{context.spec.mem_limit} bytes",
        seen=lambda seen: _shown(_limit(seen, "v1.memory", "v2.memory.max"), "bytes"),
        holds=lambda seen, context: _within(_limit(seen, "v1.memory", "v2.memory.max"), context.spec.mem_limit),
    ),
    Control(
        id="swap-limit",
        title="Swap is limited",
        applies=lambda context: (
            _memory_applies(context) or ("the profile allows any amount of swap" if swap(context) is None else None)
        ),
        expected=lambda context: f"{swap(context)} bytes",
        seen=lambda seen: _shown(_swap(seen), "bytes"),
        holds=lambda seen, context: (
            None if (found := _swap(seen)) is None or (allowed := swap(context)) is None else 0 <= found <= allowed
        ),
    ),
    Control(
        id="memory",
        title="Memory beyond the limit ends it, as OOM",
        phase=Phase.MEMORY,
        applies=lambda context: (
            "the profile sets no mem_limit"
            if not context.spec.mem_limit
            else "the profile allows any amount of swap"
            if swap(context) is None
            else None
        ),
        expected=lambda context: f"killed for memory at {small_memory(context) + (swap(context) or 0)} bytes",
        seen=_oom_seen,
        holds=lambda seen, context: (
            False
            if value(seen, "memory", "taken")
            else value(seen, OUTCOME, "oom_killed") == "yes"
            if value(seen, "memory.begin", "map") == "ok" and OUTCOME in seen
            else None
        ),
    ),
    Control(
        id="pids-limit",
        title="Processes are limited",
        applies=lambda context: GVISOR if context.gvisor else _processes_apply(context),
        expected=lambda context: f"{context.spec.pids_limit} processes",
        seen=lambda seen: _shown(_limit(seen, "v1.pids", "v2.pids.max"), "processes"),
        holds=lambda seen, context: _within(_limit(seen, "v1.pids", "v2.pids.max"), context.spec.pids_limit),
    ),
    Control(
        id="processes",
        title="A fork loop ends at the limit",
        phase=Phase.PROCESSES,
        applies=_processes_apply,
        expected=lambda context: f"EAGAIN before {small_processes(context)} more",
        seen=lambda seen: (
            f"{made} more processes, then {result(value(seen, 'processes', 'last'))}"
            if (made := value(seen, "processes", "made"))
            else "ended by its runtime"
            if "processes.begin" in seen
            else ""
        ),
        holds=_processes_hold,
    ),
    Control(
        id="ulimits",
        title="Limits of each process",
        applies=lambda context: None if context.spec.ulimits else "the profile sets none",
        expected=lambda context: ", ".join(f"{n}: {u.soft}/{u.hard}" for n, u in context.spec.ulimits.items()),
        seen=_ulimits_seen,
        holds=_ulimits_hold,
    ),
    Control(
        id="open-files",
        title="A loop that opens files ends at the limit",
        applies=_files_apply,
        expected=lambda context: f"EMFILE at {context.spec.ulimits['nofile'].hard}",
        seen=lambda seen: (
            f"{value(seen, 'files', 'open')} open, then {result(value(seen, 'files', 'last'))}"
            if "files" in seen
            else ""
        ),
        holds=_files_hold,
    ),
    Control(
        id="cpu-quota",
        title="CPU time is limited",
        applies=lambda context: GVISOR if context.gvisor else _cpus_apply(context),
        expected=lambda context: f"{context.spec.cpus:g} CPUs",
        seen=lambda seen: _shown(_quota(seen), "CPUs"),
        holds=lambda seen, context: _within(_quota(seen), context.spec.cpus + 1e-6),
    ),
    Control(
        id="cpu-time",
        title="CPU time over wall time",
        applies=_used_applies,
        expected=lambda context: f"at most {context.spec.cpus:g} and a quarter",
        seen=lambda seen: f"{used:.2f}" if (used := _used(seen)) is not None else "",
        holds=_used_holds,
        # where others keep the host busy, so that it can't use more, that it has no quota is what is left to see
        negative=lambda strong, weak, context: _used_holds(weak, context) is False or _quota(weak) == -1,
    ),
    Control(
        id="deadline",
        title="A command that ignores TERM is killed at the deadline",
        phase=Phase.STUBBORN,
        expected=lambda context: "ended: timeout",
        seen=_stubborn_seen,
        holds=lambda seen, context: (
            False
            if value(seen, "stubborn", "outlived")
            else value(seen, OUTCOME, "how") == "timeout"
            if "stubborn.begin" in seen and OUTCOME in seen
            else None
        ),
    ),
)
