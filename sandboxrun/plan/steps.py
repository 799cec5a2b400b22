"""Lays out the steps that carry decisions out, with what each needs before it: made, changed in place, replaced,
taken away.

Pure.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Iterator
from graphlib import TopologicalSorter

from msgspec import Struct, field, structs

from sandboxrun.plan import operations as op
from sandboxrun.plan.changes import Action, Change, Reason
from sandboxrun.plan.decide import Decision
from sandboxrun.plan.operations import companions_of, held_parts, parts_of
from sandboxrun.spec import forms
from sandboxrun.spec.names import CONFIGS, EGRESS, GATEWAY, KEEPER, SECRETS, WORKSPACE, kept_name
from sandboxrun.spec.option import Effect
from sandboxrun.spec.project import DeclaredSandbox, NetworkSpec, Profile, VolumeSpec
from sandboxrun.spec.records import Attachment
from sandboxrun.spec.spec import SandboxSpec
from sandboxrun.spec.state import Ended, ObservedSandbox, Running, Snapshot


def levels(sandboxes: Iterable[DeclaredSandbox]) -> Iterator[tuple[str, ...]]:
    """The addresses of the sandboxes, level by level: each depends on those of earlier levels only."""
    by_address = {sandbox.address: sandbox for sandbox in sandboxes}
    sorter = TopologicalSorter({a: [o for o in s.depends_on if o in by_address] for a, s in by_address.items()})
    sorter.prepare()
    while sorter.is_active():
        yield (ready := sorter.get_ready())
        sorter.done(*ready)


# -- A plan's steps while they are being made, and what later steps have to know of earlier ones

Ids = tuple[str, ...]


class Draft(Struct, kw_only=True):
    """The steps so far. The mappings lead to the id of a step: by container id, engine name, key, or address."""

    profile: Profile
    snapshot: Snapshot
    steps: list[op.Operation] = field(default_factory=list)
    removed: dict[str, str] = field(default_factory=dict)  # container id → the step that removes it
    leftovers: Ids = ()  # the steps that remove what was left over
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
        mine = [o.id for o in self.snapshot.sandboxes if o.address == address and not o.apart]
        return tuple(self.removed[id] for id in mine if id in self.removed)

    def helper(self) -> tuple[str, Ids]:
        """The image of gateways and keepers, and the step that builds it first, if it is not there."""
        helper = self.snapshot.helper
        assert helper is not None  # the snapshot was taken for these sandboxes
        if helper.id is not None:
            return helper.id, ()
        name = helper.reference
        if name not in self.pulls:
            build = op.BuildHelper(
                f"build {name}", f"image.{name}", Reason.BUILD.value, reference=name, base=helper.base
            )
            self.pulls[name] = self.add(build)
        return name, (self.pulls[name],)


# -- The steps that make a sandbox: what must be there first, its own parts, the container, and its start last


def pull(draft: Draft, images: list[Change], decisions: list[Decision]) -> None:
    """Fetch the images that are missing or have moved."""
    platforms = {d.declared.spec.image: d.declared.spec.platform for d in decisions if d.declared is not None}
    helper = draft.snapshot.helper
    for change in images:
        name, cause = change.name, change.reason.value  # the note may hold what a registry answered this time
        if helper is not None and name == helper.reference:
            continue  # it is built
        image = draft.snapshot.images.get(name)
        digest, platform = image.digest if image is not None else None, platforms.get(name)
        draft.pulls[name] = draft.add(
            op.PullImage(f"pull {name}", change.address, cause, reference=name, platform=platform, digest=digest)
        )


def make(draft: Draft, sandbox: DeclaredSandbox, decision: Decision) -> None:
    """All of one sandbox, up to its start."""
    spec, address = sandbox.spec, sandbox.address
    cause = decision.change.note or decision.change.reason.value
    networks = [draft.networks.get(draft.profile.names.network(key)) for key in spec.networks]
    volumes = [draft.volumes.get(mount.source or "") for mount in spec.volumes]
    first = (*draft.gone(address), draft.pulls.get(spec.image), *networks, *volumes, *draft.leftovers)
    needs = tuple(step for step in first if step)
    parts = [
        op.CreatePart(f"volume {address} {part}", address, cause, needs, sandbox=sandbox, part=part)
        for part in parts_of(sandbox)
    ]
    needs = (*needs, *map(draft.add, parts))
    held: Ids = ()
    if in_memory := held_parts(spec):
        (helper, built), keeper = draft.helper(), f"start {address} {KEEPER}"
        step = op.StartKeeper(keeper, address, cause, (*needs, *built), sandbox=sandbox, image=helper, parts=in_memory)
        held = (draft.add(step),)
    wired: Ids = ()
    if GATEWAY in companions_of(spec):
        network = draft.add(op.CreatePrivateNetwork(f"network {address}", address, cause, needs, sandbox=sandbox))
        wired = (open_gateway(draft, sandbox, (*needs, network), cause, run=None),)
        needs = (*needs, network)
    image = draft.snapshot.images.get(spec.image)  # what the reference means now; None where it is pulled first
    known = image.config if image is not None and spec.image not in draft.pulls else None
    image_id = known.id if known is not None else None
    created = draft.add(
        op.CreateSandbox(f"create {address}", address, cause, needs, sandbox=sandbox, image_id=image_id)
    )
    ready = [created, *wired]
    if sandbox.workspace is not None:
        upload = op.UploadWorkspace(f"upload {address} {WORKSPACE}", address, cause, (created, *held), sandbox=sandbox)
        ready.append(draft.add(upload))
    for part, files in ((SECRETS, spec.secrets), (CONFIGS, spec.configs)):
        if files:
            id, after = f"upload {address} {part}", (created, *held)
            ready.append(draft.add(op.UploadFiles(id, address, cause, after, sandbox=sandbox, part=part, files=files)))
    for key, attachment in list(spec.networks.items())[1:]:  # the first is given at creation: API 1.43 takes one there
        to = draft.profile.names.network(key)
        join = f"connect {address} {key}"
        ready.append(
            draft.add(
                op.ConnectNetwork(join, address, cause, (created,), container=None, network=to, attachment=attachment)
            )
        )
    ready += _give_volumes(draft, sandbox, created, cause)
    if len(spec.networks) > 1:
        check = f"check {address}"
        ready.append(
            draft.add(op.CheckSandbox(check, address, cause, tuple(ready), sandbox=sandbox, image_id=image_id))
        )
    for other, dependency in sandbox.depends_on.items():
        after = (draft.started[other],) if other in draft.started else ()
        wait, condition = f"await {address} {other}", dependency.condition
        ready.append(draft.add(op.AwaitSandbox(wait, address, cause, after, dependency=other, condition=condition)))
    if decision.beside:
        take_over(draft, sandbox, decision, tuple(ready), cause)
    else:
        if decision.after:
            ready.append(rename(draft, decision, None, (created, *draft.gone(address))))
        start(draft, sandbox, tuple(ready), cause)


def open_gateway(draft: Draft, sandbox: DeclaredSandbox, needs: Ids, cause: str, run: str | None) -> str:
    """Make a gateway and start it; the step after which it serves."""
    address, outside = sandbox.address, draft.networks.get(draft.profile.names.network(EGRESS))
    image, built = draft.helper()
    needs = (*needs, *built, outside) if outside else (*needs, *built)
    made = draft.add(
        op.CreateGateway(f"create {address} {GATEWAY}", address, cause, needs, sandbox=sandbox, image=image, run=run)
    )
    return draft.add(op.StartGateway(f"start {address} {GATEWAY}", address, cause, (made,), sandbox=sandbox, run=run))


def _give_volumes(draft: Draft, sandbox: DeclaredSandbox, created: str, cause: str) -> list[str]:
    """A new volume is root's: whoever is the first to write to it owns it, before anyone who mounts it starts.

    One with driver options may be a host's directory or a remote one, whose owner is not ours to change.
    """
    mounts = [m for m in sandbox.spec.volumes if m.type == "volume" and m.source in draft.volumes]
    for mount in mounts:
        key = mount.source or ""
        plain = not draft.profile.volumes.get(key, VolumeSpec()).driver_opts
        if plain and not mount.read_only and key not in draft.given:
            give = f"give {sandbox.address} {key}"
            step = op.GiveVolume(give, sandbox.address, cause, (created,), sandbox=sandbox, key=key)
            draft.given[key] = draft.add(step)
    return [draft.given[m.source or ""] for m in mounts if m.source in draft.given]


# -- The last steps of a replacement: start the new container, end the old one, and give the new one its name


def start(draft: Draft, sandbox: DeclaredSandbox, needs: Ids, cause: str, *, beside: bool = False) -> str:
    """Start what was made."""
    address = sandbox.address
    step = op.StartSandbox(f"start {address}", address, cause, needs, sandbox=sandbox, beside=beside)
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
    id, cause = f"rename {change.address}", change.note or change.reason.value
    return draft.add(op.RenameSandbox(id, change.address, cause, needs, container=container, name=declared.name))


def excludes(old: ObservedSandbox, new: DeclaredSandbox) -> bool:
    """Whether the two can't run side by side: one may write to what the other one has mounted, or both have the same
    fixed address, or devices."""
    mounts = any(_clash(one, other) for one in _mounts(old.spec) for other in _mounts(new.spec))
    devices = all(spec.devices or spec.gpus for spec in (old.spec, new.spec))
    old_at, new_at = ({at.ipv4_address for at in spec.networks.values()} for spec in (old.spec, new.spec))
    return mounts or devices or bool((old_at & new_at) - {None})


MountedPlace = tuple[str, str, bool]  # type, source, whether it is read-only


def _mounts(spec: SandboxSpec) -> Iterator[MountedPlace]:
    for mount in spec.volumes:
        yield mount.type, mount.source or "", mount.read_only
    if spec.workspace is not None and spec.workspace.access != "copy":
        yield "bind", spec.workspace.source, spec.workspace.access == "ro"


def _clash(one: MountedPlace, other: MountedPlace) -> bool:
    (kind, source, fixed), (other_kind, other_source, other_fixed) = one, other
    if kind != other_kind or (fixed and other_fixed):
        return False
    paths = [forms.path(source), forms.path(other_source)]
    return source == other_source if kind != "bind" else posixpath.commonpath(paths) in paths


# -- The steps that change a sandbox while it runs: limits, its gateway's rules, the networks it is on


def update(draft: Draft, sandbox: DeclaredSandbox, decision: Decision) -> None:
    """What can be changed without ending it."""
    observed, address, cause = decision.observed, sandbox.address, decision.change.reason.value
    assert observed is not None
    before, differences = len(draft.steps), decision.change.differences
    effects = {d.effect for d in differences}
    if live := tuple(d.key for d in differences if d.effect is Effect.LIVE):
        id = f"update {address}"
        draft.add(op.UpdateSandbox(id, address, cause, sandbox=sandbox, container=observed.id, options=live))
    if Effect.RENAME in effects:
        rename(draft, decision, observed.id, draft.gone(address))
    if Effect.RELOAD in effects:
        _reload(draft, sandbox, observed, cause)
    if Effect.RECONNECT in effects:
        _reconnect(draft, sandbox, observed, cause)
    if Effect.RESUME in effects:
        needs = tuple(step.id for step in draft.steps[before:])
        draft.add(op.ResumeSandbox(f"resume {address}", address, cause, needs, container=observed.id))
    if not all(d.drift for d in differences):
        needs = tuple(step.id for step in draft.steps[before:])
        draft.add(op.RecordSpec(f"record {address}", address, cause, needs, sandbox=sandbox, run=observed.run))


def _reload(draft: Draft, sandbox: DeclaredSandbox, observed: ObservedSandbox, cause: str) -> None:
    """Other rules for the gateway that runs; one that does not, or not where it belongs, is started again, one that is
    gone is made again, and so is one that never ran: the apply that made it was killed before it was whole."""
    gateway, address, run = draft.snapshot.companion(observed.run, GATEWAY), sandbox.address, observed.run
    sandbox = structs.replace(sandbox, name=observed.base)  # the name that its network and its rules have
    if gateway is None:
        open_gateway(draft, sandbox, (), cause, run=run)
    elif not gateway.started:
        open_gateway(draft, sandbox, (remove_leftover(draft, gateway.id),), cause, run=run)
    elif gateway.serving:
        id = f"reload {address} {GATEWAY}"
        draft.add(op.ReloadGateway(id, address, cause, sandbox=sandbox, container=gateway.id, run=run))
    else:
        outside = draft.networks.get(draft.profile.names.network(EGRESS))
        id, needs = f"start {address} {GATEWAY}", (outside,) if outside else ()
        draft.add(op.StartGateway(id, address, cause, needs, sandbox=sandbox, container=gateway.id, run=run))


def _reconnect(draft: Draft, sandbox: DeclaredSandbox, observed: ObservedSandbox, cause: str) -> None:
    before, after, address = observed.spec.networks, sandbox.spec.networks, sandbox.address
    names, container = draft.profile.names, observed.id
    detached = {}
    for key, attachment in before.items():
        if after.get(key) != attachment and key not in draft.anew:
            id, of = f"disconnect {address} {key}", names.network(key)
            detached[key] = draft.add(op.DisconnectNetwork(id, address, cause, container=container, network=of))
    for key, attachment in after.items():
        if before.get(key) != attachment and not (key in before and key in draft.anew):
            id, to = f"connect {address} {key}", names.network(key)
            needs = tuple(step for step in (draft.networks.get(to), detached.get(key)) if step)
            draft.add(
                op.ConnectNetwork(id, address, cause, needs, container=container, network=to, attachment=attachment)
            )


# -- The steps of the project's networks and volumes: made, or made again under sandboxes that keep running


def make_volumes(draft: Draft, volumes: list[Change]) -> None:
    """The volumes of the profile that are missing."""
    for change in volumes:
        if change.action is Action.CREATE:
            key = change.address.removeprefix("volume.")
            id, spec = f"create {change.address}", draft.profile.volumes.get(key, VolumeSpec())
            step = op.CreateVolume(id, change.address, change.reason.value, key=key, spec=spec)
            draft.volumes[key] = draft.add(step)


def make_networks(draft: Draft, networks: list[Change], decisions: list[Decision]) -> None:
    """The networks that are missing, and those that have to be made again."""
    for change in networks:
        if change.action is Action.CREATE:
            draft.networks[change.name] = _create_network(draft, change, ())
        elif change.action is Action.REPLACE:
            _replace_network(draft, change, decisions)


def _create_network(draft: Draft, change: Change, needs: Ids) -> str:
    key = change.address.removeprefix("network.")
    id, spec = f"create {change.address}", draft.profile.networks.get(key, NetworkSpec())
    return draft.add(op.CreateNetwork(id, change.address, change.reason.value, needs, key=key, spec=spec))


def _replace_network(draft: Draft, change: Change, decisions: list[Decision]) -> None:
    """Detach everything that stays, make it again, reattach everything: running sandboxes keep running."""
    address, cause, network = change.address, change.reason.value, change.name
    key = address.removeprefix("network.")
    draft.anew.add(key)
    declared = {d.observed.id: d.declared for d in decisions if d.observed and d.declared and not d.beside}
    staying = [o for o in draft.snapshot.sandboxes if o.id not in draft.removed and not o.kept]
    runs = {o.run: o.address for o in staying}
    gateways = [c for c in draft.snapshot.companions if c.role == GATEWAY and c.run in runs and key == EGRESS]
    sandboxes = [o for o in staying if key in o.spec.networks]
    on_it = {o.id: o.address for o in sandboxes} | {c.id: f"{runs[c.run]} {GATEWAY}" for c in gateways}
    detached = [
        draft.add(op.DisconnectNetwork(f"disconnect {of} {key}", address, cause, container=id, network=network))
        for id, of in on_it.items()
    ]
    assert change.container is not None
    after, remove = (*detached, *draft.removed.values()), f"remove {address}"
    removed = draft.add(op.RemoveNetwork(remove, address, cause, after, network=change.container, name=network))
    created = draft.networks[network] = _create_network(draft, change, (removed,))
    wanted = {o.id: (declared[o.id].spec if o.id in declared else o.spec).networks.get(key) for o in sandboxes}
    for id, of in on_it.items():
        if (attachment := wanted.get(id, Attachment())) is not None:
            connect = f"connect {of} {key}"
            draft.add(
                op.ConnectNetwork(
                    connect, address, cause, (created,), container=id, network=network, attachment=attachment
                )
            )


# -- The steps that take away: stop, evidence, removal, then what nothing uses any more. Evidence comes first


def remove_leftover(draft: Draft, container: str) -> str:
    """Remove what an apply that was killed left; the step."""
    return draft.add(op.RemoveLeftover(f"leftover {container[:12]}", "", "left over", container=container))


def teardown(draft: Draft, decision: Decision, after: Ids = ()) -> None:
    """Stop it if it runs, keep its evidence, remove it with all that is its own. `after`: what must be done first."""
    observed, change, replaced, snapshot = decision.observed, decision.change, decision.beside, draft.snapshot
    assert observed is not None
    address, cause, id, run = change.address, change.note or change.reason.value, observed.id, observed.run
    how = decision.how or ("killed" if isinstance(observed.state, Running) else None)
    last = after
    if isinstance(observed.state, Running):
        grace, how = -(-(observed.applied or observed.spec).stop_grace_period // 1_000_000_000), how or "killed"
        stop = op.StopSandbox(
            f"stop {address}", address, cause, last, container=id, grace=grace, how=how, replaced=replaced
        )
        last = (draft.add(stop),)
    if isinstance(observed.state, Running | Ended) and not observed.kept:  # of a kept one that is done
        found = snapshot.companion(run, GATEWAY)
        gateway, name = found.id if found is not None else None, observed.name
        capture = op.CaptureEvidence(
            f"evidence {address}", address, cause, last,
            container=id, name=name, run=run, how=how, gateway=gateway, replaced=replaced,
        )  # fmt: skip
        last = (draft.add(capture),)
    last = (*last, *draft.leftovers)  # an upload container holds the volumes that go with the container
    companions = tuple(companion.id for companion in snapshot.companions if companion.run == run)
    network = op.own_network(observed.base, snapshot)
    goes: op.Operation
    if change.action is Action.KEEP:
        name = kept_name(observed.name, run)
        goes = op.KeepSandbox(
            f"keep {address}", address, cause, last, container=id, name=name, companions=companions, network=network
        )
    else:
        goes = op.RemoveSandbox(
            f"remove {address}", address, cause, last,
            container=id, name=observed.name, volumes=op.own_volumes(observed.base, snapshot),
            companions=companions, network=network, replaced=replaced,
        )  # fmt: skip
    draft.removed[id] = draft.add(goes)


def remove_shared(draft: Draft, networks: list[Change], volumes: list[Change]) -> None:
    """Networks and volumes that go, once nothing is on them."""
    after = (*draft.removed.values(), *draft.leftovers)
    moved = tuple(s.id for s in draft.steps if isinstance(s, op.DisconnectNetwork | op.ConnectNetwork))
    for change in networks:
        if change.action is Action.DELETE and change.container is not None:
            id, needs = f"remove {change.address}", (*after, *moved)
            draft.add(
                op.RemoveNetwork(id, change.address, change.note, needs, network=change.container, name=change.name)
            )
    for change in volumes:
        if change.action is Action.DELETE:
            draft.add(op.RemoveVolume(f"remove {change.name}", change.address, change.note, after, name=change.name))


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
    draft.leftovers = tuple(remove_leftover(draft, container) for container in snapshot.leftovers)
    for decision in decisions:
        if decision.ends and not decision.beside:
            teardown(draft, decision)
    pull(draft, images, decisions)
    make_networks(draft, networks, decisions)
    make_volumes(draft, volumes)
    by_address = {d.declared.address: d for d in decisions if d.declared is not None}
    order = levels(d.declared for d in by_address.values() if d.declared is not None)  # the profile has no cycles
    for decision in (by_address[address] for level in order for address in level):
        if decision.makes and decision.made is not None:
            make(draft, decision.made, decision)
        elif decision.change.action is Action.UPDATE and decision.declared is not None:
            update(draft, decision.declared, decision)
    remove_shared(draft, networks, volumes)
    return tuple(draft.steps)
