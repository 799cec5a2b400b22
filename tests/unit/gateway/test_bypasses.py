"""What an agent would try to get past its gateway: each is refused, recorded with its reason, and reaches nobody."""

from __future__ import annotations

import ipaddress
import socket
import struct
from collections.abc import Callable

import pytest

from sandboxrun.gateway.program.hello import ALERT, RETRY
from tests.unit.gateway.hellos import hello, real_hello, vector
from tests.unit.gateway.test_names import ODD, SPELLINGS
from tests.unit.gateway.world import OTHER, SERVER, World, connect_request, echo, head_of, read_all, until


def refused(world: World, answer: bytes, reason: str, status: int = 403) -> dict[str, object]:
    """The record of a request that was answered with a refusal."""
    assert answer.startswith(b"HTTP/1.1 %d " % status), answer
    assert b"200 Connection established" not in answer
    return world.event("request", verdict="denied", reason=reason)


def test_another_host(gateway: World) -> None:
    server = gateway.serve(OTHER, 443, echo)
    record = refused(gateway, gateway.connect("evil.example.net:443"), "host")
    assert (record["host"], record["port"], record["address"]) == ("evil.example.net", 443, "")
    assert server.connections == 0 and gateway.names.asked == []


def test_another_port(gateway: World) -> None:
    server = gateway.serve(SERVER, 8443, echo)
    refused(gateway, gateway.connect("api.example.com:8443"), "port")
    assert server.connections == 0 and gateway.names.asked == []


@pytest.mark.parametrize("host", ["models.example.org", "xmodels.example.org", "models.example.org.example.net"])
def test_a_wildcard_covers_what_is_below_it_only(gateway: World, host: str) -> None:
    refused(gateway, gateway.connect(f"{host}:443"), "host")
    assert gateway.names.asked == []


def test_a_domain_below_an_allowed_host(gateway: World) -> None:
    refused(gateway, gateway.connect("x.api.example.com:443"), "host")


@pytest.mark.parametrize("case", SPELLINGS)
def test_addresses_in_every_spelling(gateway: World, case: str) -> None:
    refused(gateway, gateway.connect(SPELLINGS[case]), "address")
    assert gateway.names.asked == []


@pytest.mark.parametrize(
    "authority", [f"{SERVER}:443", "[2606:4700::1111]:443", "127.0.0.1:3128", "169.254.169.254:80"]
)
def test_addresses_even_in_their_usual_spelling(gateway: World, authority: str) -> None:
    server = gateway.serve(SERVER, 443, echo)
    refused(gateway, gateway.connect(authority), "address")
    assert server.connections == 0


@pytest.mark.parametrize("case", [case for case, text in ODD.items() if text.isascii() and text.isprintable() and text])
def test_names_that_are_odd(gateway: World, case: str) -> None:
    answer = gateway.ask(connect_request(ODD[case]))
    assert answer.startswith((b"HTTP/1.1 403 ", b"HTTP/1.1 400 "))
    record = gateway.event("request", verdict="denied")
    assert record["reason"] in ("name", "request", "host-header")
    assert gateway.names.asked == []


@pytest.mark.parametrize(
    "host", ["api.example.com\0", "api.example.com\r\nX: y", "api.exämple.com", "api．example．com"]
)
def test_bytes_that_no_name_has(gateway: World, host: str) -> None:
    answer = gateway.ask(f"CONNECT {host}:443 HTTP/1.1\r\nHost: {host}:443\r\n\r\n".encode())
    assert answer.startswith((b"HTTP/1.1 403 ", b"HTTP/1.1 400 "))
    assert gateway.names.asked == []


def test_case_makes_no_difference(gateway: World) -> None:
    refused(gateway, gateway.connect("EVIL.Example.NET:443"), "host")
    server = gateway.serve(SERVER, 22, echo)
    gateway.names.table["ssh.example.com"] = [SERVER]
    with gateway.tunnel("SSH.Example.COM:22") as sock:
        sock.sendall(b"x")
        assert sock.recv(1) == b"x"
    assert server.connections == 1
    assert gateway.event("request", verdict="allowed")["host"] == "ssh.example.com"


# -- where an allowed name leads

HIDDEN = {
    "loopback": "127.0.0.9",
    "metadata": "169.254.169.254",
    "private": "10.50.0.10",
    "the gateway": "10.77.0.1",
    "next to the gateway": "10.77.0.2",
    "IPv4-mapped": "::ffff:127.0.0.1",
    "NAT64 of metadata": "64:ff9b::a9fe:a9fe",
    "6to4": "2002:7f00:1::1",
    "unspecified": "0.0.0.0",
    "IPv6 loopback": "::1",
}


@pytest.mark.parametrize("case", HIDDEN)
def test_an_allowed_name_that_leads_inside(world: World, case: str) -> None:
    world.inner.ip("-6", "addr", "add", "2606:4700::2/64", "dev", "out", "nodad")  # so that IPv6 is asked for
    world.start()
    server = world.serve("10.50.0.10" if case == "private" else "10.77.0.2", 443, echo)
    world.names.table["api.example.com"] = [HIDDEN[case]]
    reason = "private" if case == "private" else "reserved"
    answer = world.connect("api.example.com:443")
    address = ipaddress.ip_address(str(refused(world, answer, reason)["address"]))
    assert address == ipaddress.ip_address(HIDDEN[case])
    assert server.connections == 0


def test_one_bad_address_among_good_ones(gateway: World) -> None:
    server = gateway.serve(SERVER, 443, echo)
    gateway.names.table["api.example.com"] = [SERVER, "169.254.169.254"]
    refused(gateway, gateway.connect("api.example.com:443"), "reserved")
    assert server.connections == 0


def test_a_name_that_is_rebound(gateway: World) -> None:
    """The address that was looked at is the one connected to: the second answer leads nowhere."""
    good = gateway.serve(SERVER, 22, lambda peer: peer.sendall(b"good"))
    gateway.names.table["ssh.example.com"] = [SERVER]
    with gateway.tunnel("ssh.example.com:22") as sock:
        assert sock.recv(4) == b"good"
    assert gateway.names.asked == ["ssh.example.com"]
    gateway.names.table["ssh.example.com"] = ["127.0.0.9"]
    refused(gateway, gateway.connect("ssh.example.com:22"), "reserved")
    assert good.connections == 1


def test_private_networks_open_no_more_than_they_say(world: World) -> None:
    world.start(private_networks=("10.0.0.0/8", "169.254.0.0/16", "127.0.0.0/8"))
    server = world.serve("10.50.0.10", 22, lambda peer: peer.sendall(b"inside"))
    world.names.table["ssh.example.com"] = ["10.50.0.10"]
    with world.tunnel("ssh.example.com:22") as sock:
        assert sock.recv(6) == b"inside"
    assert server.connections == 1
    for number, address in enumerate(("10.77.0.1", "10.77.0.2", "127.0.0.9", "169.254.169.254"), 1):
        world.names.table["ssh.example.com"] = [address]
        assert world.connect("ssh.example.com:22").startswith(b"HTTP/1.1 403")
        world.event("request", number, reason="reserved")


def test_addresses_that_are_refused_by_the_rules(world: World) -> None:
    world.start(refused=(f"{SERVER}/32",))
    server = world.serve(SERVER, 443, echo)
    refused(world, world.connect("api.example.com:443"), "reserved")
    assert server.connections == 0


# -- TLS in a tunnel


def closed_with(sock: socket.socket, data: bytes) -> bytes:
    sock.sendall(data)
    return read_all(sock)


@pytest.mark.parametrize("name", ["evil.example.net", "x.api.example.com", "api.example.com.", None])
def test_tls_that_names_another_host(gateway: World, name: str | None) -> None:
    seen: list[bytes] = []
    gateway.serve(SERVER, 443, lambda peer: seen.append(peer.recv(10)))
    with gateway.tunnel("api.example.com:443") as sock:
        assert closed_with(sock, hello(name.encode() if name else None)) == ALERT
    record = gateway.event("request", verdict="denied", reason="sni")
    assert (record["sent"], record["address"]) == (0, SERVER)
    until(lambda: seen == [b""])


def test_tls_that_names_another_host_on_another_port(gateway: World) -> None:
    gateway.serve(SERVER, 22, echo)
    gateway.names.table["ssh.example.com"] = [SERVER]
    with gateway.tunnel("ssh.example.com:22") as sock:
        assert closed_with(sock, real_hello("evil.example.net")) == ALERT
    gateway.event("request", verdict="denied", reason="sni", sent=0)


@pytest.mark.parametrize(
    "data", [b"GET / HTTP/1.1\r\nHost: evil.example.net\r\n\r\n", b"SSH-2.0-x\r\n", b"\x80\x2e\x01\x03\x01"]
)
def test_no_tls_on_its_port(gateway: World, data: bytes) -> None:
    gateway.serve(SERVER, 443, echo)
    with gateway.tunnel("api.example.com:443") as sock:
        assert closed_with(sock, data) == b""
    gateway.event("request", verdict="denied", reason="not-tls", sent=0)


def test_bytes_that_come_with_the_connect(gateway: World) -> None:
    """They are looked at like those that come later."""
    gateway.serve(SERVER, 443, echo)
    request = connect_request("api.example.com:443")
    assert gateway.ask(request + hello(b"evil.example.net")).endswith(ALERT)
    gateway.event("request", reason="sni", sent=0)


@pytest.mark.parametrize("size", [4, 5, 50])
def test_a_name_spread_over_records_and_segments(gateway: World, size: int) -> None:
    gateway.serve(SERVER, 443, echo)
    with gateway.tunnel("api.example.com:443") as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        data = hello(b"evil.example.net", size=size)
        for at in range(0, len(data) - 1, 40):
            sock.sendall(data[at : min(at + 40, len(data) - 1)])
        assert closed_with(sock, data[-1:]) == ALERT
    gateway.event("request", reason="sni", sent=0)


def test_half_a_hello(gateway: World) -> None:
    gateway.serve(SERVER, 443, echo)
    with gateway.tunnel("api.example.com:443") as sock:
        sock.sendall(hello(b"api.example.com")[:40])
        sock.shutdown(socket.SHUT_WR)
        assert read_all(sock) == b""
    gateway.event("request", reason="hello", sent=0)


SERVER_HELLO = b"\x16\x03\x03" + vector(b"\x02" + vector(b"\x03\x03" + b"r" * 32 + b"\0\x13\x01\0", 3), 2)
RETRY_HELLO = b"\x16\x03\x03" + vector(b"\x02" + vector(b"\x03\x03" + RETRY + b"\0\x13\x01\0", 3), 2)
CHANGE_CIPHER = b"\x14\x03\x03\0\1\1"


def answering(first: bytes, seen: list[bytes]) -> Callable[[socket.socket], None]:
    def talk(peer: socket.socket) -> None:
        seen.append(peer.recv(65536))
        peer.sendall(first)
        while data := peer.recv(65536):
            seen.append(data)
            peer.sendall(b"more")

    return talk


@pytest.mark.parametrize("lead", [b"", CHANGE_CIPHER])
@pytest.mark.parametrize("name", [b"evil.example.net", None])
def test_a_second_hello_that_names_another_host(gateway: World, lead: bytes, name: bytes | None) -> None:
    seen: list[bytes] = []
    gateway.serve(SERVER, 443, answering(RETRY_HELLO, seen))
    first = hello(b"api.example.com")
    with gateway.tunnel("api.example.com:443") as sock:
        sock.sendall(first)
        assert sock.recv(65536) == RETRY_HELLO
        assert closed_with(sock, lead + hello(name)) == ALERT
    gateway.event("request", reason="sni", sent=len(first))
    assert seen == [first]


def test_a_second_hello_sent_along_with_the_first(gateway: World) -> None:
    """Nothing after the first goes on before the server has said whether it wants a second."""
    seen: list[bytes] = []
    gateway.serve(SERVER, 443, answering(RETRY_HELLO, seen))
    first = hello(b"api.example.com")
    with gateway.tunnel("api.example.com:443") as sock:
        assert closed_with(sock, first + hello(b"evil.example.net")) == RETRY_HELLO + ALERT
    assert seen == [first]


@pytest.mark.parametrize("lead", [b"", CHANGE_CIPHER])
def test_a_second_hello_that_names_the_same_host(gateway: World, lead: bytes) -> None:
    seen: list[bytes] = []
    gateway.serve(SERVER, 443, answering(RETRY_HELLO, seen))
    first, second = hello(b"api.example.com"), lead + hello(b"api.example.com", size=30)
    with gateway.tunnel("api.example.com:443") as sock:
        sock.sendall(first)
        assert sock.recv(65536) == RETRY_HELLO
        sock.sendall(second)
        assert sock.recv(4) == b"more"
    until(lambda: b"".join(seen) == first + second)


def test_early_data_goes_on_once_the_server_has_answered(gateway: World) -> None:
    seen: list[bytes] = []
    gateway.serve(SERVER, 443, answering(SERVER_HELLO, seen))
    first, early = hello(b"api.example.com"), b"\x17\x03\x03\0\x04early"
    with gateway.tunnel("api.example.com:443") as sock:
        sock.sendall(first + early)
        until(lambda: b"".join(seen) == first + early)
    record = gateway.event("request", verdict="allowed", reason="")
    assert record["sent"] == len(first + early) and record["received"] >= len(SERVER_HELLO)


# -- plain HTTP

PLAIN = {
    "a request to the gateway itself": (b"GET / HTTP/1.1\r\nHost: api.example.com\r\n\r\n", "target", 400),
    "another host": (b"GET http://evil.example.net/ HTTP/1.1\r\nHost: evil.example.net\r\n\r\n", "host", 403),
    "another port": (b"GET http://api.example.com:8080/ HTTP/1.1\r\nHost: api.example.com:8080\r\n\r\n", "port", 403),
    "an address": (b"GET http://198.41.0.10/ HTTP/1.1\r\nHost: 198.41.0.10\r\n\r\n", "address", 403),
    "metadata": (b"GET http://169.254.169.254/latest HTTP/1.1\r\nHost: 169.254.169.254\r\n\r\n", "address", 403),
    "another Host": (b"GET http://api.example.com/ HTTP/1.1\r\nHost: evil.example.net\r\n\r\n", "host-header", 403),
    "a Host with another port": (
        b"GET http://api.example.com/ HTTP/1.1\r\nHost: api.example.com:81\r\n\r\n", "host-header", 403),
    "an empty Host": (b"GET http://api.example.com/ HTTP/1.1\r\nHost:\r\n\r\n", "host-header", 403),
    "two Hosts": (
        b"GET http://api.example.com/ HTTP/1.1\r\nHost: api.example.com\r\nHost: evil.example.net\r\n\r\n",
        "request", 400),
    "no Host": (b"GET http://api.example.com/ HTTP/1.1\r\n\r\n", "request", 400),
    "a folded Host": (
        b"GET http://api.example.com/ HTTP/1.1\r\nHost: api.example.com\r\n evil.example.net\r\n\r\n",
        "host-header", 403),
    "a user in the target": (
        b"GET http://api.example.com@evil.example.net/ HTTP/1.1\r\nHost: api.example.com\r\n\r\n", "name", 403),
    "a fragment in the target": (
        b"GET http://api.example.com#@evil.example.net/ HTTP/1.1\r\nHost: api.example.com\r\n\r\n", "target", 400),
    "a backslash in the target": (
        b"GET http://api.example.com\\@evil.example.net/ HTTP/1.1\r\nHost: api.example.com\r\n\r\n", "name", 403),
    "https without a tunnel": (
        b"GET https://api.example.com/ HTTP/1.1\r\nHost: api.example.com\r\n\r\n", "scheme", 403),
    "ftp": (b"GET ftp://api.example.com/ HTTP/1.1\r\nHost: api.example.com\r\n\r\n", "scheme", 403),
    "HTTP/1.0": (b"GET http://api.example.com/ HTTP/1.0\r\nHost: api.example.com\r\n\r\n", "version", 505),
    "HTTP/0.9": (b"GET http://api.example.com/\r\n\r\n", "request", 400),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "target", 400),
    "two lengths": (
        b"POST http://api.example.com/ HTTP/1.1\r\nHost: api.example.com\r\n"
        b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nx",
        "request", 400),
    "a length and chunks": (
        b"POST http://api.example.com/ HTTP/1.1\r\nHost: api.example.com\r\nContent-Length: 4\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "request", 400),
    "another coding": (
        b"POST http://api.example.com/ HTTP/1.1\r\nHost: api.example.com\r\nTransfer-Encoding: xchunked\r\n\r\n",
        "request", 501),
    "a space before the colon": (
        b"GET http://api.example.com/ HTTP/1.1\r\nHost : api.example.com\r\n\r\n", "request", 400),
    "a NUL in a field": (
        b"GET http://api.example.com/ HTTP/1.1\r\nHost: api.example.com\r\nX: \0\r\n\r\n", "request", 400),
    "TRACE": (b"TRACE http://api.example.com/ HTTP/1.1\r\nHost: api.example.com\r\n\r\n", "request", 403),
    "a loop": (
        b"GET http://api.example.com/ HTTP/1.1\r\nHost: api.example.com\r\nVia: 1.1 sandboxrun-gateway\r\n\r\n",
        "loop", 403),
    "a CONNECT whose Host is another": (
        b"CONNECT api.example.com:443 HTTP/1.1\r\nHost: evil.example.net:443\r\n\r\n", "host-header", 403),
    "a CONNECT whose Host has another port": (
        b"CONNECT api.example.com:443 HTTP/1.1\r\nHost: api.example.com:80\r\n\r\n", "host-header", 403),
    "a CONNECT with a body": (
        b"CONNECT api.example.com:443 HTTP/1.1\r\nHost: api.example.com:443\r\nContent-Length: 3\r\n\r\nabc",
        "request", 400),
    "a CONNECT with a scheme": (
        b"CONNECT http://api.example.com:443 HTTP/1.1\r\nHost: api.example.com:443\r\n\r\n", "name", 403),
    "no HTTP at all": (b"SSH-2.0-OpenSSH\r\n\r\n", "request", 400),
    "TLS to the gateway": (hello(b"api.example.com") + b"\n\n", "request", 400),
}  # fmt: skip


@pytest.mark.parametrize("case", PLAIN)
def test_requests(gateway: World, case: str) -> None:
    request, reason, status = PLAIN[case]
    servers = [gateway.serve(SERVER, port, echo) for port in (80, 443, 8080)]
    refused(gateway, gateway.ask(request), reason, status)
    assert sum(server.connections for server in servers) == 0


def test_a_request_hidden_in_a_body_is_judged_like_any_other(gateway: World) -> None:
    """What follows a body is the next request, whatever the client calls it."""
    seen: list[bytes] = []

    def talk(peer: socket.socket) -> None:
        seen.append(head_of(peer) + peer.recv(4))
        peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    gateway.serve(SERVER, 80, talk)
    hidden = b"GET http://evil.example.net/ HTTP/1.1\r\nHost: evil.example.net\r\n\r\n"
    head = b"POST http://api.example.com/ HTTP/1.1\r\nHost: api.example.com\r\nContent-Length: 4\r\n\r\n"
    answer = gateway.ask(head + b"body" + hidden)
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n") and b"HTTP/1.1 403 evil.example.net:80 is not allowed" in answer
    (request,) = seen
    assert request.endswith(b"\r\n\r\nbody") and b"evil" not in request
    gateway.event("request", verdict="denied", reason="host", host="evil.example.net")


def test_hop_by_hop_fields_go_no_further(gateway: World) -> None:
    seen: list[bytes] = []

    def talk(peer: socket.socket) -> None:
        seen.append(head_of(peer))
        peer.sendall(
            b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: X-Internal\r\nX-Internal: 1\r\nX-Kept: 1\r\n\r\n"
        )

    gateway.serve(SERVER, 80, talk)
    answer = gateway.ask(
        b"GET http://api.example.com/p?q HTTP/1.1\r\nHost: API.example.com:80\r\nConnection: X-Secret, close\r\n"
        b"X-Secret: 1\r\nProxy-Authorization: Basic eDp5\r\nUpgrade: h2c\r\nHTTP2-Settings: AA\r\nX-Other: 1\r\n\r\n"
    )
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n") and b"X-Kept: 1" in answer and b"Internal" not in answer
    head = seen[0].lower()
    assert head.startswith(b"get /p?q http/1.1\r\nhost: api.example.com\r\n") and b"x-other: 1" in head
    assert not any(word in head for word in (b"secret", b"proxy-auth", b"upgrade", b"http2"))


def test_a_response_split_in_two_reaches_nobody_else(gateway: World) -> None:
    def talk(peer: socket.socket) -> None:
        head_of(peer)
        peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")

    gateway.serve(SERVER, 80, talk)
    request = b"GET http://api.example.com/ HTTP/1.1\r\nHost: api.example.com\r\n\r\n"
    answer = gateway.ask(request)
    assert answer.endswith(b"\r\n\r\nok")


# -- open mode refuses what no sandbox may reach


@pytest.mark.parametrize(
    ("authority", "reason"),
    [
        ("127.0.0.1:3128", "reserved"),
        ("169.254.169.254:80", "reserved"),
        ("10.50.0.10:443", "private"),
        ("10.77.0.1:3128", "reserved"),
        ("10.77.0.2:443", "reserved"),
        ("[::1]:3128", "reserved"),
        ("[::ffff:7f00:1]:3128", "reserved"),
        ("[2002:7f00:1::1]:443", "reserved"),
        ("0x7f000001:3128", "address"),
        ("127.1:3128", "address"),
        ("localhost:3128", "name"),
        ("inside.example.net:443", "private"),
        ("metadata.example.net:80", "reserved"),
    ],
)
def test_open_mode(world: World, authority: str, reason: str) -> None:
    world.names.table.update({"inside.example.net": ["10.50.0.10"], "metadata.example.net": ["169.254.169.254"]})
    world.start(mode="open", allow=())
    server = world.serve("10.50.0.10", 443, echo)
    answer = world.ask(connect_request(authority))
    refused(world, answer, reason)
    assert server.connections == 0


def test_open_mode_reaches_public_hosts(world: World) -> None:
    world.start(mode="open", allow=())
    world.serve(OTHER, 5000, echo)
    for authority in ("evil.example.net:5000", f"{OTHER}:5000"):
        with world.tunnel(authority) as sock:
            sock.sendall(b"hello")
            assert sock.recv(5) == b"hello"


def test_an_answer_that_names_a_foreign_question(gateway: World) -> None:
    """A forged answer to another question counts as none."""
    table = gateway.names.table
    table["api.example.com"] = []
    answer = gateway.connect("api.example.com:443")
    assert answer.startswith(b"HTTP/1.1 502 api.example.com has no address")
    record = gateway.event("request", verdict="allowed", reason="unresolved")
    assert record["address"] == ""


def test_linger(gateway: World) -> None:
    """A client that sends on after a refusal still gets the answer."""
    with gateway.client() as sock:
        sock.sendall(connect_request("evil.example.net:443"))
        sock.sendall(b"x" * 30000)
        assert head_of(sock).startswith(b"HTTP/1.1 403 ")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
