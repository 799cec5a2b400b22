"""The planner: a profile and one snapshot of the engine in, a plan out.

Pure: no engine, no clock, no prompt. Each sandbox is decided by itself (`decide.py`), then what they share (networks,
volumes, images), then the steps are made (`steps.py`); last, whose it is what the plan would change. And what of a
project may be reaped, because nobody waits for it any more.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import assert_never

from msgspec import structs

from sandboxrun.data import Data, json_as
from sandboxrun.errors import Diagnostic, PlanError, few, one_line, redacted
from sandboxrun.plan.changes import Action, Change, Other, Plan, Reason
from sandboxrun.plan.decide import (
    Decision,
    Rerun,
    decide,
    decide_ended,
    decide_undeclared,
    ended_reason,
    image_changes,
    is_part,
    network_changes,
    runs_again,
    volume_changes,
    volume_faults,
)
from sandboxrun.plan.operations import Operation, networks_of
from sandboxrun.plan.preflight import helper_faults, image_faults, preflight
from sandboxrun.plan.steps import lay
from sandboxrun.spec import labels
from sandboxrun.spec.ci import CiJob
from sandboxrun.spec.names import check_names, matches
from sandboxrun.spec.project import DeclaredSandbox, Profile, config_digest
from sandboxrun.spec.state import Created, Ended, ObservedSandbox, Running, Snapshot, parse_time, state_word
from sandboxrun.spec.types import freeze


class Options(Data):
    """What the caller asked of a plan. Addresses are as in `reviewer["lint"]`; a bare name means all of them."""

    targets: tuple[str, ...] = ()
    replace: tuple[str, ...] = ()
    rerun: Rerun = False  # what has completed: True, or only what did not succeed: "failed"
    refresh_only: bool = False


def make_plan(profile: Profile, snapshot: Snapshot, options: Options | None = None) -> Plan:
    """The plan that makes the engine hold what the profile declares. Raises PlanError, all faults at once."""
    options = options or Options()
    wanted = with_dependencies(profile, select(profile, options.targets))
    replaced = frozenset(s.address for s in select(profile, options.replace)) if options.replace else frozenset()
    faults = [
        *preflight(wanted, snapshot.offers),
        *image_faults(wanted, snapshot),
        *helper_faults(wanted, snapshot),
        *_conflicts(profile, snapshot, wanted),
        *volume_faults(profile, snapshot, wanted),
    ]
    if faults:
        raise PlanError(*faults)
    decisions = [*_declared(wanted, snapshot, replaced, options), *_undeclared(profile, snapshot, options)]
    return _plan(profile, snapshot, decisions, options)


def not_as_declared(profile: Profile, snapshot: Snapshot, targets: tuple[str, ...]) -> tuple[Change, ...]:
    """Of the running sandboxes of a snapshot, those that differ from what is declared: the read-back of an apply."""
    running = {o.id for o in snapshot.sandboxes if isinstance(o.state, Running)}
    wanted = with_dependencies(profile, select(profile, targets))
    decisions = _declared(wanted, snapshot, frozenset(), Options())
    return tuple(d.change for d in decisions if d.change.container in running and d.change.differences)


def make_destroy_plan(profile: Profile, snapshot: Snapshot, targets: tuple[str, ...] = ()) -> Plan:
    """The plan that keeps the evidence of everything the project has on the engine, and removes it."""
    known = {s.address: s for s in profile.sandboxes}
    check_names(targets, [*known, *(o.address for o in snapshot.sandboxes)], profile.left_out)
    chosen = [o for o in snapshot.sandboxes if not targets or matches(o.address, targets)]
    second = superseded(snapshot)
    decisions = [
        decide_undeclared(o, known.get(o.address), Reason.SECOND if o.id in second else Reason.DESTROY) for o in chosen
    ]
    return _plan(profile, snapshot, decisions, Options(targets=targets), destroy=True)


def make_collect_plan(
    profile: Profile,
    snapshot: Snapshot,
    mine: Iterable[ObservedSandbox],
    *,
    networks: bool,
    leftovers: bool = False,
    reasons: Mapping[str, Reason] = freeze({}),
    keep: bool = True,
    stopped: Mapping[str, str] = freeze({}),
) -> Plan:
    """The plan that saves the evidence of the containers `mine` and removes them, or keeps those whose lifetime says
    so: the end of a `run` or a wait, or, where there are `reasons` (by container), their reaping. It makes nothing,
    whatever the profile declares.

    Without `keep` all are removed; `stopped` is who stopped a run, where somebody watched it. `networks`: also those
    that nothing uses then; `leftovers`: also upload containers, and the volumes of sandboxes that are gone (the
    profile's own stay). Both only for the holder of the project's lock.
    """
    decisions = [
        (decide_ended(o, snapshot, stopped.get(o.run, "itself")) if keep else None)
        or decide_undeclared(o, None, reasons.get(o.id, Reason.DESTROY))
        for o in mine
    ]
    own = structs.replace(
        snapshot,
        leftovers=snapshot.leftovers if leftovers else (),
        volumes=tuple(v for v in snapshot.volumes if is_part(v) or v.key in profile.volumes),
    )
    return _plan(profile, own, decisions, Options(), whole=networks, sweep=leftovers, only_remove=True)


def _plan(
    profile: Profile,
    snapshot: Snapshot,
    decisions: list[Decision],
    options: Options,
    *,
    destroy: bool = False,
    whole: bool | None = None,
    sweep: bool | None = None,
    only_remove: bool = False,
) -> Plan:
    """`whole` removes networks that nothing uses, `sweep` volumes; neither under `--target`."""
    whole = not options.targets if whole is None else whole
    sweep = not options.targets if sweep is None else sweep
    networks = network_changes(profile, snapshot, decisions, whole=whole, sweep=sweep)
    volumes = volume_changes(profile, snapshot, decisions, whole=sweep, destroy=destroy)
    if only_remove:
        networks, volumes = ([c for c in found if c.action is Action.DELETE] for found in (networks, volumes))
    images = image_changes(decisions, snapshot)
    changes = [*images, *networks, *volumes, *(d.change for d in decisions)]
    operations: tuple[Operation, ...] = ()
    if options.refresh_only:  # what drifted, and nothing to do
        changes = [structs.replace(change, action=Action.NONE, differences=change.drift) for change in changes]
    else:
        operations = lay(profile, snapshot, decisions, networks=networks, volumes=volumes, images=images)
    # a `run` that comes and goes meanwhile does not make a saved plan stale
    decided = {d.observed.id for d in decisions if d.observed is not None}
    bound = [o for o in snapshot.sandboxes if (o.id in decided and not o.kept) or not o.apart]
    others: tuple[Other, ...] = ()
    if not (only_remove or options.refresh_only):
        others = others_of(profile, snapshot, decisions, volumes)
    return Plan(
        project=profile.project,
        changes=tuple(changes),
        operations=operations,
        digested=profile.digested,
        inputs_digest=profile.inputs_digest,
        engine_id=snapshot.engine_id,
        observed=tuple(sorted((o.id, type(o.state).__name__) for o in bound)),
        inputs=profile.inputs,
        sensitive=profile.sensitive,
        refresh_only=options.refresh_only,
        destroy=destroy,
        targeted=bool(options.targets),
        warnings=tuple(
            Diagnostic(message=text, help=_OTHERS.format(profile.project), severity="warning") for text in _told(others)
        ),
        others=others,
    )


def _declared(
    wanted: Iterable[DeclaredSandbox], snapshot: Snapshot, replaced: frozenset[str], options: Options
) -> list[Decision]:
    current, decisions = _current(snapshot), list[Decision]()
    looked_at = [o for o in reversed(snapshot.sandboxes) if o.kept or o.to_keep()]  # that are kept, or will be by now
    newest = {o.address: o.id for o in sorted(looked_at, key=lambda o: o.created)}
    for sandbox in wanted:
        observed = current.get(sandbox.address)
        if observed is not None and (keeping := decide_ended(observed, snapshot)) is not None:
            decisions.append(keeping)
            again = sandbox.address in replaced or runs_again(observed, options.rerun)
            if not again and observed.applied is not None and observed.applied.digest == sandbox.spec.digest:
                continue  # it has run
            observed = None
        decision = decide(sandbox, observed, snapshot, replace=sandbox.address in replaced, rerun=options.rerun)
        decisions.append(structs.replace(decision, after=newest.get(sandbox.address, "")))
    return decisions


def _current(snapshot: Snapshot) -> dict[str, ObservedSandbox]:
    """The container of each address. There are two where an apply was killed while it replaced one: the one that was
    started last is the newer, and one that was never started is not needed."""

    def started(observed: ObservedSandbox) -> datetime:
        return getattr(observed.state, "started", None) or datetime.min.replace(tzinfo=UTC)

    # of several that were started at the same moment the first counts: a later one replaces none
    last = sorted((o for o in reversed(snapshot.sandboxes) if not o.apart), key=started)
    return {observed.address: observed for observed in last}


def superseded(snapshot: Snapshot) -> frozenset[str]:
    """The ids of containers that another one of their address has replaced, or was to replace."""
    current = {o.id for o in _current(snapshot).values()}
    return frozenset(o.id for o in snapshot.sandboxes if not o.apart and o.id not in current)


def _undeclared(profile: Profile, snapshot: Snapshot, options: Options) -> list[Decision]:
    """What the engine has of this project beyond what the profile declares."""
    declared = {s.address for s in profile.sandboxes}
    current = {o.id for o in _current(snapshot).values()}
    decisions = []
    for observed in snapshot.sandboxes:
        reason: Reason | None = None
        expired = snapshot.expired(observed)
        if observed.kept:
            reason = Reason.EXPIRED if expired else Reason.KEEP_OVER
        elif observed.one_off:  # taken away only once its `run` can't do it any more
            reason = Reason.EXPIRED if expired else Reason.ORPHANED if observed.id in snapshot.orphaned else None
        elif observed.id not in current:
            reason = Reason.SECOND
        elif observed.address not in declared:
            reason = Reason.UNDECLARED
        if reason is not None and (not options.targets or matches(observed.address, options.targets)):
            stays = decide_ended(observed, snapshot) if reason is not Reason.SECOND else None
            decisions.append(stays or decide_undeclared(observed, None, reason))
    return decisions


def with_dependencies(profile: Profile, sandboxes: Iterable[DeclaredSandbox]) -> tuple[DeclaredSandbox, ...]:
    """The sandboxes (as those of `--target`) and all that they depend on, in the file's order."""
    chosen = {s.address for s in sandboxes}
    todo = list(chosen)
    while todo:
        sandbox = profile.sandbox(todo.pop())
        for needed in sandbox.depends_on if sandbox is not None else ():
            if needed not in chosen:
                chosen.add(needed)
                todo.append(needed)
    return tuple(s for s in profile.sandboxes if s.address in chosen)


def select(profile: Profile, names: tuple[str, ...]) -> tuple[DeclaredSandbox, ...]:
    """The sandboxes named, all when none is. Raises UsageError for an unknown name."""
    check_names(names, [s.address for s in profile.sandboxes], profile.left_out)
    return tuple(s for s in profile.sandboxes if not names or matches(s.address, names))


def _conflicts(profile: Profile, snapshot: Snapshot, wanted: Iterable[DeclaredSandbox]) -> list[Diagnostic]:
    """Foreign objects that conflict with the wanted sandboxes."""
    names, needed = profile.names, set[tuple[str, str]]()
    for sandbox in wanted:
        needed.add(("container", sandbox.name))
        needed |= {("network", names.network(key)) for key in networks_of(sandbox.spec)}
        needed |= {("volume", names.volume(m.source or "")) for m in sandbox.spec.volumes if m.type == "volume"}
    what_to_do = "nothing foreign is touched: rename or remove {}, or change name: at the profile's top"
    return [
        Diagnostic(
            message=f"the {foreign.kind} {foreign.name} exists and is not this project's ({foreign.whose})",
            help=foreign.help or what_to_do.format(foreign.id[:12]),
        )
        for foreign in snapshot.foreign
        if (foreign.kind, foreign.name) in needed
    ]


# -- What a plan would change that was made from another directory: two projects of one name, or two checkouts of one.
# What this profile declares as it is counts as this project's, wherever it was made, and so does what nobody waits for:
# jobs in several checkouts share their sandboxes

_OTHERS = "if that is another project, give one of the two another name than {}"
_MOST = 10  # names of one directory that are listed
_VERBS = {Action.DELETE: "removes", Action.REPLACE: "replaces", Action.UPDATE: "changes", Action.KEEP: "collects"}


def others_of(
    profile: Profile, snapshot: Snapshot, decisions: Iterable[Decision], volumes: Iterable[Change]
) -> tuple[Other, ...]:
    """All of them, in the plan's order."""
    here = labels.directory(str(profile.directory))
    others: list[Other] = []

    def add(change: Change, made_in: str | None, owner: str | None, job: CiJob | None = None) -> None:
        if made_in not in (None, here) and change.action in _VERBS and change.reason is not Reason.ORPHANED:
            who = str(json_as(dict, owner or "").get("who", ""))  # a user and host
            who = f"{who or 'an unknown user'} (job {job.id} of {job.system})" if job is not None else who
            others.append(Other(address=change.address, action=change.action, directory=made_in or "", who=who))

    for decision in decisions:
        observed = decision.observed
        if observed is None or observed.is_over(snapshot.taken):
            continue
        mine, applied = profile.sandbox(observed.address), observed.applied
        if mine is None or applied is None or applied.digest != mine.spec.digest:
            add(decision.change, observed.labels.get(labels.DIRECTORY), observed.owner, observed.job)
    found = {f"volume.{volume.key}": volume for volume in snapshot.volumes}
    for change in volumes:
        volume = found.get(change.address)
        declared = profile.volumes.get(volume.key) if volume is not None else None
        if volume is not None and (declared is None or volume.config != config_digest(declared)):
            add(change, volume.directory, volume.owner)
    return tuple(others)


def check_others(plan: Plan, take_over: bool) -> None:
    """Raise PlanError, saying whose it is, for a plan that changes what another directory's profile made, unless that
    was agreed to."""
    if take_over or not plan.others:
        return
    help = f"{_OTHERS.format(plan.project)}; if it is this one in another checkout, take it over"
    told = (
        Diagnostic(message=text, help=help, option="--take-over", argument="ApplySettings(take_over=True)")
        for text in _told(plan.others)
    )
    raise PlanError(*(redacted(diagnostic, plan.sensitive) for diagnostic in told))


def _told(others: tuple[Other, ...]) -> Iterator[str]:
    """For each directory, in a sentence, what happens to what was made there."""
    for home in dict.fromkeys(other.home for other in others):
        mine = [other for other in others if other.home == home]
        parts = []
        for action, verb in _VERBS.items():
            names = [one_line(other.address) for other in mine if other.action is action]
            parts += [f"{verb} {few(names, _MOST)}"] if names else []
        was = "which was" if len(mine) == 1 else "which were"
        yield f"this plan {' and '.join(parts)}, {was} made from the directory {home}"


# -- What may be reaped, and why: sandboxes that nobody waits for any more


# A living owner starts what it made, and collects what has ended, within seconds. Whether one on another machine lives
# is not known without a lease: what it has not touched for so long is not its own any more.
_FORGOTTEN = timedelta(minutes=10)


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
    expired = snapshot.expired(observed)
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
    return state.overdue_at(timeout, spec)


def next_deadline(snapshot: Snapshot) -> datetime | None:
    """When the next sandbox is due that is not now, as far as the clock alone decides."""
    ends = [snapshot.expires_at(observed) for observed in snapshot.sandboxes]
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
    return "kept" if observed.kept else state_word(observed.state)
