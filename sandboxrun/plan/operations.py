"""Operations: a plan's steps. Each is one engine call (an upload is three, a record none), with its cause and the
steps it needs; and what they make and remove of a sandbox's own beside its container.

Owns the union. Whoever walks it matches on the classes and ends with `assert_never`. Pure.
"""

from __future__ import annotations

from sandboxrun.data import Data
from sandboxrun.spec import names
from sandboxrun.spec.option import private_network
from sandboxrun.spec.project import DeclaredSandbox, NetworkSpec, VolumeSpec
from sandboxrun.spec.records import Attachment, FileRef
from sandboxrun.spec.spec import SandboxSpec
from sandboxrun.spec.state import ObservedNetwork, Snapshot


class _Step(Data, kw_only=False, eq=False):
    id: str  # unique in a plan, such as "create reviewer"
    address: str  # the resource it belongs to
    cause: str
    needs: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.id!r})"


class PullImage(_Step):
    """Pull `reference`; afterwards it must be `digest`, where the plan knew it."""

    reference: str
    platform: str | None
    digest: str | None


class BuildHelper(_Step):
    """Build the image of gateways and keepers, on the engine, from `base`."""

    reference: str
    base: str


class CreateNetwork(_Step):
    """Make a network of the project."""

    key: str
    spec: NetworkSpec


class CreatePrivateNetwork(_Step):
    """Make the network that a sandbox shares with its gateway alone: no route out, no address of the host's on it."""

    sandbox: DeclaredSandbox


class CreateGateway(_Step):
    """Make a sandbox's gateway, with its rules, on the sandbox's network and on the one that leads outside.

    `run` is the sandbox's where that is there already; None for one that the plan makes.
    """

    sandbox: DeclaredSandbox
    image: str  # its id, or its reference where it is built first
    run: str | None = None


class StartGateway(_Step):
    """Start a gateway and wait until it serves by the rules it was given. `container` is one that has stopped, or is
    not on its networks, to which it is brought back; None for one that the plan makes. `run` as above."""

    sandbox: DeclaredSandbox
    container: str | None = None
    run: str | None = None


class ReloadGateway(_Step):
    """Give a running gateway other rules, and wait until it serves by them. The sandbox is not touched."""

    sandbox: DeclaredSandbox
    container: str
    run: str


class RemoveNetwork(_Step):
    """Remove a network of the project."""

    network: str
    name: str


class CreateVolume(_Step):
    """Make a volume of the profile's."""

    key: str
    spec: VolumeSpec


class RemoveVolume(_Step):
    """Remove a volume: the profile's, or what is left of a sandbox's own."""

    name: str


class RemoveLeftover(_Step):
    """Remove an upload container that an apply left when it was killed."""

    container: str


class CreatePart(_Step):
    """Make the volume that holds a sandbox's workspace, secrets or configs."""

    sandbox: DeclaredSandbox
    part: str


class StartKeeper(_Step):
    """Make and start the container that holds the `parts` which lie in memory, until the sandbox's end."""

    sandbox: DeclaredSandbox
    image: str  # its id, or its reference where it is built first
    parts: tuple[str, ...]


class CreateSandbox(_Step):
    """Create a container, without starting it, and read it back: every option must be as declared."""

    sandbox: DeclaredSandbox
    image_id: str | None  # what the reference must mean; None where it is pulled first


class CheckSandbox(_Step):
    """Read a container back that was connected to more networks after it had been created."""

    sandbox: DeclaredSandbox
    image_id: str | None


class RenameSandbox(_Step):
    """Give a container the sandbox's name. `container` is None for one that the plan itself creates."""

    container: str | None
    name: str


class UploadWorkspace(_Step):
    """Put the copy of the workspace into the container that was created."""

    sandbox: DeclaredSandbox


class UploadFiles(_Step):
    """Put secrets or configs into their volume: the sandbox has it read-only."""

    sandbox: DeclaredSandbox
    part: str
    files: tuple[FileRef, ...]


class GiveVolume(_Step):
    """Give the root of a volume of the profile's, made just now, to the user of the first sandbox that writes to it."""

    sandbox: DeclaredSandbox
    key: str


class ConnectNetwork(_Step):
    """Attach a container to a network. `container` is None for one that the plan itself creates."""

    container: str | None
    network: str  # the engine's name
    attachment: Attachment


class DisconnectNetwork(_Step):
    """Detach a container from a network."""

    container: str
    network: str


class AwaitSandbox(_Step):
    """Wait until `condition` holds of the sandbox `dependency`."""

    dependency: str
    condition: str


class StartSandbox(_Step):
    """Start a container that was created. With `beside` another one runs that it is to take the place of: it must be
    certain that its command could be started."""

    sandbox: DeclaredSandbox
    beside: bool = False


class UpdateSandbox(_Step):
    """Change options of a running container in place, and read them back."""

    sandbox: DeclaredSandbox
    container: str
    options: tuple[str, ...]


class ResumeSandbox(_Step):
    """Let the processes of a paused container go on."""

    container: str


class RecordSpec(_Step):
    """Note beside the engine what a running container was changed to: its labels can't change."""

    sandbox: DeclaredSandbox
    run: str


class StopSandbox(_Step):
    """Ask a running container to end; kill it when its grace period is over."""

    container: str
    grace: int  # seconds
    how: str  # who stops it (state.StoppedBy)
    replaced: bool = False  # the plan has made another one in its place


class CaptureEvidence(_Step):
    """Keep what the container leaves, before it is removed."""

    container: str
    name: str
    run: str
    how: str | None  # who stopped it where the plan knows (state.StoppedBy); None: as the engine says
    gateway: str | None = None  # the container that keeps the records of what it reached
    replaced: bool = False  # as above


class RemoveSandbox(_Step):
    """Remove a container, and what is its own: companions, network, volumes."""

    container: str
    name: str
    volumes: tuple[str, ...]
    companions: tuple[str, ...] = ()
    network: str | None = None
    replaced: bool = False  # as above


class KeepSandbox(_Step):
    """Keep a container that has ended, under the name `name`: what runs beside it goes, and what lies in memory."""

    container: str
    name: str
    companions: tuple[str, ...] = ()
    network: str | None = None


Operation = (
    PullImage | BuildHelper | CreateNetwork | CreatePrivateNetwork | CreateGateway | StartGateway | ReloadGateway
    | RemoveNetwork | CreateVolume | RemoveVolume | RemoveLeftover | CreatePart | StartKeeper | CreateSandbox
    | CheckSandbox | RenameSandbox | UploadWorkspace | UploadFiles | GiveVolume | ConnectNetwork | DisconnectNetwork
    | AwaitSandbox | StartSandbox | UpdateSandbox | ResumeSandbox | RecordSpec | StopSandbox | CaptureEvidence
    | RemoveSandbox | KeepSandbox
)  # fmt: skip


# -- What is a sandbox's own beside its container: volumes, companions, a network. It comes and goes with it


def parts_of(sandbox: DeclaredSandbox) -> tuple[str, ...]:
    """The parts of a sandbox that have a volume of their own."""
    has = {
        names.WORKSPACE: sandbox.workspace is not None,
        names.SECRETS: bool(sandbox.spec.secrets),
        names.CONFIGS: bool(sandbox.spec.configs),
        names.RULES: names.GATEWAY in companions_of(sandbox.spec),
    }
    return tuple(part for part in names.PARTS if has[part])


def companions_of(spec: SandboxSpec) -> tuple[str, ...]:
    """The containers that a sandbox needs beside its own."""
    has = {names.GATEWAY: spec.egress is not None and spec.egress.has_gateway, names.KEEPER: bool(held_parts(spec))}
    return tuple(role for role in names.COMPANIONS if has[role])


def shares(spec: SandboxSpec) -> bool:
    """Whether the sandbox needs anything beside its container: networks and volumes are made, found and swept by
    whoever holds the project's lock."""
    copied = spec.workspace is not None and spec.workspace.access == "copy"
    needs = spec.networks or companions_of(spec) or copied or spec.secrets or spec.configs
    return bool(needs) or any(mount.type == "volume" for mount in spec.volumes)


def held_parts(spec: SandboxSpec) -> tuple[str, ...]:
    """The parts that lie in memory: their volumes last as long as the keeper has them mounted."""
    workspace = spec.workspace
    sized = workspace is not None and workspace.access == "copy" and workspace.size is not None
    return (*((names.WORKSPACE,) if sized else ()), *((names.SECRETS,) if spec.secrets else ()))


def networks_of(spec: SandboxSpec) -> tuple[str, ...]:
    """The keys of the project's networks that a sandbox, or its gateway, is on."""
    outside = (names.EGRESS,) if names.GATEWAY in companions_of(spec) else ()
    return (*spec.networks, *outside) if spec.network_mode != "none" else ()


def own_network(name: str, snapshot: Snapshot) -> str | None:
    """The id of the network that only the container `name` and its gateway are on."""
    wanted = private_network(name)
    return next((network.id for network in snapshot.networks if network.name == wanted and is_private(network)), None)


def is_private(network: ObservedNetwork) -> bool:
    """Whether it is a sandbox's own network, not one of the project's."""
    return network.run is not None


def own_volumes(name: str, snapshot: Snapshot) -> tuple[str, ...]:
    """The volumes on the engine that belong to the container `name` alone."""
    parts = {names.part_volume(name, part) for part in names.PARTS}
    return tuple(volume.name for volume in snapshot.volumes if volume.name in parts)
