"""Every option of a sandbox, one row each, by theme: process, resources, privilege, files and networks.

A row is the only place where an option is declared; where it lives on an engine is that engine's backend's to say.
"""

from __future__ import annotations

from collections.abc import Mapping

from sandboxrun.spec import forms, labels, records
from sandboxrun.spec.option import Effect, RowData, fixed, option
from sandboxrun.spec.option_types import CLOSED_OPTIONS as CLOSED
from sandboxrun.spec.option_types import (
    Address,
    Capabilities,
    Egress,
    EgressOption,
    Gpus,
    Hosts,
    Named,
    Restart,
    SecurityOpts,
    Tmpfs,
    read_options,
)
from sandboxrun.spec.types import Choice, Command, Cpus, Duration, Flag, Integer, ListOf, Pairs, Size, Text, freeze

# -- Options of the process: what runs, as whom, with what around it

NAME = Text(pattern=r"[A-Za-z_][A-Za-z0-9_.-]*", hint="a variable's name")
LABEL = Text(pattern=r"[^=\x00\s]+", hint="a label's name")


class ProcessOptions(RowData):
    """Rows of the process."""

    image: str = option(
        Text(
            pattern=r"[A-Za-z0-9]([A-Za-z0-9._/:@-]{0,510}[A-Za-z0-9._-])?", hint="an image reference", form=forms.image
        ),
        default="node:20-alpine",
        description="The image to run, by tag or, better, by digest.",
        example="node:20-alpine",
    )
    command: tuple[str, ...] | None = option(
        Command(),
        default=None,
        description="The command, in place of the image's: the arguments of the entry point where there is one, [] for "
        "none. The image's own, when left out, runs only where no entrypoint is set.",
        example=["node", "/agent/run.js"],
        inherited=True,
    )
    entrypoint: tuple[str, ...] | None = option(
        Command(),
        default=None,
        description="The entry point, in place of the image's. The image's command is not used then, also where both "
        "entry points are equal: set command too. [] takes the image's entry point away and leaves its command.",
        example=["/usr/bin/env"],
        inherited=True,
    )
    user: str = option(
        Text(
            numbers=True,
            pattern=r"[A-Za-z0-9_][A-Za-z0-9_.-]*(:[A-Za-z0-9_][A-Za-z0-9_.-]*)?",
            hint="uid or uid:gid",
            form=forms.account,
        ),
        default="1000:1000",
        description="The user, and group, that the command runs as; never root unless set explicitly.",
        example="1000:1000",
        always=True,
    )
    working_dir: str | None = option(
        Text(pattern=r"/[^\x00]*", hint="an absolute path", form=forms.path),
        default=None,
        description="The working directory. Default: the workspace's target, if there is one.",
        example="/workspace",
        inherited=True,
    )
    environment: Mapping[str, str | None] = option(
        Pairs(bare=True, name=NAME),
        default=freeze({}),
        description="Environment variables. Not for secrets: anyone who can inspect the container can read them.",
        example={"CI": "1"},
        inherited=True,
        merge="map",
    )
    init: bool = option(
        Flag(),
        default=True,
        description="Run an init as PID 1, which forwards signals and reaps children.",
        example=True,
    )
    tty: bool = option(
        Flag(),
        default=False,
        description="Allocate a terminal; stdout and stderr become one stream.",
        example=False,
    )
    stdin_open: bool = option(Flag(), default=False, description="Keep standard input open.", example=False)
    stop_signal: str | None = option(
        Text(pattern=r"[A-Za-z0-9+-]{1,12}", hint="a signal's name or number", numbers=True, form=forms.signal),
        default=None,
        description="The signal that asks the command to end.",
        example="SIGTERM",
        inherited=True,
    )
    stop_grace_period: int = option(
        Duration(),
        default=10_000_000_000,
        description="How long it may take to exit after the stop signal before it is killed, in whole seconds.",
        example="10s",
    )
    restart: str = option(
        Restart(),
        default="no",
        description="Whether the engine starts it again. A sandbox is a task: leave it at no.",
        example="no",
        effect=Effect.LIVE,
    )
    healthcheck: records.Healthcheck | None = option(
        records.HealthcheckType,
        default=None,
        description="How the engine tests that the sandbox is healthy.",
        example={"test": ["CMD", "true"], "interval": "30s"},
        inherited=True,
        merge="map",
    )
    hostname: str | None = option(
        Text(pattern=r"[A-Za-z0-9]([A-Za-z0-9.-]{0,61}[A-Za-z0-9])?", hint="a host name"),
        default=None,
        description="The host name inside.",
        example="agent",
    )
    labels: Mapping[str, str] = option(
        Pairs(name=LABEL, reserved=labels.PREFIX, told=labels.TOLD),
        default=freeze({}),
        description="Custom labels.",
        example={"team": "research"},
        inherited=True,
        merge="map",
    )
    annotations: Mapping[str, str] = option(
        Pairs(name=LABEL),
        default=freeze({}),
        description="Annotations for the OCI runtime.",
        example={"com.example.note": "reviewed"},
        since="1.43",
        merge="map",
    )
    platform: str | None = option(
        Text(pattern=r"[A-Za-z0-9_-]+(/[A-Za-z0-9_-]+){0,2}", hint="os/arch[/variant]", form=forms.platform),
        default=None,
        description="The platform of the image: os/arch[/variant], or one of the two.",
        example="linux/amd64",
    )
    pull_policy: str = option(
        Choice(values=("missing", "always", "never", "if_not_present")),
        default="missing",
        description="When the image is pulled.",
        example="missing",
        effect=Effect.NONE,
    )
    runtime: str | None = option(
        Text(pattern=r"[A-Za-z0-9._-]+", hint="the name of a runtime"),
        default=None,
        description="The OCI runtime, for example runsc for gVisor. Default: the engine's.",
        example="runsc",
    )
    logging: records.Logging = option(
        records.LoggingType,
        default=records.Logging(),
        description="Where the engine writes the output, and how much of it is kept.",
        example={"driver": "local", "options": {"max-size": "10m", "max-file": "3"}},
    )
    group_add: tuple[str, ...] = option(
        ListOf(
            item=Text(numbers=True, pattern=r"[A-Za-z0-9_][A-Za-z0-9_.-]*", hint="a group", form=forms.account),
            unique=True,
            ordered=False,
        ),
        default=(),
        description="Additional groups of the user.",
        example=["2000"],
        merge="append",
    )


# -- Options of resources: how much of the machine a sandbox may use

MIB = 1024**2


class ResourceOptions(ProcessOptions):
    """Rows of resources."""

    mem_limit: int = option(
        Size(),
        default=512 * MIB,
        description="Memory, a hard limit: beyond it the sandbox is killed and reported as OOM. 0 is unlimited.",
        example="512m",
        effect=Effect.LIVE,
        together=("memswap_limit",),
        can_clear=False,
        always=True,
    )
    memswap_limit: int | None = option(
        Size(unlimited=True),
        default=None,
        description="Memory and swap together; equal to mem_limit when left out, that is no swap. -1 or unlimited is"
        " unlimited.",
        example="512m",
        effect=Effect.LIVE,
        together=("mem_limit",),
        can_clear=False,
        always=True,
    )
    mem_reservation: int = option(
        Size(),
        default=0,
        description="Memory that the engine tries to keep available to the sandbox when the host runs short.",
        example="256m",
        effect=Effect.LIVE,
        can_clear=False,
    )
    cpus: float = option(
        Cpus(),
        default=1.0,
        description="CPU time, as a number of CPUs. 0 is unlimited.",
        example=1.5,
        effect=Effect.LIVE,
        can_clear=False,
        always=True,
    )
    cpu_shares: int = option(
        Integer(most=262144),
        default=0,
        description="Relative weight when CPUs are short; 0 is the engine's default of 1024.",
        example=512,
        effect=Effect.LIVE,
        can_clear=False,
    )
    cpuset: str | None = option(
        Text(
            pattern=r"[0-9]{1,6}(-[0-9]{1,6})?(,[0-9]{1,6}(-[0-9]{1,6})?)*",
            hint="CPUs, such as 0-1 or 0,2",
            numbers=True,
            form=forms.cpus,
        ),
        default=None,
        description="The CPUs it may run on.",
        example="0-1",
        effect=Effect.LIVE,
        can_clear=False,
    )
    pids_limit: int = option(
        Integer(least=-1),
        default=256,
        description="Processes and threads, in total. 0 or -1 is unlimited.",
        example=256,
        effect=Effect.LIVE,
        always=True,
    )
    ulimits: Mapping[str, records.Ulimit] = option(
        records.Ulimits,
        default=freeze({"core": records.Ulimit(soft=0, hard=0), "nofile": records.Ulimit(soft=4096, hard=4096)}),
        description="Limits of each process: open files, core dumps and so on.",
        example={"nofile": 1024, "core": {"soft": 0, "hard": 0}},
        merge="map",
    )
    shm_size: int = option(Size(), default=64 * MIB, description="The size of /dev/shm.", example="64m")
    storage_opt: Mapping[str, str] = option(
        Pairs(),
        default=freeze({}),
        description="Options of the storage driver: size limits the writable layer if the engine supports quotas.",
        example={"size": "1g"},
        merge="map",
    )
    oom_score_adj: int = option(
        Integer(least=0, most=1000),
        default=0,
        description="How soon the kernel picks the sandbox when the host runs out of memory; never below 0.",
        example=500,
    )
    devices: tuple[records.Device, ...] = option(
        ListOf(item=records.DeviceType, unique=True, ordered=False, key=records.device_target),
        default=(),
        description="Host devices in the sandbox.",
        example=["/dev/fuse:/dev/fuse:rw"],
        merge="append",
        always=True,
    )
    gpus: int | None = option(Gpus(), default=None, description="GPUs: all, or how many.", example="all", always=True)


# -- Options of privilege: what the kernel lets the sandbox do. Some are fixed: no profile can change them


class SecurityOptions(ResourceOptions):
    """Rows of privilege."""

    read_only: bool = option(
        Flag(), default=True, description="Mount the root filesystem read-only.", example=True, always=True
    )
    cap_drop: tuple[str, ...] = option(
        Capabilities,
        default=("ALL",),
        description="Capabilities to drop. Default: all.",
        example=["ALL"],
        always=True,
        merge="append",
    )
    cap_add: tuple[str, ...] = option(
        Capabilities,
        default=(),
        description="Capabilities to add.",
        example=["NET_BIND_SERVICE"],
        always=True,
        merge="append",
    )
    security_opt: Mapping[str, str] = option(
        SecurityOpts(),
        default=CLOSED,
        description="Security options of the engine; no-new-privileges and seccomp=sandboxrun stay on unless you name "
        "another value. seccomp is sandboxrun, debug (opens ptrace), engine (the engine's own), unconfined or a file.",
        example=["no-new-privileges:true", "seccomp=debug"],
        always=True,
        merge="map",
    )
    userns_mode: str | None = option(
        Choice(values=("host",)),
        default=None,
        description="host turns the engine's user namespaces off for this sandbox.",
        example="host",
        always=True,
    )
    ipc: str = option(
        Choice(values=("private", "none", "shareable")),
        default="private",
        description="The IPC namespace; none has no /dev/shm.",
        example="private",
        always=True,
    )
    sysctls: Mapping[str, str] = option(
        Pairs(name=Text(pattern=r"[a-z0-9_]+([./][A-Za-z0-9_-]+)+", hint="the name of a sysctl", form=forms.sysctl)),
        default=freeze({}),
        description="Kernel parameters of the sandbox's own namespaces.",
        example={"net.ipv4.ip_unprivileged_port_start": "0"},
        always=True,
        merge="map",
    )
    privileged: bool = fixed(Flag(), False, "Never.")
    pid: str = fixed(Choice(values=("",)), "", "The PID namespace is always the sandbox's own.")
    uts: str = fixed(Choice(values=("",)), "", "The UTS namespace is always the sandbox's own.")
    cgroup: str = fixed(Choice(values=("private",)), "private", "The cgroup namespace is always the sandbox's own.")
    system_paths: str = fixed(
        Choice(values=("masked", "open")), "masked", "What the engine masks below /proc and /sys stays masked."
    )
    ports: tuple[str, ...] = fixed(ListOf(item=Text()), (), "No port is published.")
    publish_all_ports: bool = fixed(Flag(), False, "Nor are those that the image names.")
    volumes_from: tuple[str, ...] = fixed(ListOf(item=Text()), (), "No other container's mounts.")
    device_cgroup_rules: tuple[str, ...] = fixed(ListOf(item=Text()), (), "No devices but those of `devices`.")
    cgroup_parent: str = fixed(
        Text(), "", "The sandbox's cgroup is in the engine's own: what the host's owner limits there holds."
    )
    oom_kill_disable: bool = fixed(Flag(), False, "A sandbox beyond its memory limit is ended.")
    auto_remove: bool = fixed(Flag(), False, "Never: it loses the evidence.")


# -- Options of place: files, networks, and the sandbox's life as a task

SECRETS_AT, CONFIGS_AT = "/run/secrets", "/run/configs"
INIT_AT = "/.sandboxrun"  # the init of a sandbox with a timeout, read-only


def _target(mount: records.Mount) -> str:
    return mount.target


def _file_name(ref: records.FileRef) -> str:
    return ref.file_name


class PlaceOptions(SecurityOptions):
    """Rows of files, networks and the task."""

    tmpfs: Mapping[str, str] = option(
        Tmpfs(),
        default=freeze({"/tmp": read_options("mode=1777")}),
        description="Memory filesystems; noexec, nosuid, nodev and size=64m unless set otherwise.",
        example=["/tmp:size=64m"],
        always=True,
        merge="map",
    )
    volumes: tuple[records.Mount, ...] = option(
        ListOf(item=records.MountType, unique=True, key=_target),
        default=(),
        description="Host paths and volumes in the sandbox.",
        example=["./data:/data:ro"],
        always=True,
        merge="target",
    )
    workspace: records.Workspace | None = option(
        records.WorkspaceType,
        default=None,
        description="The files the agent works on.",
        example={"source": ".", "target": "/workspace", "access": "copy"},
        always=True,
        merge="map",
    )
    secrets: tuple[records.FileRef, ...] = option(
        ListOf(item=records.FileRefType, unique=True, ordered=False, key=_file_name),
        default=(),
        description="Secrets, as files under /run/secrets that only the sandbox's user can read.",
        example=["api_key"],
        always=True,
        merge="append",
    )
    configs: tuple[records.FileRef, ...] = option(
        ListOf(item=records.FileRefType, unique=True, ordered=False, key=_file_name),
        default=(),
        description="Configuration files, under /run/configs.",
        example=["settings"],
        merge="append",
    )
    network_mode: str = option(
        Choice(
            values=("bridge", "none"),
            refused={
                "host": "a sandbox never has the host's network; set egress: for what it may reach",
                "default": "leave it out, or write bridge",
            },
        ),
        default="bridge",
        description="bridge: a network of its own, never the engine's shared one; none: no network at all.",
        example="none",
        always=True,
    )
    networks: Mapping[str, records.Attachment] = option(
        Named(item=records.AttachmentType, empty=records.Attachment()),
        default=freeze({}),
        description="Networks of the project to join, without a gateway: it reaches what they reach.",
        example=["default"],
        effect=Effect.RECONNECT,
        always=True,
        merge="map",
    )
    dns: tuple[str, ...] = option(
        ListOf(item=Address, single=True, unique=True),
        default=(),
        description="Name servers, for a sandbox with `networks`: a gateway is its own name server.",
        example=["127.0.0.1"],
        merge="append",
    )
    egress: Egress | None = option(
        EgressOption(),
        default=None,
        description="What it reaches, through a gateway of its own. Left out: nothing with network_mode none, what its "
        "networks reach where it names networks, else every public host (open).",
        example={"allow": ["api.example.com:443", "*.models.example.org:443"]},
        effect=Effect.RELOAD,
        always=True,
    )
    dns_search: tuple[str, ...] = option(
        ListOf(item=Text(hint="a domain", form=forms.domain), single=True, unique=True),
        default=(),
        description="Search domains.",
        example=["example.com"],
        merge="append",
    )
    dns_opt: tuple[str, ...] = option(
        ListOf(item=Text(hint="an option of resolv.conf"), unique=True, ordered=False, key=forms.resolver_option),
        default=(),
        description="Options of the resolver.",
        example=["timeout:2"],
        merge="append",
    )
    extra_hosts: Mapping[str, tuple[str, ...]] = option(
        Hosts(),
        default=freeze({}),
        description="Lines for /etc/hosts: names with an address, or several. IPv6 may be in brackets; host-gateway is "
        "an address of the host.",
        example={"api.example.com": "192.0.2.10"},
        merge="map",
    )
    depends_on: Mapping[str, records.Dependency] = option(
        Named(item=records.DependencyType, empty=records.Dependency()),
        default=freeze({}),
        description="Sandboxes that must come first, and the condition each must meet.",
        example={"build": {"condition": "service_completed_successfully"}},
        effect=Effect.NONE,
        merge="map",
    )
    lifetime: records.Lifetime = option(
        records.LifetimeType,
        default=records.Lifetime(),
        description="Time limits.",
        example={"timeout": "30m", "ttl": "2h"},
        effect=Effect.NONE,
        merge="map",
    )
    evidence: records.EvidencePolicy = option(
        records.EvidenceType,
        default=records.EvidencePolicy(),
        description="What to save of a run, in addition to what is always saved.",
        example={"artifacts": ["/workspace/report"]},
        effect=Effect.NONE,
        merge="map",
    )
