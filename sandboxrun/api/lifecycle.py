"""The steps of a one-off's life, each carried out by the executor.

Owns when the project's lock is held: while something is made or taken away that others may share, never while an
agent runs or its evidence is read.
"""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING

import attrs

from sandboxrun.api.collecting import LOCK_WAIT, Collector, nothing_declared
from sandboxrun.api.declare import Declared
from sandboxrun.api.gate import Gate
from sandboxrun.api.sandbox import Held
from sandboxrun.apply.executor import execute
from sandboxrun.apply.owned import own_containers
from sandboxrun.apply.session import Made, Session, Watched
from sandboxrun.apply.watch import NOTICE, Watch, Watching
from sandboxrun.engine.errors import NotFound
from sandboxrun.engine.owner import this_process
from sandboxrun.errors import Diagnostic, PlanError, SandboxrunError, UsageError
from sandboxrun.model import labels
from sandboxrun.model.declared import DeclaredSandbox, Profile
from sandboxrun.model.names import Names
from sandboxrun.model.observed import (
    Created,
    Ended,
    Image,
    ObservedSandbox,
    Offers,
    Running,
    Snapshot,
    observe,
    observe_companion,
)
from sandboxrun.plan import operations as op
from sandboxrun.plan.belongings import networks_of
from sandboxrun.plan.changes import Plan
from sandboxrun.plan.planner import Options, make_collect_plan, make_plan
from sandboxrun.workflow import converge
from sandboxrun.workflow.observe import own_networks, own_volumes, take_snapshot
from sandboxrun.workflow.oneoff import shares
from sandboxrun.workflow.surveying import surveyed

if TYPE_CHECKING:
    from sandboxrun.evidence.capture import Captured
    from sandboxrun.probe.findings import Finding
    from sandboxrun.service import SandboxService

_FOREIGN = op.RemoveNetwork | op.DisconnectNetwork | op.RemoveVolume | op.StopSandbox | op.RemoveSandbox


class Lifecycle:
    """The steps, for one service. Those on one sandbox come one after another; sandboxes do not wait for each other."""

    def __init__(self, service: SandboxService) -> None:
        self._service = service
        self._gate = Gate(self._project_lock)
        self._collector = Collector(service, self._gate)
        self._planning = threading.Lock()  # held from the snapshot until what others share was made
        self._making: set[str] = set()
        self._held: dict[str, Held] = {}  # by container id; those of this service
        self._table = threading.Lock()

    # -- create and start ------------------------------------------------------------------------------------

    def create(self, declared: Declared, stop: threading.Event) -> Held:
        """Everything up to the start, which is left out of the plan."""
        sessions: list[Session] = []

        def prepare(session: Session) -> None:
            session.extra_labels = {labels.ONE_OFF: "1", labels.OWNER: this_process().encode()}
            sessions.append(session)

        with self._named(declared.sandbox), self._with_others(declared.profile) as check, ExitStack() as planning:
            planning.enter_context(self._planning)
            made, snapshot = self._create_plan(declared)
            if not any(isinstance(step, op.CreateNetwork) for step in made.operations):
                planning.close()  # what is made now is this sandbox's alone
            service, settings = self._service, self._settings(declared.environment, stop)
            outcome = converge.carry_out(
                made, snapshot, service.engine, declared.profile, service.store, settings, check, prepare=prepare
            )
        assert outcome.applied is not None
        outcome.applied.check()
        sessions[0].networks_made.clear()  # others may use them by now: they go with the last of them
        sessions[0].volumes_made.clear()
        return self._keep(declared, sessions[0])

    @contextlib.contextmanager
    def _named(self, sandbox: DeclaredSandbox) -> Iterator[None]:
        """Two threads must not make one name at once: each would take the other's volumes for left-overs."""
        with self._table:
            if sandbox.name in self._making:
                raise _taken(sandbox, self._service.project)
            self._making.add(sandbox.name)
        try:
            yield
        finally:
            with self._table:
                self._making.discard(sandbox.name)

    def _with_others(self, profile: Profile) -> contextlib.AbstractContextManager[Callable[[], None]]:
        return self._gate.together() if shares(profile) else contextlib.nullcontext(lambda: None)

    def _create_plan(self, declared: Declared) -> tuple[Plan, Snapshot]:
        service, sandbox = self._service, declared.sandbox
        snapshot = take_snapshot(service.engine, declared.profile, service.store)
        if any(other.name == sandbox.name for other in snapshot.sandboxes):
            raise _taken(sandbox, service.project)
        snapshot = attrs.evolve(snapshot, sandboxes=(), completed={}, couriers=())
        made = make_plan(declared.profile, snapshot, Options(targets=(sandbox.address,)))
        made = surveyed(made, declared.profile, service.store)
        return self._without_start(made), snapshot

    def _without_start(self, made: Plan) -> Plan:
        """The plan's steps less the start. A plan that would change what others made is refused."""
        for step in made.operations:
            if isinstance(step, _FOREIGN):
                raise PlanError(
                    Diagnostic(
                        message=f"{step.address}: project {made.project} has another one of that name",
                        help="a profile of that project made it: give the service a project of its own",
                    )
                )
        return attrs.evolve(made, operations=tuple(s for s in made.operations if not isinstance(s, op.StartSandbox)))

    def _keep(self, declared: Declared, session: Session) -> Held:
        container = session.made[declared.sandbox.address].id
        answer = self._service.engine.inspect_container(container)
        held = Held(declared=declared, session=session, observed=observe(answer, declared.profile.names, None))
        with self._table:
            self._held[container] = held
        return held

    def start(self, held: Held, on_output: Callable[[int, bytes], None] | None) -> None:
        """Attach, start, watch; a start that fails takes the sandbox away."""
        with held.lock:
            sandbox, session = held.declared.sandbox, held.session
            if held.removed or held.watch is not None or not isinstance(self._now(held).state, Created):
                raise UsageError(f"{sandbox.address} cannot be started: it was started before", help="create another")
            watch = held.watch = self._watch(held, on_output)
            session.before_start = lambda _sandbox, _made: watch.before_start()
            session.after_start = lambda _sandbox, _made: watch.begin()
            step = op.StartSandbox(
                id=f"start {sandbox.address}", address=sandbox.address, cause="asked to", sandbox=sandbox
            )
            applied = execute([step], session, parallelism=1)
            if not applied.failures and not applied.skipped:
                return
            watch.close()
            self._undone(held)
        self._drop_networks(held)
        applied.check()

    def _undone(self, held: Held) -> None:
        """After a start that failed: it was removed, unless that failed too."""
        try:
            self._service.engine.inspect_container(held.observed.id)
        except NotFound:
            self._gone(held, held.session.captured.get(held.observed.run))
            return
        except SandboxrunError:
            pass
        held.left = True

    def _watch(self, held: Held, on_output: Callable[[int, bytes], None] | None) -> Watch:
        sandbox, output = held.declared.sandbox, None
        if on_output is not None or sandbox.spec.lifetime.idle is not None:

            def output(_address: str, stream: int, data: bytes) -> None:
                if on_output is not None:
                    on_output(stream, data)

        return Watch(
            self._service.engine,
            self._service.store,
            address=sandbox.address,
            container=held.observed.id,
            run=held.observed.run,
            spec=sandbox.spec,
            how=Watching(output=output),
        )

    # -- look ------------------------------------------------------------------------------------------------

    def look(self, held: Held) -> tuple[Finding, ...]:
        """A running one from outside, against what it was declared as."""
        from sandboxrun.model.codec import ImageConfig
        from sandboxrun.workflow.running import look_at

        sandbox, profile, engine = held.declared.sandbox, held.declared.profile, self._service.engine
        with held.lock:
            if held.removed or not isinstance(self._now(held).state, Running):
                raise UsageError(Diagnostic(message=f"{sandbox.address} does not run", help="start it first"))
            inspect = engine.inspect_container(held.observed.id)
            image = engine.image(str(inspect["Image"]))
            config = ImageConfig.of(image) if image is not None else None
            observed = observe(inspect, profile.names, config)
            now = Image(reference=sandbox.spec.image, config=config)
            return look_at(engine, profile, observed, sandbox.spec, now, {})

    # -- stop and remove -------------------------------------------------------------------------------------

    def stop(self, held: Held, timeout: float | None) -> None:
        """End it, within its grace period or `timeout`. Not under its lock: a second, shorter stop must get through."""
        if held.removed:
            return
        spec = held.declared.sandbox.spec
        grace = math.ceil(spec.stop_grace_period / 1e9 if timeout is None else max(timeout, 0))
        if held.watch is not None:
            held.watch.end("killed", grace=grace)
            if held.watch.wait(NOTICE):
                return
        with contextlib.suppress(NotFound):  # tells, unlike the watch, why it could not be stopped
            self._service.engine.stop_container(held.observed.id, timeout=grace)

    def remove(self, held: Held, *, force: bool) -> Captured | None:
        """Evidence, then removal; the project's networks go with the last sandbox that used them."""
        with held.lock:
            if held.removed:
                return held.evidence
            held.left = force
            if isinstance(self._now(held).state, Running):
                if not force:
                    message = f"{held.declared.sandbox.address} still runs"
                    raise UsageError(Diagnostic(message=message, help="stop it first, or give force=True"))
                self.stop(held, None)
            session = self._end(held)
            self._gone(held, session.captured.get(held.observed.run))
        self._drop_networks(held)
        return held.evidence

    def _end(self, held: Held) -> Session:
        watched: dict[str, Watched] = {}
        if held.watch is not None:
            held.watch.close()
            watched[held.observed.run] = held.watch.result
        held.observed = observed = self._now(held)
        profile, engine, store = held.declared.profile, self._service.engine, self._service.store
        run = {labels.RUN: observed.run}
        snapshot = Snapshot(
            project=profile.project,
            taken=engine.clock(),
            offers=Offers(api_version=engine.api_version),
            sandboxes=(observed,),
            networks=own_networks(engine, profile.project, more=run),
            volumes=own_volumes(engine, profile.project, more=run),
            companions=tuple(
                map(observe_companion, own_containers(engine, profile.project, more={**run, labels.ROLE: None}))
            ),
        )
        made = make_collect_plan(profile, snapshot, [observed], networks=False)
        settings = self._settings(held.declared.environment, threading.Event())
        outcome = converge.carry_out(made, snapshot, engine, profile, store, settings, lambda: None, watched=watched)
        assert outcome.applied is not None and outcome.session is not None
        outcome.applied.check()
        return outcome.session

    def _now(self, held: Held) -> ObservedSandbox:
        """The sandbox as it is now; one that somebody else removed counts as ended, its evidence as far as known."""
        try:
            answer = self._service.engine.inspect_container(held.observed.id)
        except NotFound:
            ended = Ended(exit_code=0, oom=False, started=None, finished=None)
            return attrs.evolve(held.observed, state=ended)
        return observe(answer, held.declared.profile.names, None)

    def _gone(self, held: Held, evidence: Captured | None) -> None:
        held.removed, held.evidence = True, evidence
        with self._table:
            self._held.pop(held.observed.id, None)

    def _drop_networks(self, gone: Held) -> None:
        """With the last sandbox of this process that used one. What fails here the next start finds by its label."""
        if not networks_of(gone.declared.sandbox.spec):
            return
        with self._table:
            if any(networks_of(held.declared.sandbox.spec) for held in self._held.values()):
                return
        with contextlib.suppress(SandboxrunError):
            self._collector.drop_networks()

    # -- find and collect ------------------------------------------------------------------------------------

    def find(self, name: str | None) -> list[Held]:
        """The one-offs on the engine; this service's own come as they are held."""
        wanted: dict[str, str | None] = {labels.ONE_OFF: "1"}
        if name is not None:
            wanted[labels.SANDBOX] = name
        engine = self._service.engine
        mine = own_containers(engine, self._service.project, more=wanted)
        found = engine.inspect_containers([str(c["Id"]) for c in mine])
        with self._table:
            held = dict(self._held)
        return [held.get(str(answer["Id"])) or self._adopt(answer) for answer in found]

    def _adopt(self, answer: Mapping[str, object]) -> Held:
        """A sandbox that another process made, by its labels."""
        service, names = self._service, Names(project=self._service.project)
        observed = observe(answer, names, None)
        sandbox = DeclaredSandbox(
            address=observed.address,
            sandbox=observed.address,
            each=None,
            name=observed.name,
            spec=observed.applied or observed.spec,
        )
        profile = Profile(project=service.project, directory=service.directory, sandboxes=(sandbox,), names=names)
        engine = service.engine
        snapshot = Snapshot(
            project=service.project, taken=engine.clock(), offers=Offers(api_version=engine.api_version)
        )
        session = Session(engine=engine, profile=profile, snapshot=snapshot, store=service.store, plan_digest="")
        session.made[observed.address] = Made(id=observed.id, run=observed.run)
        declared = Declared(profile=profile, sandbox=sandbox, environment={})
        return Held(declared=declared, session=session, observed=observed)

    def collect(self) -> tuple[Captured, ...]:
        """What killed processes left, and what this one could not take away when it was to."""
        with self._table:
            left = [held for held in self._held.values() if held.left]
        again = [self.remove(held, force=True) for held in left]
        return (*(one for one in again if one is not None), *self._collector.collect().values())

    # -- shared ----------------------------------------------------------------------------------------------

    def _project_lock(self) -> contextlib.AbstractContextManager[Callable[[], None]]:
        service, settings = self._service, self._settings({}, threading.Event())
        return converge.locked(service.engine, nothing_declared(service), settings)

    def _settings(self, environment: Mapping[str, str], stop: threading.Event) -> converge.Settings:
        return converge.Settings(environment=environment, stop=stop, lock_wait=LOCK_WAIT)

    def close(self) -> None:
        """Let go of the watches, whose connections have ended: nobody is told any more when a sandbox ends."""
        with self._table:
            held, self._held = list(self._held.values()), {}
        for one in held:
            if one.watch is not None:
                one.watch.close()


def _taken(sandbox: DeclaredSandbox, project: str) -> UsageError:
    message = f"there is a sandbox {sandbox.address} of project {project} already"
    return UsageError(Diagnostic(message=message, help="remove it first, or choose another name"))
