"""Containers of the engine as what the review judges: a project's sandboxes, or every container there is.

Owns how an engine's answer about a container becomes a `Subject`. Nothing is changed, and nothing is asked of a
container itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from msgspec import structs

from sandboxrun.audit.finding import AuditFinding, Hit, placed
from sandboxrun.audit.rules.image import below_floors
from sandboxrun.audit.subject import (
    CONTAINER,
    JoinedNetwork,
    Mounted,
    Port,
    Scratch,
    Subject,
    log_options,
    network_of,
    scratch_of,
    with_sharing,
)
from sandboxrun.backend.docker.fields import held_by_init, is_init_mount
from sandboxrun.backend.docker.observe import own_sandboxes
from sandboxrun.spec import labels, seccomp
from sandboxrun.spec.forms import split_security
from sandboxrun.spec.names import Names
from sandboxrun.spec.records import Device
from sandboxrun.spec.types import freeze

if TYPE_CHECKING:
    from sandboxrun.backend.docker.client import Engine

Json = Mapping[str, Any]


def every_container(engine: Engine) -> tuple[Subject, ...]:
    """All running containers of the engine, whoever made them."""
    running = [str(one["Id"]) for one in engine.containers() if one.get("State") in ("running", "paused", "restarting")]
    return _judged(engine, engine.inspect_containers(running))


def running_sandboxes(engine: Engine, names: Names) -> tuple[Subject, ...]:
    """The sandboxes of a project that run, as they are now; what their gateways let out is as it was applied."""
    seen = [one for one in own_sandboxes(engine, names) if (one.document.get("State") or {}).get("Running")]
    made = {subject.name: subject for subject in _judged(engine, [one.document for one in seen])}
    found = []
    for one in seen:
        subject, applied = made[one.name], one.applied
        if applied is not None and applied.egress is not None:
            subject = structs.replace(subject, reach=applied.egress)
        found.append(structs.replace(subject, name=one.address))
    return tuple(found)


def components(engine: Engine) -> Mapping[str, str]:
    """The versions of the engine and of the programs that it uses."""
    listed = engine.version().get("Components")
    found = [one for one in listed if isinstance(one, dict)] if isinstance(listed, list) else []
    return freeze({str(one.get("Name")): str(one.get("Version") or "") for one in found})


def engine_findings(engine: Engine) -> list[AuditFinding]:
    """What is known of the versions of the engine itself."""
    itself = Subject(name="the engine", kind=CONTAINER)
    return [
        placed(rule, Hit("", message, item=floor.cve), itself)
        for rule, floor, message in below_floors(components(engine))
    ]


def _judged(engine: Engine, answers: Iterable[Json]) -> tuple[Subject, ...]:
    networks = {str(one.get("Name")): one for one in engine.networks()}
    return with_sharing([subject_of(answer, networks) for answer in answers])


def subject_of(answer: Json, networks: Mapping[str, Json]) -> Subject:
    """A container by the engine's answer; `networks` are the engine's by name."""
    config: Json = answer.get("Config") or {}
    host: Json = answer.get("HostConfig") or {}
    mode = str(host.get("NetworkMode") or "")
    quota = max(0, host.get("CpuQuota") or 0) / (host.get("CpuPeriod") or 100_000)
    cpus = (host.get("NanoCpus") or 0) / 1e9 or quota
    log: Json = host.get("LogConfig") or {}
    restart: Json = host.get("RestartPolicy") or {}
    name, count = str(restart.get("Name") or "no"), restart.get("MaximumRetryCount") or 0
    environment = dict(str(entry).partition("=")[::2] for entry in config.get("Env") or ())
    hosts: dict[str, tuple[str, ...]] = {}
    for line in _texts(host.get("ExtraHosts")):
        alias, _, address = line.partition(":")
        hosts[alias] = (*hosts.get(alias, ()), address.strip("[]"))
    health: Json = config.get("Healthcheck") or {}
    pids, held = host.get("PidsLimit") or 0, held_by_init(answer)
    return Subject(
        name=str(answer.get("Name") or "").removeprefix("/"),
        kind=CONTAINER,
        image=str(config.get("Image") or "") or None,
        user=str(config.get("User") or "") or None,
        groups=_texts(host.get("GroupAdd")),
        privileged=bool(host.get("Privileged")),
        cap_add=_texts(host.get("CapAdd")),
        cap_drop=_texts(host.get("CapDrop")),
        security=freeze(dict(_security(host))),
        namespaces=freeze(dict(_namespaces(host, mode))),
        devices=tuple(
            Device(
                source=str(one.get("PathOnHost")),
                target=str(one.get("PathInContainer")),
                permissions=str(one.get("CgroupPermissions")),
            )
            for one in host.get("Devices") or ()
        ),
        device_rules=_texts(host.get("DeviceCgroupRules")),
        gpus=bool(host.get("DeviceRequests")),
        sysctls=freeze({str(key): str(value) for key, value in (host.get("Sysctls") or {}).items()}),
        cgroup_parent=str(host.get("CgroupParent") or ""),
        oom_kill_disable=bool(host.get("OomKillDisable")),
        oom_score_adj=int(host.get("OomScoreAdj") or 0),
        read_only=bool(host.get("ReadonlyRootfs")),
        mounts=tuple(_mounts(answer)),
        volumes_from=_texts(host.get("VolumesFrom")),
        scratch=tuple(_scratch(host)),
        networks=tuple(_networks(answer, mode, networks)),
        no_network=mode == "none",
        ports=tuple(_ports(host)),
        dns=_texts(host.get("Dns")),
        hosts=freeze(hosts),
        memory=host.get("Memory") or None,
        swap=host.get("MemorySwap"),
        cpus=cpus or None,
        pids=pids if pids > 0 else None,
        ulimits=freeze({str(one.get("Name")): int(one.get("Hard") or 0) for one in host.get("Ulimits") or ()}),
        log_driver=str(log.get("Type") or ""),
        log_options=log_options(str(log.get("Type") or ""), log.get("Config") or {}),
        restart=f"{name}:{count}" if name == "on-failure" and count else name,
        healthcheck=bool(health.get("Test")) and health.get("Test") != ["NONE"],
        environment=freeze(environment),
        command=_texts(config.get("Cmd")),
        entrypoint=held.entrypoint if held is not None else _texts(config.get("Entrypoint")),
        labels=freeze(labels.of_user(config.get("Labels"))),
        working_dir=str(config.get("WorkingDir") or ""),
        runtime=str(host.get("Runtime") or ""),
    )


def _texts(value: Any) -> tuple[str, ...]:
    return tuple(map(str, value or ()))


def _security(host: Json) -> Iterator[tuple[str, str]]:
    for text in _texts(host.get("SecurityOpt")):
        name, value = split_security(text)
        yield name, seccomp.from_engine(value) if name == "seccomp" else value
    if host.get("MaskedPaths") == [] and host.get("ReadonlyPaths") == [] and not host.get("Privileged"):
        yield "systempaths", "unconfined"


def _namespaces(host: Json, mode: str) -> Iterator[tuple[str, str]]:
    fields = {"pid": "PidMode", "ipc": "IpcMode", "uts": "UTSMode", "cgroup": "CgroupnsMode", "userns": "UsernsMode"}
    for which, field in fields.items():
        value = str(host.get(field) or "")
        if value == "host" or value.startswith("container:"):
            yield which, value
    if mode == "host" or mode.startswith("container:") or mode in ("bridge", "default"):
        yield "network", "bridge" if mode == "default" else mode


def _mounts(answer: Json) -> Iterator[Mounted]:
    for mount in answer.get("Mounts") or ():
        kind = str(mount.get("Type") or "bind")
        if kind == "tmpfs" or is_init_mount(mount):
            continue
        name = str(mount.get("Name") or "")
        anonymous = len(name) == 64 and all(character in "0123456789abcdef" for character in name)
        source = str(mount.get("Source") or "") if kind != "volume" else "" if anonymous else name
        yield Mounted(
            kind=kind,
            source=source,
            target=str(mount.get("Destination") or ""),
            written=source,
            read_only=not mount.get("RW"),
            propagation=str(mount.get("Propagation") or ""),
        )


def _scratch(host: Json) -> Iterator[Scratch]:
    for target, text in (host.get("Tmpfs") or {}).items():
        yield scratch_of(str(target), str(text).split(","))
    for mount in host.get("Mounts") or ():
        if mount.get("Type") == "tmpfs":
            own: Json = mount.get("TmpfsOptions") or {}
            yield Scratch(target=str(mount.get("Target")), size=own.get("SizeBytes") or None, exec=False)


def _networks(answer: Json, mode: str, known: Mapping[str, Json]) -> Iterator[JoinedNetwork]:
    if mode in ("host", "none") or mode.startswith("container:"):
        return
    for name in (answer.get("NetworkSettings") or {}).get("Networks") or {}:
        found = known.get(str(name)) or {}
        options = {str(key): str(value) for key, value in (found.get("Options") or {}).items()}
        yield network_of(
            str(name),
            options,
            internal=bool(found.get("Internal")),
            ipv6=bool(found.get("EnableIPv6")),
            driver=str(found.get("Driver") or ""),
        )


def _ports(host: Json) -> Iterator[Port]:
    for target, bindings in (host.get("PortBindings") or {}).items():
        for binding in bindings or ():
            address, port = str(binding.get("HostIp") or ""), str(binding.get("HostPort") or "")
            inner = str(target).partition("/")[0]
            yield Port(target=inner, address=address, written=f"{port}:{inner}")
