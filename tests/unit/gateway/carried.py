"""HAProxy and its companion at work between two namespaces: a sandbox's side, and a world of servers.

As `world.py`, for the gateway that programs need no setting for: they ask it for names and connect to its address.
"""

from __future__ import annotations

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
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from sandboxrun.gateway.companion.rules import VERSION
from scripts.spaces import Space
from tests.unit.gateway.world import OTHER, ROOT, SERVER, NameServer, Server, read_all

AT, SANDBOX, NAMES = "10.77.1.2", "10.77.1.3", "198.41.0.53"
ALLOWED = (
    "api.example.com:443", "api.example.com:80", "ssh.example.com:22", "*.models.example.org:443",
    "one.example.com:8443", "two.example.com:8443", "two.example.com:80",
)  # fmt: skip
TABLE = {name: [SERVER] for name in ("api.example.com", "ssh.example.com", "one.example.com", "two.example.com")}
TABLE |= {"a.models.example.org": [SERVER], "evil.example.net": [OTHER]}


def document(**values: Any) -> bytes:
    """A rules document."""
    rules = {
        "version": VERSION, "sandbox": "agent", "run": "r1", "mode": "allow", "ports": [], "allow": list(ALLOWED),
        "private_networks": [], "resolvers": [NAMES], "refused": [], "records": 1 << 24,
    }  # fmt: skip
    return json.dumps({**rules, **{key: list(v) if isinstance(v, tuple) else v for key, v in values.items()}}).encode()


class Carried:
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
        self._markers, self._resolved = 0, False

    @staticmethod
    def _join(one: Space, other: Space, name: str, address: str, across: str) -> None:
        one.ip("link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", str(other.pid))
        for space, link, at in ((one, name, address), (other, "eth0", across)):
            space.ip("addr", "add", at, "dev", link)
            space.ip("link", "set", link, "up")

    def start(self, *, output: Any = subprocess.PIPE, **rules: Any) -> None:
        """Start the gateway with these rules, and wait until it serves."""
        self.rules.write_bytes(document(**rules))
        run = self.folder / "run"
        run.mkdir()
        self.process = subprocess.Popen(
            [
                *self.inner.command, sys.executable, "-m", "sandboxrun.gateway.companion",
                "serve", "--at", AT, "--rules", str(self.rules), "--run", str(run),
            ],
            stdout=output, stderr=subprocess.PIPE, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)},
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
        for line in self.process.stdout:
            with self._told:
                self.records.append(json.loads(line))
                self._told.notify_all()

    def event(self, kind: str, count: int = 1, **values: Any) -> dict[str, Any]:
        """The count-th record of a kind with these values; waits for it."""

        def found() -> list[dict[str, Any]]:
            return [r for r in self.records if r["event"] == kind and values.items() <= r.items()]

        with self._told:
            assert self._told.wait_for(lambda: len(found()) >= count, 15), (kind, values, self.records, self.errors())
            return found()[count - 1]

    def requests(self) -> list[dict[str, Any]]:
        return [record for record in self.records if record["event"] == "request"]

    def forget(self) -> None:
        """Begin as if anew, with the gateway that runs: all that was recorded so far is out, and gone."""
        self._markers += 1
        marker = f"marker{self._markers}.example.net"
        self.name(marker)
        self.event("request", host=marker)
        time.sleep(0.02)
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
        return self.process.wait(10)

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
        labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
        query = struct.pack(">6H", 7, 0x0100, 1, 0, 0, 0) + labels + b"\0" + struct.pack(">HH", kind, 1)

        def exchange() -> bytes:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                sock.settimeout(5)
                sock.sendto(query, (AT, 53))
                return sock.recv(4096)

        reply = self.sandbox.inside(exchange)
        count = struct.unpack_from(">H", reply, 6)[0]
        return reply[3] & 15, [socket.inet_ntoa(reply[-4:])] * count

    def close(self) -> None:
        if self.process is not None:
            for worker in self.workers() if self.process.poll() is None else ():
                with suppress(ProcessLookupError):
                    os.kill(worker, signal.SIGKILL)
            self.process.kill()
            self.process.wait()
            assert self.process.stderr is not None
            self.process.stderr.close()
            if self.process.stdout is not None:
                self.process.stdout.close()
        self.stop_servers()
        self.names.close()
        for space in (self.sandbox, self.inner, self.outer):
            space.close()


def why_not() -> str | None:
    """Why there can be none here."""
    return None if shutil.which("haproxy") else "this machine has no haproxy"


@contextmanager
def open_carried(folder: Path) -> Iterator[Carried]:
    world = Carried(folder)
    try:
        yield world
    finally:
        world.close()
