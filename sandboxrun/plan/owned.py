"""What is a sandbox's own beside its container: volumes, companions, a network. It comes and goes with it.

Pure.
"""

from __future__ import annotations

from sandboxrun.spec.names import (
    COMPANIONS,
    CONFIGS,
    EGRESS,
    GATEWAY,
    KEEPER,
    PARTS,
    RULES,
    SECRETS,
    WORKSPACE,
    part_volume,
)
from sandboxrun.spec.option import private_network
from sandboxrun.spec.project import DeclaredSandbox
from sandboxrun.spec.spec import SandboxSpec
from sandboxrun.spec.state import ObservedNetwork, Snapshot


def parts_of(sandbox: DeclaredSandbox) -> tuple[str, ...]:
    """The parts of a sandbox that have a volume of their own."""
    has = {
        WORKSPACE: sandbox.workspace is not None,
        SECRETS: bool(sandbox.spec.secrets),
        CONFIGS: bool(sandbox.spec.configs),
        RULES: GATEWAY in companions_of(sandbox.spec),
    }
    return tuple(part for part in PARTS if has[part])


def companions_of(spec: SandboxSpec) -> tuple[str, ...]:
    """The containers that a sandbox needs beside its own."""
    has = {GATEWAY: spec.egress is not None and spec.egress.has_gateway, KEEPER: bool(held_parts(spec))}
    return tuple(role for role in COMPANIONS if has[role])


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
    return (*((WORKSPACE,) if sized else ()), *((SECRETS,) if spec.secrets else ()))


def networks_of(spec: SandboxSpec) -> tuple[str, ...]:
    """The keys of the project's networks that a sandbox, or its gateway, is on."""
    outside = (EGRESS,) if GATEWAY in companions_of(spec) else ()
    return (*spec.networks, *outside) if spec.network_mode != "none" else ()


def own_companions(run: str, snapshot: Snapshot) -> tuple[str, ...]:
    """The ids of the companions of the sandbox of that run."""
    return tuple(companion.id for companion in snapshot.companions if companion.run == run)


def own_network(name: str, snapshot: Snapshot) -> str | None:
    """The id of the network that only the container `name` and its gateway are on."""
    wanted = private_network(name)
    return next((network.id for network in snapshot.networks if network.name == wanted and is_private(network)), None)


def is_private(network: ObservedNetwork) -> bool:
    """Whether it is a sandbox's own network, not one of the project's."""
    return network.run is not None


def own_volumes(name: str, snapshot: Snapshot) -> tuple[str, ...]:
    """The volumes on the engine that belong to the container `name` alone."""
    parts = {part_volume(name, part) for part in PARTS}
    return tuple(volume.name for volume in snapshot.volumes if volume.name in parts)
