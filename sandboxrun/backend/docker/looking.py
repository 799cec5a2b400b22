"""What verifying asks the Docker Engine: its own names of what is verified, its machine, and how a live sandbox and its
gateway look. Reads only.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from sandboxrun.backend.base import Accounts, EngineTerms, GatewayView, HostView, Machine
from sandboxrun.backend.docker.codec import SEALED, decode_network, gateway_payload, not_taken, observe
from sandboxrun.backend.docker.facts import security_of
from sandboxrun.backend.docker.fields import FIELDS, SHOWN
from sandboxrun.backend.docker.making import login, look_up
from sandboxrun.backend.docker.observe import own_containers
from sandboxrun.backend.docker.transport import TransportError
from sandboxrun.backend.errors import EngineError
from sandboxrun.data import lines, record_of
from sandboxrun.errors import ApplyError, printable
from sandboxrun.gateway import DIRECTORY, FILE
from sandboxrun.spec import labels
from sandboxrun.spec.names import GATEWAY, companion
from sandboxrun.spec.option import OwnAddresses, private_network
from sandboxrun.spec.project import DeclaredSandbox, Profile
from sandboxrun.spec.spec import SandboxSpec
from sandboxrun.spec.state import ObservedSandbox
from sandboxrun.spec.types import freeze

if TYPE_CHECKING:
    from sandboxrun.backend.docker.client import Engine

_MOST_RULES = 4 << 20  # bytes
_MOST_LOG = 128 << 20  # bytes, beyond the engine's bound of a gateway's log

# -- The engine's own names

# Of what a probe sees from inside: the field, and the controls.
_CONTROLS = {
    "HostConfig.CapDrop, CapAdd": "capabilities",
    "HostConfig.SecurityOpt no-new-privileges": "no-new-privileges setuid",
    "HostConfig.SecurityOpt seccomp": (
        "seccomp io-uring tracing own-namespaces mounting handles memory-calls kernel-programs keys machine "
        "queues x86 socket-families netlink"
    ),
    "Config.User": "user",
    "HostConfig.GroupAdd": "groups",
    "HostConfig.PidMode, IpcMode, UTSMode, CgroupnsMode, NetworkMode": "namespaces",
    "HostConfig.ReadonlyRootfs": "root",
    "HostConfig.Mounts, Binds, Tmpfs": "writable-mounts",
    "HostConfig.Tmpfs noexec": "noexec",
    "HostConfig.Tmpfs size, ShmSize": "tmpfs-size",
    "HostConfig.Mounts BindOptions.Propagation": "propagation",
    "HostConfig.MaskedPaths": "masked-paths",
    "HostConfig.ReadonlyPaths": "kernel-settings",
    "HostConfig.CapDrop MKNOD": "mknod",
    "HostConfig.Devices": "devices",
    "runtime": "null-device descriptors",
    "HostConfig.Mounts, Binds": "engine-sockets",
    "HostConfig.Tmpfs mode, uid, gid": "tmpfs-mode",
    "HostConfig.Memory": "memory-limit memory",
    "HostConfig.MemorySwap": "swap-limit",
    "HostConfig.PidsLimit": "pids-limit processes",
    "HostConfig.Ulimits": "ulimits",
    "HostConfig.Ulimits nofile": "open-files",
    "HostConfig.NanoCpus": "cpu-quota cpu-time",
    "Config.Entrypoint, sandboxrun's init": "deadline",
    "HostConfig.NetworkMode, NetworkSettings.Networks": "routes routes-ipv6 metadata private-addresses",
    "Networks driver option com.docker.network.bridge.inhibit_ipv4": "host",
    "Networks driver option com.docker.network.bridge.enable_icc": "neighbours",
    "HostConfig.Dns": "names",
    "the gateway's rules": (
        "gateway-hosts gateway-ports gateway-addresses gateway-metadata gateway-inner gateway-private "
        "gateway-spelling gateway-host-field"
    ),
    "Mounts /run/secrets": "secrets-mode secrets-memory",
    "Config.Env, Cmd": "secrets-environment",
    "HostConfig.Mounts workspace/.git": "git-moved git-written",
}
# Of what is seen from outside, by the check.
_BY_CONTROL = freeze({control: field for field, controls in _CONTROLS.items() for control in controls.split()})
_ALIKE = "user groups capabilities memory-limit swap-limit pids-limit cpu-quota devices ulimits root"  # from both sides
CHECKS = freeze(
    {
        **{check: _BY_CONTROL[check] for check in _ALIKE.split()},
        "no-new-privileges": "HostConfig.SecurityOpt",
        "seccomp": "HostConfig.SecurityOpt",
        "namespaces": "HostConfig.PidMode, IpcMode, UTSMode, NetworkMode, CgroupnsMode",
        "cpuset": "HostConfig.CpusetCpus",
        "oom-score": "HostConfig.OomScoreAdj",
        "mounts": "HostConfig.Mounts, Tmpfs",
        "propagation": "HostConfig.Mounts[].BindOptions.Propagation",
        "masked-paths": "HostConfig.MaskedPaths, ReadonlyPaths",
        "network": "HostConfig.NetworkMode",
        "gateway": "State",
        "gateway network": "Network.Internal, Options",
        "gateway network gone": "Network",
        "gateway rules": f"{DIRECTORY}/{FILE}",
        "gateway options": "inspect",
        "options": "inspect",
    }
)
TERMS = EngineTerms(
    controls=_BY_CONTROL,
    checks=CHECKS,
    options=freeze({key: place.engine for key, place in FIELDS.items()}),
    shown=len(SHOWN),
)

# -- The machine and a sandbox


def machine(engine: Engine) -> Machine:
    """The engine's machine. Raises EngineError."""
    info = engine.info()
    passing = {
        str(config.get("Gateway"))
        for network in engine.networks()
        if network.get("Name") != "bridge"
        for config in (network.get("IPAM") or {}).get("Config") or ()
    }
    own = [a for a in engine.host_addresses if ipaddress.ip_address(a).version == 4 and a not in passing]
    return Machine(
        runtime=str(info.get("DefaultRuntime") or "runc"),
        cpus=int(info.get("NCPU") or 0),
        addresses=tuple(own),
        pid=(engine.transport.peer_pid() or 0) if engine.shares_filesystem() else None,
        rootless="rootless" in security_of(info),
    )


def observe_one(engine: Engine, profile: Profile, id: str) -> ObservedSandbox:
    """One sandbox as a snapshot has it."""
    inspect = engine.inspect_container(id)
    image = str(inspect.get("Image") or "")
    return observe(inspect, profile.names, engine.image_config(image) if image else None)


def host_view(engine: Engine, inspect: Mapping[str, Any]) -> HostView:
    """Where the container of an inspect answer is on this host."""
    container = str(inspect["Id"])
    if not engine.shares_filesystem():
        unseen = f"the engine's processes can't be seen from here: {engine.filesystem_reason()}"
        return HostView(id=container, unseen=unseen)
    return HostView(
        id=container,
        pid=int((inspect.get("State") or {}).get("Pid") or 0),
        engine=engine.transport.peer_pid() or 0,
        volumes=frozenset((inspect.get("Config") or {}).get("Volumes") or ()),
    )


def accounts(engine: Engine, container: str, spec: SandboxSpec) -> Accounts | None:
    """The declared user by number; None where the image does not know it."""
    try:
        uid, gid, groups = login(engine, container, spec.user)
        added = {look_up(engine, container, "0", group)[1] for group in spec.group_add}
    except (ApplyError, EngineError):
        return None
    return Accounts(uid=uid, gid=gid, groups=groups | added)


# -- The addresses of the machine: read where this process can, from the kernel's tables of the engine's network
# namespace, else from the address that the engine was reached at. What can't be read is no error: private addresses are
# refused anyway

_LOCAL = re.compile(r"\|-- ([0-9.]+)\n\s+/32 host LOCAL")


def host_addresses(engine: Engine) -> tuple[str, ...]:
    """IPv4 and IPv6 addresses, sorted, loopback left out."""
    found: Iterable[str] | None = None
    try:
        pid = engine.transport.peer_pid()
    except (TransportError, OSError):
        pid = None
    if pid is not None:
        places = (f"/proc/{pid}/net",) if pid else ()
        found = next((there for place in (*places, "/proc/net") if (there := _of_namespace(place)) is not None), None)
    elif host := urlsplit(engine.endpoint).hostname:
        with suppress(OSError):
            found = {str(answer[4][0]).partition("%")[0] for answer in socket.getaddrinfo(host, None)}
    addresses = map(ipaddress.ip_address, set(found or ()))
    return tuple(sorted(str(address) for address in addresses if not address.is_loopback))


def _of_namespace(folder: str) -> list[str] | None:
    try:
        found: list[str] = _LOCAL.findall(Path(folder, "fib_trie").read_text("ascii"))
    except OSError:
        return None
    with suppress(OSError):  # a kernel without IPv6
        six = Path(folder, "if_inet6").read_text("ascii").splitlines()
        found += [str(ipaddress.IPv6Address(int(line.split()[0], 16))) for line in six]
    return found


# -- A sandbox's gateway


def gateway_view(engine: Engine, profile: Profile, spec: SandboxSpec, observed: ObservedSandbox) -> GatewayView:
    """The gateway of that run, which was made for `spec`. Raises EngineError."""
    wanted = {labels.RUN: observed.run, labels.ROLE: GATEWAY}
    found = own_containers(engine, profile.project, more=wanted, names=(companion(observed.base, GATEWAY),))
    inspected = engine.inspect_containers([str(c["Id"]) for c in found])
    gateway: Mapping[str, Any] = inspected[0] if inspected else {}
    state, id, image = gateway.get("State") or {}, str(gateway.get("Id")), str(gateway.get("Image"))
    network = engine.network(private_network(observed.base))
    between = _wrong_between(network, {observed.id, id}) if network is not None else None
    if not state.get("Running"):
        return GatewayView(status=str(state.get("Status") or "not there"), between=between)
    said = _last_said(engine, id)
    subnet = decode_network(network).subnet if network is not None else None
    lost: list[str] | None = None
    if subnet is not None:
        address = observed.address
        sandbox = DeclaredSandbox(address=address, sandbox=address, name=observed.base, spec=spec)
        payload = gateway_payload(sandbox, profile.names, observed.run, OwnAddresses.of(subnet), image)
        lost = list(not_taken(payload, gateway))
        lost += ["Config.Cmd"] if (gateway.get("Config") or {}).get("Cmd") != payload["Cmd"] else []
    return GatewayView(
        status="running",
        between=between,
        image=image,
        said=said,
        rules=engine.read_file(id, f"{DIRECTORY}/{FILE}", most=_MOST_RULES) or b"" if said else b"",
        lost=tuple(lost) if lost is not None else None,
        host=host_view(engine, gateway),
    )


def _wrong_between(network: Mapping[str, Any], mine: set[str]) -> tuple[str, ...]:
    """What is not as it must be: sealed, and nobody else on it."""
    live = decode_network(network)
    wrong = [f"{key}={live.driver_opts.get(key)}" for key, is_ in SEALED.items() if live.driver_opts.get(key) != is_]
    wrong += [] if live.internal else ["not internal"]
    wrong += ["with IPv6"] if live.enable_ipv6 else []
    others = {str(of.get("Name")) for id, of in (network.get("Containers") or {}).items() if id not in mine}
    return (*wrong, *(f"{printable(other)} is on it" for other in sorted(others)))


def _last_said(engine: Engine, gateway: str) -> str:
    """The digest in the last `ready` or `rules` record; none where there is too much to read."""
    said, read = "", 0
    with engine.logs(gateway, tty=False) as output:
        for line in lines(data for stream, data in output if stream == 1):
            read += len(line)
            record = record_of(line) if b'"digest"' in line else {}
            if record.get("event") in ("ready", "rules"):
                said = str(record.get("digest") or "")
            if read > _MOST_LOG:
                return ""
    return said
