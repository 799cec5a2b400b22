"""How runs ended, in words: what is said at the end of `run`, `apply --wait` and `destroy`, and of their evidence.

Owns the wording. What an engine or an agent wrote passes `printable` and the mask. Reads nothing.
"""

from __future__ import annotations

import os
import re
import signal
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, assert_never

from msgspec import structs

from sandboxrun.errors import ExitCode, amount, one_line, redact
from sandboxrun.evidence.index import Index
from sandboxrun.evidence.store import RunResult
from sandboxrun.report.table import duration, size
from sandboxrun.spec.option_types import DESTINATION, METADATA_NAMES
from sandboxrun.spec.spec import SandboxSpec
from sandboxrun.spec.state import PAST_TTL, RUN_ENDED, WAS_IDLE, Ending, How
from sandboxrun.spec.types import format_duration, format_size

PATCH, UNTRACKED = "workspace.patch", "workspace-untracked.patch"
_LISTED = 5  # missing parts that are named


def evidence_text(
    runs: Iterable[RunResult], *, sensitive: frozenset[str] = frozenset(), relative_to: Path | None = None
) -> str:
    """All runs, a few lines each. Paths below `relative_to` are shown from there."""
    return "\n".join(redact(line, sensitive) for run in runs for line in _run_lines(run, relative_to))


MANY = 10  # runs: of more, those that went well are only counted


def runs_text(
    runs: Sequence[RunResult],
    *,
    sensitive: frozenset[str] = frozenset(),
    relative_to: Path | None = None,
    brief: bool = False,
    stopping: bool = False,
) -> str:
    """All runs and, of several, how many ended how. `brief`, or of many: only those that did not complete, or of which
    there is something to know, a few lines each. `stopping`: who asks wanted those to end that still ran."""
    named = [run for run in runs if not (brief or len(runs) > MANY) or _is_notable(run, stopping)]
    lines = [evidence_text(named, sensitive=sensitive, relative_to=relative_to)] if named else []
    if len(runs) > 1:
        counts = Counter(map(_result_of, runs))
        told = ", ".join(f"{counts[word]} {word}" for word in dict.fromkeys(_RESULTS.values()) if counts[word])
        lines.append(f"{len(runs)} sandboxes: {told}")
    return "\n".join(lines)


# The words that runs are counted by, in the order in which they are reported.
_RESULTS = {
    How.EXITED: "passed",
    How.FAILED: "failed",
    How.TIMEOUT: "timed out",
    How.OOM: "out of memory",
    How.KILLED: "stopped",
    How.ENGINE_LOST: "lost",
    How.UNKNOWN: "lost",
    How.NOT_STARTED: "not run",
}


def _result_of(run: RunResult) -> str:
    """The word that it is counted by."""
    never = How.NOT_STARTED if run.evidence is None else How.UNKNOWN  # its evidence could not be saved
    return _RESULTS[run.ending.how if run.ending is not None else never]


def ended_by_itself(run: RunResult) -> bool:
    """Whether its command ended as it liked, well or badly."""
    return _result_of(run) in (_RESULTS[How.EXITED], _RESULTS[How.FAILED])


def _is_notable(run: RunResult, stopping: bool) -> bool:
    """Whether there is more to know than that it completed: what it lacks, was refused, or changed with care."""
    index = run.index
    if index is None:
        return True
    as_wanted = stopping and index.ending.how is How.KILLED and index.ending.detail is None
    if index.ending.how is not How.EXITED and not as_wanted:
        return True
    egress = index.egress
    return bool(index.protected_paths_touched or index.refused_total or (egress is not None and egress.denied))


def ending_text(ending: Ending, spec: SandboxSpec | None = None, note: str = "") -> str:
    """How it ended, as a clause: `killed for exceeding its memory limit of 512m (exit 137)`."""
    if ending.detail in (PAST_TTL, WAS_IDLE):  # said once: by the caller, who knows the time, else as its evidence says
        ending, note = structs.replace(ending, detail=None), note or ending.detail or ""
    return one_line(_ending(ending, spec, note))


def evidence_plain(run: RunResult) -> dict[str, Any]:
    """A run as data, in the words that `--json` has. A timeout is 124, whatever the program gave."""
    captured = run.evidence
    told: dict[str, Any] = {"sandbox": run.address, "note": run.note}
    index = captured.index if captured is not None else None
    if captured is None or index is None:
        if captured is not None:
            told["failure"] = captured.failure
        if run.seen is not None:
            return {**told, "outcome": run.seen.how.value, "exit_code": _code(run.seen), "evidence": None}
        return told if captured is not None else {**told, "outcome": How.NOT_STARTED.value}
    return {
        **told,
        "run": index.run,
        "outcome": index.ending.how.value,
        "exit_code": _code(index.ending),
        "ran_seconds": index.ran_seconds,
        "evidence": str(captured.folder) if captured.folder is not None else None,
        "missing": [item.part for item in index.missing],
        "protected_paths_touched": list(index.protected_paths_touched),
        **({"kept": run.kept} if run.kept else {}),
    }


def _code(ending: Ending) -> int | None:
    return ExitCode.TIMEOUT if ending.how is How.TIMEOUT else ending.exit_code


# Nobody knows which: the container is not there, or runs again.
_ELSEWHERE = "no evidence here: another job collected it, or somebody removed or restarted it"


def _run_lines(run: RunResult, base: Path | None) -> list[str]:
    name = one_line(run.address)
    captured = run.evidence
    if captured is None and run.seen is None:
        return [f"{name}: {one_line(run.note) or 'was not run'}"]
    if captured is None or captured.index is None:
        ended = f"{ending_text(run.seen, run.spec, run.note)}; " if run.seen is not None else ""
        failure = captured and one_line(captured.failure or "the reason is unknown")
        return [f"{name}: {ended}" + (f"its evidence could not be saved: {failure}" if failure else _ELSEWHERE)]
    rows = rows_of(captured.index, captured.folder, base)
    if run.kept:
        keep_for = run.spec.lifetime.keep_for if run.spec is not None else None
        time = f" for {format_duration(keep_for)}" if keep_for is not None else ""
        rows.append(("container", f"kept{time} as {run.kept}; `sandboxrun destroy` removes it"))
    return block(f"{name}: {ending_facts(captured.index, run.spec, run.note)}", rows)


def block(head: str, rows: Sequence[tuple[str, str]]) -> list[str]:
    """A head, and below it the rows' keys and values."""
    width = max((len(key) for key, _ in rows), default=0) + 1
    return [head, *(f"    {key + ':':<{width}} {one_line(text)}" for key, text in rows)]


def ending_facts(index: Index, spec: SandboxSpec | None = None, note: str = "") -> str:
    """How it ended, and the figures that matter for that."""
    facts = [ending_text(index.ending, spec, note)]
    if index.ran_seconds is not None:
        facts.append(f"after {duration(index.ran_seconds) if index.ran_seconds >= 0.05 else 'less than 0.1s'}")
    if index.usage is not None and index.usage.memory_peak_bytes is not None:
        # What came last before an end by the memory limit was not sampled.
        surely = index.usage.memory_peak_by == "kernel" and index.ending.how is not How.OOM
        facts.append(f"peak memory {'' if surely else 'at least '}{size(index.usage.memory_peak_bytes)}")
    return ", ".join(facts)


def rows_of(index: Index, folder: Path | None, base: Path | None) -> list[tuple[str, str]]:
    """Where the evidence is, what matters of it, and what it lacks."""
    rows = []
    if folder is not None:
        place = os.path.relpath(folder, base) if base is not None else os.pardir
        rows = [("evidence", str(folder) if place.startswith(os.pardir) else place)]
    return [*rows, *_saved(index), *_lost(index)]


def _saved(index: Index) -> Iterator[tuple[str, str]]:
    """The patch, and what was reached; what it may do, and who was refused, is what a reviewer looks for."""
    if any(kept.path == PATCH for kept in index.kept):
        count = index.patched_paths
        files = "changes" if count is None else f"{amount(count, 'file')} changed"
        # What was refused may be all that the agent did: nobody is told then that it did nothing.
        apart = index.untracked_paths or any(item.part == PATCH for item in index.refused)
        none = "no change but those below" if apart else "nothing changed in the workspace"
        yield "patch", f"{PATCH}, {files}" if count != 0 else none
        if index.untracked_paths:
            files = amount(index.untracked_paths, "file")
            yield "untracked", f"{UNTRACKED}, {files} that git ignores or doesn't track"
        if index.protected_paths_touched:
            yield "careful", f"the patch changes what the host runs: {_first(index.protected_paths_touched)}"
    if index.not_copied:
        yield "not copied", _first(index.not_copied)
    egress = index.egress
    if egress is None:
        return
    if not egress.allowed + egress.denied:
        yield "egress", "no host was asked for"
        return
    refused = f", {egress.denied} refused: {_first(egress.denied_targets)}" if egress.denied else ""
    failed = f" ({egress.failed} found no host)" if egress.failed else ""
    yield "egress", f"{amount(egress.allowed, 'request')} allowed{failed}{refused}"
    asked = [target if ":" in target else f"{target}:443" for target in egress.unlisted_targets]
    # An agent that asks for a name with an asterisk does not get more suggested than one host.
    hosts = [t for t in asked if re.fullmatch(DESTINATION, t, re.ASCII) and not t.startswith("*")]
    if metadata := [t for t in hosts if t.partition(":")[0].lower() in METADATA_NAMES]:
        yield (
            "metadata",
            f"no setting allows {_first(metadata)}: it hands out the cloud's credentials; some SDKs try it",
        )
    if named := [f'"{target}"' for target in hosts if target not in metadata]:
        yield "to allow", f"add {_first(named)} to egress: allow: in the profile"
    if private := egress.private_addresses:
        yield "to allow", f"list a range that has {_first(private)} under egress: private_networks: in the profile"


def _lost(index: Index) -> Iterator[tuple[str, str]]:
    """What the evidence does not have."""
    if index.missing:
        more = len(index.missing) - _LISTED
        listed = "; ".join(f"{item.part} ({item.reason})" for item in index.missing[:_LISTED])
        yield "missing", listed + (f"; and {more} more, see index.json" if more > 0 else "")
    if cut := [kept.path for kept in index.kept if kept.truncated]:
        yield "cut", _first(cut, " and more")
    if count := max(index.refused_total, len(index.refused)):
        told = "; ".join(f"{name.path} ({name.reason})" for name in index.refused[:_LISTED])
        rest = "" if count <= min(len(index.refused), _LISTED) else "; more in index.json"
        yield "refused", f"{amount(count, 'name')} that the agent left: {told}{rest}"


def _first(names: Sequence[str], more: str = " …") -> str:
    return ", ".join(names[:_LISTED]) + (more if len(names) > _LISTED else "")


def _ending(ending: Ending, spec: SandboxSpec | None, note: str) -> str:
    code = f" (exit {_code(ending)})" if _code(ending) is not None else ""
    why, aside = (f"{mark} {ending.detail}" if ending.detail else "" for mark in (":", ";"))
    match ending.how:
        case How.EXITED:
            return f"completed (exit 0){aside}"
        case How.FAILED if ending.signal is not None:
            named = {int(s): s.name for s in signal.Signals}.get(ending.signal, f"signal {ending.signal}")
            return f"failed with exit {ending.exit_code} (as {named} gives){why}"
        case How.FAILED:
            return f"failed with exit {ending.exit_code}{why}" if ending.exit_code is not None else f"failed{why}"
        case How.OOM:
            limit = f" of {format_size(spec.mem_limit)}" if spec is not None and spec.mem_limit else ""
            return f"killed for exceeding its memory limit{limit}{code}{aside}"
        case How.TIMEOUT if note:
            after = note.replace("past", "after", 1) if note.startswith("past ") else None
            return f"stopped {after}{code}{aside}" if after else f"stopped: {note}{code}{aside}"
        case How.TIMEOUT:
            timeout = spec.lifetime.timeout if spec is not None else None
            limit = f" of {format_duration(timeout)}" if timeout is not None else ""
            return f"stopped after its timeout{limit}{code}{aside}"
        case How.KILLED if ending.detail == RUN_ENDED:
            return f"stopped because {RUN_ENDED}{code}"
        case How.KILLED:
            return f"stopped before its end{code}{f': {note}' if note else why}"
        case How.ENGINE_LOST:
            return f"lost: {ending.detail or 'the engine stopped while it was running'}"
        case How.UNKNOWN:
            return f"ended for an unknown reason{code}{why}"
        case How.NOT_STARTED:
            return f"not started{code}{why}"
    assert_never(ending.how)
