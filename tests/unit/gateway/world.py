"""A gateway at work between two others: a sandbox, and a world of servers that stand for allowed and denied hosts.

Three network namespaces. The world has public addresses; a name server in it records every question.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
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

from sandboxrun.gateway.companion.rules import VERSION
from scripts import haproxy
from scripts.spaces import Space

os.environ["PATH"] = haproxy.PATH
ROOT = Path(__file__).resolve().parents[3]
SERVER, OTHER = "198.41.0.10", "198.41.0.11"
PATIENCE = 120.0  # seconds for what must come, however busy the machine
AT, SANDBOX, NAMES = "10.77.1.2", "10.77.1.3", "198.41.0.53"
ALLOWED = (
    "api.example.com:443", "api.example.com:80", "ssh.example.com:22", "*.models.example.org:443",
    "one.example.com:8443", "two.example.com:8443", "two.example.com:80",
)  # fmt: skip
TABLE = {name: [SERVER] for name in ("api.example.com", "ssh.example.com", "one.example.com", "two.example.com")}
TABLE |= {"a.models.example.org": [SERVER], "evil.example.net": [OTHER]}

COMPANION = "sandboxrun.gateway.companion"
OTHERWISE = f"""
import sys
from {COMPANION} import __main__ as main, gateway, haproxy
{{}}
sys.exit(main.main(sys.argv[1:]))
"""


def document(**values: Any) -> bytes:
    """A rules document."""
    rules = {
        "version": VERSION, "sandbox": "agent", "run": "r1", "mode": "allow", "ports": [], "allow": list(ALLOWED),
        "private_networks": [], "resolvers": [NAMES], "refused": [], "records": 1 << 24,
    }  # fmt: skip
    return json.dumps({**rules, **{key: list(v) if isinstance(v, tuple) else v for key, v in values.items()}}).encode()


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
                with suppress(OSError):  # the world has ended
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
    """Three namespaces: the sandbox's, the gateway's, and everybody else's."""

    def __init__(self, folder: Path) -> None:
        self.sandbox, self.inner, self.outer = Space(), Space(), Space()
        self.folder = folder
        self.rules = folder / "rules.json"
        self._servers: list[Server] = []
        self.process: subprocess.Popen[bytes] | None = None
        self._join(self.inner, self.outer, "out", "10.77.0.1/30", "10.77.0.2/30")
        self._join(self.inner, self.sandbox, "in", f"{AT}/29", f"{SANDBOX}/29")
        self.inner.ip("route", "add", "default", "via", "10.77.0.2")
        for address in (SERVER, OTHER, NAMES, "10.50.0.10", "169.254.169.254", "127.0.0.9"):
            self.outer.ip("addr", "add", f"{address}/32", "dev", "lo")
        self.names = NameServer(self.outer.listen(NAMES, 53, socket.SOCK_DGRAM), TABLE)
        self.records: list[dict[str, Any]] = []
        self._told = threading.Condition()
        self._markers, self._resolved, self._ended = 0, False, False

    @staticmethod
    def _join(one: Space, other: Space, name: str, address: str, across: str) -> None:
        one.ip("link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", str(other.pid))
        for space, link, at in ((one, name, address), (other, "eth0", across)):
            space.ip("addr", "add", at, "dev", link)
            space.ip("link", "set", link, "up")

    def start(self, *, output: Any = subprocess.PIPE, otherwise: str = "", **rules: Any) -> None:
        """Start the gateway with these rules, and wait until it serves. `otherwise` sets limits of its to others."""
        self.rules.write_bytes(document(**rules))
        run = self.folder / "run"
        run.mkdir()
        program = ["-c", OTHERWISE.format(otherwise)] if otherwise else ["-m", COMPANION]
        self.process = subprocess.Popen(
            [
                *self.inner.command, sys.executable, *program,
                "serve", "--at", AT, "--rules", str(self.rules), "--run", str(run),
            ],
            stdout=output, stderr=subprocess.PIPE, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)},
            start_new_session=True,
        )  # fmt: skip
        if output == subprocess.PIPE:
            threading.Thread(target=self._read, daemon=True).start()
            self.event("ready")

    def reload(self, **rules: Any) -> None:
        """Give it other rules, and wait until it serves by them."""
        self.rules.write_bytes(document(**rules))
        assert self.process is not None
        count = len([r for r in self.records if r["event"] == "rules"])
        self.process.send_signal(signal.SIGHUP)
        self.event("rules", count + 1)

    def _read(self) -> None:
        assert self.process is not None and self.process.stdout is not None
        with contextlib.suppress(ValueError):  # closed meanwhile
            for line in self.process.stdout:
                with self._told:
                    self.records.append(json.loads(line))
                    self._told.notify_all()
        with self._told:
            self._ended = True
            self._told.notify_all()

    def event(self, kind: str, count: int = 1, **values: Any) -> dict[str, Any]:
        """The count-th record of a kind with these values; waits for it while any may come."""

        def found() -> list[dict[str, Any]]:
            return [r for r in self.records if r["event"] == kind and values.items() <= r.items()]

        with self._told:
            came = self._told.wait_for(lambda: len(found()) >= count or self._ended, PATIENCE)
            assert came and len(found()) >= count, (kind, values, self.records, self.errors())
            return found()[count - 1]

    def requests(self) -> list[dict[str, Any]]:
        return [record for record in self.records if record["event"] == "request"]

    def forget(self) -> None:
        """Begin as if anew, with the gateway that runs: all that was recorded so far is out, and gone."""
        self._markers += 1
        marker = f"marker{self._markers}.example.net"
        self.ask(80, f"GET / HTTP/1.1\r\nHost: {marker}\r\nConnection: close\r\n\r\n".encode())
        self.event("request", host=marker)
        self.records.clear()
        self.names.asked.clear()
        self.names.table = dict(TABLE)
        time.sleep(1.05 if self._resolved else 0)  # for as long HAProxy goes by what it heard of names

    def stop_servers(self) -> None:
        self._resolved = bool(self.names.asked)
        while self._servers:
            self._servers.pop().close()

    def errors(self) -> str:
        """What stands in the workers' error files."""
        return "".join(file.read_text() for file in (self.folder / "run").glob("*/errors"))

    def workers(self) -> list[int]:
        """The process ids of HAProxy."""
        assert self.process is not None
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return [int(word) for word in children.split()]

    def stop(self) -> int:
        """End the gateway as an engine does."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE)

    def serve(self, host: str, port: int, talk: Callable[[socket.socket], None]) -> Server:
        server = Server(self.outer.listen(host, port), talk)
        self._servers.append(server)
        return server

    def connect(self, port: int) -> socket.socket:
        """A connection from the sandbox to the gateway."""
        return self.sandbox.connect(AT, port)

    def ask(self, port: int, data: bytes, *, end: bool = False) -> bytes:
        """Send, and read to the end."""
        with self.connect(port) as sock:
            sock.sendall(data)
            if end:
                sock.shutdown(socket.SHUT_WR)
            return read_all(sock)

    def name(self, name: str, kind: int = 1) -> tuple[int, list[str]]:
        """What the gateway says about a name: the code, and the addresses."""

        def exchange() -> bytes:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                sock.settimeout(PATIENCE)
                sock.connect((AT, 53))  # so that a port where nobody is says so
                sock.send(question(name, kind))
                return sock.recv(4096)

        reply = self.sandbox.inside(exchange)
        count = struct.unpack_from(">H", reply, 6)[0]
        return reply[3] & 15, [socket.inet_ntoa(reply[-4:])] * count

    def close(self) -> None:
        if self.process is not None:
            with suppress(ProcessLookupError):  # a test may have killed the companion alone
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            assert self.process.stderr is not None
            self.process.stderr.close()
            if self.process.stdout is not None:
                self.process.stdout.close()
        self.stop_servers()
        self.names.close()
        for space in (self.sandbox, self.inner, self.outer):
            space.close()


def question(name: str, kind: int = 1) -> bytes:
    """A DNS message that asks for a name's records of a kind: by default A."""
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    return struct.pack(">6H", 7, 0x0100, 1, 0, 0, 0) + labels + b"\0" + struct.pack(">HH", kind, 1)


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


def until(condition: Callable[[], bool], seconds: float = PATIENCE) -> None:
    """Wait for it."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def why_not() -> str | None:
    """Why there can be none here."""
    return None if shutil.which("haproxy") else "this machine has no haproxy: `make tools` brings one"


@contextmanager
def open_world(folder: Path) -> Iterator[World]:
    world = World(folder)
    try:
        yield world
    finally:
        world.close()
