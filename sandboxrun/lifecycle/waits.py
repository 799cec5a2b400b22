"""`apply --wait` and `wait`: sandboxes that were applied, watched until they have ended.

Owns what is waited for: which sandboxes, and for `apply --wait` their collection, which makes nothing. How a sandbox
ended is known whichever job took its evidence.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from typing import TYPE_CHECKING

from msgspec import field

from sandboxrun.backend.base import Backend
from sandboxrun.backend.session import Session, StillRunning, guarded
from sandboxrun.data import Data
from sandboxrun.errors import ApplyError
from sandboxrun.lifecycle.apply import ApplySettings, Confirm, Outcome, Proof, apply, naming_what_stays, not_started
from sandboxrun.lifecycle.job import Job, RunResult, WaitTimeout, Watching
from sandboxrun.plan.changes import Action
from sandboxrun.plan.decide import record_of
from sandboxrun.plan.planner import Options, select, with_dependencies
from sandboxrun.spec.project import DeclaredSandbox, Profile
from sandboxrun.spec.state import (
    Completed,
    Created,
    Ended,
    How,
    ObservedSandbox,
    Running,
    Snapshot,
    code_of,
    first_failure,
)
from sandboxrun.threads import begin

if TYPE_CHECKING:
    from sandboxrun.evidence.store import Store
    from sandboxrun.lifecycle.saved import SavedPlan


LINES = 12  # sandboxes of which the last line is looked for: each is a call to the engine


class Waited(Data):
    """What an `apply --wait` came to: the plan and its outcome, and how each declared sandbox ended.

    `results` are in the file's order, those that were not started because what they depend on failed among them;
    `earlier` are those that ran in an earlier run, None where that is not known; `codes` the exit codes of all that
    came to run, in the file's order.
    """

    outcome: Outcome
    results: tuple[RunResult, ...] = ()
    earlier: Mapping[str, Completed | None] = field(default_factory=dict)  # by address
    codes: tuple[int | None, ...] = ()

    @property
    def exit_code(self) -> int:
        """The first code that is not 0, in the file's order, of those that came to run."""
        return first_failure(self.codes, blocked=any(r.blocked for r in self.results))


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
    following = engine.follow(profile.project, settings.began, locking=True)
    with following as events, engine.lease() as lease, ExitStack() as lock, ExitStack() as around:
        job = Job(engine, profile, store, settings, events)
        around.enter_context(naming_what_stays(job))

        def late() -> None:
            lock.close()
            events.narrow()

        def prepare(session: Session) -> None:
            session.leases = {sandbox.address: lease for sandbox in select(profile, targets)}
            job.watch_from_start(session, lambda sandbox: Watching(events=events))

        try:
            outcome = apply(
                engine,
                profile,
                store,
                options=options,
                settings=settings,
                confirm=confirm,
                expected=expected,
                holding=lock,
                proof=proof,
                events=events,
                prepare=prepare,
            )
            if outcome.applied is None or outcome.session is None or outcome.plan.destroy:
                return Waited(outcome=outcome)
            chosen, blocked = select(profile, targets), not_started(profile, outcome.applied)
            needed = with_dependencies(profile, chosen)
            if blocked:  # what they depend on is reported too, for its code is the result
                chosen = needed
            _join_those_that_stay(job, outcome, needed)
            awaited = {sandbox.address for sandbox in chosen}
            keeps = (
                bool(outcome.session.made) and not targets
            )  # others with targets have sandboxes of their own to make
            if not keeps:
                lock.close()
            with glancing(job, awaited, settings):
                at_once = job.wait(awaited, patience, settings.stop, late=late) and keeps
        finally:
            job.close()
        guard = outcome.session.guard
        job.collect(needed, own=False, whole=not targets, making=(lambda: nullcontext(guard)) if at_once else None)
        return _waited(job, outcome, chosen, blocked)


@contextmanager
def glancing(job: Job, addresses: Collection[str], settings: ApplySettings) -> Iterator[None]:
    """Meanwhile tell the listener how those of them are that run, as often as the settings say."""
    over, listener = threading.Event(), guarded(settings.listener)

    def work() -> None:
        while not over.wait(settings.glance):
            running = [w for w in job.watches.values() if w.begun and not w.ended and w.address in addresses]
            alive = tuple(watch.glance(line=n < LINES) for n, watch in enumerate(running))
            if not over.is_set():
                listener(StillRunning(sandboxes=alive))

    if settings.glance is not None:
        begin(work, name="glances", failed=lambda error: None)  # nothing depends on it
    try:
        yield
    finally:
        over.set()
        listener(StillRunning(sandboxes=()))


def _join_those_that_stay(job: Job, outcome: Outcome, sandboxes: Iterable[DeclaredSandbox]) -> None:
    """Watch those too that were there before. One that is gone by now has its end in the engine's events."""
    session = outcome.session
    assert session is not None
    stay = {c.container for c in outcome.plan.changes if c.action in (Action.NONE, Action.UPDATE)}
    found = _by_address(session.snapshot)
    for sandbox in sandboxes:
        observed = found.get(sandbox.address)
        if sandbox.address in session.made or observed is None:
            continue
        if observed.id in stay and isinstance(observed.state, Running):
            job.join(sandbox, observed, session.now())
        else:
            job.find(sandbox, observed)


def _waited(job: Job, outcome: Outcome, chosen: Iterable[DeclaredSandbox], blocked: Mapping[str, str]) -> Waited:
    """How each of the chosen ended, whoever took its evidence."""
    assert outcome.session is not None
    results: list[RunResult] = []
    earlier: dict[str, Completed | None] = {}
    codes: list[int | None] = []
    for sandbox in chosen:
        address = sandbox.address
        if address in blocked:
            results.append(RunResult(address=address, evidence=None, note=blocked[address], blocked=True))
        elif address in job.made:
            results.append(job.result(address))
            codes.append(results[-1].exit_code)
        else:
            earlier[address] = record_of(sandbox, outcome.session.snapshot)
            codes.append(_recorded_code(earlier[address]))
    return Waited(outcome=outcome, results=tuple(results), earlier=earlier, codes=tuple(codes))


def _by_address(snapshot: Snapshot) -> Mapping[str, ObservedSandbox]:
    """The first container of each, as the planner has it."""
    return {o.address: o for o in reversed(snapshot.sandboxes) if not o.apart}


def _recorded_code(record: Completed | None) -> int | None:
    return code_of(How(record.outcome), record.exit_code) if record is not None else None


def wait_for(
    engine: Backend,
    profile: Profile,
    store: Store,
    sandboxes: Iterable[DeclaredSandbox],
    *,
    patience: float | None = None,
    settings: ApplySettings | None = None,
) -> Mapping[str, int | None]:
    """Wait until none of the sandboxes runs; their exit codes, as `codes` has them, whoever took their evidence
    meanwhile. Their lifetimes are enforced.

    Raises WaitTimeout after `patience` seconds.
    """
    chosen, settings = {s.address: s for s in sandboxes}, settings or ApplySettings()
    with engine.follow(profile.project, settings.began) as events:
        snapshot = engine.observe(profile, store, events=events)
        job = Job(engine, profile, store, settings, events)
        try:
            for address, observed in _by_address(snapshot).items():
                if address in chosen and not isinstance(observed.state, Created):
                    job.join(chosen[address], observed, snapshot.taken, sample=False)
            with glancing(job, chosen, settings):
                job.wait(chosen, patience)
        finally:
            job.close()
        snapshot = engine.observe(profile, store, events=events)
        left = {o.id for o in snapshot.sandboxes}
        gone = {a: job.result(a).exit_code for a, made in job.made.items() if made.id not in left}
        found = {**_codes(snapshot, chosen.values()), **gone}
    if faults := [fault for watch in job.watches.values() for fault in watch.faults()]:
        raise ApplyError(*faults)
    return found


def codes(
    engine: Backend, profile: Profile, store: Store, sandboxes: tuple[DeclaredSandbox, ...]
) -> Mapping[str, int | None]:
    """The exit code of each, from the engine or the record; None for one that never ran."""
    return _codes(engine.observe(profile, store), sandboxes)


def _codes(snapshot: Snapshot, sandboxes: Iterable[DeclaredSandbox]) -> Mapping[str, int | None]:
    found = {sandbox.address: _recorded_code(record_of(sandbox, snapshot)) for sandbox in sandboxes}
    for observed in snapshot.sandboxes:
        if observed.address in found and not observed.apart and isinstance(observed.state, Ended):
            how = How.TIMEOUT if observed.timed_out else How(observed.state.how or How.EXITED)
            found[observed.address] = code_of(how, observed.state.exit_code)
    return found


def without_code(store: Store, profile: Profile, codes: Mapping[str, int | None]) -> Mapping[str, str]:
    """Of those that `codes` has no code for: why, in words."""
    ran = {entry.sandbox for entry in store.entries(profile.project) if store.is_own(entry)}
    words = {True: "has not run with this spec", False: "never ran"}
    return {address: words[address in ran] for address, code in codes.items() if code is None}


__all__ = ["WaitTimeout", "Waited", "apply_and_wait", "codes", "wait_for", "without_code"]
