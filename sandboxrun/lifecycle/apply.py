"""apply and destroy: the lock around everything that changes the engine, the plan shown before it is carried out,
evidence before removal, and the read-back of all at the end.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from graphlib import TopologicalSorter
from time import monotonic
from typing import TYPE_CHECKING

from msgspec import Struct, field, structs

from sandboxrun.backend.base import Backend, Changes, Endings, Events, Lock
from sandboxrun.backend.errors import DependencyFailed, EngineError, EngineTimeout, EngineUnreachable
from sandboxrun.backend.session import (
    Listener,
    Made,
    Planned,
    Session,
    StepDone,
    StepFailed,
    StepSkipped,
    StepStarted,
    ask_ahead,
    silent,
)
from sandboxrun.data import Data, DataType
from sandboxrun.errors import BUG, ApplyError, Diagnostic, PlanError, SandboxrunError
from sandboxrun.evidence.errors import EvidenceError
from sandboxrun.lifecycle import places
from sandboxrun.plan import operations as op
from sandboxrun.plan.changes import Action, Plan
from sandboxrun.plan.planner import Options, check_others, make_destroy_plan, make_plan, not_as_declared
from sandboxrun.plan.preflight import unfetched, watched_timeouts
from sandboxrun.plan.steps import levels
from sandboxrun.profile.files import real_places
from sandboxrun.spec.ci import CiJob, job_of
from sandboxrun.spec.project import DeclaredSandbox, Profile
from sandboxrun.spec.state import Snapshot
from sandboxrun.spec.types import freeze
from sandboxrun.threads import Aside, begin
from sandboxrun.tracing import span

if TYPE_CHECKING:
    from sandboxrun.evidence.store import Store, Watched
    from sandboxrun.lifecycle.job import Job
    from sandboxrun.lifecycle.saved import SavedPlan
    from sandboxrun.lifecycle.verify import Proving


# -- Runs a plan's steps, side by side where their needs allow; decides nothing


_CLEARING = (
    op.StopSandbox | op.CaptureEvidence | op.RemoveSandbox | op.KeepSandbox | op.RemoveLeftover | op.RemoveNetwork
) | op.RemoveVolume


class Failure(Data):
    """A step that failed."""

    step: op.Operation
    error: SandboxrunError


class Applied(Data):
    """What came of it: the ids of the steps done, the failures, and the steps that were left out."""

    done: tuple[str, ...]
    failures: tuple[Failure, ...]
    skipped: tuple[str, ...]
    left_out: tuple[str, ...] = ()  # the addresses of sandboxes that were not started for a failure of another step

    @property
    def dependencies_failed(self) -> bool:
        """Whether all that failed is what sandboxes depend on: no fault of the apply's own."""
        return bool(self.failures) and all(isinstance(f.error, DependencyFailed) for f in self.failures)

    @property
    def clearing(self) -> tuple[Failure, ...]:
        """What could not be cleared away of earlier runs."""
        return tuple(f for f in self.failures if _is_clearing(f.step) and not isinstance(f.error, DependencyFailed))

    @property
    def goes_on(self) -> bool:
        """Whether nothing else failed than that, and what sandboxes depend on: those that were started are none the
        worse for it."""
        others = [f for f in self.failures if not isinstance(f.error, DependencyFailed)]
        return bool(self.failures) and len(self.clearing) == len(others)

    def check(self) -> None:
        """Raise ApplyError, naming every failure, unless all steps were done."""
        if self.failures:
            told: dict[str, Diagnostic] = {}  # two steps may find the same fault
            for failure in self.failures:
                address, image = failure.step.address, failure.step.address.removeprefix("image.")
                named = tuple(f"{address}{then}" for then in (": ", " needs ", " waits "))
                for d in failure.error.diagnostics:
                    if address and not d.message.startswith(named) and (image == address or image not in d.message):
                        d = structs.replace(d, message=f"{address}: {d.message}")
                    told[d.message] = d
            raise ApplyError(*told.values())
        if self.skipped:
            raise ApplyError(
                f"stopped before it was finished: {len(self.skipped)} steps were skipped",
                help="run apply again: it goes on where this one ended",
            )


def _is_clearing(step: op.Operation) -> bool:
    """Whether it takes away what is not wanted any more; a stop of what is replaced takes the new one with it."""
    return isinstance(step, _CLEARING) and not (isinstance(step, op.StopSandbox) and step.replaced)


def execute(steps: Sequence[op.Operation], session: Session, *, parallelism: int) -> Applied:
    """Carry the steps out. Does not raise for a step that fails: see `Applied.check`.

    Steps that do not depend on a failed one go on. What this apply made for a sandbox and could not finish is
    removed again, its evidence first where it had started; sandboxes that run get back what it took from them.
    """
    run = _Run(steps, session, parallelism)
    try:
        run.begin()
        for worker in run.workers:  # there may be more meanwhile
            while worker.is_alive():
                worker.join(0.2)  # a bounded wait, so that signals are seen
    finally:
        session.stop.set() if any(w.is_alive() for w in run.workers) else None
        for worker in run.workers:
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
    """The state that the workers share, all of it under one lock. There are as many workers as steps could be carried
    out at once, up to `most`."""

    def __init__(self, steps: Sequence[op.Operation], session: Session, most: int) -> None:
        self._session, self._most = session, max(1, most)
        self.workers: list[threading.Thread] = []
        self._steps = {step.id: step for step in steps}
        self._order = TopologicalSorter(dict.fromkeys(self._steps, ()))  # these first: as many as can begin in order
        for step in steps:
            self._order.add(step.id, *self._steps.keys() & step.needs)
        self._order.prepare()
        self._ready = deque(self._order.get_ready())
        self._busy = 0
        self._needless = False  # whether nothing that was wanted can be started any more
        self._done: list[str] = []
        self._skipped: list[str] = []
        self._failures: list[Failure] = []
        self._changed = threading.Condition()
        self.broken: BaseException | None = None

    def begin(self) -> None:
        """One more worker."""
        self.workers.append(begin(self._work, name=f"apply-{len(self.workers)}", failed=self.failed))

    def _work(self) -> None:
        """What each worker does until nothing is left."""
        while (step := self._take()) is not None:
            error = self._attempt(step)
            with self._changed:
                self._busy -= 1
                if error is None:
                    self._done.append(step.id)
                    self._order.done(step.id)
                    self._ready.extend(self._order.get_ready())
                else:
                    self._failures.append(Failure(step=step, error=error))
                    self._skip_dependents(step.id, None if isinstance(error, DependencyFailed) else step)
                    self._abandon(step)
                self._changed.notify_all()

    def failed(self, error: BaseException) -> None:
        """A worker ended before its time: the others finish what they are at."""
        with self._changed:
            self.broken = self.broken or error
            self._session.stop.set()
            self._changed.notify_all()

    def _take(self) -> op.Operation | None:
        with self._changed:
            while True:
                if self._session.stop.is_set() or self._needless:
                    self._ready.clear()
                    return None
                if self._ready:
                    self._busy += 1
                    step = self._steps[self._ready.popleft()]
                    if self._ready and self._busy == len(self.workers) < self._most:
                        self.begin()
                    return step
                if not self._busy:
                    return None
                self._changed.wait(0.2)

    def _attempt(self, step: op.Operation) -> SandboxrunError | None:
        session, began = self._session, monotonic()
        try:
            session.guard()
            session.listener(StepStarted(step=step))
            kind = "".join(f" {c.lower()}" if c.isupper() else c for c in type(step).__name__).strip()
            with span(kind, step=step.id, sandbox=step.address) as opened:
                note = session.engine.perform(step, session)
                if isinstance(step, op.CaptureEvidence) and (captured := session.captured.get(step.run)) is not None:
                    index = captured.index
                    opened.note(run=step.run, ended=index.ending.how if index is not None else "")
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

    def _skip_dependents(self, id: str, failed: op.Operation | None) -> None:
        for other in self._steps.values():
            if id in other.needs and other.id not in self._skipped:
                self._skipped.append(other.id)
                self._session.listener(StepSkipped(step=other, failed=failed))
                self._skip_dependents(other.id, failed)

    def _abandon(self, failed: op.Operation) -> None:
        """What can't be started any more needs no one to wait for it; without any that was wanted, nothing does."""
        session = self._session
        steps = (failed, *(self._steps[id] for id in self._skipped))
        session.abandoned |= {step.address for step in steps if isinstance(step, op.StartSandbox)}
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
            left_out=tuple(self._steps[id].address for id in left if isinstance(self._steps[id], op.StartSandbox)),
        )


# -- Sandboxes that were not started because what they depend on failed, or what was there before them stayed


def not_started(profile: Profile, applied: Applied) -> Mapping[str, str]:
    """Address → why, as in `not started: prepare exited with 1`; empty unless dependencies, and the clearing away of
    earlier runs, were all that failed.

    Who depends on one that was not started was not started either.
    """
    if not applied.goes_on:
        return {}
    reasons: dict[str, list[str]] = {}
    for failure in applied.failures:
        if isinstance(failure.error, DependencyFailed):
            reasons.setdefault(failure.error.address, []).append(f"{failure.error.dependency} {failure.error.ending}")
    for sandbox in (s for level in levels(profile.sandboxes) for s in profile.sandboxes if s.address in level):
        needless = [f"{other} was not started" for other in sandbox.depends_on if other in reasons]
        if not needless and applied.clearing and sandbox.address not in reasons:
            needless = ["its earlier run could not be cleared away"]
        if needless and sandbox.address in applied.left_out:
            reasons.setdefault(sandbox.address, needless)
    return {address: f"not started: {'; '.join(why)}" for address, why in reasons.items()}


# -- The plan of a project as the engine is now: observe, then plan


def plan_changes(
    engine: Backend,
    profile: Profile,
    store: Store,
    options: Options | None = None,
    environment: Mapping[str, str] = os.environ,
) -> Plan:
    """What apply would do, with warnings of what may not work. `environment` has the variables of secrets and configs.

    Raises PlanError, EngineError.
    """
    places.check_outside(profile.sandboxes, store)
    with span("observe", project=profile.project, sensitive=profile.sensitive):
        snapshot = engine.observe(profile, store, workspaces=True)
    made = make_plan(profile, snapshot, options)
    making = places.sandboxes_made(made, profile)
    places.check_sources(making)
    if any(sandbox.spec.devices for sandbox in making) and engine.shares_filesystem():
        places.check_devices(making)
    found = tuple(places.content_faults(profile, making, environment))
    if errors := [fault for fault in found if fault.severity == "error"]:
        raise PlanError(*sorted(errors, key=lambda fault: fault.order))
    made = places.surveyed(made, profile, store, snapshot.offers)
    warnings = (*unfetched(making, snapshot), *watched_timeouts(making, snapshot.offers))
    return structs.replace(made, warnings=(*made.warnings, *found, *warnings))


def destroy_plan(engine: Backend, profile: Profile, store: Store, targets: tuple[str, ...] = ()) -> Plan:
    """What destroy would do."""
    return make_destroy_plan(profile, engine.observe(profile, store), targets)


# -- apply and destroy

Confirm = Callable[[Plan], bool]


class ApplySettings(Struct, metaclass=DataType, frozen=False, kw_only=True, unshown=("environment",)):
    """How a change of the engine is carried out. Times in seconds; `stop` set from a signal ends it cleanly. What ran
    to its end since `began` (a UNIX time) is not run again, whichever checkout's job ran it."""

    parallelism: int = 4
    lock_wait: float = 60.0
    listener: Listener = silent
    on_wait: Callable[[str], None] | None = None
    stop: threading.Event = field(default_factory=threading.Event)
    environment: Mapping[str, str] = field(default_factory=dict)
    began: float = field(default_factory=time.time)
    job: CiJob | None = field(default_factory=lambda: job_of(os.environ))
    probing: bool = False  # what does not hold is to be seen inside
    glance: float | None = None  # seconds between reports of how those are that are waited for; None: none
    take_over: bool = False  # also change or remove what another directory's profile of the same name made


class Outcome(Data):
    """What an apply or destroy did: its plan, what came of it (None when it was declined), and its session."""

    plan: Plan
    applied: Applied | None = None
    session: Session | None = None


class CarriedOut(Outcome):
    """The outcome of a plan that was carried out; `keeping` is what `Backend.collect` gave after it."""

    applied: Applied
    session: Session
    keeping: Mapping[str, Mapping[str, str]]


def apply(
    engine: Backend,
    profile: Profile,
    store: Store,
    *,
    options: Options | None = None,
    settings: ApplySettings | None = None,
    confirm: Confirm = lambda plan: True,
    expected: SavedPlan | None = None,
    holding: ExitStack | None = None,
    proof: Proving | None = None,
    events: Events | None = None,
    prepare: Callable[[Session], None] = lambda session: None,
) -> Outcome:
    """Make the engine hold what the profile declares. `expected` is a saved plan: nothing else may come of it.

    With `proof` what is to be made is verified first, and each sandbox once it runs. A caller that waits for the
    sandboxes' ends gives the stack that is `holding` the project's lock from then on; it gets no error for those not
    started because what they depend on failed, nor for earlier runs that could not be cleared away: the outcome says
    it. `events` is one that the caller follows already; `prepare` gets the session before the first step.

    Raises PlanError when the saved plan is stale, ApplyError when a step failed or the result is not as declared.
    """
    settings, waiting = settings or ApplySettings(), holding is not None
    if expected is not None:
        options = expected.options
    with ExitStack() as stack:
        # Before the lock: whoever holds it may complete, in another checkout, what this one would run.
        events = events or stack.enter_context(engine.follow(profile.project, settings.began, locking=True))
        lock = (holding or stack).enter_context(held(engine, profile, settings))
        guard = lock.check
        with span("observe", project=profile.project):
            snapshot = engine.observe(profile, store, workspaces=True, events=events, held=lock)
        if expected is not None and expected.destroy:
            made = make_destroy_plan(profile, snapshot, expected.options.targets)
        else:
            made = places.surveyed(make_plan(profile, snapshot, options), profile, store, snapshot.offers)
        if expected is not None and expected.digest != made.digest:
            from sandboxrun.lifecycle.saved import explain_stale

            raise PlanError(explain_stale(expected, made))
        if not confirm(made):
            return Outcome(plan=made)
        check_others(made, settings.take_over)
        if proof is not None:
            with span("verify", project=profile.project):
                proof.before(places.sandboxes_made(made, profile), guard)
            snapshot = structs.replace(snapshot, taken=engine.clock())

        def prepared(session: Session) -> None:
            prepare(session)
            if proof is not None:
                proof.prepare(session)

        outcome = carry_out(made, snapshot, engine, profile, store, settings, guard, events=events, prepare=prepared)
        if not (waiting and outcome.applied.goes_on and not made.destroy and not settings.stop.is_set()):
            outcome.applied.check()
        if not made.empty and not made.refresh_only and not made.destroy:
            targets = options.targets if options is not None else ()
            read_back(engine, profile, store, outcome.session, made, targets, waiting)
    return outcome


def destroy(
    engine: Backend,
    profile: Profile,
    store: Store,
    *,
    targets: tuple[str, ...] = (),
    settings: ApplySettings | None = None,
    confirm: Confirm = lambda plan: True,
) -> Outcome:
    """Keep the evidence of everything the project has on the engine, and remove it."""
    settings = settings or ApplySettings()
    with held(engine, profile, settings) as lock:
        with span("observe", project=profile.project):
            snapshot = engine.observe(profile, store, held=lock)
        made = make_destroy_plan(profile, snapshot, targets)
        if not confirm(made):
            return Outcome(plan=made)
        check_others(made, settings.take_over)
        with ExitStack() as following:
            events: Events | None = None
            if any(isinstance(step, op.StopSandbox) for step in made.operations):
                with suppress(EngineError):  # else the engine is asked about each
                    events = following.enter_context(engine.follow(profile.project, 0.0))
            outcome = carry_out(made, snapshot, engine, profile, store, settings, lock.check, events=events)
        outcome.applied.check()
    return outcome


# What by itself needs no evidence store.
_REMOVAL = op.RemoveSandbox | op.RemoveNetwork | op.RemoveVolume | op.RemoveLeftover


def carry_out(
    made: Plan,
    snapshot: Snapshot,
    engine: Backend,
    profile: Profile,
    store: Store,
    settings: ApplySettings,
    guard: Callable[[], None],
    *,
    watched: Mapping[str, Watched] = freeze({}),
    events: Endings | None = None,
    asked: Mapping[str, Aside[Changes]] = freeze({}),
    prepare: Callable[[Session], None] = lambda session: None,
) -> CarriedOut:
    """Execute a plan's steps. Does not raise for a step that fails: see `Outcome.applied`. `asked` is what was
    asked ahead already, of some."""
    captured = {step.container for step in made.operations if isinstance(step, op.CaptureEvidence)}
    ended = (o for o in snapshot.sandboxes if o.id in captured.difference(asked))
    asked = {**asked, **ask_ahead(engine, ended, most=settings.parallelism)}
    making = places.sandboxes_made(made, profile)
    places.check_outside(making, store)
    places.check_sources(making)
    if not all(isinstance(step, _REMOVAL) for step in made.operations):
        store.check()
    engine.check_neighbours(making, profile)
    contents = places.file_contents(profile, settings.environment, making)
    session = Session(
        engine=engine,
        profile=profile,
        snapshot=snapshot,
        store=store,
        plan_digest=made.digest,
        files=contents.files,
        places={**real_places(making), **profile.led},  # since it was read somebody may have been asked, or waited for
        masked=tuple(sorted({*profile.sensitive, *contents.masked})),
        events=events,
        listener=settings.listener,
        guard=guard,
        stop=settings.stop,
        job=settings.job,
        probing=settings.probing,
        watched=dict(watched),
        changes=asked,
    )

    def note_home(_: DeclaredSandbox, made: Made) -> None:
        """Where its evidence belongs: whoever reaps it may know no profile."""
        with suppress(OSError, EvidenceError), store.staging(made.run, engine=engine.identity):
            pass  # without a note a reaper asks for a place, or leaves it

    session.before_start.append(note_home)
    prepare(session)
    session.listener(Planned(operations=made.operations))
    try:
        with span("carry out", sensitive=session.masked, project=profile.project, steps=len(made.operations)):
            applied = execute(made.operations, session, parallelism=settings.parallelism)
    finally:
        keeping = engine.collect(store)
    return CarriedOut(plan=made, applied=applied, session=session, keeping=keeping)


def get_ready(engine: Backend) -> None:
    """Import what a collection takes, before somebody waits for it."""
    import sandboxrun.evidence.capture  # noqa: F401

    engine.get_ready()


@contextmanager
def held(engine: Backend, profile: Profile, settings: ApplySettings) -> Iterator[Lock]:
    """Hold the project's lock."""
    with ExitStack() as stack:
        with span("lock", project=profile.project):
            lock = stack.enter_context(engine.lock(profile.project, wait=settings.lock_wait, on_wait=settings.on_wait))
        yield lock


@contextmanager
def locked(engine: Backend, profile: Profile, settings: ApplySettings) -> Iterator[Callable[[], None]]:
    """The same; gives the check to make before each change."""
    with held(engine, profile, settings) as lock:
        yield lock.check


@contextmanager
def naming_what_stays(job: Job) -> Iterator[None]:
    """The error of an engine that is away names the job's sandboxes that may be left there, and what collects them."""
    try:
        yield
    except (EngineUnreachable, EngineTimeout) as error:
        if left := [address for address, made in job.made.items() if made.run not in job.captured]:
            message = f"still on the engine, as far as is known: {', '.join(left)}"
            help = "once the engine answers, run `sandboxrun reap`: it saves the evidence, then removes what is left"
            error.diagnostics = (*error.diagnostics, Diagnostic(message=message, help=help))
        raise


def read_back(
    engine: Backend,
    profile: Profile,
    store: Store,
    session: Session,
    made: Plan,
    targets: tuple[str, ...],
    waiting: bool,
) -> None:
    """Read back what runs: what is enforced must be what is declared. Raises ApplyError, option by option.

    A sandbox that has ended meanwhile, or is past its lifetime, is fine: it was read back when it was started, and so
    was all that this apply made. Who waits for that has only what was updated looked at again.
    """
    stay = (Action.UPDATE,) if waiting else (Action.NONE, Action.UPDATE)
    ids = {c.container for c in made.changes if c.kind == "sandbox" and c.action in stay and c.container is not None}
    if not waiting:
        ids |= {one.id for one in session.made.values()}
    if not ids:
        return
    snapshot = engine.observe_these(profile, store, sorted(ids), compare=True)
    faults = [
        Diagnostic(
            message=f"{change.address}: after apply it is still not as declared: "
            + ", ".join(d.key for d in change.differences),
            help="run plan to see the differences",
        )
        for change in not_as_declared(profile, snapshot, targets)
    ]
    if faults:
        raise ApplyError(*faults)
