"""Where options live on the engine: the few shapes in which a value is written and read back.

Owns the translation of values to the Engine API's JSON and back. Which option has which placement is said
in `spec.py`. Pure.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import attrs

from sandboxrun.model import labels
from sandboxrun.model.names import CONFIGS, SECRETS, WORKSPACE, part_volume
from sandboxrun.model.option import Live, Payload
from sandboxrun.model.records import Attachment, Device, FileRef, Healthcheck, Logging, Mount, Ulimit, Workspace
from sandboxrun.model.security_opt import split_security
from sandboxrun.model.types import freeze

Convert = Callable[[Any], Any]


def same(value: Any) -> Any:
    """The value as it is."""
    return value


@attrs.frozen(eq=False, repr=False)
class Host:
    """A field of HostConfig. `absent` is what the engine shows for a value that was never set."""

    field: str
    write: Convert = same
    read: Convert = same

    @property
    def engine(self) -> str:
        return f"HostConfig.{self.field}"

    def put(self, value: Any, payload: Payload) -> None:
        payload.host[self.field] = self.write(value)

    def get(self, live: Live) -> Any:
        return self.read(live.host(self.field))


@attrs.frozen(eq=False, repr=False)
class Config:
    """A field of Config (at the top level of a create payload)."""

    field: str
    write: Convert = same
    read: Convert = same

    @property
    def engine(self) -> str:
        return f"Config.{self.field}"

    def put(self, value: Any, payload: Payload) -> None:
        payload.config[self.field] = self.write(value)

    def get(self, live: Live) -> Any:
        return self.read(live.config(self.field))


def number(value: Any) -> int:
    """null is 0."""
    return int(value or 0)


def pids(value: Any) -> int:
    """null, 0 and -1 all mean unlimited; we write 0."""
    return max(0, int(value or 0))


def text(value: Any) -> str:
    """null is ""."""
    return str(value or "")


def text_or_none(value: Any) -> str | None:
    """ "" is not set."""
    return str(value) if value else None


def words(value: Any) -> tuple[str, ...]:
    """null is ()."""
    return tuple(value or ())


def words_or_none(value: Any) -> tuple[str, ...] | None:
    """null and [] are not set."""
    return tuple(value) if value else None


def mapping(value: Any) -> Mapping[str, str]:
    """null is {}."""
    return freeze(value or {})


def flag(value: Any) -> bool:
    """null is false."""
    return bool(value)


def capabilities(value: Any) -> tuple[str, ...]:
    """Sorted, without the CAP_ prefix; Podman adds it."""
    return tuple(sorted(str(item).upper().removeprefix("CAP_") for item in value or ()))


def cpus_to_nano(value: float) -> int:
    """CPUs to billionths."""
    return round(value * 1_000_000_000)


def nano_to_cpus(value: Any) -> float:
    """Billionths to CPUs."""
    return int(value or 0) / 1_000_000_000


def seconds(value: int | None) -> int | None:
    """Nanoseconds to whole seconds, rounded up: the engine counts a stop timeout in seconds."""
    return None if value is None else -(-value // 1_000_000_000)


def nanoseconds(value: Any) -> int | None:
    """Whole seconds to nanoseconds."""
    return None if value is None else int(value) * 1_000_000_000


def to_ulimits(value: Mapping[str, Ulimit]) -> list[dict[str, Any]]:
    """Limits by name to the engine's list."""
    return [{"Name": name, "Soft": limit.soft, "Hard": limit.hard} for name, limit in sorted(value.items())]


def from_ulimits(value: Any) -> Mapping[str, Ulimit]:
    """The engine's list to limits by name; Podman writes RLIMIT_NOFILE."""
    named = {str(i["Name"]).removeprefix("RLIMIT_").lower(): i for i in value or ()}
    return freeze({name: Ulimit(soft=int(i["Soft"]), hard=int(i["Hard"])) for name, i in sorted(named.items())})


def to_equals(value: Mapping[str, str | None]) -> list[str]:
    """A mapping as NAME=value."""
    return [name if item is None else f"{name}={item}" for name, item in value.items()]


def from_equals(value: Any) -> Mapping[str, str | None]:
    """NAME=value as a mapping."""
    pairs = (str(item).partition("=") for item in value or ())
    return freeze({name: item if equals else None for name, equals, item in pairs})


def to_hosts(value: Mapping[str, str]) -> list[str]:
    """Names and addresses as NAME:address."""
    return [f"{name}:{address}" for name, address in value.items()]


def from_hosts(value: Any) -> Mapping[str, str]:
    """NAME:address as a mapping; the address may hold colons."""
    return freeze({name: address for name, _, address in (str(item).partition(":") for item in value or ())})


def to_security(value: Mapping[str, str]) -> list[str]:
    """Security options by name to the engine's list."""
    return [f"{name}={item}" for name, item in value.items()]


def from_security(value: Any) -> Mapping[str, str]:
    """The engine's list, in either spelling, to options by name."""
    return freeze(dict(split_security(str(item)) for item in value or ()))


def to_restart(value: str) -> dict[str, Any]:
    """`on-failure:3` to the engine's policy."""
    name, _, count = value.partition(":")
    return {"Name": name, "MaximumRetryCount": int(count or 0)}


def from_restart(value: Any) -> str:
    """The engine's policy to `on-failure:3`."""
    name, count = (value or {}).get("Name") or "no", (value or {}).get("MaximumRetryCount") or 0
    return f"{name}:{count}" if count else str(name)


def to_health(value: Healthcheck) -> dict[str, Any]:
    """A health check to Config.Healthcheck."""
    if value.disable:
        return {"Test": ["NONE"]}
    fields = {
        "Test": list(value.test) if value.test else None,
        "Interval": value.interval,
        "Timeout": value.timeout,
        "Retries": value.retries,
        "StartPeriod": value.start_period,
    }
    return {name: item for name, item in fields.items() if item is not None}


def from_health(value: Any) -> Healthcheck | None:
    """Config.Healthcheck to a health check."""
    if not value:
        return None
    if value.get("Test") == ["NONE"]:
        return Healthcheck(disable=True)
    return Healthcheck(
        test=words_or_none(value.get("Test")),
        interval=value.get("Interval") or None,
        timeout=value.get("Timeout") or None,
        retries=value.get("Retries") or None,
        start_period=value.get("StartPeriod") or None,
    )


def to_logging(value: Logging) -> dict[str, Any]:
    """Logging to HostConfig.LogConfig."""
    return {"Type": value.driver, "Config": dict(value.options)}


def from_logging(value: Any) -> Logging:
    """HostConfig.LogConfig to logging."""
    value = value or {}
    return Logging(driver=str(value.get("Type") or ""), options=freeze(value.get("Config") or {}))


def to_devices(value: tuple[Device, ...]) -> list[dict[str, str]]:
    """Devices to the engine's list."""
    return [
        {"PathOnHost": d.source, "PathInContainer": d.target or d.source, "CgroupPermissions": d.permissions}
        for d in value
    ]


def from_devices(value: Any) -> tuple[Device, ...]:
    """The engine's list to devices."""
    return tuple(
        Device(source=d["PathOnHost"], target=d["PathInContainer"], permissions=d["CgroupPermissions"])
        for d in value or ()
    )


def to_gpus(value: int | None) -> list[dict[str, Any]]:
    """A number of GPUs (-1: all) to a device request."""
    return [] if value is None else [{"Driver": "", "Count": value, "Capabilities": [["gpu"]]}]


def from_gpus(value: Any) -> int | None:
    """A device request to a number of GPUs."""
    requests = [r for r in value or () if ["gpu"] in (r.get("Capabilities") or ())]
    return int(requests[0].get("Count") or 0) if requests else None


@attrs.frozen(eq=False, repr=False)
class Labels:
    """The user's labels; sandboxrun's own are written by the codec."""

    engine: str = "Config.Labels"

    def put(self, value: Mapping[str, str], payload: Payload) -> None:
        payload.config.setdefault("Labels", {}).update(value)

    def get(self, live: Live) -> Mapping[str, str]:
        return freeze(labels.of_user(live.config("Labels")))


@attrs.frozen(eq=False, repr=False)
class Hostname:
    """The engine names a container after its id when nothing was declared."""

    engine: str = "Config.Hostname"

    def put(self, value: str, payload: Payload) -> None:
        payload.config["Hostname"] = value

    def get(self, live: Live) -> str | None:
        name = live.config("Hostname") or None
        return None if name == str(live.inspect.get("Id", ""))[:12] else name


def _bind(source: str, target: str, read_only: bool) -> dict[str, Any]:
    options = {"Propagation": "rprivate"}
    return {"Type": "bind", "Source": source, "Target": target, "ReadOnly": read_only, "BindOptions": options}


def _volume(source: str, target: str, read_only: bool) -> dict[str, Any]:
    # NoCopy: an image's own files at that place must not become the sandbox's input
    options = {"NoCopy": True}
    return {"Type": "volume", "Source": source, "Target": target, "ReadOnly": read_only, "VolumeOptions": options}


def _add_mount(payload: Payload, mount: dict[str, Any]) -> None:
    payload.host.setdefault("Mounts", []).append(mount)


def _live_mounts(live: Live) -> list[Mapping[str, Any]]:
    """What is really mounted, from the engine's own list: an echo of the request would prove nothing."""
    return list(live.inspect.get("Mounts") or ())


@attrs.frozen(eq=False, repr=False)
class Volumes:
    """The profile's own mounts, less the workspace, secrets and configs, which have rows of their own."""

    engine: str = "HostConfig.Mounts"

    def put(self, value: tuple[Mount, ...], payload: Payload) -> None:
        for mount in value:
            source = mount.source or ""
            if mount.type == "bind":
                _add_mount(payload, _bind(source, mount.target, mount.read_only))
            else:
                _add_mount(payload, _volume(payload.names.volume(source), mount.target, mount.read_only))

    def get(self, live: Live) -> tuple[Mount, ...]:
        own = {part_volume(live.name, part) for part in (WORKSPACE, SECRETS, CONFIGS)}
        workspace = _workspace_label(live).get("target")
        mounts = []
        for found in _live_mounts(live):
            target, kind, name = found["Destination"], found["Type"], found.get("Name") or ""
            if name in own or target == workspace or kind == "tmpfs" or _anonymous(found, live):
                continue
            source = live.names.volume_key(name) if kind == "volume" else found["Source"]
            mounts.append(Mount(type=kind, source=source, target=target, read_only=not found["RW"]))
        return tuple(sorted(mounts, key=lambda mount: mount.target))


def _anonymous(found: Mapping[str, Any], live: Live) -> bool:
    """Whether the engine made this volume because the image declares one there."""
    return found["Type"] == "volume" and found["Destination"] in (live.config("Volumes") or {})


def _workspace_label(live: Live) -> Mapping[str, Any]:
    return _json_label(live, labels.WORKSPACE, {})


def _json_label(live: Live, name: str, default: Any) -> Any:
    """A label of ours as data. A label that anyone could have written is data, never trusted to be well-formed."""
    try:
        value = json.loads(live.label(name) or "null")
    except ValueError:
        return default
    return value if isinstance(value, type(default)) else default


@attrs.frozen(eq=False, repr=False)
class WorkspaceMount:
    """A copy lives in a volume of the sandbox's own; rw and ro are the directory itself."""

    engine: str = "HostConfig.Mounts"

    def put(self, value: Workspace, payload: Payload) -> None:
        label = {"source": value.source, "target": value.target}
        payload.config.setdefault("Labels", {})[labels.WORKSPACE] = json.dumps(label, sort_keys=True)
        if value.access == "copy":
            _add_mount(payload, _volume(part_volume(payload.name, WORKSPACE), value.target, False))
        else:
            _add_mount(payload, _bind(value.source, value.target, value.access == "ro"))

    def get(self, live: Live) -> Workspace | None:
        label = _workspace_label(live)
        for found in _live_mounts(live):
            if found["Destination"] != label.get("target"):
                continue
            if found.get("Name") == part_volume(live.name, WORKSPACE):
                return Workspace(source=str(label.get("source")), target=found["Destination"], access="copy")
            access = "rw" if found["RW"] else "ro"
            return Workspace(source=found["Source"], target=found["Destination"], access=access)
        return None


@attrs.frozen(eq=False, repr=False)
class Files:
    """Secrets or configs: files in a volume of the sandbox's own, mounted read-only under `directory`."""

    part: str
    label: str
    directory: str
    engine: str = "HostConfig.Mounts"

    def put(self, value: tuple[FileRef, ...], payload: Payload) -> None:
        if value:
            refs = [[ref.source, ref.file_name, ref.uid, ref.gid, ref.mode] for ref in value]
            payload.config.setdefault("Labels", {})[self.label] = json.dumps(refs)
            _add_mount(payload, _volume(part_volume(payload.name, self.part), self.directory, True))

    def get(self, live: Live) -> tuple[FileRef, ...]:
        volume = part_volume(live.name, self.part)
        mounted = any(
            found.get("Name") == volume and found["Destination"] == self.directory and not found["RW"]
            for found in _live_mounts(live)
        )
        if not mounted:
            return ()
        refs = _json_label(live, self.label, [])
        return tuple(
            FileRef(source=source, target=None if source == name else name, uid=uid, gid=gid, mode=mode)
            for source, name, uid, gid, mode in refs
        )


@attrs.frozen(eq=False, repr=False)
class NetworkMode:
    """`none`, or the first of the sandbox's networks."""

    engine: str = "HostConfig.NetworkMode"

    def put(self, value: str, payload: Payload) -> None:
        if value == "none":
            payload.host["NetworkMode"] = "none"

    def get(self, live: Live) -> str:
        mode = live.host("NetworkMode")
        if mode == "none":
            return "none"
        attached = ((live.inspect.get("NetworkSettings") or {}).get("Networks") or {}).keys()
        # the engine's own networks are never ours: show them for what they are
        return (
            str(mode)
            if mode in ("host", "bridge", "default") or str(mode).startswith("container:")
            else ("bridge" if attached or mode else "none")
        )


@attrs.frozen(eq=False, repr=False)
class Networks:
    """The networks a sandbox is attached to. The first is given at creation, the others are connected."""

    engine: str = "NetworkSettings.Networks"

    def put(self, value: Mapping[str, Attachment], payload: Payload) -> None:
        for key, attachment in list(value.items())[:1]:
            name = payload.names.network(key)
            payload.host["NetworkMode"] = name
            payload.endpoints[name] = endpoint(attachment)

    def get(self, live: Live) -> Mapping[str, Attachment]:
        found = (live.inspect.get("NetworkSettings") or {}).get("Networks") or {}
        return freeze(
            {
                live.names.network_key(name): _attachment(live, settings or {})
                for name, settings in sorted(found.items())
                if name != "none"
            }
        )


def endpoint(attachment: Attachment) -> dict[str, Any]:
    """An attachment as the engine's EndpointSettings."""
    settings: dict[str, Any] = {}
    if attachment.aliases:
        settings["Aliases"] = list(attachment.aliases)
    if attachment.ipv4_address:
        settings["IPAMConfig"] = {"IPv4Address": attachment.ipv4_address}
    return settings


def _attachment(live: Live, settings: Mapping[str, Any]) -> Attachment:
    own = {str(live.inspect.get("Id", ""))[:12], live.name}
    aliases = tuple(alias for alias in settings.get("Aliases") or () if alias not in own)
    return Attachment(aliases=aliases, ipv4_address=(settings.get("IPAMConfig") or {}).get("IPv4Address") or None)


@attrs.frozen(eq=False, repr=False)
class Recorded:
    """Kept in our own label only: the engine shows nothing to read back."""

    engine: str = "label sandboxrun.spec"

    def put(self, value: Any, payload: Payload) -> None:
        """The codec writes the whole spec into the label."""

    def get(self, live: Live) -> Any:
        return None
