"""What an engine answers to an inspect of a container made as asked: the payload, in the engine's own words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sandboxrun.backend.docker.fields import endpoint
from sandboxrun.spec.names import Names
from sandboxrun.spec.option import private_network
from sandboxrun.spec.spec import SandboxSpec

CONTAINER = "c0ffee" + "0" * 58


def as_inspect(
    body: Mapping[str, Any], spec: SandboxSpec, *, name: str, names: Names, image_id: str = ""
) -> dict[str, Any]:
    """The answer to GET /containers/{id}/json for a create payload, with every network of the spec attached."""
    host = dict(body["HostConfig"])
    config = {key: value for key, value in body.items() if key not in ("HostConfig", "NetworkingConfig")}
    config.setdefault("Hostname", CONTAINER[:12])
    for field in ("CapAdd", "CapDrop", "Devices", "DeviceRequests", "Dns", "GroupAdd", "Ulimits", "ExtraHosts"):
        host[field] = host.get(field) or None  # an empty list is null
    host["PidsLimit"] = host["PidsLimit"] or None
    host.setdefault("Runtime", "runc")
    return {
        "Id": CONTAINER,
        "Name": f"/{name}",
        "Image": image_id,
        "Config": config,
        "HostConfig": host,
        "Mounts": [_mount(mount) for mount in host.get("Mounts") or ()],
        "NetworkSettings": {"Networks": _networks(spec, name, names)},
        "State": {"Status": "running", "Running": True, "StartedAt": "2026-01-01T00:00:00.5Z"},
    }


def _mount(mount: Mapping[str, Any]) -> dict[str, Any]:
    found = {"Type": mount["Type"], "Destination": mount["Target"], "RW": not mount["ReadOnly"]}
    if mount["Type"] != "volume":
        return {**found, "Source": mount.get("Source", "")}
    return {**found, "Name": mount["Source"], "Source": f"/var/lib/docker/volumes/{mount['Source']}/_data"}


def _networks(spec: SandboxSpec, name: str, names: Names) -> dict[str, Any]:
    if spec.network_mode == "none":
        return {"none": {"Aliases": None}}
    if spec.egress is not None and spec.egress.has_gateway:
        return {private_network(name): {"Aliases": [CONTAINER[:12]]}}
    return {names.network(key): _attached(endpoint(attachment)) for key, attachment in spec.networks.items()}


def _attached(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {**settings, "Aliases": [*settings.get("Aliases", ()), CONTAINER[:12]]}
