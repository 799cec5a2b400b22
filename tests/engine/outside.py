"""A world beside the engine: a network namespace with hosts that real clients speak with, and a name server.

Its addresses are from a range for measurements, so that no host of anybody's is meant; the engine's machine leads there
while the world is open. Certificates are made anew for each.
"""

from __future__ import annotations

import base64
import hashlib
import http.server
import io
import json
import os
import random
import shutil
import socket
import ssl
import subprocess
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from scripts.spaces import Space, impossible
from tests.unit.gateway.world import NameServer, Server

NAMES = ("api.example.com", "git.example.com", "pypi.example.com", "npm.example.com", "a.models.example.org")
SPOKEN = ("db.example.com", "ssh.example.com")  # hosts of other protocols, where a test has them served
DENIED = "evil.example.net"
FAR = "far.example.com"  # allowed; it leads where no sandbox may go


def why_not() -> str | None:
    """Why there can be none here."""
    if reason := impossible():
        return reason
    missing = [name for name in ("ip", "openssl", "git") if shutil.which(name) is None]
    return f"{', '.join(missing)} is missing" if missing else None


class Outside:
    """The namespace and its servers. `seen` are the requests that got to them: host, method, path."""

    def __init__(self, folder: Path) -> None:
        self.space = Space()
        self.link = f"sbx{random.randrange(1 << 24):06x}"
        number = random.randrange(256)
        self.subnet, self.server, self.names_at = (f"198.18.{number}.{end}" for end in ("0/24", "10", "53"))
        self._ip("link", "add", self.link, "type", "veth", "peer", "name", "in", "netns", str(self.space.pid))
        self._ip("addr", "add", f"198.18.{number}.1/24", "dev", self.link)
        self._ip("link", "set", self.link, "up")
        for end in ("2", "10", "53"):
            self.space.ip("addr", "add", f"198.18.{number}.{end}/24", "dev", "in")
        self.space.ip("link", "set", "in", "up")
        self.space.ip("route", "add", "default", "via", f"198.18.{number}.1")
        table = {name: [self.server] for name in (*NAMES, *SPOKEN, DENIED)}
        self.names = NameServer(
            self.space.listen(self.names_at, 53, socket.SOCK_DGRAM), {**table, FAR: ["169.254.169.254"]}
        )
        self.authority = folder / "ca.pem"
        self.files: dict[str, bytes] = {"/data": b"served\n", **_python_package(), **_node_package()}
        self.files |= _repository(folder)
        self.seen: list[tuple[str, str, str]] = []
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*_certificate(folder, self.authority))
        self._servers = [self._serve(443, context), self._serve(80, None)]
        self._spoken: list[Server] = []

    def _ip(self, *arguments: str) -> None:
        subprocess.run(["ip", *arguments], check=True, capture_output=True)

    def _serve(self, port: int, context: ssl.SSLContext | None) -> http.server.ThreadingHTTPServer:
        server = http.server.ThreadingHTTPServer((self.server, port), self._handler(), bind_and_activate=False)
        server.socket.close()
        plain = self.space.listen(self.server, port)
        server.socket = plain if context is None else context.wrap_socket(plain, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return server

    def speak(self, port: int, talk: Callable[[socket.socket], None]) -> Server:
        """Serve another protocol."""
        self._spoken.append(Server(self.space.listen(self.server, port), talk))
        return self._spoken[-1]

    def _handler(outside) -> type[http.server.BaseHTTPRequestHandler]:
        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                path = self.path.partition("?")[0]
                outside.seen.append((str(self.headers["Host"]), self.command, path))
                body = outside.files.get(path)
                self.send_response(404 if body is None else 200)
                kind = "text/html" if path.endswith("/") else "application/octet-stream"
                self.send_header("Content-Type", "application/json" if path == "/demo" else kind)
                self.send_header("Content-Length", str(len(body or b"")))
                self.end_headers()
                self.wfile.write(body or b"")

            def do_POST(self) -> None:
                outside.seen.append((str(self.headers["Host"]), self.command, self.path))
                body = self.rfile.read(int(self.headers["Content-Length"]))
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """What was asked is kept in `seen`."""

        return Handler

    def close(self) -> None:
        for server in self._servers:
            server.shutdown()
            server.server_close()
        for spoken in self._spoken:
            spoken.close()
        self.names.close()
        subprocess.run(["ip", "link", "del", self.link], check=False, capture_output=True)
        self.space.close()


def _certificate(folder: Path, authority: Path) -> tuple[str, str]:
    """An authority, and a certificate of its for all names; certificate and key."""
    key, certificate, request = folder / "key.pem", folder / "server.pem", folder / "server.csr"
    authority_key, extensions = folder / "ca.key", folder / "server.ext"
    names = ",".join(f"DNS:{name}" for name in (*NAMES, DENIED))
    extensions.write_text(f"subjectAltName={names}\nextendedKeyUsage=serverAuth\n")
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    for command in (
        ["req", "-x509", *curve, "-keyout", authority_key, "-out", authority, "-subj", "/CN=authority", "-days", "2"],
        ["req", "-new", *curve, "-keyout", key, "-out", request, "-subj", "/CN=server"],
        ["x509", "-req", "-in", request, "-CA", authority, "-CAkey", authority_key, "-CAcreateserial",
         "-extfile", extensions, "-out", certificate, "-days", "2"],
    ):  # fmt: skip
        subprocess.run(["openssl", *map(str, command)], check=True, capture_output=True)
    return str(certificate), str(key)


def _python_package() -> dict[str, bytes]:
    """A wheel and its index."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as wheel:
        info = "demo-1.0.dist-info"
        wheel.writestr("demo.py", "print('demo of python')\n")
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: demo\nVersion: 1.0\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", f"demo.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n")
    name = "demo-1.0-py3-none-any.whl"
    index = f'<!DOCTYPE html><html><body><a href="/files/{name}">{name}</a></body></html>'.encode()
    return {"/simple/demo/": index, f"/files/{name}": buffer.getvalue()}


def _node_package() -> dict[str, bytes]:
    """A package and what its registry says of it."""
    buffer = io.BytesIO()
    manifest = {"name": "demo", "version": "1.0.0", "main": "index.js"}
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, text in (("package.json", json.dumps(manifest)), ("index.js", "console.log('demo of node')\n")):
            entry = tarfile.TarInfo(f"package/{name}")
            entry.size, entry.mode = len(text), 0o644
            tar.addfile(entry, io.BytesIO(text.encode()))
    data = buffer.getvalue()
    digest = base64.b64encode(hashlib.sha512(data).digest()).decode()
    dist = {"tarball": "https://npm.example.com/demo/-/demo-1.0.0.tgz", "integrity": f"sha512-{digest}"}
    told = {"name": "demo", "dist-tags": {"latest": "1.0.0"}, "versions": {"1.0.0": {**manifest, "dist": dist}}}
    return {"/demo": json.dumps(told).encode(), "/demo/-/demo-1.0.0.tgz": data}


def _repository(folder: Path) -> dict[str, bytes]:
    """A git repository, as files that any web server can give."""
    work, bare = folder / "work", folder / "repo.git"
    who = {f"GIT_{role}_{what}": "x@example.com" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    env = {**os.environ, **who, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
    work.mkdir()
    (work / "README").write_text("a repository\n")
    for command in (
        ["-C", work, "init", "-q", "-b", "main"],
        ["-C", work, "add", "."],
        ["-C", work, "commit", "-q", "-m", "first"],
        ["clone", "-q", "--bare", work, bare],
        ["-C", bare, "update-server-info"],
    ):
        subprocess.run(["git", *map(str, command)], check=True, capture_output=True, env=env)
    return {f"/repo.git/{path.relative_to(bare)}": path.read_bytes() for path in bare.rglob("*") if path.is_file()}


@contextmanager
def open_outside(folder: Path) -> Iterator[Outside]:
    outside = Outside(folder)
    try:
        yield outside
    finally:
        outside.close()
