"""`apply --wait` and `wait`: watch sandboxes that were applied until they have ended.

Owns that order: apply, watch, and the collection of what was watched, which makes nothing. How a sandbox ended is known
whichever job took its evidence.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from datetime import datetime
from time import monotonic
from typing import TYPE_CHECKING

from msgspec import field

from sandboxrun.backend.base import Backend
from sandboxrun.backend.completed import Events, taken_by_others
from sandboxrun.backend.session import Made, Session, Watched
from sandboxrun.data import Data
from sandboxrun.errors import ApplyError, Diagnostic, ExitCode, SandboxrunError
from sandboxrun.lifecycle.apply import (
    ApplySettings,
    Confirm,
    Outcome,
    Proof,
    apply,
    carry_out,
    locked,
    not_started,
    overall,
)
from sandboxrun.lifecycle.run import RunResult
from sandboxrun.lifecycle.watch import Watch, Watching
from sandboxrun.plan.changes import Action
from sandboxrun.plan.planner import Options, make_collect_plan, select, with_dependencies
from sandboxrun.spec.project import DeclaredSandbox, Profile
from sandboxrun.spec.state import Completed, Created, Ended, ObservedSandbox, Running, Snapshot

if TYPE_CHECKING:
    from sandboxrun.evidence.store import Captured, Store
    from sandboxrun.lifecycle.saved import SavedPlan


class WaitTimeout(SandboxrunError):
    """Sandboxes still ran when the caller's patience ended; they go on running."""

    exit_code = ExitCode.TIMEOUT


class Waited(Data):
    """What an `apply --wait` came to: the plan and its outcome, and how each declared sandbox ended.

    `results` are in the file's order, those that were not started because what they depend on failed among them;
    `earlier` are those that ran in an earlier run, None where that is not known; `codes` the exit codes of all that
    came to run, in the file's order.
    """

    outcome: Outcome
    results: tuple[RunResult, ...] = ()
    earlier: Mapping[str, Completed | None] = field(default_factory=dict)  # by address
    codes: tuple[int, ...] = ()

    @property
    def exit_code(self) -> int:
        """The first code that is not 0, in the file's order, of those that came to run."""
        return overall(self.codes, blocked=any(r.blocked for r in self.results))


def apply_and_wait(
    engine: Backend,
    profile: Profile,
    store: Store,
    *,
    options: Options | None = None,
    settings: ApplySettings | None = None,
    confirm: Confirm = lambda plan: True,
    expected: SavedPlan | None = None,
    patience: float | None = None,
    proof: Proof | None = None,
) -> Waited:
    """Apply, wait for every sandbox to end, keep the evidence and tear down. `patience` in seconds.

    What a failed dependency kept from starting is no error here: the others are waited for, and the results say it.
    Raises what apply raises, and WaitTimeout.
    """
    settings = settings or ApplySettings()
    targets = (expected.options if expected is not None else options or Options()).targets
    with engine.follow(profile.project, settings.began) as events:
        job = _Job(engine, profile, store, events)
        try:
            outcome = apply(
                engine,
                profile,
                store,
                options=options,
                settings=settings,
                confirm=confirm,
                expected=expected,
                blocked=True,
                proof=proof,
                events=events,
                prepare=job.prepare,
            )
            if outcome.applied is None or outcome.plan.destroy:
                return Waited(outcome=outcome)
            chosen, blocked = select(profile, targets), not_started(profile, outcome.applied)
            if blocked:  # what they depend on is reported too, for its code is the result
                chosen = with_dependencies(profile, chosen)
            job.join(outcome, with_dependencies(profile, chosen))
            _until_ended(job.watching(chosen), patience, settings.stop)
        finally:
            job.close()
        collected = _collect(engine, profile, store, settings, job, whole=not targets)
        return job.waited(outcome, chosen, blocked, collected)


def _collect(
    engine: Backend, profile: Profile, store: Store, settings: ApplySettings, job: _Job, *, whole: bool
) -> Mapping[str, Captured]:
    """Keep the evidence of this job's sandboxes that have ended and are there, and remove them: nothing else. Without
    `whole`, what is around them stays."""
    with locked(engine, profile, settings) as guard:
        snapshot = engine.observe(profile, store)
        mine = [o for o in snapshot.sandboxes if o.run in job.runs.values() and isinstance(o.state, Ended)]
        made = make_collect_plan(profile, snapshot, mine, networks=whole, leftovers=whole)
        outcome = carry_out(made, snapshot, engine, profile, store, settings, guard, watched=job.watched)
    assert outcome.applied is not None and outcome.session is not None
    outcome.applied.check()
    return outcome.session.captured


class _Job:
    """The runs that one `apply --wait` is about: those it made, and those it found and left as they are."""

    def __init__(self, engine: Backend, profile: Profile, store: Store, events: Events) -> None:
        self._engine, self._profile, self._store, self._events = engine, profile, store, events
        self._watches: dict[str, Watch] = {}  # by address
        self._started: dict[str, datetime] = {}  # of those that ran before
        self.runs: dict[str, str] = {}  # address → run

    def prepare(self, session: Session) -> None:
        """Have each sandbox watched from its start."""
        then = session.after_start

        def started(sandbox: DeclaredSandbox, made: Made) -> None:
            then(sandbox, made)
            self._begin(sandbox, made.id, made.run, 0.0)

        session.after_start = started

    def join(self, outcome: Outcome, chosen: Iterable[DeclaredSandbox]) -> None:
        """Watch those too that were there and stay. One that is gone by now has its end in the engine's events."""
        session = outcome.session
        assert session is not None
        stay = {c.container for c in outcome.plan.changes if c.action in (Action.NONE, Action.UPDATE)}
        found = _by_address(session.snapshot)
        for sandbox in chosen:
            observed = found.get(sandbox.address)
            if sandbox.address in session.made:
                self.runs[sandbox.address] = session.made[sandbox.address].run
            elif observed is not None:
                self.runs[sandbox.address] = observed.run
                if observed.id in stay and isinstance(observed.state, Running):
                    self._started[sandbox.address] = observed.state.started
                    ran = (session.now() - observed.state.started).total_seconds()
                    self._begin(sandbox, observed.id, observed.run, max(0.0, ran))

    def _begin(self, sandbox: DeclaredSandbox, container: str, run: str, ran: float) -> None:
        how = Watching(elapsed=ran)
        watch = _watch(self._engine, self._store, sandbox, container, run, how)
        self._watches[sandbox.address] = watch
        watch.begin()

    def watching(self, chosen: Iterable[DeclaredSandbox]) -> list[Watch]:
        """The watches of these."""
        return [self._watches[s.address] for s in chosen if s.address in self._watches]

    def close(self) -> None:
        """Give everything back."""
        for watch in self._watches.values():
            watch.close()

    @property
    def watched(self) -> Mapping[str, Watched]:
        """What was seen of those that have ended, by run."""
        return {watch.run: watch.result for watch in self._watches.values() if watch.ended}

    def waited(
        self,
        outcome: Outcome,
        chosen: Iterable[DeclaredSandbox],
        blocked: Mapping[str, str],
        collected: Mapping[str, Captured],
    ) -> Waited:
        """How each of the chosen ended, whoever took its evidence."""
        session = outcome.session
        assert session is not None
        captured = {**session.captured, **collected}
        results: list[RunResult] = []
        earlier: dict[str, Completed | None] = {}
        codes: list[int] = []
        for sandbox in chosen:
            address, run = sandbox.address, self.runs.get(sandbox.address)
            if address in blocked:
                results.append(RunResult(address=address, evidence=None, note=blocked[address], blocked=True))
            elif run is not None:
                results.append(self._result(sandbox, run, captured.get(run)))
                codes.append(results[-1].exit_code)
            else:
                record = session.snapshot.completed.get(address, {}).get(sandbox.spec.digest)
                earlier[address] = record
                codes.append(ExitCode.NOT_RUN if record is None else recorded_code(record.outcome, record.exit_code))
        return Waited(outcome=outcome, results=tuple(results), earlier=earlier, codes=tuple(codes))

    def _result(self, sandbox: DeclaredSandbox, run: str, captured: Captured | None) -> RunResult:
        watch = self._watches.get(sandbox.address)
        note = watch.result.note if watch is not None else ""
        seen = None
        if captured is None and watch is not None:
            captured, seen = taken_by_others(self._store, self._events, watch, self._started.get(sandbox.address))
            note = note or (str(watch.error) if watch.error is not None and seen is None else "")
        return RunResult(address=sandbox.address, evidence=captured, note=note, seen=seen)


def _by_address(snapshot: Snapshot) -> Mapping[str, ObservedSandbox]:
    """The first container of each, as the planner has it."""
    return {o.address: o for o in reversed(snapshot.sandboxes) if not o.one_off}


def recorded_code(outcome: str, code: int | None) -> int:
    """The exit code that a record stands for."""
    if outcome == "timeout":
        return ExitCode.TIMEOUT
    return code if code is not None else ExitCode.NOT_RUN


def wait_for(
    engine: Backend,
    profile: Profile,
    store: Store,
    sandboxes: Iterable[DeclaredSandbox],
    *,
    patience: float | None = None,
    began: float | None = None,
) -> Mapping[str, int | None]:
    """Wait until none of the sandboxes runs; their exit codes, as `codes` has them, whoever took their evidence
    meanwhile. Their lifetimes are enforced. `began` as in ApplySettings.

    Raises WaitTimeout after `patience` seconds.
    """
    addresses = {s.address: s for s in sandboxes}
    with engine.follow(profile.project, ApplySettings().began if began is None else began) as events:
        snapshot = engine.observe(profile, store, events=events)
        there = [o for a, o in _by_address(snapshot).items() if a in addresses and not isinstance(o.state, Created)]
        watches = {o.id: _watch_observed(engine, store, addresses[o.address], o, snapshot.taken) for o in there}
        try:
            for watch in watches.values():
                watch.begin()
            _until_ended(list(watches.values()), patience, threading.Event())
        finally:
            for watch in watches.values():
                watch.close()
        found = dict(codes(engine, profile, store, tuple(addresses.values()), events=events))
        left = engine.present(profile.project)
        for observed in there:
            if observed.id not in left:
                started = observed.state.started if isinstance(observed.state, Running | Ended) else None
                kept, seen = taken_by_others(store, events, watches[observed.id], started)
                found[observed.address] = RunResult(address=observed.address, evidence=kept, seen=seen).exit_code
    if faults := [fault for watch in watches.values() for fault in watch.faults()]:
        raise ApplyError(*faults)
    return found


def _watch_observed(
    engine: Backend, store: Store, declared: DeclaredSandbox, observed: ObservedSandbox, taken: datetime
) -> Watch:
    ran = (taken - observed.state.started).total_seconds() if isinstance(observed.state, Running) else 0.0
    how = Watching(sample=False, elapsed=max(0.0, ran))
    return _watch(engine, store, declared, observed.id, observed.run, how)


def _watch(engine: Backend, store: Store, declared: DeclaredSandbox, container: str, run: str, how: Watching) -> Watch:
    return Watch(engine, store, address=declared.address, container=container, run=run, spec=declared.spec, how=how)


def _until_ended(watches: list[Watch], patience: float | None, stop: threading.Event) -> None:
    until = None if patience is None else monotonic() + patience
    while running := [watch for watch in watches if not watch.ended]:
        if stop.is_set():
            raise _still(running, "stopped while waiting for", "they go on running; apply or destroy collects them")
        if until is not None and monotonic() >= until:
            raise _still(running, f"after {patience:g} seconds these still run:", "wait longer, or destroy them")
        running[0].wait(0.1)


def _still(running: list[Watch], what: str, help: str) -> WaitTimeout:
    names = ", ".join(watch.address for watch in running)
    return WaitTimeout(Diagnostic(message=f"{what} {names}", help=help))


def codes(
    engine: Backend,
    profile: Profile,
    store: Store,
    sandboxes: tuple[DeclaredSandbox, ...],
    *,
    events: Events | None = None,
) -> Mapping[str, int | None]:
    """The exit code of each, from the engine or the record; None for one that never ran."""
    snapshot = engine.observe(profile, store, events=events)
    found: dict[str, int | None] = {}
    for sandbox in sandboxes:
        record = snapshot.completed.get(sandbox.address, {}).get(sandbox.spec.digest)
        found[sandbox.address] = recorded_code(record.outcome, record.exit_code) if record is not None else None
    for observed in snapshot.sandboxes:
        if observed.address in found and not observed.one_off and isinstance(observed.state, Ended):
            known = observed.state.how not in ("engine_lost", "unknown")
            code = observed.state.exit_code if known else ExitCode.NOT_RUN
            found[observed.address] = ExitCode.TIMEOUT if observed.timed_out else code
    return found


def without_code(store: Store, profile: Profile, codes: Mapping[str, int | None]) -> Mapping[str, str]:
    """Of those that `codes` has no code for: why, in words."""
    ran = {entry.sandbox for entry in store.entries(profile.project) if store.is_own(entry)}
    words = {True: "has not run with this spec", False: "never ran"}
    return {address: words[address in ran] for address, code in codes.items() if code is None}
