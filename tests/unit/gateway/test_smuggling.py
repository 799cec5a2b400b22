"""Requests mixed from all that servers and proxies have ever read differently: what reaches a server has one reading,
and names the allowed host in it."""

from __future__ import annotations

import random
import re
import socket
from collections.abc import Iterator, Sequence

import pytest

from tests.unit.gateway.world import OTHER, SERVER, World, read_all, until, why_not

pytestmark = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))
COUNT = 150
HOST = b"api.example.com"
HIDDEN = b"GET /hidden HTTP/1.1\r\nHost: evil.example.net\r\n\r\n"
LAST = b"GET /last HTTP/1.1\r\nHost: api.example.com\r\nConnection: close\r\n\r\n"
METHODS = (b"GET", b"POST", b"PUT", b"OPTIONS", b"get", b"Trace", b"connect", b"FOO", b"\r\nGET", b" GET", b"G\0ET")
TARGETS = (
    b"/", b"/p?q", b"*", b"http://api.example.com", b"HTTP://API.EXAMPLE.COM:80/x", b"http://evil.example.net/",
    b"//evil.example.net/", b"http:///evil.example.net/", b"http://api.example.com@evil.example.net/",
    b"http://api.example.com#@evil.example.net/", b"http://api.example.com\\@evil.example.net/", b"http://",
    b"http:/evil.example.net", b"evil.example.net:80", b"/\tx", b"/ x", b"http://api.example.com?@evil.example.net/",
)  # fmt: skip
VERSIONS = (b"HTTP/1.0", b"HTTP/1.2", b"HTTP/0.9", b"HTTP/2.0", b"http/1.1", b"HTTP/1.1 ", b"HTTP/01.1")
HOSTS = (
    b"hOsT: API.example.com:80", b"Host: api.example.com\r\nHost: evil.example.net",
    b"Host: api.example.com\r\n evil.example.net", b"Host : evil.example.net\r\nHost: api.example.com",
    b"Host: api.example.com\r\nX: y\nHost: evil.example.net", b"Host: api.example.com\rHost: evil.example.net",
    b" Host: evil.example.net\r\nHost: api.example.com", b"Host: api.example.com\0.evil.example.net",
    b"Host: api.example.com\r\nHost\0: evil.example.net", b"Host: api.example.com/.evil.example.net",
)  # fmt: skip
CODINGS = (
    b"Transfer-Encoding: chunked", b"Transfer-Encoding : chunked", b"Transfer-Encoding: CHUNKED",
    b"Transfer-Encoding: chunked, chunked", b"Transfer-Encoding: identity, chunked", b"Transfer-Encoding: chunked, x",
    b"Transfer-Encoding: \x0bchunked", b"Transfer-Encoding:\r\n chunked", b"X: y\nTransfer-Encoding: chunked",
    b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity", b"X: y\rTransfer-Encoding: chunked",
    b"Transfer-Encoding\0: chunked", b"Transfer_Encoding: chunked", b"Transfer-Encoding: chunked;q=1",
)  # fmt: skip
LENGTHS = (
    b"Content-Length: 4", b"Content-Length: +4", b"Content-Length: 04", b"Content-Length: 4, 4", b"Content-Length:",
    b"Content-Length: 4, 0", b"Content-Length: 4\r\nContent-Length: 0", b"Content-Length:\r\n 4", b"Content-Length : 4",
    b"Content_Length: 4", b"Content-Length: 4\x0b", b"X: y\nContent-Length: 4", b"Content-Length: 0x4",
    b"Content-Length: 18446744073709551620",
)  # fmt: skip
BODIES = (
    b"5\r\nhello\r\n0\r\n\r\n", b"0\r\n\r\n", b"5;x=\n\r\nhello\r\n0\r\n\r\n", b"5\nhello\n0\n\n", b"body", b"",
    b"5;a\rb\r\nhello\r\n0\r\n\r\n", b"0x5\r\nhello\r\n0\r\n\r\n", b"+5\r\nhello\r\n0\r\n\r\n",
    b"100000000000000005\r\nhello\r\n0\r\n\r\n", b"5\r\nhelloXX0\r\n\r\n",
)  # fmt: skip
OTHERS = (
    b"Connection: host", b"Connection: content-length", b"Connection: transfer-encoding", b"Expect: 100-continue",
    b"Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABkAAQAAP__", b"X: a\0b", b": x",
    b"Upgrade: websocket, h2c\r\nConnection: Upgrade", b"Proxy-Connection: keep-alive", b"X y", b"TE: trailers",
)  # fmt: skip
_TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


def mixed(draw: random.Random) -> bytes:
    """A request with one to three peculiarities, and another one hidden behind it."""
    parts = dict(enumerate((METHODS, TARGETS, VERSIONS, HOSTS, CODINGS, LENGTHS, OTHERS)))
    chosen = {number: draw.choice(parts[number]) for number in draw.sample(sorted(parts), draw.randint(1, 3))}
    fields = [chosen.get(3, b"Host: api.example.com"), *(chosen[n] for n in (4, 5, 6) if n in chosen)]
    draw.shuffle(fields)
    first = b" ".join((chosen.get(0, b"POST"), chosen.get(1, b"/"), chosen.get(2, b"HTTP/1.1")))
    body = draw.choice(BODIES) if chosen.keys() & {4, 5} else b""
    return b"\r\n".join((first, *fields, b"", b"")) + body + draw.choice((HIDDEN, b"")) + LAST


def faults(data: bytes) -> Iterator[str]:
    """What of the requests in `data` another server could read otherwise. The last one may be cut short."""
    while (end := data.find(b"\r\n\r\n")) >= 0:
        first, *lines = data[:end].split(b"\r\n")
        data = data[end + 4 :]
        if any(sign in line for line in (first, *lines) for sign in (b"\r", b"\n", b"\0")):
            yield "a line end or NUL within a line"
        if not re.fullmatch(_TOKEN.pattern + rb" (/[^ ]*|\*) HTTP/1\.[01]", first):
            yield "the first line"
        if re.match(rb"(?i)(connect|trace) ", first):
            yield "the method"
        fields = [(name.lower(), value.strip()) for name, _, value in (line.partition(b":") for line in lines)]
        yield from _faults_of(fields)
        lengths = [value for name, value in fields if name == b"content-length" and value.isdigit()]
        if any(name == b"transfer-encoding" for name, _ in fields):
            while (size := re.match(rb"([0-9A-Fa-f]+)\r\n", data)) and int(size[1], 16):
                data = data[size.end() + int(size[1], 16) + 2 :]
            if data and not data.startswith(b"0\r\n\r\n"):
                yield "the chunks"
            data = data[5:]
        else:
            data = data[int(lengths[0]) if lengths else 0 :]


def _faults_of(fields: Sequence[tuple[bytes, bytes]]) -> Iterator[str]:
    if not all(_TOKEN.fullmatch(name) for name, _ in fields):
        yield "the name of a field"
    lengths, codings, hosts, upgrades = (
        [value for name, value in fields if name == wanted]
        for wanted in (b"content-length", b"transfer-encoding", b"host", b"upgrade")
    )
    if [host.lower().removesuffix(b":80") for host in hosts] != [HOST]:
        yield "the host"
    if codings not in ([], [b"chunked"]) or (codings and lengths):
        yield "the coding"
    if len(lengths) > 1 or not all(value.isdigit() for value in lengths):
        yield "the length"
    if any(value != b"websocket" for value in upgrades):
        yield "the upgrade"


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (b"GET / HTTP/1.1\r\nHost: evil.example.net\r\n\r\n", "the host"),
        (b"POST / HTTP/1.1\r\nHost: api.example.com\r\nContent-Length: 0\r\n\r\n" + HIDDEN, "the host"),
        (b"GET  HTTP/1.1\r\nHost: api.example.com\r\n\r\n", "the first line"),
        (b"Trace / HTTP/1.1\r\nHost: api.example.com\r\n\r\n", "the method"),
        (b"POST / HTTP/1.1\r\nHost: api.example.com\r\nTransfer-Encoding: Chunked\r\n\r\n0\r\n\r\n", "the coding"),
    ],
)
def test_what_has_two_readings_is_noticed(data: bytes, fault: str) -> None:
    assert fault in list(faults(data))


def test_what_reaches_a_server_has_one_reading(own: World) -> None:
    draw = random.Random(2026)
    requests = [mixed(draw) for _ in range(COUNT)]
    seen: list[bytearray] = []
    ended: list[bytearray] = []

    def talk(peer: socket.socket) -> None:
        raw, answered = bytearray(), 0
        seen.append(raw)
        try:
            while data := peer.recv(65536):
                raw.extend(data)
                for _ in range(raw.count(b"\r\n\r\n") - answered):
                    answered += 1
                    peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        finally:
            ended.append(raw)

    own.start()
    own.serve(SERVER, 80, talk)
    other = own.serve(OTHER, 80, talk)
    for request in requests:
        with own.connect(80) as sock:
            sock.sendall(request)
            sock.shutdown(socket.SHUT_WR)
            read_all(sock)
    until(lambda: len(ended) == len(seen))
    assert len(seen) > COUNT // 10, "too few got through to show anything"
    assert [(fault, bytes(raw)) for raw in seen for fault in faults(bytes(raw))] == []
    assert not any(b"/hidden" in raw for raw in seen)
    assert other.connections == 0
