"""Lays out the steps that carry decisions out, with what each needs before it: made, changed in place, replaced,
taken away.

Pure.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Iterator
from graphlib import TopologicalSorter
from typing import Any

from msgspec import Struct, field

from sandboxrun.plan import operations as op
from sandboxrun.plan.belongings import companions_of, held_parts, own_companions, own_network, own_volumes, parts_of
from sandboxrun.plan.changes import Action, Change, Reason
from sandboxrun.plan.decide import Decision
from sandboxrun.spec import forms
from sandboxrun.spec.names import CONFIGS, EGRESS, GATEWAY, KEEPER, SECRETS, WORKSPACE
from sandboxrun.spec.option import Effect
from sandboxrun.spec.project import DeclaredSandbox, NetworkSpec, Profile, VolumeSpec
from sandboxrun.spec.records import Attachment
from sandboxrun.spec.spec import SandboxSpec
from sandboxrun.spec.state import Ended, ObservedSandbox, Running, Snapshot

# -- What the steps' order rests on: dependencies before dependents


def levels(sandboxes: Iterable[DeclaredSandbox]) -> Iterator[tuple[str, ...]]:
    """The addresses of the sandboxes, level by level: each depends on those of earlier levels only."""
    by_address = {sandbox.address: sandbox for sandbox in sandboxes}
    sorter = TopologicalSorter({a: [o for o in s.depends_on if o in by_address] for a, s in by_address.items()})
    sorter.prepare()
    while sorter.is_active():
        yield (ready := sorter.get_ready())
        sorter.done(*ready)


def by_dependency(decisions: Iterable[Decision]) -> list[Decision]:
    """The decisions of declared sandboxes, dependencies before dependents. The profile has no cycles."""
    by_address = {d.declared.address: d for d in decisions if d.declared is not None}
    sorter: TopologicalSorter[str] = TopologicalSorter()
    for address, decision in by_address.items():
        needed = decision.declared.depends_on if decision.declared is not None else ()
        sorter.add(address, *(other for other in needed if other in by_address))
    return [by_address[address] for address in sorter.static_order()]


# -- A plan's steps while they are being laid, and what later steps have to know of earlier ones

Ids = tuple[str, ...]


class Draft(Struct, kw_only=True):
    """The steps so far. The mappings lead to the id of a step: by container id, engine name, key, or address."""

    profile: Profile
    snapshot: Snapshot
    steps: list[op.Operation] = field(default_factory=list)
    removed: dict[str, str] = field(default_factory=dict)  # container id → the step that removes it
    couriers: Ids = ()  # the steps that remove what was left over
    networks: dict[str, str] = field(default_factory=dict)  # engine name → the step that makes it
    anew: set[str] = field(default_factory=set)  # keys of networks that are replaced
    volumes: dict[str, str] = field(default_factory=dict)  # key → the step that makes it
    given: dict[str, str] = field(default_factory=dict)  # volume key → the step that gives it to a sandbox's user
    pulls: dict[str, str] = field(default_factory=dict)  # image reference → the step that fetches or builds it
    started: dict[str, str] = field(default_factory=dict)  # address → the step that starts it

    def add(self, step: op.Operation) -> str:
        """Take a step; its id."""
        self.steps.append(step)
        return step.id

    def gone(self, address: str) -> Ids:
        """The steps that remove the containers of a sandbox that go before anything is made of it."""
        mine = [o.id for o in self.snapshot.sandboxes if o.address == address and not o.one_off]
        return tuple(self.removed[id] for id in mine if id in self.removed)

    def helper(self) -> tuple[str, Ids]:
        """The image of gateways and keepers, and the step that builds it first, if it is not there."""
        helper = self.snapshot.helper
        assert helper is not None  # the snapshot was taken for these sandboxes
        if helper.id is not None:
            return helper.id, ()
        if helper.reference not in self.pulls:
            step = op.BuildHelper(
                id=f"build {helper.reference}",
                address=f"image.{helper.reference}",
                cause=Reason.BUILD.value,
                reference=helper.reference,
                base=helper.base,
            )
            self.pulls[helper.reference] = self.add(step)
        return helper.reference, (self.pulls[helper.reference],)


# -- The steps that make a sandbox: what must be there first, its own parts, the container, and its start last. …


def pull(draft: Draft, images: list[Change], decisions: list[Decision]) -> None:
    """Fetch the images that are missing or have moved."""
    platforms = {d.declared.spec.image: d.declared.spec.platform for d in decisions if d.declared is not None}
    helper = draft.snapshot.helper
    for change in images:
        if helper is not None and change.name == helper.reference:
            continue  # it is built
        image = draft.snapshot.images.get(change.name)
        step = op.PullImage(
            id=f"pull {change.name}",
            address=change.address,
            cause=change.reason.value,  # the note may hold what a registry answered this time
            reference=change.name,
            platform=platforms.get(change.name),
            digest=image.digest if image is not None else None,
        )
        draft.pulls[change.name] = draft.add(step)


def make_volumes(draft: Draft, volumes: list[Change]) -> None:
    """The volumes of the profile that are missing."""
    for change in volumes:
        if change.action is Action.CREATE:
            key = change.address.removeprefix("volume.")
            step = op.CreateVolume(
                id=f"create {change.address}",
                address=change.address,
                cause=change.reason.value,
                key=key,
                spec=draft.profile.volumes.get(key, VolumeSpec()),
            )
            draft.volumes[key] = draft.add(step)


def make(draft: Draft, sandbox: DeclaredSandbox, decision: Decision) -> None:
    """All of one sandbox, up to its start."""
    address, cause = sandbox.address, decision.change.note or decision.change.reason.value
    needs = _before(draft, sandbox)
    volumes = [
        op.CreatePart(
            id=f"volume {address} {part}", address=address, cause=cause, needs=needs, sandbox=sandbox, part=part
        )
        for part in parts_of(sandbox)
    ]
    needs = (*needs, *(draft.add(volume) for volume in volumes))
    held = _hold(draft, sandbox, needs, cause)
    wired: Ids = ()
    if GATEWAY in companions_of(sandbox.spec):
        network, gateway = _wire(draft, sandbox, needs, cause)
        needs, wired = (*needs, network), (gateway,)
    create = op.CreateSandbox(
        id=f"create {address}",
        address=address,
        cause=cause,
        needs=needs,
        sandbox=sandbox,
        image_id=_image_id(draft, sandbox.spec.image),
    )
    created = draft.add(create)
    ready = [created, *wired, *_fill(draft, sandbox, (created, *held), cause), *_join(draft, sandbox, created, cause)]
    ready += _give_volumes(draft, sandbox, created, cause)
    if len(sandbox.spec.networks) > 1:
        check = op.CheckSandbox(
            id=f"check {address}",
            address=address,
            cause=cause,
            needs=tuple(ready),
            sandbox=sandbox,
            image_id=create.image_id,
        )
        ready.append(draft.add(check))
    ready += _dependencies(draft, sandbox, cause)
    if decision.beside:
        take_over(draft, sandbox, decision, tuple(ready), cause)
    else:
        start(draft, sandbox, tuple(ready), cause)


def _hold(draft: Draft, sandbox: DeclaredSandbox, needs: Ids, cause: str) -> Ids:
    """The step after which what lies in memory can be filled; none where nothing does."""
    parts = held_parts(sandbox.spec)
    if not parts:
        return ()
    image, built = draft.helper()
    step = op.StartKeeper(
        id=f"start {sandbox.address} {KEEPER}",
        address=sandbox.address,
        cause=cause,
        needs=(*needs, *built),
        sandbox=sandbox,
        image=image,
        parts=parts,
    )
    return (draft.add(step),)


def _wire(draft: Draft, sandbox: DeclaredSandbox, needs: Ids, cause: str) -> Ids:
    """The sandbox's network and its gateway; the steps that the sandbox needs before it is made, and started."""
    network = op.CreatePrivateNetwork(
        id=f"network {sandbox.address}", address=sandbox.address, cause=cause, needs=needs, sandbox=sandbox
    )
    made = draft.add(network)
    return made, open_gateway(draft, sandbox, (*needs, made), cause, run=None)


def open_gateway(draft: Draft, sandbox: DeclaredSandbox, needs: Ids, cause: str, run: str | None) -> str:
    """Make a gateway and start it; the step after which it serves."""
    address, outside = sandbox.address, draft.networks.get(draft.profile.names.network(EGRESS))
    image, built = draft.helper()
    needs = (*needs, *built)
    gateway = op.CreateGateway(
        id=f"create {address} {GATEWAY}",
        address=address,
        cause=cause,
        needs=(*needs, outside) if outside else needs,
        sandbox=sandbox,
        image=image,
        run=run,
    )
    start = op.StartGateway(
        id=f"start {address} {GATEWAY}",
        address=address,
        cause=cause,
        needs=(draft.add(gateway),),
        sandbox=sandbox,
        run=run,
    )
    return draft.add(start)


def _give_volumes(draft: Draft, sandbox: DeclaredSandbox, created: str, cause: str) -> list[str]:
    """A new volume is root's: whoever is the first to write to it owns it, before anyone who mounts it starts.

    One with driver options may be a host's directory or a remote one, whose owner is not ours to change.
    """
    mounts = [m for m in sandbox.spec.volumes if m.type == "volume" and m.source in draft.volumes]
    for mount in mounts:
        key = mount.source or ""
        plain = not draft.profile.volumes.get(key, VolumeSpec()).driver_opts
        if plain and not mount.read_only and key not in draft.given:
            step = op.GiveVolume(
                id=f"give {sandbox.address} {key}",
                address=sandbox.address,
                cause=cause,
                needs=(created,),
                sandbox=sandbox,
                key=key,
            )
            draft.given[key] = draft.add(step)
    return [draft.given[m.source or ""] for m in mounts if m.source in draft.given]


def _before(draft: Draft, sandbox: DeclaredSandbox) -> Ids:
    """What must be done before the container can be made."""
    spec, names = sandbox.spec, draft.profile.names
    networks = [draft.networks.get(names.network(key)) for key in spec.networks]
    volumes = [draft.volumes.get(mount.source or "") for mount in spec.volumes]
    needs = (*draft.gone(sandbox.address), draft.pulls.get(spec.image), *networks, *volumes, *draft.couriers)
    return tuple(step for step in needs if step)


def _image_id(draft: Draft, reference: str) -> str | None:
    """What the reference means now; None where it is pulled first."""
    image = draft.snapshot.images.get(reference)
    if image is None or image.config is None or reference in draft.pulls:
        return None
    return image.config.id


def _fill(draft: Draft, sandbox: DeclaredSandbox, ready: Ids, cause: str) -> list[str]:
    address, filled = sandbox.address, []
    if sandbox.workspace is not None:
        step = op.UploadWorkspace(
            id=f"upload {address} {WORKSPACE}", address=address, cause=cause, needs=ready, sandbox=sandbox
        )
        filled.append(draft.add(step))
    for part, files in ((SECRETS, sandbox.spec.secrets), (CONFIGS, sandbox.spec.configs)):
        if files:
            upload = op.UploadFiles(
                id=f"upload {address} {part}",
                address=address,
                cause=cause,
                needs=ready,
                sandbox=sandbox,
                part=part,
                files=files,
            )
            filled.append(draft.add(upload))
    return filled


def _join(draft: Draft, sandbox: DeclaredSandbox, created: str, cause: str) -> list[str]:
    """The first network is given at creation: engines before API 1.44 take only one there."""
    return [
        draft.add(
            op.ConnectNetwork(
                id=f"connect {sandbox.address} {key}",
                address=sandbox.address,
                cause=cause,
                needs=(created,),
                container=None,
                network=draft.profile.names.network(key),
                attachment=attachment,
            )
        )
        for key, attachment in list(sandbox.spec.networks.items())[1:]
    ]


def _dependencies(draft: Draft, sandbox: DeclaredSandbox, cause: str) -> list[str]:
    waits = []
    for address, dependency in sandbox.depends_on.items():
        started = draft.started.get(address)
        step = op.AwaitSandbox(
            id=f"await {sandbox.address} {address}",
            address=sandbox.address,
            cause=cause,
            needs=(started,) if started is not None else (),
            dependency=address,
            condition=dependency.condition,
        )
        waits.append(draft.add(step))
    return waits


# -- The last steps of a replacement: start the new container, end the old one, and give the new one its name


def start(draft: Draft, sandbox: DeclaredSandbox, needs: Ids, cause: str, *, beside: bool = False) -> str:
    """Start what was made."""
    address = sandbox.address
    step = op.StartSandbox(
        id=f"start {address}", address=address, cause=cause, needs=needs, sandbox=sandbox, beside=beside
    )
    draft.started[address] = draft.add(step)
    return step.id


def take_over(draft: Draft, sandbox: DeclaredSandbox, decision: Decision, ready: Ids, cause: str) -> None:
    """The new one, once it is `ready`, in place of the old one."""
    observed = decision.observed
    assert observed is not None
    after = ready if excludes(observed, sandbox) else (start(draft, sandbox, ready, cause, beside=True),)
    teardown(draft, decision, after)
    renamed = rename(draft, decision, None, (draft.removed[observed.id],))
    if after is ready:
        start(draft, sandbox, (*ready, renamed), cause)


def rename(draft: Draft, decision: Decision, container: str | None, needs: Ids) -> str:
    """Give a container, or the one that the plan makes, the name that is declared."""
    declared, change = decision.declared, decision.change
    assert declared is not None
    step = op.RenameSandbox(
        id=f"rename {change.address}",
        address=change.address,
        cause=change.note or change.reason.value,
        needs=needs,
        container=container,
        name=declared.name,
    )
    return draft.add(step)


def excludes(old: ObservedSandbox, new: DeclaredSandbox) -> bool:
    """Whether the two can't run side by side: one may write to what the other one has mounted, or both have the same
    fixed address, or devices."""
    mounts = any(_clash(one, other) for one in _mounts(old.spec) for other in _mounts(new.spec))
    devices = all(spec.devices or spec.gpus for spec in (old.spec, new.spec))
    return mounts or devices or bool(_addresses(old.spec) & _addresses(new.spec))


Place = tuple[str, str, bool]  # type, source, whether it is read-only


def _mounts(spec: SandboxSpec) -> Iterator[Place]:
    for mount in spec.volumes:
        yield mount.type, mount.source or "", mount.read_only
    if spec.workspace is not None and spec.workspace.access != "copy":
        yield "bind", spec.workspace.source, spec.workspace.access == "ro"


def _clash(one: Place, other: Place) -> bool:
    if one[0] != other[0] or (one[2] and other[2]):
        return False
    if one[0] != "bind":
        return one[1] == other[1]
    paths = [forms.path(place[1]) for place in (one, other)]
    return posixpath.commonpath(paths) in paths


def _addresses(spec: SandboxSpec) -> set[str]:
    return {at.ipv4_address for at in spec.networks.values() if at.ipv4_address}


# -- The steps that change a sandbox while it runs: limits, its gateway's rules, the networks it is on. Pure


def update(draft: Draft, sandbox: DeclaredSandbox, decision: Decision) -> None:
    """What can be changed without ending it."""
    assert decision.observed is not None
    cause = decision.change.reason.value
    before = len(draft.steps)
    live = tuple(d.key for d in decision.change.differences if d.effect is Effect.LIVE)
    if live:
        step = op.UpdateSandbox(
            id=f"update {sandbox.address}",
            address=sandbox.address,
            cause=cause,
            sandbox=sandbox,
            container=decision.observed.id,
            options=live,
        )
        draft.add(step)
    if any(d.effect is Effect.RENAME for d in decision.change.differences):
        rename(draft, decision, decision.observed.id, draft.gone(sandbox.address))
    if any(d.effect is Effect.RELOAD for d in decision.change.differences):
        _reload(draft, sandbox, decision.observed, cause)
    if any(d.effect is Effect.RECONNECT for d in decision.change.differences):
        _reconnect(draft, sandbox, decision.observed, cause)
    if any(d.effect is Effect.RESUME for d in decision.change.differences):
        resume = op.ResumeSandbox(
            id=f"resume {sandbox.address}",
            address=sandbox.address,
            cause=cause,
            needs=tuple(step.id for step in draft.steps[before:]),
            container=decision.observed.id,
        )
        draft.add(resume)
    if not all(d.drift for d in decision.change.differences):
        record = op.RecordSpec(
            id=f"record {sandbox.address}",
            address=sandbox.address,
            cause=cause,
            needs=tuple(step.id for step in draft.steps[before:]),
            sandbox=sandbox,
            run=decision.observed.run,
        )
        draft.add(record)


def _reload(draft: Draft, sandbox: DeclaredSandbox, observed: ObservedSandbox, cause: str) -> None:
    """Other rules for the gateway that runs; one that does not is started again, one that is gone made anew, and so is
    one that never ran: the apply that made it was killed before it was whole."""
    gateway = draft.snapshot.companion(observed.run, GATEWAY)
    address = sandbox.address
    if gateway is None:
        open_gateway(draft, sandbox, (), cause, run=observed.run)
    elif not gateway.started:
        open_gateway(draft, sandbox, (remove_courier(draft, gateway.id),), cause, run=observed.run)
    elif gateway.running:
        step: op.Operation = op.ReloadGateway(
            id=f"reload {address} {GATEWAY}",
            address=address,
            cause=cause,
            sandbox=sandbox,
            container=gateway.id,
            run=observed.run,
        )
        draft.add(step)
    else:
        step = op.StartGateway(
            id=f"start {address} {GATEWAY}",
            address=address,
            cause=cause,
            sandbox=sandbox,
            container=gateway.id,
            run=observed.run,
        )
        draft.add(step)


def _reconnect(draft: Draft, sandbox: DeclaredSandbox, observed: ObservedSandbox, cause: str) -> None:
    before, after, names = observed.spec.networks, sandbox.spec.networks, draft.profile.names
    common: dict[str, Any] = {"address": sandbox.address, "cause": cause}
    for key, attachment in before.items():
        if after.get(key) != attachment and key not in draft.anew:
            network = names.network(key)
            step = op.DisconnectNetwork(
                id=f"disconnect {sandbox.address} {key}", **common, container=observed.id, network=network
            )
            draft.add(step)
    gone = {s.id for s in draft.steps}
    for key, attachment in after.items():
        if before.get(key) != attachment and not (key in before and key in draft.anew):
            network = names.network(key)
            detached = f"disconnect {sandbox.address} {key}"
            needs = [n for n in (draft.networks.get(network), detached if detached in gone else None) if n]
            join = op.ConnectNetwork(
                id=f"connect {sandbox.address} {key}",
                **common,
                needs=tuple(needs),
                container=observed.id,
                network=network,
                attachment=attachment,
            )
            draft.add(join)


# -- The steps of the project's networks: made, or made anew under sandboxes that keep running. Pure


def make_networks(draft: Draft, networks: list[Change], decisions: list[Decision]) -> None:
    """The networks that are missing, and those that have to be made anew."""
    for change in networks:
        if change.action is Action.CREATE:
            draft.networks[change.name] = _create_network(draft, change, ())
        elif change.action is Action.REPLACE:
            _replace_network(draft, change, decisions)


def _create_network(draft: Draft, change: Change, needs: Ids) -> str:
    key = change.address.removeprefix("network.")
    spec = draft.profile.networks.get(key, NetworkSpec())
    step = op.CreateNetwork(
        id=f"create {change.address}",
        address=change.address,
        cause=change.reason.value,
        needs=needs,
        key=key,
        spec=spec,
    )
    return draft.add(step)


def _replace_network(draft: Draft, change: Change, decisions: list[Decision]) -> None:
    """Detach everything that stays, make it anew, attach it again: running sandboxes keep running."""
    key = change.address.removeprefix("network.")
    draft.anew.add(key)
    kept = [d for d in decisions if d.observed is not None and d.declared is not None and not d.beside]
    declared = {d.observed.id: d.declared for d in kept if d.observed is not None and d.declared is not None}
    staying = [o for o in draft.snapshot.sandboxes if key in o.spec.networks and o.id not in draft.removed]
    common: dict[str, Any] = {"address": change.address, "cause": change.reason.value}
    on_it = {o.id: o.address for o in staying} | _gateways_on(draft, key)
    detached = tuple(
        draft.add(op.DisconnectNetwork(id=f"disconnect {of} {key}", **common, container=c, network=change.name))
        for c, of in on_it.items()
    )
    assert change.container is not None
    removed = draft.add(
        op.RemoveNetwork(
            id=f"remove {change.address}",
            **common,
            needs=(*detached, *draft.removed.values()),
            network=change.container,
            name=change.name,
        )
    )
    created = _create_network(draft, change, (removed,))
    draft.networks[change.name] = created
    wanted = {o.id: (declared[o.id].spec if o.id in declared else o.spec).networks.get(key) for o in staying}
    for container, of in on_it.items():
        attachment = wanted.get(container, Attachment())
        if attachment is None:
            continue
        step = op.ConnectNetwork(
            id=f"connect {of} {key}",
            **common,
            needs=(created,),
            container=container,
            network=change.name,
            attachment=attachment,
        )
        draft.add(step)


def _gateways_on(draft: Draft, key: str) -> dict[str, str]:
    """The gateways of sandboxes that stay, by id, if `key` is the network they reach the outside on."""
    runs = {o.run: o.address for o in draft.snapshot.sandboxes if o.id not in draft.removed}
    mine = [c for c in draft.snapshot.companions if c.role == GATEWAY and c.run in runs and key == EGRESS]
    return {c.id: f"{runs[c.run]} {GATEWAY}" for c in mine}


# -- The steps that take away: stop, evidence, removal, then what nothing uses any more. Evidence comes first. Pure


def remove_courier(draft: Draft, container: str) -> str:
    """Remove what an apply that was killed left; the step."""
    step = op.RemoveCourier(id=f"courier {container[:12]}", address="", cause="left over", container=container)
    return draft.add(step)


def teardown(draft: Draft, decision: Decision, after: Ids = ()) -> None:
    """Stop it if it runs, keep its evidence, remove it with all that is its own. `after`: what must be done first."""
    observed, change = decision.observed, decision.change
    assert observed is not None
    last = after
    common: dict[str, Any] = {"address": change.address, "cause": change.note or change.reason.value}
    if isinstance(observed.state, Running):
        spec = observed.applied or observed.spec
        grace = -(-spec.stop_grace_period // 1_000_000_000)
        stop = op.StopSandbox(
            id=f"stop {change.address}",
            **common,
            needs=last,
            container=observed.id,
            grace=grace,
            how=decision.how or "killed",
            replaced=decision.beside,
        )
        last = (draft.add(stop),)
    if isinstance(observed.state, Running | Ended):
        how = decision.how or ("killed" if isinstance(observed.state, Running) else None)
        capture = op.CaptureEvidence(
            id=f"evidence {change.address}",
            **common,
            needs=last,
            container=observed.id,
            name=observed.name,
            run=observed.run,
            how=how,
            gateway=_gateway(draft, observed),
            replaced=decision.beside,
        )
        last = (draft.add(capture),)
    remove = op.RemoveSandbox(
        id=f"remove {change.address}",
        **common,
        needs=(*last, *draft.couriers),  # a courier holds the volumes that go with the container
        container=observed.id,
        name=observed.name,
        volumes=own_volumes(observed.base, draft.snapshot),
        companions=own_companions(observed.run, draft.snapshot),
        network=own_network(observed.base, draft.snapshot),
        replaced=decision.beside,
    )
    draft.removed[observed.id] = draft.add(remove)


def _gateway(draft: Draft, observed: ObservedSandbox) -> str | None:
    found = draft.snapshot.companion(observed.run, GATEWAY)
    return found.id if found is not None else None


def remove_surroundings(draft: Draft, networks: list[Change], volumes: list[Change]) -> None:
    """Networks and volumes that go, once nothing is on them."""
    after = (*draft.removed.values(), *draft.couriers)
    moved = tuple(s.id for s in draft.steps if isinstance(s, op.DisconnectNetwork | op.ConnectNetwork))
    for change in networks:
        if change.action is Action.DELETE and change.container is not None:
            step = op.RemoveNetwork(
                id=f"remove {change.address}",
                address=change.address,
                cause=change.note,
                needs=(*after, *moved),
                network=change.container,
                name=change.name,
            )
            draft.add(step)
    for change in volumes:
        if change.action is Action.DELETE:
            gone = op.RemoveVolume(
                id=f"remove {change.name}", address=change.address, cause=change.note, needs=after, name=change.name
            )
            draft.add(gone)


# -- Lays out the steps that carry decisions out, with what each needs before it


def lay(
    profile: Profile,
    snapshot: Snapshot,
    decisions: list[Decision],
    *,
    networks: list[Change],
    volumes: list[Change],
    images: list[Change],
) -> tuple[op.Operation, ...]:
    """All steps; those with no needs in common may run side by side."""
    draft = Draft(profile=profile, snapshot=snapshot)
    draft.couriers = tuple(remove_courier(draft, container) for container in snapshot.couriers)
    for decision in decisions:
        if decision.ends and not decision.beside:
            teardown(draft, decision)
    pull(draft, images, decisions)
    make_networks(draft, networks, decisions)
    make_volumes(draft, volumes)
    for decision in by_dependency(decisions):
        if decision.makes and decision.made is not None:
            make(draft, decision.made, decision)
        elif decision.change.action is Action.UPDATE and decision.declared is not None:
            update(draft, decision.declared, decision)
    remove_surroundings(draft, networks, volumes)
    return tuple(draft.steps)
