"""Where each option is in the engine's payloads and answers: one line an option, in `FIELDS`.

Owns the conversion of single values in both directions, and the few shapes in which a value is written and read back.
Pure.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

from msgspec import UNSET, field, structs

from sandboxrun.data import Data, json_as
from sandboxrun.spec import forms, labels, seccomp
from sandboxrun.spec.forms import join_security, split_security
from sandboxrun.spec.guard import HIDDEN, mounts_of, parents
from sandboxrun.spec.names import CONFIGS, SECRETS, WORKSPACE, Names, part_volume
from sandboxrun.spec.option import OwnAddresses, Row, private_network
from sandboxrun.spec.option_types import CLOSED, Egress
from sandboxrun.spec.options import CONFIGS_AT, INIT_AT, SECRETS_AT
from sandboxrun.spec.records import (
    Attachment,
    Device,
    FileRef,
    Healthcheck,
    Lifetime,
    Logging,
    Mount,
    Ulimit,
    Workspace,
    device_target,
)
from sandboxrun.spec.spec import BY_KEY
from sandboxrun.spec.types import SECOND, freeze

# -- What a placement writes to and reads from


class Place(Data, kw_only=False, eq=False):
    """Where an option lives on the engine; `engine` names the field, for the docs and for errors. Of this class itself:
    in our own label only, for the engine shows nothing to read back."""

    engine: str

    def put(self, value: Any, payload: Payload) -> None:
        """Write `value` into a create payload. (The codec writes the whole spec into the label.)"""

    def get(self, live: Live) -> Any:
        """Read the value back from an inspect answer, in the row's own form."""


class Payload(Data):
    """A create payload being built, with what the placements need to know about the sandbox."""

    name: str
    names: Names
    own_addresses: OwnAddresses | None = None  # of a sandbox that has a gateway
    config: dict[str, Any] = field(default_factory=dict)
    host: dict[str, Any] = field(default_factory=dict)
    endpoints: dict[str, Any] = field(default_factory=dict)

    def body(self) -> dict[str, Any]:
        """The JSON body of POST /containers/create."""
        body = {**self.config, "HostConfig": self.host}
        if self.endpoints:
            body["NetworkingConfig"] = {"EndpointsConfig": self.endpoints}
        return body


class Live(Data):
    """An inspect answer, with what the placements need to know to read it."""

    inspect: Mapping[str, Any]
    names: Names
    recorded: Any = None  # the spec as last applied, where that is known

    @property
    def name(self) -> str:
        """The container's name."""
        return str(self.inspect.get("Name", "")).removeprefix("/")

    @property
    def base(self) -> str:
        """What the names of its own volumes and network begin with: the name that it was made under."""
        return self.label(labels.BASE) or self.name

    def config(self, field: str) -> Any:
        """A field of Config."""
        return (self.inspect.get("Config") or {}).get(field)

    def host(self, field: str) -> Any:
        """A field of HostConfig."""
        return (self.inspect.get("HostConfig") or {}).get(field)

    def label(self, name: str) -> str | None:
        """A label's text."""
        return labels.text_of(self.config("Labels"), name)  # a dozen placements ask


# -- The init that is PID 1 of a sandbox with a timeout and ends it in time, though no process of ours runs: its place,
# and what of its arguments is read back. The program is in `init/c/init.c`

INIT_PROGRAM = f"{INIT_AT}/init"
NOT_EXECUTABLE = 126
NOT_STARTED = (NOT_EXECUTABLE, 127)  # an init's codes, the engine's too: the command is not executable, not found
HOLD, RELEASE = "62", "63"  # signals around a pause of ours, whose time is not the command's; from outside only
_ARGUMENT = re.compile("(timeout|grace)=([0-9]{1,18})")


class HeldByInit(Data):
    """What the init of a container was told: its timeout in nanoseconds, and the sandbox's own entry point."""

    timeout: int
    entrypoint: tuple[str, ...]

    @property
    def seconds(self) -> float:
        """The timeout in seconds."""
        return self.timeout / 1e9


def is_init_mount(found: Mapping[str, Any]) -> bool:
    """Whether an entry of the engine's own list of mounts is the init's, and read-only."""
    named = str(found.get("Name") or "").startswith(labels.INIT_VOLUME)
    return found.get("Type") == "volume" and found.get("Destination") == INIT_AT and named and not found.get("RW", True)


def held_by_init(inspect: Mapping[str, Any]) -> HeldByInit | None:
    """What the init of a container holds it to; None where PID 1 is not our init, from our own read-only mount."""
    config = inspect.get("Config") or {}
    found = list(map(str, config.get("Entrypoint") or ()))
    told = [_ARGUMENT.fullmatch(argument) for argument in found[1:3]]
    if found[:1] != [INIT_PROGRAM] or found[3:4] != ["--"] or not any(map(is_init_mount, inspect.get("Mounts") or ())):
        return None
    values = {match[1]: int(match[2]) for match in told if match is not None}
    if values.keys() != {"timeout", "grace"}:
        return None
    return HeldByInit(timeout=values["timeout"], entrypoint=tuple(found[4:]))


# -- How single values are written for the engine and read back: pairs of small functions, one direction each


def form(of: forms.Form) -> Callable[[Any], str]:
    """A text in its canonical form."""
    return partial(forms.shown, of)


def forms_of(of: forms.Form) -> Callable[[Any], tuple[str, ...]]:
    """Texts in their canonical form, in their order."""
    return lambda value: tuple(forms.shown(of, item) for item in value)


def ordered(value: Iterable[str]) -> tuple[str, ...]:
    """A set of names, or those in a mapping, sorted."""
    return tuple(sorted(value))


def capabilities(value: Any) -> tuple[str, ...]:
    """Sorted, without the CAP_ prefix; Podman adds it."""
    return tuple(sorted(str(item).upper().removeprefix("CAP_") for item in value))


def to_ulimits(value: Mapping[str, Ulimit]) -> list[dict[str, Any]]:
    """Limits by name to the engine's list."""
    return [{"Name": name, "Soft": limit.soft, "Hard": limit.hard} for name, limit in sorted(value.items())]


def from_ulimits(value: Any) -> Mapping[str, Ulimit]:
    """The engine's list to limits by name; Podman writes RLIMIT_NOFILE."""
    named = {str(i["Name"]).removeprefix("RLIMIT_").lower(): i for i in value}
    return freeze({name: Ulimit(soft=int(i["Soft"]), hard=int(i["Hard"])) for name, i in sorted(named.items())})


def from_equals(value: Any) -> Mapping[str, str | None]:
    """NAME=value as a mapping."""
    pairs = (str(item).partition("=") for item in value or ())
    return freeze({name: item if equals else None for name, equals, item in pairs})


def to_security(value: Mapping[str, str]) -> list[str]:
    """Security options by name to the engine's list; a seccomp profile of ours goes as its content."""
    sent = {name: seccomp.to_engine(item) if name == "seccomp" else item for name, item in value.items()}
    return [join_security(name, item) for name, item in sent.items() if item is not None]


def from_security(value: Any) -> Mapping[str, str]:
    """The engine's list, in either spelling, to options by name; a seccomp profile that is ours gets its name back."""
    options = dict(split_security(str(item)) for item in value or ())
    return freeze({**options, "seccomp": seccomp.from_engine(options.get("seccomp"))})


def to_restart(value: str) -> dict[str, Any]:
    """`on-failure:3` to the engine's policy."""
    name, _, count = value.partition(":")
    return {"Name": name, "MaximumRetryCount": int(count or 0)}


def from_restart(value: Any) -> str:
    """The engine's policy to `on-failure:3`."""
    name, count = value.get("Name") or "no", value.get("MaximumRetryCount") or 0
    return f"{name}:{count}" if count else str(name)


_HEALTH = {"interval": "Interval", "timeout": "Timeout", "retries": "Retries", "start_period": "StartPeriod"}


def to_health(value: Healthcheck) -> dict[str, Any]:
    """A health check to Config.Healthcheck, all of it: the engine takes what is left out from the image's."""
    if value.disable:
        return {"Test": ["NONE"]}
    return {"Test": list(value.test or ()), **{field: getattr(value, key) for key, field in _HEALTH.items()}}


def from_health(value: Any) -> Healthcheck:
    """Config.Healthcheck to a health check; the engine's own defaults, which are the rows', for what an image leaves
    out."""
    if value.get("Test") == ["NONE"]:
        return Healthcheck(disable=True)
    given = {key: value[field] for key, field in _HEALTH.items() if value.get(field)}
    return Healthcheck(test=tuple(value.get("Test") or ()) or None, **given)


def from_logging(value: Mapping[str, Any]) -> Logging:
    """HostConfig.LogConfig to logging."""
    return Logging(driver=str(value.get("Type") or ""), options=freeze(value.get("Config") or {}))


def to_devices(value: tuple[Device, ...]) -> list[dict[str, str]]:
    """Devices to the engine's list."""
    return [
        {"PathOnHost": d.source, "PathInContainer": d.target or d.source, "CgroupPermissions": d.permissions}
        for d in value
    ]


def from_devices(value: Any) -> tuple[Device, ...]:
    """The engine's list to devices."""
    found = (
        Device(
            source=d["PathOnHost"],
            target=d["PathInContainer"],
            permissions=forms.permissions(d["CgroupPermissions"]),
        )
        for d in value
    )
    return tuple(sorted(found, key=device_target))


def to_gpus(value: int | None) -> list[dict[str, Any]]:
    """A number of GPUs (-1: all) to a device request."""
    return [] if value is None else [{"Driver": "", "Count": value, "Capabilities": [["gpu"]]}]


def from_gpus(value: Any) -> int | None:
    """A device request to a number of GPUs."""
    requests = [r for r in value if ["gpu"] in (r.get("Capabilities") or ())]
    return int(requests[0].get("Count") or 0) if requests else None


# -- Where options live on the engine: the few shapes in which a value is written and read back

Convert = Callable[[Any], Any]


def same(value: Any) -> Any:
    """The value as it is."""
    return value


class Field(Place, kw_only=False, eq=False):
    """A field of HostConfig, or of Config (at the top level of a create payload). `empty` is what null, "", [] and {}
    mean, which `read` never sees then."""

    section: str
    name: str
    empty: Any = UNSET
    write: Convert = same
    read: Convert = same

    def put(self, value: Any, payload: Payload) -> None:
        (payload.host if self.section == "HostConfig" else payload.config)[self.name] = self.write(value)

    def get(self, live: Live) -> Any:
        value = (live.inspect.get(self.section) or {}).get(self.name)
        nothing = not value and not isinstance(value, int | float)
        return self.empty if nothing and self.empty is not UNSET else self.read(value)


class SystemPaths(Place, kw_only=False, eq=False):
    """The paths of /proc and /sys that the engine masks or makes read-only when nothing is said. An empty list unmasks
    them; an engine that does not show them (Podman) says null."""

    def put(self, value: str, payload: Payload) -> None:
        """Nothing: what is not named stays masked."""

    def get(self, live: Live) -> str:
        return "open" if [] in (live.host("MaskedPaths"), live.host("ReadonlyPaths")) else "masked"


class Labels(Place, kw_only=False, eq=False):
    """The user's labels; sandboxrun's own are written by the codec."""

    def put(self, value: Mapping[str, str], payload: Payload) -> None:
        payload.config.setdefault("Labels", {}).update(value)

    def get(self, live: Live) -> Mapping[str, str]:
        return freeze(labels.of_user(live.config("Labels")))


class Entrypoint(Field, kw_only=False, eq=False):
    """The sandbox's own, whatever init is before it (the codec puts that there)."""

    def get(self, live: Live) -> tuple[str, ...]:
        held = held_by_init(live.inspect)
        return held.entrypoint if held is not None else tuple(live.config("Entrypoint") or ())


class Init(Field, kw_only=False, eq=False):
    """The engine's init, or ours in its place."""

    def get(self, live: Live) -> bool:
        return bool(live.host("Init")) or held_by_init(live.inspect) is not None


class TimeLimits(Place, kw_only=False, eq=False):
    """The timeout that our init holds, where the sandbox was made with it; the others are in our label only."""

    def get(self, live: Live) -> Lifetime:
        recorded = live.recorded.lifetime if live.recorded is not None else Lifetime()
        if not live.label(labels.INIT):
            return recorded
        held = held_by_init(live.inspect)
        return structs.replace(recorded, timeout=held.timeout if held is not None else None)


class Hostname(Field, kw_only=False, eq=False):
    """The engine names a container after its id when nothing was declared."""

    def get(self, live: Live) -> str | None:
        name = live.config("Hostname") or None
        return None if name == str(live.inspect.get("Id", ""))[:12] else name


def _bind(source: str, target: str, read_only: bool) -> dict[str, Any]:
    options = {"Propagation": "rprivate"}
    return {"Type": "bind", "Source": source, "Target": target, "ReadOnly": read_only, "BindOptions": options}


def volume_mount(source: str, target: str, *, read_only: bool = False) -> dict[str, Any]:
    """A volume as the engine's mount. An image's own files at that place do not become the container's input."""
    options = {"NoCopy": True}
    return {"Type": "volume", "Source": source, "Target": target, "ReadOnly": read_only, "VolumeOptions": options}


def _add_mount(payload: Payload, mount: dict[str, Any]) -> None:
    payload.host.setdefault("Mounts", []).append(mount)


def _live_mounts(live: Live) -> list[Mapping[str, Any]]:
    """What is really mounted, from the engine's own list: an echo of the request would prove nothing."""
    return list(live.inspect.get("Mounts") or ())


class Volumes(Place, kw_only=False, eq=False):
    """The profile's own mounts, less the workspace, secrets and configs, which have rows of their own."""

    def put(self, value: tuple[Mount, ...], payload: Payload) -> None:
        for mount in value:
            source = mount.source or ""
            if mount.type == "bind":
                _add_mount(payload, _bind(source, mount.target, mount.read_only))
            else:
                _add_mount(payload, volume_mount(payload.names.volume(source), mount.target, read_only=mount.read_only))

    def get(self, live: Live) -> tuple[Mount, ...]:
        own = {part_volume(live.base, part) for part in (WORKSPACE, SECRETS, CONFIGS)}
        label = json_as(dict, live.label(labels.WORKSPACE) or "")
        workspace = label.get("target")
        inner = {f"{workspace}/{path}" for path, _ in mounts_of(_texts(label, "protected"))} if label else ()
        mounts = []
        for found in _live_mounts(live):
            target, kind, name = found["Destination"], found["Type"], found.get("Name") or ""
            if name in own or target == workspace or target in inner or kind == "tmpfs" or is_init_mount(found):
                continue
            source = live.names.volume_key(name) if kind == "volume" else found["Source"]
            mounts.append(Mount(type=kind, source=source, target=target, read_only=not found["RW"]))
        return tuple(sorted(mounts, key=lambda mount: mount.target))


class WorkspaceMount(Place, kw_only=False, eq=False):
    """A copy lives in a volume of the sandbox's own; rw and ro are the directory itself, rw with read-only mounts over
    what the sandbox must not write to."""

    def put(self, value: Workspace, payload: Payload) -> None:
        label = {"source": value.source, "target": value.target, "size": value.size, "exclude": list(value.exclude)}
        label |= {"writable": list(value.writable), "protected": list(value.protected)}
        payload.config.setdefault("Labels", {})[labels.WORKSPACE] = json.dumps(label, sort_keys=True)
        if value.access == "copy":
            _add_mount(payload, volume_mount(part_volume(payload.name, WORKSPACE), value.target))
            return
        _add_mount(payload, _bind(value.source, value.target, value.access == "ro"))
        for path, read_only in mounts_of(value.protected):
            target = f"{value.target}/{path}"
            hidden = {"Type": "tmpfs", "Target": target, "ReadOnly": True}
            _add_mount(payload, hidden if path == HIDDEN else _bind(f"{value.source}/{path}", target, read_only))

    def get(self, live: Live) -> Workspace | None:
        label = json_as(dict, live.label(labels.WORKSPACE) or "")
        for found in _live_mounts(live):
            if found["Destination"] != label.get("target"):
                continue
            if found.get("Name") == part_volume(live.base, WORKSPACE):
                return Workspace(
                    source=str(label.get("source")),
                    target=found["Destination"],
                    access="copy",
                    exclude=_texts(label, "exclude"),
                    size=size if type(size := label.get("size")) is int else None,  # of its volume, read back then
                )
            access = "rw" if found["RW"] else "ro"
            return Workspace(
                source=found["Source"],
                target=found["Destination"],
                access=access,
                writable=_texts(label, "writable"),
                protected=_kept(found, _texts(label, "protected"), live),
            )
        return None


def _kept(workspace: Mapping[str, Any], protected: tuple[str, ...], live: Live) -> tuple[str, ...]:
    """Those of the paths that are really mounted, each from its own place and read-only, and none above it missing."""
    source, target = workspace["Source"], workspace["Destination"]
    real = {(found.get("Source") or "", found["Destination"], not found["RW"]) for found in _live_mounts(live)}

    def is_mounted(path: str, read_only: bool) -> bool:
        return ("" if path == HIDDEN else f"{source}/{path}", f"{target}/{path}", read_only) in real

    return tuple(
        path
        for path in protected
        if is_mounted(path, True) and all(is_mounted(above, False) for above in parents(path))
    )


def _texts(label: Mapping[str, Any], key: str) -> tuple[str, ...]:
    listed = label.get(key)
    return tuple(sorted(map(str, listed))) if isinstance(listed, list) else ()


class Files(Place, kw_only=False, eq=False):
    """Secrets or configs: files in a volume of the sandbox's own, mounted read-only under `directory`."""

    part: str
    label: str
    directory: str

    def put(self, value: tuple[FileRef, ...], payload: Payload) -> None:
        if value:
            refs = [[ref.source, ref.file_name, ref.uid, ref.gid, ref.mode, ref.digest] for ref in value]
            payload.config.setdefault("Labels", {})[self.label] = json.dumps(refs)
            _add_mount(payload, volume_mount(part_volume(payload.name, self.part), self.directory, read_only=True))

    def get(self, live: Live) -> tuple[FileRef, ...]:
        volume = part_volume(live.base, self.part)
        mounted = any(
            found.get("Name") == volume and found["Destination"] == self.directory and not found["RW"]
            for found in _live_mounts(live)
        )
        if not mounted:
            return ()
        refs = json_as(list, live.label(self.label) or "")
        found = (
            FileRef(source=source, target=None if source == name else name, uid=uid, gid=gid, mode=mode, digest=digest)
            for source, name, uid, gid, mode, digest in filter(_is_ref, refs)
        )
        return tuple(sorted(found, key=lambda ref: ref.file_name))


_REF = ((str,), (str,), (int, type(None)), (int, type(None)), (int,), (str, type(None)))


def _is_ref(ref: Any) -> bool:
    """Whether an item of a label is a file reference as `Files` writes it."""
    return isinstance(ref, list) and len(ref) == len(_REF) and all(type(v) in t for v, t in zip(ref, _REF, strict=True))


class NetworkMode(Place, kw_only=False, eq=False):
    """`none`, or the first of the sandbox's networks."""

    def put(self, value: str, payload: Payload) -> None:
        if value == "none":
            payload.host["NetworkMode"] = "none"

    def get(self, live: Live) -> str:
        mode = live.host("NetworkMode")
        # the engine's own networks are never ours: show them for what they are
        if mode in ("none", "host", "bridge", "default") or str(mode).startswith("container:"):
            return str(mode)
        return "bridge" if mode or (live.inspect.get("NetworkSettings") or {}).get("Networks") else "none"


class Networks(Place, kw_only=False, eq=False):
    """The networks a sandbox is attached to. The first is given at creation, the others are connected."""

    def put(self, value: Mapping[str, Attachment], payload: Payload) -> None:
        for key, attachment in list(value.items())[:1]:
            name = payload.names.network(key)
            payload.host["NetworkMode"] = name
            payload.endpoints[name] = endpoint(attachment)

    def get(self, live: Live) -> Mapping[str, Attachment]:
        found = (live.inspect.get("NetworkSettings") or {}).get("Networks") or {}
        own = {str(live.inspect.get("Id", ""))[:12], live.name, live.base}
        attached = {}
        for name in sorted(found.keys() - {"none", private_network(live.base)}):  # that one is the egress option's
            settings = found[name] or {}
            aliases = {forms.domain(alias) for alias in settings.get("Aliases") or () if alias not in own}
            address = (settings.get("IPAMConfig") or {}).get("IPv4Address") or None
            attached[live.names.network_key(name)] = Attachment(aliases=tuple(sorted(aliases)), ipv4_address=address)
        return freeze(attached)


def endpoint(attachment: Attachment) -> dict[str, Any]:
    """An attachment as the engine's EndpointSettings."""
    settings: dict[str, Any] = {}
    if attachment.aliases:
        settings["Aliases"] = list(attachment.aliases)
    if attachment.ipv4_address:
        settings["IPAMConfig"] = {"IPv4Address": attachment.ipv4_address}
    return settings


# -- Placements of options that wiring touches: name servers, and egress itself


class Resolvers(Field, kw_only=False, eq=False):
    """The name servers of the profile; the gateway as one is the wiring's."""

    def get(self, live: Live) -> tuple[str, ...]:
        found = forms_of(forms.address)(live.host("Dns") or ())
        gateway = live.label(labels.GATEWAY)
        return () if gateway and found == (gateway,) else found


class Hosts(Place, kw_only=False, eq=False):
    """The profile's lines of the hosts file; those that lead to the gateway are the wiring's."""

    def put(self, value: Mapping[str, tuple[str, ...]], payload: Payload) -> None:
        lines = (f"{name}:{address}" for name, addresses in value.items() for address in addresses)
        payload.host.setdefault("ExtraHosts", []).extend(lines)

    def get(self, live: Live) -> Mapping[str, tuple[str, ...]]:
        wired, found = _wired_hosts(live), dict[str, tuple[str, ...]]()
        for line in live.host("ExtraHosts") or ():
            name, _, address = str(line).partition(":")  # an address may hold colons, and a name have several
            if line not in wired:
                found[name] = (*found.get(name, ()), address)
        return freeze(found)


def _wired_hosts(live: Live) -> set[str]:
    """The lines of the hosts file that the wiring wrote; none where the sandbox asks the gateway for names."""
    return {f"{name}:{live.label(labels.GATEWAY)}" for name in (live.label(labels.NAMES) or "").split()}


class Wiring(Place, kw_only=False, eq=False):
    """A network of the sandbox's own, with nothing on it but its gateway, which is its name server; where the engine
    does not ask it, the names stand in the hosts file. The rules are the gateway's to hold; read back is what was
    applied last, if the sandbox is wired as it was made."""

    def put(self, value: Egress, payload: Payload) -> None:
        if not value.has_gateway or payload.own_addresses is None:
            return
        network = private_network(payload.name)
        payload.host["NetworkMode"] = network
        payload.endpoints[network] = {"IPAMConfig": {"IPv4Address": payload.own_addresses.sandbox}}
        payload.host["Dns"] = [payload.own_addresses.gateway]
        own = payload.config.setdefault("Labels", {})
        own[labels.GATEWAY] = payload.own_addresses.gateway
        if payload.own_addresses.in_hosts:
            names = sorted(value.listed or ())
            payload.host.setdefault("ExtraHosts", []).extend(f"{name}:{own[labels.GATEWAY]}" for name in names)
            own[labels.NAMES] = " ".join(names)

    def get(self, live: Live) -> Egress | None:
        attached = set((live.inspect.get("NetworkSettings") or {}).get("Networks") or {})
        if live.host("NetworkMode") == "none" and attached <= {"none"}:
            return CLOSED
        egress, network = getattr(live.recorded, "egress", None), private_network(live.base)
        gateway = live.label(labels.GATEWAY)
        is_wired = (
            isinstance(egress, Egress)
            and egress.has_gateway
            and network in attached  # what else it is on is the option networks' business
            and live.host("NetworkMode") == network
            and bool(gateway)
            and tuple(live.host("Dns") or ()) == (gateway,)
            and _wired_hosts(live) <= set(live.host("ExtraHosts") or ())
        )
        return egress if is_wired else None


def _field(section: str, name: str, *how: Any, kind: type[Field] = Field, **more: Any) -> Field:
    return kind(f"{section}.{name}", section, name, *how, **more)


Host, Config = partial(_field, "HostConfig"), partial(_field, "Config")

# -- The table: where each option of spec/options.py lives. What an engine shows nothing of is kept in our label

FIELDS: Mapping[str, Place] = {
    "image": Config("Image", "", read=form(forms.image)),
    "command": Config("Cmd", (), list, tuple),
    "entrypoint": Config("Entrypoint", write=list, kind=Entrypoint),
    "user": Config("User", "", read=form(forms.account)),
    "working_dir": Config("WorkingDir", None, read=form(forms.path)),
    "environment": Config(
        "Env", freeze({}), lambda of: [k if v is None else f"{k}={v}" for k, v in of.items()], from_equals
    ),
    "init": Host("Init", kind=Init),
    "tty": Config("Tty", False, read=bool),
    "stdin_open": Config("OpenStdin", False, read=bool),
    "stop_signal": Config("StopSignal", "SIGTERM", read=form(forms.signal)),  # an engine's own default
    "stop_grace_period": Config("StopTimeout", None, lambda ns: -(-ns // SECOND), lambda s: int(s) * SECOND),
    "restart": Host("RestartPolicy", "no", to_restart, from_restart),
    "healthcheck": Config("Healthcheck", None, to_health, from_health),
    "hostname": Config("Hostname", kind=Hostname),
    "labels": Labels("Config.Labels"),
    "annotations": Host("Annotations", freeze({}), dict, freeze),
    "platform": Place("label sandboxrun.spec"),
    "runtime": Host("Runtime", None, read=str),
    "logging": Host(
        "LogConfig", Logging(driver=""), lambda v: {"Type": v.driver, "Config": {**v.options}}, from_logging
    ),
    "group_add": Host("GroupAdd", (), list, ordered),
    "mem_limit": Host("Memory", 0, read=int),
    "memswap_limit": Host("MemorySwap", 0, read=int),
    "mem_reservation": Host("MemoryReservation", 0, read=int),
    "cpus": Host("NanoCpus", 0.0, lambda cpus: round(cpus * 10**9), lambda nano: int(nano) / 10**9),
    "cpu_shares": Host("CpuShares", 0, read=int),
    "cpuset": Host("CpusetCpus", None, read=form(forms.cpus)),
    "pids_limit": Host("PidsLimit", 0, read=lambda most: max(0, int(most))),
    "ulimits": Host("Ulimits", freeze({}), to_ulimits, from_ulimits),
    "shm_size": Host("ShmSize", 0, read=int),
    "storage_opt": Host("StorageOpt", freeze({}), dict, freeze),
    "oom_score_adj": Host("OomScoreAdj", 0, read=int),
    "devices": Host("Devices", (), to_devices, from_devices),
    "gpus": Host("DeviceRequests", None, to_gpus, from_gpus),
    "read_only": Host("ReadonlyRootfs", False, read=bool),
    "cap_drop": Host("CapDrop", (), list, capabilities),
    "cap_add": Host("CapAdd", (), list, capabilities),
    "security_opt": Host("SecurityOpt", UNSET, to_security, from_security),
    "userns_mode": Host("UsernsMode", None, read=str),
    "ipc": Host("IpcMode", "", read=str),
    "sysctls": Host("Sysctls", freeze({}), dict, freeze),
    "privileged": Host("Privileged", False, read=bool),
    "pid": Host("PidMode", "", read=str),
    "uts": Host("UTSMode", "", read=str),
    "cgroup": Host("CgroupnsMode", "", read=str),
    "system_paths": SystemPaths("HostConfig.MaskedPaths, HostConfig.ReadonlyPaths"),
    "ports": Host("PortBindings", (), lambda _: {}, ordered),
    "publish_all_ports": Host("PublishAllPorts", False, read=bool),
    "volumes_from": Host("VolumesFrom", (), list, tuple),
    "device_cgroup_rules": Host("DeviceCgroupRules", (), list, tuple),
    "cgroup_parent": Host("CgroupParent", "", read=str),
    "oom_kill_disable": Host("OomKillDisable", False, read=bool),
    "auto_remove": Host("AutoRemove", False, read=bool),
    "tmpfs": Host("Tmpfs", freeze({}), dict, freeze),
    "volumes": Volumes("HostConfig.Mounts"),
    "workspace": WorkspaceMount("HostConfig.Mounts"),
    "secrets": Files("HostConfig.Mounts", SECRETS, labels.SECRETS, SECRETS_AT),
    "configs": Files("HostConfig.Mounts", CONFIGS, labels.CONFIGS, CONFIGS_AT),
    "network_mode": NetworkMode("HostConfig.NetworkMode"),
    "networks": Networks("NetworkSettings.Networks"),
    "dns": Host("Dns", write=list, kind=Resolvers),
    "egress": Wiring("HostConfig.NetworkMode"),
    "dns_search": Host("DnsSearch", (), list, forms_of(forms.domain)),
    "dns_opt": Host("DnsOptions", (), list, lambda options: tuple(sorted(options, key=forms.resolver_option))),
    "extra_hosts": Hosts("HostConfig.ExtraHosts"),
    "lifetime": TimeLimits("Config.Entrypoint"),
}
KEPT = frozenset({"pull_policy", "depends_on", "evidence"})  # in our label only: nothing of the engine's
# What is read back: the others are taken from what was recorded.
SHOWN = {key: place for key, place in FIELDS.items() if type(place) is not Place}


def field_of(row: Row) -> str | None:
    """The engine's field that a sandbox's option is in; None for one that never reaches the engine, and for the rows
    of other records."""
    return FIELDS[row.key].engine if row.key in FIELDS and BY_KEY.get(row.key) is row else None
