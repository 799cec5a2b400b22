"""Options of privilege: what the kernel lets the sandbox do. Some are fixed: no profile can change them."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from sandboxrun.model import convert, forms
from sandboxrun.model import placements as at
from sandboxrun.model.capabilities import Capabilities
from sandboxrun.model.composite import ListOf, Pairs
from sandboxrun.model.option import option
from sandboxrun.model.security_opt import CLOSED, SecurityOpts
from sandboxrun.model.types import Choice, Flag, Text, freeze


@attrs.frozen(kw_only=True, slots=False, eq=False, repr=False)  # a part of SandboxSpec only
class SecurityOptions:
    """Rows of privilege."""

    read_only: bool = option(
        Flag(),
        default=True,
        description="Mount the root filesystem read-only.",
        example=True,
        at=at.Host("ReadonlyRootfs", read=convert.flag),
        always=True,
    )
    cap_drop: tuple[str, ...] = option(
        Capabilities(),
        default=("ALL",),
        description="Capabilities taken away. All of them, unless you say which.",
        example=["ALL"],
        at=at.Host("CapDrop", write=list, read=convert.capabilities),
        always=True,
        merge="append",
    )
    cap_add: tuple[str, ...] = option(
        Capabilities(),
        default=(),
        description="Capabilities given.",
        example=["NET_BIND_SERVICE"],
        at=at.Host("CapAdd", write=list, read=convert.capabilities),
        always=True,
        merge="append",
    )
    security_opt: Mapping[str, str] = option(
        SecurityOpts(),
        default=CLOSED,
        description="Security options of the engine; no-new-privileges and seccomp=sandboxrun stay on unless you name "
        "another value. seccomp is sandboxrun, debug (opens ptrace), engine (the engine's own), unconfined or a file.",
        example=["no-new-privileges:true", "seccomp=debug"],
        at=at.Host("SecurityOpt", write=convert.to_security, read=convert.from_security),
        always=True,
        merge="map",
    )
    userns_mode: str | None = option(
        Choice(values=("host",)),
        default=None,
        description="host turns the engine's user namespaces off for this sandbox.",
        example="host",
        at=at.Host("UsernsMode", read=convert.text_or_none),
        always=True,
    )
    ipc: str = option(
        Choice(values=("private", "none", "shareable")),
        default="private",
        description="The IPC namespace; none has no /dev/shm.",
        example="private",
        at=at.Host("IpcMode", read=convert.text),
        always=True,
    )
    sysctls: Mapping[str, str] = option(
        Pairs(name=Text(pattern=r"[a-z0-9_]+([./][A-Za-z0-9_-]+)+", hint="the name of a sysctl", form=forms.sysctl)),
        default=freeze({}),
        description="Kernel parameters of the sandbox's own namespaces.",
        example={"net.ipv4.ip_unprivileged_port_start": "0"},
        at=at.Host("Sysctls", write=dict, read=convert.mapping),
        always=True,
        merge="map",
    )
    privileged: bool = option(
        Flag(),
        default=False,
        description="Never.",
        at=at.Host("Privileged", read=convert.flag),
        always=True,
        settable=False,
    )
    pid: str = option(
        Choice(values=("",)),
        default="",
        description="The PID namespace is always the sandbox's own.",
        at=at.Host("PidMode", read=convert.text),
        always=True,
        settable=False,
    )
    uts: str = option(
        Choice(values=("",)),
        default="",
        description="The UTS namespace is always the sandbox's own.",
        at=at.Host("UTSMode", read=convert.text),
        always=True,
        settable=False,
    )
    cgroup: str = option(
        Choice(values=("private",)),
        default="private",
        description="The cgroup namespace is always the sandbox's own.",
        at=at.Host("CgroupnsMode", read=convert.text),
        always=True,
        settable=False,
    )
    system_paths: str = option(
        Choice(values=("masked", "open")),
        default="masked",
        description="What the engine masks below /proc and /sys stays masked.",
        at=at.SystemPaths(),
        always=True,
        settable=False,
    )
    ports: tuple[str, ...] = option(
        ListOf(item=Text()),
        default=(),
        description="No port is published.",
        at=at.Host("PortBindings", write=lambda _: {}, read=convert.names),
        always=True,
        settable=False,
    )
    publish_all_ports: bool = option(
        Flag(),
        default=False,
        description="Nor are those that the image names.",
        at=at.Host("PublishAllPorts", read=convert.flag),
        always=True,
        settable=False,
    )
    volumes_from: tuple[str, ...] = option(
        ListOf(item=Text()),
        default=(),
        description="No other container's mounts.",
        at=at.Host("VolumesFrom", write=list, read=convert.words),
        always=True,
        settable=False,
    )
    device_cgroup_rules: tuple[str, ...] = option(
        ListOf(item=Text()),
        default=(),
        description="No devices but those of `devices`.",
        at=at.Host("DeviceCgroupRules", write=list, read=convert.words),
        always=True,
        settable=False,
    )
    oom_kill_disable: bool = option(
        Flag(),
        default=False,
        description="A sandbox beyond its memory limit is ended.",
        at=at.Host("OomKillDisable", read=convert.flag),
        always=True,
        settable=False,
    )
    auto_remove: bool = option(
        Flag(),
        default=False,
        description="Never: it loses the evidence.",
        at=at.Host("AutoRemove", read=convert.flag),
        always=True,
        settable=False,
    )
