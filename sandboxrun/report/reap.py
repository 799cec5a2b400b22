"""What a reaper did: as records, in words, as plain data; and, of one that keeps running, as metrics.

Owns the records, the wording and the metrics' names. What an engine or an agent wrote passes `one_line`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

from msgspec import structs

from sandboxrun.data import Data
from sandboxrun.errors import Diagnostic, SandboxrunError, UsageError, amount, one_line
from sandboxrun.evidence.store import Captured, RunResult
from sandboxrun.plan.changes import Reason
from sandboxrun.report.evidence import ending_text, evidence_plain
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
    kinds = [one.kind for one in result.swept]
    counts = [
        (sum(not one.kept for one in result.reaped), "sandbox", "es"),
        *((kinds.count(kind), kind, "s") for kind in ("container", "network", "volume")),
    ]
    said = ", ".join(amount(*one) for one in counts if one[0])
    last = f"{'Would reap' if result.planned else 'Reaped'} {said}."
    if not said and any(one.kept for one in result.reaped):
        last = "Nothing else to reap."
    elif not said:
        last = "Nothing to reap." if not result.left else "Nothing was reaped."
    return "\n".join([*(line for one in result.reaped for line in reaped_lines(one, result.planned)), last])


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
        told |= evidence_plain(RunResult(address=one.address, evidence=one.captured))
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


# -- Metrics, as OpenMetrics text: served on an address, or written to a file. They need prometheus-client, an optional
# extra


_STATES = ("created", "running", "paused", "ended")
_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)  # seconds


class Metrics:
    """Counts what a reaper tells. Raises UsageError for an address or a file that can't be used."""

    def __init__(self, endpoint: str | None = None, file: Path | None = None) -> None:
        try:
            import prometheus_client as prometheus
            from prometheus_client.openmetrics.exposition import generate_latest
        except ImportError as error:
            help = "install the extra: pip install 'sandboxrun[metrics]'"
            raise UsageError("metrics need the package prometheus-client", help=help) from error
        self._file, self._generate = file, cast("Callable[[Any], bytes]", generate_latest)
        self._sandboxes: dict[str, Mapping[str, int]] = {}  # by project
        self._registry = prometheus.CollectorRegistry()

        def made(kind: Any, name: str, help: str, *labels: str, **rest: Any) -> Any:
            return kind(f"sandboxrun_{name}", help, labels, registry=self._registry, **rest)

        self._there = made(prometheus.Gauge, "sandboxes", "Sandboxes on the engine.", "state")
        self._reaped = made(prometheus.Counter, "reaped", "Sandboxes that were reaped.", "reason")
        self._swept = made(prometheus.Counter, "swept", "Objects without a sandbox that were removed.", "kind")
        failed = "Times that a sandbox or project could not be reaped."
        self._failed = made(prometheus.Counter, "reap_failures", failed)
        self._lost = made(prometheus.Counter, "engine_lost", "Times that the engine could not be followed.")
        self._connected = made(prometheus.Gauge, "engine_connected", "Whether the engine is followed.")
        took = "Time to reap what is due of a project."
        self._seconds = made(prometheus.Histogram, "reap_seconds", took, buckets=_BUCKETS)
        for state in _STATES:
            self._there.labels(state)
        if endpoint is not None:
            self._serve(endpoint, prometheus)
        self._write()

    def __call__(self, told: ReaperEvent) -> None:
        """Count it."""
        match told:
            case Connected():
                self._connected.set(1)
                self._sandboxes.clear()
            case Lost():
                self._connected.set(0)
                self._lost.inc()
            case ProjectLooked(project=project, result=result, states=states):
                if states:
                    self._sandboxes[project] = states
                elif states is not None:
                    self._sandboxes.pop(project, None)
                for state in _STATES:
                    self._there.labels(state).set(sum(one.get(state, 0) for one in self._sandboxes.values()))
                for reaped in result.reaped:
                    self._reaped.labels(reason_word(reaped)).inc()
                for swept in result.swept:
                    self._swept.labels(swept.kind).inc()
                self._failed.inc(len(result.left))
                if result.reaped or result.swept or result.left:
                    self._seconds.observe(result.seconds)
        self._write()

    def text(self) -> bytes:
        """All of it, as OpenMetrics text."""
        return self._generate(self._registry)

    def _serve(self, endpoint: str, prometheus: Any) -> None:
        host, colon, port = endpoint.rpartition(":")
        if not colon or not port.isdecimal() or int(port) > 65535:
            raise UsageError(f"--metrics {endpoint}: write HOST:PORT, as in 127.0.0.1:9464")
        try:
            prometheus.start_http_server(int(port), addr=host.strip("[]") or "127.0.0.1", registry=self._registry)
        except OSError as error:
            raise UsageError(f"--metrics {endpoint}: {error.strerror or error}") from error

    def _write(self) -> None:
        """In one step: whoever reads it sees one state. Others may write to that directory, too: what is written is a
        new file, never what a link of that name leads to."""
        if self._file is None:
            return
        draft = self._file.with_name(f"{self._file.name}.{os.urandom(8).hex()}.tmp")
        try:
            with open(draft, "xb") as file:
                file.write(self.text())
            draft.replace(self._file)
        except OSError as error:
            with suppress(OSError):
                draft.unlink()
            raise UsageError(f"--metrics-file {self._file}: {error.strerror or error}") from error
