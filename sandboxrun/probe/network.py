"""Controls of the network: what there is no way to, whoever asks; and what the gateway is asked for in vain, which is
what a client that knows how it is caged would send. Pure.

Owns the bytes of those requests; the program only sends them. It sends nothing else outside: a datagram socket that is
connected tells whether there is a route, and its next hop is on the sandbox's own network. Names are asked for where
the sandbox asks for them, and behind that. That a gateway refuses everything would look the same as a good one, so the
negative control is in the same run: destinations that the rules allow. A connection that is closed without a word may
have been refused or have found nobody, so the gateway's own records are asked as well.
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from sandboxrun.data import Data
from sandboxrun.probe.verdicts import (
    OUTCOME,
    UNKNOWN,
    Answer,
    Comparison,
    Context,
    Control,
    Seen,
    every,
    fails,
    number,
    numbered,
    result,
    results,
    value,
)
from sandboxrun.spec.option_types import ALLOW, ONE_HOST

NO_ROUTE = ("ENETUNREACH", "EHOSTUNREACH", "EADDRNOTAVAIL", "EAFNOSUPPORT", "EACCES", "EPERM")
_JOINS = "it joins networks without a gateway: it reaches whatever those reach"


def _no_network(strong: Seen, weak: Seen, context: Context) -> str | None:
    """gVisor can be set up so that no sandbox has a network, whatever the engine gives it."""
    none = all(
        "interfaces" in seen and all(address.startswith("127.") for address in seen["interfaces"].values())
        for seen in (strong, weak)
    )
    return "the runtime gives no sandbox a network, not even the weak one" if none else None


def name_servers(seen: Seen, context: Context) -> Answer:
    """What each name server that the sandbox has says of a name outside."""
    if context.spec.egress is None:
        return _JOINS
    servers, gateway = list(numbered(seen, "resolver")), value(seen, OUTCOME, "gateway") or context.gateway
    all_told = servers and number(value(seen, "resolvers", "count")) == len(servers)
    return Comparison(
        "no answer, but the gateway's own" if context.gateway else "no answer",
        "; ".join(f"{server.get('server')}: {_answer(server)}" for server in servers),
        not any(_knows_the_outside(server, gateway) for server in servers) if all_told else None,
    )


def _knows_the_outside(server: Mapping[str, str], gateway: str | None) -> bool:
    """An answer, or the word that there is no such name, comes from whoever knows the outside's names: but for a
    gateway, which says of every name that it does not exist, or has the gateway's address."""
    code = server.get("code") if server.get("got") == "ok" else None
    if gateway is None:
        return code in ("0", "3")
    return code == "0" and (server.get("answers"), server.get("address")) not in (("0", ""), ("1", gateway))


def _answer(server: Mapping[str, str]) -> str:
    if server.get("sent") != "ok" or server.get("got") != "ok":
        return result(server.get("got", "") if server.get("sent") == "ok" else server.get("sent", ""))
    code = server.get("code", "")
    if code == "0":
        shown = server.get("address", "")
        return f"{server.get('answers')} answers{f', {shown}' if shown else ''}"
    return {"2": "can't tell", "3": "no such name", "5": "refused"}.get(code, f"code {code}")


def _no_route(id: str, probe: str, title: str) -> Control:
    def look(seen: Seen, context: Context) -> Answer:
        if context.spec.egress is None:
            return _JOINS
        found = seen.get(probe, {})
        holds = every(None if how in UNKNOWN else fails(how, *NO_ROUTE) for how in found.values())
        return Comparison("no route, or none that leads anywhere", results(found), holds)

    return Control(id, title, look, moot=_no_network)


def _none_answers(seen: Seen, probe: str) -> Comparison:
    """Whoever answers is there, be it with a refusal."""
    if probe not in seen:
        return Comparison("none answers")
    found, tried = seen[probe], f"{len(seen[probe])} tried"
    reached = {key: how for key, how in found.items() if how == "ok" or fails(how, "ECONNREFUSED", "ECONNRESET")}
    shown = f"{results(reached)} ({tried})" if reached else f"none answered ({tried})"
    return Comparison("none answers", shown, not reached)


def neighbours(seen: Seen, context: Context) -> Answer:
    """Which of the other sandboxes answer."""
    found = {key: context.networks.get(key) for key in context.spec.networks} if context.spec.egress is None else {}
    icc = "com.docker.network.bridge.enable_icc"
    open_ = [key for key, net in found.items() if net is None or net.driver_opts.get(icc) != "false"]
    if open_:
        return f"the profile lets sandboxes on {', '.join(open_)} reach each other"
    return _none_answers(seen, "neighbours")


CONTROLS = (
    _no_route("routes", "routes", "No route outside"),
    _no_route("routes-ipv6", "routes6", "No route outside by IPv6"),
    _no_route("metadata", "metadata", "The cloud's metadata can't be reached"),
    _no_route("private-addresses", "private", "Private addresses can't be reached"),
    Control(
        "host",
        "The host's own addresses can't be reached",
        lambda seen, context: _JOINS if context.spec.egress is None else _none_answers(seen, "hosts"),
        moot=_no_network,
    ),
    Control("neighbours", "Other sandboxes can't be reached", neighbours, moot=_no_network),
    Control("names", "No name server answers for the outside", name_servers),
)


# -- what the gateway is asked for in vain

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
    egress = context.spec.egress
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
    if context.spec.egress is None or not context.spec.egress.has_gateway:
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
    egress = context.spec.egress
    if egress is not None and egress.mode == ALLOW:
        yield from _by_list(context, found)
    listed = {int(port) for _, port in _entries(context)} | {*(egress.ports if egress is not None else ())}
    for port in PORTS:
        if port not in listed and port not in (way.port for way in found):
            yield _ask("ports", RequestWay(HTTP if port == 80 else TLS, port, found[0].host), found[0].host)


def _by_list(context: Context, found: tuple[RequestWay, ...]) -> Iterator[GatewayRequest]:
    host = found[0].host
    others = (PUBLIC, DENIED, DENIED.upper(), f"x{host}", f"{host}.{DENIED}", f"{DENIED}/{host}", f"{host}@{DENIED}")
    for at, other in enumerate(others):
        name, way = other.lower(), found[at % len(found)]
        if any(name == of or (of.startswith("*.") and name.endswith(of[1:])) for of, _ in _entries(context)):
            continue  # an entry of the list allows it, with whatever port
        yield _ask("hosts", RequestWay(NAMES, 53, other), other)
        if way.kind != NAMES:
            yield _ask("hosts", way, other)


def _entries(context: Context) -> Iterator[tuple[str, str]]:
    for entry in context.spec.egress.allow if context.spec.egress is not None else ():
        host, _, port = entry.rpartition(":")
        yield host, port


def _opened(text: str, context: Context) -> bool:
    """Whether the profile opens the network that an address is in."""
    address = ipaddress.ip_address(text.strip("[]"))
    egress = context.spec.egress
    return any(address in ipaddress.ip_network(one) for one in (egress.private_networks if egress else ()))


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
    if answer.startswith(b"HTTP/"):
        return answer.partition(b"\r\n")[0].decode("latin-1")
    return f"{len(answer)} bytes came back" if answer else "no answer"


def _asking(group: str, title: str) -> Control:
    def look(seen: Seen, context: Context) -> Answer:
        egress = context.spec.egress
        if egress is None or not egress.has_gateway:
            return "it has no gateway"
        asked = {request.name for request in requests(context) if request.group == group}
        if not asked:
            return (
                "egress: open lets every public host through" if egress.mode != ALLOW else "the list leaves none over"
            )
        answers = _answers(seen, group)
        odd = [
            f"{one.get('name', '').partition(' ')[2]}: {_shown(one, seen)}" for one in answers if not _held(one, seen)
        ]
        found = {one.get("name", ""): one for one in answers}
        return Comparison(
            "each refused",
            "; ".join(odd) or (f"all {len(answers)} refused" if answers else ""),
            every(_held(found[name], seen) if name in found else None for name in asked),
        )

    return Control(
        f"gateway-{group}",
        title,
        look,
        negative=_let_through,
        undecided="nor was any listed host let through: does the engine's name server answer?",
    )


GATEWAY = (
    _asking("hosts", "The gateway refuses hosts that are not listed"),
    _asking("ports", "The gateway refuses other ports"),
    _asking("addresses", "The gateway refuses addresses in every spelling"),
    _asking("metadata", "The gateway refuses the cloud's metadata"),
    _asking("inner", "The gateway refuses itself and its loopback"),
    _asking("private", "The gateway refuses private and host addresses"),
    _asking("spelling", "The gateway refuses odd spellings of a listed host"),
    _asking("host-field", "The gateway refuses another Host"),
)
