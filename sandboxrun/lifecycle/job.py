"""The sandboxes of one command: watched until they have ended, collected, and how each ended. `run`, `apply --wait` and
`wait` are orders of these verbs; making sandboxes is `apply.carry_out`.

Owns what is waited for, and its collection, which makes nothing. How a sandbox ended is known whichever job took its
evidence.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from time import monotonic
from typing import TYPE_CHECKING

from msgspec import field, structs

from sandboxrun.backend.base import Backend, Endings, Events, Past
from sandboxrun.backend.completed import ending_of, taken_by_others
from sandboxrun.backend.errors import EngineError
from sandboxrun.backend.session import GONE, Made, Session, StillRunning, guarded
from sandboxrun.data import Data
from sandboxrun.errors import ApplyError, ExitCode, SandboxrunError, redact
from sandboxrun.evidence.errors import reason_of
from sandboxrun.evidence.store import RunResult
from sandboxrun.lifecycle.apply import (
    Applied,
    ApplySettings,
    Confirm,
    Outcome,
    apply,
    carry_out,
    locked,
    naming_what_stays,
    not_started,
)
from sandboxrun.lifecycle.places import never_shown
from sandboxrun.lifecycle.watch import AT_ONCE, Watch, Watching
from sandboxrun.plan import operations as owned
from sandboxrun.plan.changes import Action
from sandboxrun.plan.decide import record_of
from sandboxrun.plan.operations import KeepSandbox
from sandboxrun.plan.planner import Options, make_collect_plan, select, with_dependencies
from sandboxrun.plan.preflight import needs_watcher
from sandboxrun.spec import labels
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
from sandboxrun.tracing import here, span

if TYPE_CHECKING:
    from datetime import datetime

    from sandboxrun.evidence.store import Captured, Store
    from sandboxrun.lifecycle.saved import SavedPlan
    from sandboxrun.lifecycle.verify import Proving


# -- The sandboxes of one command

_GO_ON = "they keep running; reap, apply or destroy collects them"
Making = Callable[[], AbstractContextManager[Callable[[], None]]]


class WaitTimeout(SandboxrunError):
    """Sandboxes still ran when the caller's patience ended; they go on running."""

    exit_code = ExitCode.TIMEOUT


def shares(sandboxes: Iterable[DeclaredSandbox]) -> bool:
    """Whether any of the sandboxes needs the project's lock."""
    return any(owned.shares(s.spec) for s in sandboxes)


class Job:
    """The sandboxes that one command is about, by address: those it starts, and those it found."""

    def __init__(
        self,
        engine: Backend,
        profile: Profile,
        store: Store,
        settings: ApplySettings,
        events: Events | None = None,
        *,
        heard: Endings | None = None,
    ) -> None:
        """`events` are followed for this command; `heard` by a process that has many."""
        self._engine, self._profile, self._store = engine, profile, store
        self._settings, self._events, self._heard = settings, events, events or heard
        self.session: Session | None = None
        self._found: dict[str, Made] = {}
        self._started: dict[str, datetime | None] = {}  # of those that were found
        self._collected: dict[str, Captured] = {}  # by run
        self._unsaved: dict[str, Captured] = {}  # by run, what could not be saved, and why
        self._kept: dict[str, str] = {}  # container → its name now
        self._table = threading.Lock()
        self._within = here()
        self._joined = contextlib.ExitStack()  # leases of others that wait for the same sandboxes, or did
        self.watches: dict[str, Watch] = {}
        self.keeping: Mapping[str, Mapping[str, str]] = {}  # what `Backend.collect` gave last

    def forked(self) -> None:
        """In a forked process: the threads that watch are the other's."""
        self.watches, self._table = {}, threading.Lock()

    def watch_from_start(self, session: Session, how: Callable[[DeclaredSandbox], Watching]) -> None:
        """Have all that the session starts watched."""

        def attach(sandbox: DeclaredSandbox, made: Made) -> None:
            held = not needs_watcher(sandbox.spec, session.snapshot.offers)
            watch = self._watch(sandbox, made, structs.replace(how(sandbox), held=held))
            watch.before_start()
            with self._table:
                self.watches[sandbox.address] = watch

        session.before_start.append(attach)
        session.after_start.append(lambda sandbox, made: self.watches[sandbox.address].begin())
        self.session = session

    def find(self, sandbox: DeclaredSandbox, observed: ObservedSandbox) -> Made:
        """Take in one that was there before."""
        return self._found.setdefault(sandbox.address, Made(id=observed.id, run=observed.run))

    def join(
        self,
        sandbox: DeclaredSandbox,
        observed: ObservedSandbox,
        now: datetime,
        *,
        owned: bool,
        sample: bool = True,
    ) -> None:
        """Take in one that was started before, and watch it. `owned`: who made it lives and does that, too."""
        found, state, ran, held = self.find(sandbox, observed), observed.state, 0.0, False
        self._started[sandbox.address] = state.started if isinstance(state, Running | Ended) else None
        if isinstance(state, Running):
            ran, held = max(0.0, (now - state.began).total_seconds()), state.limit is not None
        if lease := observed.labels.get(labels.LEASE):  # who made it may be gone before it ends, or already
            self._joined.enter_context(self._engine.lease(lease))
        left = (observed.deadline - now).total_seconds() if observed.deadline is not None else None
        expires = monotonic() + left if left is not None else None
        how = Watching(sample=sample, elapsed=ran, held=held, expires=expires, owned=owned)
        self.watches[sandbox.address] = watch = self._watch(sandbox, found, how)
        watch.begin()

    @property
    def made(self) -> Mapping[str, Made]:
        """All that was started or found, by address."""
        return {**(self.session.made if self.session is not None else {}), **self._found}

    @property
    def captured(self) -> Mapping[str, Captured]:
        """The evidence that was taken, by run."""
        return {**(self.session.captured if self.session is not None else {}), **self._collected}

    def kept(self, container: str) -> str:
        """The name of a container that was kept after its end; "" of one that was not."""
        return self._kept.get(container, "")

    def _watch(self, sandbox: DeclaredSandbox, made: Made, how: Watching) -> Watch:
        return Watch(self._engine, self._store, sandbox, made, how, self._within)

    def wait(
        self,
        addresses: Collection[str],
        patience: float | None = None,
        stop: threading.Event | None = None,
        late: Callable[[], None] = lambda: None,
    ) -> bool:
        """Until all of these that were started have ended; whether that was at once, else `late` was called meanwhile.
        Raises WaitTimeout after `patience` seconds, or once `stop` is set."""
        began, at_once = monotonic(), True
        watches = [w for w in self.watches.values() if w.begun and w.address in addresses]
        while running := [watch for watch in watches if not watch.ended]:
            names = ", ".join(watch.address for watch in running)
            if stop is not None and stop.is_set():
                raise WaitTimeout(f"stopped while waiting for {names}", help=_GO_ON)
            if patience is not None and monotonic() >= began + patience:
                message = f"after {patience:g} seconds these still run: {names}"
                raise WaitTimeout(message, help="wait longer, or destroy them")
            if at_once and monotonic() >= began + AT_ONCE:
                at_once = False
                late()
            running[0].wait(0.1)  # bounded, so that signal handlers run
        return at_once

    def never_shown(self) -> frozenset[str]:
        """What is masked in what its sandboxes print."""
        return never_shown(self._profile, self._settings.environment)

    def close(self) -> None:
        """Give back what watching took."""
        for watch in self.watches.values():
            watch.close()
        self._joined.close()

    def collect(
        self,
        sandboxes: Iterable[DeclaredSandbox],
        *,
        own: bool,
        whole: bool,
        making: Making | None = None,
        gone: tuple[ObservedSandbox, ...] | None = None,
        keep: bool = True,
    ) -> None:
        """Save the evidence of what is there of this job, and remove it, or keep it where its lifetime says so (never
        without `keep`): nothing else. With `whole`, also networks that nothing uses then. Where nothing is shared,
        nothing else is looked at.

        Of one that is the job's `own` nobody else takes the evidence, so that the project's lock is needed for what is
        shared only, and it goes whatever its state. Of one that somebody removed by hand, what was seen of it is saved,
        and what it left is removed: of those `gone`, as they were, or of all that this job started. Raises ApplyError.
        """
        if not self.made:
            return
        profile, together = self._profile, whole and shares(sandboxes)
        settings = structs.replace(self._settings, stop=threading.Event()) if own else self._settings
        runs, ids = {made.run for made in self.made.values()}, [made.id for made in self.made.values()]
        with self.making(locks=together or not own, making=making) as guard:
            with span("observe", project=profile.project):
                if together:
                    snapshot = self._engine.observe(profile, self._store)
                else:
                    known = {w.container: w.left for w in self.watches.values() if w.left is not None}
                    snapshot = self._engine.observe_these(profile, self._store, ids, known=known)
            if own and (gone := self._gone(snapshot) if gone is None else gone):
                gone = tuple(self._as_told(gone))
                snapshot = _joined(snapshot, self._engine.observe_these(profile, self._store, (), gone=gone))
            mine = [o for o in snapshot.sandboxes if o.run in runs and (own or isinstance(o.state, Ended))]
            watched = {watch.run: watch.result for watch in self.watches.values() if own or watch.ended}
            engine, store, events = self._engine, self._store, self._heard
            asked = {watch.container: watch.changes for watch in self.watches.values() if watch.changes is not None}
            stopped = {run: result.stopped_by for run, result in watched.items()}
            plan = make_collect_plan(
                profile, snapshot, mine, networks=together, leftovers=whole and not own, keep=keep, stopped=stopped
            )
            outcome = carry_out(
                plan, snapshot, engine, profile, store, settings, guard, watched=watched, events=events, asked=asked
            )
        self.keeping = outcome.keeping
        self._unsaved |= {run: one for run, one in outcome.session.captured.items() if one.entry is None}
        outcome.applied.check()
        self._collected |= outcome.session.captured
        self._kept |= {step.container: step.name for step in plan.operations if isinstance(step, KeepSandbox)}

    def _gone(self, snapshot: Snapshot) -> tuple[ObservedSandbox, ...]:
        """Of those that this job started, what somebody else removed before their evidence was saved."""
        there = {o.id for o in snapshot.sandboxes}
        begun = {watch.address: watch.container for watch in self.watches.values() if watch.begun}
        lost = {address for address, container in begun.items() if container not in there}
        session = self.session
        if session is None or not lost:
            return ()
        made = [session.as_gone(s) for s in self._profile.sandboxes if s.address in lost]
        return tuple(o for o in made if o.run not in self.captured)

    def _as_told(self, gone: tuple[ObservedSandbox, ...]) -> Iterator[ObservedSandbox]:
        """With what was told of their ends; of what was not told the engine is asked what it remembers."""
        past: Mapping[str, Past] = {}
        if self._events is not None:
            with contextlib.suppress(EngineError):
                past = self._events.past()
        for one in gone:
            watch, history = self.watches.get(one.address), past[one.id].history if one.id in past else None
            if history is None and self._heard is not None and watch is not None:
                history = self._heard.history(one.id, structs.replace(GONE, exit_code=watch.exit_code))
            yield structs.replace(one, history=history)

    def making(self, *, locks: bool, making: Making | None = None) -> AbstractContextManager[Callable[[], None]]:
        """The project's lock, where it is needed; `making` replaces it if the caller holds it."""
        if not locks:
            return nullcontext(lambda: None)
        return making() if making is not None else locked(self._engine, self._profile, self._settings)

    def result(self, address: str, *, named: bool = True) -> RunResult:
        """How one that was made or found ended, whoever took its evidence."""
        watch, captured = self.watches.get(address), self.captured.get(self.made[address].run)
        note, seen = watch.result.note if watch is not None else "", None
        if captured is None and watch is not None and watch.begun:
            events = self._events or self._engine.follow(self._profile.project, self._settings.began)
            captured, past = taken_by_others(self._store, events, watch.run, watch.container)
            if captured is None:
                by, started = watch.result.stopped_by, self._started.get(address)
                seen, captured = ending_of(past, watch.exit_code, watch.spec, by, started), self._unsaved.get(watch.run)
            if captured is None and seen is None and watch.error is not None:
                note = note or reason_of(watch.error)
        kept, sandbox = self.kept(self.made[address].id), self._profile.sandbox(address)
        spec = sandbox.spec if sandbox is not None else None
        return RunResult(address=address, evidence=captured, spec=spec, note=note, named=named, seen=seen, kept=kept)


def _joined(snapshot: Snapshot, gone: Snapshot) -> Snapshot:
    """The snapshot, with sandboxes that are gone and what they left."""
    networks = {network.id: network for network in (*snapshot.networks, *gone.networks)}
    volumes = {volume.name: volume for volume in (*snapshot.volumes, *gone.volumes)}
    return structs.replace(
        snapshot,
        sandboxes=(*snapshot.sandboxes, *gone.sandboxes),
        companions=(*snapshot.companions, *gone.companions),
        networks=tuple(networks.values()),
        volumes=tuple(volumes.values()),
    )


# -- `apply --wait` and `wait`: sandboxes that were applied, watched until they have ended, and collected

LINES = 12  # sandboxes of which the last line is looked for: each is a call to the engine


class Waited(Data):
    """What an `apply --wait` came to: the plan and its outcome, and how each declared sandbox ended.

    `results` are in the file's order, those that were not started because what they depend on failed among them;
    `earlier` are those that ran in an earlier run, None where that is not known; `codes` the exit codes of all that
    came to run, in the file's order; `failed` what could not be cleared away of earlier runs.
    """

    outcome: Outcome
    results: tuple[RunResult, ...] = ()
    earlier: Mapping[str, Completed | None] = field(default_factory=dict)  # by address
    codes: tuple[int | None, ...] = ()
    failed: ApplyError | None = None

    @property
    def exit_code(self) -> int:
        """The first code that is not 0, in the file's order, of those that came to run; 125 where sandboxrun failed."""
        if self.failed is not None:
            return ExitCode.NOT_RUN
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
    proof: Proving | None = None,
) -> Waited:
    """Apply, wait for every sandbox to end, keep the evidence and tear down. `patience` in seconds.

    What a failed dependency kept from starting is no error here: the others are waited for, and the results say it. So
    it is where earlier runs could not be cleared away: what `failed` is returned. Raises what apply raises, and
    WaitTimeout.
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
            _join_those_that_stay(job, outcome, [s for s in needed if s.address not in blocked])
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
        guard, failed = outcome.session.guard, _failed_clearing(outcome.applied)
        try:
            job.collect(needed, own=False, whole=not targets, making=(lambda: nullcontext(guard)) if at_once else None)
        except ApplyError as error:
            if failed is None:
                raise
            failed = ApplyError(*dict.fromkeys((*failed.diagnostics, *error.diagnostics)))
        return structs.replace(_waited(job, outcome, chosen, blocked), failed=failed)


def _failed_clearing(applied: Applied) -> ApplyError | None:
    """What could not be cleared away, as the error that an apply which does not wait ends with."""
    try:
        structs.replace(applied, failures=applied.clearing, skipped=()).check()
    except ApplyError as error:
        return error
    return None


@contextmanager
def glancing(job: Job, addresses: Collection[str], settings: ApplySettings) -> Iterator[None]:
    """Meanwhile tell the listener how those of them are that run, as often as the settings say."""
    over, listener = threading.Event(), guarded(settings.listener)

    def work() -> None:
        known = job.never_shown()
        while not over.wait(settings.glance):
            running = [w for w in job.watches.values() if w.begun and not w.ended and w.address in addresses]
            found = (watch.glance(line=n < LINES) for n, watch in enumerate(running))
            alive = tuple(structs.replace(one, line=redact(one.line, known)) for one in found)
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
            job.join(sandbox, observed, session.now(), owned=observed.id in session.snapshot.owned)
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
    """Wait until none of the sandboxes runs; their exit codes, from the engine or the record, whoever took their
    evidence meanwhile: None for one that never ran. Their lifetimes are enforced.

    Raises WaitTimeout after `patience` seconds.
    """
    chosen, settings = {s.address: s for s in sandboxes}, settings or ApplySettings()
    with engine.follow(profile.project, settings.began) as events:
        snapshot = engine.observe(profile, store, events=events)
        job = Job(engine, profile, store, settings, events)
        try:
            for address, observed in _by_address(snapshot).items():
                if address in chosen and not isinstance(observed.state, Created):
                    owned = observed.id in snapshot.owned
                    job.join(chosen[address], observed, snapshot.taken, owned=owned, sample=False)
            with glancing(job, chosen, settings):
                job.wait(chosen, patience)
        finally:
            job.close()
        snapshot = engine.observe(profile, store, events=events)
        left = {o.id for o in snapshot.sandboxes}
        found = {address: _recorded_code(record_of(sandbox, snapshot)) for address, sandbox in chosen.items()}
        for observed in snapshot.sandboxes:
            if observed.address in found and not observed.apart and isinstance(observed.state, Ended):
                how = How.TIMEOUT if observed.timed_out else How(observed.state.how or How.EXITED)
                found[observed.address] = code_of(how, observed.state.exit_code)
        found |= {a: job.result(a).exit_code for a, made in job.made.items() if made.id not in left}
    if faults := [fault for watch in job.watches.values() for fault in watch.faults()]:
        raise ApplyError(*faults)
    return found


def without_code(store: Store, profile: Profile, codes: Mapping[str, int | None]) -> Mapping[str, str]:
    """Of those that there is no code for: why, in words."""
    own = store.own()
    ran = {entry.sandbox for entry in store.each(profile.project) if own(entry)}
    words = {True: "has not run with this spec", False: "never ran"}
    return {address: words[address in ran] for address, code in codes.items() if code is None}
