"""Makes sandboxes: volume, container, files, start, and the read-back after each.

Owns these steps' engine calls. No decisions.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

import attrs

from sandboxrun.apply.events import StepProgress
from sandboxrun.apply.holding import held
from sandboxrun.apply.keepers import held_at, part_options
from sandboxrun.apply.places import check_places
from sandboxrun.apply.readback import read_back, refuse_warnings
from sandboxrun.apply.session import Made, Session
from sandboxrun.apply.tmpfs import check_tmpfs
from sandboxrun.apply.updates import record_update
from sandboxrun.engine.errors import EngineError, EngineUnreachable
from sandboxrun.errors import ApplyError
from sandboxrun.model import labels
from sandboxrun.model.codec import ImageConfig, encode, encode_update, to_label
from sandboxrun.model.declared import DeclaredSandbox
from sandboxrun.model.names import WORKSPACE, part_volume
from sandboxrun.model.objects import volume_payload
from sandboxrun.model.owned import COURIER, is_own_volume
from sandboxrun.model.units import format_size
from sandboxrun.plan import operations as op
from sandboxrun.plan.belongings import held_parts
from sandboxrun.plan.preflight import image_fault
from sandboxrun.profile.contents import digest

NO_IMAGE = "check the name, or `docker login`; to use an image that is on the engine set pull_policy: missing or never"
LANDING = "/sandboxrun"  # where a courier has what it carries


def pull_image(step: op.PullImage, session: Session) -> str:
    """Pull, and check that what came is what was planned."""
    layers: dict[str, str] = {}

    def progress(entry: Mapping[str, Any]) -> None:
        layer, status = str(entry.get("id") or ""), str(entry.get("status") or "")
        if layer and not status.startswith("Pulling from") and layers.get(layer) != status:  # that names the tag
            layers[layer] = status
            done = sum(s in ("Pull complete", "Already exists") for s in layers.values())
            session.listener(StepProgress(step=step, text=f"{done} of {len(layers)} layers"))

    try:
        session.engine.pull(step.reference, platform=step.platform, progress=progress)
    except EngineUnreachable:
        raise
    except EngineError as error:
        raise ApplyError(*(attrs.evolve(d, help=d.help or NO_IMAGE) for d in error.diagnostics)) from error
    config = ImageConfig.of(session.engine.image(step.reference) or {})
    if step.digest and not any(digest.endswith(f"@{step.digest}") for digest in config.digests):
        raise ApplyError(
            f"{step.reference} was {step.digest} when planned and the registry gave another",
            help="the tag has moved meanwhile: plan again",
        )
    session.know_image(step.reference, config)
    return next((digest.partition("@")[2] for digest in config.digests), config.id)


def create_volume(step: op.CreateVolume, session: Session) -> None:
    """Make a volume of the profile's."""
    made = session.engine.create_volume(volume_payload(step.key, step.spec, session.profile.names))
    if not is_own_volume(made, session.profile.project):
        raise ApplyError(f"the volume {made.get('Name')} exists and is not this project's", help="rename it")
    session.volumes_made.add(str(made["Name"]))


def create_part(step: op.CreatePart, session: Session) -> None:
    """Make a volume that is a sandbox's own. The engine answers with an older one of that name if there is one."""
    name, options = part_volume(step.sandbox.name, step.part), part_options(step, session)
    wanted = session.part_labels(step.address, step.sandbox.name, step.part)
    payload = {"Name": name, "Driver": "local", "Labels": wanted, "DriverOpts": options}
    made = session.engine.create_volume(payload)
    if labels.read(made.get("Labels")).get(labels.RUN) != wanted[labels.RUN]:
        if not is_own_volume(made, session.profile.project):
            raise ApplyError(f"the volume {name} exists and is not this project's", help="rename or remove it")
        # Left by an apply that was killed: its files must not become this run's.
        session.engine.remove_volume(name)
        made = session.engine.create_volume(payload)
    taken = made.get("Options") or {}
    lost = sorted(key for key, value in options.items() if taken.get(key) != value)
    if lost:
        raise ApplyError(
            f"{step.address}: the engine did not make the volume {name} as asked: {', '.join(lost)}",
            help="it must be able to make volumes in memory: its driver local with type tmpfs",
        )


def create_sandbox(step: op.CreateSandbox, session: Session) -> str:
    """Create the container and read it back: nothing of it has run yet."""
    sandbox, names = step.sandbox, session.profile.names
    if step.image_id is None and (fault := image_fault(sandbox, session.image(sandbox.spec.image))):
        raise ApplyError(fault)  # an image that was pulled just now
    payload = encode(
        sandbox.spec,
        name=sandbox.name,
        names=names,
        own_labels=session.labels(sandbox),
        plot=session.plots.get(sandbox.address),
        image=session.image(sandbox.spec.image),
    )
    check_places(sandbox, session.places)
    with held(sandbox, session.store, session.engine):
        created = session.engine.create_container(sandbox.name, payload, platform=sandbox.spec.platform)
    session.made[sandbox.address] = Made(id=created.id, run=session.run_of(sandbox.address))
    refuse_warnings(sandbox, created.warnings)
    if len(sandbox.spec.networks) <= 1:
        read_back(sandbox, created.id, session, step.image_id)
    return created.id[:12]


def check_sandbox(step: op.CheckSandbox, session: Session) -> None:
    """Read it back once it is on all its networks."""
    read_back(step.sandbox, session.made[step.address].id, session, step.image_id)


def rename_sandbox(step: op.RenameSandbox, session: Session) -> None:
    """Give it its name."""
    session.engine.rename_container(step.container or session.made[step.address].id, step.name)


def upload_workspace(step: op.UploadWorkspace, session: Session) -> str:
    """Pack the workspace, keep it as the baseline of the patch, and put it into its volume."""
    from sandboxrun.evidence.staged import open_workspace, stage_workspace

    sandbox, container = step.sandbox, session.made[step.address]
    policy = sandbox.spec.workspace
    assert sandbox.workspace is not None and policy is not None
    uid, gid = owner(sandbox, container.id, session)
    check_places(sandbox, session.places)
    packed = stage_workspace(
        session.store,
        container.run,
        sandbox.workspace,
        uid=uid,
        gid=gid,
        engine=session.engine.identity,
        exclude=policy.exclude,
    )
    if policy.size is not None and packed.bytes > policy.size:
        raise ApplyError(
            f"{sandbox.address}: the workspace holds {packed.bytes} bytes, and its size is {format_size(policy.size)}",
            help="exclude what the agent does not need, or give it a larger size",
        )
    volume, told = part_volume(sandbox.name, WORKSPACE), {labels.RUN: container.run, labels.CONTENT: packed.content}
    carrying = courier(sandbox, WORKSPACE, volume, session, told, landing="/")
    with open_workspace(session.store, container.run) as tar, carrying as carrier:
        session.engine.put_archive(carrier, "/", tar)
    return f"{packed.files} file{'s' if packed.files != 1 else ''}"


def upload_files(step: op.UploadFiles, session: Session) -> None:
    """Put secrets or configs into their volume."""
    from sandboxrun.apply.tarballs import files_tar

    sandbox, container = step.sandbox, session.made[step.address]
    uid, gid = owner(sandbox, container.id, session)
    contents = {ref: session.files[step.part, ref.source] for ref in step.files}
    for ref, content in contents.items():
        if ref.digest is not None and ref.digest != digest(content):
            raise ApplyError(f"the content of {ref.source} has changed since it was planned", help="plan again")
    tar = files_tar(contents, uid, gid)
    if step.part in held_parts(sandbox.spec):
        session.engine.put_archive(session.keepers[step.address], held_at(step.part), tar)
        return
    with courier(sandbox, step.part, part_volume(sandbox.name, step.part), session) as carrier:
        session.engine.put_archive(carrier, f"{LANDING}/{step.part}", tar)


def give_volume(step: op.GiveVolume, session: Session) -> None:
    """Give a volume's root to the sandbox's user."""
    from sandboxrun.apply.tarballs import directory_tar

    sandbox, part = step.sandbox, f"volume-{step.key}"
    uid, gid = owner(sandbox, session.made[step.address].id, session)
    with courier(sandbox, part, session.profile.names.volume(step.key), session) as carrier:
        session.engine.put_archive(carrier, LANDING, directory_tar(part, uid, gid))


@contextmanager
def courier(
    sandbox: DeclaredSandbox,
    part: str,
    volume: str,
    session: Session,
    more: Mapping[str, str] = MappingProxyType({}),
    *,
    landing: str = LANDING,
) -> Iterator[str]:
    """A container that is never started, with `volume` at <part> below `landing`; gone afterwards. `more` are labels,
    for who reads of it in the engine's events.

    The engine takes no upload through a read-only mount, and none into the directory above a mount when the
    root is read-only; only from there can a volume's own root be given to the sandbox's user.
    """
    mount = {
        "Type": "volume",
        "Source": volume,
        "Target": posixpath.join(landing, part),
        "VolumeOptions": {"NoCopy": True},
    }
    made = session.engine.create_container(
        f"{sandbox.name}.courier-{part}",
        {
            "Image": sandbox.spec.image,
            "Cmd": ["true"],
            "NetworkDisabled": True,
            "Labels": {labels.PROJECT: session.profile.project, labels.ROLE: COURIER, **more},
            "HostConfig": {"NetworkMode": "none", "Mounts": [mount]},
        },
        platform=sandbox.spec.platform,
    )
    try:
        yield made.id
    finally:
        session.engine.remove_container(made.id, force=True, volumes=True)


def start_sandbox(step: op.StartSandbox, session: Session) -> str:
    """Start the container, and read it back once more: what the start itself changed counts too."""
    container = session.made[step.address]
    check_places(step.sandbox, session.places)
    if not session.probing:
        check_tmpfs(step.sandbox, container.id, session)
    session.before_start(step.sandbox, container)
    session.engine.start_container(container.id)
    session.after_start(step.sandbox, container)
    read_back(step.sandbox, container.id, session)
    return container.id[:12]


def update_sandbox(step: op.UpdateSandbox, session: Session) -> str:
    """Change options in place, and read them back."""
    if "restart" in step.options:
        check_tmpfs(step.sandbox, step.container, session)
    payload = encode_update(step.sandbox.spec, step.options)
    refuse_warnings(step.sandbox, session.engine.update_container(step.container, payload))
    read_back_options(step, session)
    return ", ".join(step.options)


def resume_sandbox(step: op.ResumeSandbox, session: Session) -> None:
    """Unpause a container, unless somebody did so meanwhile."""

    def is_paused() -> bool:
        return bool((session.engine.inspect_container(step.container).get("State") or {}).get("Paused"))

    if is_paused():
        session.engine.unpause_container(step.container)
        if is_paused():
            raise ApplyError(f"{step.address}: the engine did not unpause it", help="plan again")


def record_spec(step: op.RecordSpec, session: Session) -> None:
    """Note what a container was changed to."""
    record_update(session.store, step.run, to_label(step.sandbox.spec), engine=session.engine.identity)


def read_back_options(step: op.UpdateSandbox, session: Session) -> None:
    """Only what was updated: other differences may be another step's, such as a network to be joined."""
    from sandboxrun.model.codec import decode
    from sandboxrun.plan.diff import mismatches

    live = decode(session.engine.inspect_container(step.container), session.profile.names, step.sandbox.spec)
    wrong = [d for d in mismatches(step.sandbox.spec, live) if d.key in step.options]
    if wrong:
        raise ApplyError(
            *(f"{step.address}: the engine did not take {d.key}: it is {d.before}, not {d.after}" for d in wrong),
            help="see `sandboxrun doctor`",
        )


def owner(sandbox: DeclaredSandbox, container: str, session: Session) -> tuple[int, int]:
    """uid and gid of the sandbox's user; names are looked up in the image's own /etc/passwd and /etc/group."""
    user, _, group = sandbox.spec.user.partition(":")
    if user.isdigit() and (group.isdigit() or not group):
        return int(user), int(group or user)
    from sandboxrun.apply.accounts import look_up

    return look_up(session.engine, container, user, group)
