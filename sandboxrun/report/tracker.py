"""Puts an apply's events together, per resource: what a person wants to see is one line for each, when it is done.

Owns that state, for all forms of progress. Safe to feed from several threads. Must not print.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from time import monotonic

import attrs

from sandboxrun.apply.events import Event, Planned, StepDone, StepFailed, StepProgress, StepSkipped, StepStarted
from sandboxrun.plan.operations import Operation
from sandboxrun.report import steps


@attrs.define(kw_only=True)
class Resource:
    """One resource while an apply works on it. Times in seconds of the tracker's clock."""

    address: str
    steps: set[str] = attrs.field(factory=set)  # those that are not done yet
    words: list[str] = attrs.field(factory=list)
    active: dict[str, str] = attrs.field(factory=dict)  # step → what goes on
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
        self._lock = threading.Lock()
        self._known: dict[str, Resource] = {}

    def expect(self, operations: Iterable[Operation]) -> None:
        """The steps to come; forgets what was before."""
        with self._lock:
            self._expect(operations)

    def _expect(self, operations: Iterable[Operation]) -> None:
        self._known = {}
        for step in operations:
            self._of(step).steps.add(step.id)

    def feed(self, event: Event) -> Resource | None:
        """Note an event; the resource that it is about, as it is now, or None for an event about no step."""
        with self._lock:
            match event:
                case StepStarted(step=step):
                    self._begin(step)
                case Planned(operations=operations):
                    self._expect(operations)
                    return None
                case StepProgress(step=step, text=text):
                    self._of(step).active[step.id] = steps.doing(step, text)
                case StepDone(step=step, note=note):
                    self._end(step).words += [] if steps.minor(step) else [steps.done(step, note)]
                case StepFailed(step=step):
                    self._end(step).failed = True
                case StepSkipped(step=step):
                    self._end(step).skipped = True
                case _:
                    return None
            return attrs.evolve(self._of(step), words=list(self._of(step).words), steps=set(self._of(step).steps))

    def now(self) -> float:
        """The clock's time."""
        return self._clock()

    def active(self) -> list[Resource]:
        """Those that something goes on with."""
        with self._lock:
            return [attrs.evolve(r, active=dict(r.active)) for r in self._known.values() if r.active]

    def unfinished(self) -> list[Resource]:
        """Those of which a step was neither done nor failed nor skipped: the apply was stopped before."""
        with self._lock:
            return [attrs.evolve(r) for r in self._known.values() if r.steps and not r.failed and not r.skipped]

    def _of(self, step: Operation) -> Resource:
        return self._known.setdefault(step.address, Resource(address=step.address))

    def _begin(self, step: Operation) -> None:
        resource = self._of(step)
        resource.steps.add(step.id)
        resource.active[step.id] = steps.doing(step)
        resource.ended = None
        if resource.began is None:
            resource.began = self._clock()

    def _end(self, step: Operation) -> Resource:
        resource = self._of(step)
        resource.steps.discard(step.id)
        resource.active.pop(step.id, None)
        resource.ended = self._clock()
        return resource
