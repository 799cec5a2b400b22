"""A job's sandboxes: watched from their start to their end, collected, and how each ended. `run`, `apply --wait` and
`wait` are orders of these verbs; making sandboxes is `apply.carry_out`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from time import monotonic
from typing import TYPE_CHECKING

from msgspec import structs

from sandboxrun.backend.base import Backend, Events
from sandboxrun.backend.completed import taken_by_others
from sandboxrun.backend.session import Made, Session
from sandboxrun.data import Data
from sandboxrun.errors import Diagnostic, ExitCode, SandboxrunError
from sandboxrun.lifecycle.apply import ApplySettings, carry_out, locked
from sandboxrun.lifecycle.watch import Watch, Watching
from sandboxrun.plan import owned
from sandboxrun.plan.planner import make_collect_plan
from sandboxrun.spec.outcome import RUN_ENDED, Ending, first_failure
from sandboxrun.spec.project import DeclaredSandbox, Profile
from sandboxrun.spec.state import Ended, ObservedSandbox, Running

if TYPE_CHECKING:
    from datetime import datetime

    from sandboxrun.evidence.store import Captured, Store

AT_ONCE = 2.0  # seconds that who makes sandboxes keeps the project's lock: what ends by then is collected under it
Making = Callable[[], AbstractContextManager[Callable[[], None]]]


class WaitTimeout(SandboxrunError):
    """Sandboxes still ran when the caller's patience ended; they go on running."""

    exit_code = ExitCode.TIMEOUT


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
        index = self.evidence.index if self.evidence is not None else None
        ending = self.seen or (index.ending if index is not None else None)
        return ExitCode.NOT_RUN if ending is None else ending.code


def code_of(results: Iterable[RunResult]) -> int:
    """What a program that ran these exits with: the first code that is not 0, of those named that came to run. A
    dependency's counts where it kept one of them from starting."""
    every = tuple(results)
    blocked = any(result.blocked and result.named for result in every)
    counted = (r for r in every if r.named or (blocked and r.note != RUN_ENDED))
    return first_failure((r.exit_code for r in counted if not r.blocked), blocked=blocked)


def shares(sandboxes: Iterable[DeclaredSandbox]) -> bool:
    """Whether any of the sandboxes needs the project's lock."""
    return any(owned.shares(s.spec) for s in sandboxes)


class Job:
    """The sandboxes that one command is about, by address: those it starts, and those it found."""

    def __init__(
        self, engine: Backend, profile: Profile, store: Store, settings: ApplySettings, events: Events | None = None
    ) -> None:
        self._engine, self._profile, self._store, self._settings = engine, profile, store, settings
        self._events = events
        self.session: Session | None = None
        self._found: dict[str, Made] = {}
        self._started: dict[str, datetime | None] = {}  # of those that were found
        self._collected: dict[str, Captured] = {}  # by run
        self._table = threading.Lock()
        self.watches: dict[str, Watch] = {}

    def watch_from_start(self, session: Session, how: Callable[[DeclaredSandbox], Watching]) -> None:
        """Have all that the session starts watched."""

        def attach(sandbox: DeclaredSandbox, made: Made) -> None:
            watch = self._watch(sandbox, made, how(sandbox))
            watch.before_start()
            with self._table:
                self.watches[sandbox.address] = watch

        session.before_start = attach
        session.after_start = lambda sandbox, made: self.watches[sandbox.address].begin()
        self.session = session

    def find(self, sandbox: DeclaredSandbox, observed: ObservedSandbox) -> Made:
        """Take in one that was there before."""
        found = self._found[sandbox.address] = Made(id=observed.id, run=observed.run)
        return found

    def join(self, sandbox: DeclaredSandbox, observed: ObservedSandbox, now: datetime, *, sample: bool = True) -> None:
        """Take in one that was started before, and watch it."""
        found, state, ran = self.find(sandbox, observed), observed.state, 0.0
        self._started[sandbox.address] = state.started if isinstance(state, Running | Ended) else None
        if isinstance(state, Running):
            ran = max(0.0, (now - state.started).total_seconds())
        self.watches[sandbox.address] = watch = self._watch(sandbox, found, Watching(sample=sample, elapsed=ran))
        watch.begin()

    @property
    def made(self) -> Mapping[str, Made]:
        """All that was started or found, by address."""
        return {**(self.session.made if self.session is not None else {}), **self._found}

    @property
    def captured(self) -> Mapping[str, Captured]:
        """The evidence that was taken, by run."""
        return {**(self.session.captured if self.session is not None else {}), **self._collected}

    def _watch(self, sandbox: DeclaredSandbox, made: Made, how: Watching) -> Watch:
        address, spec = sandbox.address, sandbox.spec
        return Watch(self._engine, self._store, address=address, container=made.id, run=made.run, spec=spec, how=how)

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
            if stop is not None and stop.is_set():
                raise _still(running, "stopped while waiting for", "they go on running; apply or destroy collects them")
            if patience is not None and monotonic() >= began + patience:
                raise _still(running, f"after {patience:g} seconds these still run:", "wait longer, or destroy them")
            if at_once and monotonic() >= began + AT_ONCE:
                at_once = False
                late()
            running[0].wait(0.1)  # bounded, so that signal handlers run
        return at_once

    def close(self) -> None:
        """Give back what watching took."""
        for watch in self.watches.values():
            watch.close()

    def collect(
        self,
        sandboxes: Iterable[DeclaredSandbox],
        *,
        own: bool,
        whole: bool,
        making: Making | None = None,
        gone: tuple[ObservedSandbox, ...] = (),
    ) -> None:
        """Keep the evidence of what is there of this job, and remove it: nothing else. With `whole`, also networks that
        nothing uses then. Where nothing is shared, nothing else is looked at.

        Of one that is the job's `own` nobody else takes the evidence, so that the project's lock is needed for what is
        shared only, and it goes whatever its state. `gone` are those that somebody else removed, as they were: what is
        known of them is kept. Raises ApplyError.
        """
        if not self.made:
            return
        profile, together = self._profile, whole and shares(sandboxes)
        settings = structs.replace(self._settings, stop=threading.Event()) if own else self._settings
        runs, ids = {made.run for made in self.made.values()}, [made.id for made in self.made.values()]
        with self.making(locks=together or not own, making=making) as guard:
            if together:
                snapshot = self._engine.observe(profile, self._store)
            else:
                snapshot = self._engine.observe_these(profile, self._store, ids)
            snapshot = structs.replace(snapshot, sandboxes=(*snapshot.sandboxes, *gone))
            mine = [o for o in snapshot.sandboxes if o.run in runs and (own or isinstance(o.state, Ended))]
            leftovers = whole and not own
            plan = make_collect_plan(profile, snapshot, mine, networks=together, leftovers=leftovers)
            outcome = carry_out(
                plan,
                snapshot,
                self._engine,
                profile,
                self._store,
                settings,
                guard,
                watched={watch.run: watch.result for watch in self.watches.values() if own or watch.ended},
                events=self._events,
            )
        assert outcome.applied is not None and outcome.session is not None
        outcome.applied.check()
        self._collected |= outcome.session.captured

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
            captured, seen = taken_by_others(self._store, events, watch, self._started.get(address))
            if captured is None and seen is None and watch.error is not None:
                note = note or str(watch.error)
        return RunResult(address=address, evidence=captured, note=note, named=named, seen=seen)


def _still(running: list[Watch], what: str, help: str) -> WaitTimeout:
    names = ", ".join(watch.address for watch in running)
    return WaitTimeout(Diagnostic(message=f"{what} {names}", help=help))
