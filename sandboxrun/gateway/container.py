"""The engine's payloads of a gateway and of the network it shares with its sandbox.

Owns how a gateway is confined: it talks to whom it likes on one side and to hostile code on the other. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from sandboxrun.spec import labels
from sandboxrun.spec.names import EGRESS, RULES, Names, part_volume
from sandboxrun.spec.option import PORT, Plot, private_network
from sandboxrun.spec.project import DeclaredSandbox
from sandboxrun.spec.seccomp import to_engine

DIRECTORY = "/etc/sandboxrun"
FILE = "rules.json"
USER = "65532:65532"
MIB = 1024**2
RECORDS = {"max-size": "16m", "max-file": "4"}  # more than the program's own budget of records
SEALED = {
    "com.docker.network.bridge.inhibit_ipv4": "true",  # no address of the host's on it, whatever listens there
    "com.docker.network.bridge.enable_icc": "true",  # sandbox and gateway are neighbours; there is nobody else
}


def network_payload(sandbox: DeclaredSandbox, project: str, run: str, subnet: str) -> dict[str, Any]:
    """The body of POST /networks/create for a sandbox's own network."""
    name = private_network(sandbox.name)
    own = {labels.PROJECT: project, labels.SANDBOX: sandbox.address, labels.RUN: run, labels.NETWORK: name}
    return {
        "Name": name,
        "CheckDuplicate": True,
        "Driver": "bridge",
        "Internal": True,
        "EnableIPv6": False,
        "IPAM": {"Driver": "default", "Config": [{"Subnet": subnet}]},
        "Options": dict(SEALED),
        "Labels": own,
    }


def gateway_payload(sandbox: DeclaredSandbox, names: Names, run: str, plot: Plot, image: str) -> dict[str, Any]:
    """The body of POST /containers/create for a sandbox's gateway."""
    egress = sandbox.spec.egress
    rules = {
        "Type": "volume",
        "Source": part_volume(sandbox.name, RULES),
        "Target": DIRECTORY,
        "VolumeOptions": {"NoCopy": True},  # root's: the program reads it, the engine writes it
    }
    host = {
        **companion_host(memory=64 * MIB, pids=64),
        "NetworkMode": names.network(EGRESS),
        "Dns": list(egress.resolvers) if egress is not None else [],
        "Sysctls": {"net.ipv4.ip_forward": "0"},  # what is not asked of the program does not pass
        "Mounts": [rules],
        "LogConfig": {"Type": "local", "Config": dict(RECORDS)},
    }
    return {
        "Image": image,
        "Cmd": ["serve", "--listen", f"{plot.gateway}:{PORT}", "--rules", f"{DIRECTORY}/{FILE}"],
        "User": USER,
        "StopTimeout": 2,
        "Labels": companion_labels(sandbox, names.project, run, "gateway"),
        "HostConfig": host,
    }


def keeper_payload(
    sandbox: DeclaredSandbox, project: str, run: str, places: Mapping[str, str], image: str
) -> dict[str, Any]:
    """The body of POST /containers/create for a container that does nothing but hold volumes mounted.

    `places`: where it has each of the sandbox's parts. The engine fills them; it can read none of the files.
    """
    mounts = [
        {
            "Type": "volume",
            "Source": part_volume(sandbox.name, part),
            "Target": target,
            "VolumeOptions": {"NoCopy": True},
        }
        for part, target in places.items()
    ]
    return {
        "Image": image,
        "Cmd": ["keep"],
        "User": USER,
        "StopTimeout": 2,
        "NetworkDisabled": True,
        "Labels": companion_labels(sandbox, project, run, "keeper"),
        "HostConfig": {**companion_host(memory=64 * MIB, pids=16), "NetworkMode": "none", "Mounts": mounts},
    }


def companion_labels(sandbox: DeclaredSandbox, project: str, run: str, role: str) -> dict[str, str]:
    """The labels of a container that lives and goes with a sandbox."""
    return {labels.PROJECT: project, labels.SANDBOX: sandbox.address, labels.RUN: run, labels.ROLE: role}


def companion_host(*, memory: int, pids: int) -> dict[str, Any]:
    """The HostConfig that gateways and keepers have in common: nothing that they don't need."""
    return {
        "CapDrop": ["ALL"],
        "SecurityOpt": ["no-new-privileges=true", f"seccomp={to_engine('sandboxrun')}"],
        "ReadonlyRootfs": True,
        "Memory": memory,
        "MemorySwap": memory,
        "NanoCpus": 1_000_000_000,
        "PidsLimit": pids,
        "Ulimits": [
            {"Name": "core", "Soft": 0, "Hard": 0},
            {"Name": "nofile", "Soft": 4096, "Hard": 4096},
        ],
        "Init": True,
        "IpcMode": "private",
        "CgroupnsMode": "private",
        "RestartPolicy": {"Name": "no"},
        "LogConfig": {"Type": "local", "Config": {"max-size": "1m", "max-file": "2"}},
    }


def not_taken(payload: Mapping[str, Any], inspect: Mapping[str, Any]) -> Iterator[str]:
    """The fields of a companion's payload that the engine did not take, by name."""
    live, asked = inspect.get("HostConfig") or {}, payload["HostConfig"]
    for field, wanted in asked.items():
        if field == "Mounts":
            mounted = {(m.get("Name"), m.get("Destination")) for m in inspect.get("Mounts") or ()}
            if mounted != {(m["Source"], m["Target"]) for m in wanted}:
                yield "HostConfig.Mounts"
        elif field == "RestartPolicy":
            if (live.get(field) or {}).get("Name") not in ("no", ""):
                yield f"HostConfig.{field}"
        elif (live.get(field) or None) != (wanted or None):
            yield f"HostConfig.{field}"
    if (inspect.get("Config") or {}).get("User") != payload.get("User"):
        yield "Config.User"
