"""A gateway at work between two namespaces: its own, and a world of servers that stand for allowed and denied hosts.

The world has public addresses; a name server in it records every question.
"""

from __future__ import annotations

import json
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from sandboxrun.gateway.rules import rules_document
from sandboxrun.spec.option_types import Egress
from scripts.spaces import Space

ROOT = Path(__file__).resolve().parents[3]
LISTEN = ("127.0.0.1", 3128)
SERVER, OTHER, NAMES = "198.41.0.10", "198.41.0.11", "198.41.0.53"
ALLOWED = ("api.example.com:443", "api.example.com:80", "ssh.example.com:22", "*.models.example.org:443")

TABLE = {"api.example.com": [SERVER], "evil.example.net": [OTHER]}


class NameServer:
    """Answers from a table of names, and keeps what it was asked."""

    def __init__(self, sock: socket.socket, table: Mapping[str, Sequence[str]]) -> None:
        self._sock = sock
        self.table = dict(table)
        self.asked: list[str] = []
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while True:
            try:
                data, peer = self._sock.recvfrom(4096)
            except OSError:
                return
            if answer := self._answer(data):
                self._sock.sendto(answer, peer)

    def _answer(self, data: bytes) -> bytes:
        labels, at = [], 12
        while data[at]:
            labels.append(data[at + 1 : at + 1 + data[at]].decode())
            at += data[at] + 1
        name, (kind, _) = ".".join(labels), struct.unpack_from(">HH", data, at + 1)
        self.asked.append(name)
        addresses = [a for a in self.table.get(name, ()) if (":" in a) == (kind == 28)]
        code = 0 if name in self.table else 3
        head = data[:2] + struct.pack(">HHHHH", 0x8180 | code, 1, len(addresses), 0, 0)
        family = socket.AF_INET if kind == 1 else socket.AF_INET6
        bodies = [socket.inet_pton(family, a) for a in addresses]
        records = [b"\xc0\x0c" + struct.pack(">HHIH", kind, 1, 0, len(body)) + body for body in bodies]
        return head + data[12 : at + 5] + b"".join(records)

    def close(self) -> None:
        self._sock.close()


class Server:
    """Calls `talk` with each connection, in a thread of its own."""

    def __init__(self, sock: socket.socket, talk: Callable[[socket.socket], None]) -> None:
        self._sock = sock
        self._talk = talk
        self.connections = 0
        self.host = ""
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while True:
            try:
                peer, _ = self._sock.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._serve, args=(peer,), daemon=True).start()

    def _serve(self, peer: socket.socket) -> None:
        with peer:
            try:
                peer.settimeout(10)
                self._talk(peer)
            except OSError:
                return

    def close(self) -> None:
        with suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        self._sock.close()


def echo(peer: socket.socket) -> None:
    """Send back what comes."""
    while data := peer.recv(65536):
        peer.sendall(data)


class World:
    """The two namespaces, the servers and the gateway's process."""

    def __init__(self, folder: Path) -> None:
        self.inner, self.outer = Space(), Space()
        self.rules = folder / "rules.json"
        self._servers: list[Any] = []
        self._sockets: list[socket.socket] = []
        self.process: subprocess.Popen[bytes] | None = None
        self.inner.ip("link", "add", "out", "type", "veth", "peer", "name", "in", "netns", str(self.outer.pid))
        for space, name, address in ((self.inner, "out", "10.77.0.1/30"), (self.outer, "in", "10.77.0.2/30")):
            space.ip("addr", "add", address, "dev", name)
            space.ip("link", "set", name, "up")
        self.inner.ip("route", "add", "default", "via", "10.77.0.2")
        for address in (SERVER, OTHER, NAMES, "10.50.0.10", "169.254.169.254", "127.0.0.9"):
            self.outer.ip("addr", "add", f"{address}/32", "dev", "lo")
        sock = self.outer.listen(NAMES, 53, socket.SOCK_DGRAM)
        self.names = NameServer(sock, TABLE)
        self._markers = self._idle = 0
        self.records: list[dict[str, Any]] = []
        self._told = threading.Condition()

    def close(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            assert self.process.stdout is not None and self.process.stderr is not None
            self.process.stderr.close()
        self.stop_servers()
        for sock in self._sockets:
            sock.close()
        self.names.close()
        self.inner.close()
        self.outer.close()

    def stop_servers(self) -> None:
        while self._servers:
            self._servers.pop().close()

    def forget(self) -> None:
        """Begin as if anew, with the gateway that runs: all that was recorded so far is out, and gone."""
        until(lambda: self._open_sockets() <= self._idle)  # connections of before that are still being ended
        self._markers += 1
        marker = f"marker{self._markers}.example.net"
        self.connect(f"{marker}:443")
        self.event("request", host=marker)
        self.records.clear()
        self.names.asked.clear()
        self.names.table = dict(TABLE)

    # -- the gateway

    def write_rules(self, **egress: Any) -> None:
        records = egress.pop("records", 1 << 24)
        refused = egress.pop("refused", ())
        values = {"mode": "allow", "allow": ALLOWED, "resolvers": (NAMES,), **egress}
        self.rules.write_bytes(
            rules_document(Egress(**values), sandbox="agent", run="r1", records=records, refused=refused)
        )

    def start(self, **egress: Any) -> None:
        """Start the gateway with these rules, and wait until it serves."""
        self.write_rules(**egress)
        self.process = subprocess.Popen(
            [
                *self.inner.command, sys.executable, "-m", "sandboxrun.gateway.program",
                "serve", "--listen", f"{LISTEN[0]}:{LISTEN[1]}", "--rules", str(self.rules),
            ],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        threading.Thread(target=self._read, daemon=True).start()
        self.event("ready")
        self._idle = self._open_sockets()

    def _open_sockets(self) -> int:
        assert self.process is not None
        count = 0
        for file in Path(f"/proc/{self.process.pid}/fd").iterdir():
            with suppress(OSError):
                count += os.readlink(file).startswith("socket:")
        return count

    def _read(self) -> None:
        assert self.process is not None and self.process.stdout is not None
        with self.process.stdout as output:
            for line in output:
                with self._told:
                    self.records.append(json.loads(line))
                    self._told.notify_all()

    def event(self, kind: str, count: int = 1, **values: Any) -> dict[str, Any]:
        """The count-th record of a kind with these values; waits for it."""

        def found() -> list[dict[str, Any]]:
            return [r for r in self.records if r["event"] == kind and values.items() <= r.items()]

        with self._told:
            assert self._told.wait_for(lambda: len(found()) >= count, 15), (kind, values, self.records)
            return found()[count - 1]

    def requests(self) -> list[dict[str, Any]]:
        return [record for record in self.records if record["event"] == "request"]

    # -- both sides

    def serve(self, host: str, port: int, talk: Callable[[socket.socket], None]) -> Server:
        server = Server(self.outer.listen(host, port), talk)
        server.host = host
        self._servers.append(server)
        return server

    def keep(self, sock: socket.socket) -> None:
        """Close it in the end."""
        self._sockets.append(sock)

    def servers_at(self, host: str) -> list[Server]:
        return [server for server in self._servers if server.host == host]

    def client(self) -> socket.socket:
        return self.inner.connect(*LISTEN)

    def ask(self, request: bytes) -> bytes:
        """Send a request, and read to the end."""
        with self.client() as sock:
            sock.sendall(request)
            sock.shutdown(socket.SHUT_WR)
            return read_all(sock)

    def connect(self, authority: str) -> bytes:
        """Ask for a tunnel; the answer's head."""
        with self.client() as sock:
            sock.sendall(connect_request(authority))
            return head_of(sock)

    def tunnel(self, authority: str) -> socket.socket:
        """An open tunnel."""
        sock = self.client()
        sock.sendall(connect_request(authority))
        head = head_of(sock)
        assert head.startswith(b"HTTP/1.1 200"), head
        return sock


def connect_request(authority: str) -> bytes:
    return f"CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n".encode()


def head_of(sock: socket.socket) -> bytes:
    """Up to the empty line, and no further."""
    data = b""
    while not data.endswith(b"\r\n\r\n"):
        byte = sock.recv(1)
        if not byte:
            break
        data += byte
    return data


def read_all(sock: socket.socket) -> bytes:
    data = b""
    try:
        while piece := sock.recv(65536):
            data += piece
    except ConnectionError:
        pass
    return data


@contextmanager
def open_world(folder: Path) -> Iterator[World]:
    world = World(folder)
    try:
        yield world
    finally:
        world.close()


def until(condition: Callable[[], bool], seconds: float = 10) -> None:
    """Wait for it."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)
