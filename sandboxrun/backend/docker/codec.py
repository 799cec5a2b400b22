"""Between specs and the engine: payloads of what is made or changed, and what the engine's answers really say.

A sandbox's options are a loop over the rows and their places; none is named but where two share one engine field. Pure.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from msgspec import structs

from sandboxrun.backend.docker.fields import FIELDS, INIT_PROGRAM, SHOWN, Live, Payload, held_by_init, volume_mount
from sandboxrun.backend.owner import clock_set_since
from sandboxrun.errors import Diagnostic, SandboxrunError
from sandboxrun.gateway import DIRECTORY, FILE, USER
from sandboxrun.gateway import RUN as GATEWAY_RUN
from sandboxrun.gateway.subnets import Network
from sandboxrun.spec import forms, labels, seccomp
from sandboxrun.spec.names import EGRESS, GATEWAY, RULES, Names, part_volume
from sandboxrun.spec.option import OwnAddresses, private_network, value_of, values_of
from sandboxrun.spec.options import INIT_AT
from sandboxrun.spec.project import DeclaredSandbox, NetworkSpec, VolumeSpec, config_digest
from sandboxrun.spec.spec import BY_KEY, ROWS, SandboxSpec
from sandboxrun.spec.state import (
    Companion,
    Created,
    Document,
    Ended,
    ImageConfig,
    ObservedNetwork,
    ObservedSandbox,
    ObservedVolume,
    Running,
    State,
    from_label,
    parse_time,
    without_inherited,
)
from sandboxrun.spec.types import freeze

NEVER = "0001-01-01T00:00:00Z"  # the engine's zero time
_ALIVE = ("running", "paused", "restarting")
_PLACES = tuple(FIELDS.get(row.key) for row in ROWS)
_RECORDED = tuple(row for row in ROWS if row.key not in SHOWN)


def encode(
    spec: SandboxSpec,
    *,
    name: str,
    names: Names,
    own_labels: Mapping[str, str],
    own_addresses: OwnAddresses | None = None,
    image: ImageConfig | None = None,
    init_volume: str | None = None,
) -> dict[str, Any]:
    """The body of POST /containers/create for a settled spec.

    `own_labels` are sandboxrun's labels beside those that options themselves write; `own_addresses` are those of
    a sandbox with a gateway; `image` what the spec's image sets; `init_volume` has the init that holds its timeout.
    """
    payload = Payload(name=name, names=names, own_addresses=own_addresses)
    for place, value in zip(_PLACES, values_of(spec), strict=True):
        if value is not None and place is not None:
            place.put(value, payload)
    if spec.command == () and spec.entrypoint is None and image is not None:
        payload.config["Entrypoint"] = list(image.entrypoint)  # beside its own, an engine replaces an empty command
    payload.config.setdefault("Labels", {}).update(own_labels)
    if init_volume is not None and image is not None:
        entrypoint, command = command_of(spec, image)
        if entrypoint or command:  # where there is no command at all, the engine is left to say so
            payload.host["Init"] = False  # ours is in its place
            holding = (INIT_PROGRAM, f"timeout={spec.lifetime.timeout}", f"grace={spec.stop_grace_period}", "--")
            mount = volume_mount(init_volume, INIT_AT, read_only=True)
            # where somebody removes the volume now, the engine makes another one, of these
            mount["VolumeOptions"]["Labels"] = {labels.INIT: init_volume.rpartition("-")[0]}
            payload.host.setdefault("Mounts", []).append(mount)
            payload.config.update(Entrypoint=[*holding, *entrypoint], Cmd=list(command))
            payload.config["Labels"][labels.INIT] = init_volume
    return payload.body()


def command_of(spec: SandboxSpec, image: ImageConfig) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Entry point and command as an engine resolves them beside the image's own."""
    entrypoint = image.entrypoint if spec.entrypoint is None else spec.entrypoint
    if spec.command is not None:
        return entrypoint, spec.command
    return entrypoint, () if spec.entrypoint else image.command


def encode_update(spec: SandboxSpec, keys: Iterable[str]) -> dict[str, Any]:
    """The body of POST /containers/{id}/update that gives the rows `keys` the values they have in `spec`."""
    payload = Payload(name="", names=Names(project=""))
    wanted = {key for changed in keys for key in (changed, *BY_KEY[changed].together)}
    for row, place in zip(ROWS, _PLACES, strict=True):
        if row.key in wanted and place is not None:
            place.put(value_of(spec, row), payload)
    return payload.host


def decode(inspect: Mapping[str, Any], names: Names, recorded: SandboxSpec | None = None) -> SandboxSpec:
    """What a container really is. Options that the engine does not show are taken from `recorded`.

    The values are as the engine reports them, what the image gave included: see `without_inherited`.
    """
    live = Live(inspect=inspect, names=names, recorded=recorded)
    values = {key: place.get(live) for key, place in SHOWN.items()}
    for row in _RECORDED:
        values[row.key] = value_of(recorded, row) if recorded is not None else row.default
    return SandboxSpec(**values)


_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def image_config(inspect: Mapping[str, Any]) -> ImageConfig:
    """From an image's inspect answer, read with the rows' own placements."""
    config = inspect.get("Config") or {}
    live = Live(inspect={"Config": config}, names=Names(project=""))
    inherited = {row.key: FIELDS[row.key].get(live) for row in ROWS if row.inherited}
    # Engines give one to what has none; with images in containerd's store they show it as the container's own.
    inherited["environment"] = freeze({"PATH": _PATH, **inherited["environment"]})
    return ImageConfig(
        id=str(inspect.get("Id") or ""),
        architecture=str(inspect.get("Architecture") or ""),
        digests=tuple(map(str, inspect.get("RepoDigests") or ())),
        volumes=tuple(map(forms.path, config.get("Volumes") or ())),
        reserved=tuple(sorted(n for n in labels.read(config.get("Labels")) if n.startswith(labels.PREFIX))),
        **inherited,
    )


def observe(
    inspect: Mapping[str, Any],
    names: Names,
    image: ImageConfig | None,
    updated: SandboxSpec | None = None,
    known: Mapping[str, SandboxSpec] | None = None,
) -> ObservedSandbox:
    """A container's inspect answer as an observed sandbox.

    `updated` is the spec of the last update in place: labels can't change, so it is recorded beside the engine.
    `known` are specs by their label's text: a label that is one of them need not be parsed. Raises SandboxrunError for
    an answer that no engine should give.
    """
    try:
        own = labels.read((inspect.get("Config") or {}).get("Labels"))
        text = str(own.get(labels.SPEC) or "")
        applied = updated or (known or {}).get(text) or from_label(text)
        deadline = parse_time(own.get(labels.DEADLINE))
        if updated is not None:  # its `lifetime` may have been changed while it ran
            ttl, made = updated.lifetime.ttl, parse_time(inspect.get("Created"))
            deadline = made + timedelta(microseconds=ttl / 1000) if ttl is not None and made is not None else None
        spec = without_inherited(decode(inspect, names, applied), image)
        if spec.stop_grace_period is None:  # the engine's own, where nobody set one: the same as the option's
            spec = structs.replace(spec, stop_grace_period=BY_KEY["stop_grace_period"].default)
        return ObservedSandbox(
            id=str(inspect["Id"]),
            name=str(inspect["Name"]).removeprefix("/"),
            address=str(own.get(labels.SANDBOX) or ""),
            run=str(own.get(labels.RUN) or inspect["Id"]),
            state=state_of(inspect),
            spec=spec,
            applied=applied,
            image_id=str(inspect.get("Image") or ""),
            deadline=deadline,
            one_off=labels.ONE_OFF in own,
            owner=own.get(labels.OWNER),
            labels=freeze(own),
            created=str(inspect.get("Created") or ""),
            document=inspect,
        )
    except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RecursionError) as error:
        name, why = str(inspect.get("Name")).removeprefix("/"), f"{type(error).__name__}: {error}"
        message = f"the engine's answer about container {name} cannot be read ({why})"
        help = "look at it with docker inspect, and remove it if it is not needed"
        raise SandboxrunError(Diagnostic(message=message, help=help)) from error


def addresses_of(inspect: Mapping[str, Any]) -> tuple[str, ...]:
    """The addresses that a container has now on its networks."""
    networks = (inspect.get("NetworkSettings") or {}).get("Networks") or {}
    return tuple(sorted(filter(None, (str((of or {}).get("IPAddress") or "") for of in networks.values()))))


def state_of(inspect: Mapping[str, Any]) -> State:
    """The state in an inspect answer."""
    held = held_by_init(inspect)
    return read_state(inspect.get("State") or {}, limit=held.seconds if held is not None else None)


def with_clock(state: State, own: Mapping[str, str], clock: Callable[[], datetime]) -> State:
    """The state, with what the engine's clock was set since its container, which has these labels, was made."""
    if not isinstance(state, Running | Ended) or labels.CLOCK not in own:
        return state
    return structs.replace(state, set_ahead=clock_set_since(own[labels.CLOCK], clock))


def read_state(state: Mapping[str, Any], *, limit: float | None = None) -> State:
    """The `State` of an inspect answer; `limit` is its init's. One whose start failed counts as ended, with the
    engine's reason."""
    started = parse_time(state.get("StartedAt"))
    health = (state.get("Health") or {}).get("Status")
    if any(state.get(key) for key in ("Running", "Restarting", "Paused")) or state.get("Status") in _ALIVE:
        epoch, oom = datetime.fromtimestamp(0, UTC), bool(state.get("OOMKilled"))
        return Running(started=started or epoch, paused=bool(state.get("Paused")), health=health, oom=oom, limit=limit)
    if state.get("Status") == "created" and started is None and not state.get("Error"):
        return Created()
    code = state.get("ExitCode")
    return Ended(
        exit_code=code if isinstance(code, int) else None,
        oom=bool(state.get("OOMKilled")),
        started=started,
        finished=parse_time(state.get("FinishedAt")),
        error=str(state.get("Error") or ""),
        limit=limit,
    )


def read_document(inspect: Mapping[str, Any]) -> Document:
    """A container's inspect answer, for the evidence."""
    state, config = inspect.get("State") or {}, inspect.get("Config") or {}
    log = (inspect.get("HostConfig") or {}).get("LogConfig") or {}
    created, started, finished = (
        str(text) if text and text != NEVER else None
        for text in (inspect.get("Created"), state.get("StartedAt"), state.get("FinishedAt"))
    )
    return Document(
        id=str(inspect["Id"]),
        name=str(inspect.get("Name", "")).lstrip("/"),
        image=str(inspect.get("Image", "")),
        state=state_of(inspect),
        labels=config.get("Labels") or {},
        tty=bool(config.get("Tty")),
        replaces=log.get("Type") == "json-file",
        created=created,
        started=started,
        finished=finished,
        raw=inspect,
    )


# -- Networks, volumes, and what runs beside a sandbox


def network_payload(key: str, spec: NetworkSpec, names: Names) -> dict[str, Any]:
    """The body of POST /networks/create."""
    return _network(names.network(key), spec, _own(key, labels.NETWORK, spec, names))


def _network(name: str, spec: NetworkSpec, own: Mapping[str, str]) -> dict[str, Any]:
    return {
        "Name": name,
        "CheckDuplicate": True,
        "Driver": "bridge",
        "Internal": spec.internal,
        "EnableIPv6": spec.enable_ipv6,
        "IPAM": {"Driver": "default", "Config": [{"Subnet": spec.subnet}] if spec.subnet else []},
        "Options": dict(spec.driver_opts),
        "Labels": own,
    }


def volume_payload(key: str, spec: VolumeSpec, names: Names, home: Mapping[str, str]) -> dict[str, Any]:
    """The body of POST /volumes/create; `home` are the labels that say where it was made, and by whom."""
    return {
        "Name": names.volume(key),
        "Driver": "local",
        "DriverOpts": dict(spec.driver_opts),
        "Labels": {**_own(key, labels.VOLUME, spec, names), **home},
    }


def _own(key: str, label: str, spec: NetworkSpec | VolumeSpec, names: Names) -> dict[str, str]:
    own = {labels.PROJECT: names.project, label: key, labels.CONFIG: config_digest(spec)}
    return {**spec.labels, **own}


def decode_network(inspect: Mapping[str, Any]) -> NetworkSpec:
    """What a network really is, less its name; `subnet` is always shown."""
    configs = (inspect.get("IPAM") or {}).get("Config") or ()
    return NetworkSpec(
        internal=bool(inspect.get("Internal")),
        driver_opts=freeze(inspect.get("Options") or {}),
        subnet=next((config.get("Subnet") for config in configs), None),
        enable_ipv6=bool(inspect.get("EnableIPv6")),
        labels=freeze(labels.of_user(inspect.get("Labels"))),
    )


def network_not_taken(payload: Mapping[str, Any], inspect: Mapping[str, Any]) -> Iterator[str]:
    """What the engine did not apply of a network's payload, by name."""
    live = decode_network(inspect)
    yield from (option for option, wanted in payload["Options"].items() if live.driver_opts.get(option) != wanted)
    if live.internal != payload["Internal"]:
        yield "internal"
    if live.enable_ipv6 != payload["EnableIPv6"]:
        yield "enable_ipv6"
    if any(config["Subnet"] != live.subnet for config in payload["IPAM"]["Config"]):
        yield "subnet"
    if not payload["Labels"].items() <= labels.read(inspect.get("Labels")).items():
        yield "labels"  # nobody would collect it


def observe_network(inspect: Mapping[str, Any]) -> ObservedNetwork:
    """A network's inspect answer."""
    own = labels.read(inspect.get("Labels"))
    return ObservedNetwork(
        id=str(inspect["Id"]),
        name=str(inspect["Name"]),
        key=str(own.get(labels.NETWORK) or ""),
        config=str(own.get(labels.CONFIG) or ""),
        spec=decode_network(inspect),
        run=own.get(labels.RUN),
    )


def observe_companion(listed: Mapping[str, Any], names: Names) -> Companion:
    """A container of the engine's list."""
    own = labels.read(listed.get("Labels"))
    outside, on = names.network(EGRESS), set((listed.get("NetworkSettings") or {}).get("Networks") or {})
    inside = [name for name in on - {outside} if name.endswith(private_network(""))]
    return Companion(
        id=str(listed["Id"]),
        role=str(own.get(labels.ROLE) or ""),
        run=str(own.get(labels.RUN) or ""),
        running=listed.get("State") == "running",
        started=listed.get("State") != "created",
        placed=own.get(labels.ROLE) != GATEWAY or (outside in on and len(inside) == 1 and len(on) == 2),
    )


def observe_volume(inspect: Mapping[str, Any]) -> ObservedVolume:
    """A volume's inspect answer."""
    own = labels.read(inspect.get("Labels"))
    return ObservedVolume(
        name=str(inspect["Name"]),
        key=str(own.get(labels.VOLUME) or ""),
        config=own.get(labels.CONFIG),
        run=own.get(labels.RUN),
        directory=own.get(labels.DIRECTORY),
        owner=own.get(labels.OWNER),
    )


def taken_by(networks: Iterable[Mapping[str, Any]]) -> tuple[Network, ...]:
    """The subnets of networks as the engine's list shows them."""
    found = []
    for network in networks:
        for config in (network.get("IPAM") or {}).get("Config") or ():
            try:
                found.append(ipaddress.ip_network(str(config.get("Subnet")), strict=False))
            except ValueError:
                continue
    return tuple(found)


# -- What runs beside a sandbox, and the network it shares with its gateway: how a gateway is confined, which talks to
# whom it likes on one side and to hostile code on the other

_MEMORY = 64 * 1024**2
_GATEWAY_MEMORY = 128 * 1024**2  # while rules change there may be three processes of HAProxy's
_RECORDS = {"max-size": "16m", "max-file": "4"}  # more than the program's own budget of records
_GATEWAY_SYSCTLS = {
    "net.ipv4.ip_forward": "0",  # what is not asked of the program does not pass
    "net.ipv4.ip_unprivileged_port_start": "0",  # it listens on 53, 80 and 443 without a capability
}
_LOW_PORTS = """\
import socket
try:
    for port, kind in ((53, 2), (53, 1), (80, 1), (443, 1)):
        socket.socket(2, kind).bind(("127.0.0.1", port))
    print("open")
except OSError as error:
    print(f"port {port}: {error.strerror}")
"""
SEALED = {
    "com.docker.network.bridge.inhibit_ipv4": "true",  # no address of the host's on it, whatever listens there
    "com.docker.network.bridge.enable_icc": "true",  # sandbox and gateway are neighbours; there is nobody else
}


def private_network_payload(sandbox: DeclaredSandbox, project: str, run: str, subnet: str) -> dict[str, Any]:
    """The body of POST /networks/create for a sandbox's own network."""
    name = private_network(sandbox.name)
    own = {labels.PROJECT: project, labels.SANDBOX: sandbox.address, labels.RUN: run, labels.NETWORK: name}
    return _network(name, NetworkSpec(internal=True, subnet=subnet, driver_opts=SEALED), own)


def gateway_payload(
    sandbox: DeclaredSandbox, names: Names, run: str, own_addresses: OwnAddresses, image: str
) -> dict[str, Any]:
    """The body of POST /containers/create for a sandbox's gateway."""
    egress = sandbox.spec.egress
    host = {
        **_companion_host(memory=_GATEWAY_MEMORY, pids=64),
        "Init": False,  # the program is the first process: it ends with HAProxy, and HAProxy with it
        "Tmpfs": {GATEWAY_RUN: "rw,noexec,nosuid,nodev,size=8m,mode=0700,uid={},gid={}".format(*USER.split(":"))},
        "NetworkMode": names.network(EGRESS),
        "Dns": list(egress.resolvers) if egress is not None else [],
        "Sysctls": dict(_GATEWAY_SYSCTLS),
        "Mounts": [volume_mount(part_volume(sandbox.name, RULES), DIRECTORY)],  # root's, and the engine writes it
        "LogConfig": {"Type": "local", "Config": dict(_RECORDS)},
    }
    return {
        "Image": image,
        "Cmd": ["serve", "--at", own_addresses.gateway, "--rules", f"{DIRECTORY}/{FILE}"],
        "User": USER,
        "StopTimeout": 10,
        "Labels": _companion_labels(sandbox, names.project, run, "gateway"),
        "HostConfig": host,
    }


def low_ports_payload(image: str) -> dict[str, Any]:
    """The body of POST /containers/create for a container, confined as gateways are, that tries the ports that they
    need, and says "open" where it may listen on them."""
    return {
        "Image": image,
        "Entrypoint": ["python3", "-I", "-S", "-B", "-c", _LOW_PORTS],
        "Cmd": [],
        "User": USER,
        "HostConfig": {
            **_companion_host(memory=_MEMORY, pids=16),
            "AutoRemove": True,  # it leaves nothing that is worth keeping
            "NetworkMode": "none",
            "Sysctls": dict(_GATEWAY_SYSCTLS),
        },
    }


def keeper_payload(
    sandbox: DeclaredSandbox, project: str, run: str, places: Mapping[str, str], image: str
) -> dict[str, Any]:
    """The body of POST /containers/create for a container that does nothing but hold volumes mounted.

    `places`: where it has each of the sandbox's parts. The engine fills them; it can read none of the files.
    """
    mounts = [volume_mount(part_volume(sandbox.name, part), target) for part, target in places.items()]
    return {
        "Image": image,
        "Cmd": ["keep"],
        "User": USER,
        "StopTimeout": 2,
        "NetworkDisabled": True,
        "Labels": _companion_labels(sandbox, project, run, "keeper"),
        "HostConfig": {**_companion_host(memory=_MEMORY, pids=16), "NetworkMode": "none", "Mounts": mounts},
    }


def _companion_labels(sandbox: DeclaredSandbox, project: str, run: str, role: str) -> dict[str, str]:
    """The labels of a container that lives and goes with a sandbox."""
    return {labels.PROJECT: project, labels.SANDBOX: sandbox.address, labels.RUN: run, labels.ROLE: role}


def _companion_host(*, memory: int, pids: int) -> dict[str, Any]:
    """The HostConfig that gateways and keepers have in common: nothing that they don't need."""
    return {
        "CapDrop": ["ALL"],
        "SecurityOpt": ["no-new-privileges=true", f"seccomp={seccomp.to_engine('sandboxrun')}"],
        "ReadonlyRootfs": True,
        "Memory": memory,
        "MemorySwap": memory,
        "NanoCpus": 1_000_000_000,
        "PidsLimit": pids,
        "Ulimits": [
            {"Name": "core", "Soft": 0, "Hard": 0},
            {"Name": "nofile", "Soft": 4096, "Hard": 4096},
        ],
        "Init": True,
        "IpcMode": "private",
        "CgroupnsMode": "private",
        "RestartPolicy": {"Name": "no"},
        "LogConfig": {"Type": "local", "Config": {"max-size": "1m", "max-file": "2"}},
    }


# What no companion asks for: an engine that has one of them gave it more than it may have.
_UNASKED = (
    "AutoRemove", "Binds", "CapAdd", "CgroupParent", "DeviceCgroupRules", "DeviceRequests", "Devices", "ExtraHosts",
    "GroupAdd", "Links", "OomKillDisable", "PidMode", "PortBindings", "Privileged", "PublishAllPorts", "Sysctls",
    "Tmpfs", "UTSMode", "VolumesFrom",
)  # fmt: skip


def not_taken(payload: Mapping[str, Any], inspect: Mapping[str, Any]) -> Iterator[str]:
    """The fields of a companion's payload that the engine did not apply, and what it applied unasked, by name."""
    live, asked = inspect.get("HostConfig") or {}, payload["HostConfig"]
    for field, wanted in asked.items():
        if field == "Mounts":
            mounted = {(m.get("Name"), m.get("Destination")) for m in inspect.get("Mounts") or ()}
            if mounted != {(m["Source"], m["Target"]) for m in wanted}:
                yield "HostConfig.Mounts"
        elif field == "RestartPolicy":
            if (live.get(field) or {}).get("Name") not in ("no", ""):
                yield f"HostConfig.{field}"
        elif (live.get(field) or None) != (wanted or None):
            yield f"HostConfig.{field}"
    yield from (f"HostConfig.{field}" for field in _UNASKED if field not in asked and live.get(field))
    if any(live.get(field) == [] for field in ("MaskedPaths", "ReadonlyPaths")):
        yield "HostConfig.MaskedPaths"
    config = inspect.get("Config") or {}
    if config.get("User") != payload.get("User"):
        yield "Config.User"
    if not payload.get("Labels", {}).items() <= labels.read(config.get("Labels")).items():
        yield "Config.Labels"  # nobody would collect it
