"""An engine in a network of its own, with a world around it that the tests make: servers, name servers, metadata.

All that a sandbox there can reach, if anything fails, are these servers: nothing leads out of the two namespaces.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import subprocess
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress

import docker
import docker.types

from sandboxrun.gateway.image import reference
from scripts.spaces import Space
from tests.engine.own_engine import OwnEngine, open_engine
from tests.unit.gateway.world import NameServer, question

SERVER, OTHER, NAMES = "198.41.0.10", "198.41.0.11", "198.41.0.53"
PRIVATE, METADATA = "10.50.0.10", "169.254.169.254"
HOST, ROUTER = "10.77.0.1", "10.77.0.2"  # the engine's machine, and what leads out of it
TCP, UDP = 5998, 5999  # of the host's services
TABLE = {
    "api.example.com": [SERVER],
    "x.models.example.org": [SERVER],
    "evil.example.net": [OTHER],
    "private.example.com": [PRIVATE],
    "metadata.example.com": [METADATA],
    "loopback.example.com": ["127.0.0.1"],
    "host.example.com": [HOST],
    "mapped.example.com": [f"::ffff:{METADATA}"],
}
ALLOWED = (
    *(f"{name}:{port}" for name in TABLE if name.endswith("example.com") for port in (80, 443)),
    f"host.example.com:{TCP}",
    "*.models.example.org:443",
)
IMAGE = "sandboxrun/attacks:test"
# Of the agent's image, Python and what it needs: it goes to another engine for each run.
_PYTHON = """
cd / && exec tar -cf - --exclude='libnode*' --exclude='libicu*' --exclude='lib*san.*' --exclude='*.a' --exclude=gconv \\
  --exclude='perl*' --exclude='libLLVM*' bin lib lib64 sbin etc home tmp usr/lib64 usr/lib/python3* \\
  usr/lib/*-linux-gnu usr/bin/python3* usr/bin/sh usr/bin/dash usr/bin/sleep usr/bin/cat usr/bin/true
"""


class EngineSpace(Space):
    """The namespace that an engine stands in."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._file = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY)

    def close(self) -> None:
        os.close(self._file)


class World:
    """The engine, its machine's services and the outside. `reached` counts what got to each server."""

    def __init__(self, engine: OwnEngine) -> None:
        self.engine = engine
        self.reached: Counter[str] = Counter()
        self.datagrams: list[bytes] = []
        self._sockets: list[socket.socket] = []
        self.inner, self.outer = EngineSpace(engine.holder.pid), Space()
        self._wire()
        for address in (SERVER, OTHER, PRIVATE, METADATA):
            for port in (22, 80, 443, 8443):
                self._serve(self.outer, address, port, self._answer)
        self._datagram(self.outer, OTHER)
        self._serve(self.inner, "0.0.0.0", TCP, self._answer)
        for port in (22, 80, 443, 8443):
            self._serve(self.inner, "0.0.0.0", port, self._naive)
        self._datagram(self.inner, "0.0.0.0")
        self.names = NameServer(self.outer.listen(NAMES, 53, socket.SOCK_DGRAM), TABLE)

    def _wire(self) -> None:
        outer, inner = self.outer, self.inner
        self.filter_paths(2)  # as systemd has it; a host without is told of by doctor
        outer.ip("link", "add", "in", "type", "veth", "peer", "name", "out", "netns", str(inner.pid))
        for space, name, address in ((inner, "out", HOST), (outer, "in", ROUTER)):
            space.ip("addr", "add", f"{address}/30", "dev", name)
            space.ip("link", "set", name, "up")
        inner.ip("link", "set", "lo", "up")
        inner.ip("route", "add", "default", "via", ROUTER)
        for address in (SERVER, OTHER, NAMES, PRIVATE, METADATA):
            outer.ip("addr", "add", f"{address}/32", "dev", "lo")

    def filter_paths(self, value: int) -> None:
        """Whether networks made from now on take packets from senders to whom no way leads back (rp_filter)."""
        setting = "/proc/sys/net/ipv4/conf/default/rp_filter"
        subprocess.run([*self.inner.command, "sh", "-c", f"echo {value} >{setting}"], check=True)

    def close(self) -> None:
        self.names.close()
        for sock in self._sockets:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()
        self.outer.close()
        self.inner.close()

    # -- servers

    def _serve(self, space: Space, address: str, port: int, talk: Callable[[socket.socket, str], None]) -> None:
        sock = space.listen(address, port)
        self._sockets.append(sock)
        threading.Thread(target=self._accept, args=(sock, f"{address}:{port}", talk), daemon=True).start()

    def _accept(self, sock: socket.socket, name: str, talk: Callable[[socket.socket, str], None]) -> None:
        while True:
            try:
                peer, _ = sock.accept()
            except OSError:
                return
            self.reached[name] += 1
            peer.settimeout(10)
            threading.Thread(target=_talk, args=(talk, peer, name), daemon=True).start()

    def _answer(self, peer: socket.socket, name: str) -> None:
        """Say who was reached, and by which words."""
        body = f"served by {name}\n".encode() + peer.recv(4096)
        peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s" % (len(body), body))

    def _datagram(self, space: Space, address: str) -> None:
        sock = space.listen(address, UDP, socket.SOCK_DGRAM)
        self._sockets.append(sock)

        def run() -> None:
            while True:
                data, peer = sock.recvfrom(4096)
                if peer is None:  # it was closed
                    return
                self.datagrams.append(data)
                with suppress(OSError):
                    sock.sendto(b"served by " + data, peer)

        threading.Thread(target=run, daemon=True).start()

    # -- a gateway that trusts everybody, for the weak sandbox

    def _naive(self, peer: socket.socket, at: str) -> None:
        port = int(at.rpartition(":")[2])
        head = peer.recv(65536)
        url = head.partition(b" ")[2].partition(b" ")[0].decode("latin-1")
        asked = url if head.startswith(b"CONNECT ") else url.partition("://")[2].partition("/")[0]
        named = _name_in(head) if head[:1] == b"\x16" else asked or _host_of(head)
        host, port = _trusting(named or "api.example.com", port)
        with self.inner.connect(self._resolve(host), port) as upstream:
            upstream.sendall(head)
            while data := upstream.recv(65536):
                peer.sendall(data)

    def _resolve(self, host: str) -> str:
        """An address; a name is asked for at the server outside, whatever it is."""
        if host == "localhost":
            return "127.0.0.1"
        with suppress(ValueError):
            return str(ipaddress.ip_address(host))
        with self.inner.inside(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as sock:
            sock.settimeout(2)
            sock.sendto(question(host), (NAMES, 53))
            sock.recv(512)
        return TABLE[host][0].removeprefix("::ffff:")


def _talk(talk: Callable[[socket.socket, str], None], peer: socket.socket, name: str) -> None:
    with peer, suppress(OSError, ValueError, LookupError):
        talk(peer, name)


def _name_in(hello: bytes) -> str:
    """The name in a ClientHello as the attacks write it; "" where there is none."""
    at = hello.find(b"\x13\x01\x01\0") + 6  # past suites, compression and the extensions' length
    return hello[at + 9 :].decode("latin-1") if hello[at : at + 2] == b"\0\0" else ""


def _host_of(head: bytes) -> str:
    return next(
        (line[5:].strip() for line in head.decode("latin-1").splitlines() if line.lower().startswith("host:")), ""
    )


def _trusting(authority: str, port: int) -> tuple[str, int]:
    """Host and port, as a careless program reads them: every spelling of an address is one."""
    host = authority.rpartition("@")[2].lower()
    if not host.endswith("]") and host.rpartition(":")[2].isdigit():
        host, _, digits = host.rpartition(":")
        port = int(digits)
    host = host.partition("\0")[0].strip("[]").rstrip(".").removeprefix("::ffff:")
    with suppress(OSError):
        host = socket.inet_ntoa(socket.inet_aton(host))
    return host, port


@contextmanager
def open_world(main: docker.DockerClient, agent: str) -> Iterator[World]:
    """A world with the agent's image on its engine, or as much of it as attacks need."""
    engine = open_engine()
    try:
        _bring(main, agent, engine)
        world = World(engine)
        try:
            yield world
        finally:
            world.close()
    finally:
        engine.close()


def _bring(main: docker.DockerClient, agent: str, engine: OwnEngine) -> None:
    """Import the image there, from a container's output here, and the gateway's as it is."""
    none = docker.types.LogConfig(type="none")
    source = main.containers.create(agent, ["sh", "-c", _PYTHON], user="0:0", network_mode="none", log_config=none)
    try:
        tar = source.attach(stdout=True, stderr=False, stream=True)
        source.start()
        with closing(engine.client()) as client:
            client.api.import_image_from_stream(tar, repository=IMAGE, changes=["ENV PATH=/usr/bin:/bin"])
            client.api.load_image(main.images.get(reference()).save(named=True))
    finally:
        source.remove(force=True)
