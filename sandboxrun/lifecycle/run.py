"""`run`: create, start, stream, wait, keep the evidence, tear down; one container a sandbox, for this call only.

Owns that order, and what a run's exit code is. A run that is killed leaves a container whose label names its owner:
the next apply or destroy of the project collects it, evidence first.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING
from uuid import uuid4

from msgspec import structs

from sandboxrun.backend.base import Backend
from sandboxrun.backend.completed import taken_by_others
from sandboxrun.backend.owner import this_process
from sandboxrun.backend.session import Made, Session
from sandboxrun.data import Data
from sandboxrun.errors import BUG, ApplyError, Diagnostic, ExitCode
from sandboxrun.lifecycle.apply import ApplySettings, Proof, carry_out, locked, not_started, overall
from sandboxrun.lifecycle.executor import Applied
from sandboxrun.lifecycle.places import surveyed
from sandboxrun.lifecycle.watch import NOTICE, Output, Pump, Watch, Watching
from sandboxrun.plan import belongings
from sandboxrun.plan.planner import Options, make_collect_plan, make_plan, with_dependencies
from sandboxrun.plan.steps import levels
from sandboxrun.spec import labels
from sandboxrun.spec.outcome import RUN_ENDED, Ending, How, StoppedBy
from sandboxrun.spec.project import DeclaredSandbox, Profile
from sandboxrun.threads import begin, together

if TYPE_CHECKING:
    from sandboxrun.evidence.store import Captured, Store
    from sandboxrun.plan.changes import Plan

Making = Callable[[], contextlib.AbstractContextManager[Callable[[], None]]]
PATIENCE = 3.0  # seconds without progress after which nobody waits for a consumer any more, once the end is asked for
SECOND_SIGNAL_GRACE = 1  # seconds: whoever signals twice does not want to wait


class RunOptions(Data):
    """How to run. Of what is named, `command` replaces the profile's, `timeout` (seconds) its lifetime's, and `pump`
    gives a terminal. `making` stands for the project's lock where the caller holds it; with `named` the sandboxes have
    names of their own already; `warned` gets the plan before anything is made, `started` each container's id once it
    runs; `proof` is what must hold first."""

    command: tuple[str, ...] | None = None
    timeout: float | None = None
    output: Output | None = None
    pump: Pump | None = None
    making: Making | None = None
    named: bool = False
    started: Callable[[str], None] = lambda container: None
    warned: Callable[[Plan], None] = lambda made: None
    proof: Proof | None = None


class RunResult(Data):
    """How one sandbox ended. `evidence` is None when it never came to be, or when another job has it: `seen` says how
    it ended then, as far as this one saw it. `named` is false of one that ran only because another depends on it."""

    address: str
    evidence: Captured | None
    note: str = ""
    blocked: bool = False  # not started: what it depends on failed
    named: bool = True
    seen: Ending | None = None

    @property
    def exit_code(self) -> int:
        """The agent's own code; 124 for a timeout, 125 when it did not run or nothing is known of its end."""
        return exit_code(self.evidence) if self.seen is None else code_of_ending(self.seen)


def exit_code(captured: Captured | None) -> int:
    """The exit code that evidence stands for."""
    if captured is None or captured.index is None:
        return ExitCode.NOT_RUN
    return code_of_ending(captured.index.ending)


def code_of_ending(ending: Ending) -> int:
    """The exit code that an ending stands for."""
    match ending.how:
        case How.TIMEOUT:
            return ExitCode.TIMEOUT
        case How.ENGINE_LOST | How.UNKNOWN | How.NOT_STARTED:
            return ExitCode.NOT_RUN
        case How.OOM:
            return ending.exit_code or 137
        case How.KILLED:
            return ending.exit_code or ExitCode.TERMINATED
        case How.EXITED | How.FAILED:
            return ending.exit_code if ending.exit_code is not None else ExitCode.NOT_RUN


def code_of(results: Iterable[RunResult]) -> int:
    """What a program that ran these exits with: the first code that is not 0, of those named that came to run. A
    dependency's counts where it kept one of them from starting."""
    every = tuple(results)
    blocked = any(result.blocked and result.named for result in every)
    counted = (r for r in every if r.named or (blocked and r.note != RUN_ENDED))
    return overall((r.exit_code for r in counted if not r.blocked), blocked=blocked)


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
        self._watches: dict[str, Watch] = {}
        self._named: frozenset[str] = frozenset()  # the addresses of what is to run; the rest is what they depend on
        self._signals = 0
        self._failures: list[BaseException] = []  # of threads that are no watch's
        self._lock = threading.Lock()

    def run(self, sandboxes: tuple[DeclaredSandbox, ...]) -> tuple[RunResult, ...]:
        """Run them to their end; what they depend on is stopped then. Raises SandboxrunError when one could not run."""
        self._named = frozenset(sandbox.address for sandbox in sandboxes)
        chosen = with_dependencies(self._profile, sandboxes)
        if self._options.proof is not None:
            self._options.proof.before(chosen, None)
        profile = structs.replace(self._profile, sandboxes=tuple(self._one_off(s) for s in chosen))
        session, applied = self._start(profile)
        try:
            self._wait()
            self._stop_dependencies(profile)
        finally:
            for watch in self._watches.values():
                watch.close()
            captured = {**session.captured, **self._collect(profile)}
        self._deliver()
        blocked = not_started(profile, applied)
        results = tuple(self._result(s, captured, blocked.get(s.address, "")) for s in profile.sandboxes)
        if not blocked:
            _check(applied, results)
        if faults := tuple(self._faults()):
            raise RunFailed(results, *faults, code=code_of(results))
        return results

    def signal(self, name: str) -> None:
        """Forward a signal to every sandbox; the second one ends them."""
        self._signals += 1
        self._settings.stop.set()
        for watch in list(self._watches.values()):
            if self._signals == 1:
                work = partial(self._forward, watch, name)
            else:
                work = partial(watch.end, "killed", grace=SECOND_SIGNAL_GRACE)
            begin(work, name=f"signal to {watch.address}", failed=self._failures.append)

    def _forward(self, watch: Watch, name: str) -> None:
        """A command that does not end by the signal is stopped after its grace period."""
        watch.send(name)
        grace = 10.0
        if not watch.wait(grace):
            watch.end("killed", f"did not end within {grace:g} seconds of {name}")

    # -- steps --------------------------------------------------------------------------------------------------

    def _one_off(self, sandbox: DeclaredSandbox) -> DeclaredSandbox:
        spec, named = sandbox.spec, sandbox.address in self._named
        if named and self._options.command is not None:
            spec = structs.replace(spec, command=self._options.command)
        if named and self._options.pump is not None:
            spec = structs.replace(spec, tty=True, stdin_open=True)
        name = sandbox.name if self._options.named else f"{sandbox.name}-run-{uuid4().hex[:6]}"
        return structs.replace(sandbox, name=name, spec=spec)

    def _start(self, profile: Profile) -> tuple[Session, Applied]:
        prepared: list[Session] = []

        def prepare(session: Session) -> None:
            session.extra_labels = {labels.ONE_OFF: "1", labels.OWNER: this_process().encode()}
            session.wanted = self._named
            session.before_start, session.after_start = self._before_start(session), self._after_start
            if self._options.proof is not None:
                self._options.proof.prepare(session)
            prepared.append(session)
            begin(_get_ready, name="get ready", failed=self._failures.append)

        with self._making(profile) as guard:
            snapshot = self._engine.observe_before_run(profile, shared=shares(profile))
            targets = tuple(s.address for s in profile.sandboxes)
            made = surveyed(make_plan(profile, snapshot, Options(targets=targets)), profile, self._store)
            self._options.warned(made)
            outcome = carry_out(
                made, snapshot, self._engine, profile, self._store, self._settings, guard, prepare=prepare
            )
        assert outcome.applied is not None
        return prepared[0], outcome.applied

    @contextlib.contextmanager
    def _making(self, profile: Profile) -> Iterator[Callable[[], None]]:
        """The project's lock, where the run touches what is the project's: networks and volumes. A run of sandboxes
        that have nothing in common with others needs none: its containers have names of their own."""
        if shares(profile):
            held = self._options.making
            with held() if held is not None else locked(self._engine, profile, self._settings) as guard:
                yield guard
        else:
            yield lambda: None

    def _before_start(self, session: Session) -> Callable[[DeclaredSandbox, Made], None]:
        def attach(sandbox: DeclaredSandbox, made: Made) -> None:
            options, how = self._options, Watching(output=self._options.output or _nowhere)
            if sandbox.address in self._named:
                how = structs.replace(how, pump=options.pump, timeout=options.timeout)
            watch = Watch(
                self._engine,
                self._store,
                address=sandbox.address,
                container=made.id,
                run=made.run,
                spec=sandbox.spec,
                how=how,
            )
            watch.before_start()
            with self._lock:
                self._watches[sandbox.address] = watch

        return attach

    def _after_start(self, sandbox: DeclaredSandbox, made: Made) -> None:
        self._watches[sandbox.address].begin()
        self._options.started(made.id)

    def _wait(self) -> None:
        """Until what was named has ended."""
        for watch in [watch for watch in self._watches.values() if watch.begun and watch.address in self._named]:
            while not watch.wait(0.2):  # bounded, so that signal handlers run
                pass

    def _stop_dependencies(self, profile: Profile) -> None:
        """What else still runs is needed no more. Who depends on another one is stopped before it."""
        running = {address: watch for address, watch in self._watches.items() if watch.begun and not watch.ended}
        for level in reversed(tuple(levels(profile.sandboxes))):
            stopped = [running[address] for address in level if address in running]
            together(self._stop_dependency, stopped, workers=self._settings.parallelism)

    def _stop_dependency(self, watch: Watch) -> None:
        how = ("killed",) if self._signals else (StoppedBy.RUN_ENDED, RUN_ENDED)
        watch.end(*how)
        watch.wait(NOTICE)  # what could not be stopped is stopped, or reported, when its evidence is taken

    def _deliver(self) -> None:
        """Wait for whoever takes the output. A consumer that takes nothing keeps nobody waiting who has asked for the
        end, by the timeout or by a signal; one more signal ends the waiting at once."""
        before = self._signals
        for watch in self._watches.values():
            relay = watch.relay
            while relay is not None and not relay.wait(0.2):
                hurried = (before or watch.overdue) and relay.stuck_for > PATIENCE
                if hurried or self._signals > before:
                    relay.give_up()
                    break

    def _faults(self) -> Iterator[Diagnostic]:
        for error in self._failures:
            yield Diagnostic(message=f"a thread failed: {type(error).__name__}: {error}", help=BUG)
        for watch in self._watches.values():
            yield from watch.faults()

    def _collect(self, profile: Profile) -> Mapping[str, Captured]:
        """Evidence and removal of what this run made, and of networks that nothing uses any more."""
        watched = {watch.run: watch.result for watch in self._watches.values()}
        settings = structs.replace(self._settings, stop=threading.Event())
        with self._making(profile) as guard:
            names = frozenset(s.name for s in profile.sandboxes)
            if shares(profile):
                snapshot = self._engine.observe(profile, self._store)
            else:
                snapshot = self._engine.observe_after_run(profile, names)
            mine = [o for o in snapshot.sandboxes if o.name in names]
            made = make_collect_plan(profile, snapshot, mine, networks=shares(profile))
            outcome = carry_out(made, snapshot, self._engine, profile, self._store, settings, guard, watched=watched)
        assert outcome.applied is not None and outcome.session is not None
        outcome.applied.check()
        return outcome.session.captured

    def _result(self, sandbox: DeclaredSandbox, captured: Mapping[str, Captured], blocked: str) -> RunResult:
        watch, named = self._watches.get(sandbox.address), sandbox.address in self._named
        if watch is None:
            note = blocked or "not started"
            return RunResult(address=sandbox.address, evidence=None, note=note, blocked=bool(blocked), named=named)
        evidence, seen = captured.get(watch.run), None
        if evidence is None and watch.begun:
            evidence, seen = self._taken_by_others(watch)
        note = watch.result.note
        return RunResult(address=sandbox.address, evidence=evidence, note=note, named=named, seen=seen)

    def _taken_by_others(self, watch: Watch) -> tuple[Captured | None, Ending | None]:
        """What is known of one that somebody else took away, as `destroy` does."""
        events = self._engine.follow(self._profile.project, self._settings.began)
        return taken_by_others(self._store, events, watch)


def shares(profile: Profile) -> bool:
    """Whether any of the sandboxes needs the project's lock."""
    return any(belongings.shares(s.spec) for s in profile.sandboxes)


def _get_ready() -> None:
    """What keeps the evidence is imported while the engine starts the sandboxes, not once they have ended."""
    import sandboxrun.evidence.capture  # noqa: F401


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
