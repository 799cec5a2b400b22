"""`SandboxService`: sandboxes made, started, stopped and removed one by one, by a program.

Owns the order of their lives: read back when made, watched while they run, evidence before removal. What it makes
are one-offs with this process as owner, as `sandboxrun run` makes them: `ps`, `destroy` and the next `collect` of the
project see them. The steps themselves are the plan's and the executor's.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import math
import os
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any, ParamSpec, Self, TypeVar

from msgspec import structs

from sandboxrun.api.sandbox import ExecResult, ExecTimeout, HeldSandbox, Sandbox
from sandboxrun.api.settings import Declared, Settings, check_seconds, declare, workspace_option
from sandboxrun.backend.docker.fields import HOLD, RELEASE
from sandboxrun.backend.docker.lock import LABEL, claim_of, is_lock
from sandboxrun.backend.docker.observe import own_sandboxes, take_snapshot
from sandboxrun.backend.errors import EngineError, NotFound
from sandboxrun.backend.session import GONE, Made, Session
from sandboxrun.data import Closing, Data
from sandboxrun.errors import PlanError, SandboxrunError, UsageError
from sandboxrun.lifecycle.apply import ApplySettings, carry_out, execute, locked
from sandboxrun.lifecycle.job import Job, shares
from sandboxrun.lifecycle.places import check_outside, check_sources, enforce, may_write, surveyed
from sandboxrun.lifecycle.watch import NOTICE, Heard
from sandboxrun.plan import operations as op
from sandboxrun.plan.changes import Plan, Reason
from sandboxrun.plan.operations import networks_of
from sandboxrun.plan.planner import Options, make_collect_plan, make_plan
from sandboxrun.spec import labels
from sandboxrun.spec.names import Names
from sandboxrun.spec.project import DeclaredSandbox, Profile, undeclared
from sandboxrun.spec.state import Created, ObservedSandbox, Offers, Running, Snapshot, parse_time
from sandboxrun.threads import after_fork

if TYPE_CHECKING:
    from sandboxrun.backend.docker.client import Engine
    from sandboxrun.evidence.store import Captured
    from sandboxrun.probe.verdicts import Finding

__all__ = ["ExecResult", "ExecTimeout", "Sandbox", "SandboxService"]


_P = ParamSpec("_P")
_T = TypeVar("_T")
_FOREIGN = op.RemoveNetwork | op.DisconnectNetwork | op.RemoveVolume | op.StopSandbox | op.RemoveSandbox
_LOCK_WAIT = 300.0  # seconds: another process may be uploading a large workspace
LONGEST = 5.0  # seconds after which no more are let in together: other processes want the lock as well

StillHeld = Callable[[], None]


# -- What a program is told of its sandboxes while they live: `on_event`, as a function or a coroutine function

_REMEMBERED = 100  # failures of a callback
_LOOP = "make the service in a coroutine, or pass a plain function"


class _Event(Data):
    name: str  # the sandbox's
    run: str
    container_id: str


class SandboxCreated(_Event):
    """Its container was made, and is not started."""


class SandboxStarted(_Event):
    """It runs."""


class SandboxEnded(_Event):
    """Its command has ended. `exit_code` is None where the engine tells none."""

    exit_code: int | None


class SandboxCaptured(_Event):
    """Its evidence was saved in `folder`."""

    folder: Path | None


class SandboxKept(_Event):
    """It stays, stopped, as its lifetime says, as the container `container`."""

    container: str


class SandboxRemoved(_Event):
    """It is gone."""


class SandboxReaped(_Event):
    """It was left by a process that is gone, or its ttl was over: its evidence was saved in `folder`."""

    folder: Path | None


SandboxEvent = (
    SandboxCreated | SandboxStarted | SandboxEnded | SandboxCaptured | SandboxKept | SandboxRemoved | SandboxReaped
)
OnEvent = Callable[[SandboxEvent], Awaitable[None] | None]


class Notifier:
    """Hands events on to a program's callback: a function in the thread where it happens, a coroutine function on the
    event loop that ran when this was made. What it raises is in `errors`; the next event is told all the same."""

    def __init__(self, on_event: OnEvent | None) -> None:
        """Raises UsageError for a coroutine function outside of a running event loop."""
        self._on_event = on_event
        self._errors: list[BaseException] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._table = threading.Lock()
        with contextlib.suppress(RuntimeError):
            self._loop = asyncio.get_running_loop()
        if self._loop is None and inspect.iscoroutinefunction(on_event):
            raise UsageError("on_event is a coroutine function, and no event loop runs", help=_LOOP)
        after_fork(self._begin)

    def _begin(self) -> None:
        """In a forked process, in which the event loop does not run."""
        self._loop, self._table = None, threading.Lock()

    @property
    def errors(self) -> tuple[BaseException, ...]:
        """What the callback raised, the first hundred."""
        with self._table:
            return tuple(self._errors)

    def __call__(self, event: SandboxEvent) -> None:
        """Tell it. Never raises an Exception."""
        if self._on_event is None:
            return
        try:
            told = self._on_event(event)
            if inspect.isawaitable(told):  # of a coroutine function, or of what calls one: a lambda, an object
                self._schedule(told if inspect.iscoroutine(told) else _awaited(told))
        except Exception as error:
            self._failed(error)

    def _schedule(self, coroutine: Coroutine[Any, Any, None]) -> None:
        try:
            if self._loop is None:
                raise UsageError("on_event returned a coroutine, and no event loop runs", help=_LOOP)
            future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        except (RuntimeError, UsageError):  # the loop was closed, or there is none
            coroutine.close()
            raise
        future.add_done_callback(lambda done: self._failed(None if done.cancelled() else done.exception()))

    def _failed(self, error: BaseException | None) -> None:
        with self._table, contextlib.suppress(MemoryError):
            if error is not None and len(self._errors) < _REMEMBERED:
                self._errors.append(error)


async def _awaited(told: Awaitable[None]) -> None:
    await told


# -- One hold of the project's lock for all threads


class Gate:
    """One hold of a project's lock for all threads of a service. `hold` takes the lock and gives the check that it is
    still held."""

    def __init__(self, hold: Callable[[], AbstractContextManager[StillHeld]]) -> None:
        self._hold, self._held = hold, contextlib.ExitStack()
        self._changed = threading.Condition()
        self._turning = False  # the lock is being taken or given back, or somebody is in alone
        self._inside = self._wanted = 0  # who waits to be in alone goes first
        self._since = 0.0
        self._check: StillHeld = lambda: None

    @contextlib.contextmanager
    def together(self) -> Iterator[StillHeld]:
        """In with others that make things. Raises what taking the lock raises."""
        with self._changed:
            self._changed.wait_for(self._admits)
            self._inside += 1
            self._turning = first = self._inside == 1
        try:
            if first:
                with self._turn():
                    self._check, self._since = self._held.enter_context(self._hold()), monotonic()
            yield self._check
        finally:
            with self._changed:
                self._inside -= 1
                self._turning = last = not self._inside
            if last:
                with self._turn():
                    self._held.close()

    def _admits(self) -> bool:
        if self._turning or self._wanted:
            return False
        return not self._inside or monotonic() < self._since + LONGEST

    @contextlib.contextmanager
    def alone(self) -> Iterator[StillHeld]:
        """In with nobody else. Raises what taking the lock raises."""
        with self._changed:
            self._wanted += 1
            try:
                self._changed.wait_for(lambda: not self._turning and not self._inside)
                self._turning = True
            finally:  # also of who is interrupted: the others would let it go first for ever
                self._wanted -= 1
                self._changed.notify_all()
        with self._turn(), self._hold() as check:
            yield check

    @contextlib.contextmanager
    def _turn(self) -> Iterator[None]:
        """Whoever waits looks again after it."""
        try:
            yield
        finally:
            with self._changed:
                self._turning = False
                self._changed.notify_all()


def _asked_as(source: Callable[_P, object]) -> Callable[[Callable[..., _T]], Callable[_P, _T]]:
    """What is decorated takes the arguments of `source`: for type checkers, and for who looks at its signature."""

    def shown(function: Callable[..., _T]) -> Callable[_P, _T]:
        given, own = inspect.signature(source), inspect.signature(function)
        function.__signature__ = given.replace(return_annotation=own.return_annotation)  # type: ignore[attr-defined]
        return function

    return shown


class SandboxService(Closing):
    """Makes and ends sandboxes on one engine. Usable from several threads at once; a context manager.

    `project` names and labels every object: give a service a project of its own. Evidence goes to `evidence`, or to
    `.sandboxrun/evidence` in `directory` (the current one when left out); after a crash, start again in the same
    directory. What the policy does not allow, the file `policy` or the one in the repository's root, is refused
    when it is declared, as `sandboxrun run` refuses it. `host` goes before the settings' engine. The engine is
    connected to when it is first needed; entering the context manager also collects what killed processes left.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        project: str = "sandboxrun",
        directory: Path | str | None = None,
        host: str | None = None,
        evidence: Path | str | None = None,
        policy: Path | str | None = None,
        parallelism: int = 8,
        on_event: OnEvent | None = None,
    ) -> None:
        """Raises UsageError for wrong settings or a directory that is none. `parallelism`: idle connections kept.

        `on_event` gets each SandboxEvent: a function in the thread where it happens, a coroutine function on the event
        loop that runs now. What it raises disturbs nothing: it is in `event_errors`.
        """
        from sandboxrun.evidence.store import Store

        self.settings = settings if settings is not None else Settings.from_environment()
        self.project = project
        self.directory = Path(directory if directory is not None else Path.cwd()).absolute()
        if not os.path.isdir(self.directory):
            raise UsageError(f"the directory {self.directory} is not there", help="make it first")
        self.store = Store(
            project_directory=self.directory, root=Path(evidence).absolute() if evidence is not None else None
        )
        self._host, self._parallelism = host, parallelism
        self._tell = Notifier(on_event)
        self._policy = Path(policy).absolute() if policy is not None else None
        self._engine: Engine | None = None
        self._closed = False
        self._held: dict[str, HeldSandbox] = {}  # by container id; those of this service
        self._begin()
        after_fork(self._begin)

    def _begin(self) -> None:
        """With no sandbox of its own: as made, and in a forked process, whatever threads were about in the other."""
        self._opening = threading.Lock()
        self._leasing = contextlib.ExitStack()
        self._token: str | None = None  # of the lease, from the first sandbox on
        self._gate = Gate(lambda: locked(self.engine, self._nothing_declared(), self._how()))
        self._heard = Heard(self.project)
        self._planning = threading.Lock()  # held from the snapshot until what others share was made
        self._making: set[str] = set()
        for held in self._held.values():
            held.forked()
        self._held = {}
        self._table = threading.Lock()

    @property
    def event_errors(self) -> tuple[BaseException, ...]:
        """What `on_event` raised, the first hundred; it was called with what came after that, too."""
        return self._tell.errors

    @property
    def engine(self) -> Engine:
        """The engine, connected. Raises EngineError, UsageError."""
        with self._opening:
            if self._closed:
                raise UsageError("this SandboxService was closed", help="make another one")
            if self._engine is None:
                self._engine = self.settings.connect(self._host, parallelism=self._parallelism)
            return self._engine

    def _lease(self) -> str:
        """Show others that this process waits for sandboxes, from now on; the token for their labels."""
        engine = self.engine
        with self._table:
            if self._token is None:
                self._token = self._leasing.enter_context(engine.lease())
            return self._token

    # -- making ------------------------------------------------------------------------------------------------

    def declare(
        self,
        name: str,
        *,
        image: str | None = None,
        command: Sequence[str] | str | None = None,
        workspace: Path | str | None = None,
        access: str = "copy",
        target: str = "/workspace",
        network_mode: str | None = None,
        mem_limit: str | int | None = None,
        cpus: float | None = None,
        environment: Mapping[str, str | None] | None = None,
        secrets: Mapping[str, str] | None = None,
        **options: Any,
    ) -> Declared:
        """What `create` would make, checked, without an engine. Same arguments and errors."""
        given: dict[str, Any] = {**options, "environment": environment, "command": command}
        named = {"image": image, "network_mode": network_mode, "mem_limit": mem_limit, "cpus": cpus}
        given |= {**self.settings.options, **{key: value for key, value in named.items() if value is not None}}
        if workspace is not None:
            given["workspace"] = workspace_option(workspace, access, target)
            if access == "rw" and given.get("user") is None and (owner := os.stat(workspace)).st_uid != 0:
                given["user"] = f"{owner.st_uid}:{owner.st_gid}"
        made = declare(
            self.project, self.directory, name, given, secrets=secrets, environment=self.settings.environment
        )
        check_outside((made.sandbox,), self.store)
        check_sources((made.sandbox,))
        spec = made.sandbox.spec
        if spec.workspace is not None and spec.workspace.access == "rw":
            source = Path(os.path.realpath(spec.workspace.source))
            if not may_write(source, spec):
                message = f"the sandbox's user {spec.user} cannot write to the workspace {source}"
                raise UsageError(message, help="give it to that user (chown), say user=, or use access='copy'")
        enforce(made.profile, self._policy, self.settings.environment)
        return made

    @_asked_as(declare)
    def create(self, *name: Any, **given: Any) -> Sandbox:
        """Make a sandbox and read it back, without starting it.

        What is left out is the settings' default, and closed. `name` is unique in the project. `mem_limit` is in a
        profile's form (`"512m"`) or bytes, `cpus` in CPUs, `command` a list of words. `workspace` is a directory: with
        access `copy` the sandbox has a copy and its changes come back as a patch in the evidence, with `rw` and `ro`
        the directory itself; under `rw` the user is the directory's owner, unless given or root. `secrets` are texts
        that become files under /run/secrets; they reach no label, no environment and no evidence. `options` are any
        others of a profile by their names, in a profile's form. Raises UsageError and ProfileError for what makes no
        sense, ApplyError for an option the engine did not apply (what was made is removed), EngineError.
        """
        return self.make(self.declare(*name, **given))

    def make(self, declared: Declared, *, stop: threading.Event | None = None) -> Sandbox:
        """`create` from what `declare` gave. `stop`, when set by another thread, ends it cleanly with ApplyError."""
        held = HeldSandbox(declared=declared, job=self._job(declared, stop))

        def prepare(session: Session) -> None:
            session.extra_labels = {labels.ONE_OFF: "1", labels.LEASE: self._lease()}
            session.after_start.append(lambda *_: self._tell(SandboxStarted(**_of(held))))  # before its end is told
            held.job.watch_from_start(session, held.how)

        profile, shared = declared.profile, shares(declared.profile.sandboxes)
        together = self._gate.together() if shared else contextlib.nullcontext(lambda: None)
        with self._named(declared.sandbox), together as check, contextlib.ExitStack() as planning:
            planning.enter_context(self._planning)
            plan, snapshot = self._plan(declared)
            if not any(isinstance(step, op.CreateNetwork) for step in plan.operations):
                planning.close()  # what is made now is this sandbox's alone
            settings = self._how(declared, stop)
            outcome = carry_out(plan, snapshot, self.engine, profile, self.store, settings, check, prepare=prepare)
        outcome.applied.check()
        outcome.session.networks_made.clear()  # others may use them by now: they go with the last of them
        outcome.session.volumes_made.clear()
        held.observed = self._now(held)
        held.ended = lambda code: self._tell(SandboxEnded(**_of(held), exit_code=code))
        with self._table:
            self._held[held.id] = held
        self._tell(SandboxCreated(**_of(held)))
        return Sandbox(self, held)

    @contextlib.contextmanager
    def _named(self, sandbox: DeclaredSandbox) -> Iterator[None]:
        """Two threads must not make one name at once: each would take the other's volumes for left-overs."""
        with self._table:
            if sandbox.name in self._making:
                raise _taken(sandbox, self.project)
            self._making.add(sandbox.name)
        try:
            yield
        finally:
            with self._table:
                self._making.discard(sandbox.name)

    def _plan(self, declared: Declared) -> tuple[Plan, Snapshot]:
        """Everything up to the start. A plan that would change what others made is refused."""
        sandbox = declared.sandbox
        snapshot = self.engine.observe(declared.profile, self.store)
        if any(other.name == sandbox.name for other in snapshot.sandboxes):
            raise _taken(sandbox, self.project)
        # those that are kept have names that this one must not have; how long they stay is not this plan's to decide
        kept = [o for o in snapshot.sandboxes if o.kept and o.address == sandbox.address]
        kept = [structs.replace(o, applied=None, deadline=None) for o in kept]
        snapshot = structs.replace(snapshot, sandboxes=tuple(kept), completed={}, leftovers=())
        plan = make_plan(declared.profile, snapshot, Options(targets=(sandbox.address,)))
        plan = surveyed(plan, declared.profile, self.store, snapshot.offers)
        for step in plan.operations:
            if isinstance(step, _FOREIGN):
                message = f"{step.address}: project {self.project} has another one of that name"
                raise PlanError(
                    message, help="a profile of that project made it: give the service a project of its own"
                )
        steps = tuple(step for step in plan.operations if not isinstance(step, op.StartSandbox))
        return structs.replace(plan, operations=steps), snapshot

    def _how(self, declared: Declared | None = None, stop: threading.Event | None = None) -> ApplySettings:
        environment = declared.environment if declared is not None else {}
        return ApplySettings(environment=environment, stop=stop or threading.Event(), lock_wait=_LOCK_WAIT)

    def _job(self, declared: Declared, stop: threading.Event | None = None) -> Job:
        return Job(self.engine, declared.profile, self.store, self._how(declared, stop), heard=self._heard)

    # -- a sandbox's life ----------------------------------------------------------------------------------------

    def start(self, sandbox: Sandbox, *, on_output: Callable[[int, bytes], None] | None = None) -> None:
        """Start it, and read it back once more; from then on its usage is sampled and its lifetime enforced.

        `on_output` gets what it writes, (1 stdout or 2 stderr, bytes), from another thread; nothing is lost. When the
        start fails it is removed, and the error says why. Raises UsageError when it was started before.
        """
        held = sandbox._held
        with held.lock:
            declared = held.declared.sandbox
            if held.removed or held.started or not isinstance(self._now(held).state, Created):
                raise UsageError(f"{declared.address} cannot be started: it was started before", help="create another")
            held.started, held.on_output = True, on_output
            self._heard.follow(self.engine)
            step = op.StartSandbox(
                id=f"start {declared.address}", address=declared.address, cause="asked to", sandbox=declared
            )
            applied = execute([step], held.session, parallelism=1)
            if not applied.failures and not applied.skipped:
                return
            held.job.close()
            try:
                self.engine.inspect_container(held.id)
                held.left = True
            except NotFound:  # as it should be after a start that failed
                self._gone(held, held.job.captured.get(held.observed.run))
            except SandboxrunError:
                held.left = True
        self._drop_networks(held)
        applied.check()

    def stop(self, sandbox: Sandbox, timeout: float | None = None) -> None:
        """Ask it to end and wait; after `timeout` seconds (its stop_grace_period when left out) it is killed.

        No error when it does not run. The evidence says `killed`.
        """
        check_seconds("timeout", timeout)
        held = sandbox._held  # not under its lock: a second, shorter stop must get through
        if held.removed:
            return
        spec = held.declared.sandbox.spec
        grace = math.ceil(spec.stop_grace_period / 1e9 if timeout is None else max(timeout, 0))
        if held.watch is not None:
            held.watch.end("killed", grace=grace)
            if held.watch.wait(NOTICE):
                return
        with contextlib.suppress(NotFound):  # tells, unlike the watch, why it could not be stopped
            self.engine.stop_container(held.id, timeout=grace)

    def remove(self, sandbox: Sandbox, *, force: bool = False) -> Captured | None:
        """Keep its evidence, then remove it and what is its own. What was kept; None for one never started.

        Refuses a running one unless `force`, which stops it first. Raises ApplyError when the evidence could not be
        kept: then it is not removed. No error when it was removed before.
        """
        return self._take_away(sandbox, force=force, keep=False)

    def finish(self, sandbox: Sandbox, *, force: bool = False) -> Captured | None:
        """As `remove`, but it stays, stopped, where its `lifetime.on_complete` says so: `Sandbox.kept` is its
        container's name then, and `remove` removes it, as `sandboxrun destroy` does. `sandbox` and the spawner end
        theirs by this."""
        return self._take_away(sandbox, force=force, keep=True)

    def _take_away(self, sandbox: Sandbox, *, force: bool, keep: bool) -> Captured | None:
        held = sandbox._held
        with held.lock:
            if held.removed:
                return held.evidence
            held.left = force
            if isinstance(self._now(held).state, Running):
                if not force:
                    message = f"{held.declared.sandbox.address} still runs"
                    raise UsageError(message, help="stop it first, or give force=True")
                self.stop(sandbox)
            held.job.close()
            known, held.observed = held.observed.state, self._now(held)
            lost = held.observed.state is GONE
            if lost and not held.started and isinstance(known, Created):
                held.observed = structs.replace(held.observed, state=known)  # it never ran: there is no evidence
            gone = (held.observed,) if lost else ()
            held.job.collect((held.declared.sandbox,), own=True, whole=False, gone=gone, keep=keep)
            evidence, before = held.job.captured.get(held.observed.run), held.evidence
            held.evidence = evidence
            if evidence is not None and evidence.entry is not None and before is None:
                self._tell(SandboxCaptured(**_of(held), folder=evidence.folder))
            if keep and not lost and (name := held.job.kept(held.id)):
                held.kept = name
                self._tell(SandboxKept(**_of(held), container=name))
            else:
                self._gone(held, held.evidence)
        self._drop_networks(held)
        return held.evidence

    def _now(self, held: HeldSandbox) -> ObservedSandbox:
        """The sandbox as it is now; one that somebody else removed counts as ended, its evidence as far as known."""
        try:
            return self.engine.observe_one(held.declared.profile, held.id)
        except NotFound:
            return structs.replace(held.observed, state=GONE)

    def _gone(self, held: HeldSandbox, evidence: Captured | None) -> None:
        held.removed, held.evidence = True, evidence
        self._tell(SandboxRemoved(**_of(held)))
        with self._table:
            self._held.pop(held.id, None)

    def _drop_networks(self, gone: HeldSandbox) -> None:
        """With the last sandbox of this process that used one. What fails here the next start finds by its label."""
        if not networks_of(gone.declared.sandbox.spec):
            return
        with self._table:
            if any(networks_of(held.declared.sandbox.spec) for held in self._held.values()):
                return
        with contextlib.suppress(SandboxrunError):
            self._collect_left(leftovers=False)

    @_asked_as(declare)
    @contextlib.contextmanager
    def sandbox(self, *name: Any, **given: Any) -> Iterator[Sandbox]:
        """A sandbox for a `with` block: created and started; at its end stopped, its evidence saved, removed
        or kept, as its lifetime says (`finish`).

        Arguments as `create` has them. `Sandbox.evidence` says afterwards what was kept.
        """
        made, process = self.create(*name, **given), os.getpid()
        try:
            self.start(made)
            yield made
        finally:
            if os.getpid() == process:  # in one forked from it, the sandbox is not its own
                self.finish(made, force=True)

    @contextlib.contextmanager
    def paused(self, sandbox: Sandbox) -> Iterator[None]:
        """Nothing in it runs within the block; as it was before, afterwards. Its timeout is later by that time."""
        if sandbox.state != "running":
            yield
            return
        watch, held = sandbox._held.watch, getattr(self.engine.state(sandbox.id), "limit", None) is not None
        with watch.pausing() if watch is not None else contextlib.nullcontext():
            if held:
                self.engine.signal(sandbox.id, HOLD)
            self.engine.pause_container(sandbox.id)
            try:
                yield
            finally:
                with contextlib.suppress(EngineError):  # it was ended meanwhile
                    if held:  # still paused: its init reads that before it looks at the time
                        self.engine.signal(sandbox.id, RELEASE)
                    self.engine.unpause_container(sandbox.id)

    # -- what holds ----------------------------------------------------------------------------------------------

    def verify(self, what: Sandbox | Declared) -> tuple[Finding, ...]:
        """Whether each restriction holds, a finding a control; unknown never counts as held (`Verdict.passes`).

        Of what `declare` gave: a sandbox like it is started with the probe as its command, and a weak one beside it in
        which what it tries must work; both are removed, and no evidence is kept. It takes some 15 seconds. Of a sandbox
        that runs: it is looked at from outside, without entering it, where the engine is on this machine.
        Raises UsageError for one that does not run, ApplyError, EngineError.
        """
        if isinstance(what, Declared):
            from sandboxrun.lifecycle.verify import Verification

            how = ApplySettings(environment=what.environment)
            return Verification(self.engine, what.profile, how).run((what.sandbox,))
        from sandboxrun.lifecycle.running import look_at

        held = what._held
        sandbox, profile = held.declared.sandbox, held.declared.profile
        with held.lock:
            if held.removed or not isinstance(self._now(held).state, Running):
                raise UsageError(f"{sandbox.address} does not run", help="start it first")
            snapshot = self.engine.observe_these(profile, self.store, [held.id], compare=True)
            (observed,), image = snapshot.sandboxes, snapshot.images[sandbox.spec.image]
            return look_at(self.engine, profile, observed, sandbox.spec, image, {})

    # -- what there is -------------------------------------------------------------------------------------------

    def get(self, name: str) -> Sandbox:
        """The sandbox of that name, this process's or another's. Raises UsageError when there is none."""
        found = self._find(name)
        if not found:
            message = f'project {self.project} has no sandbox "{name}" on the engine'
            raise UsageError(message, help="it may have been removed; its evidence is kept")
        return found[0]

    def list(self) -> tuple[Sandbox, ...]:
        """All one-off sandboxes of the project, of every process, in no special order."""
        return self._find(None)

    def _find(self, name: str | None) -> tuple[Sandbox, ...]:
        """The one-offs on the engine; this service's own come as they are held."""
        wanted = {labels.ONE_OFF: "1", **({labels.SANDBOX: name} if name is not None else {})}
        found = own_sandboxes(self.engine, Names(project=self.project), more=wanted)
        found = tuple(sorted(found, key=lambda observed: observed.kept))  # those that are kept last
        with self._table:
            held = dict(self._held)
        return tuple(Sandbox(self, held.get(observed.id) or self._adopt(observed)) for observed in found)

    def _adopt(self, observed: ObservedSandbox) -> HeldSandbox:
        """A sandbox that another process made, by its labels."""
        address, spec = observed.address, observed.applied or observed.spec
        sandbox = DeclaredSandbox(address=address, sandbox=address, name=observed.name, spec=spec)
        profile = structs.replace(self._nothing_declared(), sandboxes=(sandbox,))
        declared, engine = Declared(profile=profile, sandbox=sandbox, environment={}), self.engine
        offers = Offers(api_version=engine.api_version)
        snapshot = Snapshot(taken=engine.clock(), offers=offers)
        session = Session(engine=engine, profile=profile, snapshot=snapshot, store=self.store, plan_digest="")
        age = (snapshot.taken - (parse_time(observed.created) or snapshot.taken)).total_seconds()
        session.made[address] = Made(id=observed.id, run=observed.run, at=monotonic() - age)
        kept = observed.name if observed.kept else ""
        held = HeldSandbox(declared=declared, job=self._job(declared), observed=observed, kept=kept)
        held.job.watch_from_start(session, held.how)
        return held

    def collect(self) -> tuple[Captured, ...]:
        """Save the evidence of what killed processes left, and remove it: sandboxes whose owner is gone or whose ttl is
        over, and networks, volumes and upload containers that belong to nothing. Nothing of a living process is
        touched, but what this service failed to remove before (the engine was away) is tried again. Returns what was
        saved. Raises ApplyError when something could not be removed, EngineError."""
        with self._table:
            left = [held for held in self._held.values() if held.left]
        again = [self.remove(Sandbox(self, held), force=True) for held in left]
        found = self._collect_left(leftovers=True)
        for captured in found.values():
            if (index := captured.index) is not None:
                of = {"name": index.sandbox, "run": index.run, "container_id": index.container_id}
                self._tell(SandboxReaped(**of, folder=captured.folder))
        return (*(one for one in again if one is not None), *found.values())

    def _collect_left(self, *, leftovers: bool) -> Mapping[str, Captured]:
        """Take away what killed processes left, evidence first, and networks that nothing uses; without `leftovers`
        these alone. What was kept, by run. Raises ApplyError for what could not be taken away."""
        plan, _ = self._plan_left(leftovers)  # without the lock: mostly there is nothing
        if not plan.operations and not (leftovers and self._lock_is_dead()):
            if leftovers:
                self.engine.collect(self.store)
            return {}
        with self._gate.alone() as guard:
            plan, snapshot = self._plan_left(leftovers)
            profile, how = self._nothing_declared(), self._how()
            outcome = carry_out(plan, snapshot, self.engine, profile, self.store, how, guard)
        outcome.applied.check()
        return outcome.session.captured

    def _plan_left(self, leftovers: bool) -> tuple[Plan, Snapshot]:
        """The plan that ends the one-offs that nobody looks after any more, and what it was made for."""
        profile = self._nothing_declared()
        snapshot = take_snapshot(self.engine, profile, self.store)
        over = {
            o.id
            for o in snapshot.sandboxes
            if (snapshot.expired(o) if isinstance(o.state, Running) else o.is_over(snapshot.taken))
        }
        reasons = {
            o.id: Reason.EXPIRED if o.id in over else Reason.ORPHANED
            for o in snapshot.sandboxes
            if leftovers and o.one_off and (o.id in over or (o.id in snapshot.orphaned and not o.kept))
        }
        left = [o for o in snapshot.sandboxes if o.id in reasons]
        plan = make_collect_plan(profile, snapshot, left, networks=True, leftovers=leftovers, reasons=reasons)
        return plan, snapshot

    def _lock_is_dead(self) -> bool:
        """Whether a killed process left the lock itself: taking it takes that away."""
        claims = map(claim_of, self.engine.volumes(labels={LABEL: self.project}))
        return any(is_lock(claim.volume, self.project) and claim.is_dead(self.engine.clock) for claim in claims)

    def _nothing_declared(self) -> Profile:
        return undeclared(Names(project=self.project), self.directory)

    def close(self) -> None:
        """End the connections. Sandboxes that were not removed go on: the next start collects them once this
        process has ended. In a process forked from the service's it ends that one's own connections."""
        with self._opening:
            engine, self._engine, self._closed = self._engine, None, True
        self._leasing.close()
        self._heard.close()
        if engine is not None:
            engine.close()
        with self._table:
            held, self._held = list(self._held.values()), {}
        for one in held:  # the watches' connections have ended: no one is notified any more when a sandbox ends
            one.job.close()

    def __enter__(self) -> Self:
        self.collect()
        return self


def _of(held: HeldSandbox) -> dict[str, str]:
    """Whose an event is."""
    return {"name": held.declared.sandbox.address, "run": held.observed.run, "container_id": held.id}


def _taken(sandbox: DeclaredSandbox, project: str) -> UsageError:
    message = f"there is a sandbox {sandbox.address} of project {project} already"
    return UsageError(message, help="remove it first, or choose another name")
