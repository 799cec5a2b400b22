"""Options of place: files, networks, and the sandbox's life as a task."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from sandboxrun.model import convert, forms, labels
from sandboxrun.model import placements as at
from sandboxrun.model.attach import Named
from sandboxrun.model.composite import ListOf
from sandboxrun.model.egress import Address, Egress, EgressOption
from sandboxrun.model.hosts import Hosts
from sandboxrun.model.names import CONFIGS, SECRETS
from sandboxrun.model.option import Effect, option
from sandboxrun.model.records import (
    Attachment,
    AttachmentType,
    Dependency,
    DependencyType,
    EvidencePolicy,
    EvidenceType,
    FileRef,
    FileRefType,
    Lifetime,
    LifetimeType,
    Mount,
    MountType,
)
from sandboxrun.model.tmpfs import Tmpfs, read_options
from sandboxrun.model.types import Choice, Text, freeze
from sandboxrun.model.wired import Resolvers, Wiring
from sandboxrun.model.workspace import Workspace, WorkspaceType

SECRETS_AT, CONFIGS_AT = "/run/secrets", "/run/configs"


def _target(mount: Mount) -> str:
    return mount.target


def _file_name(ref: FileRef) -> str:
    return ref.file_name


@attrs.frozen(kw_only=True, slots=False, eq=False, repr=False)  # a part of SandboxSpec only
class PlaceOptions:
    """Rows of files, networks and the task."""

    tmpfs: Mapping[str, str] = option(
        Tmpfs(),
        default=freeze({"/tmp": read_options("mode=1777")}),
        description="Memory filesystems; noexec, nosuid, nodev and size=64m unless said otherwise.",
        example=["/tmp:size=64m"],
        at=at.Host("Tmpfs", write=dict, read=convert.mapping),
        always=True,
        merge="map",
    )
    volumes: tuple[Mount, ...] = option(
        ListOf(item=MountType, unique=True, key=_target),
        default=(),
        description="Host paths and volumes in the sandbox.",
        example=["./data:/data:ro"],
        at=at.Volumes(),
        always=True,
        merge="target",
    )
    workspace: Workspace | None = option(
        WorkspaceType,
        default=None,
        description="The files the agent works on.",
        example={"source": ".", "target": "/workspace", "access": "copy"},
        at=at.WorkspaceMount(),
        always=True,
        merge="map",
    )
    secrets: tuple[FileRef, ...] = option(
        ListOf(item=FileRefType, unique=True, ordered=False, key=_file_name),
        default=(),
        description="Secrets, as files under /run/secrets that only the sandbox's user can read.",
        example=["api_key"],
        at=at.Files(SECRETS, labels.SECRETS, SECRETS_AT),
        always=True,
        merge="append",
    )
    configs: tuple[FileRef, ...] = option(
        ListOf(item=FileRefType, unique=True, ordered=False, key=_file_name),
        default=(),
        description="Configuration files, under /run/configs.",
        example=["settings"],
        at=at.Files(CONFIGS, labels.CONFIGS, CONFIGS_AT),
        merge="append",
    )
    network_mode: str = option(
        Choice(values=("bridge", "none")),
        default="bridge",
        description="bridge: a network of its own, never the engine's shared one; none: no network at all.",
        example="none",
        at=at.NetworkMode(),
        always=True,
    )
    networks: Mapping[str, Attachment] = option(
        Named(item=AttachmentType, empty=Attachment()),
        default=freeze({}),
        description="Networks of the project that it joins, without a gateway: what they reach, it reaches.",
        example=["default"],
        at=at.Networks(),
        effect=Effect.RECONNECT,
        always=True,
        merge="map",
    )
    dns: tuple[str, ...] = option(
        ListOf(item=Address, single=True, unique=True),
        default=(),
        description="Name servers, of a sandbox that names networks: with a gateway it asks none.",
        example=["127.0.0.1"],
        at=Resolvers(),
        merge="append",
    )
    egress: Egress | None = option(
        EgressOption(),
        default=None,
        description="What it reaches, through a gateway of its own. Left out: nothing with network_mode none, what its "
        "networks reach where it names networks, else every public host (open).",
        example={"allow": ["api.example.com:443", "*.models.example.org:443"]},
        at=Wiring(),
        effect=Effect.RELOAD,
        always=True,
    )
    dns_search: tuple[str, ...] = option(
        ListOf(item=Text(hint="a domain", form=forms.domain), single=True, unique=True),
        default=(),
        description="Search domains.",
        example=["example.com"],
        at=at.Host("DnsSearch", write=list, read=convert.words_in(forms.domain)),
        merge="append",
    )
    dns_opt: tuple[str, ...] = option(
        ListOf(item=Text(hint="an option of resolv.conf"), unique=True, ordered=False, key=forms.resolver_option),
        default=(),
        description="Options of the resolver.",
        example=["timeout:2"],
        at=at.Host("DnsOptions", write=list, read=convert.resolver_options),
        merge="append",
    )
    extra_hosts: Mapping[str, tuple[str, ...]] = option(
        Hosts(),
        default=freeze({}),
        description="Lines for /etc/hosts: names with an address, or several. IPv6 may be in brackets; host-gateway is "
        "an address of the host.",
        example={"api.example.com": "192.0.2.10"},
        at=at.Host("ExtraHosts", write=convert.to_hosts, read=convert.from_hosts),
        merge="map",
    )
    depends_on: Mapping[str, Dependency] = option(
        Named(item=DependencyType, empty=Dependency()),
        default=freeze({}),
        description="Sandboxes that come first, and what must hold of them.",
        example={"build": {"condition": "service_completed_successfully"}},
        effect=Effect.NONE,
        merge="map",
    )
    lifetime: Lifetime = option(
        LifetimeType,
        default=Lifetime(),
        description="How long it may live.",
        example={"timeout": "30m", "ttl": "2h"},
        effect=Effect.NONE,
        merge="map",
    )
    evidence: EvidencePolicy = option(
        EvidenceType,
        default=EvidencePolicy(),
        description="What is kept of a run, beside what is always kept.",
        example={"artifacts": ["/workspace/report"]},
        effect=Effect.NONE,
        merge="map",
    )
