"""Saved evidence in words and as data: what a check of it found, one run of it, what retention removes.

Owns the wording. Reads nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
from msgspec import structs

from sandboxrun.data import Data
from sandboxrun.errors import Diagnostic, amount, one_line
from sandboxrun.evidence.checking import Checked
from sandboxrun.evidence.index import Index
from sandboxrun.evidence.retention import Pruned, Removal, Selection
from sandboxrun.evidence.store import ChainEntry, Notice, Store
from sandboxrun.report.evidence import block, ending_facts, ending_text, rows_of
from sandboxrun.report.table import size, table
from sandboxrun.spec.state import Ending


def checked_text(checked: Checked) -> str:
    """The problems, a line each, and what was compared."""
    lines = [one_line(str(problem)) for problem in checked.problems]
    count = f"{len(lines)}{' or more' if checked.more else ''}"
    word = "problem" if count == "1" else "problems"
    facts = [f"{amount(checked.runs, 'run')} with {amount(checked.files, 'file')}, {size(checked.bytes)}"]
    facts.append(f"{count} {word} found" if lines else "all as recorded")
    facts += [f"{amount(checked.removed, 'run')} removed earlier"] if checked.removed else []
    facts += [f"{amount(checked.sealed, 'seal')} valid"] if checked.sealed else []
    facts += [f"{amount(checked.unsealed, 'seal')} not checked"] if checked.unsealed else []
    facts += [f"{amount(len(checked.unfinished), 'run')} being saved now"] if checked.unfinished else []
    lines.append("; ".join(facts))
    if checked.last_line is not None:
        lines.append(f"last line: {checked.last_line}")
    return "\n".join(lines)


def checked_plain(checked: Checked) -> dict[str, Any]:
    """The same as data."""
    found = structs.asdict(checked)
    problems = [{"folder": problem.folder, "problem": problem.problem} for problem in checked.problems]
    return {"as_recorded": not problems, **found, "problems": problems, "unfinished": list(checked.unfinished)}


class StoredRun(Data):
    """What is known of a run: its line, the index (None: removed, or `fault` says why not), whether the line has this
    user's seal (None: it could not be checked), and what became of its evidence."""

    entry: ChainEntry
    place: Path
    index: Index | None = None
    fault: str | None = None
    sealed: bool | None = None
    held: Notice | None = None
    removed: Notice | None = None


def record_text(record: StoredRun) -> str:
    """One run, for people: how it ended, what it ran, and the files that are kept."""
    entry, index = record.entry, record.index
    rows = list(_facts(record))
    if index is None:
        told = ending_text(Ending(how=entry.outcome))
    else:
        told = ending_facts(index)
        rows += rows_of(index, record.place, None)
    lines = block(f"{one_line(entry.sandbox)}: {told}", rows)
    if index is not None and index.kept:
        listed = []
        for kept in index.kept:
            marks = (("cut at its limit", kept.truncated), ("contains a secret", kept.sensitive))
            listed.append((kept.path, size(kept.bytes), ", ".join(text for text, holds in marks if holds)))
        lines += ["", table(("FILE", "SIZE", ""), listed)]
    return "\n".join(lines)


def _facts(record: StoredRun) -> Iterator[tuple[str, str]]:
    entry, index = record.entry, record.index
    yield "run", f"{entry.run} of project {entry.project}"
    if index is not None:
        times = (("started", index.started_at), ("ended", index.finished_at), ("saved", index.captured_at))
        yield from ((key, when) for key, when in times if when)
        if index.git is not None:
            git = index.git
            told = [git.commit or "no commit", *([f"on {git.branch}"] if git.branch else [])]
            told += ["(not known whether files differ)"] if git.dirty is None and git.commit else []
            marks = [
                text for text, holds in (("changed files", git.dirty), ("untracked files", git.untracked)) if holds
            ]
            yield "git", " ".join(told) + (f", with {' and '.join(marks)}" if marks else "")
        if index.job is not None:
            yield "job", " ".join(index.job.values())
        if index.tool_version:
            yield "version", f"sandboxrun {index.tool_version}"
        if index.digests.image:
            yield "image", " ".join((index.digests.image, *index.digests.repo_digests))
    yield "spec", entry.spec
    if record.held is not None:
        yield "held", f"{record.held.reason} ({record.held.by}, {record.held.at})"
    if record.removed is not None:
        yield "removed", f"{record.removed.reason} ({record.removed.by}, {record.removed.at})"
    elif record.fault is not None:
        yield "careful", record.fault
    seal = {True: "valid", False: "not this user's: it was changed, or another user saved this", None: "not checked"}
    yield "seal", seal[record.sealed]


def record_plain(record: StoredRun) -> dict[str, Any]:
    """The same as data: the chain's lines and the index as they are."""
    return {
        "directory": str(record.place),
        "line": msgspec.to_builtins(record.entry),
        "sealed": record.sealed,
        "held": msgspec.to_builtins(record.held),
        "removed": msgspec.to_builtins(record.removed),
        "index": None if record.index is None else record.index.plain(),
        "fault": record.fault,
    }


# -- What retention removes


def selection_text(selection: Selection) -> str:
    """What would be removed, and what stays in any case."""
    listed = [*selection.interrupted, *selection.removals]
    rows = [(r.entry.folder, r.entry.sandbox, size(r.bytes), r.reason) for r in listed]
    lines = [table(("RUN", "SANDBOX", "SIZE", "REASON"), rows), ""] if rows else []
    total = size(sum(r.bytes for r in listed))
    lines.append(f"{amount(len(listed), 'run')} to remove, {total}." if rows else "Nothing to remove.")
    if selection.held:
        lines.append(f"{amount(selection.held, 'run')} {_stay(selection.held)} because of a hold.")
    if selection.others:
        whose = f"another user or machine saved {'it' if selection.others == 1 else 'them'}"
        lines.append(f"{amount(selection.others, 'run')} {_stay(selection.others)}: {whose}.")

    if selection.over:
        lines.append(f"What stays is {size(selection.over)} larger than the limit.")
    return "\n".join(lines)


def _stay(count: int) -> str:
    return "stays" if count == 1 else "stay"


def selection_plain(selection: Selection) -> dict[str, Any]:
    """The same as data."""
    return {
        "removals": [_removal(removal) for removal in (*selection.interrupted, *selection.removals)],
        "over": selection.over,
        "held": selection.held,
        "others": selection.others,
    }


def pruned_text(pruned: Pruned) -> str:
    """What was removed, and what could not be."""
    failed = [f"{one_line(folder)} could not be removed: {one_line(reason)}" for folder, reason in pruned.failed]
    return "\n".join([*failed, f"{amount(len(pruned.removed), 'run')} removed, {size(pruned.bytes)} freed"])


def over_diagnostics(store: Store, pruned: Pruned) -> tuple[Diagnostic, ...]:
    """What stays and is larger than the limit, as an error."""
    over = pruned.selection.over
    message = f"the evidence in {one_line(str(store.path))} is still {size(over)} larger than its limit"
    help = "the newest run of each project stays, as does what is held or another user saved"
    return (Diagnostic(message=message, help=help),) if over else ()


def pruned_plain(pruned: Pruned) -> dict[str, Any]:
    """The same as data."""
    return {
        "removed": [_removal(removal) for removal in pruned.removed],
        "failed": [{"folder": folder, "reason": reason} for folder, reason in pruned.failed],
        "over": pruned.selection.over,
        "held": pruned.selection.held,
        "others": pruned.selection.others,
    }


def _removal(removal: Removal) -> dict[str, Any]:
    entry = removal.entry
    told = {"run": entry.run, "project": entry.project, "sandbox": entry.sandbox, "folder": entry.folder}
    return {**told, "bytes": removal.bytes, "reason": removal.reason}
