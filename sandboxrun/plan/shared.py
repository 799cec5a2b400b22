"""What happens to what sandboxes share: networks, volumes and images.

Owns those decisions. A network is needed while a sandbox that stays or is made uses it. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from sandboxrun.errors import Diagnostic
from sandboxrun.plan.changes import Action, Change, Reason
from sandboxrun.plan.decide import Decision
from sandboxrun.plan.diff import Difference, short
from sandboxrun.plan.owned import companions_of, is_private, networks_of
from sandboxrun.spec.names import PARTS, part_volume
from sandboxrun.spec.option import Effect, to_plain
from sandboxrun.spec.project import DeclaredSandbox, NetworkSpec, Profile, config_digest
from sandboxrun.spec.spec import SandboxSpec
from sandboxrun.spec.state import ObservedNetwork, ObservedVolume, Snapshot


def remaining(decisions: Iterable[Decision], snapshot: Snapshot) -> list[SandboxSpec]:
    """The specs of all sandboxes there will be: those that stay, those made, and those the plan leaves alone. Of the
    last both what they are and what they were made as: its gateway is there though a sandbox has lost its wiring."""
    decided = {d.observed.id for d in decisions if d.observed is not None}
    alone = [o for o in snapshot.sandboxes if o.id not in decided]
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
        spec = profile.networks.get(key, NetworkSpec())
        if not spec.external:
            changes.append(_network(key, spec, by_key.get(key), profile))
    for network in common:
        if network.key not in needed and whole:
            changes.append(_unused(network, "no sandbox uses it"))
    runs = {o.run for o in snapshot.sandboxes}
    if sweep:  # of containers that are not there: an apply was killed between two calls
        left = [network for network in snapshot.networks if is_private(network) and network.run not in runs]
        changes += [_unused(network, "left by a sandbox that is gone") for network in left]
    return changes


def _network(key: str, spec: NetworkSpec, observed: ObservedNetwork | None, profile: Profile) -> Change:
    address, name, after = f"network.{key}", profile.names.network(key), to_plain(spec, defaults=True)
    if observed is None:
        return Change(kind="network", address=address, name=name, action=Action.CREATE, reason=Reason.NEW, after=after)
    differences = _network_differences(spec, observed)
    return Change(
        kind="network",
        address=address,
        name=name,
        action=Action.REPLACE if differences else Action.NONE,
        reason=Reason.CANNOT_UPDATE if differences else Reason.UP_TO_DATE,
        before=to_plain(observed.spec, defaults=True),
        after=after,
        differences=differences,
        container=observed.id,
    )


def _network_differences(spec: NetworkSpec, observed: ObservedNetwork) -> tuple[Difference, ...]:
    """An engine adds options of its own: those declared must be there, the rest is its business."""
    live, drift = observed.spec, observed.config == config_digest(spec)
    pairs = [
        ("internal", live.internal, spec.internal),
        ("enable_ipv6", live.enable_ipv6, spec.enable_ipv6),
        ("driver_opts", {k: live.driver_opts.get(k) for k in spec.driver_opts}, dict(spec.driver_opts)),
        ("labels", {k: live.labels.get(k) for k in spec.labels}, dict(spec.labels)),
    ]
    if spec.subnet is not None:
        pairs.append(("subnet", live.subnet, spec.subnet))
    return tuple(
        Difference(key=key, before=before, after=after, effect=Effect.REPLACE, drift=drift)
        for key, before, after in pairs
        if before != after
    )


def _unused(network: ObservedNetwork, note: str) -> Change:
    return Change(
        kind="network",
        address=f"network.{network.key}",
        name=network.name,
        action=Action.DELETE,
        reason=Reason.UNUSED,
        note=note,
        before=to_plain(network.spec, defaults=True),
        container=network.id,
    )


def volume_changes(
    profile: Profile, snapshot: Snapshot, decisions: list[Decision], *, whole: bool, destroy: bool
) -> list[Change]:
    """A change for each volume of the profile's, and for what is left of sandboxes that are gone."""
    specs = remaining(decisions, snapshot)
    used = {mount.source or "" for spec in specs for mount in spec.volumes if mount.type == "volume"}
    observed = {volume.key: volume for volume in snapshot.volumes if not is_part(volume)}
    changes = []
    for key in sorted(used) if not destroy else ():
        spec = profile.volumes.get(key)
        if spec is None or spec.external:
            continue
        there = key in observed
        changes.append(
            Change(
                kind="volume",
                address=f"volume.{key}",
                name=profile.names.volume(key),
                action=Action.NONE if there else Action.CREATE,
                reason=Reason.UP_TO_DATE if there else Reason.NEW,
                before=to_plain(spec, defaults=True) if there else None,
                after=to_plain(spec, defaults=True),
            )
        )
    if whole:
        reason = Reason.DESTROY if destroy else Reason.UNDECLARED
        gone = [v for v in observed.values() if (destroy or v.key not in profile.volumes) and v.key not in used]
        changes += [_volume_gone(volume, reason) for volume in gone]
        # of containers that are not there: an apply was killed between two calls. A sandbox that is made takes care of
        # its own, which may be among them
        names = {o.base for o in snapshot.sandboxes} | {d.made.name for d in decisions if d.makes and d.made}
        owned = {part_volume(name, part) for name in names for part in PARTS}
        left = [volume for volume in snapshot.volumes if is_part(volume) and volume.name not in owned]
        changes += [_volume_gone(volume, Reason.UNUSED) for volume in left]
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


def _volume_gone(volume: ObservedVolume, reason: Reason) -> Change:
    return Change(
        kind="volume",
        address=f"volume.{volume.key}",
        name=volume.name,
        action=Action.DELETE,
        reason=reason,
        note="left by a sandbox that is gone" if reason is Reason.UNUSED else "",
        before={},
    )


def image_changes(decisions: list[Decision], snapshot: Snapshot) -> list[Change]:
    """A change for each image that has to be pulled, then for that of gateways and keepers, where it is to be built."""
    changes: dict[str, Change] = {}
    made = [decision.declared.spec for decision in decisions if decision.declared is not None and decision.makes]
    for spec in made:
        image = snapshot.images.get(spec.image)
        if image is None or spec.image in changes or not needs_pull(spec, snapshot):
            continue
        there = image.config is not None
        unknown = f"the registry could not be asked: {image.note}" if image.note else "its registry does not know it"
        changes[spec.image] = Change(
            kind="image",
            address=f"image.{spec.image}",
            name=spec.image,
            action=Action.UPDATE if there else Action.CREATE,
            reason=Reason.IMAGE_MOVED if there else Reason.NEW,
            note=f"pull {image.digest}" if image.digest is not None else f"pull; {unknown}",
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


def needs_pull(spec: SandboxSpec, snapshot: Snapshot) -> bool:
    """Whether the image has to be fetched: it is not there, or the registry has another under the tag."""
    image = snapshot.images.get(spec.image)
    if image is None or image.config is None:
        return spec.pull_policy != "never"
    if spec.pull_policy != "always":
        return False
    return not image.current
