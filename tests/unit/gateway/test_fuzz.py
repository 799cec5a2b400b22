"""Requests as nobody sends them: whatever comes, the gateway goes on, and only the allowed host is ever reached."""

from __future__ import annotations

import socket

import hypothesis.strategies as st
from hypothesis import HealthCheck, given, settings

from tests.unit.gateway.hellos import hello
from tests.unit.gateway.world import OTHER, SERVER, World, connect_request, echo

ALLOWED, DENIED = "api.example.com", "evil.example.net"
PARTS = st.sampled_from(
    [
        b"GET ", b"CONNECT ", b"POST ", b"http://", b"https://", ALLOWED.encode(), DENIED.encode(), b":80", b":443",
        b"/", b"?", b"#", b"@", b"\\", b"%", b".", b"..", b" ", b"\t", b"\r\n", b"\n", b"\r", b"\0", b"\x80",
        b" HTTP/1.1\r\n", b" HTTP/1.0\r\n", b" HTTP/2.0\r\n", b"Host: api.example.com\r\n",
        b"Host: evil.example.net\r\n", b"Host : api.example.com\r\n", b" evil.example.net\r\n",
        b"Content-Length: 4\r\n", b"Content-Length: 0\r\n", b"Content-Length: -1\r\n", b"Content-Length: 4, 4\r\n",
        b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding: chunked, identity\r\n", b"Connection: close\r\n",
        b"Connection: host\r\n", b"Expect: 100-continue\r\n", b"Upgrade: h2c\r\n", b"Via: 1.1 sandboxrun-gateway\r\n",
        b"4\r\nabcd\r\n", b"0\r\n\r\n", b"ffffffffffffffffffff\r\n", b"abcd", b"\r\n\r\n", b"127.0.0.1", b"[::1]",
        b"x" * 5000, hello(DENIED.encode()), hello(ALLOWED.encode()), hello(DENIED.encode(), size=9)[:60],
    ]
)  # fmt: skip
FEW = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


def send(world: World, data: bytes) -> None:
    """Send it, and read what comes back for a moment."""
    with world.client() as sock:
        sock.settimeout(0.2)
        try:
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)
            while sock.recv(65536):
                pass
        except OSError:
            return


def reached(world: World) -> int:
    """How often the host that is not allowed was reached."""
    return sum(server.connections for server in world.servers_at(OTHER))


def prepare(world: World) -> None:
    if not world.servers_at(OTHER):
        for port in (80, 443):
            world.serve(SERVER, port, echo)
            world.serve(OTHER, port, echo)


def check(world: World) -> None:
    assert world.process is not None and world.process.poll() is None
    assert reached(world) == 0 and DENIED not in world.names.asked
    assert world.connect(f"{DENIED}:443").startswith(b"HTTP/1.1 403 ")


@given(st.lists(PARTS, max_size=14).map(b"".join))
@FEW
def test_pieces_of_requests(gateway: World, data: bytes) -> None:
    prepare(gateway)
    send(gateway, data)
    check(gateway)


@given(st.lists(PARTS, max_size=8).map(b"".join))
@FEW
def test_pieces_after_a_request_that_is_allowed(gateway: World, data: bytes) -> None:
    prepare(gateway)
    head = b"POST http://api.example.com/ HTTP/1.1\r\nHost: api.example.com\r\nTransfer-Encoding: chunked\r\n\r\n"
    send(gateway, head + data)
    check(gateway)


@given(st.lists(PARTS, max_size=8).map(b"".join))
@FEW
def test_pieces_in_a_tunnel(gateway: World, data: bytes) -> None:
    prepare(gateway)
    send(gateway, connect_request(f"{ALLOWED}:443") + data)
    check(gateway)


@given(st.binary(max_size=300))
@FEW
def test_any_bytes(gateway: World, data: bytes) -> None:
    prepare(gateway)
    send(gateway, data)
    check(gateway)


@given(
    st.binary(min_size=1, max_size=80),
    st.sampled_from([b"%s", b"%s:443", b"api.example.com%s:443", b"%s.example.com:443"]),
)
@FEW
def test_any_host(gateway: World, name: bytes, form: bytes) -> None:
    prepare(gateway)
    target = form % name
    send(gateway, b"CONNECT " + target + b" HTTP/1.1\r\nHost: " + target + b"\r\n\r\n")
    check(gateway)
    assert set(gateway.names.asked) <= {ALLOWED}
