"""`reap`: what nobody waits for any more is collected, evidence first, whoever made it; once, or as things happen.

Owns the order, and where each run's evidence goes: to the store that this user noted when it was started, to the
profile's, or to a place the caller names. What has no such place stays, and so does whatever could not be saved; both
are failures, by name. Any number of reapers may work at once, and each may be killed at any call.
"""

from __future__ import annotations

import math
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from time import monotonic

from msgspec import structs

from sandboxrun.backend.base import Backend, Lock, News, Project
from sandboxrun.backend.errors import EngineError, LockHeld
from sandboxrun.backend.owner import Owner, decode, this_process
from sandboxrun.backend.session import Session
from sandboxrun.data import Data
from sandboxrun.errors import Diagnostic, SandboxrunError, one_line
from sandboxrun.evidence.errors import EvidenceError
from sandboxrun.evidence.store import Store, home_of, no_store
from sandboxrun.lifecycle.apply import ApplySettings, CarriedOut, carry_out, get_ready, held
from sandboxrun.plan import operations as op
from sandboxrun.plan.changes import Plan, Reason
from sandboxrun.plan.decide import decide_undeclared
from sandboxrun.plan.operations import Operation
from sandboxrun.plan.planner import due, make_collect_plan, next_deadline, state_of
from sandboxrun.report.reap import Connected, Left, Lost, ProjectLooked, Reaped, ReaperEvent, Result, Swept
from sandboxrun.spec import labels
from sandboxrun.spec.names import Names
from sandboxrun.spec.project import Profile, undeclared
from sandboxrun.spec.state import Created, History, ObservedSandbox, Snapshot, from_label, parse_time
from sandboxrun.spec.types import freeze
from sandboxrun.threads import begin
from sandboxrun.tracing import span


class Scope(Data):
    """What a reaper looks at: one project, or all; of these, only sandboxes made at least `older_than` seconds ago by
    the engine's clock, or by the CI job with the id `job`, which is over."""

    project: str | None = None
    older_than: float | None = None
    job: str | None = None

    @property
    def whole(self) -> bool:
        """Whether all of a project is meant, what sandboxes share and leave behind included."""
        return self.older_than is None and self.job is None

    def has(self, observed: ObservedSandbox, snapshot: Snapshot) -> bool:
        if self.job is not None and (observed.job is None or observed.job.id != self.job):
            return False
        ready = self.ready(observed)
        return ready is None or snapshot.taken >= ready

    def ready(self, observed: ObservedSandbox) -> datetime | None:
        """When the sandbox is old enough; None where its age does not count."""
        made = parse_time(observed.created)
        return made + timedelta(seconds=self.older_than) if self.older_than is not None and made is not None else None


class Homes(Data):
    """Where evidence may go that this user has no note of: `own` is the store of the `profile`, for runs that were made
    in its directory; `elsewhere` takes all other."""

    own: Store | None = None
    profile: Profile | None = None  # its secrets and sensitive values are masked in what goes to its store
    elsewhere: Path | None = None

    def of(self, observed: ObservedSandbox) -> Store | None:
        """The store for a run's evidence; None where there is none."""
        if (noted := home_of(observed.run)) is not None:
            return noted
        made_in = observed.labels.get(labels.DIRECTORY)
        if self.own is not None and made_in in (None, labels.directory(str(self.own.project_directory.absolute()))):
            return self.own  # None: made by a version that did not label it
        return self.store_elsewhere

    @property
    def store_elsewhere(self) -> Store | None:
        """The store in the place that the caller named."""
        if self.elsewhere is None:
            return None
        place = Path(os.path.abspath(self.elsewhere))
        return Store(project_directory=place, root=place)


_JOINED = 60.0  # seconds after which is looked again whether somebody still waits for what a process left that is gone
DOUBT = 60.0  # seconds, longer than between renewals: an engine's clock that is set makes every lease look old


def reap(
    engine: Backend,
    scope: Scope,
    *,
    homes: Homes | None = None,
    settings: ApplySettings | None = None,
    dry_run: bool = False,
    doubt: float = DOUBT,
) -> Result:
    """Reap what is due, project by project. What fails is in the result, and keeps nothing else from being reaped.

    Where a lease seems to have run out, its owner has `doubt` seconds to renew it. Raises EngineError where the engine
    cannot be asked what there is.
    """
    settings, homes, result = settings or ApplySettings(), homes or Homes(), Result(planned=dry_run)
    lapsed: list[tuple[Names, frozenset[str]]] = []
    for found in engine.projects(scope.project):
        if not settings.stop.is_set():
            work = ProjectReaper(engine, found.names, scope, homes, settings)
            result = result.joined(work.foretell() if dry_run else work.reap(sure=surely_due(found, scope)))
            lapsed += [(found.names, work.lapsed)] if work.lapsed else []
    if dry_run:
        return result
    if lapsed:
        if settings.on_wait is not None:
            settings.on_wait(f"waiting {doubt:g}s for processes on other machines to renew their lease")
        settings.stop.wait(doubt)
    for names, ids in lapsed:
        if not settings.stop.is_set():
            result = result.joined(ProjectReaper(engine, names, scope, homes, settings, lapsed=ids).reap())
    result = result.joined(_sweep_leases(engine))
    engine.collect(no_store(), thorough=True)
    return result


def _sweep_leases(engine: Backend) -> Result:
    """Leases are of no project: what can't be removed of them keeps none from being reaped."""
    try:
        engine.sweep_leases()
    except EngineError as error:
        return Result(left=(Left(project="", address="", faults=error.diagnostics),))
    return Result()


def surely_due(project: Project, scope: Scope) -> bool:
    """Whether anything of the project is to be reaped, as far as the engine's list of it tells."""
    return scope.whole and any(map(is_over, project.ended.values()))


def is_over(own: Mapping[str, str]) -> bool:
    """Whether nobody collects a sandbox with these labels that has ended, and the engine does not start it again."""
    owner = decode(own.get(labels.OWNER, ""))
    if labels.awaited(own) and (owner is None or not owner.is_gone or labels.ONE_OFF not in own):
        return False  # somebody else may wait for what an apply made
    spec = from_label(own.get(labels.SPEC, ""))
    return spec is not None and spec.restart in (None, "no")


class ProjectReaper:
    """The reaping of one project. SandboxrunErrors are in its results.

    Afterwards: whether somebody else had its lock (`busy`), how many of its sandboxes are there by `states` (None where
    not all were looked at), in how many seconds something is due that only the clock tells (`next_look`), the processes
    that own any (`owners`), and the ids of sandboxes whose lease has run out (`lapsed`): they are reaped by one who was
    given them, if they still are. `heard` are histories of those whose end was followed.
    """

    def __init__(
        self,
        engine: Backend,
        names: Names,
        scope: Scope,
        homes: Homes,
        settings: ApplySettings,
        *,
        lapsed: frozenset[str] = frozenset(),
        heard: Mapping[str, History] = freeze({}),
    ) -> None:
        self._doubted, self._heard = lapsed, heard
        self._engine, self._scope, self._homes, self._settings = engine, scope, homes, settings
        self._profile = undeclared(names, no_store().project_directory)
        self._reaped: list[Reaped] = []
        self._swept: list[Swept] = []
        self._left: list[Left] = []
        self.busy = False
        self.states: Mapping[str, int] | None = None
        self.next_look: float | None = None
        self.owners: frozenset[Owner] = frozenset()
        self.lapsed: frozenset[str] = frozenset()

    def foretell(self) -> Result:
        """What would be reaped."""
        with self._told_as_left():
            snapshot = self._observe()
            self._doubted = snapshot.lapsed  # unless they are renewed meanwhile
            reasons = self._due(snapshot)
            for _, mine in self._by_home(snapshot, reasons):
                kept = _kept_by(make_collect_plan(self._profile, snapshot, mine, networks=False, reasons=reasons))
                self._reaped += [self._result_of(o, reasons[o.id], kept=o.id in kept) for o in mine]
                snapshot = _without(snapshot, mine)
            self._note_swept(self._sweeping(snapshot).operations)
        return structs.replace(self._result(), planned=True)

    def reap(self, *, sure: bool = False) -> Result:
        """Reap what is due. A project where nothing is, is not locked, since somebody may work in it: it is looked at
        before, unless something is `sure` to be due."""
        began = monotonic()
        with self._told_as_left():
            if sure or self._has_work():
                with self._reaping() as lock:
                    snapshot = self._reap_due(self._observe(lock), lock.check)
                    self._sweep(snapshot, lock.check)
                    self._look_ahead(snapshot)
        if sure and self.busy:
            with self._told_as_left():
                self._has_work()
        return self._result(monotonic() - began)

    def reap_ended(self, ended: Iterable[str]) -> Result:
        """Reap these containers, which have ended, and look at nothing else."""
        began = monotonic()
        with self._told_as_left(), self._reaping() as lock:
            known = {id: self._heard.get(id) for id in ended}
            self._reap_due(self._engine.observe_ended(self._profile, no_store(), known), lock.check)
        return self._result(monotonic() - began)

    def _result(self, seconds: float = 0.0) -> Result:
        left = tuple(self._left)
        return Result(reaped=tuple(self._reaped), swept=tuple(self._swept), left=left, seconds=seconds)

    @contextmanager
    def _reaping(self) -> Iterator[Lock]:
        with (
            span("reap", project=self._profile.project) as opened,
            held(self._engine, self._profile, self._settings) as lock,
        ):
            yield lock
            opened.note(reaped=len(self._reaped), left=len(self._left))

    def _has_work(self) -> bool:
        snapshot = self._observe()
        self._look_ahead(snapshot)
        return bool(self._due(snapshot) or self._sweeping(snapshot).operations)

    def _look_ahead(self, snapshot: Snapshot) -> None:
        """What a reaper that goes on has to know of what is there."""
        self.states = Counter(state_of(o) for o in snapshot.sandboxes)
        owners = {decode(o.owner or "") for o in snapshot.sandboxes if o.id in snapshot.owned}
        owners |= set(map(decode, snapshot.joined_by))
        self.owners = frozenset(owner for owner in owners if owner is not None)
        self.lapsed = snapshot.lapsed & {o.id for o in snapshot.sandboxes}
        reasons = due(snapshot)
        waiting = (self._scope.ready(o) for o in snapshot.sandboxes if o.id in reasons)
        ahead = [at for at in (next_deadline(snapshot), *waiting) if at is not None and at > snapshot.taken]
        joined = [_JOINED] if any(owner is None or owner.is_gone for owner in owners) else []
        self.next_look = min((*joined, *((at - snapshot.taken).total_seconds() for at in ahead)), default=None)

    def _reap_due(self, snapshot: Snapshot, guard: Callable[[], None]) -> Snapshot:
        """Reap what is due; what is there then."""
        reasons = self._due(snapshot)
        for store, mine in self._by_home(snapshot, reasons):
            plan = make_collect_plan(self._profile, snapshot, mine, networks=False, reasons=reasons)
            try:
                outcome = self._carry_out(plan, snapshot, store, guard)
            except EvidenceError as error:
                for observed in mine:
                    self._leave(observed.address, *error.diagnostics)
                continue
            removed = [o for o in mine if self._is_removed(o, outcome)]
            kept = _kept_by(plan)
            self._reaped += [self._result_of(o, reasons[o.id], outcome.session, kept=o.id in kept) for o in removed]
            snapshot = _without(snapshot, removed)
        return snapshot

    def _sweep(self, snapshot: Snapshot, guard: Callable[[], None]) -> None:
        """Remove what no sandbox uses any more."""
        sweeping = self._sweeping(snapshot)
        if sweeping.operations:
            applied = self._carry_out(sweeping, snapshot, no_store(), guard).applied
            self._note_swept(step for step in sweeping.operations if step.id in applied.done)
            for failure in applied.failures:
                self._leave("", *failure.error.diagnostics)

    def _carry_out(self, plan: Plan, snapshot: Snapshot, store: Store, guard: Callable[[], None]) -> CarriedOut:
        profile, homes = self._profile, self._homes
        if homes.profile is not None and homes.own is not None and store.path == homes.own.path:
            profile = structs.replace(homes.profile, sandboxes=(), names=profile.names)
        return carry_out(plan, snapshot, self._engine, profile, store, self._settings, guard)

    @contextmanager
    def _told_as_left(self) -> Iterator[None]:
        """What fails for the project as a whole is reported like what fails for one of its sandboxes."""
        try:
            yield
        except SandboxrunError as error:
            self.busy = isinstance(error, LockHeld)
            self._leave("", *error.diagnostics)

    def _leave(self, address: str, *faults: Diagnostic) -> None:
        self._left.append(Left(project=self._profile.project, address=address, faults=faults))

    def _observe(self, held: Lock | None = None) -> Snapshot:
        return self._engine.observe(self._profile, no_store(), held=held, heard=self._heard)

    def _due(self, snapshot: Snapshot) -> Mapping[str, Reason]:
        here = {o.id for o in snapshot.sandboxes if self._scope.has(o, snapshot)}
        over = here if self._scope.job is not None else ()
        lapsed = snapshot.lapsed & self._doubted
        return {id: why for id, why in due(snapshot, lapsed=lapsed, over=over).items() if id in here}

    def _sweeping(self, snapshot: Snapshot) -> Plan:
        """What no sandbox uses, or was left by one that is gone; the profile's volumes stay."""
        whole = self._scope.whole
        return make_collect_plan(self._profile, snapshot, (), networks=whole, leftovers=whole)

    def _by_home(self, snapshot: Snapshot, reasons: Mapping[str, Reason]) -> list[tuple[Store, list[ObservedSandbox]]]:
        """What is due, by the store that its evidence goes to; what never ran needs none."""
        groups: dict[Path, tuple[Store, list[ObservedSandbox]]] = {}
        for observed in snapshot.sandboxes:
            if observed.id not in reasons:
                continue
            store = no_store() if isinstance(observed.state, Created) else self._homes.of(observed)
            if store is None:
                made_in, owner = observed.labels.get(labels.DIRECTORY), decode(observed.owner or "")
                where = f" in {one_line(made_in)}" if made_in else ""
                whose = f"{where} by {one_line(owner.who)}" if owner else where
                message = "nothing here shows where the evidence of this run belongs"
                help = "reap it as the user who made it, in the project's directory, or name a place for its evidence"
                message += f": it was made{whose}" if whose else ""
                self._leave(observed.address, Diagnostic(message=message, help=help, option="--evidence-dir DIR"))
            else:
                groups.setdefault(store.path, (store, []))[1].append(observed)
        return [*groups.values()]

    def _is_removed(self, observed: ObservedSandbox, outcome: CarriedOut) -> bool:
        """Whether the sandbox is gone; why not is noted."""
        applied = outcome.applied
        mine = [step for step in outcome.plan.operations if getattr(step, "container", None) == observed.id]
        if all(step.id in applied.done for step in mine):
            return True
        ids = {step.id for step in mine}
        faults = [d for failure in applied.failures if failure.step.id in ids for d in failure.error.diagnostics]
        self._leave(observed.address, *(faults or [Diagnostic(message="stopped before it was reaped")]))
        return False

    def _result_of(
        self, observed: ObservedSandbox, reason: Reason, session: Session | None = None, *, kept: bool
    ) -> Reaped:
        return Reaped(
            project=self._profile.project,
            address=observed.address,
            run=observed.run,
            reason=reason,
            why=decide_undeclared(observed, None, reason).change.note,
            spec=observed.applied or observed.spec,
            kept=kept,
            captured=session.captured.get(observed.run) if session is not None else None,
        )

    def _note_swept(self, steps: Iterable[Operation]) -> None:
        for step in steps:
            match step:
                case op.RemoveNetwork(name=name):
                    kind = "network"
                case op.RemoveVolume(name=name):
                    kind = "volume"
                case op.RemoveLeftover(container=name):
                    kind, name = "container", name[:12]
                case _:
                    continue
            self._swept.append(Swept(project=self._profile.project, kind=kind, name=name))


def _kept_by(plan: Plan) -> frozenset[str]:
    """The containers that a plan keeps after their end, as their lifetime says."""
    return frozenset(step.container for step in plan.operations if isinstance(step, op.KeepSandbox))


def _without(snapshot: Snapshot, removed: Iterable[ObservedSandbox]) -> Snapshot:
    """The snapshot, less these and all that was theirs alone."""
    ids, runs = {o.id for o in removed}, {o.run for o in removed}
    return structs.replace(
        snapshot,
        sandboxes=tuple(o for o in snapshot.sandboxes if o.id not in ids),
        networks=tuple(n for n in snapshot.networks if n.run not in runs),
        volumes=tuple(v for v in snapshot.volumes if v.run not in runs),
        companions=tuple(c for c in snapshot.companions if c.run not in runs),
    )


# -- `reap --watch`

_SLICE = 0.5  # seconds of waiting, so that signals are seen
_BUSY = 5.0  # seconds until a project is looked at again whose lock somebody has
_FAILED = 60.0  # seconds until one is looked at again where something could not be reaped
_LONGEST = 3600.0  # seconds after which all is looked at in any case: an engine's clock may have been set meanwhile
_BACKOFF = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0)  # seconds between attempts to reach the engine


class Reaper:
    """One `reap --watch`: reaps as things happen, for as long as it runs.

    Each project is looked at when the engine says that something happened to it, when its next sandbox is due, when a
    process that owns one of its sandboxes ends on this machine, again after a failure, and all of them after each
    connection to the engine, since what happened in between is not known. It asks the engine nothing else meanwhile.
    What ends by itself is reaped at once, with nothing else looked at; a look at its whole project follows.
    `settings.stop` ends it, after what it is at. `tidy` is called after each look at all, once an hour at least; it
    must not raise.
    """

    def __init__(
        self,
        engine: Backend,
        scope: Scope,
        homes: Homes,
        settings: ApplySettings,
        tell: Callable[[ReaperEvent], None],
        *,
        doubt: float = DOUBT,
        tidy: Callable[[], object] = lambda: None,
    ) -> None:
        self._tidy, self._untidy, self._unswept = tidy, False, False
        self._doubt = doubt
        self._engine, self._scope, self._homes, self._tell = engine, scope, homes, tell
        self._settings, self._patience = structs.replace(settings, lock_wait=0.0), settings.lock_wait
        self._changed = threading.Condition()
        self._everything = True  # whether all projects are to be looked at
        self._lost: EngineError | None = None
        self._next: dict[str, float] = {}  # project → when to look at it (time.monotonic)
        self._ended: dict[str, set[str]] = {}  # project → what is to be reaped, as its end was told
        self._heard: dict[str, History] = {}  # of what has ended and is still there: the engine may forget it
        self._names: dict[str, Names] = {}  # of projects that were looked at
        self._known: set[str] = set()  # projects in which nothing was started since they were looked at
        self._owners: set[tuple[Owner, str]] = set()  # those whose end is waited for, by project
        self._busy_since: dict[str, float] = {}
        self._lapsed: dict[str, dict[str, float]] = {}  # project → its containers whose lease seems to be over → since

    def run(self) -> None:
        """Until it is stopped."""
        attempts = 0
        begin(partial(get_ready, self._engine), name="get ready", failed=lambda error: None)  # raised where it is used
        while not self._settings.stop.is_set():
            try:
                with self._following():
                    attempts = 0
                    self._work()
            except EngineError as error:
                self._tell(Lost(error=error))
                self._settings.stop.wait(_BACKOFF[min(attempts, len(_BACKOFF) - 1)])
                attempts += 1

    @contextmanager
    def _following(self) -> Iterator[None]:
        """First follow, then look at all: so nothing is missed in between."""
        with self._engine.news() as news:
            self._lost, self._everything = None, True
            self._known.clear()
            self._ended.clear()
            self._heard.clear()
            begin(partial(self._follow, news), name="engine events", failed=self._broken)
            self._tell(Connected())
            yield

    def _follow(self, news: News) -> None:
        for one in news:
            if self._scope.project not in (None, one.project):
                continue
            to_reap = one.action == "die" and labels.ROLE not in one.labels and is_over(one.labels)
            with self._changed:
                if one.action == "start":
                    self._known.discard(one.project)
                if one.history is not None:
                    self._heard[one.id] = one.history
                else:
                    self._heard.pop(one.id, None)
                if to_reap:
                    self._ended.setdefault(one.project, set()).add(one.id)
            self._wake(one.project)
        raise EngineError("following the engine's events", "the engine ended the stream")

    def _broken(self, error: BaseException) -> None:
        told = error if isinstance(error, EngineError) else EngineError("following the engine's events", str(error))
        with self._changed:
            self._lost = told
            self._changed.notify_all()

    def _wake(self, project: str) -> None:
        with self._changed:
            self._next[project] = min(self._next.get(project, math.inf), monotonic())
            self._changed.notify_all()

    def _work(self) -> None:
        """Look at what is to be looked at, until the engine is lost."""
        look_at_all = monotonic()
        while not self._settings.stop.is_set():
            if self._everything or monotonic() >= look_at_all:
                self._everything, look_at_all = False, monotonic() + _LONGEST
                self._look_at_all()
            project = self._take(look_at_all)
            if project is not None:
                self._look_at(project)
            elif self._untidy:
                self._untidy = False
                self._tidy()

    def _take(self, until: float) -> str | None:
        """The next project to look at; None when something else is to be done first."""
        with self._changed:
            if self._lost is not None:
                raise self._lost
            soonest = min(self._next, key=lambda project: self._next[project], default=None)
            when = min(until, self._next[soonest]) if soonest is not None else until
            if soonest is not None and self._next[soonest] <= monotonic():
                del self._next[soonest]
                return soonest
            self._changed.wait(min(_SLICE, max(0.0, when - monotonic())))
            return None

    def _look_at_all(self) -> None:
        there = {found.names.project for found in self._engine.projects(self._scope.project)}
        swept = _sweep_leases(self._engine)
        if swept.left or self._unswept:
            self._tell(ProjectLooked(project="", result=swept, states=None))
        self._unswept = bool(swept.left)
        self._engine.collect(no_store(), thorough=True)
        with self._changed:
            self._next = dict.fromkeys({*self._next, *there}, 0.0)
        self._untidy = True

    def _look_at(self, project: str) -> None:
        with self._changed:
            ended, at_once = self._ended.pop(project, set()), project in self._known and self._scope.whole
            if ended and at_once:
                self._known.discard(project)  # however much ends, the next look is at all
            else:
                self._known.add(project)
        if ended and at_once:
            work = self._work_on(self._names[project])
            self._tell_of(project, work, work.reap_ended(ended), 0.0)
        else:
            self._look_at_whole(project)

    def _look_at_whole(self, project: str) -> None:
        found = self._engine.projects(project)
        if not found:  # nothing of it is there any more
            with self._changed:
                self._known.discard(project)
            self._names.pop(project, None)
            self._tell(ProjectLooked(project=project, result=Result(), states={}))
            return
        now, seen = monotonic(), self._lapsed.pop(project, {})
        doubted = frozenset(id for id, since in seen.items() if now - since >= self._doubt)
        self._names[project] = names = found[0].names
        work = self._work_on(names, lapsed=doubted)
        result, again = work.reap(sure=surely_due(found[0], self._scope)), work.next_look
        if work.lapsed:
            self._lapsed[project] = {id: seen.get(id, now) for id in work.lapsed}
            again = min(self._doubt, again or self._doubt)
        self._tell_of(project, work, result, again)
        self._owners -= {(owner, of) for owner, of in [*self._owners] if of == project and owner not in work.owners}
        for owner in work.owners:
            self._await_end(owner, project)

    def _work_on(self, names: Names, *, lapsed: frozenset[str] = frozenset()) -> ProjectReaper:
        with self._changed:
            heard = dict(self._heard)
        settings = self._settings
        return ProjectReaper(self._engine, names, self._scope, self._homes, settings, lapsed=lapsed, heard=heard)

    def _tell_of(self, project: str, work: ProjectReaper, result: Result, again: float | None) -> None:
        """Tell what was done, and look at the project once more in `again` seconds, or when that may do more."""
        if work.busy:
            again = _BUSY
            since = self._busy_since.setdefault(project, monotonic())
            if monotonic() - since < self._patience:
                result = structs.replace(result, left=())  # whoever works there will have done soon
        else:
            self._busy_since.pop(project, None)
            again = min(_FAILED, again or _FAILED) if result.left else again
        self._tell(ProjectLooked(project=project, result=result, states=work.states))
        if again is not None:
            with self._changed:
                self._next.setdefault(project, monotonic() + again)

    def _await_end(self, owner: Owner, project: str) -> None:
        """The engine tells nothing when a process ends that owns a sandbox. One that has ended since it was looked at
        is told of at once, and once: what it left may be another's by now."""
        awaited = (owner, project)

        def wait() -> None:
            if owner.wait_until_gone():
                self._wake(project)

        if awaited not in self._owners and owner != this_process():
            self._owners.add(awaited)
            begin(wait, name=f"process {owner.pid}", failed=lambda error: self._owners.discard(awaited))
