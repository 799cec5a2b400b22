"""The privilege diff: what sandboxes or services may do that those of before could not, each with a witness.

Owns how a Compose service becomes a side, the grants that no option expresses, pairing the sandboxes, flows that only
show together, and counting what one change does to many. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec

from sandboxrun.audit.rules.filesystem import engine_socket
from sandboxrun.audit.rules.network import receiver_of
from sandboxrun.audit.subject import PROFILE, GivenFile, Mounted, PlaceOf, Scratch, Subject, host_path, nowhere
from sandboxrun.data import Data
from sandboxrun.errors import Span, place_order
from sandboxrun.spec import seccomp
from sandboxrun.spec.forms import below
from sandboxrun.spec.option_types import CLOSED
from sandboxrun.spec.privilege import AXES, Side, Step, Way, level, places
from sandboxrun.spec.project import DeclaredSandbox, FileSpec, NetworkSpec, Profile, VolumeSpec
from sandboxrun.spec.records import Attachment, FileRef, Logging, Mount, Ulimit
from sandboxrun.spec.spec import SandboxSpec, settle
from sandboxrun.spec.types import format_size, freeze, parse_size

# -- what a subject has beside the options of a profile


class Grant(Data, kw_only=False):
    """Something that a sandbox may do: a clause that begins with its verb. `certain` is False where having it is not
    known to be more than not having it."""

    axis: str
    key: str
    what: str
    item: str | None = None
    certain: bool = True

    @property
    def identity(self) -> tuple[object, ...]:
        """What makes two of them one."""
        return (self.axis, self.key, self.what)

    def step(self, way: Way) -> Step:
        """That it was added, WIDENED, or is gone, NARROWED."""
        now, (verb, _, rest) = "now" if way is Way.WIDENED else "no longer", self.what.partition(" ")
        witness = f"{verb} {now} {rest}" if verb in ("is", "may") else f"{now} {self.what}"
        return Step(way if self.certain else Way.MAYBE, self.key, witness, self.item)


def compare_grants(old: tuple[Grant, ...], new: tuple[Grant, ...]) -> Iterator[tuple[str, Step]]:
    """What was added and what is gone, with their axes."""
    before, after = ({grant.identity: grant for grant in grants} for grants in (old, new))
    for here, there, way in ((after, before, Way.WIDENED), (before, after, Way.NARROWED)):
        yield from ((one.axis, one.step(way)) for identity, one in here.items() if identity not in there)


_NAMESPACES = {
    "pid": "processes",
    "ipc": "shared memory",
    "uts": "host name",
    "cgroup": "cgroups",
    "network": "network",
}
_CONFINED = ("no-new-privileges", "seccomp", "apparmor", "label")  # the options' own axes compare these


def grants(s: Subject, free: tuple[str, ...] = ()) -> tuple[Grant, ...]:
    """What no option of a profile expresses. `free` are options that a variable decides, as `option=variable`."""
    return (*_kernel(s), *_outside(s), *_run_beside(s), *_given(s, free))


def _kernel(s: Subject) -> Iterator[Grant]:
    if s.privileged:
        yield Grant("capabilities", "privileged", "is privileged: it controls the host")
    for which, words in _NAMESPACES.items():
        mode = s.namespaces.get(which, "")
        key = "network_mode" if which == "network" else which
        if mode == "host":
            yield Grant("namespaces", key, f"shares the host's {words}")
        elif mode.startswith(("container:", "service:", "ns:")):
            yield Grant("namespaces", key, f"shares the {words} of {mode}")
    for rule in s.device_rules:
        yield Grant("devices", "device_cgroup_rules", f'may use the devices "{rule}"', rule)
    if s.cgroup_parent:
        yield Grant("limits", "cgroup_parent", f"is in the cgroup {s.cgroup_parent}", certain=False)
    if s.oom_kill_disable:
        yield Grant("limits", "oom_kill_disable", "is not ended beyond its memory limit")
    for name, value in s.security.items():
        if name not in _CONFINED and not name.startswith("label=") and value.lower() not in ("false", ""):
            yield Grant("confinement", "security_opt", f"has the security option {name}={value}", name)


def _outside(s: Subject) -> Iterator[Grant]:
    for hit in engine_socket.check(s):
        yield Grant("mounts", hit.key, "has the engine's socket: it controls the host", hit.item)
    for mount in s.mounts:  # another source than the option's own axis compares: a link may lie in its place
        if s.kind == PROFILE and mount.kind == "bind" and not mount.inside and mount.written not in ("", mount.source):
            yield Grant("mounts", mount.key, f"is given {mount.source}, where {mount.written} leads", mount.target)
    for source in s.volumes_from:
        yield Grant("mounts", "volumes_from", f"has the mounts of {source}", source)
    for mount in s.mounts:
        if mount.propagation.removeprefix("r") in ("shared", "slave"):
            yield Grant("mounts", mount.key, f"propagates mounts at {mount.target} ({mount.propagation})", mount.target)
    for port in s.ports:
        where = port.address or "all interfaces"
        yield Grant("ports", "ports", f"is reached on port {port.target} from {where}", port.written or port.target)
    if (receiver := receiver_of(s.log_driver, s.log_options)) is not None:
        yield Grant("network", "logging", f"sends its output to {receiver}")
    for network in s.networks:
        if network.driver in ("macvlan", "ipvlan"):
            yield Grant("network", "networks", f"is on the local network ({network.driver})", network.name)


def _run_beside(s: Subject) -> Iterator[Grant]:
    for hook in s.hooks:
        if hook.privileged:
            yield Grant("capabilities", hook.key, f"runs a privileged {hook.key}: it controls the host")
        elif hook.user.partition(":")[0] in ("root", "0"):
            yield Grant("user", hook.key, f"runs {hook.key} as root")
    if s.provider:
        yield Grant("runtime", "provider", f"runs the plug-in {s.provider} on the host")
    for path, target in s.watched:
        yield Grant("mounts", "develop", f"copies {path} of the host to {target or 'itself'}", path)
    for key, address in s.remote:
        yield Grant("image", key, f"takes a file from {address}", certain=False)
    if (build := s.build) is None:
        return
    yield Grant("image", "build", f"is built from {build.context}", "context", certain=False)
    for name in build.entitlements:
        yield Grant("image", "build", f"is built with the entitlement {name}", "entitlements")
    if build.privileged:
        yield Grant("image", "build", "is built privileged", "privileged")
    if build.ssh:
        yield Grant("secrets", "build", "is built with the caller's SSH keys", "ssh")
    if build.network == "host":
        yield Grant("network", "build", "is built on the host's network", "network")


def _given(s: Subject, free: tuple[str, ...]) -> Iterator[Grant]:
    for name, value in s.environment.items():
        own = (name,) if value is None and name not in s.masked else ()
        for source in own or s.passed.get(name, ()):
            yield Grant("secrets", "environment", f"gets the caller's {source}", name)
    for path in s.env_files:
        yield Grant("secrets", "env_file", f"gets the variables of {path}", path, certain=False)
    for path in s.label_files:
        yield Grant("secrets", "label_file", f"has the lines of {path} as labels", path, certain=False)
    for text in free:
        option, _, variable = text.partition("=")
        yield Grant("variables", option, f"lets ${{{variable}}} decide {option}", certain=False)


# -- a Compose service as options

_ENGINES = ("default", "builtin", "")  # words for the engine's own seccomp profile


def side_of_service(s: Subject) -> Side:
    """What of a Compose service options express, with the engine's defaults for what it leaves out."""
    plain: Mapping[str, Any] = s.options()
    memory, cpuset = s.memory or 0, str(plain.get("cpuset"))
    networks, profile = dict(_networks(s)), s.security.get("seccomp", "")
    spec = SandboxSpec(
        image=s.image or "",
        user=s.user or "",
        group_add=s.groups,
        cap_add=tuple(map(_capability, s.cap_add)),
        cap_drop=tuple(map(_capability, s.cap_drop)),
        security_opt=freeze({**s.security, "seccomp": seccomp.ENGINE if profile in _ENGINES else profile}),
        userns_mode="host" if s.namespaces.get("userns") == "host" else None,
        ipc=str(plain.get("ipc")) if plain.get("ipc") in ("none", "shareable") else "private",
        devices=s.devices,
        gpus=-1 if s.gpus else None,
        runtime=s.runtime or None,
        sysctls=s.sysctls,
        read_only=s.read_only,
        volumes=tuple(_mount(mount) for mount in s.mounts if mount.source),
        tmpfs=freeze({scratch.target: _tmpfs(scratch) for scratch in s.scratch}),
        network_mode="bridge" if networks else "none",
        networks=freeze(dict.fromkeys(networks, Attachment())),
        egress=None if networks else CLOSED,
        extra_hosts=s.hosts,
        dns=s.dns,
        restart=s.restart,
        secrets=tuple(FileRef(source=secret.name, mode=secret.mode) for secret in s.secrets),
        configs=tuple(FileRef(source=config.name, mode=config.mode) for config in s.configs),
        annotations=freeze(_texts(plain.get("annotations"))),
        logging=Logging(driver=s.log_driver or "json-file", options=s.log_options),
        mem_limit=memory,
        memswap_limit=s.swap or (2 * memory or None),  # an engine allows as much swap again
        mem_reservation=_bytes(plain.get("mem_reservation")),
        cpus=s.cpus or 0.0,
        cpu_shares=int(plain["cpu_shares"]) if str(plain.get("cpu_shares", "")).isdecimal() else 0,
        cpuset=cpuset if re.fullmatch(r"\d{1,4}([-,]\d{1,4})*", cpuset) else None,
        pids_limit=s.pids or 0,
        ulimits=freeze({name: Ulimit(soft=hard, hard=hard) for name, hard in s.ulimits.items()}),
        shm_size=_bytes(plain.get("shm_size")) or 64 << 20,
        storage_opt=freeze(_texts(plain.get("storage_opt"))),
        oom_score_adj=s.oom_score_adj,
    )
    secrets, configs = ({one.name: _file(one) for one in files} for files in (s.secrets, s.configs))
    volumes = {mount.source: _volume(mount.declared) for mount in s.mounts if mount.kind == "volume"}
    return Side(
        spec=spec,
        networks=freeze(networks),
        volumes=freeze(volumes),
        secrets=freeze(secrets),
        configs=freeze(configs),
    )


def _texts(value: Any) -> dict[str, str]:
    match value:
        case dict():
            return {str(key): str(item) for key, item in value.items()}
        case list():
            return {key: item for key, _, item in (str(one).partition("=") for one in value)}
    return {}


def _bytes(value: Any) -> int:
    try:
        return parse_size(str(value).lower()) if value is not None else 0
    except ValueError:
        return 0


def _capability(written: str) -> str:
    return written.upper().removeprefix("CAP_")


def _mount(mount: Mounted) -> Mount:
    source = host_path(mount.source) if mount.kind == "bind" else mount.source
    kind = "bind" if mount.kind in ("bind", "npipe") else "volume"
    return Mount(type=kind, source=source, target=mount.target, read_only=mount.read_only)


def _volume(declared: Mapping[str, str]) -> VolumeSpec:
    """A plug-in's options mean what it makes of them, and no path of the host."""
    options = {key: text for key, text in declared.items() if key not in ("name", "external")}
    if "driver" not in declared:
        options = {key.removeprefix("driver_opts."): text for key, text in options.items()}
    name, external = declared.get("name"), "external" in declared
    return VolumeSpec(name=name, external=external, driver_opts=freeze(options))


def _tmpfs(scratch: Scratch) -> str:
    flags = [name if getattr(scratch, name) else f"no{name}" for name in ("exec", "suid", "dev")]
    return ",".join(["rw", *flags, *([f"size={format_size(scratch.size)}"] if scratch.size else [])])


def _networks(s: Subject) -> Iterator[tuple[str, NetworkSpec]]:
    mode = s.namespaces.get("network", "")
    if mode == "host" or mode.startswith(("container:", "service:")):
        yield mode, NetworkSpec(external=True)
    for network in s.networks:
        options = {"isolated": str(network.isolated), "host": str(network.host_reach), "driver": network.driver}
        own = NetworkSpec(internal=network.internal, enable_ipv6=network.ipv6, driver_opts=freeze(options))
        yield network.name, msgspec.structs.replace(own, external=network.external, name=network.called or None)


def _file(secret: GivenFile) -> FileSpec:
    if secret.origin == "content":
        return FileSpec(content=secret.content)
    by_variable = secret.origin == "environment"
    return FileSpec(environment=secret.source) if by_variable else FileSpec(file=f"{secret.origin} {secret.source}")


# -- the diff

_GRAVITY = (Way.WIDENED, Way.MAYBE, Way.NARROWED, Way.UNCHANGED)


class PrivilegeChange(Data):
    """One difference of one axis. `sandboxes` are all that it is about: one cause in a base may be many's."""

    axis: str
    way: Way
    witness: str
    sandboxes: tuple[str, ...]
    key: str = ""
    span: Span | None = None

    @property
    def order(self) -> tuple[object, ...]:
        """The sort key: the gravest first, then by place."""
        return (_GRAVITY.index(self.way), place_order(self.span), self.axis, self.witness, self.sandboxes)


class PrivilegeDiff(Data):
    """All differences, the gravest first."""

    changes: tuple[PrivilegeChange, ...] = ()
    sandboxes: tuple[str, ...] = ()

    @property
    def widens(self) -> bool:
        """Whether something may do more, or nobody can tell."""
        return any(change.way in (Way.WIDENED, Way.MAYBE) for change in self.changes)

    def by_axis(self) -> Mapping[str, Mapping[str, Way]]:
        """Per sandbox and axis, the gravest verdict; UNCHANGED where there is no difference."""
        table = {name: {axis.name: Way.UNCHANGED for axis in AXES} for name in self.sandboxes}
        for change in self.changes:
            for name in change.sandboxes:
                row = table.setdefault(name, {})
                now = row.get(change.axis, Way.UNCHANGED)
                row[change.axis] = min(now, change.way, key=_GRAVITY.index)
        return table


class Party(Data):
    """One sandbox or service of one of the two. `grants` are what no option expresses; `place` says where an option,
    or an item of it, is written."""

    side: Side
    grants: tuple[Grant, ...] = ()
    place: PlaceOf = nowhere
    span: Span | None = None


Parties = Mapping[str, Party]  # by address
NOBODY: Parties = freeze({})


def side_of(sandbox: DeclaredSandbox, profile: Profile) -> Side:
    """A declared sandbox as one side of a comparison."""
    return Side(
        spec=sandbox.spec,
        networks=profile.networks,
        volumes=profile.volumes,
        secrets=profile.secrets,
        configs=profile.configs,
        workspace=_relative(str(sandbox.workspace), profile) if sandbox.workspace else "",
    )


def declared_parties(profile: Profile | None, subjects: Iterable[Subject] = ()) -> Parties:
    """The sandboxes of a profile; `subjects` are the same ones as the rules see them, where that is known."""
    if profile is None:
        return NOBODY
    beside = {subject.name: grants(subject) for subject in subjects}
    return {
        one.address: Party(
            side=_moved(side_of(one, profile), profile),
            grants=beside.get(one.address, ()),
            place=one.place,
            span=one.span,
        )
        for one in profile.sandboxes
    }


def service_parties(
    subjects: Iterable[Subject], variables: Mapping[str, tuple[str, ...]], project: str = ""
) -> Parties:
    """The services of Compose files; `variables` are the options that one decides, as `option=variable`; `project` is
    its name, where they say it."""
    return {
        one.name: Party(
            side=msgspec.structs.replace(side_of_service(one), project=project or "called after its directory"),
            grants=grants(one, variables.get(one.name, ())),
            place=one.find,
            span=one.find("", None),
        )
        for one in subjects
    }


def _relative(path: str, profile: Profile) -> str:
    top = str(profile.directory)
    return "." + path[len(top) :] if below(path, top) else path


def _moved(side: Side, profile: Profile) -> Side:
    """Host paths below the project's directory from there: two revisions lie in different places."""
    spec = side.spec
    volumes = tuple(
        msgspec.structs.replace(mount, source=_relative(mount.source, profile))
        if mount.type == "bind" and mount.source
        else mount
        for mount in spec.volumes
    )
    workspace = spec.workspace
    if workspace is not None and workspace.access != "copy":
        workspace = msgspec.structs.replace(workspace, source=_relative(workspace.source, profile))
    bound = {
        name: msgspec.structs.replace(one, driver_opts={**one.driver_opts, "device": _relative(one.bound, profile)})
        for name, one in profile.volumes.items()
        if one.bound.startswith("/")
    }
    return msgspec.structs.replace(
        side,
        spec=msgspec.structs.replace(spec, volumes=volumes, workspace=workspace),
        volumes={**profile.volumes, **bound},
        secrets=_moved_files(profile.secrets, profile),
        configs=_moved_files(profile.configs, profile),
        project=profile.project,
    )


def _moved_files(files: Mapping[str, FileSpec], profile: Profile) -> Mapping[str, FileSpec]:
    return {
        name: msgspec.structs.replace(one, file=_relative(one.file, profile)) if one.file else one
        for name, one in files.items()
    }


NOTHING = Side(spec=settle(SandboxSpec(egress=CLOSED)))


def compare(old: Side, new: Side) -> Iterator[tuple[str, Step]]:
    """The steps between two sides, with their axes, and with what makes them worse together."""
    found = [(axis.name, step) for axis in AXES for step in axis.compare(old, new)]
    for axis, step in found:
        yield axis, msgspec.structs.replace(step, witness=step.witness + _together(axis, step, new))


def _together(axis: str, step: Step, new: Side) -> str:
    """What a widening means with what the sandbox holds besides."""
    if step.way is not Way.WIDENED:
        return ""
    held = [f"the secret {ref.source}" for ref in new.spec.secrets[:2]]
    if axis == "network":
        data = ["the workspace"] if new.spec.workspace is not None and places(new) else []
        parts = [f"holding {' and '.join(held)}" if held else "", f"reading {data[0]}" if data else ""]
        words = " and ".join(part for part in parts if part)
        return f" while {words}" if words else ""
    if axis == "secrets" and level(new) != "nothing":
        allowed = new.spec.egress.allow if new.spec.egress is not None else ()
        where = ", ".join(allowed[:2]) + (" and others" if len(allowed) > 2 else "") if allowed else level(new)
        return f" while {where} can be reached"
    if axis == "mounts" and held and level(new) != "nothing":
        return f" while {level(new)} can be reached"
    return ""


def privilege_diff(old: Profile | None, new: Profile | None) -> PrivilegeDiff:
    """What the sandboxes of `new` may do that those of `old` could not. None has no sandboxes."""
    return difference(declared_parties(old), declared_parties(new))


def difference(old: Parties, new: Parties) -> PrivilegeDiff:
    """What those of `new` may do that those of `old` could not."""
    every = tuple(dict.fromkeys((*old, *new)))
    merged: dict[tuple[object, ...], PrivilegeChange] = {}
    for address in every:
        for change in _of(address, old.get(address), new.get(address)):
            # one cause at one place is one change, of all sandboxes that have it
            place = str(change.span) if change.span is not None else change.sandboxes
            key = (change.axis, change.way, change.witness, place)
            earlier = merged[key].sandboxes if key in merged else ()
            merged[key] = msgspec.structs.replace(merged.get(key, change), sandboxes=(*earlier, address))
    return PrivilegeDiff(changes=tuple(sorted(merged.values(), key=lambda change: change.order)), sandboxes=every)


def _of(address: str, before: Party | None, after: Party | None) -> Iterator[PrivilegeChange]:
    if after is None:
        yield PrivilegeChange(axis="sandbox", way=Way.NARROWED, witness="is no longer declared", sandboxes=(address,))
        return
    if before is None:
        yield PrivilegeChange(axis="sandbox", way=Way.WIDENED, witness="is new", sandboxes=(address,), span=after.span)
    for axis, step in _steps(before or Party(side=NOTHING), after):
        if before is not None or step.way is Way.WIDENED:
            place, own = after.place(step.key, step.item), (address,)
            yield PrivilegeChange(
                axis=axis, way=step.way, witness=step.witness, sandboxes=own, key=step.key, span=place
            )


def _steps(old: Party, new: Party) -> Iterator[tuple[str, Step]]:
    yield from compare(old.side, new.side)
    yield from compare_grants(old.grants, new.grants)


def exceeding(greatest: Party, given: Party) -> Iterator[tuple[str, Step]]:
    """In what a sandbox exceeds the greatest one that a policy allows."""
    return ((axis, step) for axis, step in _steps(greatest, given) if step.way in (Way.WIDENED, Way.MAYBE))
