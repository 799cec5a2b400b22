"""`run`: create, start, stream, wait, keep the evidence, tear down; one container a sandbox, for this call only.

Owns that order. A run that is killed leaves a container whose label names its owner: the next apply or destroy of the
project collects it, evidence first. Another run leaves it, and says so where it keeps something in a workspace.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from functools import cache, partial
from typing import TYPE_CHECKING
from uuid import uuid4

from msgspec import structs

from sandboxrun.backend.base import Backend
from sandboxrun.backend.session import Session
from sandboxrun.data import Data
from sandboxrun.errors import BUG, ApplyError, Diagnostic, ExitCode
from sandboxrun.evidence.store import RunResult
from sandboxrun.lifecycle.apply import (
    Applied,
    ApplySettings,
    carry_out,
    get_ready,
    naming_what_stays,
    not_started,
)
from sandboxrun.lifecycle.job import Job, Making, shares
from sandboxrun.lifecycle.places import surveyed
from sandboxrun.lifecycle.watch import NOTICE, Consumer, Pump, Watch, Watching
from sandboxrun.plan.planner import Options, make_plan, with_dependencies
from sandboxrun.plan.steps import levels
from sandboxrun.spec import labels
from sandboxrun.spec.project import DeclaredSandbox, Profile
from sandboxrun.spec.state import RUN_ENDED, StoppedBy, first_failure
from sandboxrun.spec.types import SECOND
from sandboxrun.threads import begin, together
from sandboxrun.tracing import span

if TYPE_CHECKING:
    from sandboxrun.evidence.store import Store
    from sandboxrun.lifecycle.verify import Proving
    from sandboxrun.plan.changes import Plan

PATIENCE = 3.0  # seconds without progress after which nobody waits for a consumer any more, once the end is asked for
GRACE = 10.0  # seconds that a command has to end by a signal that was forwarded
SECOND_SIGNAL_GRACE = 1  # seconds: whoever signals twice does not want to wait


class RunOptions(Data):
    """How to run. Of what is named, `command` replaces the profile's, `timeout` (seconds) its lifetime's, and `pump`
    gives a terminal. `making` replaces the project's lock if the caller holds it; with `named` the sandboxes have
    names of their own already; `warned` gets the plan before anything is made, `started` each container's id once it
    runs; `proof` is what must hold first."""

    command: tuple[str, ...] | None = None
    timeout: float | None = None
    output: Consumer | None = None
    pump: Pump | None = None
    making: Making | None = None
    named: bool = False
    started: Callable[[str], None] = lambda container: None
    warned: Callable[[Plan], None] = lambda made: None
    proof: Proving | None = None


def code_of(results: Iterable[RunResult]) -> int:
    """What a program that ran these exits with: the first code that is not 0, of those named that came to run. A
    dependency's counts where it kept one of them from starting."""
    every = tuple(results)
    blocked = any(result.blocked and result.named for result in every)
    counted = (r for r in every if r.named or (blocked and r.note != RUN_ENDED))
    return first_failure((r.exit_code for r in counted if not r.blocked), blocked=blocked)


class RunFailed(ApplyError):
    """Sandboxes could not be made, a part of sandboxrun failed, or output could not be handed on. `results` are how
    those ended that ran all the same."""

    def __init__(self, results: tuple[RunResult, ...], *diagnostics: Diagnostic, code: int = 0) -> None:
        super().__init__(*diagnostics)
        self.results = results
        self.exit_code = code or ExitCode.NOT_RUN


class Runner:
    """One `run`. `signal` may be called from a signal handler while `run` works."""

    def __init__(
        self, engine: Backend, profile: Profile, store: Store, settings: ApplySettings, options: RunOptions
    ) -> None:
        self._engine, self._profile, self._store = engine, profile, store
        self._settings, self._options = settings, options
        self._job = Job(engine, profile, store, settings)
        self._named: frozenset[str] = frozenset()  # the addresses of what is to run; the rest is what they depend on
        self._signals = 0
        self._failures: list[BaseException] = []  # of threads that are no watch's
        self.notices: tuple[Diagnostic, ...] = ()  # of what killed commands left that stays

    def run(self, sandboxes: tuple[DeclaredSandbox, ...]) -> tuple[RunResult, ...]:
        """Run them to their end; what they depend on is stopped then. Raises SandboxrunError when one could not run."""
        self._named = frozenset(sandbox.address for sandbox in sandboxes)
        chosen = with_dependencies(self._profile, sandboxes)
        if self._options.proof is not None:
            with span("verify", project=self._profile.project):
                self._options.proof.before(chosen, None)
        profile = structs.replace(self._profile, sandboxes=tuple(self._one_off(s) for s in chosen))
        # How they ended is known by the events then: the engine may have forgotten them when it is asked.
        events = self._engine.follow(profile.project, self._settings.began)
        job = self._job = Job(self._engine, profile, self._store, self._settings, events)
        with naming_what_stays(job), ExitStack() as following, self._engine.lease() as lease:
            # They are followed from just before the first is made on: what follows them takes longest to import.
            applied = self._start(profile, job, lease, partial(following.enter_context, events))
            try:
                job.wait(self._named)
                self._stop_dependencies(profile)
            finally:
                job.close()
                job.collect(profile.sandboxes, own=True, whole=True, making=self._options.making)
        self._clear_killed()
        self._deliver()
        blocked = not_started(profile, applied)
        results = tuple(self._result(s.address, blocked.get(s.address, "")) for s in profile.sandboxes)
        if not applied.dependencies_failed:
            _check(applied, results)
        if faults := tuple(self._faults()):
            raise RunFailed(results, *faults, code=code_of(results))
        return results

    def signal(self, name: str) -> None:
        """Forward a signal to every sandbox; the second one ends them."""
        self._signals += 1
        self._settings.stop.set()
        for watch in list(self._job.watches.values()):
            if self._signals == 1:
                work = partial(self._forward, watch, name)
            else:
                work = partial(watch.end, "killed", grace=SECOND_SIGNAL_GRACE)
            begin(work, name=f"signal to {watch.address}", failed=self._failures.append)

    def _forward(self, watch: Watch, name: str) -> None:
        """A command that does not end by the signal is stopped after its grace period."""
        watch.send(name)
        if not watch.wait(GRACE):
            watch.end("killed", f"did not end within {GRACE:g} seconds of {name}")

    def _one_off(self, sandbox: DeclaredSandbox) -> DeclaredSandbox:
        spec, named = sandbox.spec, sandbox.address in self._named
        if named and self._options.command is not None:
            spec = structs.replace(spec, command=self._options.command)
        if named and self._options.timeout is not None:
            timeout = round(self._options.timeout * SECOND)
            spec = structs.replace(spec, lifetime=structs.replace(spec.lifetime, timeout=timeout))
        if named and self._options.pump is not None:
            spec = structs.replace(spec, tty=True, stdin_open=True)
        name = sandbox.name if self._options.named else f"{sandbox.name}-run-{uuid4().hex[:6]}"
        return structs.replace(sandbox, name=name, spec=spec)

    def _start(self, profile: Profile, job: Job, lease: str, follow: Callable[[], object]) -> Applied:
        options = self._options

        def how(sandbox: DeclaredSandbox) -> Watching:
            pump = options.pump if sandbox.address in self._named else None
            return Watching(output=options.output or _nowhere, pump=pump, look_back=len(profile.sandboxes) == 1)

        def prepare(session: Session) -> None:
            session.extra_labels = {labels.ONE_OFF: "1", labels.LEASE: lease}
            session.wanted = self._named
            job.watch_from_start(session, how)
            # while the engine starts the first sandbox: neither before, which would delay that, nor once it has ended
            ready = cache(
                partial(begin, partial(get_ready, self._engine), name="get ready", failed=self._failures.append)
            )
            session.before_start.append(lambda *_: ready())
            session.after_start.append(lambda _, made: options.started(made.id))
            if options.proof is not None:
                options.proof.prepare(session)

        shared = shares(profile.sandboxes)
        with job.making(locks=shared, making=options.making) as guard:
            with span("observe", project=profile.project):
                snapshot = self._engine.observe_before_run(profile, shared=shared)
            targets = tuple(s.address for s in profile.sandboxes)
            made = make_plan(profile, snapshot, Options(targets=targets))
            made = surveyed(made, profile, self._store, snapshot.offers)
            options.warned(made)
            follow()
            outcome = carry_out(
                made, snapshot, self._engine, profile, self._store, self._settings, guard, prepare=prepare
            )
        job.keeping = outcome.keeping
        return outcome.applied

    def _stop_dependencies(self, profile: Profile) -> None:
        """What else still runs is needed no more. Who depends on another one is stopped before it."""
        running = {address: w for address, w in self._job.watches.items() if w.begun and not w.ended}
        for level in reversed(tuple(levels(profile.sandboxes))):
            stopped = [running[address] for address in level if address in running]
            together(self._stop_dependency, stopped, workers=self._settings.parallelism)

    def _stop_dependency(self, watch: Watch) -> None:
        how = ("killed",) if self._signals else (StoppedBy.RUN_ENDED, RUN_ENDED)
        watch.end(*how)
        watch.wait(NOTICE)  # what could not be stopped is stopped, or reported, when its evidence is taken

    def _clear_killed(self) -> None:
        """Take away what killed commands left in workspaces: what was collected last tells whether there is any."""
        if self._job.keeping and not (self._settings.probing or self._signals):
            from sandboxrun.lifecycle.verify import clear_killed

            self.notices = clear_killed(self._engine, self._profile, self._settings, self._job.keeping)

    def _deliver(self) -> None:
        """Wait for whoever takes the output. A consumer that takes nothing keeps nobody waiting who has asked for the
        end, by the timeout or by a signal; one more signal ends the waiting at once."""
        before = self._signals
        for watch in self._job.watches.values():
            relay = watch.relay
            while relay is not None and not relay.wait(0.2):
                hurried = (before or watch.overdue) and relay.stuck_for > PATIENCE
                if hurried or self._signals > before:
                    relay.give_up()
                    break

    def _faults(self) -> Iterator[Diagnostic]:
        for error in self._failures:
            yield Diagnostic(message=f"a thread failed: {type(error).__name__}: {error}", help=BUG)
        for watch in self._job.watches.values():
            yield from watch.faults()

    def _result(self, address: str, blocked: str) -> RunResult:
        named = address in self._named
        if address in self._job.watches:
            return self._job.result(address, named=named)
        note = blocked or "not started"
        return RunResult(address=address, evidence=None, note=note, blocked=bool(blocked), named=named)


def _nowhere(address: str, stream: int, data: bytes) -> None:
    """Output that nobody reads is kept all the same."""


def _check(applied: Applied, results: tuple[RunResult, ...]) -> None:
    """Raise RunFailed for what could not be made; sandboxes left out because of a signal have no evidence."""
    try:
        if applied.failures:
            applied.check()
    except ApplyError as error:
        ran = tuple(result for result in results if result.evidence is not None or result.seen is not None)
        raise RunFailed(ran, *error.diagnostics) from error


def run(
    engine: Backend,
    profile: Profile,
    store: Store,
    sandboxes: tuple[DeclaredSandbox, ...],
    *,
    settings: ApplySettings | None = None,
    options: RunOptions | None = None,
) -> tuple[RunResult, ...]:
    """Run sandboxes to their end; see `Runner`."""
    return Runner(engine, profile, store, settings or ApplySettings(), options or RunOptions()).run(sandboxes)
