"""A local engine: what changes it, and every stream, goes over docker-py; plain questions over the standard library.

Owns the choice, for a listing or a plan then does without importing docker-py, which takes longer than all of its
requests. Nothing but GET and HEAD may go past docker-py.
"""

from __future__ import annotations

import http.client
import socket
import struct
import threading
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING

from msgspec import Struct

from sandboxrun.backend.docker.transport import (
    CLOSED,
    MAX_WHOLE,
    PIECE,
    Broken,
    Connection,
    Dial,
    Request,
    Response,
    TransportError,
    Unreachable,
    lost,
    seconds_left,
    shut,
)
from sandboxrun.data import DataType

if TYPE_CHECKING:
    from sandboxrun.backend.docker.config import Endpoint
    from sandboxrun.backend.docker.docker_py import DockerPyTransport


class Whole(Struct, metaclass=DataType, frozen=False, kw_only=True, unshown=("body",)):
    """An answer that was read whole."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def some(self) -> bytes:
        """What was not taken yet, at once; then b""."""
        taken, self.body = self.body, b""
        return taken

    def connection(self) -> Connection:
        """There is none."""
        raise Broken("the engine did not hand the connection over")

    def close(self) -> None:
        """Drop the rest."""
        self.body = b""


class LocalTransport:
    """Requests over the connections of `dial`; up to `parallelism` idle ones are kept for questions."""

    def __init__(self, endpoint: Endpoint, dial: Dial, *, parallelism: int) -> None:
        self.endpoint = endpoint.url
        self._where = endpoint
        self._parallelism = max(1, parallelism)
        self._dial = dial
        self._lock = threading.RLock()
        self._idle: list[http.client.HTTPConnection] = []
        self._asking: set[socket.socket] = set()
        self._closed = False

    @cached_property
    def _docker_py(self) -> DockerPyTransport:
        from sandboxrun.backend.docker.docker_py import DockerPyTransport

        return DockerPyTransport(self._where, self._dial, parallelism=self._parallelism)

    def request(self, request: Request) -> Response:
        """See Transport."""
        if request.method in ("GET", "HEAD") and request.body is None and not (request.upgrade or request.stream):
            return self._ask(request)
        with self._lock:  # made once, and not after `close`
            if self._closed:
                raise Unreachable(CLOSED)
            carrier = self._docker_py
        return carrier.request(request)

    def _ask(self, request: Request) -> Whole:
        """Over a kept connection, or where that has ended over the next, and at last over a new one."""
        deadline = request.deadline()
        while True:
            with self._lock:
                if self._closed:
                    raise Unreachable(CLOSED)
                connection = self._idle.pop() if self._idle else http.client.HTTPConnection("docker")
            kept = connection.sock is not None
            try:
                return self._exchange(connection, request, deadline)
            except (OSError, http.client.HTTPException, TransportError) as error:
                connection.close()
                told = lost(error)
                if kept and isinstance(told, Broken):
                    continue
                raise told from error

    def _exchange(self, connection: http.client.HTTPConnection, request: Request, deadline: float | None) -> Whole:
        if connection.sock is None:
            connection.sock = self._dial(seconds_left(deadline))
        sock = connection.sock
        with self._lock:
            if self._closed:
                raise Unreachable(CLOSED)
            self._asking.add(sock)
        try:
            sock.settimeout(seconds_left(deadline))
            connection.request(request.method, request.target, headers={"User-Agent": "sandboxrun", **request.headers})
            answer = connection.getresponse()
            body = _body(answer, sock, deadline)
        finally:
            with self._lock:
                self._asking.discard(sock)
        with self._lock:
            if connection.sock is not None and not self._closed and len(self._idle) < self._parallelism:
                self._idle.append(connection)
            else:
                connection.close()
        fields = {name.lower(): value for name, value in answer.getheaders()}
        return Whole(status=answer.status, headers=fields, body=body)

    def peer_pid(self) -> int:
        """See Transport."""
        with self._dial(10) as sock:
            try:
                told = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
            except OSError as error:
                raise Broken(f"the socket does not report who listens ({error.strerror or error})") from error
        return int(struct.unpack("3i", told)[0])

    def close(self) -> None:
        """End all connections."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
            for sock in self._asking:
                shut(sock)
        for connection in idle:
            connection.close()
        if "_docker_py" in self.__dict__:
            self._docker_py.close()


def _body(answer: http.client.HTTPResponse, sock: socket.socket, deadline: float | None) -> bytes:
    """All of it. Piece by piece, for else neither its size nor the time it takes had an end."""
    body = bytearray()
    while piece := answer.read1(PIECE):
        body += piece
        if len(body) > MAX_WHOLE:
            raise Broken(f"the engine's answer is larger than {MAX_WHOLE} bytes")
        sock.settimeout(seconds_left(deadline))
    if answer.length and answer.chunked is False:
        raise http.client.IncompleteRead(bytes(body), answer.length)
    answer.close()
    return bytes(body)
