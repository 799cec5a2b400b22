"""What the rules judge: one container's settings in neutral form, whoever says so: a profile, Compose or an engine.

Owns the shape. It holds what a `SandboxSpec` has and, beside it, what no option expresses (privileged mode, host
namespaces, published ports, builds …). Unlimited and unset are None, never a default. Pure.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from msgspec import structs

from sandboxrun.data import Data
from sandboxrun.errors import Span
from sandboxrun.spec.types import freeze, parse_size

if TYPE_CHECKING:
    from sandboxrun.spec.option_types import Egress
    from sandboxrun.spec.records import Device, Workspace

PROFILE, COMPOSE, CONTAINER = "profile", "compose", "container"
DEPLOYED = {"mem_limit": "memory", "cpus": "cpus", "pids_limit": "pids"}  # what deploy.resources.limits calls them
NONE: Mapping[str, Any] = freeze({})


class Mounted(Data):
    """A mount. `source` is a host path (bind), a volume's name, or "" (anonymous); `written` what the file says.

    `inside`: the host path lies in the project; `holds` are names in it that the host runs or git keeps, where known.
    `declared` is what a Compose file says of a volume: name, external, driver, and `driver_opts.` with each option.
    """

    kind: str
    source: str
    target: str
    written: str = ""
    read_only: bool = False
    propagation: str = ""
    inside: bool = True
    holds: tuple[str, ...] = ()
    key: str = "volumes"
    declared: Mapping[str, str] = NONE


class Scratch(Data):
    """A tmpfs: its size in bytes (None: unbounded) and what is allowed on it."""

    target: str
    size: int | None
    exec: bool = True
    suid: bool = False
    dev: bool = False
    key: str = "tmpfs"


class JoinedNetwork(Data):
    """A network that the sandbox joins. `isolated`: members can't reach each other; `host_reach`: nor does it keep the
    host's own addresses away; `called`: its name on the engine, where the file says it."""

    name: str
    called: str = ""
    internal: bool = False
    external: bool = False
    driver: str = "bridge"
    ipv6: bool = False
    isolated: bool = False
    host_reach: bool = True


class Port(Data):
    """A published port. `address` is the host's; "" is all of them. `published` is the port there, where the file says
    it; `written` is the item's text."""

    target: str
    published: str = ""
    address: str = ""
    written: str = ""


class GivenFile(Data):
    """A secret or config file: its `origin` is file, environment, content or external; `source` which of them."""

    name: str
    origin: str = ""
    source: str = ""
    mode: int = 0o400
    content: str = ""


class Hook(Data, unshown=("environment",)):
    """A command that is run inside beside the main one."""

    key: str
    user: str = ""
    privileged: bool = False
    command: tuple[str, ...] = ()
    environment: Mapping[str, str | None] = NONE


class Note(Data):
    """A text that whoever may list containers, images or volumes reads: `what` it is, `name` what its file calls it."""

    what: str
    name: str
    text: str
    key: str
    item: str | None = None


class Building(Data):
    """How the image is built."""

    context: str = "."
    contexts: tuple[str, ...] = ()  # others
    args: Mapping[str, str] = NONE
    network: str = ""
    ssh: bool = False
    entitlements: tuple[str, ...] = ()
    privileged: bool = False


PlaceOf = Callable[[str, str | None], Span | None]


def nowhere(key: str, item: str | None = None) -> Span | None:
    """The place of everything in what no file declares."""
    return None


class Subject(Data, unshown=("environment",)):
    """One container's settings. `find` says where an option or an item of it is written, `via` from where it comes."""

    name: str
    kind: str = PROFILE
    image: str | None = None
    user: str | None = None  # None: the image decides
    groups: tuple[str, ...] = ()
    privileged: bool = False
    cap_add: tuple[str, ...] = ()
    cap_drop: tuple[str, ...] = ()
    security: Mapping[str, str] = NONE  # no-new-privileges, seccomp, apparmor, label, label=type, systempaths …
    namespaces: Mapping[str, str] = NONE  # pid, ipc, uts, cgroup, userns, network → host, container:x, service:x
    devices: tuple[Device, ...] = ()
    device_rules: tuple[str, ...] = ()
    gpus: bool = False
    sysctls: Mapping[str, str] = NONE
    cgroup_parent: str = ""
    oom_kill_disable: bool = False
    oom_score_adj: int = 0
    read_only: bool = False
    mounts: tuple[Mounted, ...] = ()
    volumes_from: tuple[str, ...] = ()
    scratch: tuple[Scratch, ...] = ()
    workspace: Workspace | None = None
    api_socket: bool = False
    networks: tuple[JoinedNetwork, ...] = ()
    reach: Egress | None = None  # through a gateway; None: its networks decide
    no_network: bool = False
    ports: tuple[Port, ...] = ()
    dns: tuple[str, ...] = ()
    hosts: Mapping[str, tuple[str, ...]] = NONE
    memory: int | None = None
    swap: int | None = None  # memory and swap together; None: unset, -1: unlimited
    cpus: float | None = None
    pids: int | None = None
    ulimits: Mapping[str, int] = NONE  # hard limits; -1 is unlimited
    log_driver: str = ""
    log_options: Mapping[str, str] = NONE
    restart: str = "no"
    timeout: int | None = None
    ttl: int | None = None
    idle: int | None = None
    grace: int | None = None  # between the stop signal and the end; None: not known
    healthcheck: bool = False
    unchecked: bool = False  # a health check is switched off
    health_test: tuple[str, ...] = ()
    artifacts: tuple[str, ...] = ()
    artifacts_limit: int | None = None
    environment: Mapping[str, str | None] = NONE  # None: taken over from the caller
    passed: Mapping[str, tuple[str, ...]] = NONE  # by variable: the caller's that its value is made of
    env_files: tuple[str, ...] = ()
    label_files: tuple[str, ...] = ()
    masked: tuple[str, ...] = ()  # variables whose value is a secret of a template, and never looked at
    command: tuple[str, ...] = ()
    entrypoint: tuple[str, ...] = ()
    labels: Mapping[str, str] = NONE
    notes: tuple[Note, ...] = ()  # beside its labels: annotations, labels of image and service, options of volumes
    secrets: tuple[GivenFile, ...] = ()
    configs: tuple[GivenFile, ...] = ()
    working_dir: str = ""
    runtime: str = ""
    build: Building | None = None
    hooks: tuple[Hook, ...] = ()
    provider: str = ""
    watched: tuple[tuple[str, str], ...] = ()  # develop.watch: path on the host, target
    unknown: tuple[str, ...] = ()  # keys that nothing reads
    ignored: tuple[tuple[str, str], ...] = ()  # options that are accepted and not enforced, and why
    remote: tuple[tuple[str, str], ...] = ()  # what is included from elsewhere: key, address
    sharing: Mapping[str, tuple[str, ...]] = NONE  # volumes and networks → other subjects that use them
    options: Callable[[], Mapping[str, Any]] = dict  # as plain data by Compose's keys, for a policy's `require`
    find: PlaceOf = nowhere
    via: Callable[[str], str] = lambda key: ""

    @property
    def open_network(self) -> bool:
        """Whether something that is not filtered reaches the outside."""
        if self.no_network or self.namespaces.get("network", "").startswith(("container:", "service:")):
            return False
        if self.namespaces.get("network") == "host":
            return True
        if self.reach is not None:
            return False
        return any(not network.internal for network in self.networks)


def callers(name: str) -> str:
    """What stands for the value of a caller's variable in a review: no variable's real value is looked at."""
    return f"(the caller's {name})"


MOST_SHARED = 10  # others that are named: a file may hold thousands


def with_sharing(made: list[Subject]) -> tuple[Subject, ...]:
    """The subjects, each with those that write to its volumes and bind sources or join its networks."""
    users: dict[str, list[str]] = {}
    for subject in made:
        for thing in set(_shared(subject)):
            users.setdefault(thing, []).append(subject.name)
    return tuple(
        structs.replace(
            subject,
            sharing=freeze(
                {
                    thing: tuple(name for name in users[thing][:MOST_SHARED] if name != subject.name)
                    for thing in set(_shared(subject))
                    if len(users[thing]) > 1
                }
            ),
        )
        for subject in made
    )


def _shared(subject: Subject) -> Iterator[str]:
    yield from (f"network {network.name}" for network in subject.networks)
    yield from (
        f"{mount.kind} {mount.source}"
        for mount in subject.mounts
        if mount.source and not mount.read_only and mount.kind in ("bind", "volume")
    )


_ICC = "com.docker.network.bridge.enable_icc"
_NO_HOST = (
    ("com.docker.network.bridge.inhibit_ipv4", "true"),
    ("com.docker.network.bridge.gateway_mode_ipv4", "isolated"),
)


def network_of(
    name: str,
    options: Mapping[str, str],
    *,
    internal: bool,
    external: bool = False,
    ipv6: bool = False,
    driver: str = "",
    called: str = "",
) -> JoinedNetwork:
    """A network by the options of its driver."""
    return JoinedNetwork(
        name=name,
        called=called,
        internal=internal,
        external=external,
        ipv6=ipv6,
        driver=driver or "bridge",
        isolated=options.get(_ICC) == "false",
        host_reach=not any(options.get(option) == value for option, value in _NO_HOST),
    )


def scratch_of(target: str, options: Sequence[str], key: str = "tmpfs") -> Scratch:
    """A tmpfs by its options. Engines add noexec, nosuid and nodev where nothing else is said."""
    sizes = [option.partition("=")[2] for option in options if option.startswith("size=")]
    try:
        size = parse_size(sizes[-1]) if sizes else None
    except ValueError:
        size = None
    return Scratch(
        target=target, size=size or None, exec="exec" in options, suid="suid" in options, dev="dev" in options, key=key
    )


def log_options(driver: str, options: Mapping[str, str]) -> Mapping[str, str]:
    """`local` keeps five files of 20 MB where nothing else is said."""
    return freeze({**({"max-size": "20m", "max-file": "5"} if driver == "local" else {}), **options})


# -- paths of the host, however they are spelled

_HOME = re.compile(
    r"(?:~|\$HOME|\$\{HOME(?::?[-?+][^}]*)?\}|%USERPROFILE%|\$\{?USERPROFILE\}?|/home/[^/]+|/Users/[^/]+|/root)(?=/|$)"
)
_RUN = re.compile(r"^/var/run(?=/|$)")
_RUNTIME = re.compile(r"^\$(?:XDG_RUNTIME_DIR\b|\{XDG_RUNTIME_DIR(?::?[-?+][^}]*)?\})")
_WINDOWS = re.compile(r"^(?:[A-Za-z]:|%USERPROFILE%)?[\\/]|^\\\\")


@lru_cache(4096)
def host_path(text: str) -> str:
    """One spelling of a host path: normalized, `/var/run` as `/run`, a home directory as `~`, a drive as `/`."""
    if _WINDOWS.match(text):
        text = re.sub("^[A-Za-z]:", "", text.replace("\\", "/"))
    text = _RUNTIME.sub("/run/user/1000", text)
    home = _HOME.match(text)
    if home is not None:
        rest = posixpath.normpath(text[home.end() :].lstrip("/") or ".")
        if not rest.startswith(".."):
            return "~" if rest == "." else f"~/{rest}"
        text = f"/home/user/{rest}"
    if not text.startswith("/"):
        return posixpath.normpath(text) if text else ""
    return _RUN.sub("/run", "/" + posixpath.normpath(text).lstrip("/"))


def names_variable(text: str, *names: str) -> bool:
    """Whether a text interpolates one of the variables."""
    return any(re.search(rf"\$(?:{name}\b|\{{{name}\b)", text) for name in names)
