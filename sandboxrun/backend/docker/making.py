"""Makes sandboxes: volumes, containers, keepers, files, start, and the read-back after each.

Owns these steps' engine calls, and users looked up in an image's own accounts. No decisions.
"""

from __future__ import annotations

import io
import json
import posixpath
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from secrets import token_hex
from time import monotonic, sleep
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, BinaryIO

from msgspec import structs

from sandboxrun.backend.docker.codec import (
    decode,
    encode,
    encode_update,
    keeper_payload,
    network_not_taken,
    not_taken,
    volume_payload,
)
from sandboxrun.backend.docker.facts import number_of
from sandboxrun.backend.docker.fields import FIELDS, INIT_PROGRAM, NOT_STARTED, volume_mount
from sandboxrun.backend.docker.leftovers import held
from sandboxrun.backend.docker.observe import UPLOAD, is_own
from sandboxrun.backend.errors import EngineError, EngineTimeout, EngineUnreachable, NotFound
from sandboxrun.backend.session import ITS_RUN, Made, Session, StepProgress, check_places, note_revision
from sandboxrun.errors import ApplyError, Diagnostic, SandboxrunError
from sandboxrun.plan import operations as op
from sandboxrun.plan.changes import mismatches, short
from sandboxrun.plan.operations import held_parts
from sandboxrun.plan.preflight import image_fault, needs_watcher
from sandboxrun.profile.sandbox import digest
from sandboxrun.spec import labels
from sandboxrun.spec.names import CONFIGS, KEEPER, PARTS, SECRETS, WORKSPACE, companion, part_volume
from sandboxrun.spec.option_types import options_of
from sandboxrun.spec.options import CONFIGS_AT, SECRETS_AT
from sandboxrun.spec.project import DeclaredSandbox
from sandboxrun.spec.records import FileRef
from sandboxrun.spec.state import ImageConfig, without_inherited
from sandboxrun.spec.types import format_size, size_told

if TYPE_CHECKING:
    from sandboxrun.backend.docker.client import CreatedContainer, Engine

# -- The tars that upload containers carry: secrets, configs, and a directory's owner


def files_tar(contents: Mapping[FileRef, bytes], uid: int, gid: int, *, directory: str = "") -> BinaryIO:
    """One file for each reference, owned by its own uid and gid, or by those given; a `directory` of those given is
    empty: unpacked above one that is there, it changes the owner alone."""
    import tarfile

    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as tar:
        if directory:
            info = tarfile.TarInfo(directory)
            info.type, info.mode, info.uid, info.gid = tarfile.DIRTYPE, 0o755, uid, gid
            tar.addfile(info)
        for ref, content in contents.items():
            info = tarfile.TarInfo(ref.file_name)
            info.size, info.mode = len(content), ref.mode
            info.uid = uid if ref.uid is None else ref.uid
            info.gid = gid if ref.gid is None else ref.gid
            tar.addfile(info, io.BytesIO(content))
    buffer.seek(0)
    return buffer


# -- Makes what has a name. Where the engine's answer is lost, it may have been made all the same: then it is looked for
# by its name, and removed again, so that what failed leaves nothing

_AGAIN = 0.25  # seconds between looks


def create_container(
    engine: Engine, name: str, payload: Mapping[str, Any], *, platform: str | None = None
) -> CreatedContainer:
    """Make a container. Raises what `Engine.create_container` does."""

    def found() -> Mapping[str, Any] | None:
        return next(iter(engine.containers(names=(name,))), None)

    with _taken_back(found, payload, lambda one: engine.remove_container(str(one["Id"]), volumes=True)):
        return engine.create_container(name, payload, platform=platform)


def create_network(engine: Engine, payload: Mapping[str, Any]) -> str:
    """Make a network, and read it back; its id. Raises what `Engine.create_network` does, and ApplyError for one that
    is not as asked."""
    found = partial(engine.network, str(payload["Name"]))
    with _taken_back(found, payload, lambda one: engine.remove_network(str(one["Id"]))):
        network = engine.create_network(payload)
    try:
        if lost := ", ".join(network_not_taken(payload, engine.network(network) or {})):
            message = f"the engine did not apply the options of the network {payload['Name']}: {lost}"
            raise ApplyError(message, help="see `sandboxrun doctor`")
    except SandboxrunError:
        with suppress(SandboxrunError):
            engine.remove_network(network)
        raise
    return network


@contextmanager
def _taken_back(
    found: Callable[[], Mapping[str, Any] | None],
    payload: Mapping[str, Any],
    remove: Callable[[Mapping[str, Any]], object],
) -> Iterator[None]:
    """While it is made. What has its name and not its labels, where it has any, is another one, and stays."""
    try:
        yield
    except (EngineUnreachable, EngineTimeout) as error:
        until = monotonic() + (ITS_RUN if getattr(error, "maybe_done", True) else 0.0)
        with suppress(EngineError):  # the next command finds it
            while monotonic() < until:
                if (one := found()) is not None:
                    if payload.get("Labels", {}).items() <= labels.read(one.get("Labels")).items():
                        remove(one)
                    break
                sleep(_AGAIN)
        raise


# -- Looks up users and groups by name in a container's own /etc/passwd and /etc/group

LARGEST = 1 << 20


def look_up(engine: Engine, container: str, user: str, group: str) -> tuple[int, int]:
    """uid and gid of `user` and `group` ("": the user's own). Raises ApplyError for a name that is not there."""

    def entry(path: str, name: str) -> tuple[int, int]:
        for fields in _lines(engine, container, path):
            if fields[0] == name and len(fields) >= 3 and fields[2].isdigit():
                gid = fields[3] if len(fields) > 3 and fields[3].isdigit() else fields[2]
                return int(fields[2]), int(gid)
        raise ApplyError(f'the image knows no "{name}" in {path}', help="give the user by number, as in 1000:1000")

    uid, gid = (int(user), int(user)) if user.isdigit() else entry("/etc/passwd", user)
    if group:
        gid = int(group) if group.isdigit() else entry("/etc/group", group)[0]
    return uid, gid


def login(engine: Engine, container: str, user: str) -> tuple[int, int, frozenset[int]]:
    """uid, gid and further groups that the engine gives a process of the container's `user`, as the image has them.

    Without a group in `user` they are those of /etc/passwd and /etc/group; a number that is in neither has group
    0. Raises ApplyError for a name that is not there.
    """
    name, _, group = user.partition(":")
    if group:
        return (*look_up(engine, container, name, group), frozenset())

    def entries(path: str) -> list[list[str]]:
        """Those that have their numbers. An image without the file has none."""
        try:
            found = _lines(engine, container, path)
        except NotFound:
            return []
        return [e for e in found if len(e) >= 4 and e[2].isdigit() and (path == "/etc/group" or e[3].isdigit())]

    entry = next((fields for fields in entries("/etc/passwd") if name in (fields[0], fields[2])), None)
    if entry is None:
        return (int(name), 0, frozenset()) if name.isdigit() else (*look_up(engine, container, name, ""), frozenset())
    groups = frozenset(int(fields[2]) for fields in entries("/etc/group") if entry[0] in fields[-1].split(","))
    return int(entry[2]), int(entry[3]), groups


def _lines(engine: Engine, container: str, path: str) -> list[list[str]]:
    data = engine.read_file(container, path, most=LARGEST)
    if data is None:
        raise ApplyError(f"{path} of the image is larger than {size_told(LARGEST)}")
    return [line.split(":") for line in data.decode(errors="replace").splitlines()]


# -- The read-back: what the engine made must be what was asked, option by option


def refuse_warnings(sandbox: DeclaredSandbox, warnings: Sequence[str]) -> None:
    """An engine that warns about an option has not taken it. Raises ApplyError."""
    help = "what it did not apply is not enforced; `sandboxrun doctor` says what this engine offers"
    if warnings:
        messages = (f"{sandbox.address}: the engine warned: {warning}" for warning in warnings)
        raise ApplyError(*(Diagnostic(message=message, span=sandbox.span, help=help) for message in messages))


def read_back(sandbox: DeclaredSandbox, container: str, session: Session, image_id: str | None = None) -> None:
    """Compare the container with its spec. Raises ApplyError naming every option that is not as declared, and where
    what runs is not the image that was planned."""
    inspect = session.engine.inspect_container(container)
    real = str(inspect.get("Image") or "")
    if image_id and real != image_id:
        raise ApplyError(
            f"{sandbox.address}: {sandbox.spec.image} was {short(image_id)} when planned and is {short(real)} now",
            help="the tag now refers to another image: plan again",
        )
    image = session.image(real)
    live = without_inherited(decode(inspect, session.profile.names, sandbox.spec), image)
    faults = []
    for d in mismatches(without_inherited(sandbox.spec, image), live):
        declared, enforced = (
            "nothing" if value is None else json.dumps(value, ensure_ascii=False) for value in (d.after, d.before)
        )
        message = f"{sandbox.address}: the engine did not apply {d.key}: declared {declared}, enforced {enforced}"
        field = FIELDS[d.key].engine if d.key in FIELDS else d.key
        help = f"its field is {field}; `sandboxrun doctor` says what this engine offers"
        if isinstance(d.before, dict) and d.before.items() >= (d.after or {}).items():
            help = f"its own settings (daemon.json) add this, maybe: declare {d.key} as enforced, or change them"
        faults.append(Diagnostic(message=message, span=sandbox.place(d.key), help=help))
    if faults:
        raise ApplyError(*faults)


# -- Keeps in memory what must not lie on the engine's disk: tmpfs volumes, held mounted by a container of their …

PLACE = "/held"
LEAST = 1 << 20  # bytes; what is put there needs whole pages
PAGE, LEAST_INODES = 4096, 4096


def held_at(part: str) -> str:
    """Where the keeper has a part mounted."""
    return f"{PLACE}/{part}"


def part_options(step: op.CreatePart, session: Session) -> Mapping[str, str]:
    """The options of a part's volume: in memory, and no larger than it has to be, where it must not lie on a disk."""
    spec = step.sandbox.spec
    if step.part not in held_parts(spec):
        return {}
    if step.part == WORKSPACE:
        assert spec.workspace is not None and spec.workspace.size is not None
        size = spec.workspace.size
        # without a bound, empty files would fill the memory outside of it
        how = f"nr_inodes={max(LEAST_INODES, size // PAGE)},mode=0755,nosuid,nodev"
    else:
        size = max(LEAST, 2 * sum(len(session.files[SECRETS, ref.source]) + PAGE for ref in spec.secrets))
        how = "mode=0755,noexec,nosuid,nodev"
    return {"type": "tmpfs", "device": "tmpfs", "o": f"size={size},{how}"}


def start_keeper(step: op.StartKeeper, session: Session) -> str:
    """Make it, see that it is confined as asked, and start it: what it holds can be filled then."""
    places = {part: held_at(part) for part in step.parts}
    run = session.run_of(step.address)
    payload = keeper_payload(step.sandbox, session.profile.project, run, places, step.image)
    made = create_container(session.engine, companion(step.sandbox.name, KEEPER), payload)
    session.companions[step.address][KEEPER] = made.id
    lost = [*made.warnings, *not_taken(payload, session.engine.inspect_container(made.id))]
    if lost:
        help = "see `sandboxrun doctor`"
        raise ApplyError(f"the keeper of {step.address}: the engine did not apply {', '.join(lost)}", help=help)
    session.engine.start_container(made.id)
    return made.id[:12]


# -- Makes sandboxes: volume, container, files, start, and the read-back after each

NO_IMAGE = "check the name, or `docker login`; to use an image that is on the engine set pull_policy: missing or never"
_SETTLED = 0.5  # seconds after which a command has mostly been started, or could not be
_BUSY = 20.0  # seconds that an init may need for that on a busy machine
LANDING = "/sandboxrun"  # where an upload container has what it carries


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
        raise ApplyError(*(structs.replace(d, help=d.help or NO_IMAGE) for d in error.diagnostics)) from error
    config = session.engine.image_config(step.reference) or ImageConfig()
    if step.digest and not any(digest.endswith(f"@{step.digest}") for digest in config.digests):
        raise ApplyError(
            f"{step.reference} was {step.digest} when planned and the registry gave another",
            help="the tag now refers to another image: plan again",
        )
    session.images[step.reference] = config
    return next((digest.partition("@")[2] for digest in config.digests), config.id)


def create_volume(step: op.CreateVolume, session: Session) -> None:
    """Make a volume of the profile's."""
    payload = volume_payload(step.key, step.spec, session.profile.names, session.home)
    found = partial(session.engine.volume, payload["Name"])
    with _taken_back(found, payload, lambda one: session.engine.remove_volume(str(one["Name"]))):
        made = session.engine.create_volume(payload)
    if not is_own(made, labels.VOLUME, session.profile.project):
        raise ApplyError(f"the volume {made.get('Name')} exists and is not this project's", help="rename it")
    session.volumes_made.add(str(made["Name"]))
    session.volumes_asked[payload["Name"]] = payload


def create_part(step: op.CreatePart, session: Session) -> None:
    """Make a volume that is a sandbox's own. The engine answers with an older one of that name if there is one."""
    name, options = part_volume(step.sandbox.name, step.part), part_options(step, session)
    wanted = {
        labels.PROJECT: session.profile.project,
        labels.SANDBOX: step.address,
        labels.VOLUME: f"{step.sandbox.name}.{step.part}",
        labels.RUN: session.run_of(step.address),
    }
    payload = {"Name": name, "Driver": "local", "Labels": wanted, "DriverOpts": options}
    made = session.engine.create_volume(payload)
    if labels.read(made.get("Labels")).get(labels.RUN) != wanted[labels.RUN]:
        if not is_own(made, labels.VOLUME, session.profile.project):
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
    session.volumes_asked[name] = payload


def check_volumes(sandbox: DeclaredSandbox, session: Session) -> None:
    """Raise ApplyError where a container has another volume than was made for it. One that was removed in between
    (`docker volume prune`) the engine makes again by itself, and says nothing: on its disk, without a bound, and
    nobody's. Once containers have the volumes, nobody can remove them any more."""
    parts = {part_volume(sandbox.name, part) for part in PARTS} & session.volumes_asked.keys()
    own = [mount.source for mount in sandbox.spec.volumes if mount.type == "volume" and mount.source]
    declared = session.profile.volumes
    shared = {session.profile.names.volume(key) for key in own if key in declared and not declared[key].external}
    for name in sorted(parts | shared):
        found, asked = session.engine.volume(name) or {}, session.volumes_asked.get(name, {})
        its = labels.read(asked.get("Labels"))
        whose = {label: its[label] for label in (labels.VOLUME, labels.RUN) if label in its}
        options = (asked.get("DriverOpts") or {}).items() <= labels.read(found.get("Options")).items()
        its_project = labels.text_of(found.get("Labels"), labels.PROJECT) == session.profile.project
        kept = its_project and options and whose.items() <= labels.read(found.get("Labels")).items()
        if not kept:
            raise ApplyError(
                f"{sandbox.address}: the engine's volume {name} is not the one that was made",
                help="it was removed meanwhile, by `docker volume prune` maybe, and the engine made another one: "
                f"remove {name} if it is still there, and run the command again",
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
        own_addresses=session.own_addresses.get(sandbox.address),
        image=session.image(step.image_id or sandbox.spec.image),
        init_volume=provide_init(sandbox, session),
    )
    check_places(sandbox, session.places)
    with held(sandbox, session.store, session.engine), _at_its_option(sandbox):
        created = create_container(session.engine, sandbox.name, payload, platform=sandbox.spec.platform)
    session.made[sandbox.address] = made = Made(id=created.id, run=session.run_of(sandbox.address))
    note_revision(sandbox, made.run, session)
    refuse_warnings(sandbox, created.warnings)
    check_volumes(sandbox, session)
    if len(sandbox.spec.networks) <= 1:
        read_back(sandbox, created.id, session, step.image_id)
    return created.id[:12]


def upload_workspace(step: op.UploadWorkspace, session: Session) -> str:
    """Pack the workspace, keep it as the baseline of the patch, and put it into its volume."""
    from sandboxrun.evidence.workspace import open_workspace, stage_workspace

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
    carrying = upload_container(sandbox, WORKSPACE, volume, session, told, landing="/")
    with open_workspace(session.store, container.run) as tar, carrying as carrier:
        session.engine.put_archive(carrier, "/", tar)
    if packed.last:
        session.put[step.address].append(posixpath.join(policy.target, packed.last))
    return f"{packed.files} file{'s' if packed.files != 1 else ''}"


def upload_files(step: op.UploadFiles, session: Session) -> None:
    """Put secrets or configs into their volume."""
    sandbox, container = step.sandbox, session.made[step.address]
    uid, gid = owner(sandbox, container.id, session)
    contents = {ref: session.files[step.part, ref.source] for ref in step.files}
    for ref, content in contents.items():
        if ref.digest is not None and ref.digest != digest(content):
            raise ApplyError(f"the content of {ref.source} has changed since it was planned", help="plan again")
    session.put[step.address].append(posixpath.join(_FILES_AT[step.part], step.files[-1].file_name))
    tar = files_tar(contents, uid, gid)
    if step.part in held_parts(sandbox.spec):
        session.engine.put_archive(session.companions[step.address][KEEPER], held_at(step.part), tar)
        return
    with upload_container(sandbox, step.part, part_volume(sandbox.name, step.part), session) as carrier:
        session.engine.put_archive(carrier, f"{LANDING}/{step.part}", tar)


def give_volume(step: op.GiveVolume, session: Session) -> None:
    """Give a volume's root to the sandbox's user."""
    sandbox, part = step.sandbox, f"volume-{step.key}"
    uid, gid = owner(sandbox, session.made[step.address].id, session)
    with upload_container(sandbox, part, session.profile.names.volume(step.key), session) as carrier:
        session.engine.put_archive(carrier, LANDING, files_tar({}, uid, gid, directory=part))


@contextmanager
def upload_container(
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
    target = posixpath.join(landing, part)
    payload = {
        "Image": sandbox.spec.image,
        "Cmd": ["true"],
        "NetworkDisabled": True,
        "Labels": {labels.PROJECT: session.profile.project, labels.ROLE: UPLOAD, **more},
        "HostConfig": {"NetworkMode": "none", "Mounts": [volume_mount(volume, target)]},
    }
    name = f"{sandbox.name}.courier-{part}"
    made = create_container(session.engine, name, payload, platform=sandbox.spec.platform)
    try:
        mounts = session.engine.inspect_container(made.id).get("Mounts") or ()
        if not any((mount.get("Name"), mount.get("Destination")) == (volume, target) for mount in mounts):
            # what is put there would go with the container, and the sandbox would find nothing
            raise ApplyError(f"{sandbox.address}: the engine did not mount {volume}, which is to be filled, in {name}")
        yield made.id
    finally:
        session.engine.remove_container(made.id, force=True, volumes=True)


# -- The init of sandboxes with a timeout, in a volume that all of an engine's sandboxes share


INIT_FILE, INIT_MODE = "init", 0o111  # a program that can't be read can't be traced from its first moment on


def init_program(architecture: str) -> bytes:
    """The program for an engine's architecture, as the engine names it."""
    return Path(__file__).with_name("init").joinpath("bin", f"init-{architecture}").read_bytes()


def provide_init(sandbox: DeclaredSandbox, session: Session) -> str | None:
    """The volume that has the init for a sandbox, asked for once a session; None for one without it."""
    if sandbox.spec.lifetime.timeout is None or needs_watcher(sandbox.spec, session.snapshot.offers):
        return None
    with session.providing:
        if session.init_volume is None:
            session.init_volume = _volume_with_init(sandbox, session)
    return session.init_volume


def _volume_with_init(sandbox: DeclaredSandbox, session: Session) -> str:
    """The engine's volume that has the init, filled first where there is none.

    A second volume, which holds nothing, names the filled one in its label: making it is one call, and of several that
    make it the engine keeps the first. So nobody ever sees a volume that is half filled.
    """
    program = init_program(session.snapshot.offers.architecture)
    mark = f"{labels.INIT_VOLUME}{digest(program).removeprefix('sha256:')[:16]}"
    if (filled := _filled(session.engine.volume(mark), mark)) is not None:
        return filled
    name = f"{mark}-{token_hex(8)}"
    session.engine.create_volume({"Name": name, "Driver": "local", "Labels": {labels.INIT: mark}})
    try:
        with upload_container(sandbox, INIT_FILE, name, session) as carrier:
            tar = files_tar({FileRef(source=INIT_FILE, mode=INIT_MODE): program}, 0, 0)
            session.engine.put_archive(carrier, f"{LANDING}/{INIT_FILE}", tar)
        marked = session.engine.create_volume({"Name": mark, "Driver": "local", "Labels": {labels.INIT: name}})
    except BaseException:
        with suppress(EngineError):
            session.engine.remove_volume(name)
        raise
    if (filled := _filled(marked, mark)) is None:
        raise ApplyError(f"the volume {mark} exists and is not sandboxrun's", help="rename or remove it")
    if filled != name:
        session.engine.remove_volume(name)
    return filled


def _filled(mark: Mapping[str, Any] | None, name: str) -> str | None:
    filled = labels.read((mark or {}).get("Labels")).get(labels.INIT, "")
    return filled if filled.startswith(f"{name}-") else None


def _without_init(address: str, container: str, session: Session, error: EngineError) -> ApplyError | None:
    """What to say where a start failed for the init: somebody removed its volume. The next one gets another."""
    if INIT_PROGRAM not in str(error):
        return None
    config = session.engine.inspect_container(container).get("Config") or {}
    volume = labels.text_of(config.get("Labels"), labels.INIT)
    if volume is None:
        return None
    with suppress(EngineError):
        session.engine.remove_volume(volume.rpartition("-")[0])
    message = f"{address}: the engine could not start sandboxrun's init, which holds its timeout: {error.cause}"
    return ApplyError(message, help=f"something changed the volume {volume}; run the command again for a new one")


# What an engine or a runtime says of an option that it can't apply, and the option.
_REFUSED = (
    ("unable to find user", "user"),
    ("unable to find group", "group_add"),
    ("cannot mkdir", "working_dir"),
    ("chdir to cwd", "working_dir"),
    ("runtime name", "runtime"),
    ("unknown or invalid runtime", "runtime"),
    ("not match the specified platform", "platform"),
    ("storage-opt", "storage_opt"),
)


@contextmanager
def _at_its_option(sandbox: DeclaredSandbox) -> Iterator[None]:
    """While the engine makes or starts it: what is wrong with an option of the profile is said at its line."""
    try:
        yield
    except (EngineUnreachable, EngineTimeout):
        raise
    except EngineError as error:
        (fault,), cause = error.diagnostics, error.cause
        dotted = cause.replace("/", ".")
        for name, value in sandbox.spec.sysctls.items():
            if (spelled := name.replace("/", ".")) in dotted:
                why = dotted.rpartition(f"{spelled}: ")[2].removesuffix(": unknown")
                message = f"the sysctl {name} can't be set to {value}: {why if why != dotted else cause}"
                help = "check its name and value: the kernel of the engine must have it, for each container of its own"
                fault = structs.replace(fault, message=message, span=sandbox.place("sysctls", name), help=help)
        key = next((key for mark, key in _REFUSED if mark in cause.lower()), None)
        if key == "group_add" and not any(group in cause for group in sandbox.spec.group_add):
            key = "user"
        if key is not None:
            fault = structs.replace(fault, span=sandbox.place(key))
        if fault.span is None:
            raise
        raise ApplyError(fault) from error


_FILES_AT = {SECRETS: SECRETS_AT, CONFIGS: CONFIGS_AT}


def check_filled(sandbox: DeclaredSandbox, container: str, session: Session) -> None:
    """Raise ApplyError where what was put into the sandbox's volumes is not there: an engine took it and did nothing,
    or what keeps them in memory has ended. The sandbox would find nothing, and its patch would say that it removed
    all that there was."""
    for path in session.put[sandbox.address]:
        try:
            session.engine.stat_archive(container, path)
        except NotFound:
            help = "was its keeper stopped or killed? Run the command again"
            raise ApplyError(f"{sandbox.address}: {path} was put there and is gone", help=help) from None


def start_sandbox(step: op.StartSandbox, session: Session) -> str:
    """Start the container, and read it back once more: what the start itself changed counts too."""
    container = session.made[step.address]
    check_places(step.sandbox, session.places)
    if not session.probing:
        check_tmpfs(step.sandbox, container.id, session)
    check_filled(step.sandbox, container.id, session)
    for note in session.before_start:
        note(step.sandbox, container)
    with _at_its_option(step.sandbox):
        try:
            session.engine.start_container(container.id)
        except EngineUnreachable:
            raise
        except EngineError as error:
            raise _without_init(step.address, container.id, session, error) or error from error
    for note in session.after_start:
        note(step.sandbox, container)
    read_back(step.sandbox, container.id, session)
    if step.beside and step.sandbox.spec.init:
        refuse_not_started(step.address, container.id, session)
    return container.id[:12]


def refuse_not_started(address: str, container: str, session: Session) -> None:
    """Raise ApplyError where its program is not there: under an init it "starts" then, and ends at once."""
    until = monotonic() + _BUSY
    while True:
        try:
            code = session.engine.wait_container(container, timeout=_SETTLED)
            break
        except EngineTimeout:
            try:
                # its init has not started the command yet: there is it, or it and a copy that will become the command
                alone = len(set(session.engine.commands(container))) == 1
            except EngineError:
                alone = True  # it has ended meanwhile
            if monotonic() >= until or not alone:
                return
    if code in NOT_STARTED:
        help = "what runs is left as it is; check command and entrypoint: the image must have the program"
        raise ApplyError(f"{address}: its command could not be started (exit code {code})", help=help)


def update_sandbox(step: op.UpdateSandbox, session: Session) -> str:
    """Change options in place, and read them back."""
    if "restart" in step.options:
        check_tmpfs(step.sandbox, step.container, session)
    payload = encode_update(step.sandbox.spec, step.options)
    refuse_warnings(step.sandbox, session.engine.update_container(step.container, payload))
    live = decode(session.engine.inspect_container(step.container), session.profile.names, step.sandbox.spec)
    # only what was updated: other differences may be another step's, such as a network to be joined
    wrong = [d for d in mismatches(step.sandbox.spec, live) if d.key in step.options]
    if wrong:
        raise ApplyError(
            *(f"{step.address}: the engine did not apply {d.key}: it is {d.before}, not {d.after}" for d in wrong),
            help="see `sandboxrun doctor`",
        )
    return ", ".join(step.options)


def resume_sandbox(step: op.ResumeSandbox, session: Session) -> None:
    """Unpause a container, unless somebody did so meanwhile."""

    def is_paused() -> bool:
        return bool((session.engine.inspect_container(step.container).get("State") or {}).get("Paused"))

    if is_paused():
        session.engine.unpause_container(step.container)
        if is_paused():
            raise ApplyError(f"{step.address}: the engine did not unpause it", help="plan again")


def owner(sandbox: DeclaredSandbox, container: str, session: Session) -> tuple[int, int]:
    """uid and gid of the sandbox's user; names are looked up in the image's own /etc/passwd and /etc/group."""
    user, _, group = sandbox.spec.user.partition(":")
    if user.isdigit() and (group.isdigit() or not group):
        return int(user), int(group or user)
    return look_up(session.engine, container, user, group)


# -- A tmpfs that is mounted over a directory of the image: some runtimes give it that directory's mode. The engine
# shows the declared mode either way, so the read-back can't see it

KEEPS_MODES = (1, 1, 8)  # runc's first version that lets a declared mode win
_MADE = 0o755  # of a directory that a runtime makes to mount on: it is there when the container starts again
_LINK = 1 << 27  # in Go's FileMode
_GO_BITS = {1 << 23: 0o4000, 1 << 22: 0o2000, 1 << 20: 0o1000}  # setuid, setgid and sticky in that
_RUNTIMES_OWN = ("/dev/", "/proc/", "/sys/")  # below mounts that are new at every start


def check_tmpfs(sandbox: DeclaredSandbox, container: str, session: Session) -> None:
    """Raise ApplyError for each tmpfs whose mode would not be the declared one. The container is made and filled."""
    spec, offers = sandbox.spec, session.snapshot.offers
    runtime = spec.runtime or offers.default_runtime
    if runtime == "runc" and number_of(offers.runc) >= KEEPS_MODES:
        return
    version = f" {offers.runc}" if runtime == "runc" and offers.runc else ""
    faults = []
    for path, declared in _with_mode(sandbox):
        found = _mode_at(session, container, path)
        if found is None and spec.restart != "no":
            found = _MADE
        if found is not None and found != declared:
            message = (
                f"{sandbox.address}: the tmpfs {path} is declared with mode={declared:04o}, and the runtime "
                f"{runtime}{version} gives it the mode of the directory below it, {found:04o}"
            )
            help = f"set the mode of {path} in the image, declare mode={found:04o} with uid and gid of the user, "
            help += "or use runc 1.1.8 or newer"
            faults.append(Diagnostic(message=message, span=sandbox.place("tmpfs", path), help=help))
    if faults:
        raise ApplyError(*faults)


def _with_mode(sandbox: DeclaredSandbox) -> Iterator[tuple[str, int]]:
    """Those that declare a mode and do not lie on another one, which is empty at every start."""
    mounts = sandbox.spec.tmpfs
    for path, options in mounts.items():
        mode = options_of(options).get("mode")
        fresh = any(path.startswith(f"{other.rstrip('/')}/") for other in mounts if other != path)
        if mode is not None and not fresh and not path.startswith(_RUNTIMES_OWN):
            yield path, int(mode, 8)


def _mode_at(session: Session, container: str, path: str) -> int | None:
    """The mode of what the tmpfs is mounted on, None where nothing is."""
    try:
        stat = session.engine.stat_archive(container, path)
        if int(stat["mode"]) & _LINK:
            stat = session.engine.stat_archive(container, str(stat.get("linkTarget") or "/"))
    except NotFound:
        return None
    return file_mode(int(stat["mode"]))


def file_mode(mode: int) -> int:
    """The permissions of Go's FileMode, with the setuid, setgid and sticky bits where chmod has them."""
    return mode & 0o777 | sum(bit for go, bit in _GO_BITS.items() if mode & go)
