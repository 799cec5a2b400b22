"""What happens to one sandbox (the table of the design, row by row), and to what sandboxes share.

Owns those decisions. Pure; the steps that carry them out are made in `steps.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal, assert_never

from msgspec import structs

from sandboxrun.data import Data
from sandboxrun.errors import Diagnostic
from sandboxrun.plan.changes import Action, Change, Difference, Reason, compare, short, shown_before
from sandboxrun.plan.operations import companions_of, is_private, networks_of
from sandboxrun.plan.preflight import fixed_timeout, needs_pull
from sandboxrun.spec import types as units
from sandboxrun.spec.names import GATEWAY, PARTS, next_name, part_volume
from sandboxrun.spec.option import Effect, to_plain
from sandboxrun.spec.project import DeclaredSandbox, NetworkSpec, Profile, config_digest
from sandboxrun.spec.spec import BY_KEY, SandboxSpec
from sandboxrun.spec.state import (
    PAST_TTL,
    Completed,
    Created,
    Ended,
    ObservedNetwork,
    ObservedSandbox,
    ObservedVolume,
    Running,
    Snapshot,
)

Rerun = bool | Literal["failed"]


class Decision(Data):
    """What happens to one sandbox; `how` is the outcome to record where the planner is the one who ends it."""

    change: Change
    declared: DeclaredSandbox | None
    observed: ObservedSandbox | None
    how: str | None = None
    after: str = ""  # the newest container of it that is kept: its volumes have the name that is declared

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
        other = self.observed.id if self.observed is not None and self.beside else self.after
        if self.declared is None or not other:
            return self.declared
        return structs.replace(self.declared, name=next_name(self.declared.name, other))

    @property
    def ends(self) -> bool:
        """Whether the container that is there goes, or stays only to be looked at."""
        return self.observed is not None and self.change.action in (Action.REPLACE, Action.DELETE, Action.KEEP)

    @property
    def kept(self) -> ObservedSandbox | None:
        """The container that is kept after its end, by this plan or an earlier one."""
        return self.observed if self.change.reason in (Reason.KEEP, Reason.KEPT) else None


def decide(
    declared: DeclaredSandbox, observed: ObservedSandbox | None, snapshot: Snapshot, *, replace: bool, rerun: Rerun
) -> Decision:
    """The decision for a declared sandbox."""
    if observed is None:
        return _absent(declared, record_of(declared, snapshot), replace, rerun)
    match observed.state:
        case Created():
            decision = _decision(declared, observed, Action.REPLACE, Reason.HALF_MADE, "made, but never started")
        case Running():
            decision = _running(declared, observed, snapshot, replace)
        case Ended():
            (reason, note), action, how = _ending(observed), Action.DELETE, _how(observed)
            if replace or runs_again(observed, rerun):
                action, reason = Action.REPLACE, Reason.RERUN
            elif observed.applied is not None and observed.applied.digest != declared.spec.digest:
                action, reason, note = Action.REPLACE, Reason.ENDED_CHANGED, f"{note}; the profile has changed"
            decision = _decision(declared, observed, action, reason, note, how=how)
        case _:
            assert_never(observed.state)
    change = decision.change
    found = change.differences
    if not found and change.reason is not Reason.UP_TO_DATE:
        found = compare(declared.spec, observed, snapshot.images.get(declared.spec.image))
    implied = {d.key: d.after for d in change.differences if d.after is not None}  # the container's name, no command
    after = {**implied, **change.after} if change.after is not None else None
    return structs.replace(
        decision, change=structs.replace(change, before=shown_before(declared.spec, found), after=after)
    )


def decide_undeclared(observed: ObservedSandbox, declared: DeclaredSandbox | None, reason: Reason) -> Decision:
    """The decision for a container that goes whatever its state."""
    note = {
        Reason.UNDECLARED: "no longer declared",
        Reason.SECOND: "an apply that replaced it did not finish",
        Reason.ORPHANED: f"the {'run that made' if observed.one_off else 'process that waited for'} it is gone",
        Reason.JOB_OVER: "its job is over",
        Reason.EXPIRED: PAST_TTL,
        Reason.TIMEOUT: "past its timeout",
        Reason.HALF_MADE: "made, but never started",
        Reason.KEEP_OVER: "was kept for as long as its keep_for says",
    }.get(reason, "")
    if isinstance(observed.state, Ended) and not note:
        note = ended_reason(observed.state)[1] if reason is not Reason.DESTROY else ""
    ends = {Reason.EXPIRED: "expired", Reason.TIMEOUT: "timeout"}.get(reason, "killed")
    how = _how(observed) if isinstance(observed.state, Ended) else ends
    return _decision(declared, observed, Action.DELETE, reason, note, how=how)


def decide_ended(observed: ObservedSandbox, snapshot: Snapshot, stopped_by: str = "itself") -> Decision | None:
    """The decision for a container that is to be kept, or has been; None for one that goes now that it has ended."""
    if observed.is_over(snapshot.taken):
        return None
    if observed.kept:
        until = observed.kept_until
        note = f"{_ending(observed)[1]}; kept {f'until {until:%Y-%m-%d %H:%M} UTC' if until else 'until it is removed'}"
        return _decision(None, observed, Action.NONE, Reason.KEPT, note)
    if not observed.to_keep(stopped_by):
        return None
    return _decision(None, observed, Action.KEEP, Reason.KEEP, _ending(observed)[1], how=_how(observed))


def record_of(declared: DeclaredSandbox, snapshot: Snapshot) -> Completed | None:
    """That its spec ran to its end: by the record; by a container that was kept, where another checkout has that. What
    a copied workspace held then is not known of the latter."""
    runs, digest = snapshot.completed.get(declared.address), declared.spec.digest
    if runs and digest in runs:
        return runs[digest]
    workspace = declared.spec.workspace
    if workspace is not None and workspace.access == "copy":
        return None
    kept = [o for o in snapshot.sandboxes if o.address == declared.address and o.kept and not o.one_off]
    for observed in sorted(kept, key=lambda o: o.created, reverse=True):
        same = observed.applied is not None and observed.applied.digest == digest
        if same and isinstance(observed.state, Ended):
            code, how = observed.state.exit_code, "timeout" if observed.timed_out else observed.state.how
            how = how or ("exited" if code == 0 else "failed")
            if how in ("exited", "failed", "oom", "timeout"):
                return Completed(outcome=how, exit_code=code, run=observed.run)
    return None


def runs_again(observed: ObservedSandbox, rerun: Rerun) -> bool:
    """Whether `--rerun` means one that has ended."""
    failed = _ending(observed)[0] is not Reason.COMPLETED
    return rerun is True or (rerun == "failed" and failed)


def _absent(declared: DeclaredSandbox, record: Completed | None, replace: bool, rerun: Rerun) -> Decision:
    if record is None:
        return _decision(declared, None, Action.CREATE, Reason.NEW)
    run = f"run {record.run[:12]}"
    if replace or rerun is True or (rerun == "failed" and not record.succeeded):
        return _decision(declared, None, Action.CREATE, Reason.RERUN, f"{record.ending} in {run}")
    if record.workspace_changed:
        note = f"the workspace has changed since {run}"
        return _decision(declared, None, Action.CREATE, Reason.WORKSPACE_CHANGED, note)
    done = _decision(declared, None, Action.NONE, Reason.DONE, f"{record.ending} in {run}")
    return structs.replace(done, change=structs.replace(done.change, again="all" if record.succeeded else "failed"))


def _running(declared: DeclaredSandbox, observed: ObservedSandbox, snapshot: Snapshot, replace: bool) -> Decision:
    if (over := _overdue(declared, observed, snapshot)) is not None:
        return over
    if replace:
        return _decision(declared, observed, Action.REPLACE, Reason.REQUESTED)
    found = differences(declared, observed, snapshot)
    action, reason = Action.NONE, Reason.UP_TO_DATE
    if forcing := [d for d in found if d.effect is Effect.REPLACE]:
        moved = all(d.key == "image" and d.reason for d in forcing)
        action, reason = Action.REPLACE, Reason.IMAGE_MOVED if moved else Reason.CANNOT_UPDATE
    elif found:
        action, reason = Action.UPDATE, Reason.DRIFTED if all(d.drift for d in found) else Reason.CHANGED
    return _decision(declared, observed, action, reason, differences=found)


def differences(declared: DeclaredSandbox, observed: ObservedSandbox, snapshot: Snapshot) -> tuple[Difference, ...]:
    """All in which a running sandbox is not as declared: its options, its gateway, its name."""
    found = [*compare(declared.spec, observed, snapshot.images.get(declared.spec.image))]
    if observed.spec.runtime == snapshot.offers.default_runtime:  # which a sandbox without one would have too
        found = [d for d in found if d.key != "runtime" or d.after is not None]

    def drift(key: str, before: object, after: object, effect: Effect, reason: str = "") -> Difference:
        return Difference(key=key, before=before, after=after, effect=effect, drift=True, reason=reason)

    for at, d in enumerate(found):
        if d.key == "lifetime" and (fixed := fixed_timeout(declared, observed, snapshot)):
            found[at] = structs.replace(d, effect=Effect.REPLACE, reason=d.reason or fixed)
    gateway = snapshot.companion(observed.run, GATEWAY) if GATEWAY in companions_of(declared.spec) else None
    wired = GATEWAY not in companions_of(declared.spec) or (gateway is not None and gateway.serving)
    if not wired and not any(d.key == "egress" for d in found):  # it reaches nothing, or more
        after = BY_KEY["egress"].plain(declared.spec.egress)
        misplaced = gateway is not None and gateway.running
        why = "its gateway is not on its two networks alone" if misplaced else "its gateway does not run"
        found.append(drift("egress", "unknown" if misplaced else "nothing", after, Effect.RELOAD, why))
    if isinstance(observed.state, Running) and observed.state.paused:
        found.append(drift("paused", True, False, Effect.RESUME, "paused on the engine"))
    if observed.name != declared.name:
        found.insert(0, drift("name", observed.name, declared.name, Effect.RENAME))
    return tuple(found)


def _overdue(declared: DeclaredSandbox, observed: ObservedSandbox, snapshot: Snapshot) -> Decision | None:
    """A sandbox past its lifetime: it is ended, its evidence saved, and it is not run again."""
    state = observed.state
    timeout, made = declared.spec.lifetime.timeout, observed.applied or observed.spec
    if timeout is not None and isinstance(state, Running) and snapshot.taken >= state.overdue_at(timeout, made):
        note = f"past its timeout of {units.format_duration(timeout)}"
        if made.lifetime.on_complete != "remove":
            return _decision(None, observed, Action.KEEP, Reason.KEEP, note, how="timeout")
        return _decision(declared, observed, Action.DELETE, Reason.TIMEOUT, note, how="timeout")
    if snapshot.expired(observed):
        return _decision(declared, observed, Action.DELETE, Reason.EXPIRED, PAST_TTL, how="expired")
    return None


def _ending(observed: ObservedSandbox) -> tuple[Reason, str]:
    if observed.timed_out or not isinstance(observed.state, Ended):
        return Reason.TIMEOUT, f"stopped after its {'ttl' if _how(observed) == 'expired' else 'timeout'}"
    return ended_reason(observed.state)


def _how(observed: ObservedSandbox) -> str | None:
    """The outcome to record of one that has ended; None: as the engine says."""
    expired = isinstance(observed.state, Ended) and observed.state.detail == PAST_TTL
    return None if not observed.timed_out else "expired" if expired else "timeout"


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
    after = declared.spec.shown if declared is not None and action is not Action.DELETE else None
    address = observed.address if observed is not None else declared.address if declared is not None else ""
    name = observed.name if observed is not None and (stays or declared is None) else ""
    if observed is not None and (observed.apart or reason in (Reason.SECOND, Reason.KEEP)):
        address = f"{address} (run {observed.run[:12]})"
    change = Change(
        kind="sandbox",
        address=address,
        name=name or (declared.name if declared is not None else ""),
        action=action,
        reason=reason,
        note=note,
        before=observed.spec.shown if observed is not None and not (stays and declared) else None,  # `decide` adds it
        after=after,
        differences=differences,
        container=observed.id if observed is not None else None,
    )
    return Decision(change=change, declared=declared, observed=observed, how=how)


# -- What happens to what sandboxes share: networks, volumes and images. A network is needed while a sandbox that
# stays or is made uses it


def remaining(decisions: Iterable[Decision], snapshot: Snapshot) -> list[SandboxSpec]:
    """The specs of all sandboxes there will be: those that stay, those made, and those the plan leaves alone. Of the
    last both what they are and what they were made as: its gateway is there though a sandbox has lost its wiring."""
    decided = {d.observed.id for d in decisions if d.observed is not None}
    alone = [o for o in snapshot.sandboxes if o.id not in decided and not o.kept]  # kept ones are on no network
    specs = [spec for o in alone for spec in (o.spec, o.applied) if spec is not None]
    for decision in decisions:
        if decision.declared is not None and (decision.makes or (decision.observed and not decision.ends)):
            specs.append(decision.declared.spec)
    return specs


def network_changes(
    profile: Profile, snapshot: Snapshot, decisions: list[Decision], *, whole: bool, sweep: bool
) -> list[Change]:
    """A change for each network that is needed or there. `whole` is False under `--target`: nothing is removed;
    `sweep` removes what sandboxes that are gone left of their own."""
    specs = remaining(decisions, snapshot)
    needed = sorted({key for spec in specs for key in networks_of(spec)})
    common = [network for network in snapshot.networks if not is_private(network)]
    by_key = {network.key: network for network in common}
    changes = []
    for key in needed:
        spec, observed = profile.networks.get(key, NetworkSpec()), by_key.get(key)
        if spec.external:
            continue
        differences = _network_differences(spec, observed) if observed is not None else ()
        action, reason = Action.NONE, Reason.UP_TO_DATE
        if observed is None:
            action, reason = Action.CREATE, Reason.NEW
        elif differences:
            action, reason = Action.REPLACE, Reason.CANNOT_UPDATE
        changes.append(
            Change(
                kind="network",
                address=f"network.{key}",
                name=profile.names.network(key),
                action=action,
                reason=reason,
                before=to_plain(observed.spec) if observed is not None else None,
                after=to_plain(spec),
                differences=differences,
                container=observed.id if observed is not None else None,
            )
        )
    gone = [(network, "no sandbox uses it") for network in common if network.key not in needed and whole]
    if sweep:  # of containers that are not there: an apply was killed between two calls
        runs = {o.run for o in snapshot.sandboxes}
        left = [network for network in snapshot.networks if is_private(network) and network.run not in runs]
        gone += [(network, "left by a sandbox that is gone") for network in left]
    for network, note in gone:
        changes.append(
            Change(
                kind="network",
                address=f"network.{network.key}",
                name=network.name,
                action=Action.DELETE,
                reason=Reason.UNUSED,
                note=note,
                before=to_plain(network.spec),
                container=network.id,
            )
        )
    return changes


def _network_differences(spec: NetworkSpec, observed: ObservedNetwork) -> tuple[Difference, ...]:
    """An engine adds options of its own: those declared must be there, the rest is its business."""
    live, drift = observed.spec, observed.config == config_digest(spec)
    pairs = [
        ("internal", live.internal, spec.internal),
        ("enable_ipv6", live.enable_ipv6, spec.enable_ipv6),
        ("driver_opts", {k: live.driver_opts.get(k) for k in spec.driver_opts}, dict(spec.driver_opts)),
        ("labels", {k: live.labels.get(k) for k in spec.labels}, dict(spec.labels)),
        ("subnet", live.subnet if spec.subnet is not None else None, spec.subnet),
    ]
    return tuple(
        Difference(key=key, before=before, after=after, effect=Effect.REPLACE, drift=drift)
        for key, before, after in pairs
        if before != after
    )


def volume_changes(
    profile: Profile, snapshot: Snapshot, decisions: list[Decision], *, whole: bool, destroy: bool
) -> list[Change]:
    """A change for each volume of the profile's, and for what is left of sandboxes that are gone."""
    decided = {d.observed.id for d in decisions if d.observed is not None}
    kept = [d.kept for d in decisions if d.kept is not None]
    kept += [o for o in snapshot.sandboxes if o.kept and o.id not in decided]
    specs = [*remaining(decisions, snapshot), *(o.spec for o in kept)]
    used = {mount.source or "" for spec in specs for mount in spec.volumes if mount.type == "volume"}
    observed = {volume.key: volume for volume in snapshot.volumes if not is_part(volume)}
    changes = []
    for key in sorted(used) if not destroy else ():
        spec, there = profile.volumes.get(key), key in observed
        if spec is not None and not spec.external:
            changes.append(
                Change(
                    kind="volume",
                    address=f"volume.{key}",
                    name=profile.names.volume(key),
                    action=Action.NONE if there else Action.CREATE,
                    reason=Reason.UP_TO_DATE if there else Reason.NEW,
                    before=to_plain(spec) if there else None,
                    after=to_plain(spec),
                )
            )
    gone: list[tuple[ObservedVolume, Reason, str]] = []
    if whole:
        reason = Reason.DESTROY if destroy else Reason.UNDECLARED
        unused = [v for v in observed.values() if (destroy or v.key not in profile.volumes) and v.key not in used]
        gone += [(volume, reason, "") for volume in unused]
        # of containers that are not there: an apply was killed between two calls. A sandbox that is made takes care of
        # its own, which may be among them
        names = {o.base for o in snapshot.sandboxes} | {d.made.name for d in decisions if d.makes and d.made}
        owned = {part_volume(name, part) for name in names for part in PARTS}
        left = [volume for volume in snapshot.volumes if is_part(volume) and volume.name not in owned]
        gone += [(volume, Reason.UNUSED, "left by a sandbox that is gone") for volume in left]
    for volume, reason, note in gone:
        address = f"volume.{volume.key}"
        changes.append(
            Change(
                kind="volume",
                address=address,
                name=volume.name,
                action=Action.DELETE,
                reason=reason,
                note=note,
                before={},
            )
        )
    return changes


def volume_faults(profile: Profile, snapshot: Snapshot, wanted: Iterable[DeclaredSandbox]) -> Iterator[Diagnostic]:
    """A volume that was made with other options is not replaced: its content would be lost."""
    used = {mount.source or "" for sandbox in wanted for mount in sandbox.spec.volumes if mount.type == "volume"}
    for volume in snapshot.volumes:
        spec = profile.volumes.get(volume.key)
        if is_part(volume) or spec is None or spec.external or volume.key not in used:
            continue
        if volume.config != config_digest(spec):
            yield Diagnostic(
                message=f"the volume {volume.name} was made with other options than volumes.{volume.key} has",
                help="it is not replaced, its content would be lost: remove it yourself, or declare another volume",
            )


def is_part(volume: ObservedVolume) -> bool:
    """Whether it is a sandbox's own volume, not one of the profile's."""
    return volume.key.rpartition(".")[2] in PARTS and volume.run is not None


def image_changes(decisions: list[Decision], snapshot: Snapshot) -> list[Change]:
    """A change for each image that has to be pulled, then for that of gateways and keepers, where it is to be built."""
    changes: dict[str, Change] = {}
    made = [decision.declared.spec for decision in decisions if decision.declared is not None and decision.makes]
    for spec in made:
        image = snapshot.images.get(spec.image)
        if image is None or spec.image in changes or not needs_pull(spec, snapshot):
            continue
        there = image.config is not None
        changes[spec.image] = Change(
            kind="image",
            address=f"image.{spec.image}",
            name=spec.image,
            action=Action.UPDATE if there else Action.CREATE,
            reason=Reason.IMAGE_MOVED if there else Reason.NEW,
            note=f"pull {image.digest}" if image.digest is not None else f"pull; {image.unknown}",
            before={"id": short(image.config.id)} if image.config is not None else None,
            after={"digest": image.digest} if image.digest else {},
        )
    helper = snapshot.helper
    if helper is not None and helper.id is None and any(companions_of(spec) for spec in made):
        changes[helper.reference] = Change(
            kind="image",
            address=f"image.{helper.reference}",
            name=helper.reference,
            action=Action.CREATE,
            reason=Reason.BUILD,
            note=f"from {helper.base}",
            after={},
        )
    return [*changes.values()]
