"""Ways to the running engine other than its socket, on loopback: tcp, tcp with TLS, and an ssh command of our own.

The daemon under test needs no second listener for them.
"""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

_SSH = """\
#!{python}
# Takes ssh's arguments, and does here what `docker system dial-stdio` does on the other machine.
import socket, sys, threading, os
assert sys.argv[-3:] == ["docker", "system", "dial-stdio"], sys.argv
assert "--" in sys.argv and sys.argv[sys.argv.index("--") + 1] == "engine.example.com", sys.argv
engine = socket.socket(socket.AF_UNIX)
engine.connect({path!r})
def up():
    while data := os.read(0, 65536):
        engine.sendall(data)
    engine.shutdown(socket.SHUT_WR)
threading.Thread(target=up, daemon=True).start()
while data := engine.recv(65536):
    os.write(1, data)
"""


@contextlib.contextmanager
def tcp_forwarder(path: str, tls: ssl.SSLContext | None = None) -> Iterator[str]:
    """A loopback port that leads to the socket at `path`; "host:port"."""
    listener = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=_accept, args=(listener, path, tls), daemon=True).start()
    try:
        yield f"127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def _accept(listener: socket.socket, path: str, tls: ssl.SSLContext | None) -> None:
    while True:
        try:
            client, _ = listener.accept()
        except OSError:
            return
        threading.Thread(target=_serve, args=(client, path, tls), daemon=True).start()


def _serve(client: socket.socket, path: str, tls: ssl.SSLContext | None) -> None:
    with contextlib.suppress(OSError), client, socket.socket(socket.AF_UNIX) as engine:
        engine.connect(path)
        _pump(client if tls is None else tls.wrap_socket(client, server_side=True), engine)


def _pump(client: socket.socket, engine: socket.socket) -> None:
    """Both ways in one thread: Python's TLS sockets may not be read and written at once."""
    sources = [client, engine]
    while engine in sources:
        hidden = isinstance(client, ssl.SSLSocket) and client in sources and client.pending()
        ready = [client] if hidden else select.select(sources, [], [])[0]
        for source in ready:
            if data := source.recv(65536):
                (engine if source is client else client).sendall(data)
            else:
                sources.remove(source)
                (engine if source is client else client).shutdown(socket.SHUT_WR)


def ssh_command(folder: Path, path: str) -> Path:
    """A folder for PATH with an `ssh` that leads to the socket at `path`, whatever host it is told."""
    folder.mkdir()
    program = folder / "ssh"
    program.write_text(_SSH.format(python=sys.executable, path=path))
    program.chmod(0o755)
    return folder


def certificates(folder: Path) -> None:
    """In `folder`: ca.pem, a client's cert.pem and key.pem, and a server's (for 127.0.0.1), as docker has them."""
    subject = ["-subj", "/CN=sandboxrun test"]
    _openssl(
        folder, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "ca-key.pem", "-out", "ca.pem", *subject
    )
    for name in ("server-", ""):
        _openssl(
            folder,
            "req",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-keyout",
            f"{name}key.pem",
            "-out",
            f"{name}csr.pem",
            *subject,
        )
        (folder / "names").write_text("subjectAltName=IP:127.0.0.1\n")
        _openssl(
            folder, "x509", "-req", "-in", f"{name}csr.pem", "-CA", "ca.pem", "-CAkey", "ca-key.pem", "-CAcreateserial",
            "-out", f"{name}cert.pem", "-extfile", "names",
        )  # fmt: skip


def _openssl(folder: Path, *arguments: str) -> None:
    subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)


class Cutting:
    """A loopback port that leads to the socket at `path`, and cuts connections on demand, as a proxy does that was
    reloaded or had enough of them."""

    def __init__(self, path: str) -> None:
        self._path, self._lock = path, threading.Lock()
        self._open: list[tuple[bytes, socket.socket, socket.socket]] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self, *words: bytes) -> int:
        """Cut the connections that carry a request with one of these words in it; how many."""
        with self._lock:
            found = [one for one in self._open if any(word in one[0] for word in words)]
            self._open = [one for one in self._open if one not in found]
        for _, *ends in found:
            for end in ends:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
        return len(found)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                engine = socket.socket(socket.AF_UNIX)
                engine.connect(self._path)
                for ends in ((client, engine, True), (engine, client, False)):
                    threading.Thread(target=self._carry, args=ends, daemon=True).start()

    def _carry(self, source: socket.socket, target: socket.socket, asks: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if asks:
                    with self._lock:
                        self._open = [one for one in self._open if source not in one]
                        self._open.append((data.partition(b"\r\n")[0], source, target))
                target.sendall(data)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_WR)
