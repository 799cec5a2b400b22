"""`apply --wait` and `wait`: watch sandboxes that were applied until they have ended.

Owns that order: apply, watch, and one more apply, which by the plan's own rules keeps the evidence of what has ended
and tears it down.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from datetime import datetime
from time import monotonic
from typing import TYPE_CHECKING

import attrs

from sandboxrun.apply.session import Watched
from sandboxrun.apply.watch import Watch, Watching
from sandboxrun.engine.client import Engine
from sandboxrun.errors import Diagnostic, ExitCode, SandboxrunError
from sandboxrun.model.declared import DeclaredSandbox, Profile
from sandboxrun.model.observed import Completed, Created, ObservedSandbox, Running, Snapshot
from sandboxrun.plan.planner import Options, select, with_dependencies
from sandboxrun.workflow.blocked import not_started, overall
from sandboxrun.workflow.converge import Confirm, Outcome, Proof, Settings, apply
from sandboxrun.workflow.observe import take_snapshot
from sandboxrun.workflow.oneoff import RunResult

if TYPE_CHECKING:
    from sandboxrun.evidence.store import Store
    from sandboxrun.workflow.saved import SavedPlan


class WaitTimeout(SandboxrunError):
    """Sandboxes still ran when the caller's patience ended; they go on running."""

    exit_code = ExitCode.TIMEOUT


@attrs.frozen(kw_only=True)
class Waited:
    """What an `apply --wait` came to: the plan and its outcome, and how each declared sandbox ended.

    `results` are in the file's order, those that were not started because what they depend on failed among them;
    `earlier` are those that ran in an earlier run, None where that is not known; `codes` the exit codes of all that
    came to run, in the file's order.
    """

    outcome: Outcome
    results: tuple[RunResult, ...] = ()
    earlier: Mapping[str, Completed | None] = attrs.field(factory=dict)  # by address
    codes: tuple[int, ...] = ()

    @property
    def exit_code(self) -> int:
        """The first code that is not 0, in the file's order, of those that came to run."""
        return overall(self.codes, blocked=any(r.blocked for r in self.results))


def apply_and_wait(
    engine: Engine,
    profile: Profile,
    store: Store,
    *,
    options: Options | None = None,
    settings: Settings | None = None,
    confirm: Confirm = lambda plan: True,
    expected: SavedPlan | None = None,
    patience: float | None = None,
    proof: Proof | None = None,
) -> Waited:
    """Apply, wait for every sandbox to end, keep the evidence and tear down. `patience` in seconds.

    What a failed dependency kept from starting is no error here: the others are waited for, and the results say it.
    Raises what apply raises, and WaitTimeout.
    """
    settings = settings or Settings()
    if expected is not None:
        options = expected.options
    outcome = apply(
        engine,
        profile,
        store,
        options=options,
        settings=settings,
        confirm=confirm,
        expected=expected,
        blocked=True,
        proof=proof,
    )
    if outcome.applied is None:
        return Waited(outcome=outcome)
    targets = options.targets if options is not None else ()
    chosen = select(profile, targets)
    blocked = not_started(profile, outcome.applied)
    if blocked:  # what they depend on is told of too, for its code is the result
        chosen = with_dependencies(profile, chosen)
    watched = wait_for(engine, profile, store, chosen, patience=patience, stop=settings.stop, sample=True)
    started = attrs.evolve(profile, sandboxes=tuple(s for s in profile.sandboxes if s.address not in blocked))
    again = Options(targets=tuple(s.address for s in chosen if s.address not in blocked) if targets else ())
    last = apply(engine, started, store, options=again, settings=settings, watched=watched)
    return _waited(outcome, last, chosen, watched, blocked)


def _waited(
    first: Outcome,
    last: Outcome,
    chosen: Iterable[DeclaredSandbox],
    watched: Mapping[str, Watched],
    blocked: Mapping[str, str],
) -> Waited:
    sessions = [o.session for o in (first, last) if o.session is not None]
    captured = {run: c for session in sessions for run, c in session.captured.items()}
    runs = {c.index.sandbox: run for run, c in captured.items() if c.index is not None}
    results: list[RunResult] = []
    earlier: dict[str, Completed | None] = {}
    codes: list[int] = []
    for sandbox in chosen:
        if sandbox.address in blocked:
            note = blocked[sandbox.address]
            results.append(RunResult(address=sandbox.address, evidence=None, note=note, blocked=True))
            continue
        run = runs.get(sandbox.address)
        if run is not None:
            note = watched[run].note if run in watched else ""
            results.append(RunResult(address=sandbox.address, evidence=captured[run], note=note))
            codes.append(results[-1].exit_code)
            continue
        record = sessions[0].snapshot.completed.get(sandbox.address, {}).get(sandbox.spec.digest)
        earlier[sandbox.address] = record
        codes.append(ExitCode.NOT_RUN if record is None else recorded_code(record.outcome, record.exit_code))
    return Waited(outcome=first, results=tuple(results), earlier=earlier, codes=tuple(codes))


def recorded_code(outcome: str, code: int | None) -> int:
    """The exit code that a record stands for."""
    if outcome == "timeout":
        return ExitCode.TIMEOUT
    return code if code is not None else ExitCode.NOT_RUN


def wait_for(
    engine: Engine,
    profile: Profile,
    store: Store,
    sandboxes: Iterable[DeclaredSandbox],
    *,
    patience: float | None = None,
    stop: threading.Event | None = None,
    sample: bool = False,
) -> Mapping[str, Watched]:
    """Wait until none of the sandboxes runs; what was seen of each, by run. Their lifetimes are enforced meanwhile.

    Raises WaitTimeout after `patience` seconds.
    """
    addresses = {s.address: s for s in sandboxes}
    snapshot = take_snapshot(engine, profile, store)
    watches = [
        _watch(engine, store, observed, addresses[observed.address], sample, snapshot.taken)
        for observed in _there(snapshot, addresses)
    ]
    try:
        _until_ended(watches, patience, stop or threading.Event())
    finally:
        for watch in watches:
            watch.close()
    return {watch.run: watch.result for watch in watches if watch.ended}


def _there(snapshot: Snapshot, addresses: Mapping[str, DeclaredSandbox]) -> list[ObservedSandbox]:
    return [
        o for o in snapshot.sandboxes if o.address in addresses and not o.one_off and not isinstance(o.state, Created)
    ]


def _watch(
    engine: Engine, store: Store, observed: ObservedSandbox, declared: DeclaredSandbox, sample: bool, taken: datetime
) -> Watch:

    running = isinstance(observed.state, Running)
    ran = (taken - observed.state.started).total_seconds() if isinstance(observed.state, Running) else 0.0
    watch = Watch(
        engine,
        store,
        address=observed.address,
        container=observed.id,
        run=observed.run,
        spec=declared.spec,
        how=Watching(sample=sample and running, elapsed=max(0.0, ran)),
    )
    watch.begin()
    return watch


def _until_ended(watches: list[Watch], patience: float | None, stop: threading.Event) -> None:
    until = None if patience is None else monotonic() + patience
    while running := [watch for watch in watches if not watch.ended]:
        if stop.is_set():
            raise _still(running, "stopped while waiting for", "they go on running; apply or destroy collects them")
        if until is not None and monotonic() >= until:
            raise _still(running, f"after {patience:g} seconds these still run:", "wait longer, or destroy them")
        running[0].wait(0.1)


def _still(running: list[Watch], what: str, help: str) -> WaitTimeout:
    names = ", ".join(watch.address for watch in running)
    return WaitTimeout(Diagnostic(message=f"{what} {names}", help=help))


def codes(
    engine: Engine, profile: Profile, store: Store, sandboxes: tuple[DeclaredSandbox, ...]
) -> Mapping[str, int | None]:
    """For `wait`: the exit code of each, from the engine or the record; None for one that never ran."""
    from sandboxrun.model.observed import Ended

    snapshot = take_snapshot(engine, profile, store)
    found: dict[str, int | None] = {}
    for sandbox in sandboxes:
        record = snapshot.completed.get(sandbox.address, {}).get(sandbox.spec.digest)
        found[sandbox.address] = recorded_code(record.outcome, record.exit_code) if record is not None else None
    for observed in snapshot.sandboxes:
        if observed.address in found and not observed.one_off and isinstance(observed.state, Ended):
            found[observed.address] = ExitCode.TIMEOUT if observed.timed_out else observed.state.exit_code
    return found


def without_code(store: Store, profile: Profile, codes: Mapping[str, int | None]) -> Mapping[str, str]:
    """Of those that `codes` has no code for: why, in words."""
    ran = {entry.sandbox for entry in store.entries(profile.project)}
    words = {True: "has not run with this spec", False: "never ran"}
    return {address: words[address in ran] for address, code in codes.items() if code is None}
