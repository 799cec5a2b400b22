"""The steps that make a sandbox: what must be there first, its own parts, the container, and its start last. Pure."""

from __future__ import annotations

from sandboxrun.model.declared import DeclaredSandbox
from sandboxrun.model.names import CONFIGS, EGRESS, GATEWAY, KEEPER, SECRETS, WORKSPACE
from sandboxrun.model.objects import VolumeSpec
from sandboxrun.plan import operations as op
from sandboxrun.plan.belongings import companions_of, held_parts, parts_of
from sandboxrun.plan.changes import Action, Change
from sandboxrun.plan.decide import Decision
from sandboxrun.plan.draft import Draft, Ids
from sandboxrun.plan.replacing import start, take_over


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
