"""What a reaper did: as records, in words, and as plain data.

Owns the records and the wording. What an engine or an agent wrote passes `one_line`. Reads nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

from msgspec import structs

from sandboxrun.data import Data
from sandboxrun.errors import Diagnostic, SandboxrunError, amount, one_line
from sandboxrun.evidence.store import Captured
from sandboxrun.plan.changes import Reason
from sandboxrun.report.evidence import Run, ending_text, evidence_plain
from sandboxrun.report.table import duration
from sandboxrun.spec.spec import SandboxSpec


class Reaped(Data):
    """One sandbox that was reaped, or is to be: why (`reason` in a word, `why` in a clause), and what was saved."""

    project: str
    address: str
    run: str
    reason: Reason
    why: str
    spec: SandboxSpec
    kept: bool = False  # its evidence is saved, and its container stays for as long as its lifetime says
    captured: Captured | None = None


class Swept(Data):
    """Something that no sandbox uses: `kind` is network, volume or container."""

    project: str
    kind: str
    name: str


class Left(Data):
    """What should have been reaped and is still there: a sandbox's `address`, "" for the whole project or engine."""

    project: str
    address: str
    faults: tuple[Diagnostic, ...]


class Result(Data):
    """What a reaper did, or with `planned` would do."""

    reaped: tuple[Reaped, ...] = ()
    swept: tuple[Swept, ...] = ()
    left: tuple[Left, ...] = ()
    seconds: float = 0.0
    planned: bool = False

    def joined(self, other: Result) -> Result:
        """Both together."""
        return structs.replace(
            self,
            reaped=(*self.reaped, *other.reaped),
            swept=(*self.swept, *other.swept),
            left=(*self.left, *other.left),
            seconds=self.seconds + other.seconds,
        )


# -- What a reaper tells that keeps running


class Connected(Data):
    """The engine is followed, from now on; all projects are looked at."""


class Lost(Data):
    """The engine can't be followed: it is tried again."""

    error: SandboxrunError


class ProjectLooked(Data):
    """A project was looked at: what was reaped, and how many of its sandboxes are there now, by state; None where not
    all were looked at."""

    project: str
    result: Result
    states: Mapping[str, int] | None


ReaperEvent = Connected | Lost | ProjectLooked

# -- In words and as plain data

_NOT_ITS_END = (Reason.EXPIRED, Reason.ORPHANED, Reason.JOB_OVER, Reason.SECOND)  # reasons that its end does not tell


def reap_text(result: Result) -> str:
    """A line or two for each sandbox that was reaped, then the counts."""
    return "\n".join([*(line for one in result.reaped for line in reaped_lines(one, result.planned)), _counts(result)])


def reaped_lines(one: Reaped, planned: bool = False) -> Iterator[str]:
    """One sandbox."""
    told, captured = [one.why], one.captured
    if captured is not None and captured.index is not None:
        index = captured.index
        apart = one.reason in _NOT_ITS_END and index.ending.detail != one.why
        told = [*(told if apart else ()), ending_text(index.ending, one.spec)]
        if index.ran_seconds is not None:
            told.append(f"after {duration(index.ran_seconds)}")
    said = ", ".join(told)
    verb = ("Would keep" if planned else "Kept") if one.kept else ("Would reap" if planned else "Reaped")
    yield f"{verb} {_named(one)}: {one_line(said)}"
    if captured is not None and captured.folder is not None:
        yield f"    evidence: {one_line(os.fspath(captured.folder))}"


def left_diagnostics(result: Result) -> tuple[Diagnostic, ...]:
    """What is still there, as errors."""
    return tuple(
        structs.replace(fault, message=f"could not reap {_named(one)}: {fault.message}", severity="error")
        for one in result.left
        for fault in one.faults
    )


def reap_plain(result: Result) -> dict[str, Any]:
    """All of it as data."""
    return {
        "planned": result.planned,
        "reaped": [reaped_plain(one) for one in result.reaped],
        "removed": [{"project": one.project, "kind": one.kind, "name": one.name} for one in result.swept],
        "failed": [left_plain(one) for one in result.left],
        "seconds": round(result.seconds, 3),
    }


def reaped_plain(one: Reaped) -> dict[str, Any]:
    """One sandbox as data."""
    told: dict[str, Any] = {
        "project": one.project,
        "sandbox": one.address,
        "run": one.run,
        "reason": reason_word(one),
        "detail": one.why,
        "kept": one.kept,
    }
    if one.captured is not None:
        told |= evidence_plain(Run(address=one.address, captured=one.captured))
        told.pop("note", None)
    return told


def reason_word(one: Reaped) -> str:
    """Why it was reaped, or that it was kept, as one word of data."""
    if one.kept:
        return "kept"
    return one.reason.value.removeprefix("delete_because_").removeprefix("replace_because_")


def left_plain(one: Left) -> dict[str, Any]:
    """What is still there as data."""
    return {
        "project": one.project,
        "sandbox": one.address or None,
        "errors": [{"message": fault.message, "help": fault.on_command_line.help} for fault in one.faults],
    }


def _named(one: Reaped | Left) -> str:
    if not one.project:
        return "leases"
    return f"{one.project}/{one_line(one.address)}" if one.address else f"project {one.project}"


def _counts(result: Result) -> str:
    kinds = [one.kind for one in result.swept]
    counts = [
        (sum(not one.kept for one in result.reaped), "sandbox", "es"),
        *((kinds.count(k), k, "s") for k in ("container", "network", "volume")),
    ]
    said = ", ".join(amount(*one) for one in counts if one[0])
    if not said:
        if any(one.kept for one in result.reaped):
            return "Nothing else to reap."
        return "Nothing to reap." if not result.left else "Nothing was reaped."
    return f"{'Would reap' if result.planned else 'Reaped'} {said}."
