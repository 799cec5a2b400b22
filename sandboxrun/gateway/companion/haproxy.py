"""HAProxy's configuration and the lists beside it, from the rules of one sandbox.

Owns every line of the configuration. Names are in lists alone, which HAProxy reads line by line: the configuration
itself holds ports, addresses and constant paths, so nothing that a profile says can change its structure. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from ipaddress import IPv6Address
from typing import NamedTuple

from sandboxrun.gateway.companion.addresses import NAT64, NEVER, PRIVATE, PUBLIC_IPV6, Address, Network
from sandboxrun.gateway.companion.rules import HTTP, MAX_NAME, NAME, TLS, Rules

MAX_CONNECTIONS = 192  # at once; more wait to be taken
RATE = 4000  # connections taken a second, more than a busy agent begins; more wait
HEAD_SECONDS = 10  # for a request's head, or the start of TLS
SILENCE_SECONDS = 3  # after which the server is to speak first, on a port that one host has alone
SERVER_FIRST = frozenset({21, 25, 110, 143, 587, 2525, 3306, 5900})  # where it always is
BUFFER = 65536
RECORDS = "records"  # the ring that they are on their way in
RING = 8 << 20  # its bytes
MOST_WORKERS = 3  # of which all but one serve by earlier rules

CONFIGURATION = "haproxy.cfg"
EXACT, BELOW, HOSTS, DOMAINS, ONLY = "exact.map", "below.map", "hosts.lst", "domains.lst", "only.map"
RESERVED, PRIVATES, OPENED = "reserved.lst", "private.lst", "opened.lst"
RETIRED = "retired.lst"  # holds RETIRED_ENTRY once other rules hold
RETIRED_ENTRY = "retired"

# IPv4-mapped addresses would match every IPv4 address in a list of HAProxy's: they are told by their spelling.
_NEVER = tuple(network for network in NEVER if str(network) != "::ffff:0.0.0.0/96" and str(network) != "::ffff:0:0/96")

# reason → what to do about it; read by whoever asked over plain HTTP
ADVICE = {
    "host": "to permit it, list it under egress: allow: in the sandbox's profile",
    "port": "the profile lists this host with another port: list host:port under egress: allow:",
    "name": "the Host field must be a host name in ASCII with a dot in it, and the request's port if it has one",
    "request": "the request is malformed",
    "method": "CONNECT and TRACE are not allowed",
    "scheme": "plain requests are for http:// only",
    "unresolved": "the name is allowed, but it has no address",
    "reserved": "it resolves to an address that no sandbox may reach; no setting opens it",
    "private": "it resolves to a private address: list its range under egress: private_networks: in the profile",
    "rules": "the sandbox's rules were changed meanwhile; try again",
}


class Place(NamedTuple):
    """Where the gateway stands."""

    address: Address  # where sandboxes reach it
    own: tuple[Network, ...]  # its own networks, whose neighbours no sandbox may reach
    resolvers: tuple[Address, ...]
    folder: str  # where HAProxy finds its lists; an absolute path without spaces
    admin: str  # the path of HAProxy's own socket
    recorder: str  # the path of the socket that records are sent to


def render(rules: Rules, place: Place) -> dict[str, bytes]:
    """The files, by name. The same rules and place make the same bytes."""
    exact = sorted(rules.exact)
    below = sorted(rules.below)
    only = [(port, host) for port in rules.ports if (host := rules.only_host(port)) is not None]
    lists: dict[str, Sequence[str]] = {
        EXACT: [f"{host}:{port} 1" for host, port in exact],
        BELOW: [f"{end}:{port} 1" for end, port in below],
        HOSTS: sorted({host for host, _ in exact}),
        DOMAINS: sorted({end for end, _ in below}),
        ONLY: [f"{port} {host}" for port, host in only],
        RESERVED: _listed(*_NEVER, *rules.refused, *place.own),
        PRIVATES: _listed(*PRIVATE),
        OPENED: _listed(*rules.opened),
        RETIRED: [],
    }
    lists[CONFIGURATION] = list(_configuration(rules, place))
    return {name: "".join(f"{line}\n" for line in lines).encode("ascii") for name, lines in lists.items()}


def _listed(*networks: Network) -> list[str]:
    """The networks, and those of IPv4 once more as they are within NAT64: HAProxy can't take an address out of one."""
    first = int(NAT64.network_address)
    carried = [
        f"{IPv6Address(first | int(network.network_address))}/{96 + network.prefixlen}"
        for network in networks
        if network.version == 4
    ]
    return [*map(str, networks), *carried]


def _configuration(rules: Rules, place: Place) -> Iterator[str]:
    yield from _globals(place)
    for port in rules.ports:
        if port == HTTP:
            yield from _http(rules, place, port, f"bind {_at(place.address, port)}")
        else:
            yield from _connections(rules, place, port)
            if port != TLS:
                path = f"{place.folder}/http-{port}.sock"
                yield from _block(f"backend to-http-{port}", ["mode tcp", f"server http unix@{path} send-proxy-v2"])
                yield from _http(rules, place, port, f"bind unix@{path} mode 600 accept-proxy")
    # One server each, without an address of its own: a connection goes where the rules have set its destination.
    yield from _block("backend tunnels", ["mode tcp", "option splice-auto", "server there 0.0.0.0:0"])
    yield from _block("backend requests", ["mode http", "http-reuse never", "server there 0.0.0.0:0"])


def frontends(rules: Rules) -> list[str]:
    """Those that listen at the gateway's address."""
    return [f"http-{port}" if port == HTTP else f"port-{port}" for port in rules.ports]


def _block(head: str, lines: Sequence[str]) -> list[str]:
    return [head, *(f"    {line}" for line in lines), ""]


def _at(address: Address, port: int) -> str:
    return f"ipv6@{address}:{port}" if address.version == 6 else f"ipv4@{address}:{port}"


def _globals(place: Place) -> Iterator[str]:
    yield from _block(
        "global",
        [
            f"log ring@{RECORDS} local0",
            f"maxconn {MAX_CONNECTIONS}",
            f"maxsessrate {RATE}",
            "nbthread 1",
            f"stats socket unix@{place.admin} mode 600 level admin",
            "stats timeout 48h",  # the companion's connection lasts as long as the process
            f"tune.bufsize {BUFFER}",
            "tune.maxrewrite 1024",
            ".if feature(OPENSSL)",  # for its own client, which nothing here uses, it would load every CA
            "httpclient.ssl.verify none",
            ".endif",
        ],
    )
    yield from _block(
        f"ring {RECORDS}",
        [
            "format raw",
            "maxlen 2048",
            f"size {RING}",
            "timeout connect 5s",
            "timeout server 1h",
            f"server recorder unix@{place.recorder}",
        ],
    )
    yield from _block(
        "defaults",
        [
            "log global",
            "timeout connect 15s",
            "timeout client 30m",
            "timeout server 30m",
            "timeout tunnel 30m",
            "timeout client-fin 2m",
            "timeout server-fin 2m",
            f"timeout http-request {HEAD_SECONDS}s",
            "timeout http-keep-alive 1m",
            "retries 0",
            "no option dontlognull",
            "unique-id-format %pid-%rt",
        ],
    )
    yield from _block(
        "resolvers names",
        [
            *(f"nameserver ns{n} {_at(server, 53)}" for n, server in enumerate(place.resolvers)),
            "accepted_payload_size 4096",
            "resolve_retries 2",
            "timeout resolve 1s",
            "timeout retry 3s",
            *(f"hold {kind} 1s" for kind in ("valid", "nx", "other", "refused", "timeout", "obsolete")),
        ],
    )


def _log(default_kind: str, port: int) -> str:
    """One line of fields between spaces; what a client wrote is in hexadecimal."""
    shown = ("txn.method", "txn.host")
    fields = [
        "end", "%ID", "%Ts", "%ms", f"%[var(txn.kind,{default_kind})]", str(port),
        "%[var(txn.verdict)]", "%[var(txn.reason)]", "%[var(txn.dst)]",
        *(f"%[var({name}),bytes(0,256),hex]" for name in shown), "%U", "%B", "%Tt", "%ts", "%ST",
    ]  # fmt: skip
    return "log-format " + "\\ ".join(fields)


def _opened(verb: str, port: int) -> list[str]:
    """Say what begins, by the one converter that writes into a ring at once: a log line comes at the end alone."""
    said = f"unique-id,concat(/,txn.kind,/{port}/),concat(,txn.dst,/),concat(,txn.name)"
    return [f"{verb} set-var(txn.name) var(txn.host),hex", f"{verb} set-var(txn.open) {said},debug(open,{RECORDS})"]


_CONTENT, _REQUEST = "tcp-request content", "http-request"
_TLS, _HTTP, _TCP = (f"{{ var(txn.kind) -m str {kind} }}" for kind in ("tls", "http", "tcp"))


def _reject(reason: str, *conditions: str) -> list[str]:
    return [f"{_CONTENT} set-var(txn.reason) str({reason})", *(f"{_CONTENT} reject {c}" for c in conditions)]


def _connections(rules: Rules, place: Place, port: int) -> list[str]:
    """A port whose connections are told apart by what their client begins with."""
    only = rules.only_host(port) is not None
    lines = [
        "mode tcp",
        f"bind {_at(place.address, port)}",
        _log("tcp", port),
        f"tcp-request inspect-delay {SILENCE_SECONDS if only else HEAD_SECONDS}s",
        f"{_CONTENT} set-var(txn.port) int({port})",
        f"{_CONTENT} set-var(txn.verdict) str(denied)",
    ]
    if only:
        lines += [
            f"{_CONTENT} set-var(txn.host) str({port}),map_str({place.folder}/{ONLY})",
            *_address_checks(place.folder, _CONTENT, _reject),
            *_told_apart(port),
        ]
    else:
        if port == TLS:
            hello = f"{_CONTENT} set-var(txn.kind) str(tls) if {{ req.ssl_hello_type 1 }}"
            lines += [hello, *_reject("not-tls", f"unless {_TLS}")]
        else:
            lines += [*_TLS_OR_HTTP, *_reject("protocol", f"unless {_TLS} or {_HTTP}"), *_HANDED_ON]
        lines += [
            *_IN_ONE_RECORD,
            f"{_CONTENT} set-var(txn.host) req.ssl_sni,lower",
            *_reject("sni", "unless { var(txn.host) -m found }"),
            *_reject("name", f"unless {_NAMED}", f"unless {_LENGTH}"),
            *_looked_up(_CONTENT, place.folder, port, rules),
            *_reject("port", f"if !{_ALLOWED} {_KNOWN}"),
            *_reject("host", f"unless {_ALLOWED}"),
            *_address_checks(place.folder, _CONTENT, _reject),
        ]
    lines += [
        f"{_CONTENT} set-dst var(txn.dst)",
        f"{_CONTENT} set-var(txn.verdict) str(allowed)",
        f"{_CONTENT} unset-var(txn.reason)",
        *_opened(_CONTENT, port),
    ]
    if port != TLS:
        lines.append(f"use_backend to-http-{port} if {_HTTP}")
    lines.append("default_backend tunnels")
    return _block(f"frontend port-{port}", lines)


_TLS_OR_HTTP = (
    f"{_CONTENT} set-var(txn.kind) str(tls) if !{_TCP} {{ req.ssl_hello_type 1 }}",
    f"{_CONTENT} set-var(txn.kind) str(http) if !{_TCP} !{_TLS} HTTP",
)
_HANDED_ON = (
    f"{_CONTENT} set-log-level silent if {_HTTP}",  # recorded request by request, where it goes on to
    f"{_CONTENT} accept if {_HTTP}",
)
# HAProxy reads a hello on into what follows its record, the next one's head included, and servers do not: of the two
# they would read different names. So the record holds the hello, and nothing else.
_IN_ONE_RECORD = (
    f"{_CONTENT} set-var(txn.hello) req.payload(6,3),hex,hex2i if {_TLS}",
    *_reject("hello", f"if {_TLS} !{{ req.payload(3,2),hex,hex2i,sub(txn.hello) eq 4 }}"),
)


def _told_apart(port: int) -> list[str]:
    """On a port of one host: TLS must name it, requests are judged one by one, anything else goes to it as it is."""
    if port in SERVER_FIRST:
        return [f"{_CONTENT} set-var(txn.kind) str(tcp)"]
    begun = f"!{_TCP} !{_TLS} !{_HTTP}"  # as TLS or a request, and did not become one: it is not something else
    line = r"{ req.payload(0,0) -m reg '^[A-Za-z][A-Za-z-]*( [^\n]*)?$|^[^\n]* HTTP/[0-9.]+\r?(\n|$)' }"
    return [
        f"{_CONTENT} set-var(txn.kind) str(tcp) if !{{ req.len gt 0 }} WAIT_END",  # the server is to speak first
        # Neither begins with these, so there is nothing to wait for. (A whole buffer's match waits for all of it.)
        rf"{_CONTENT} set-var(txn.kind) str(tcp) if !{_TCP} {{ req.payload(0,1) -m reg ^[^A-Za-z\x16] }}",
        f"{_CONTENT} set-var(txn.kind) str(tcp) if !{_TCP} {{ req.payload(0,1) -m bin 00 }}",
        f"{_CONTENT} set-var(txn.kind) str(tcp) if !{_TCP} {{ req.payload(0,4) -m str SSH- }}",
        *_TLS_OR_HTTP,
        *_reject("hello", f"if {begun} {{ req.payload(0,1) -m bin 16 }}"),
        *_reject("request", f"if {begun} {line}"),
        f"{_CONTENT} set-var(txn.kind) str(tcp) if {begun}",
        *_HANDED_ON,
        *_IN_ONE_RECORD,
        f"{_CONTENT} set-var(txn.sni) req.ssl_sni,lower if {_TLS}",
        *_reject("sni", f"if {_TLS} !{{ var(txn.sni),strcmp(txn.host) eq 0 }}"),
    ]


_ALLOWED = "{ var(txn.allowed) -m found }"
_KNOWN = "{ var(txn.known) -m found }"
_WEBSOCKET = "{ req.fhdr_cnt(upgrade) 1 } { req.fhdr(upgrade) -m str -i websocket }"
_NAMED = rf"{{ var(txn.host) -m reg '^{NAME}\z' }}"  # within quotes, where a backslash is one; $ lets a line end pass
_LENGTH = f"{{ var(txn.host),length le {MAX_NAME} }}"


def _looked_up(verb: str, folder: str, port: int, rules: Rules) -> list[str]:
    """`txn.allowed` is set for a host that is allowed with this port, `txn.known` for one with another."""
    if port in rules.open:
        return [f"{verb} set-var(txn.allowed) str(1)"]
    return [
        f"{verb} set-var(txn.key) var(txn.host),concat(:,txn.port)",
        f"{verb} set-var(txn.allowed) var(txn.key),map_str({folder}/{EXACT})",
        f"{verb} set-var(txn.allowed) var(txn.key),map_end({folder}/{BELOW}) if !{_ALLOWED}",
        f"{verb} set-var(txn.known) str(1) if {{ var(txn.host) -m str -f {folder}/{HOSTS} }}",
        f"{verb} set-var(txn.known) str(1) if {{ var(txn.host) -m end -f {folder}/{DOMAINS} }}",
    ]


def _address_checks(folder: str, verb: str, refuse: Callable[..., list[str]]) -> list[str]:
    """What is checked of the address that a name has, which is the one that is then connected to."""
    # A process that is told to stop would do so without saying what became of its connections: it is told by a list.
    retired = f"if {{ str({RETIRED_ENTRY}) -m str -f {folder}/{RETIRED} }}"
    private = f"{{ var(txn.dst) -m ip -f {folder}/{PRIVATES} }}"
    isatap = "{ var(txn.dst),ipmask(32,::ffff:ffff:0:0) -m ip ::5efe:0:0 ::200:5efe:0:0 }"
    public = f"{{ var(txn.dst) -m reg ^[0-9.]+$ }} or {{ var(txn.dst) -m ip {PUBLIC_IPV6} {NAT64} }}"
    return [
        *refuse("rules", retired),
        f"{verb} do-resolve(txn.dst,names,ipv4) var(txn.host)",
        *refuse("rules", retired),
        *refuse("unresolved", "unless { var(txn.dst) -m found }"),
        *refuse("reserved", f"if {{ var(txn.dst) -m ip -f {folder}/{RESERVED} }}", f"if {isatap}"),
        *refuse("private", f"if {private} !{{ var(txn.dst) -m ip -f {folder}/{OPENED} }}"),
        *refuse("reserved", f"unless {public} or {private}"),
    ]


def _http(rules: Rules, place: Place, port: int, bind: str) -> list[str]:
    """Plain requests, each judged by its Host field."""
    request, folder = _REQUEST, place.folder

    def deny(reason: str, *conditions: str) -> list[str]:
        status = 503 if reason in ("unresolved", "rules") else 400 if reason == "request" else 403
        what = "failed:" if status == 503 else "denied:"
        text = f'"sandboxrun: {what} %[var(txn.shown)]:{port}\\n{ADVICE[reason]}\\n"'
        answer = f"{request} deny deny_status {status} content-type text/plain lf-string {text}"
        return [f"{request} set-var(txn.reason) str({reason})", *(f"{answer} {c}" for c in conditions)]

    lines = [
        "mode http",
        bind,
        "option disable-h2-upgrade",  # HTTP/2 without TLS, which begins with a preface of its own
        _log("http", port),
        f"{request} set-var(txn.kind) str(http)",
        f"{request} set-var(txn.port) int({port})",
        f"{request} set-var(txn.verdict) str(denied)",
        f"{request} set-var(txn.method) method",
        f"{request} set-var(txn.shown) str(?)",
        f"{request} set-var(txn.host) req.hdr(host),lower,regsub(:{port}$,)",
        *deny(
            "request", "unless { req.hdr_cnt(host) 1 }", r"if { req.hdrs -m reg '[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]' }"
        ),
        *deny("request", "unless { req.ver 1.0 1.1 }", "if { url -m reg -i '^http://([/?#]|$)' }"),
        *deny("name", f"unless {_NAMED}", f"unless {_LENGTH}"),
        f"{request} set-var(txn.shown) var(txn.host)",
        *deny("method", "if { method -m str -i CONNECT TRACE }"),
        *deny("scheme", "if { url -m reg ^[A-Za-z][A-Za-z0-9+.-]*: } !{ url -m beg -i http:// }"),
        *_looked_up(request, folder, port, rules),
        *deny("port", f"if !{_ALLOWED} {_KNOWN}"),
        *deny("host", f"unless {_ALLOWED}"),
        *_address_checks(folder, request, deny),
        f"{request} set-dst var(txn.dst)",
        f"{request} set-dst-port int({port})",
        f"{request} set-uri %[pathq] if {{ url -m beg -i http:// }}",
        f"{request} set-path / unless {{ path -m found }}",
        f"{request} set-header transfer-encoding chunked if {{ req.hdr_cnt(transfer-encoding) gt 0 }}",
        f"{request} del-header proxy-authorization",
        f"{request} del-header proxy-connection",
        f"{request} del-header http2-settings",
        f"{request} del-header upgrade unless {_WEBSOCKET}",
        f"{request} del-header connection unless {_WEBSOCKET}",  # HAProxy writes its own
        f"{request} set-var(txn.verdict) str(allowed)",
        f"{request} unset-var(txn.reason)",
        *_opened(request, port),
        "default_backend requests",
    ]
    return _block(f"frontend http-{port}", lines)
