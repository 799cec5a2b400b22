"""The steps of a one-off's life, each carried out by the executor; what is declared by a call; and collecting what
nobody looks after.
"""

from __future__ import annotations

import contextlib
import math
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

from msgspec import structs

from sandboxrun.api.sandbox import Held
from sandboxrun.api.settings import check_options
from sandboxrun.backend.docker.leftovers import collect
from sandboxrun.backend.docker.observe import take_snapshot
from sandboxrun.backend.docker.owned import own_sandboxes
from sandboxrun.backend.errors import NotFound
from sandboxrun.backend.owner import this_process
from sandboxrun.backend.session import Made, Session, Watched
from sandboxrun.data import Data
from sandboxrun.errors import Diagnostic, PlanError, SandboxrunError, UsageError
from sandboxrun.lifecycle import apply as converge
from sandboxrun.lifecycle.apply import check_outside
from sandboxrun.lifecycle.executor import execute
from sandboxrun.lifecycle.job import Job, shares
from sandboxrun.lifecycle.places import check_sources, may_write, surveyed
from sandboxrun.lifecycle.watch import NOTICE
from sandboxrun.plan import operations as op
from sandboxrun.plan.belongings import is_private, networks_of
from sandboxrun.plan.changes import Plan
from sandboxrun.plan.planner import Options, make_collect_plan, make_plan
from sandboxrun.profile.functions import MARKS
from sandboxrun.profile.variables import Inputs
from sandboxrun.spec import labels
from sandboxrun.spec.names import Names
from sandboxrun.spec.project import DeclaredSandbox, NetworkSpec, Profile
from sandboxrun.spec.state import Created, Ended, ObservedSandbox, Offers, Running, Snapshot

if TYPE_CHECKING:
    from sandboxrun.api.service import SandboxService
    from sandboxrun.evidence.store import Captured, Store
    from sandboxrun.probe.verdicts import Finding


# -- One hold of a project's lock for all threads of a service

LONGEST = 5.0  # seconds after which no more are let in together: other processes want the lock as well

Check = Callable[[], None]
Hold = Callable[[], AbstractContextManager[Check]]


class Gate:
    """`hold` takes the project's lock and gives the check that it is still held."""

    def __init__(self, hold: Hold) -> None:
        self._hold = hold
        self._changed = threading.Condition()
        self._turning = False  # the lock is being taken or given back, or somebody is in alone
        self._inside = 0
        self._wanted = 0  # who waits to be in alone goes first
        self._since = 0.0
        self._held: AbstractContextManager[Check] | None = None
        self._check: Check = lambda: None

    @contextmanager
    def together(self) -> Iterator[Check]:
        """In with others that make things. Raises what taking the lock raises."""
        with self._changed:
            self._changed.wait_for(self._admits)
            first = not self._inside
            self._turning = first
            self._inside += 1
        try:
            if first:
                self._enter()
            yield self._check
        finally:
            self._leave()

    def _admits(self) -> bool:
        if self._turning or self._wanted:
            return False
        return not self._inside or monotonic() < self._since + LONGEST

    def _enter(self) -> None:
        try:
            held = self._hold()
            self._check = held.__enter__()
            self._held, self._since = held, monotonic()
        finally:
            with self._changed:
                self._turning = False
                self._changed.notify_all()

    def _leave(self) -> None:
        with self._changed:
            self._inside -= 1
            if self._inside:
                return
            held, self._held, self._turning = self._held, None, True
        try:
            if held is not None:
                held.__exit__(None, None, None)
        finally:
            with self._changed:
                self._turning = False
                self._changed.notify_all()

    @contextmanager
    def alone(self) -> Iterator[Check]:
        """In with nobody else. Raises what taking the lock raises."""
        with self._changed:
            self._wanted += 1
            self._changed.wait_for(lambda: not self._turning and not self._inside)
            self._wanted -= 1
            self._turning = True
        try:
            with self._hold() as check:
                yield check
        finally:
            with self._changed:
                self._turning = False
                self._changed.notify_all()


# -- From a Python call's arguments to a profile of one sandbox

_SECRET = "SANDBOXRUN_API_SECRET_"


class Declared(Data, unshown=("environment",)):
    """One sandbox as a program declared it. `environment` holds the secrets' values, which no file or label does."""

    profile: Profile
    sandbox: DeclaredSandbox
    environment: Mapping[str, str]


def declare(
    project: str,
    directory: Path,
    name: str,
    options: Mapping[str, Any],
    *,
    secrets: Mapping[str, str] | None = None,
    environment: Mapping[str, str] | None = None,
) -> Declared:
    """The profile of one sandbox. `options` are a profile's, in its form; None leaves an option at its default.

    `secrets` become files under /run/secrets; `environment` gives values to names without one. Raises UsageError
    for an option that there is not or that does not take its value, ProfileError for what does not fit together.
    """
    from sandboxrun.profile.loader import load_data

    given = {key: _plain(value) for key, value in options.items() if value is not None}
    check_options(given)
    texts: dict[str, str] = {}
    values = {f"{_SECRET}{number}": value for number, value in enumerate((secrets or {}).values())}
    if secrets:
        given["secrets"] = [*given.get("secrets", ()), *secrets]
    data: dict[str, Any] = {"name": project, "sandboxes": {name: _literal(given, texts)}}
    if secrets:
        data["secrets"] = {key: {"environment": at} for key, at in zip(secrets, values, strict=True)}
    if texts:
        data["variables"] = {key: {"type": "string"} for key in texts}
    inputs = Inputs(values=texts, environment=environment or {})
    profile = load_data(data, directory=directory, inputs=inputs, allow_outside=True)  # a program's own word, no file's
    return Declared(profile=profile, sandbox=profile.sandboxes[0], environment=values)


def _plain(value: Any) -> Any:
    """Paths as texts, everything else as it is."""
    match value:
        case os.PathLike():
            return os.fspath(value)
        case Mapping():
            return {str(key): _plain(item) for key, item in value.items()}
        case list() | tuple() | set() | frozenset():
            return [_plain(item) for item in value]
    return value


def _literal(value: Any, texts: dict[str, str]) -> Any:
    """`value` with each text that would be read as a template made a variable that holds it."""
    match value:
        case str() if MARKS.search(value) is not None:
            key = f"text{len(texts)}"
            texts[key] = value
            return f"{{{{ {key} }}}}"
        case dict():
            return {key: _literal(item, texts) for key, item in value.items()}
        case list():
            return [_literal(item, texts) for item in value]
    return value


def workspace_option(workspace: Path | str, access: str, target: str) -> dict[str, str]:
    """The workspace option of a directory. Raises UsageError when it is none, or `access` is not copy, rw or ro."""
    path = Path(os.path.abspath(workspace))
    if not os.path.isdir(path):
        raise UsageError(f"the workspace {path} is not a directory", help="give the directory the agent works on")
    if access not in ("copy", "rw", "ro"):
        raise UsageError(f'a workspace has no access "{access}"', help="choose copy, rw or ro")
    return {"source": str(path), "target": target, "access": access}


def writer_of(workspace: Path) -> str | None:
    """The user that a sandbox with `workspace` read-write should have: its owner, unless that is root."""
    found = os.stat(workspace)
    return f"{found.st_uid}:{found.st_gid}" if found.st_uid != 0 else None


def check_writable(sandbox: DeclaredSandbox, store: Store) -> None:
    """Raise UsageError for a read-write workspace that the sandbox's user cannot write to, PlanError for one that holds
    the evidence: what an agent can write proves nothing about it."""
    check_outside((sandbox,), store)
    check_sources((sandbox,))
    workspace = sandbox.spec.workspace
    if workspace is None or workspace.access != "rw":
        return
    source = Path(os.path.realpath(workspace.source))
    if not may_write(source, sandbox.spec):
        raise UsageError(
            Diagnostic(
                message=f"the sandbox's user {sandbox.spec.user} cannot write to the workspace {source}",
                help="give it to that user (chown), say user=, or use access='copy'",
            )
        )


# -- Takes away what nobody looks after any more, evidence first

LOCK_WAIT = 300.0  # seconds: another process may be uploading a large workspace


class Collector:
    """Collects for one service."""

    def __init__(self, service: SandboxService, gate: Gate) -> None:
        self._service, self._gate = service, gate

    def collect(self) -> Mapping[str, Captured]:
        """What killed processes left; what was kept, by run. Raises ApplyError for what could not be taken away."""
        return self._collect(_left, leftovers=True)

    def drop_networks(self) -> None:
        """Networks that nothing uses any more."""
        self._collect(lambda snapshot: [], leftovers=False)

    def _collect(
        self, choose: Callable[[Snapshot], list[ObservedSandbox]], *, leftovers: bool
    ) -> Mapping[str, Captured]:
        made, _, _ = self._plan(choose, leftovers)  # without the lock: mostly there is nothing
        service = self._service
        if not made.operations and not (leftovers and self._lock_is_dead()):
            if leftovers:
                collect(service.engine, service.store)
            return {}
        with self._gate.alone() as guard:
            made, snapshot, profile = self._plan(choose, leftovers)
            watched = {
                o.run: Watched(stopped_by="timeout", note="past its ttl")
                for o in choose(snapshot)
                if _expired(o, snapshot) and isinstance(o.state, Running)
            }
            settings = converge.ApplySettings(lock_wait=LOCK_WAIT)
            outcome = converge.carry_out(
                made, snapshot, service.engine, profile, service.store, settings, guard, watched=watched
            )
        assert outcome.applied is not None and outcome.session is not None
        outcome.applied.check()
        return outcome.session.captured

    def _lock_is_dead(self) -> bool:
        """Whether a killed process left the lock itself: taking it takes that away."""
        from sandboxrun.backend.docker.lock import LABEL, claim_of

        engine = self._service.engine
        claims = [claim_of(volume) for volume in engine.volumes(labels={LABEL: self._service.project})]
        return any(claim.is_dead(engine.clock) for claim in claims)

    def _plan(
        self, choose: Callable[[Snapshot], list[ObservedSandbox]], leftovers: bool
    ) -> tuple[Plan, Snapshot, Profile]:
        service = self._service
        bare = nothing_declared(service)
        snapshot = take_snapshot(service.engine, bare, service.store)
        profile = _as_found(bare, snapshot)
        made = make_collect_plan(profile, snapshot, choose(snapshot), networks=True, leftovers=leftovers)
        return made, snapshot, profile


def nothing_declared(service: SandboxService) -> Profile:
    """The service's project, with nothing declared."""
    names = Names(project=service.project)
    return Profile(project=service.project, directory=service.directory, sandboxes=(), names=names)


def _left(snapshot: Snapshot) -> list[ObservedSandbox]:
    """One-offs that nobody looks after any more."""
    return [o for o in snapshot.sandboxes if o.one_off and (o.id in snapshot.orphaned or _expired(o, snapshot))]


def _expired(observed: ObservedSandbox, snapshot: Snapshot) -> bool:
    return observed.deadline is not None and snapshot.taken >= observed.deadline


def _as_found(profile: Profile, snapshot: Snapshot) -> Profile:
    """The profile with the project's networks as they are: collecting must not put right what others declared."""
    common = [network for network in snapshot.networks if not is_private(network)]
    networks = {n.key: n.spec for n in common}
    for observed in snapshot.sandboxes:
        for key in networks_of(observed.spec):
            networks.setdefault(key, NetworkSpec(external=True))
    names = structs.replace(profile.names, given_networks={n.key: n.name for n in common})
    return structs.replace(profile, networks=networks, names=names)


# -- The steps of a one-off's life, each carried out by the executor

_GONE = Ended(exit_code=0, oom=False, started=None, finished=None)
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
        service, settings = self._service, self._settings(declared.environment, stop)
        held = Held(declared=declared, job=Job(service.engine, declared.profile, service.store, settings))

        def prepare(session: Session) -> None:
            session.extra_labels = {labels.ONE_OFF: "1", labels.OWNER: this_process().encode()}
            held.job.watch_from_start(session, held.how)

        with self._named(declared.sandbox), self._with_others(declared.profile) as check, ExitStack() as planning:
            planning.enter_context(self._planning)
            made, snapshot = self._create_plan(declared)
            if not any(isinstance(step, op.CreateNetwork) for step in made.operations):
                planning.close()  # what is made now is this sandbox's alone
            outcome = converge.carry_out(
                made, snapshot, service.engine, declared.profile, service.store, settings, check, prepare=prepare
            )
        assert outcome.applied is not None and outcome.session is not None
        outcome.applied.check()
        outcome.session.networks_made.clear()  # others may use them by now: they go with the last of them
        outcome.session.volumes_made.clear()
        held.observed = self._now(held)
        with self._table:
            self._held[held.id] = held
        return held

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
        return self._gate.together() if shares(profile.sandboxes) else contextlib.nullcontext(lambda: None)

    def _create_plan(self, declared: Declared) -> tuple[Plan, Snapshot]:
        service, sandbox = self._service, declared.sandbox
        snapshot = take_snapshot(service.engine, declared.profile, service.store)
        if any(other.name == sandbox.name for other in snapshot.sandboxes):
            raise _taken(sandbox, service.project)
        snapshot = structs.replace(snapshot, sandboxes=(), completed={}, couriers=())
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
        return structs.replace(made, operations=tuple(s for s in made.operations if not isinstance(s, op.StartSandbox)))

    def start(self, held: Held, on_output: Callable[[int, bytes], None] | None) -> None:
        """Attach, start, watch; a start that fails takes the sandbox away."""
        with held.lock:
            sandbox = held.declared.sandbox
            if held.removed or held.started or not isinstance(self._now(held).state, Created):
                raise UsageError(f"{sandbox.address} cannot be started: it was started before", help="create another")
            held.started, held.on_output = True, on_output
            step = op.StartSandbox(
                id=f"start {sandbox.address}", address=sandbox.address, cause="asked to", sandbox=sandbox
            )
            applied = execute([step], held.session, parallelism=1)
            if not applied.failures and not applied.skipped:
                return
            held.job.close()
            self._undone(held)
        self._drop_networks(held)
        applied.check()

    def _undone(self, held: Held) -> None:
        """After a start that failed: it was removed, unless that failed too."""
        try:
            self._service.engine.inspect_container(held.id)
        except NotFound:
            self._gone(held, held.job.captured.get(held.observed.run))
            return
        except SandboxrunError:
            pass
        held.left = True

    # -- look ------------------------------------------------------------------------------------------------

    def look(self, held: Held) -> tuple[Finding, ...]:
        """A running one from outside, against what it was declared as."""
        from sandboxrun.lifecycle.running import look_at

        sandbox, profile, engine = held.declared.sandbox, held.declared.profile, self._service.engine
        with held.lock:
            if held.removed or not isinstance(self._now(held).state, Running):
                raise UsageError(Diagnostic(message=f"{sandbox.address} does not run", help="start it first"))
            snapshot = engine.observe_these(profile, self._service.store, [held.id], compare=True)
            (observed,) = snapshot.sandboxes
            now = snapshot.images[sandbox.spec.image]
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
            self._service.engine.stop_container(held.id, timeout=grace)

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
            held.job.close()
            held.observed = self._now(held)
            gone = (held.observed,) if held.observed.state is _GONE else ()
            held.job.collect((held.declared.sandbox,), own=True, whole=False, gone=gone)
            self._gone(held, held.job.captured.get(held.observed.run))
        self._drop_networks(held)
        return held.evidence

    def _now(self, held: Held) -> ObservedSandbox:
        """The sandbox as it is now; one that somebody else removed counts as ended, its evidence as far as known."""
        try:
            return self._service.engine.observe_one(held.declared.profile, held.id)
        except NotFound:
            return structs.replace(held.observed, state=_GONE)

    def _gone(self, held: Held, evidence: Captured | None) -> None:
        held.removed, held.evidence = True, evidence
        with self._table:
            self._held.pop(held.id, None)

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
        found = own_sandboxes(self._service.engine, Names(project=self._service.project), more=wanted)
        with self._table:
            held = dict(self._held)
        return [held.get(observed.id) or self._adopt(observed) for observed in found]

    def _adopt(self, observed: ObservedSandbox) -> Held:
        """A sandbox that another process made, by its labels."""
        service, names = self._service, Names(project=self._service.project)
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
        job = Job(engine, profile, service.store, self._settings({}, threading.Event()))
        held = Held(declared=declared, job=job, observed=observed)
        job.watch_from_start(session, held.how)
        return held

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

    def _settings(self, environment: Mapping[str, str], stop: threading.Event) -> converge.ApplySettings:
        return converge.ApplySettings(environment=environment, stop=stop, lock_wait=LOCK_WAIT)

    def close(self) -> None:
        """Let go of the watches, whose connections have ended: nobody is told any more when a sandbox ends."""
        with self._table:
            held, self._held = list(self._held.values()), {}
        for one in held:
            one.job.close()


def _taken(sandbox: DeclaredSandbox, project: str) -> UsageError:
    message = f"there is a sandbox {sandbox.address} of project {project} already"
    return UsageError(Diagnostic(message=message, help="remove it first, or choose another name"))
