"""The traffic that gateways are measured by: a stand-in for all hosts, and a client.

    serve ADDRESS               answers on ports 443 and 80, and questions for names on port 53
    load PORT KIND COUNT SIDE   COUNT exchanges of a kind through the proxy on loopback, SIDE of them at a time;
                                with 0 as the port, through what listens on the hosts' own ports there

Owns both programs.
"""

from __future__ import annotations

import selectors
import socket
import struct
import sys
import threading
from collections.abc import Callable

HOST = "api.example.com"
BULK = 64 << 20
_NAME = HOST.encode()
_LIST = struct.pack(">HBH", len(_NAME) + 3, 0, len(_NAME)) + _NAME
_EXTENSIONS = struct.pack(">HH", 0, len(_LIST)) + _LIST + struct.pack(">HH", 21, 1200) + bytes(1200)
_BODY = b"\3\3" + bytes(32) + b"\0" + b"\0\2\x13\1" + b"\1\0" + struct.pack(">H", len(_EXTENSIONS)) + _EXTENSIONS
HELLO = struct.pack(">BHHI", 22, 0x0301, len(_BODY) + 4, 1 << 24 | len(_BODY)) + _BODY
SERVER_HELLO = struct.pack(">BHHI", 22, 0x0303, 124, 2 << 24 | 120) + bytes(120)
RESPONSE = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 1000\r\n\r\n" + b"x" * 1000
CONNECT = f"CONNECT {HOST}:443 HTTP/1.1\r\nHost: {HOST}:443\r\nUser-Agent: load\r\n\r\n".encode()
FIELDS = f" HTTP/1.1\r\nHost: {HOST}\r\nUser-Agent: load\r\nAccept: */*\r\n".encode()


def serve(address: str) -> None:
    """Answer until killed."""
    selector = selectors.DefaultSelector()
    for port in (443, 80):
        listener = socket.create_server((address, port), backlog=512)
        selector.register(listener, selectors.EVENT_READ, _accept)
    names = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    names.bind((address, 53))
    selector.register(names, selectors.EVENT_READ, lambda sock, _: _name(sock, address))
    print("ready", flush=True)
    while True:
        for key, _ in selector.select():
            key.data(key.fileobj, selector)


def _accept(listener: socket.socket, selector: selectors.BaseSelector) -> None:
    peer, _ = listener.accept()
    selector.register(peer, selectors.EVENT_READ, _answer)


def _answer(peer: socket.socket, selector: selectors.BaseSelector) -> None:
    try:
        data = peer.recv(65536)
        if data[:1] == b"\x16":
            peer.sendall(SERVER_HELLO)
        elif data[:3] == b"GET":
            peer.sendall(RESPONSE)
        elif data[:4] == b"BULK":
            threading.Thread(target=_bulk, args=(peer,)).start()
            selector.unregister(peer)
        elif not data:
            selector.unregister(peer)
            peer.close()
    except OSError:
        selector.unregister(peer)
        peer.close()


def _bulk(peer: socket.socket) -> None:
    with peer:
        piece = bytes(1 << 16)
        for _ in range(BULK // len(piece)):
            peer.sendall(piece)


def _name(sock: socket.socket, address: str) -> None:
    data, peer = sock.recvfrom(512)
    question = data[12 : data.index(b"\0", 12) + 5]
    found = question[-4:-2] == b"\0\1"
    record = b"\xc0\x0c" + struct.pack(">HHIH", 1, 1, 60, 4) + socket.inet_aton(address) if found else b""
    sock.sendto(data[:2] + struct.pack(">HHHHH", 0x8180, 1, int(found), 0, 0) + question + record, peer)


def _begun(port: int) -> socket.socket:
    """A connection to the host in which TLS has begun."""
    sock = socket.create_connection(("127.0.0.1", port or 443))
    if port:
        sock.sendall(CONNECT)
        _expect(sock, b"\r\n\r\n")
    sock.sendall(HELLO)
    _exactly(sock, len(SERVER_HELLO))
    return sock


def _get(port: int) -> bytes:
    """A plain request but for the empty line at its end."""
    return b"GET " + (f"http://{HOST}".encode() if port else b"") + b"/data" + FIELDS


def tunnel(port: int, count: int) -> None:
    """A tunnel each, in which TLS begins."""
    for _ in range(count):
        _begun(port).close()


def plain(port: int, count: int) -> None:
    """A plain request each, on a connection of its own."""
    for _ in range(count):
        with socket.create_connection(("127.0.0.1", port or 80)) as sock:
            sock.sendall(_get(port) + b"Connection: close\r\n\r\n")
            _expect(sock, b"x" * 1000)


def kept(port: int, count: int) -> None:
    """Plain requests, all on one connection."""
    with socket.create_connection(("127.0.0.1", port or 80)) as sock:
        for _ in range(count):
            sock.sendall(_get(port) + b"\r\n")
            _expect(sock, b"x" * 1000)


def bulk(port: int, count: int) -> None:
    """A tunnel in which the host sends BULK bytes."""
    for _ in range(count):
        with _begun(port) as sock:
            sock.sendall(b"BULK")
            _exactly(sock, BULK)


def _expect(sock: socket.socket, end: bytes) -> None:
    data = b""
    while end not in data:
        piece = sock.recv(65536)
        if not piece:
            raise SystemExit(f"it ended: {data[:200]!r}")
        data += piece
    if not data.startswith(b"HTTP/1.1 200"):
        raise SystemExit(f"it said {data[:200]!r}")


def _exactly(sock: socket.socket, size: int) -> None:
    while size:
        piece = sock.recv(min(size, 1 << 18))
        if not piece:
            raise SystemExit("it ended early")
        size -= len(piece)


KINDS: dict[str, Callable[[int, int], None]] = {"tunnel": tunnel, "plain": plain, "kept": kept, "bulk": bulk}


def load(port: int, kind: str, count: int, side: int) -> None:
    """All exchanges; fails when one does."""
    failed: list[BaseException] = []

    def run() -> None:
        try:
            KINDS[kind](port, count // side)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=run) for _ in range(side)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(sys.argv[2])
    else:
        load(int(sys.argv[2]), sys.argv[3], int(sys.argv[4]), int(sys.argv[5]))
