"""apply and destroy.

Owns their order: the lock around everything that changes the engine, the plan shown before it is carried out,
evidence before removal, and the read-back of all at the end.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Protocol

import attrs

from sandboxrun.apply.events import Listener, Planned, silent
from sandboxrun.apply.executor import Applied, execute
from sandboxrun.apply.files import file_contents
from sandboxrun.apply.leftovers import collect
from sandboxrun.apply.places import check_neighbours, real_places
from sandboxrun.apply.session import Session, Watched
from sandboxrun.engine.client import Engine
from sandboxrun.engine.lock import project_lock
from sandboxrun.engine.project_events import ProjectEvents
from sandboxrun.errors import ApplyError, Diagnostic, PlanError
from sandboxrun.model.declared import DeclaredSandbox, Profile
from sandboxrun.model.observed import Running, Snapshot
from sandboxrun.plan.changes import Plan
from sandboxrun.plan.planner import Options, make_destroy_plan, make_plan
from sandboxrun.workflow.hostpaths import check_sources
from sandboxrun.workflow.observe import take_snapshot
from sandboxrun.workflow.outside import check_outside
from sandboxrun.workflow.planning import destroy_plan, plan
from sandboxrun.workflow.surveying import sandboxes_made, surveyed

if TYPE_CHECKING:
    from sandboxrun.evidence.store import Store
    from sandboxrun.workflow.saved import SavedPlan

Confirm = Callable[[Plan], bool]


class Proof(Protocol):
    """What an apply is to prove before it ends; each part raises ApplyError when something does not hold."""

    def before(self, sandboxes: tuple[DeclaredSandbox, ...], guard: Callable[[], None] | None) -> None:
        """Of what is to be made, before anything is. `guard` checks the project's lock, where that is held."""

    def prepare(self, session: Session) -> None:
        """To look at each sandbox once it runs."""


def _unchanged(session: Session) -> None:
    """A session as it is."""


@attrs.define(kw_only=True)
class Settings:
    """How a change of the engine is carried out. Times in seconds; `stop` set from a signal ends it cleanly. What ran
    to its end since `began` (a UNIX time) is not run again, whichever checkout's job ran it."""

    parallelism: int = 4
    lock_wait: float = 60.0
    listener: Listener = silent
    on_wait: Callable[[str], None] | None = None
    stop: threading.Event = attrs.field(factory=threading.Event)
    environment: Mapping[str, str] = attrs.field(factory=dict, repr=False)
    began: float = attrs.field(factory=time.time)
    probing: bool = False  # what does not hold is to be seen inside


@attrs.frozen(kw_only=True)
class Outcome:
    """What an apply or destroy did: its plan, what came of it (None when it was declined), and its session."""

    plan: Plan
    applied: Applied | None = None
    session: Session | None = None


def apply(
    engine: Engine,
    profile: Profile,
    store: Store,
    *,
    options: Options | None = None,
    settings: Settings | None = None,
    confirm: Confirm = lambda plan: True,
    expected: SavedPlan | None = None,
    blocked: bool = False,
    proof: Proof | None = None,
    events: ProjectEvents | None = None,
    prepare: Callable[[Session], None] = _unchanged,
) -> Outcome:
    """Make the engine hold what the profile declares. `expected` is a saved plan: nothing else may come of it.

    With `proof` what is to be made is verified first, and each sandbox once it runs. With `blocked` it is no error that
    sandboxes were not started because what they depend on failed: the outcome says it. `events` is one that the caller
    follows already; `prepare` gets the session before the first step.

    Raises PlanError when the saved plan is stale, ApplyError when a step failed or the result is not as declared.
    """
    settings = settings or Settings()
    if expected is not None:
        options = expected.options
    with ExitStack() as stack:
        # Before the lock: whoever holds it may complete, in another checkout, what this one would run.
        events = events or stack.enter_context(ProjectEvents(engine, profile.project, settings.began))
        guard = stack.enter_context(locked(engine, profile, settings))
        snapshot = take_snapshot(engine, profile, store, workspaces=True, events=events)
        if expected is not None and expected.destroy:
            made = make_destroy_plan(profile, snapshot, expected.options.targets)
        else:
            made = surveyed(make_plan(profile, snapshot, options), profile, store)
        if expected is not None:
            refuse_stale(expected, made)
        if not confirm(made):
            return Outcome(plan=made)
        if proof is not None:
            proof.before(sandboxes_made(made, profile), guard)
            snapshot = attrs.evolve(snapshot, taken=engine.clock())

        def prepared(session: Session) -> None:
            prepare(session)
            if proof is not None:
                proof.prepare(session)

        outcome = carry_out(made, snapshot, engine, profile, store, settings, guard, prepare=prepared)
        assert outcome.applied is not None
        if not (blocked and outcome.applied.dependencies_failed):
            outcome.applied.check()
        if not made.empty and not made.refresh_only and not made.destroy:
            verify(engine, profile, store, options)
    return outcome


def destroy(
    engine: Engine,
    profile: Profile,
    store: Store,
    *,
    targets: tuple[str, ...] = (),
    settings: Settings | None = None,
    confirm: Confirm = lambda plan: True,
) -> Outcome:
    """Keep the evidence of everything the project has on the engine, and remove it."""
    settings = settings or Settings()
    with locked(engine, profile, settings) as guard:
        snapshot = take_snapshot(engine, profile, store)
        made = make_destroy_plan(profile, snapshot, targets)
        if not confirm(made):
            return Outcome(plan=made)
        outcome = carry_out(made, snapshot, engine, profile, store, settings, guard)
        assert outcome.applied is not None
        outcome.applied.check()
    return outcome


def carry_out(
    made: Plan,
    snapshot: Snapshot,
    engine: Engine,
    profile: Profile,
    store: Store,
    settings: Settings,
    guard: Callable[[], None],
    *,
    watched: Mapping[str, Watched] | None = None,
    prepare: Callable[[Session], None] = _unchanged,
) -> Outcome:
    """Execute a plan's steps. Does not raise for a step that fails: see `Outcome.applied`."""
    making = sandboxes_made(made, profile)
    check_outside(making, store)
    check_sources(making)
    if made.operations:
        store.check()
    check_neighbours(making, profile, engine)
    contents = file_contents(profile, settings.environment, making)
    session = Session(
        engine=engine,
        profile=profile,
        snapshot=snapshot,
        store=store,
        plan_digest=made.digest,
        files=contents.files,
        places=real_places(making),
        masked=tuple(sorted({*profile.sensitive, *contents.masked})),
        listener=settings.listener,
        guard=guard,
        stop=settings.stop,
        probing=settings.probing,
    )
    session.watched.update(watched or {})
    prepare(session)
    session.listener(Planned(operations=made.operations))
    try:
        applied = execute(made.operations, session, parallelism=settings.parallelism)
    finally:
        collect(engine, store)
    return Outcome(plan=made, applied=applied, session=session)


@contextmanager
def locked(engine: Engine, profile: Profile, settings: Settings) -> Iterator[Callable[[], None]]:
    """Hold the project's lock; gives the check to make before each change."""
    with project_lock(engine, profile.project, wait=settings.lock_wait, on_wait=settings.on_wait) as lock:
        yield lock.check


def verify(engine: Engine, profile: Profile, store: Store, options: Options | None = None) -> None:
    """Read everything back: what is enforced must be what is declared. Raises ApplyError, option by option.

    A sandbox that has ended meanwhile, or is past its lifetime, is fine: it was read back when it was started.
    """
    snapshot = take_snapshot(engine, profile, store)
    running = {o.id for o in snapshot.sandboxes if isinstance(o.state, Running)}
    targets = options.targets if options is not None else ()
    again = make_plan(profile, snapshot, Options(targets=targets))
    faults = [
        Diagnostic(
            message=f"{change.address}: after apply it is still not as declared: "
            + ", ".join(d.key for d in change.differences),
            help="run plan to see the differences",
        )
        for change in again.pending
        if change.kind == "sandbox" and change.container in running and change.differences
    ]
    if faults:
        raise ApplyError(*faults)


def refuse_stale(saved: SavedPlan, fresh: Plan) -> None:
    """Raise PlanError, saying what has moved, unless the plan is still the one that was saved."""
    from sandboxrun.workflow.stale import explain_stale

    if saved.digest != fresh.digest:
        raise PlanError(explain_stale(saved, fresh))


__all__ = [
    "Confirm",
    "Outcome",
    "Proof",
    "Settings",
    "apply",
    "carry_out",
    "destroy",
    "destroy_plan",
    "locked",
    "plan",
    "refuse_stale",
    "sandboxes_made",
    "verify",
]
