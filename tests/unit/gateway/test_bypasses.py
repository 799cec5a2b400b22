"""Bytes on sockets: what HAProxy lets through by the rendered rules, what it refuses, and what is recorded of both."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import struct
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from sandboxrun.gateway.companion.addresses import refusal
from tests.unit.gateway.conftest import fresh_world
from tests.unit.gateway.hellos import (
    hello,
    message,
    name_read_by_a_server,
    read_in_two_ways,
    real_hello,
    records,
    server_name,
)
from tests.unit.gateway.world import OTHER, SERVER, TABLE, World, echo, head_of, read_all, until, why_not

pytestmark = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    for world in fresh_world(tmp_path_factory.mktemp("carried")):
        world.start()
        yield world


@pytest.fixture
def gateway(shared: World) -> Iterator[World]:
    """A world with a gateway that allows world.ALLOWED, as if nothing had happened in it before."""
    shared.forget()
    yield shared
    assert shared.process is not None and shared.process.poll() is None
    shared.stop_servers()


def through(world: World, port: int, data: bytes) -> bytes:
    """What a server that echoes sends back."""
    with world.connect(port) as sock:
        sock.sendall(data)
        got = b""
        while len(got) < len(data) and (piece := sock.recv(65536)):
            got += piece
        return got


def refused(world: World, reason: str, **values: Any) -> dict[str, Any]:
    return world.event("request", verdict="denied", reason=reason, sent=0, received=0, **values)


# -- TLS


@pytest.mark.parametrize("name", ["api.example.com", "API.EXAMPLE.com", "a.models.example.org"])
def test_tls_to_an_allowed_host(gateway: World, name: str) -> None:
    gateway.serve(SERVER, 443, echo)
    data = real_hello(name)
    assert through(gateway, 443, data) == data
    record = gateway.event("request", verdict="allowed", host=name.lower())
    assert (record["address"], record["sent"], record["received"], record["reason"]) == (
        SERVER,
        len(data),
        len(data),
        "",
    )
    assert (record["protocol"], record["port"], record["sandbox"]) == ("tls", 443, "agent")


def test_a_hello_byte_by_byte(gateway: World) -> None:
    gateway.serve(SERVER, 443, echo)
    data = hello(b"api.example.com")
    with gateway.connect(443) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for at in range(len(data)):
            sock.sendall(data[at : at + 1])
        assert sock.recv(len(data), socket.MSG_WAITALL) == data


def test_a_large_hello(gateway: World) -> None:
    """Post-quantum keys make them larger than a packet."""
    gateway.serve(SERVER, 443, echo)
    data = hello(b"api.example.com", more=[(51, bytes(9000))])
    assert through(gateway, 443, data) == data


HELLOS: dict[str, tuple[bytes, str]] = {
    "another host": (hello(b"evil.example.net"), "host"),
    "a name below an allowed host": (hello(b"x.api.example.com"), "host"),
    "the domain of a wildcard": (hello(b"models.example.org"), "host"),
    "what ends as a wildcard's domain": (hello(b"xmodels.example.org"), "host"),
    "an allowed host as a prefix": (hello(b"api.example.com.evil.example.net"), "host"),
    "a host of another port": (hello(b"one.example.com"), "port"),
    "the host and a port": (hello(b"api.example.com:443"), "name"),
    "a trailing dot": (hello(b"api.example.com."), "name"),
    "a NUL": (hello(b"api.example.com\0.evil.example.net"), "name"),
    "a NUL at the end": (hello(b"api.example.com\0"), "name"),
    "a line end": (hello(b"api.example.com\n"), "name"),
    "an address": (hello(SERVER.encode()), "name"),
    "an IPv6 address": (hello(b"2606:4700::1111"), "name"),
    "a hexadecimal end": (hello(b"api.example.0x7f"), "name"),
    "an underscore": (hello(b"_x.models.example.org"), "name"),
    "bytes outside of ASCII": (hello("api.exämple.com".encode()), "name"),
    "a key of the list": (hello(b"evil.example.net:443 1"), "name"),
    "an empty name": (hello(b""), "sni"),
    "no name": (hello(None), "sni"),
    "a longer name": (hello(b"x" * 63 + b"." + b"y." * 100 + b"models.example.org"), "name"),
    "plain HTTP": (b"GET / HTTP/1.1\r\nHost: api.example.com\r\n\r\n", "not-tls"),
    "ssh": (b"SSH-2.0-OpenSSH_9.2\r\n", "not-tls"),
    "an old hello": (b"\x80\x2e\x01\x03\x01\0\x15\0\0\0\x10" + b"x" * 40, "not-tls"),
    "CONNECT": (b"CONNECT api.example.com:443 HTTP/1.1\r\nHost: api.example.com:443\r\n\r\n", "not-tls"),
    "the proxy protocol": (b"PROXY TCP4 1.1.1.1 2.2.2.2 1 443\r\n" + hello(b"api.example.com"), "not-tls"),
    "a name over several records": (hello(b"evil.example.net", size=50), "hello"),
    "an allowed name over several records": (hello(b"api.example.com", size=50), "hello"),
    "a name that only HAProxy reads": (read_in_two_ways(b"api.example.com", b"evil.example.net"), "hello"),
    "the last byte in another record": (
        hello(b"api.example.com", size=len(message([server_name(b"api.example.com")])) - 1),
        "hello",
    ),
    "two hellos in one record": (
        records(message([server_name(b"api.example.com")]) + message([server_name(b"evil.example.net")])),
        "hello",
    ),
    "two names": (records(message([(0, server_name(b"api.example.com")[1]), server_name(b"evil.example.net")])), "*"),
    "a second name extension": (
        records(message([server_name(b"evil.example.net"), server_name(b"api.example.com")])),
        "*",
    ),
}


def test_a_server_reads_what_only_haproxy_misreads() -> None:
    """Else the case above would show nothing."""
    assert name_read_by_a_server(read_in_two_ways(b"api.example.com", b"evil.example.net")) == "evil.example.net"
    assert name_read_by_a_server(real_hello("api.example.com")) == "api.example.com"


@pytest.mark.parametrize("case", HELLOS)
def test_hellos_that_are_refused(gateway: World, case: str) -> None:
    data, reason = HELLOS[case]
    servers = [gateway.serve(host, 443, echo) for host in (SERVER, OTHER)]
    answer = gateway.ask(443, data, end=True)
    if reason == "*":  # the first counts, or none: what is certain is that the other host isn't reached
        assert servers[1].connections == 0
        return
    assert answer == b""
    refused(gateway, reason, port=443)
    assert [server.connections for server in servers] == [0, 0]
    assert gateway.names.asked == []


def test_half_a_hello(gateway: World) -> None:
    gateway.serve(SERVER, 443, echo)
    assert gateway.ask(443, hello(b"api.example.com")[:40], end=True) == b""
    assert gateway.event("request", verdict="denied")["reason"] in ("not-tls", "timeout", "sni")


def test_silence_ends(own: World) -> None:
    own.start()
    with own.connect(443) as sock:
        sock.settimeout(15)
        assert sock.recv(1) == b""
    assert 9 < own.event("request", verdict="denied")["seconds"] < 12


# -- where an allowed name leads

PLACES = (
    "127.0.0.9", "169.254.169.254", "10.50.0.10", "10.77.0.1", "10.77.0.2", "10.77.1.2", "10.77.1.3", "0.0.0.0",
    "100.100.100.200", "100.64.0.1", "168.63.129.16", "172.16.0.1", "172.31.255.255", "172.32.0.1", "192.168.1.1",
    "192.0.0.192", "192.0.2.1", "192.88.99.1", "198.18.0.1", "198.51.100.1", "203.0.113.1", "224.0.0.1", "239.1.1.1",
    "240.0.0.1", "255.255.255.255", "11.0.0.1", "1.2.3.4", "198.41.0.99", "10.60.1.1",
    "::", "::1", "::7f00:1", "::ffff:127.0.0.1", "::ffff:198.41.0.10", "::ffff:0:7f00:1", "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::1", "100::1", "2001::1", "2001:db8::1", "2002:7f00:1::1", "2002:c629:a::1", "2606:4700::1111",
    "2a00:1450::5efe:a9fe:a9fe", "2a00:1450::200:5efe:a9fe:a9fe", "3fff::1", "4000::1", "5f00::1", "fc00::1",
    # of NAT64: what they carry is judged
    "64:ff9b::7f00:1", "64:ff9b::a4d:1", "64:ff9b::a4d:102", "64:ff9b::c629:a", "64:ff9b::c629:63", "64:ff9b::a00:1",
    "64:ff9b::a3c:101", "64:ff9b::6464:64c8", "64:ff9b::c612:1", "64:ff9b::e000:1", "64:ff9b::ffff:ffff",
    "64:ff9b::1:0:1",
    "fd00:ec2::254", "fd20:ce::1", "fd12::1", "fe80::1", "fec0::1", "ff02::1",
)  # fmt: skip
OWN = tuple(ipaddress.ip_network(text) for text in ("10.77.0.0/30", "10.77.1.0/29"))


def test_every_address_is_judged_as_the_program_would(own: World) -> None:
    """HAProxy's lists and conditions against the function that says which addresses are ever reachable."""
    opened = ("10.60.0.0/16", "fd12::/16", "127.0.0.0/8", "169.254.0.0/16")
    own.start(private_networks=opened, refused=("198.41.0.99/32",))
    networks = [ipaddress.ip_network(text) for text in opened]
    refuses = (*OWN, ipaddress.ip_network("198.41.0.99/32"))
    wanted, found = {}, {}
    for number, text in enumerate(PLACES):
        address = ipaddress.ip_address(text)
        own.names.table[f"n{number}.models.example.org"] = [text]
        why = refusal(address, networks, refuses)
        wanted[text] = why if why is not None else "allowed"
    for number, text in enumerate(PLACES):
        name = f"n{number}.models.example.org"
        own.ask(443, hello(name.encode()), end=True)
        record = own.event("request", host=name)
        found[text] = record["reason"] if record["verdict"] == "denied" else "allowed"
    assert found == wanted


def test_a_name_that_is_rebound(gateway: World) -> None:
    good = gateway.serve(SERVER, 22, lambda peer: peer.sendall(b"good"))
    assert through(gateway, 22, b"SSH-")[:4] == b"good"
    gateway.names.table["ssh.example.com"] = ["127.0.0.9"]

    def judged() -> bool:  # on a busy machine the name server may be too late for some
        assert gateway.ask(22, b"SSH-2.0\r\n") in (b"", b"good")
        return any(record["reason"] == "reserved" for record in gateway.requests())

    until(judged)
    refused(gateway, "reserved", host="ssh.example.com", address="127.0.0.9")
    assert good.connections >= 1


def test_of_several_addresses_the_one_connected_to_is_judged(gateway: World) -> None:
    server = gateway.serve(SERVER, 443, echo)
    gateway.names.table["api.example.com"] = [SERVER, "169.254.169.254", "127.0.0.9"]
    for _ in range(8):
        gateway.ask(443, hello(b"api.example.com"), end=True)
    for record in gateway.requests():
        assert (record["verdict"] == "allowed") == (record["address"] == SERVER), record
    assert server.connections == len([r for r in gateway.requests() if r["verdict"] == "allowed"])


@pytest.mark.parametrize("answers", [[], None])
def test_a_name_without_an_address(gateway: World, answers: list[str] | None) -> None:
    gateway.names.table["api.example.com"] = answers or []
    if answers is None:
        del gateway.names.table["api.example.com"]
    assert gateway.ask(443, hello(b"api.example.com"), end=True) == b""
    gateway.event("request", verdict="allowed", reason="unresolved", host="api.example.com", address="", sent=0)


def test_a_plain_request_for_a_name_without_an_address_says_so(gateway: World) -> None:
    gateway.names.table["api.example.com"] = []
    answer = gateway.ask(80, get(host="api.example.com"))
    assert answer.startswith(b"HTTP/1.1 503 ") and answer.endswith(
        b"\r\n\r\nsandboxrun: failed: api.example.com:80\nthe name is allowed, but it has no address\n"
    )


def test_a_host_that_is_not_there(gateway: World) -> None:
    assert gateway.ask(443, hello(b"api.example.com"), end=True) == b""
    record = gateway.event("request", verdict="allowed")
    assert (record["reason"], record["received"]) == ("unreachable", 0)


# -- ports that one host has alone

FIRST: dict[str, bytes] = {
    "ssh": b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n",
    "postgres": b"\0\0\0\x08\x04\xd2\x16\x2f",
    "redis": b"*1\r\n$4\r\nPING\r\n",
    "TLS of the host": hello(b"ssh.example.com"),
}


@pytest.mark.parametrize("case", FIRST)
def test_any_protocol(gateway: World, case: str) -> None:
    gateway.serve(SERVER, 22, echo)
    assert through(gateway, 22, FIRST[case]) == FIRST[case]
    record = gateway.event("request", verdict="allowed", host="ssh.example.com")
    assert record["seconds"] < 2, "nothing was waited for"


def test_a_server_that_speaks_first(gateway: World) -> None:
    gateway.serve(SERVER, 22, lambda peer: peer.sendall(b"220 hello\r\n"))
    with gateway.connect(22) as sock:
        assert sock.recv(100) == b"220 hello\r\n"


def test_after_silence_anything_goes_to_that_host_and_no_other(gateway: World) -> None:
    """What is not defended, as docs/egress.md says it: another site of the same server can be named then."""

    def talk(peer: socket.socket) -> None:
        peer.sendall(b"220 hello\r\n")
        echo(peer)

    gateway.serve(SERVER, 22, talk)
    other = gateway.serve(OTHER, 22, talk)
    data = hello(b"evil.example.net")
    with gateway.connect(22) as sock:
        assert sock.recv(100) == b"220 hello\r\n"
        sock.sendall(data)
        assert sock.recv(len(data), socket.MSG_WAITALL) == data
    record = gateway.event("request", verdict="allowed")
    assert (record["host"], record["address"], record["protocol"]) == ("ssh.example.com", SERVER, "tcp")
    assert other.connections == 0


ELSE: dict[str, tuple[bytes, str]] = {
    "TLS of another host": (hello(b"evil.example.net"), "sni"),
    "TLS without a name": (hello(None), "sni"),
    "TLS that is read in two ways": (read_in_two_ways(b"ssh.example.com", b"evil.example.net"), "hello"),
    "the start of TLS": (hello(b"ssh.example.com")[:30], "hello"),
    "the start of a request": (b"GET / HTTP/1.1\r\nHost: evil.exam", "request"),
    "a request's first line": (b"GET / HT", "request"),
}


@pytest.mark.parametrize("case", ELSE)
def test_what_names_another_host_there(gateway: World, case: str) -> None:
    data, reason = ELSE[case]
    server = gateway.serve(SERVER, 22, echo)
    assert gateway.ask(22, data) == b""
    refused(gateway, reason, host="ssh.example.com")
    assert server.connections == 0


def test_requests_there_are_judged_one_by_one(gateway: World) -> None:
    server = gateway.serve(SERVER, 22, answering())
    good = b"GET / HTTP/1.1\r\nHost: ssh.example.com:22\r\n\r\n"
    answer = gateway.ask(22, good + b"GET / HTTP/1.1\r\nHost: evil.example.net:22\r\nConnection: close\r\n\r\n")
    assert answer.count(b"HTTP/1.1 200 OK") == 1 and b"403" in answer
    assert gateway.event("request", host="evil.example.net")["reason"] == "host"
    assert server.connections == 1


def test_a_port_of_several_hosts_carries_tls_and_requests_alone(gateway: World) -> None:
    gateway.serve(SERVER, 8443, echo)
    data = hello(b"two.example.com")
    assert through(gateway, 8443, data) == data
    assert gateway.ask(8443, FIRST["ssh"], end=True) == b""
    refused(gateway, "protocol", port=8443)
    assert gateway.ask(8443, hello(b"api.example.com"), end=True) == b""
    refused(gateway, "port", port=8443, host="api.example.com")
    assert gateway.ask(8443, read_in_two_ways(b"two.example.com", b"evil.example.net"), end=True) == b""
    refused(gateway, "hello", port=8443)


def test_other_ports_are_closed(gateway: World) -> None:
    for port in (21, 81, 3128, 5432, 8080):
        with pytest.raises(ConnectionRefusedError):
            gateway.connect(port)


# -- plain HTTP


def answering(seen: list[bytes] | None = None) -> Callable[[socket.socket], None]:
    def talk(peer: socket.socket) -> None:
        while head := head_of(peer):
            if seen is not None:
                seen.append(head)
            peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    return talk


def get(*more: str, target: str = "/", host: str = "api.example.com", method: str = "GET") -> bytes:
    fields = "".join(f"{field}\r\n" for field in more)
    return f"{method} {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{fields}\r\n".encode()


@pytest.mark.parametrize(
    ("target", "host"),
    [("/p?q", "api.example.com"), ("/p?q", "API.example.com:80"), ("http://api.example.com/p?q", "api.example.com")],
)
def test_a_request_to_an_allowed_host(gateway: World, target: str, host: str) -> None:
    seen: list[bytes] = []
    gateway.serve(SERVER, 80, answering(seen))
    assert gateway.ask(80, get(target=target, host=host)).endswith(b"\r\n\r\nok")
    assert seen[0].startswith(b"GET /p?q HTTP/1.1\r\n")
    record = gateway.event("request", verdict="allowed")
    assert (record["protocol"], record["method"], record["host"]) == ("http", "GET", "api.example.com")


def test_a_target_without_a_path_gets_one(gateway: World) -> None:
    seen: list[bytes] = []
    gateway.serve(SERVER, 80, answering(seen))
    assert gateway.ask(80, get(target="http://api.example.com")).endswith(b"\r\n\r\nok")
    assert seen[0].startswith(b"GET / HTTP/1.1\r\n")


REQUESTS: dict[str, tuple[bytes, str, int]] = {
    "another host": (get(host="evil.example.net"), "host", 403),
    "a host of another port": (get(host="one.example.com"), "port", 403),
    "another port in Host": (get(host="api.example.com:8080"), "name", 403),
    "an address": (get(host=SERVER), "name", 403),
    "metadata": (get(target="/latest/meta-data", host="169.254.169.254"), "name", 403),
    "a trailing dot": (get(host="api.example.com."), "name", 403),
    "an empty Host": (get(host=""), "name", 403),
    "a user in Host": (get(host="x@api.example.com"), "name", 403),
    "a space in Host": (get(host="api.example.com evil.example.net"), "name", 403),
    "two Hosts in one": (get(host="api.example.com,evil.example.net"), "request", 400),
    "a local name": (get(host="localhost"), "name", 403),
    "two Hosts": (get("Host: evil.example.net"), "request", 400),
    "no Host": (b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n", "request", 400),
    "another Host than the target's": (get(target="http://evil.example.net/"), "request", 400),
    "a target of another port": (get(target="http://api.example.com:81/"), "request", 400),
    "a user in the target": (get(target="http://api.example.com@evil.example.net/"), "request", 400),
    "https": (get(target="https://api.example.com/"), "scheme", 403),
    "ftp": (get(target="ftp://api.example.com/"), "scheme", 403),
    "CONNECT": (get(method="CONNECT", target="api.example.com:80", host="api.example.com:80"), "method", 403),
    "CONNECT elsewhere": (get(method="CONNECT", target="evil.example.net:443"), "request", 400),
    "TRACE": (get(method="TRACE"), "method", 403),
    "TRACE in other letters": (get(method="Trace"), "method", 403),
    "CONNECT in other letters": (get(method="connect"), "method", 403),
    "a version before fields": (get().replace(b"HTTP/1.1", b"HTTP/0.9"), "request", 400),
    "a target without a host": (get(target="http://"), "request", 400),
    "a target without a host, and a path": (get(target="http:///evil.example.net/"), "request", 400),
    "a NUL in a field": (get("X: a\0b"), "request", 400),
    "a control character in a field": (get("X: a\x01b"), "request", 400),
    "a space before the colon": (get("X : a"), "request", 400),
    "two lengths": (get("Content-Length: 1", "Content-Length: 2", method="POST"), "request", 400),
    "a length that is none": (get("Content-Length: +1", method="POST"), "request", 400),
    "another coding": (get("Transfer-Encoding: xchunked", method="POST"), "request", 400),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "request", 400),
    "HTTP/0.9": (b"GET /\r\n\r\n", "request", 400),
    "no HTTP": (b"SSH-2.0-OpenSSH\r\n\r\n", "request", 400),
    "TLS": (hello(b"api.example.com") + b"\n\n", "request", 400),
}  # fmt: skip


UNREADABLE = {"a user in Host", "a space in Host"}  # to HAProxy 3, which refuses them before any rule


@pytest.mark.parametrize("case", REQUESTS)
def test_requests_that_are_refused(gateway: World, case: str) -> None:
    data, reason, status = REQUESTS[case]
    servers = [gateway.serve(host, 80, answering()) for host in (SERVER, OTHER)]
    answer = gateway.ask(80, data)
    record = gateway.event("request", verdict="denied", port=80)
    assert [server.connections for server in servers] == [0, 0]
    told = (answer[:13], record["reason"])
    assert told == (b"HTTP/1.1 %d " % status, reason) or (case in UNREADABLE and told == (b"HTTP/1.1 400 ", "request"))
    assert gateway.names.asked == []


def test_a_refusal_says_what_to_do(gateway: World) -> None:
    answer = gateway.ask(80, get(host="evil.example.net"))
    assert answer.endswith(
        b"\r\n\r\nsandboxrun: denied: evil.example.net:80\n"
        b"to permit it, list it under egress: allow: in the sandbox's profile\n"
    )


def test_nothing_of_a_hostile_host_comes_back(gateway: World) -> None:
    answer = gateway.ask(80, get(host="<script>%[env(HOME)]"))
    assert b"script" not in answer and b"HOME" not in answer
    assert b"denied: ?:80" in answer or answer.startswith(b"HTTP/1.1 400 ")  # HAProxy 3 can't read it


def test_length_and_chunks_reach_the_server_as_chunks_alone(gateway: World) -> None:
    """Or not at all: no server may see another end than HAProxy does."""
    seen: list[bytes] = []
    gateway.serve(SERVER, 80, answering(seen))
    gateway.ask(80, get("Content-Length: 4", "Transfer-Encoding: chunked", method="POST") + b"0\r\n\r\n", end=True)
    assert all(b"content-length" not in head.lower() for head in seen)


@pytest.mark.parametrize("coding", ["chunked", "Chunked"])
def test_chunks_arrive_whole_and_in_the_usual_letters(gateway: World, coding: str) -> None:
    seen: list[bytes] = []

    def talk(peer: socket.socket) -> None:
        seen.append(head_of(peer) + peer.recv(15, socket.MSG_WAITALL))
        peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    gateway.serve(SERVER, 80, talk)
    body = b"5\r\nhello\r\n0\r\n\r\n"
    assert gateway.ask(80, get(f"Transfer-Encoding: {coding}", method="POST") + body).endswith(b"ok")
    assert b"\r\ntransfer-encoding: chunked\r\n" in seen[0] and seen[0].endswith(b"\r\n\r\n" + body)


def test_a_request_hidden_in_a_body(gateway: World) -> None:
    """What follows a body is the next request, whatever the client calls it."""
    seen: list[bytes] = []

    def talk(peer: socket.socket) -> None:
        seen.append(head_of(peer) + peer.recv(4))
        peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        peer.recv(1)

    gateway.serve(SERVER, 80, talk)
    first = b"POST / HTTP/1.1\r\nHost: api.example.com\r\nContent-Length: 4\r\n\r\nbody"
    answer = gateway.ask(80, first + get(host="evil.example.net"))
    assert answer.startswith(b"HTTP/1.1 200 OK") and b"HTTP/1.1 403" in answer
    assert len(seen) == 1 and b"evil" not in seen[0]
    refused(gateway, "host", host="evil.example.net")


def test_kept_alive_each_request_goes_where_it_names(gateway: World) -> None:
    """Also where one address serves both names, and a connection to it is open."""
    seen: list[bytes] = []
    gateway.serve(SERVER, 80, answering(seen))
    first = get(host="api.example.com").replace(b"Connection: close\r\n", b"")
    second = get(host="two.example.com")
    assert gateway.ask(80, first + second).count(b"HTTP/1.1 200 OK") == 2
    assert [b"host: api.example.com" in head.lower() for head in seen] == [True, False]
    for host in ("api.example.com", "two.example.com"):
        gateway.event("request", verdict="allowed", host=host)


def test_a_host_that_is_said_twice_is_said_once_to_the_server(gateway: World) -> None:
    seen: list[bytes] = []
    gateway.serve(SERVER, 80, answering(seen))
    assert gateway.ask(80, get("Host: api.example.com")).startswith(b"HTTP/1.1 200 OK")
    assert seen[0].lower().count(b"host:") == 1


@pytest.mark.parametrize("field", ["h2c", "h2c, websocket", "foo"])
def test_only_websockets_are_upgraded_to(gateway: World, field: str) -> None:
    seen: list[bytes] = []
    gateway.serve(SERVER, 80, answering(seen))
    more = (
        f"Upgrade: {field}",
        "HTTP2-Settings: AA",
        "Proxy-Authorization: Basic eDp5",
        "Proxy-Connection: keep-alive",
    )
    gateway.ask(80, get(*more).replace(b"Connection: close", b"Connection: close, Upgrade, HTTP2-Settings"))
    assert seen or "websocket" in field  # half a websocket is no request to HAProxy
    assert not any(word in head.lower() for head in seen for word in (b"\r\nupgrade:", b"http2", b"proxy-"))


def test_a_websocket(gateway: World) -> None:
    def talk(peer: socket.socket) -> None:
        assert b"upgrade: websocket" in head_of(peer).lower()
        accepted = b"Sec-WebSocket-Accept: HSmrc0sMlYUkAGmm5OPpG2HaGWk=\r\n"
        peer.sendall(b"HTTP/1.1 101 Switching\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" + accepted + b"\r\n")
        echo(peer)

    gateway.serve(SERVER, 80, talk)
    with gateway.connect(80) as sock:
        sock.sendall(
            get("Upgrade: websocket", "Sec-WebSocket-Key: x3JJHMbDL1EzLkh9GBhXDw==").replace(b"close", b"Upgrade")
        )
        assert head_of(sock).startswith(b"HTTP/1.1 101")
        sock.sendall(b"frame")
        assert sock.recv(5) == b"frame"


def test_a_head_that_never_ends(own: World) -> None:
    own.start()
    with own.connect(80) as slow:
        slow.sendall(b"GET / HTTP/1.1\r\nHost: api.exa")
        slow.settimeout(15)
        assert read_all(slow).startswith(b"HTTP/1.1 408")
    refused(own, "timeout", port=80)


def test_a_head_that_is_too_long(gateway: World) -> None:
    with contextlib.suppress(ConnectionError):
        answer = gateway.ask(80, get(*[f"X-{n}: {'x' * 8000}" for n in range(10)]))
        assert answer.startswith(b"HTTP/1.1 400") or answer == b""
    assert gateway.event("request", verdict="denied")["reason"] == "request"


# -- names, as programs ask for them


def test_names(gateway: World) -> None:
    assert gateway.name("api.example.com") == (0, ["10.77.1.2"])
    assert gateway.name("api.example.com", 28) == (0, [])
    assert gateway.name("evil.example.net") == (3, [])
    refused(gateway, "host", host="evil.example.net", protocol="dns", port=0)
    gateway.name("evil.example.net", 28)
    gateway.name("other.example.net", 16)
    refused(gateway, "host", host="other.example.net")
    assert len([r for r in gateway.requests() if r["host"] == "evil.example.net"]) == 1, "once in a while is enough"
    assert gateway.names.asked == []


def test_names_over_tcp(gateway: World) -> None:
    query = struct.pack(">6H", 7, 0x0100, 1, 0, 0, 0) + b"\x03api\x07example\x03com\0\0\1\0\1"
    reply = gateway.ask(53, len(query).to_bytes(2) + query)
    assert reply[2:4] == query[:2] and reply.endswith(socket.inet_aton("10.77.1.2"))
    assert gateway.ask(53, b"\xff\xff" + query) == b""
    with gateway.connect(53) as slow:  # who says nothing keeps nobody waiting
        assert gateway.ask(53, len(query).to_bytes(2) + query) == reply
        slow.sendall(b"\0")


def test_the_tables_are_whole() -> None:
    assert TABLE["evil.example.net"] == [OTHER]


# -- IPv6 outside


def test_a_host_with_ipv6_alone_is_reached(own: World) -> None:
    """By TLS and by plain requests; its neighbours, private and metadata addresses are not."""
    host, beside = "2606:4700::10", "2001:678:77::2"
    own.inner.ip("-6", "addr", "add", "2001:678:77::1/64", "dev", "out", "nodad")
    own.outer.ip("-6", "addr", "add", f"{beside}/64", "dev", "eth0", "nodad")
    own.inner.ip("-6", "route", "add", "default", "via", beside)
    for address in (host, "fd12::1", "fd00:ec2::254"):
        own.outer.ip("-6", "addr", "add", f"{address}/128", "dev", "lo", "nodad")
    own.start(private_networks=())
    own.names.table |= {"api.example.com": [host], "one.example.com": [beside], "two.example.com": ["fd12::1"]}
    own.names.table["a.models.example.org"] = ["fd00:ec2::254"]
    seen: list[bytes] = []
    servers = [own.serve(at, port, echo) for at in (beside, "fd12::1") for port in (443, 8443)]
    servers.append(own.serve("fd00:ec2::254", 443, echo))
    own.serve(host, 443, echo)
    own.serve(host, 80, answering(seen))
    data = real_hello("api.example.com")
    assert through(own, 443, data) == data
    assert own.event("request", verdict="allowed", protocol="tls")["address"] == host
    assert own.ask(80, get()).endswith(b"\r\n\r\nok") and len(seen) == 1
    assert own.event("request", verdict="allowed", protocol="http")["address"] == host
    for port, name, reason in (
        (8443, "one.example.com", "reserved"),
        (8443, "two.example.com", "private"),
        (443, "a.models.example.org", "reserved"),
    ):
        assert own.ask(port, real_hello(name)) == b""
        own.event("request", verdict="denied", host=name, reason=reason)
    assert [server.connections for server in servers] == [0] * len(servers)
