"""How runs ended, in words: what is said at the end of `run`, `apply --wait` and `destroy`.

Owns the wording. What an engine or an agent wrote passes `printable` and the mask. Reads nothing.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable
from pathlib import Path
from typing import Any, assert_never

from sandboxrun.data import Data
from sandboxrun.errors import ExitCode, one_line, redact
from sandboxrun.evidence.index import Index
from sandboxrun.evidence.store import Captured
from sandboxrun.spec.outcome import RUN_ENDED, Ending, How
from sandboxrun.spec.spec import SandboxSpec
from sandboxrun.spec.types import format_duration, format_size

PATCH = "workspace.patch"
_LISTED = 5  # parts that are missing, told by name


class Run(Data):
    """One run to tell of. `spec` is what it was told to be, for its limits; `note` what the caller saw of its end,
    `seen` how it ended where another job has the evidence."""

    address: str
    captured: Captured | None
    spec: SandboxSpec | None = None
    note: str = ""
    seen: Ending | None = None


def evidence_text(
    runs: Iterable[Run], *, sensitive: frozenset[str] = frozenset(), relative_to: Path | None = None
) -> str:
    """All runs, a few lines each. Paths below `relative_to` are shown from there."""
    return "\n".join(redact(line, sensitive) for run in runs for line in _run_lines(run, relative_to))


def ending_text(ending: Ending, spec: SandboxSpec | None = None, note: str = "") -> str:
    """How it ended, as a clause: `killed for exceeding its memory limit of 512m (exit 137)`."""
    return one_line(_ending(ending, spec, note))


def evidence_plain(run: Run) -> dict[str, Any]:
    """A run as data, in the words that `--json` has. A timeout is 124, whatever the program gave."""
    captured = run.captured
    told = {"sandbox": run.address, "note": run.note}
    if captured is None and run.seen is not None:
        return {**told, "outcome": run.seen.how.value, "exit_code": _code(run.seen), "evidence": None}
    if captured is None:
        return {**told, "outcome": How.NOT_STARTED.value}
    index = captured.index
    if index is None:
        return {**told, "failure": captured.failure}
    return {
        **told,
        "run": index.run,
        "outcome": index.ending.how.value,
        "exit_code": _code(index.ending),
        "ran_seconds": index.ran_seconds,
        "evidence": str(captured.folder) if captured.folder is not None else None,
        "missing": [item.part for item in index.missing],
        "protected_paths_touched": list(index.protected_paths_touched),
    }


def _code(ending: Ending) -> int | None:
    return ExitCode.TIMEOUT if ending.how is How.TIMEOUT else ending.exit_code


def _run_lines(run: Run, base: Path | None) -> list[str]:
    name = one_line(run.address)
    captured = run.captured
    if captured is None and run.seen is not None:
        return [f"{name}: {ending_text(run.seen, run.spec, run.note)}; another job saved the evidence"]
    if captured is None:
        return [f"{name}: {one_line(run.note) or 'was not run'}"]
    if captured.index is None:
        return [f"{name}: its evidence could not be kept: {one_line(captured.failure or 'the reason is not known')}"]
    index = captured.index
    facts = [ending_text(index.ending, run.spec, run.note), *_measures(index)]
    rows = [("evidence", one_line(_place(captured.folder, base)))] if captured.folder is not None else []
    rows += _patch(index) + _not_copied(index) + _egress(index) + _missing(index)
    width = max((len(key) for key, _ in rows), default=0) + 1
    return [f"{name}: {', '.join(facts)}", *(f"    {key + ':':<{width}} {text}" for key, text in rows)]


def _ending(ending: Ending, spec: SandboxSpec | None, note: str) -> str:
    code = f" (exit {_code(ending)})" if _code(ending) is not None else ""
    why = f": {ending.detail}" if ending.detail else ""
    match ending.how:
        case How.EXITED:
            return f"completed (exit 0){f'; {ending.detail}' if ending.detail else ''}"
        case How.FAILED:
            return _failed(ending) + why
        case How.OOM:
            limit = f" of {format_size(spec.mem_limit)}" if spec is not None and spec.mem_limit else ""
            aside = f"; {ending.detail}" if ending.detail else ""
            return f"killed for exceeding its memory limit{limit}{code}{aside}"
        case How.TIMEOUT:
            return _timeout(spec, note) + code + (f"; {ending.detail}" if ending.detail else "")
        case How.KILLED if ending.detail == RUN_ENDED:
            return f"stopped because {RUN_ENDED}{code}"
        case How.KILLED:
            return f"stopped before its end{code}{f': {note}' if note else why}"
        case How.ENGINE_LOST:
            return f"lost: {ending.detail or 'the engine stopped while it ran'}"
        case How.UNKNOWN:
            return f"ended for an unknown reason{code}{why}"
        case How.NOT_STARTED:
            return f"not started{code}{why}"
    assert_never(ending.how)


def _failed(ending: Ending) -> str:
    if ending.signal is not None:
        return f"failed with exit {ending.exit_code} (as {_signal(ending.signal)} gives)"
    return f"failed with exit {ending.exit_code}" if ending.exit_code is not None else "failed"


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _timeout(spec: SandboxSpec | None, note: str) -> str:
    if note:
        return f"stopped {note.replace('past', 'after', 1)}" if note.startswith("past ") else f"stopped: {note}"
    limit = spec.lifetime.timeout if spec is not None else None
    return f"stopped after its timeout{f' of {format_duration(limit)}' if limit is not None else ''}"


def _measures(index: Index) -> list[str]:
    told = [f"after {_ran(index.ran_seconds)}"] if index.ran_seconds is not None else []
    usage = index.usage
    if usage is None or usage.memory_peak_bytes is None:
        return told
    surely = usage.memory_peak_by == "kernel" and index.ending.how is not How.OOM  # what came last was not sampled
    return [*told, f"peak memory {'' if surely else 'at least '}{size(usage.memory_peak_bytes)}"]


def _ran(seconds: float) -> str:
    return duration(seconds) if seconds >= 0.05 else "less than 0.1s"


def _patch(index: Index) -> list[tuple[str, str]]:
    if not any(kept.path == PATCH for kept in index.kept):
        return []
    count = index.patched_paths
    files = "changes" if count is None else f"{count} file{'s' if count != 1 else ''} changed"
    told = [("patch", f"{PATCH}, {files}" if count != 0 else "nothing changed in the workspace")]
    touched = index.protected_paths_touched
    if touched:
        listed = ", ".join(touched[:_LISTED]) + (" …" if len(touched) > _LISTED else "")
        told.append(("careful", one_line(f"the patch changes what the host runs: {listed}")))
    return told


def _not_copied(index: Index) -> list[tuple[str, str]]:
    if not index.not_copied:
        return []
    more = " …" if len(index.not_copied) > _LISTED else ""
    return [("not copied", one_line(", ".join(index.not_copied[:_LISTED]) + more))]


def _egress(index: Index) -> list[tuple[str, str]]:
    """What it reached; who it was refused is what a reviewer looks for."""
    egress = index.egress
    if egress is None or not egress.allowed + egress.denied:
        return []
    listed = ", ".join(egress.denied_targets[:_LISTED]) + (" …" if len(egress.denied_targets) > _LISTED else "")
    refused = f", {egress.denied} refused: {listed}" if egress.denied else ""
    return [("egress", one_line(f"{egress.allowed} request{'s' if egress.allowed != 1 else ''} allowed{refused}"))]


def _missing(index: Index) -> list[tuple[str, str]]:
    told = [one_line(f"{item.part} ({item.reason})") for item in index.missing[:_LISTED]]
    more = len(index.missing) - len(told)
    rows = [("missing", "; ".join(told) + (f"; and {more} more, see index.json" if more else ""))] if told else []
    cut = [kept.path for kept in index.kept if kept.truncated]
    rows += [("cut", one_line(", ".join(cut[:_LISTED])) + (" and more" if len(cut) > _LISTED else ""))] if cut else []
    count = max(index.refused_total, len(index.refused))
    if count:
        rows.append(("refused", f"{count} name{'s' if count != 1 else ''} that the agent left, see index.json"))
    return rows


def _place(folder: Path, base: Path | None) -> str:
    if base is None:
        return str(folder)
    shown = os.path.relpath(folder, base)
    return str(folder) if shown.startswith(os.pardir) else shown


def duration(seconds: float) -> str:
    """A duration as a person says it: `0.4s`, `12.3s`, `3m05s`, `2h03m`."""
    if seconds < 60:
        return f"{max(0.0, seconds):.1f}s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"


def size(count: int) -> str:
    """Bytes with one digit after the point: `41.2 MiB`."""
    number = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if number < 1024:
            return f"{number:.1f} {unit}" if unit != "B" else f"{count} B"
        number /= 1024
    return f"{number:.1f} TiB"
