"""What of a project may be reaped, and why: sandboxes that nobody waits for any more. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime, timedelta
from typing import assert_never

from sandboxrun.plan.changes import Reason
from sandboxrun.plan.decide import ended_reason
from sandboxrun.plan.planner import superseded
from sandboxrun.spec.state import Created, Ended, ObservedSandbox, Running, Snapshot, parse_time

# A living owner starts what it made, and collects what has ended, within seconds. Whether one on another machine lives
# is not known without a lease: what it has not touched for so long is not its own any more.
_FORGOTTEN = timedelta(minutes=10)
_PROMPT = timedelta(seconds=5)  # that ending it takes, beyond its grace period


def due(snapshot: Snapshot, *, lapsed: Collection[str] = (), over: Collection[str] = ()) -> Mapping[str, Reason]:
    """Why each sandbox goes that does, by container. `lapsed` are those whose owner let its lease run out; `over` those
    whose job is known to be over, so that they go unless their owner certainly lives."""
    second, orphans = superseded(snapshot), snapshot.orphaned.union(lapsed)
    found = {
        o.id: Reason.SECOND if o.id in second else _why(o, snapshot, orphan=o.id in orphans) for o in snapshot.sandboxes
    }
    known = {id: why for id, why in found.items() if why is not None}
    stay = {o.id for o in snapshot.sandboxes if o.kept}.union(snapshot.owned)
    return {**{id: Reason.JOB_OVER for id in over if id not in stay}, **known}


def _why(observed: ObservedSandbox, snapshot: Snapshot, *, orphan: bool) -> Reason | None:
    """None where it stays."""
    now, state = snapshot.taken, observed.state
    expired = observed.deadline is not None and now >= observed.deadline
    if observed.kept:  # on purpose, its evidence saved
        return Reason.EXPIRED if expired else Reason.KEEP_OVER if observed.is_over(now) else None
    if orphan:
        return Reason.ORPHANED
    match state:
        case Created():
            kept = _is_its_owners(observed, snapshot, parse_time(observed.created))
            return None if kept and not expired else Reason.HALF_MADE
        case Running():
            over = (ends := timeout_of(observed)) is not None and now >= ends
            return Reason.EXPIRED if expired else Reason.TIMEOUT if over else None
        case Ended():
            kept = _is_its_owners(observed, snapshot, state.finished)
            how = Reason.TIMEOUT if observed.timed_out else ended_reason(state)[0]
            return None if kept and not expired else how
        case _:
            assert_never(state)


def _is_its_owners(observed: ObservedSandbox, snapshot: Snapshot, since: datetime | None) -> bool:
    """Whether its owner, which lives or may live, is about to start or collect it, which it could `since` then. What
    has no owner was made under the project's lock, and nobody else collects it."""
    forgotten = since is None or snapshot.taken - since >= _FORGOTTEN
    return observed.awaited and (observed.id in snapshot.owned or not forgotten)


def timeout_of(observed: ObservedSandbox) -> datetime | None:
    """When a sandbox that runs is past its timeout; None for one that has none, or a `run`, which may have been given
    another. Where its PID 1 ends it then, that goes first."""
    spec, state = observed.applied or observed.spec, observed.state
    timeout = spec.lifetime.timeout
    if timeout is None or observed.one_off or not isinstance(state, Running):
        return None
    its_own = (
        timedelta(microseconds=spec.stop_grace_period / 1000) + _PROMPT if state.limit is not None else timedelta()
    )
    return state.began + timedelta(microseconds=timeout / 1000) + its_own


def next_deadline(snapshot: Snapshot) -> datetime | None:
    """When the next sandbox is due that is not now, as far as the clock alone decides."""
    ends = [observed.deadline for observed in snapshot.sandboxes]
    for observed in snapshot.sandboxes:
        if observed.kept:
            ends.append(observed.kept_until)
        elif isinstance(observed.state, Running) or observed.id in snapshot.owned:
            ends.append(timeout_of(observed))
        else:
            since = observed.state.finished if isinstance(observed.state, Ended) else parse_time(observed.created)
            ends.append(since + _FORGOTTEN if since is not None else None)
    return min((at for at in ends if at is not None and at > snapshot.taken), default=None)


def state_of(observed: ObservedSandbox) -> str:
    """The state in a word: created, running, paused, ended, kept."""
    if observed.kept:
        return "kept"
    match observed.state:
        case Running(paused=True):
            return "paused"
        case state:
            return type(state).__name__.lower()
