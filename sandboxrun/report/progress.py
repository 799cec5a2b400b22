"""What an apply shows while it works: plain lines, a live display, JSON lines, or GitHub's annotations.

Owns the choice and the plain lines; the others stand in `progress_live` and `progress_json`. Listeners are called
from several threads, and never raise: output that nobody reads any more must not stop an apply.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from time import monotonic
from typing import Protocol, TextIO

from sandboxrun.apply.events import Event, StepDone, StepFailed, StepProgress, StepSkipped, Undone
from sandboxrun.apply.waiting import DependencyFailed
from sandboxrun.errors import SandboxrunError
from sandboxrun.plan.changes import Plan
from sandboxrun.plan.text import one_line, redact, redacted
from sandboxrun.report import steps
from sandboxrun.report.streams import write_all
from sandboxrun.report.tracker import Resource, Tracker

FORMS = ("auto", "lines", "live", "json", "github")
PATIENCE = 5.0  # seconds that a line on stderr may wait for its reader
EVERY = 5.0  # seconds between two lines on how far one step is


class Progress(Protocol):
    """A listener of an apply. Call `begin` once the plan is agreed on and `end` when the apply is over, however."""

    def begin(self, plan: Plan) -> None: ...

    def __call__(self, event: Event) -> None: ...

    def say(self, text: str) -> None:
        """A remark beside the steps, such as what the project's lock waits for."""

    def end(self) -> None: ...


def progress_for(
    stream: TextIO,
    environment: Mapping[str, str],
    *,
    form: str = "auto",
    verbose: bool = False,
    quiet: bool = False,
) -> Progress:
    """The listener for `stream`. `auto`: annotations where GITHUB_ACTIONS is true, live on a terminal, lines else.

    `verbose` tells every step, `quiet` only what fails. NO_COLOR and TERM=dumb are honoured.
    """
    if form == "json":
        from sandboxrun.report.progress_json import JsonProgress

        return JsonProgress(writer(stream))
    if form == "auto":
        form = "github" if environment.get("GITHUB_ACTIONS") == "true" else "live" if stream.isatty() else "lines"
    dull = environment.get("TERM") == "dumb" or not stream.isatty()
    if form == "live" and not dull and not quiet:
        try:
            from sandboxrun.report.progress_live import LiveProgress
        except ImportError:  # no rich
            form = "lines"
        else:
            return LiveProgress(stream, colour=not environment.get("NO_COLOR"), verbose=verbose)
    return LineProgress(writer(stream, patience=PATIENCE), verbose=verbose, quiet=quiet, github=form == "github")


def writer(stream: TextIO, *, patience: float | None = None) -> Callable[[str], None]:
    """Writes lines, whole; falls silent when the stream is closed, or takes nothing for `patience` seconds.

    Without `patience` the stream is for results: it keeps what it could not write, and fails again at its last flush.
    """
    lock = threading.Lock()
    silent = False

    def write(line: str) -> None:
        nonlocal silent
        with lock:
            if silent:
                return
            try:
                if patience is None:
                    stream.write(f"{line}\n")
                    stream.flush()
                else:
                    write_all(stream, f"{line}\n".encode("utf-8", "backslashreplace"), patience=patience)
            except (OSError, ValueError):
                silent = True

    return write


class LineProgress:
    """A line for each resource when it is done; with `verbose`, for each step; with `quiet`, for what fails only."""

    def __init__(
        self,
        write: Callable[[str], None],
        *,
        verbose: bool = False,
        quiet: bool = False,
        github: bool = False,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._write = write
        self._verbose, self._quiet, self._github = verbose, quiet, github
        self._tracker = Tracker(clock)
        self._sensitive: frozenset[str] = frozenset()
        self._blocked: set[str] = set()  # addresses that were not started for a dependency's end
        self._told: dict[str, float] = {}  # step → when a line last told how far it is
        self._lock = threading.Lock()

    def begin(self, plan: Plan) -> None:
        """The steps to expect."""
        self._sensitive = plan.sensitive
        self._tracker.expect(plan.operations)

    def __call__(self, event: Event) -> None:
        resource = self._tracker.feed(event)
        for line in self._lines(event, resource):
            self._write(redact(line, self._sensitive))

    def say(self, text: str) -> None:
        """A remark."""
        if not self._quiet:
            self._write(one_line(redact(text, self._sensitive)))

    def end(self) -> None:
        """Say what was not come to."""
        for resource in self._tracker.unfinished():
            self._write(redact(f"{steps.resource(resource.address)}: {unfinished(resource)}", self._sensitive))

    def _lines(self, event: Event, resource: Resource | None) -> list[str]:
        match event:
            case StepFailed(step=step, error=DependencyFailed() as error):  # the caller tells it, with what it comes to
                self._blocked.add(step.address)
                return self._annotations(error) if self._github else []
            case StepFailed(step=step, error=error):
                before = f"{', '.join(resource.words)}; " if resource is not None and resource.words else ""
                lines = [f"{steps.resource(step.address)}: {before}failed while {steps.doing(step)}: {said(error)}"]
                return lines + (self._annotations(error) if self._github else [])
            case StepSkipped(step=step, why=""):
                self._blocked.add(step.address)
            case StepSkipped(step=step, why=why) if resource is not None and self._first_skip(resource):
                return [f"{steps.resource(step.address)}: left out: {one_line(why)}"]
            case Undone(address=address, what=what) if address not in self._blocked:
                return [f"{steps.resource(address)}: {undone(what)}"]
            case StepDone() if resource is not None and not self._quiet:
                return self._done(event, resource)
            case StepProgress(step=step, text=text) if not self._quiet and self._due(step.id):
                return [f"{steps.resource(step.address)}: {steps.doing(step, text)}"]
        return []

    def _done(self, event: StepDone, resource: Resource) -> list[str]:
        if self._verbose:
            note = (
                f", {one_line(event.note)}"
                if event.note and event.note not in steps.done(event.step, event.note)
                else ""
            )
            return [
                f"{steps.resource(resource.address)}: {steps.done(event.step, event.note)}{note} ({event.seconds:.1f}s)"
            ]
        return [finished(resource, self._tracker.now())] if resource.finished and resource.words else []

    def _annotations(self, error: SandboxrunError) -> list[str]:
        from sandboxrun.report.diagnostics import annotation

        return [annotation(redacted(diagnostic, self._sensitive)) for diagnostic in error.diagnostics]

    def _first_skip(self, resource: Resource) -> bool:
        """Whether nothing of this resource was told to be left out yet, and no failure of its own says it."""
        with self._lock:
            first = f"skip {resource.address}" not in self._told and not resource.failed
            self._told[f"skip {resource.address}"] = 0.0
            return first

    def _due(self, step: str) -> bool:
        now = self._tracker.now()
        with self._lock:
            if now - self._told.get(step, -EVERY) < EVERY:
                return False
            self._told[step] = now
            return True


def finished(resource: Resource, now: float) -> str:
    """`reviewer: created, started (0.4s)`."""
    return f"{steps.resource(resource.address)}: {', '.join(resource.words)} ({resource.seconds(now):.1f}s)"


def undone(what: str) -> str:
    """What became of what an apply had made and could not finish."""
    return one_line(f"{what} again" if what.endswith("removed") else what)


def unfinished(resource: Resource) -> str:
    """How far a resource came when the apply was stopped."""
    return f"{', '.join(resource.words)}; not finished" if resource.words else "not begun"


def said(error: SandboxrunError) -> str:
    """An error's messages on one line; the help is told with the error itself, at the end."""
    return one_line("; ".join(diagnostic.message for diagnostic in error.diagnostics))
