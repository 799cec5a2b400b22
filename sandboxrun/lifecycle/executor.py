"""Runs a plan's steps, side by side where their needs allow, and cleans up behind what failed.

Owns the order and the threads. Must not decide anything: each step's handler is looked up by its class.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from time import monotonic

from msgspec import structs

from sandboxrun.backend.errors import DependencyFailed
from sandboxrun.backend.session import Session, StepDone, StepFailed, StepSkipped, StepStarted
from sandboxrun.data import Data
from sandboxrun.errors import BUG, ApplyError, Diagnostic, SandboxrunError
from sandboxrun.plan.operations import Operation, StartSandbox
from sandboxrun.threads import begin


class Failure(Data):
    """A step that failed."""

    step: Operation
    error: SandboxrunError


class Applied(Data):
    """What came of it: the ids of the steps done, the failures, and the steps that were left out."""

    done: tuple[str, ...]
    failures: tuple[Failure, ...]
    skipped: tuple[str, ...]
    stopped: bool
    left_out: tuple[str, ...] = ()  # the addresses of sandboxes that were not started for a failure of another step

    @property
    def dependencies_failed(self) -> bool:
        """Whether all that failed is what sandboxes depend on: no fault of the apply's own."""
        return bool(self.failures) and all(isinstance(f.error, DependencyFailed) for f in self.failures)

    def check(self) -> None:
        """Raise ApplyError, naming every failure, unless all steps were done."""
        if self.failures:
            # two steps may find the same fault
            told = {d.message: d for failure in self.failures for d in _told(failure)}
            raise ApplyError(*told.values())
        if self.skipped:
            raise ApplyError(
                f"stopped before it was finished: {len(self.skipped)} steps were skipped",
                help="run apply again: it goes on where this one ended",
            )


def _told(failure: Failure) -> list[Diagnostic]:
    step = failure.step
    return [
        d if _names(d.message, step.address) else structs.replace(d, message=f"{step.address}: {d.message}")
        for d in failure.error.diagnostics
    ]


def _names(message: str, address: str) -> bool:
    """Whether the message names the resource already."""
    if address.startswith("image."):
        return address.removeprefix("image.") in message
    return not address or message.startswith(tuple(f"{address}{then}" for then in (": ", " needs ", " waits ")))


def execute(steps: Sequence[Operation], session: Session, *, parallelism: int) -> Applied:
    """Carry the steps out. Does not raise for a step that fails: see `Applied.check`.

    Steps that do not depend on a failed one go on. What this apply made for a sandbox and could not finish is
    removed again, its evidence first where it had started; sandboxes that run get back what it took from them.
    """
    run = _Run(steps, session)
    count = max(1, min(parallelism, len(steps)))
    workers = [begin(run.work, name=f"apply-{n}", failed=run.failed) for n in range(count)]
    try:
        for worker in workers:
            while worker.is_alive():
                worker.join(0.2)  # a bounded wait, so that signals are seen
    finally:
        session.stop.set() if any(w.is_alive() for w in workers) else None
        for worker in workers:
            worker.join()
    applied = run.result()
    session.engine.undo(session, [f.step for f in applied.failures], [s for s in steps if s.id in applied.skipped])
    if applied.failures or applied.skipped:
        session.engine.restore(session, steps, applied.done)
    if run.broken is not None:
        error = run.broken
        raise ApplyError(f"a worker failed: {type(error).__name__}: {error}", help=BUG) from error
    return applied


class _Run:
    """The state that the workers share, all of it under one lock."""

    def __init__(self, steps: Sequence[Operation], session: Session) -> None:
        self._session = session
        self._steps = {step.id: step for step in steps}
        known = self._steps.keys()
        self._waiting = {step.id: {need for need in step.needs if need in known} for step in steps}
        self._ready = deque(step.id for step in steps if not self._waiting[step.id])
        self._busy = 0
        self._needless = False  # whether nothing that was wanted can be started any more
        self._done: list[str] = []
        self._skipped: list[str] = []
        self._failures: list[Failure] = []
        self._changed = threading.Condition()
        self.broken: BaseException | None = None

    def work(self) -> None:
        """What each worker does until nothing is left."""
        while (step := self._take()) is not None:
            error = self._attempt(step)
            with self._changed:
                self._busy -= 1
                if error is None:
                    self._finish(step)
                else:
                    self._failures.append(Failure(step=step, error=error))
                    self._skip_dependents(step.id, "" if isinstance(error, DependencyFailed) else f'"{step.id}" failed')
                    self._abandon(step)
                self._changed.notify_all()

    def failed(self, error: BaseException) -> None:
        """A worker ended before its time: the others finish what they are at."""
        with self._changed:
            self.broken = self.broken or error
            self._session.stop.set()
            self._changed.notify_all()

    def _take(self) -> Operation | None:
        with self._changed:
            while True:
                if self._session.stop.is_set() or self._needless:
                    self._ready.clear()
                    return None
                if self._ready:
                    self._busy += 1
                    return self._steps[self._ready.popleft()]
                if not self._busy:
                    return None
                self._changed.wait(0.2)

    def _attempt(self, step: Operation) -> SandboxrunError | None:
        session, began = self._session, monotonic()
        try:
            session.guard()
            session.listener(StepStarted(step=step))
            note = session.engine.perform(step, session)
        except SandboxrunError as error:
            session.listener(StepFailed(step=step, error=error))
            return error
        except Exception as error:  # a bug must not leave the other workers waiting for ever
            wrapped = ApplyError(f"{step.id}: {type(error).__name__}: {error}", help=BUG)
            wrapped.__cause__ = error
            session.listener(StepFailed(step=step, error=wrapped))
            return wrapped
        session.listener(StepDone(step=step, seconds=monotonic() - began, note=note or ""))
        return None

    def _finish(self, step: Operation) -> None:
        self._done.append(step.id)
        for other, needs in self._waiting.items():
            if step.id in needs:
                needs.discard(step.id)
                if not needs and other not in self._skipped:
                    self._ready.append(other)

    def _skip_dependents(self, failed: str, why: str) -> None:
        for other, needs in self._waiting.items():
            if failed in needs and other not in self._skipped:
                self._skipped.append(other)
                self._session.listener(StepSkipped(step=self._steps[other], why=why))
                self._skip_dependents(other, why)

    def _abandon(self, failed: Operation) -> None:
        """What can't be started any more needs no one to wait for it; without any that was wanted, nothing does."""
        session = self._session
        steps = (failed, *(self._steps[id] for id in self._skipped))
        session.abandoned |= {step.address for step in steps if isinstance(step, StartSandbox)}
        if session.wanted and session.wanted <= session.abandoned:
            self._needless = True
            session.abandoned |= {step.address for step in self._steps.values()}

    def result(self) -> Applied:
        failed = {failure.step.id for failure in self._failures}
        left = [step for step in self._steps if step not in self._done and step not in failed]
        return Applied(
            done=tuple(self._done),
            failures=tuple(self._failures),
            skipped=tuple(left),
            stopped=self._session.stop.is_set(),
            left_out=tuple(self._steps[id].address for id in left if isinstance(self._steps[id], StartSandbox)),
        )
