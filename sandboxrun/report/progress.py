"""What an apply shows while it works: the words of its steps, events put together per resource, plain lines."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from time import monotonic
from typing import Protocol, TextIO

from msgspec import Struct, field, structs

from sandboxrun.backend import session as events
from sandboxrun.backend.errors import DependencyFailed
from sandboxrun.errors import SandboxrunError, one_line, redact, redacted
from sandboxrun.plan import operations as op
from sandboxrun.plan.changes import Plan
from sandboxrun.plan.operations import Operation
from sandboxrun.report.streams import write_all
from sandboxrun.report.table import duration, size

# -- What a plan's steps are called while an apply works. Owns the words. Pure

_UNTIL = {
    "service_started": "to start",
    "service_healthy": "to be healthy",
    "service_completed_successfully": "to complete",
}


def resource_of(address: str) -> str:
    """An address as the first word of a line: `reviewer["lint"]`, `network default`, `image node:20-alpine`."""
    kind, dot, key = address.partition(".")
    return one_line(f"{kind} {key}" if dot and kind in ("network", "volume", "image") else address or "leftovers")


def doing(step: Operation, how_far: str = "") -> str:
    """The step as something that goes on, with how far it is."""
    words = _words(step)[0]
    return one_line(f"{words}: {how_far}" if how_far else words)


def done(step: Operation, note: str = "") -> str:
    """The step as something done, with what its handler noted of it where a person wants to know."""
    said = _words(step)[1]
    return one_line(f"{said} ({note})" if note and isinstance(step, op.UploadWorkspace) else said)


_MINOR = (
    op.CreatePart | op.RecordSpec | op.GiveVolume | op.CreatePrivateNetwork | op.CreateGateway | op.StartGateway
    | op.StartKeeper | op.CheckSandbox | op.RenameSandbox
)  # fmt: skip


def minor(step: Operation) -> bool:
    """Whether the step is a part of another one in a person's eyes: shown with -v only."""
    return isinstance(step, _MINOR)


WORDS: Mapping[type, tuple[str, str]] = {  # as something that goes on, and as something done
    op.PullImage: ("pulling", "pulled"),
    op.BuildHelper: ("building", "built"),
    op.StartKeeper: ("reserving memory for {parts}", "memory reserved"),
    op.CreateNetwork: ("creating", "created"),
    op.CreateVolume: ("creating", "created"),
    op.CreateSandbox: ("creating", "created"),
    op.CreatePrivateNetwork: ("creating its network", "network created"),
    op.CreateGateway: ("creating its gateway", "gateway created"),
    op.StartGateway: ("starting its gateway", "gateway ready"),
    op.ReloadGateway: ("reloading the gateway rules", "gateway rules reloaded"),
    op.CheckSandbox: ("reading it back", "read back"),
    op.RenameSandbox: ("renaming", "renamed"),
    op.RemoveSandbox: ("removing", "removed"),
    op.RemoveNetwork: ("removing", "removed"),
    op.RemoveVolume: ("removing", "removed"),
    op.KeepSandbox: ("keeping its container", "container kept"),
    op.RemoveLeftover: ("removing what an apply left behind", "removed"),
    op.CreatePart: ("making the {step.part} volume", "{step.part} volume made"),
    op.UploadWorkspace: ("copying the workspace in", "workspace copied in"),
    op.UploadFiles: ("putting {step.part} in place", "{step.part} in place"),
    op.GiveVolume: ("giving the volume {step.key} to its user", "volume {step.key} given to its user"),
    op.ConnectNetwork: ("connecting to {step.network}", "connected to {step.network}"),
    op.DisconnectNetwork: ("disconnecting from {step.network}", "disconnected from {step.network}"),
    op.AwaitSandbox: ("waiting for {step.dependency} {until}", "waited for {step.dependency}"),
    op.StartSandbox: ("starting", "started"),
    op.UpdateSandbox: ("updating {options}", "updated {options}"),
    op.ResumeSandbox: ("unpausing", "unpaused"),
    op.RecordSpec: ("recording the new spec", "recorded"),
    op.StopSandbox: ("stopping", "stopped"),
    op.CaptureEvidence: ("saving evidence", "evidence saved"),
}


def _words(step: Operation) -> tuple[str, ...]:
    words = WORDS[type(step)]
    if isinstance(step, op.StopSandbox | op.RemoveSandbox) and step.replaced:
        words = (f"{words[0]} the old container", f"old container {words[1]}")
    parts, options = (getattr(step, name, ()) for name in ("parts", "options"))
    until = _UNTIL.get(getattr(step, "condition", ""), "")
    return tuple(w.format(step=step, parts=" and ".join(parts), options=", ".join(options), until=until) for w in words)


# -- Puts an apply's events together, per resource: what a person wants to see is one line for each, when it is …


class Resource(Struct, kw_only=True):
    """One resource while an apply works on it. Times in seconds of the tracker's clock."""

    address: str
    steps: set[str] = field(default_factory=set)  # those that are not done yet
    words: list[str] = field(default_factory=list)
    active: dict[str, str] = field(default_factory=dict)  # step → what goes on
    began: float | None = None
    ended: float | None = None
    failed: bool = False
    skipped: bool = False

    @property
    def finished(self) -> bool:
        """Whether all its steps were done."""
        return not self.steps and not self.active and not self.failed and not self.skipped

    def seconds(self, now: float) -> float:
        """How long it has taken so far, or altogether."""
        return max(
            0.0, (self.ended if self.ended is not None else now) - (self.began if self.began is not None else now)
        )


class Tracker:
    """The resources of one apply, and how far each is. Steps that `expect` did not name are learned as they begin."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._lock = threading.RLock()
        self._known: dict[str, Resource] = {}

    def expect(self, operations: Iterable[Operation]) -> None:
        """The steps to come; forgets what was before."""
        with self._lock:
            self._known = {}
            for step in operations:
                self._of(step).steps.add(step.id)

    def feed(self, event: events.Event) -> Resource | None:
        """Note an event; the resource that it is about, as it is now, or None for an event about no step."""
        with self._lock:
            match event:
                case events.StepStarted(step=step):
                    self._begin(step)
                case events.Planned(operations=operations):
                    self.expect(operations)
                    return None
                case events.StepProgress(step=step, text=text):
                    self._of(step).active[step.id] = doing(step, text)
                case events.StepDone(step=step, note=note):
                    self._end(step).words += [] if minor(step) else [done(step, note)]
                case events.StepFailed(step=step):
                    self._end(step).failed = True
                case events.StepSkipped(step=step):
                    self._end(step).skipped = True
                case _:
                    return None
            return structs.replace(self._of(step), words=list(self._of(step).words), steps=set(self._of(step).steps))

    def now(self) -> float:
        return self._clock()

    def active(self) -> list[Resource]:
        """Those that something goes on with."""
        with self._lock:
            return [structs.replace(r, active=dict(r.active)) for r in self._known.values() if r.active]

    def unfinished(self) -> list[Resource]:
        """Those of which a step was neither done nor failed nor skipped: the apply was stopped before."""
        with self._lock:
            return [structs.replace(r) for r in self._known.values() if r.steps and not r.failed and not r.skipped]

    def _of(self, step: Operation) -> Resource:
        return self._known.setdefault(step.address, Resource(address=step.address))

    def _begin(self, step: Operation) -> None:
        resource = self._of(step)
        resource.steps.add(step.id)
        resource.active[step.id] = doing(step)
        resource.ended = None
        if resource.began is None:
            resource.began = self._clock()

    def _end(self, step: Operation) -> Resource:
        resource = self._of(step)
        resource.steps.discard(step.id)
        resource.active.pop(step.id, None)
        resource.ended = self._clock()
        return resource


# -- What an apply shows while it works: plain lines, a live display, JSON lines, or GitHub's annotations

PATIENCE = 5.0  # seconds that a line on stderr may wait for its reader
EVERY = 5.0  # seconds between two lines on how far one step is
GLANCE = 30.0  # seconds between two reports of what is waited for, as lines
GLANCE_LIVE = 2.0  # and on a terminal
LISTED = 5  # sandboxes of one such report
WIDEST = 100  # characters of a line that a sandbox wrote


class Progress(Protocol):
    """A listener of an apply. Call `begin` once the plan is agreed on and `end` when the apply is over, however.
    `glance` is how often, in seconds, it wants to hear how those are that are waited for."""

    glance: float | None

    def begin(self, plan: Plan) -> None: ...

    def __call__(self, event: events.Event) -> None: ...

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
    sensitive: frozenset[str] = frozenset(),
) -> Progress:
    """The listener for `stream`. `auto`: annotations where GITHUB_ACTIONS is true, live on a terminal, lines else.

    `verbose` prints every step, `quiet` only what fails; `sensitive` texts are masked, and those of the plan that
    `begin` is given. NO_COLOR and TERM=dumb are honoured.
    """
    if form == "json":
        from sandboxrun.report.progress_json import JsonProgress

        return JsonProgress(writer(stream), sensitive=sensitive)
    if form == "auto":
        form = "github" if environment.get("GITHUB_ACTIONS") == "true" else "live" if stream.isatty() else "lines"
    dull = environment.get("TERM") == "dumb" or not stream.isatty()
    if form == "live" and not dull and not quiet:
        from sandboxrun.report.progress_live import LiveProgress

        return LiveProgress(stream, colour=not environment.get("NO_COLOR"), verbose=verbose, sensitive=sensitive)
    write = writer(stream, patience=PATIENCE)
    return LineProgress(write, verbose=verbose, quiet=quiet, github=form == "github", sensitive=sensitive)


def writer(stream: TextIO, *, patience: float | None = None) -> Callable[[str], None]:
    """Writes lines, whole; falls silent when the stream is closed, or takes nothing for `patience` seconds.

    Without `patience` the stream is for results: it keeps what it could not write, and fails again at its last flush.
    """
    lock = threading.RLock()
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
        sensitive: frozenset[str] = frozenset(),
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self.glance = None if quiet else GLANCE
        self._write = write
        self._verbose, self._quiet, self._github = verbose, quiet, github
        self.tracker = Tracker(clock)
        self._sensitive = sensitive
        self._blocked: set[str] = set()  # addresses that were not started for a dependency's end
        self._told: dict[str, float] = {}  # step → when a line last told how far it is
        self._lock = threading.Lock()

    def begin(self, plan: Plan) -> None:
        self._sensitive |= plan.sensitive
        self.tracker.expect(plan.operations)

    def __call__(self, event: events.Event) -> None:
        resource = self.tracker.feed(event)
        for line in self._lines(event, resource):
            self._write(self.hide(line))

    def say(self, text: str) -> None:
        if not self._quiet:
            self._write(one_line(self.hide(text)))

    def end(self) -> None:
        """Report what was not reached."""
        for resource in self.tracker.unfinished():
            self._write(self.hide(f"{resource_of(resource.address)}: {unfinished(resource)}"))

    def hide(self, text: str) -> str:
        """`text` without what is sensitive."""
        return redact(text, self._sensitive)

    def _lines(self, event: events.Event, resource: Resource | None) -> list[str]:
        match event:
            case events.StepFailed(
                step=step, error=DependencyFailed() as error
            ):  # the caller tells it, with what it comes to
                self._blocked.add(step.address)
                return self._annotations(error) if self._github else []
            case events.StepFailed(step=step, error=error):
                before = f"{', '.join(resource.words)}; " if resource is not None and resource.words else ""
                said = one_line(
                    "; ".join(diagnostic.message for diagnostic in error.diagnostics)
                )  # the help comes later
                lines = [f"{resource_of(step.address)}: {before}failed while {doing(step)}: {said}"]
                return lines + (self._annotations(error) if self._github else [])
            case events.StepSkipped(step=step, failed=None):
                self._blocked.add(step.address)
            case events.StepSkipped(step=step, failed=failed) if resource is not None and self._first_skip(resource):
                return [f"{resource_of(step.address)}: skipped: {why_skipped(failed)}"]
            case events.Undone(address=address, what=what) if address not in self._blocked:
                return [f"{resource_of(address)}: {undone(what)}"]
            case events.StepDone() if resource is not None and not self._quiet:
                return self._done(event, resource)
            case events.StillRunning(sandboxes=alive) if not self._quiet:
                lines = [f"{resource_of(one.address)}: {running(one, self.hide)}" for one in alive[:LISTED]]
                return [*lines, *([f"and {len(alive) - LISTED} more"] if len(alive) > LISTED else [])]
            case events.StepProgress(step=step, text=text) if not self._quiet and self._due(step.id):
                return [f"{resource_of(step.address)}: {doing(step, text)}"]
        return []

    def _done(self, event: events.StepDone, resource: Resource) -> list[str]:
        if self._verbose:
            note = f", {one_line(event.note)}" if event.note and event.note not in done(event.step, event.note) else ""
            return [f"{resource_of(resource.address)}: {done(event.step, event.note)}{note} ({event.seconds:.1f}s)"]
        return [finished(resource, self.tracker.now())] if resource.finished and resource.words else []

    def _annotations(self, error: SandboxrunError) -> list[str]:
        from sandboxrun.report.diagnostics import annotation

        return [annotation(redacted(diagnostic, self._sensitive)) for diagnostic in error.diagnostics]

    def _first_skip(self, resource: Resource) -> bool:
        """Whether nothing of this resource was reported as skipped yet, and no failure of its own says it."""
        with self._lock:
            first = f"skip {resource.address}" not in self._told and not resource.failed
            self._told[f"skip {resource.address}"] = 0.0
            return first

    def _due(self, step: str) -> bool:
        now = self.tracker.now()
        with self._lock:
            if now - self._told.get(step, -EVERY) < EVERY:
                return False
            self._told[step] = now
            return True


def why_skipped(failed: Operation | None) -> str:
    """`network default failed while creating`."""
    return "a dependency failed" if failed is None else f"{resource_of(failed.address)} failed while {doing(failed)}"


def finished(resource: Resource, now: float) -> str:
    """`reviewer: created, started (0.4s)`."""
    return f"{resource_of(resource.address)}: {', '.join(resource.words)} ({resource.seconds(now):.1f}s)"


def undone(what: str) -> str:
    """What happened to what an apply had made and could not finish."""
    return one_line(f"{what.removesuffix('removed')}rolled back" if what.endswith("removed") else what)


def running(alive: events.Alive, hide: Callable[[str], str] = str) -> str:
    """How a sandbox is that is waited for: `running for 2m05s, 41.2 MiB of 512.0 MiB: compiling module 7`."""
    of = f" of {size(alive.limit)}" if alive.limit else ""
    memory = f", {size(alive.memory)}{of}" if alive.memory is not None else ""
    said = one_line(hide(alive.line))  # masked whole: a part of what is sensitive is not found
    line = f": {said if len(said) <= WIDEST else f'{said[: WIDEST - 1]}…'}" if said else ""
    return f"running for {duration(alive.seconds)}{memory}{line}"


def unfinished(resource: Resource) -> str:
    """How far a resource came when the apply was stopped."""
    return f"{', '.join(resource.words)}; not finished" if resource.words else "not begun"
