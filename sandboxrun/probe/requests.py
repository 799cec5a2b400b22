"""What the gateway is asked for in vain: what a client that knows how it is caged would send, and their controls. Pure.

Owns the bytes; the program only sends them. That a gateway refuses everything would look the same, so the negative
control is in the same run: destinations that the rules allow. A connection that is closed without a word may have been
refused or have found nobody, so the gateway's own records are asked as well.
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from sandboxrun.data import Data
from sandboxrun.probe.verdicts import OUTCOME, Context, Control, Seen, every, fails, numbered, result, value
from sandboxrun.spec.option_types import ALLOW, ONE_HOST

DENIED = "denied.sandboxrun.invalid"  # a name that no list allows and no name server knows
PUBLIC = "example.com"  # stands for any public host where egress is open, and for one that exists where it is not
ALLOWED = "allowed"
NAMES, TLS, HTTP = "dns", "tls", "http"
# One address, kept for documentation, as C libraries read it too.
SPELLINGS = ("192.0.2.1", "3221225985", "0xc0000201", "0300.0000.0002.0001", "192.0.513", "0xc0.0.2.1", "192.0.2.1.")
SIXES = ("[2001:db8::1]", "[::ffff:192.0.2.1]", "[::ffff:c000:201]", "[64:ff9b::c000:201]", "[2001:db8::1%25lo]")
METADATA = ("169.254.169.254", "[fd00:ec2::254]", "[::ffff:169.254.169.254]", "2852039166", "100.100.100.200")
INNER = ("127.0.0.1", "127.1", "2130706433", "0.0.0.0", "[::1]", "[::]", "localhost", "0", "[fe80::1]")
PRIVATE = ("10.0.0.1", "172.16.0.1", "192.168.0.1", "100.64.0.1", "[fd12:3456::1]")
PORTS = (22, 25, 80, 443, 2375, 8080, 8443)


class RequestWay(NamedTuple):
    """A protocol in which the gateway can be asked at a port, and a host that it allows there."""

    kind: str
    port: int
    host: str


class GatewayRequest(Data):
    """One request: `group` is the control that it belongs to, `host` whom it is for, as records would name it."""

    group: str
    kind: str
    port: int
    host: str
    data: bytes
    more: str = ""

    @property
    def name(self) -> str:
        """How it is shown."""
        return f"{self.group} {self.kind} {self.host}:{self.port}{self.more}"

    @property
    def argument(self) -> str:
        """As the program is told."""
        return f"{self.name}|{self.port}|{self.data.hex()}"


def ways(context: Context) -> tuple[RequestWay, ...]:
    """TLS and plain HTTP, each at a port where the gateway looks at names; else names alone."""
    egress = context.egress
    if egress is None or egress.mode != ALLOW or not egress.allow:
        return RequestWay(TLS, 443, PUBLIC), RequestWay(HTTP, 80, PUBLIC)
    listed = [(host.replace("*.", "sandboxrun-probe."), int(port)) for host, port in _entries(context)]
    judged = [(host, port) for host, port in listed if port not in ONE_HOST]
    tls = [RequestWay(TLS, port, host) for host, port in judged if port != 80]
    plain = sorted((port != 80, RequestWay(HTTP, port, host)) for host, port in judged if port != 443)
    found = (*tls[:1], *(way for _, way in plain[:1]))
    return found or (RequestWay(NAMES, 53, listed[0][0]),)


def requests(context: Context) -> tuple[GatewayRequest, ...]:
    """All, in the program's order. With egress open, only what is refused in that mode as well."""
    if context.egress is None or not context.egress.has_gateway:
        return ()
    found = ways(context)
    allowed = [_ask(ALLOWED, way, way.host) for way in found if way.kind != NAMES]
    return (
        _ask(ALLOWED, RequestWay(NAMES, 53, found[0].host), found[0].host),
        *allowed,
        *_refused_ones(context, found),
    )


def _refused_ones(context: Context, found: tuple[RequestWay, ...]) -> Iterator[GatewayRequest]:
    groups = {
        "addresses": (*SPELLINGS, *SIXES),
        "metadata": METADATA,
        "inner": INNER,
        "private": (*context.hosts, *(text for text in PRIVATE if not _opened(text, context))),
    }
    for group, hosts in groups.items():
        for at, host in enumerate(hosts):
            yield _ask(group, found[at % len(found)], host)
    for way in found:
        host = way.host
        trailing = () if way.kind == NAMES else (f"{host}.", f"{host}..")  # of a question they are no part
        for spelled in (*trailing, f"user@{host}", f"{host}:{way.port}:{way.port}", f"{host}%00"):
            yield _ask("spelling", way, spelled)
        if way.kind != NAMES:
            told = f"GET http://{host}:{way.port}/ HTTP/1.1\r\nHost: {DENIED}\r\nConnection: close\r\n\r\n"
            also = f" in a request for {host}"
            yield GatewayRequest(
                group="host-field", kind=HTTP, port=way.port, host=DENIED, data=told.encode(), more=also
            )
    if context.egress is not None and context.egress.mode == ALLOW:
        yield from _by_list(context, found)
    listed = {int(port) for _, port in _entries(context)} | {*(context.egress.ports if context.egress else ())}
    for port in PORTS:
        if port not in listed and port not in (way.port for way in found):
            yield _ask("ports", RequestWay(HTTP if port == 80 else TLS, port, found[0].host), found[0].host)


def _by_list(context: Context, found: tuple[RequestWay, ...]) -> Iterator[GatewayRequest]:
    for at, host in enumerate(_unlisted(found[0].host)):
        way = found[at % len(found)]
        if _lets(context, host.lower()):
            continue
        yield _ask("hosts", RequestWay(NAMES, 53, host), host)
        if way.kind != NAMES:
            yield _ask("hosts", way, host)


def _unlisted(host: str) -> tuple[str, ...]:
    return PUBLIC, DENIED, DENIED.upper(), f"x{host}", f"{host}.{DENIED}", f"{DENIED}/{host}", f"{host}@{DENIED}"


def _entries(context: Context) -> Iterator[tuple[str, str]]:
    for entry in context.egress.allow if context.egress is not None else ():
        host, _, port = entry.rpartition(":")
        yield host, port


def _lets(context: Context, host: str) -> bool:
    """Whether an entry of the list allows the host, with whatever port."""
    return any(host == of or (of.startswith("*.") and host.endswith(of[1:])) for of, _ in _entries(context))


def _opened(text: str, context: Context) -> bool:
    """Whether the profile opens the network that an address is in."""
    address = ipaddress.ip_address(text.strip("[]"))
    opened = [ipaddress.ip_network(network) for network in (context.egress.private_networks if context.egress else ())]
    return any(address in network for network in opened)


# -- the bytes


def _ask(group: str, way: RequestWay, host: str) -> GatewayRequest:
    if way.kind == NAMES:
        data = question(host)
    elif way.kind == TLS:
        data = client_hello(host.strip("[]"))
    else:
        field = host if way.port == 80 else f"{host}:{way.port}"
        data = f"GET / HTTP/1.1\r\nHost: {field}\r\nConnection: close\r\n\r\n".encode()
    return GatewayRequest(group=group, kind=way.kind, port=way.port, host=host, data=data)


def question(name: str) -> bytes:
    """A question for a name's address, as it is asked over TCP."""
    labels = [label.encode() for label in name.rstrip(".").split(".")]
    written = b"".join(bytes([min(len(label), 63)]) + label[:63] for label in labels)
    message = struct.pack(">6H", 0x5342, 0x0100, 1, 0, 0, 0) + written + b"\0\0\1\0\1"
    return len(message).to_bytes(2) + message


def client_hello(name: str) -> bytes:
    """The first bytes of TLS, 1.2 or 1.3, that say the server's name."""
    host = name.encode()
    named = struct.pack(">HBH", len(host) + 3, 0, len(host)) + host
    parts = {0: named, 10: b"\0\2\0\x1d", 11: b"\1\0", 13: b"\0\4\4\3\x08\4", 43: b"\4\3\4\3\3"}
    parts[51] = struct.pack(">HHH", 36, 29, 32) + bytes(range(1, 33))
    extensions = b"".join(struct.pack(">HH", kind, len(body)) + body for kind, body in parts.items())
    ciphers = b"\x13\1\xc0\x2b\xc0\x2f"
    body = b"\3\3" + bytes(range(32)) + b"\0" + struct.pack(">H", len(ciphers)) + ciphers + b"\1\0"
    body += struct.pack(">H", len(extensions)) + extensions
    return struct.pack(">BHHB", 22, 0x0301, len(body) + 4, 1) + len(body).to_bytes(3) + body


# -- what was answered ----------------------------------------------------------------------------------------------


def _answers(seen: Seen, group: str) -> list[Mapping[str, str]]:
    return [one for one in numbered(seen, "request") if one.get("name", "").partition(" ")[0] == group]


def _bytes(one: Mapping[str, str]) -> bytes:
    try:
        return bytes.fromhex(one.get("answer", ""))
    except ValueError:
        return b""


def _refused(one: Mapping[str, str]) -> bool | None:
    """By rule or as malformed; a connection that is closed without a word is one too. None if there was no answer."""
    group, kind, _ = (*one.get("name", "").split(" ", 2), "", "", "")[:3]
    answer = _bytes(one)
    if group == "ports" and fails(one.get("connect", ""), "ECONNREFUSED", "ECONNRESET"):
        return True
    if one.get("connect") != "ok":
        return None
    if kind == NAMES:
        return None if len(answer) < 14 else answer[5] & 15 != 0 or answer[8:10] == b"\0\0"
    if not answer:
        return True if one.get("over") == "yes" else None
    status = answer[9:12].decode("latin-1")
    return kind == HTTP and answer.startswith(b"HTTP/1.") and (status[:1] == "4" or status == "505")


def _passed(one: Mapping[str, str], seen: Seen) -> bool:
    """Whether the gateway's records say that it let this destination pass."""
    words = one.get("name", "").split(" ")
    return len(words) > 2 and words[2].lower() in value(seen, OUTCOME, "passed").split(" ")


def _held(one: Mapping[str, str], seen: Seen) -> bool | None:
    return False if _passed(one, seen) else _refused(one)


def _holds(group: str, seen: Seen, context: Context) -> bool | None:
    expected = {request.name for request in requests(context) if request.group == group}
    found = {one.get("name", ""): one for one in _answers(seen, group)}
    return every(_held(found[name], seen) if name in found else None for name in expected)


def _let_through(strong: Seen, weak: Seen, context: Context) -> bool:
    """Whether what the rules allow was let pass, in each protocol that was used: as seen, or as recorded."""
    expected = [request.name for request in requests(context) if request.group == ALLOWED]
    found = {one.get("name", ""): one for one in _answers(strong, ALLOWED)}
    return bool(expected) and all(
        name in found
        and found[name].get("connect") == "ok"
        and (_refused(found[name]) is False or _passed(found[name], strong))
        for name in expected
    )


def _shown(one: Mapping[str, str], seen: Seen) -> str:
    if _passed(one, seen):
        return "let pass, as the gateway recorded"
    if one.get("connect") != "ok":
        return f"the gateway can't be reached ({result(one.get('connect', ''))})"
    answer = _bytes(one)
    line = (
        answer.partition(b"\r\n")[0].decode("latin-1")
        if answer.startswith(b"HTTP/")
        else f"{len(answer)} bytes came back"
    )
    return line if answer else "no answer"


def _seen(group: str, seen: Seen) -> str:
    found = _answers(seen, group)
    odd = [f"{one.get('name', '').partition(' ')[2]}: {_shown(one, seen)}" for one in found if not _held(one, seen)]
    return "; ".join(odd) or (f"all {len(found)} refused" if found else "")


def _applies(group: str, context: Context) -> str | None:
    if context.egress is None or not context.egress.has_gateway:
        return "it has no gateway"
    if any(request.group == group for request in requests(context)):
        return None
    return (
        "egress: open lets every public host through" if context.egress.mode != ALLOW else "the list leaves none over"
    )


def _control(group: str, title: str) -> Control:
    return Control(
        id=f"gateway-{group}",
        title=title,
        applies=lambda context: _applies(group, context),
        expected=lambda context: "each refused",
        seen=lambda seen: _seen(group, seen),
        holds=lambda seen, context: _holds(group, seen, context),
        negative=_let_through,
    )


CONTROLS = (
    _control("hosts", "The gateway refuses hosts that are not listed"),
    _control("ports", "The gateway refuses other ports"),
    _control("addresses", "The gateway refuses addresses in every spelling"),
    _control("metadata", "The gateway refuses the cloud's metadata"),
    _control("inner", "The gateway refuses itself and its loopback"),
    _control("private", "The gateway refuses private and host addresses"),
    _control("spelling", "The gateway refuses odd spellings of a listed host"),
    _control("host-field", "The gateway refuses another Host"),
)
