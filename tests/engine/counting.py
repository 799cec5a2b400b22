"""A socket beside the engine's that notes every request which passes: what a command asks of the engine, in order.

It reads the heads of requests on the wire, so that it counts alike whatever client stands behind them.
"""

from __future__ import annotations

import collections
import contextlib
import re
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

_HEAD = re.compile(rb"(GET|HEAD|POST|PUT|DELETE) (/\S*) HTTP/1\.1\r\n")
_IMAGE = re.compile(r"^/(images|distribution)/.+/(json|push|history)$")
_IDENTITY = re.compile(r"/(containers|networks|volumes|exec)/(?!json|create|prune)(.+?)(?=/|$)")


class Counting:
    """The requests that passed; `host` is the socket's address as DOCKER_HOST takes it."""

    def __init__(self, host: str) -> None:
        self.host = host
        self.requests: list[str] = []
        self._lock = threading.Lock()

    def note(self, data: bytes) -> None:
        """Note the request lines in what a client sent in one piece."""
        with self._lock:
            self.requests += [f"{verb.decode()} {_kind(path.decode())}" for verb, path in _HEAD.findall(data)]

    def take(self) -> dict[str, int]:
        """How often each kind of request passed since the last call."""
        with self._lock:
            found, self.requests = self.requests, []
        return dict(sorted(collections.Counter(found).items()))


def _kind(path: str) -> str:
    """The path without version, query and names: `/containers/*/start`."""
    plain = re.sub(r"^/v[0-9.]+", "", path.partition("?")[0])
    return _IDENTITY.sub(r"/\1/*", _IMAGE.sub(r"/\1/*/\2", plain))


@contextlib.contextmanager
def counting(path: str, folder: Path) -> Iterator[Counting]:
    """A `Counting` in front of the engine's socket at `path`."""
    own = folder / "counted.sock"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(own))
    listener.listen(64)
    counted = Counting(f"unix://{own}")
    threading.Thread(target=_accept, args=(listener, path, counted), daemon=True).start()
    try:
        yield counted
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        own.unlink()


def _accept(listener: socket.socket, path: str, counted: Counting) -> None:
    while True:
        try:
            client, _ = listener.accept()
        except OSError:
            return
        engine = socket.socket(socket.AF_UNIX)
        engine.connect(path)
        threading.Thread(target=_pump, args=(client, engine, counted), daemon=True).start()
        threading.Thread(target=_pump, args=(engine, client, None), daemon=True).start()


def _pump(source: socket.socket, target: socket.socket, counted: Counting | None) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            if counted is not None:
                counted.note(data)
            target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)
