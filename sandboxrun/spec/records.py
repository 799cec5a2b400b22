"""The small records that options are made of: mounts, limits, health checks, the lifetime, the workspace.

Pure.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from sandboxrun.errors import MapNode, Node, Problems, Scalar, did_you_mean
from sandboxrun.spec import forms
from sandboxrun.spec.guard import GUARDS
from sandboxrun.spec.option import Record, RowData, option
from sandboxrun.spec.types import (
    SECOND,
    Choice,
    Command,
    Duration,
    Flag,
    Integer,
    ListOf,
    MapOf,
    OptionType,
    Pairs,
    Schema,
    Short,
    Size,
    Text,
    freeze,
    item_span,
    refuse,
    span_of,
)

# -- The small records that options are made of: mounts, limits, health checks, the lifetime …

MILLISECOND = SECOND // 1000
ABSOLUTE = r"/[^\x00:]*"
AbsolutePath = Text(pattern=ABSOLUTE, hint="an absolute path", form=forms.path)
FileName = Text(pattern=r"[^/\x00]+", hint='a file name without "/"')


class FileMode(OptionType):
    """Permissions in octal: `0o440`, `0440` or `"0440"`. Without the zero nobody could tell what 440 means."""

    def parse(self, node: Node, problems: Problems) -> Any:
        match node:
            case Scalar(value=bool()):
                pass
            case Scalar(value=int() | str()) if re.fullmatch("0o?[0-7]{3,4}", node.text):
                return int(node.text.removeprefix("0o"), 8)
        return refuse(problems, node, "permissions in octal, such as 0400", "begin them with a zero")

    def schema(self) -> Schema:
        text: Schema = {"type": "string", "pattern": "^0o?[0-7]{3,4}$"}
        return {"anyOf": [text, {"type": "integer", "minimum": 0, "maximum": 0o7777}]}

    def plain(self, value: Any) -> Any:
        return f"0{value:03o}"  # the zero that parse asks for, before a setuid bit too


class TmpfsMount(RowData):
    """A memory filesystem, as the long form of a volume has it."""

    size: int | None = option(Size(), default=None, description="Its size. 64m unless set otherwise.", example="64m")
    mode: int | None = option(
        FileMode(), default=None, description="The permissions of its root, in octal.", example="01777"
    )


class Mount(RowData):
    """A mount that the profile asks for. `source` is a host path (bind) or a volume's key. Of type `tmpfs` it is only
    another spelling of the option `tmpfs`: no settled spec has one."""

    type: str = option(
        Choice(values=("bind", "volume", "tmpfs")),
        description="The kind of mount; `tmpfs` is the same as the option `tmpfs`.",
        example="bind",
    )
    source: str | None = option(
        Text(hint="a path or a volume"),
        default=None,
        description="The host path, relative to the profile, or the volume's key.",
        example="./data",
    )
    target: str = option(AbsolutePath, description="The path in the sandbox.", example="/data")
    read_only: bool = option(Flag(), default=False, description="Mount it read-only.", example=True)
    tmpfs: TmpfsMount | None = option(
        Record(cls=TmpfsMount, title="a tmpfs"),
        default=None,
        description="Of a mount of type `tmpfs`.",
        example={"size": "64m", "mode": "01777"},
    )


def _check_mount(mount: Mount, node: MapNode, problems: Problems) -> None:
    if mount.type == "tmpfs":
        if mount.source is not None:
            problems.add('a tmpfs mount has no "source"', span_of(node, "source"), "remove it")
        if mount.tmpfs is not None and mount.tmpfs.size == 0:
            problems.add("a size of 0 is unlimited", span_of(node, "tmpfs"), "give it a size, such as 64m")
        return
    if mount.source is None:
        problems.add(f'a {mount.type} mount needs a "source"', node.span)
    if mount.tmpfs is not None:
        problems.add(f"a {mount.type} mount has no tmpfs options", span_of(node, "tmpfs"), "write type: tmpfs")


def read_mount(text: str) -> Mount:
    """Compose's short syntax `source:target[:ro|rw]`; a source with a slash or a leading dot is a path."""
    parts = text.split(":")
    if len(parts) < 2:
        raise ValueError("an anonymous volume outlives nothing; name a source, as in ./data:/data")
    source, target, *rest = parts
    modes = rest[0].split(",") if rest else []
    if len(rest) > 1 or any(mode not in ("ro", "rw") for mode in modes) or len(set(modes)) > 1:
        raise ValueError(f'the mode must be ro or rw, not "{":".join(rest)}"')
    if not source or not target.startswith("/"):
        raise ValueError("the target must be an absolute path")
    kind = "bind" if source.startswith((".", "/", "~")) or "/" in source else "volume"
    return Mount(type=kind, source=source, target=forms.path(target), read_only="ro" in modes)


MountType = Short(
    record=Record(
        cls=Mount,
        title="a volume",
        check=_check_mount,
        refused=freeze(
            {
                "create_host_path": "the source must exist: create it in an earlier step, and leave this out",
                "propagation": "mounts of a sandbox do not propagate: leave it out",
                "selinux": "use security_opt: [label=…]",
                "nocopy": "the engine fills a new volume from the image: leave it out",
                "subpath": "name the directory as a bind",
            }
        ),
        same=freeze(
            {
                "bind": freeze({"create_host_path": (False,), "propagation": ("rprivate", "private")}),
                "volume": freeze({"nocopy": (False,)}),
                "consistency": ("consistent", "cached", "delegated", "default"),
            }
        ),
    ),
    read=read_mount,
    expected="a volume, such as ./data:/data:ro",
    pattern=r"[^:]+:/[^:]*(:(ro|rw)(,(ro|rw))*)?",
)


class Ulimit(RowData):
    """A resource limit of the kernel; -1 is unlimited."""

    soft: int = option(Integer(least=-1), description="The limit in force.", example=1024)
    hard: int = option(Integer(least=-1), description="The ceiling a process may raise it to.", example=2048)


def _read_ulimit(text: str) -> Ulimit:
    if not re.fullmatch(r"-?[0-9]{1,19}", text) or int(text) < -1:
        raise ValueError("a limit is a whole number, or -1")
    return Ulimit(soft=int(text), hard=int(text))


def _check_ulimit(limit: Ulimit, node: MapNode, problems: Problems) -> None:
    if limit.hard != -1 and (limit.soft == -1 or limit.soft > limit.hard):
        problems.add(f"the soft limit {limit.soft} is above the hard limit {limit.hard}", span_of(node, "soft"))


UlimitType = Short(
    record=Record(cls=Ulimit, title="a ulimit", check=_check_ulimit),
    read=_read_ulimit,
    expected="a limit, or a mapping of soft and hard",
    pattern=r"-?[0-9]{1,19}",
)
ULIMIT_NAMES = "core|cpu|data|fsize|locks|memlock|msgqueue|nice|nofile|nproc|rss|rtprio|rttime|sigpending|stack"
Ulimits = MapOf(item=UlimitType, name=Text(pattern=ULIMIT_NAMES, hint="the name of a ulimit, such as nofile"))


class HealthTest(Command):
    """A test: a list that begins with CMD or CMD-SHELL, or a text, which the sandbox's shell runs."""

    def parse(self, node: Node, problems: Problems) -> Any:
        if isinstance(node, Scalar) and isinstance(node.value, str):
            return ("CMD-SHELL", node.value)
        return super().parse(node, problems)


class Healthcheck(RowData):
    """How the engine tests that the sandbox is healthy."""

    test: tuple[str, ...] | None = option(
        HealthTest(),
        default=None,
        description="The test; a list begins with CMD or CMD-SHELL.",
        example=["CMD", "true"],
    )
    interval: int = option(Duration(), default=30 * SECOND, description="Time between tests.", example="30s")
    timeout: int = option(Duration(), default=30 * SECOND, description="Time limit of one test.", example="5s")
    retries: int = option(Integer(least=1), default=3, description="Failures before unhealthy.", example=3)
    start_period: int = option(Duration(), default=0, description="Time in which failures do not count.", example="10s")
    disable: bool = option(Flag(), default=False, description="Disable the image's own test.", example=True)


def _check_health(check: Healthcheck, node: MapNode, problems: Problems) -> None:
    if check.disable:
        if check != Healthcheck(disable=True):
            problems.add(
                "disable: true cannot be combined with other keys", span_of(node, "disable"), "remove it, or the others"
            )
    elif not check.test:
        problems.add("a healthcheck needs a test", node.span, "leave healthcheck out to keep the image's own")
    elif check.test[0] not in ("CMD", "CMD-SHELL"):
        problems.add("the test must begin with CMD or CMD-SHELL", span_of(node, "test"), "disable: true turns it off")
    for key in ("interval", "timeout", "start_period"):
        if getattr(check, key) < MILLISECOND and not (key == "start_period" and check.start_period == 0):
            problems.add(f"{key} is below 1ms", span_of(node, key), "the engine refuses less")


class Logging(RowData):
    """Where the engine writes what the sandbox prints, and how much of it is kept."""

    driver: str = option(
        Choice(values=("local", "json-file"), refused={"none": "it would leave no evidence; use local or json-file"}),
        default="local",
        description="The engine's log driver. local keeps the output byte for byte; json-file keeps only UTF-8.",
        example="local",
    )
    options: Mapping[str, str] = option(
        Pairs(),
        default=freeze({"max-size": "10m", "max-file": "3"}),
        description="The driver's options.",
        example={"max-size": "10m", "max-file": "3"},
    )


class FileRef(RowData):
    """A secret or config as the sandbox sees it: a file under /run/secrets or /run/configs."""

    source: str = option(
        Text(hint="a key of the top level"), description="Its key at the top level.", example="api_key"
    )
    target: str | None = option(FileName, default=None, description="The file's name. Default: the key.", example="key")
    uid: int | None = option(
        Integer(most=2**32 - 2), default=None, description="The owner; the sandbox's user.", example=1000
    )
    gid: int | None = option(
        Integer(most=2**32 - 2), default=None, description="The group; the sandbox's user's.", example=1000
    )
    mode: int = option(FileMode(), default=0o400, description="The permissions, in octal.", example="0400")
    digest: str | None = option(
        Text(pattern="sha256:[0-9a-f]{64}", hint="a digest"),
        default=None,
        description="The digest of a config's content, to detect changes; never of a secret's.",
        settable=False,
        derived=True,
    )

    @property
    def file_name(self) -> str:
        """The name under /run/secrets or /run/configs."""
        return self.target or self.source


_KEY = r"[A-Za-z0-9][A-Za-z0-9_.-]*"


def _read_ref(text: str) -> FileRef:
    if not re.fullmatch(_KEY, text):
        raise ValueError("a key is of letters, digits, _ . and -")
    return FileRef(source=text)


FileRefType = Short(
    record=Record(cls=FileRef, title="a file reference"),
    read=_read_ref,
    expected="the key of a secret or config",
    pattern=_KEY,
)


class Lifetime(RowData):
    """How long a sandbox may live."""

    timeout: int | None = option(
        Duration(),
        default=None,
        description="Time after its start when its PID 1 ends it, whether or not anything watches. A change replaces "
        "the sandbox.",
        example="30m",
    )
    idle: int | None = option(
        Duration(),
        default=None,
        description="Time without output and CPU use after which `run`, `apply --wait` and `wait` stop it. CPU use is "
        "more than 1 % of one CPU between two samples.",
        example="10m",
    )
    ttl: int | None = option(
        Duration(),
        default=None,
        description="Time after its creation when `run`, `apply --wait` and `wait` stop it, and when any command may "
        "remove it, whatever its state.",
        example="2h",
    )
    on_complete: str = option(
        Choice(values=("remove", "keep", "keep_on_failure")),
        default="remove",
        description="What becomes of the container once it has ended and its evidence is saved. A kept one stays, "
        "stopped, until `destroy`, `reap`, or the next `apply` after `keep_for`.",
        example="keep_on_failure",
        later=True,
    )
    keep_for: int | None = option(
        Duration(),
        default=None,
        description="How long after its end a kept container stays. Without it, until it is removed.",
        example="2h",
    )


class EvidencePolicy(RowData):
    """What is kept of a run beside what is always kept."""

    artifacts: tuple[str, ...] = option(
        ListOf(item=AbsolutePath, unique=True),
        default=(),
        description="Files and directories to copy out of the sandbox when it has ended.",
        example=["/workspace/report"],
    )
    artifacts_limit: int = option(
        Size(), default=64 * 1024**2, description="The maximum size of all artifacts together.", example="64m"
    )
    logs_limit: int = option(
        Size(), default=64 * 1024**2, description="The maximum size saved of each output stream.", example="64m"
    )
    filesystem_changes: bool = option(
        Flag(), default=True, description="List the files that changed outside mounts.", example=True
    )
    patch: bool = option(
        Flag(), default=True, description="Save the changes of a copied workspace as a patch.", example=True
    )
    usage_every: int = option(
        Duration(least=SECOND),  # an engine takes so long for one sample
        default=SECOND,
        description="How often resource usage is sampled; at least 1s.",
        example="5s",
    )


class Dependency(RowData):
    """What must hold of another sandbox before this one starts."""

    condition: str = option(
        Choice(values=("service_started", "service_healthy", "service_completed_successfully")),
        default="service_started",
        description="The condition that the other sandbox must meet.",
        example="service_completed_successfully",
    )
    required: bool = option(
        Flag(), default=True, description="Whether it is an error when the other is not declared.", example=False
    )


class Device(RowData):
    """A host device in the sandbox."""

    source: str = option(AbsolutePath, description="The device on the host.", example="/dev/fuse")
    target: str | None = option(
        AbsolutePath, default=None, description="Its path inside. Default: the same.", example="/dev/fuse"
    )
    permissions: str = option(
        Text(pattern="[rwm]{1,3}", hint="some of r, w and m", form=forms.permissions),
        default="rwm",
        description="read, write, mknod.",
        example="rw",
    )


def _read_device(text: str) -> Device:
    source, *rest = text.split(":")
    target = rest[0] if rest else source
    permissions = rest[1] if len(rest) > 1 else "rwm"
    if (
        len(rest) > 2
        or not re.fullmatch("[rwm]{1,3}", permissions)
        or not (source.startswith("/") and target.startswith("/"))
    ):
        raise ValueError("the form is /dev/host[:/dev/inside[:rwm]]")
    return Device(source=forms.path(source), target=forms.path(target), permissions=forms.permissions(permissions))


def device_target(device: Device) -> str:
    """Where a device is inside."""
    return device.target or device.source


DeviceType = Short(
    record=Record(cls=Device, title="a device"), read=_read_device, expected="a device", pattern=r"/[^:]*(:[^:]*){0,2}"
)


class Attachment(RowData):
    """How a sandbox joins a network."""

    aliases: tuple[str, ...] = option(
        ListOf(item=Text(hint="a host name", form=forms.domain), unique=True, ordered=False),
        default=(),
        description="Additional names on that network.",
        example=["db"],
    )
    ipv4_address: str | None = option(
        Text(pattern=r"[0-9]{1,3}(\.[0-9]{1,3}){3}", hint="an IPv4 address"),
        default=None,
        description="A fixed address; the network needs a subnet.",
        example="10.77.0.2",
    )


HealthcheckType = Record(cls=Healthcheck, title="healthcheck", check=_check_health)
LoggingType = Record(cls=Logging, title="logging")
LifetimeType = Record(cls=Lifetime, title="lifetime")
EvidenceType = Record(cls=EvidencePolicy, title="evidence")
AttachmentType = Record(cls=Attachment, title="a network attachment")
DependencyType = Record(cls=Dependency, title="depends_on")


# -- The workspace: the record of that option, with its short form

LEAST = 1024**2
_NAMES = ListOf(item=Text(hint="a name"), unique=True, ordered=False)


class Workspace(RowData):
    """The files an agent works on."""

    source: str = option(
        Text(hint="a path"), default=".", description="The directory, relative to the profile.", example="."
    )
    target: str = option(
        AbsolutePath, default="/workspace", description="The path in the sandbox.", example="/workspace"
    )
    access: str = option(
        Choice(
            values=("copy", "rw", "ro"),
            refused={**dict.fromkeys(("readonly", "read-only"), "write ro"), "readwrite": "write rw"},
        ),
        default="copy",
        description="copy: works on a copy, changes come back as a patch; rw, ro: the directory itself, of which rw "
        "keeps read-only what the host runs.",
        example="copy",
    )
    exclude: tuple[str, ...] = option(
        ListOf(item=Text(hint="a pattern"), unique=True, ordered=False),
        default=(),
        description="Patterns to exclude from a copy, matched against the path below the directory or the name alone.",
        example=["node_modules", "*.log"],
    )
    size: int | None = option(
        Size(),
        default=None,
        description="The most that a copy may hold: it lies in memory then, and what the sandbox writes to it counts "
        "against mem_limit. On the engine's disk, without a bound, when left out.",
        example="256m",
    )
    writable: tuple[str, ...] = option(
        _NAMES,
        default=(),
        description="Files that the host runs and that the sandbox may still write to; access rw otherwise keeps these "
        f"read-only: {', '.join(GUARDS)}.",
        example=[".github"],
    )
    protected: tuple[str, ...] = option(
        ListOf(item=Text(hint="a path"), unique=True),
        default=(),
        description="What is mounted read-only in a workspace of access rw, the profile's own files included.",
        settable=False,
        derived=True,
    )


def _check_workspace(workspace: Workspace, node: MapNode, problems: Problems) -> None:
    for name in workspace.writable:
        if name not in GUARDS:
            help = did_you_mean(name, GUARDS) or f"kept read-only are: {', '.join(GUARDS)}, and the profile's own files"
            span = item_span(_NAMES, node.get("writable"), name)
            problems.add(f'"{name}" is not kept read-only by itself', span, help)
    if workspace.writable and workspace.access != "rw":
        help = "leave out writable, or use access: rw"
        problems.add(f"with access {workspace.access} writable means nothing", span_of(node, "writable"), help)
    if workspace.size is not None and workspace.access != "copy":
        help = "leave out size, or use access: copy"
        problems.add(f"access {workspace.access} has no size: it is the directory itself", span_of(node, "size"), help)
    if workspace.size is not None and workspace.size < LEAST:
        problems.add("a workspace needs at least 1m", span_of(node, "size"))
    if workspace.exclude and workspace.access != "copy":
        problems.add(
            f"access {workspace.access} excludes nothing: it is the directory itself",
            span_of(node, "exclude"),
            "leave out exclude, or use access: copy",
        )


def _read_workspace(text: str) -> Workspace:
    if not text:
        raise ValueError("the path is empty")
    return Workspace(source=text)


WorkspaceType = Short(
    record=Record(cls=Workspace, title="workspace", check=_check_workspace),
    read=_read_workspace,
    expected="a path, or a mapping of source, target, access, exclude, size and writable",
)
