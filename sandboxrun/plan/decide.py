"""What happens to one sandbox: the table of the design, row by row.

Owns the decision for a single sandbox. Pure; the steps that carry it out are made in `steps.py`.
"""

from __future__ import annotations

from datetime import timedelta
from typing import assert_never

from msgspec import structs

from sandboxrun.data import Data
from sandboxrun.plan.changes import Action, Change, Reason
from sandboxrun.plan.diff import Difference, compare, shown_before, spec_plain
from sandboxrun.plan.owned import companions_of
from sandboxrun.spec import types as units
from sandboxrun.spec.names import GATEWAY
from sandboxrun.spec.option import Effect
from sandboxrun.spec.project import DeclaredSandbox
from sandboxrun.spec.spec import BY_KEY
from sandboxrun.spec.state import Completed, Created, Ended, ObservedSandbox, Running, Snapshot


class Decision(Data):
    """What happens to one sandbox; `how` is the outcome to record where the planner is the one who ends it."""

    change: Change
    declared: DeclaredSandbox | None
    observed: ObservedSandbox | None
    how: str | None = None

    @property
    def makes(self) -> bool:
        """Whether a container is made."""
        return self.change.action in (Action.CREATE, Action.REPLACE)

    @property
    def beside(self) -> bool:
        """Whether what is made comes first: what runs is given up only once all that can be made of the other is."""
        running = self.observed is not None and isinstance(self.observed.state, Running)
        return running and self.change.action is Action.REPLACE

    @property
    def made(self) -> DeclaredSandbox | None:
        """What is declared, by the name that it is made under: one of its own while another one has its name."""
        if self.declared is None or self.observed is None or not self.beside:
            return self.declared
        return structs.replace(self.declared, name=f"{self.declared.name}.next-{self.observed.id[:12]}")

    @property
    def ends(self) -> bool:
        """Whether the container that is there goes."""
        return self.observed is not None and self.change.action in (Action.REPLACE, Action.DELETE)


def decide(
    declared: DeclaredSandbox, observed: ObservedSandbox | None, snapshot: Snapshot, *, replace: bool, rerun: bool
) -> Decision:
    """The decision for a declared sandbox."""
    decision = _decide(declared, observed, snapshot, replace=replace, rerun=rerun)
    if observed is None:
        return decision
    change = decision.change
    found = change.differences or compare(declared.spec, observed, snapshot.images.get(declared.spec.image))
    implied = {d.key: d.after for d in change.differences if d.after is not None}  # the container's name, no command
    after = {**implied, **change.after} if change.after is not None else None
    return structs.replace(
        decision, change=structs.replace(change, before=shown_before(declared.spec, found), after=after)
    )


def _decide(
    declared: DeclaredSandbox, observed: ObservedSandbox | None, snapshot: Snapshot, *, replace: bool, rerun: bool
) -> Decision:
    runs = snapshot.completed.get(declared.address)
    record = runs.get(declared.spec.digest) if runs else None
    if observed is None:
        return _absent(declared, record, rerun or replace)
    match observed.state:
        case Created():
            return _decision(declared, observed, Action.REPLACE, Reason.HALF_MADE, "made, but never started")
        case Running():
            return _running(declared, observed, snapshot, replace)
        case Ended() as ended:
            return _ended(declared, observed, ended, rerun or replace)
        case _:
            assert_never(observed.state)


def decide_undeclared(
    observed: ObservedSandbox, declared: DeclaredSandbox | None, snapshot: Snapshot, reason: Reason
) -> Decision:
    """The decision for a container that goes whatever its state."""
    note = {
        Reason.UNDECLARED: "no longer declared",
        Reason.SECOND: "an apply that replaced it did not finish",
        Reason.ORPHANED: "the run that made it is gone",
        Reason.JOB_OVER: "its job is over",
        Reason.EXPIRED: "past its ttl",
        Reason.TIMEOUT: "past its timeout",
        Reason.HALF_MADE: "made, but never started",
    }.get(reason, "")
    if isinstance(observed.state, Ended) and not note:
        note = ended_reason(observed.state)[1] if reason is not Reason.DESTROY else ""
    ends = "timeout" if reason in (Reason.EXPIRED, Reason.TIMEOUT) else "killed"
    how = _how(observed) if isinstance(observed.state, Ended) else ends
    return _decision(declared, observed, Action.DELETE, reason, note, how=how)


def _absent(declared: DeclaredSandbox, record: Completed | None, again: bool) -> Decision:
    if record is None:
        return _decision(declared, None, Action.CREATE, Reason.NEW)
    said = record.ending
    if again:
        return _decision(declared, None, Action.CREATE, Reason.RERUN, f"{said} in run {record.run[:12]}")
    if record.workspace_changed:
        note = f"the workspace has changed since run {record.run[:12]}"
        return _decision(declared, None, Action.CREATE, Reason.WORKSPACE_CHANGED, note)
    note = f"{said} in run {record.run[:12]}; --rerun runs it again"
    return _decision(declared, None, Action.NONE, Reason.DONE, note)


def _running(declared: DeclaredSandbox, observed: ObservedSandbox, snapshot: Snapshot, replace: bool) -> Decision:
    over = _overdue(declared, observed, snapshot)
    if over is not None:
        return over
    if replace:
        return _decision(declared, observed, Action.REPLACE, Reason.REQUESTED, "--replace")
    found = differences(declared, observed, snapshot)
    if not found:
        return _decision(declared, observed, Action.NONE, Reason.UP_TO_DATE)
    action = Action.REPLACE if any(d.effect is Effect.REPLACE for d in found) else Action.UPDATE
    return _decision(declared, observed, action, _why(action, found), differences=found)


def differences(declared: DeclaredSandbox, observed: ObservedSandbox, snapshot: Snapshot) -> tuple[Difference, ...]:
    """All in which a running sandbox is not as declared: its options, its gateway, its name."""
    found = [*compare(declared.spec, observed, snapshot.images.get(declared.spec.image))]
    if observed.spec.runtime == snapshot.offers.default_runtime:  # which a sandbox without one would have too
        found = [d for d in found if d.key != "runtime" or d.after is not None]

    def drift(key: str, before: object, after: object, effect: Effect, reason: str = "") -> Difference:
        return Difference(key=key, before=before, after=after, effect=effect, drift=True, reason=reason)

    gateway = snapshot.companion(observed.run, GATEWAY)
    wired = GATEWAY not in companions_of(declared.spec) or (gateway is not None and gateway.running)
    if not wired and not any(d.key == "egress" for d in found):  # it reaches nothing
        after = BY_KEY["egress"].plain(declared.spec.egress)
        found.append(drift("egress", "nothing", after, Effect.RELOAD, "its gateway does not run"))
    if isinstance(observed.state, Running) and observed.state.paused:
        found.append(drift("paused", True, False, Effect.RESUME, "paused on the engine"))
    if observed.name != declared.name:
        found.insert(0, drift("name", observed.name, declared.name, Effect.RENAME))
    return tuple(found)


def _why(action: Action, differences: tuple[Difference, ...]) -> Reason:
    if action is Action.UPDATE:
        return Reason.DRIFTED if all(d.drift for d in differences) else Reason.CHANGED
    forcing = [d for d in differences if d.effect is Effect.REPLACE]
    moved = all(d.key == "image" and d.reason for d in forcing)
    return Reason.IMAGE_MOVED if moved else Reason.CANNOT_UPDATE


def _overdue(declared: DeclaredSandbox, observed: ObservedSandbox, snapshot: Snapshot) -> Decision | None:
    """A sandbox past its lifetime: it is ended, its evidence saved, and it is not run again."""
    state = observed.state
    timeout = declared.spec.lifetime.timeout
    ends = state.started + timedelta(microseconds=(timeout or 0) / 1000) if isinstance(state, Running) else None
    if timeout is not None and ends is not None and snapshot.taken >= ends:
        note = f"past its timeout of {units.format_duration(timeout)}"
        return _decision(declared, observed, Action.DELETE, Reason.TIMEOUT, note, how="timeout")
    if observed.deadline is not None and snapshot.taken >= observed.deadline:
        return _decision(declared, observed, Action.DELETE, Reason.EXPIRED, "past its ttl", how="timeout")
    return None


def _ended(declared: DeclaredSandbox, observed: ObservedSandbox, ended: Ended, again: bool) -> Decision:
    reason, note = (Reason.TIMEOUT, "stopped after its timeout") if observed.timed_out else ended_reason(ended)
    how = _how(observed)
    if again:
        return _decision(declared, observed, Action.REPLACE, Reason.RERUN, note, how=how)
    if observed.applied is not None and observed.applied.digest != declared.spec.digest:
        note = f"{note}; the profile has changed"
        return _decision(declared, observed, Action.REPLACE, Reason.ENDED_CHANGED, note, how=how)
    return _decision(declared, observed, Action.DELETE, reason, note, how=how)


def _how(observed: ObservedSandbox) -> str | None:
    """The outcome to record of one that has ended; None: as the engine says."""
    return "timeout" if observed.timed_out else None


def ended_reason(ended: Ended) -> tuple[Reason, str]:
    """How an ended sandbox is spoken of in a plan."""
    if ended.out_of_memory:
        return Reason.OOM, "killed for exceeding its memory limit"
    if ended.error:
        return Reason.FAILED, ended.error
    if ended.how in ("killed", "engine_lost", "unknown"):
        note = f"{ended.ending.removeprefix('was ')}; it does not count as done"
        return Reason.KILLED if ended.how == "killed" else Reason.LOST, note
    if ended.exit_code == 0:
        return Reason.COMPLETED, "completed"
    return Reason.FAILED, f"exited with {ended.exit_code}"


def _decision(
    declared: DeclaredSandbox | None,
    observed: ObservedSandbox | None,
    action: Action,
    reason: Reason,
    note: str = "",
    *,
    differences: tuple[Difference, ...] = (),
    how: str | None = None,
) -> Decision:
    stays = action in (Action.NONE, Action.UPDATE)
    after = spec_plain(declared.spec) if declared is not None and action is not Action.DELETE else None
    address = observed.address if observed is not None else declared.address if declared is not None else ""
    name = observed.name if observed is not None and (stays or declared is None) else ""
    if observed is not None and (observed.one_off or reason is Reason.SECOND):
        address = f"{address} (run {observed.run[:12]})"
    change = Change(
        kind="sandbox",
        address=address,
        name=name or (declared.name if declared is not None else ""),
        action=action,
        reason=reason,
        note=note,
        before=spec_plain(observed.spec) if observed is not None else None,
        after=after,
        differences=differences,
        container=observed.id if observed is not None else None,
    )
    return Decision(change=change, declared=declared, observed=observed, how=how)
