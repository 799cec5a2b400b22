"""A profile's sandboxes as what the rules judge.

Owns how options become a `Subject`. Pure; what lies on the disk is the caller's to say (`Disk`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from sandboxrun.audit.subject import (
    PROFILE,
    GivenFile,
    Mounted,
    Subject,
    callers,
    log_options,
    network_of,
    scratch_of,
    with_sharing,
)
from sandboxrun.data import Data
from sandboxrun.spec.forms import below, is_of_the_host
from sandboxrun.spec.project import DeclaredSandbox, FileSpec, NetworkSpec, Profile
from sandboxrun.spec.records import FileRef
from sandboxrun.spec.types import freeze


class Disk(Data):
    """What the caller knows of the host's files: where links lead, and what a directory holds of what hosts run."""

    real: Callable[[str], str] = lambda path: path
    holds: Callable[[str], tuple[str, ...]] = lambda path: ()
    caller: Callable[[str], str | None] = callers  # the values that bare names of `environment` were given


def subjects(profile: Profile, disk: Disk | None = None) -> tuple[Subject, ...]:
    """Every sandbox of a profile, each with who else uses its networks and volumes."""
    disk = disk or Disk()
    return with_sharing([_subject(sandbox, profile, disk) for sandbox in profile.sandboxes])


def _subject(sandbox: DeclaredSandbox, profile: Profile, disk: Disk) -> Subject:
    spec = sandbox.spec
    networks = ((name, profile.networks.get(name) or NetworkSpec()) for name in spec.networks)
    return Subject(
        name=sandbox.address,
        kind=PROFILE,
        image=spec.image,
        user=spec.user,
        groups=spec.group_add,
        cap_add=spec.cap_add,
        cap_drop=spec.cap_drop,
        security=spec.security_opt,
        namespaces=freeze({"userns": "host"} if spec.userns_mode == "host" else {}),
        devices=spec.devices,
        gpus=spec.gpus is not None,
        sysctls=spec.sysctls,
        oom_score_adj=spec.oom_score_adj,
        read_only=spec.read_only,
        mounts=tuple(_mounts(sandbox, profile, disk)),
        scratch=tuple(scratch_of(target, text.split(",")) for target, text in spec.tmpfs.items()),
        workspace=spec.workspace,
        networks=tuple(
            network_of(name, net.driver_opts, internal=net.internal, external=net.external, ipv6=net.enable_ipv6)
            for name, net in networks
        ),
        reach=spec.egress,
        no_network=spec.network_mode == "none",
        dns=spec.dns,
        hosts=spec.extra_hosts,
        memory=spec.mem_limit or None,
        swap=spec.memswap_limit,
        cpus=spec.cpus or None,
        pids=spec.pids_limit if spec.pids_limit > 0 else None,
        ulimits=freeze({name: limit.hard for name, limit in spec.ulimits.items()}),
        log_driver=spec.logging.driver,
        log_options=log_options(spec.logging.driver, spec.logging.options),
        restart=spec.restart,
        timeout=spec.lifetime.timeout,
        ttl=spec.lifetime.ttl,
        idle=spec.lifetime.idle,
        grace=spec.stop_grace_period,
        healthcheck=spec.healthcheck is not None and not spec.healthcheck.disable,
        artifacts=spec.evidence.artifacts,
        artifacts_limit=spec.evidence.artifacts_limit,
        environment=freeze(
            {name: None if value in profile.sensitive else value for name, value in spec.environment.items()}
        ),
        masked=tuple(
            name
            for name, value in spec.environment.items()
            if value in profile.sensitive and value != disk.caller(name)
        ),
        command=tuple(word for word in spec.command or () if word not in profile.sensitive),
        entrypoint=tuple(word for word in spec.entrypoint or () if word not in profile.sensitive),
        labels=spec.labels,
        secrets=tuple(_given(profile.secrets, spec.secrets)),
        configs=tuple(_given(profile.configs, spec.configs)),
        working_dir=spec.working_dir or "",
        runtime=spec.runtime or "",
        options=lambda: spec.plain,
        find=sandbox.place,
        via=lambda key: sandbox.provenance[key].via if key in sandbox.provenance else "",
    )


def _mounts(sandbox: DeclaredSandbox, profile: Profile, disk: Disk) -> Iterator[Mounted]:
    """Volumes, and a workspace and files that lie outside of the project: what is below it has rules of its own."""
    top, spec, work = disk.real(str(profile.directory)), sandbox.spec, sandbox.spec.workspace

    def bind(path: str, **said: Any) -> Mounted:
        real = disk.real(path)
        return Mounted(kind="bind", source=real, inside=below(real, top), holds=disk.holds(real), **said)

    def is_outside(path: str) -> bool:
        return not below(disk.real(path), top)

    if work is not None and is_outside(path := str(sandbox.workspace or work.source)):
        yield bind(path, target=work.target, written=work.source, read_only=work.access != "rw", key="workspace")
    for mount in spec.volumes:
        source = mount.source or ""
        if mount.type == "bind":
            yield bind(source, target=mount.target, written=source, read_only=mount.read_only)
            continue
        shown = profile.volumes[source].bound if source in profile.volumes else ""
        device = shown if is_of_the_host(shown) else ""
        yield Mounted(
            kind="bind" if device else "volume",
            source=device or source,
            target=mount.target,
            written=device or source,
            read_only=mount.read_only,
            inside=not device or below(device, str(profile.directory)),
        )
    for key, declared, refs in (("secrets", profile.secrets, spec.secrets), ("configs", profile.configs, spec.configs)):
        for ref in refs:
            file = (declared.get(ref.source) or FileSpec()).file
            if file is not None and is_outside(file):
                yield bind(file, target=ref.file_name, written=file, read_only=True, key=key)


def _given(declared: Mapping[str, FileSpec], refs: tuple[FileRef, ...]) -> Iterator[GivenFile]:
    for ref in refs:
        spec = declared.get(ref.source) or FileSpec()
        origin = next((key for key in ("file", "environment", "content") if getattr(spec, key) is not None), "")
        content, source = spec.content or "", spec.environment or ""
        yield GivenFile(name=ref.source, origin=origin, source=source, mode=ref.mode, content=content)
