"""Where options live on the engine: the few shapes in which a value is written and read back.

Owns the translation of values to the Engine API's JSON and back. Which option has which placement is said
in `spec.py`. Pure.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import attrs

from sandboxrun.model import forms, labels
from sandboxrun.model.guard import HIDDEN, mounts_of, parents
from sandboxrun.model.names import CONFIGS, SECRETS, WORKSPACE, part_volume
from sandboxrun.model.option import Live, Payload
from sandboxrun.model.records import Attachment, FileRef, Mount
from sandboxrun.model.types import freeze
from sandboxrun.model.wiring import private_network
from sandboxrun.model.workspace import Workspace

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


@attrs.frozen(eq=False, repr=False)
class SystemPaths:
    """The paths of /proc and /sys that the engine masks or makes read-only when nothing is said. An empty list unmasks
    them; an engine that does not show them (Podman) says null."""

    engine: str = "HostConfig.MaskedPaths, HostConfig.ReadonlyPaths"

    def put(self, value: str, payload: Payload) -> None:
        """Nothing: what is not named stays masked."""

    def get(self, live: Live) -> str:
        return "open" if [] in (live.host("MaskedPaths"), live.host("ReadonlyPaths")) else "masked"


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
        own = {part_volume(live.base, part) for part in (WORKSPACE, SECRETS, CONFIGS)}
        label = _workspace_label(live)
        workspace = label.get("target")
        inner = {f"{workspace}/{path}" for path, _ in mounts_of(_texts(label, "protected"))}
        mounts = []
        for found in _live_mounts(live):
            target, kind, name = found["Destination"], found["Type"], found.get("Name") or ""
            if name in own or target == workspace or target in inner or kind == "tmpfs":
                continue
            source = live.names.volume_key(name) if kind == "volume" else found["Source"]
            mounts.append(Mount(type=kind, source=source, target=target, read_only=not found["RW"]))
        return tuple(sorted(mounts, key=lambda mount: mount.target))


def _workspace_label(live: Live) -> Mapping[str, Any]:
    return _json_label(live, labels.WORKSPACE, {})


def _json_label(live: Live, name: str, default: Any) -> Any:
    """A label of ours as data. A label that anyone could have written is data, never trusted to be well-formed."""
    try:
        value = json.loads(live.label(name) or "null")
    except (ValueError, RecursionError):
        return default
    return value if isinstance(value, type(default)) else default


@attrs.frozen(eq=False, repr=False)
class WorkspaceMount:
    """A copy lives in a volume of the sandbox's own; rw and ro are the directory itself, rw with read-only mounts over
    what the sandbox must not write to."""

    engine: str = "HostConfig.Mounts"

    def put(self, value: Workspace, payload: Payload) -> None:
        label = {
            "source": value.source,
            "target": value.target,
            "exclude": list(value.exclude),
            "size": value.size,
            "writable": list(value.writable),
            "protected": list(value.protected),
        }
        payload.config.setdefault("Labels", {})[labels.WORKSPACE] = json.dumps(label, sort_keys=True)
        if value.access == "copy":
            _add_mount(payload, _volume(part_volume(payload.name, WORKSPACE), value.target, False))
            return
        _add_mount(payload, _bind(value.source, value.target, value.access == "ro"))
        for path, read_only in mounts_of(value.protected):
            target = f"{value.target}/{path}"
            hidden = {"Type": "tmpfs", "Target": target, "ReadOnly": True}
            _add_mount(payload, hidden if path == HIDDEN else _bind(f"{value.source}/{path}", target, read_only))

    def get(self, live: Live) -> Workspace | None:
        label = _workspace_label(live)
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


@attrs.frozen(eq=False, repr=False)
class Files:
    """Secrets or configs: files in a volume of the sandbox's own, mounted read-only under `directory`."""

    part: str
    label: str
    directory: str
    engine: str = "HostConfig.Mounts"

    def put(self, value: tuple[FileRef, ...], payload: Payload) -> None:
        if value:
            refs = [[ref.source, ref.file_name, ref.uid, ref.gid, ref.mode, ref.digest] for ref in value]
            payload.config.setdefault("Labels", {})[self.label] = json.dumps(refs)
            _add_mount(payload, _volume(part_volume(payload.name, self.part), self.directory, True))

    def get(self, live: Live) -> tuple[FileRef, ...]:
        volume = part_volume(live.base, self.part)
        mounted = any(
            found.get("Name") == volume and found["Destination"] == self.directory and not found["RW"]
            for found in _live_mounts(live)
        )
        if not mounted:
            return ()
        refs = _json_label(live, self.label, [])
        found = (
            FileRef(source=source, target=None if source == name else name, uid=uid, gid=gid, mode=mode, digest=digest)
            for source, name, uid, gid, mode, digest in filter(_is_ref, refs)
        )
        return tuple(sorted(found, key=lambda ref: ref.file_name))


_REF = ((str,), (str,), (int, type(None)), (int, type(None)), (int,), (str, type(None)))


def _is_ref(ref: Any) -> bool:
    """Whether an item of a label is a file reference as `Files` writes it."""
    return isinstance(ref, list) and len(ref) == len(_REF) and all(type(v) in t for v, t in zip(ref, _REF, strict=True))


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
                if name not in ("none", private_network(live.base))  # that one is the egress option's
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
    own = {str(live.inspect.get("Id", ""))[:12], live.name, live.base}
    aliases = {forms.domain(alias) for alias in settings.get("Aliases") or () if alias not in own}
    return Attachment(
        aliases=tuple(sorted(aliases)), ipv4_address=(settings.get("IPAMConfig") or {}).get("IPv4Address") or None
    )


@attrs.frozen(eq=False, repr=False)
class Recorded:
    """Kept in our own label only: the engine shows nothing to read back."""

    engine: str = "label sandboxrun.spec"

    def put(self, value: Any, payload: Payload) -> None:
        """The codec writes the whole spec into the label."""

    def get(self, live: Live) -> Any:
        return None
