"""HTTP/1.1 over sockets of our own (dial.py opens them): the engine's local one, or a pipe to it through ssh.

Owns connections: keeping alive, timing, taking over, ending. Must not know the Engine API.
"""

from __future__ import annotations

import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress

from sandboxrun.backend.docker.transport import Broken, TimedOut, TransportError, Unreachable
from sandboxrun.backend.docker.wire import PIECE, Body, Head, OpenBody, Reader, body_of

_CONTROL = re.compile("[\x00-\x1f\x7f]")
Dial = Callable[[float | None], socket.socket]  # opens one, within so many seconds; raises TransportError


class Link:
    """One connection. One thread at a time reads it; any thread may end it."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._reading = threading.RLock()
        self._ended = False
        self.deadline: float | None = None
        self.used = False
        self.reader = Reader(self._receive)

    def _receive(self, size: int) -> bytes:
        with self._reading:
            if self._ended:
                return b""
            try:
                self._sock.settimeout(self._left())
                return self._sock.recv(size)
            except TimeoutError:
                raise TimedOut("no answer in time") from None
            except OSError as error:
                if self._ended:
                    return b""
                raise Broken(f"the connection was lost ({error.strerror or error})") from error

    def _left(self) -> float | None:
        if self.deadline is None:
            return None
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left

    @property
    def ended(self) -> bool:
        """Whether this side has ended it."""
        return self._ended

    @property
    def is_stale(self) -> bool:
        """Whether an idle connection can no longer carry a request: the other side ended it, or spoke unasked."""
        try:
            self._sock.settimeout(0)
            self._sock.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return self.reader.buffered > 0
        except OSError:
            return True
        return True

    def send(self, data: bytes) -> int:
        """Send all of `data`. Raises Broken, TimedOut."""
        try:
            self._sock.settimeout(self._left())
            self._sock.sendall(data)
        except TimeoutError:
            raise TimedOut("the engine did not take the request in time") from None
        except OSError as error:
            raise Broken(f"the connection was lost ({error.strerror or error})") from error
        return len(data)

    def recv(self, size: int) -> bytes:
        """What has arrived; b"" at the end."""
        return self.reader.some(size)

    def pending(self) -> bool:
        """True when bytes were received along with the head."""
        return self.reader.buffered > 0

    def fileno(self) -> int:
        """The socket's descriptor."""
        return self._sock.fileno()

    def end_input(self) -> None:
        """Nothing more will be sent."""
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError as error:
            raise Broken(f"the connection was lost ({error.strerror or error})") from error

    def close(self) -> None:
        """End it: first wake whoever reads, then give the descriptor back once nobody does."""
        self._ended = True
        with suppress(OSError):  # not connected any more
            self._sock.shutdown(socket.SHUT_RDWR)
        with self._reading:
            self._sock.close()


class SocketResponse:
    """An answer on a Link; the link goes back to the transport's pool once the body's end was read."""

    def __init__(
        self, transport: SocketTransport, link: Link, head: Head, *, asked: str, upgraded: bool, clean: bool
    ) -> None:
        self.status = head.status
        self.headers: Mapping[str, str] = head.headers
        self._transport = transport
        self._link = link
        self._keep = clean and head.keeps_alive and not upgraded
        self._body: Body = OpenBody(link.reader) if upgraded else body_of(head, link.reader, asked=asked)
        self._finished = False
        self._ending = threading.Lock()

    def read(self) -> bytes:
        """The whole body."""
        return self._reading(self._body.read)

    def some(self) -> bytes:
        """The next piece; b"" at the end."""
        return b"" if self._finished else self._reading(self._body.some)

    def _reading(self, read: Callable[[], bytes]) -> bytes:
        try:
            data = read()
        except BaseException as error:
            ended = self._link.ended
            self.close()
            if ended and isinstance(error, TransportError):
                return b""
            raise
        if self._body.ended or not data:
            self._finish()
        return data

    def _finish(self) -> None:
        if self._ends():
            self._transport.give_back(self._link, keep=self._keep and self._body.ended)

    def _ends(self) -> bool:
        """True once: from then on the link may be another request's, and is not ours to end."""
        with self._ending:
            first, self._finished = not self._finished, True
        return first

    def connection(self) -> Link:
        """The connection itself."""
        return self._link

    def close(self) -> None:
        """Drop the rest; nothing when the body's end was read."""
        if self._ends():
            self._transport.give_back(self._link, keep=False)


class SocketTransport:
    """Requests over links from `dial`; up to `parallelism` idle ones are kept."""

    def __init__(self, endpoint: str, dial: Dial, *, parallelism: int, local: bool) -> None:
        self.endpoint = endpoint
        self._dial = dial
        self._keep = max(1, parallelism)
        self._local = local
        self._lock = threading.Lock()
        self._idle: list[Link] = []
        self._live: set[Link] = set()
        self._closed = False

    def _take(self, deadline: float | None) -> Link:
        """A link that is alive: a kept one, or a new one."""
        while True:
            with self._lock:
                if self._closed:
                    raise Unreachable("the connection to the engine was closed by this process")
                link = self._idle.pop() if self._idle else None
            if link is None:
                return self._open(deadline)
            link.used = True
            if not link.is_stale:
                link.deadline = deadline
                return link
            self.give_back(link, keep=False)

    def _open(self, deadline: float | None) -> Link:
        link = Link(self._dial(None if deadline is None else max(0.001, deadline - time.monotonic())))
        link.deadline = deadline
        with self._lock:
            if not self._closed:
                self._live.add(link)
                return link
        link.close()
        raise Unreachable("the connection to the engine was closed by this process")

    def give_back(self, link: Link, *, keep: bool) -> None:
        """Keep a link for the next request, or end it."""
        with self._lock:
            if keep and not self._closed and link in self._live and len(self._idle) < self._keep:
                self._idle.append(link)
                return
            self._live.discard(link)
        link.close()

    def request(
        self,
        method: str,
        target: str,
        *,
        headers: Mapping[str, str],
        body: bytes | Iterable[bytes] | None,
        timeout: float | None,
        upgrade: bool,
        stream: bool,
    ) -> SocketResponse:
        """See Transport. A GET is sent once more, on a new link, when a kept one turns out to have ended."""
        deadline = None if timeout is None else time.monotonic() + timeout
        head = _head(method, target, headers, body, upgrade=upgrade)
        while True:
            link = self._take(deadline)
            try:
                return self._exchange(link, head, body, upgrade=upgrade, stream=stream)
            except Broken:
                self.give_back(link, keep=False)
                if not (method == "GET" and link.used):
                    raise
            except BaseException:
                self.give_back(link, keep=False)
                raise

    def _exchange(
        self, link: Link, head: bytes, body: bytes | Iterable[bytes] | None, *, upgrade: bool, stream: bool
    ) -> SocketResponse:
        clean = _send(link, head, body)
        answer = link.reader.head()
        if stream or upgrade:
            link.deadline = None
        upgraded = upgrade and answer.status in (101, 200)
        asked = head.split(b" ", 1)[0].decode()
        return SocketResponse(self, link, answer, asked=asked, upgraded=upgraded, clean=clean)

    def get_all(self, targets: Sequence[str], *, timeout: float) -> tuple[tuple[int, bytes], ...]:
        """See Transport. All requests are sent before the first answer is read: give a few dozen, not hundreds."""
        deadline = time.monotonic() + timeout
        found: list[tuple[int, bytes]] = []
        while len(found) < len(targets):
            link = self._take(deadline)
            before = len(found)
            try:
                keep = _pipeline(link, targets[before:], found)
            except Broken:
                self.give_back(link, keep=False)
                if not link.used and len(found) == before:
                    raise
            except BaseException:
                self.give_back(link, keep=False)
                raise
            else:
                self.give_back(link, keep=keep)
        return tuple(found)

    def peer_pid(self) -> int | None:
        """See Transport."""
        if not self._local:
            return None
        link = self._take(time.monotonic() + 10)
        try:
            with socket.socket(fileno=socket.dup(link.fileno())) as copy:
                size = struct.calcsize("3i")
                pid, _, _ = struct.unpack("3i", copy.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
        except OSError as error:
            raise Broken(f"the socket does not tell who listens ({error.strerror or error})") from error
        finally:
            self.give_back(link, keep=True)
        return int(pid)

    def close(self) -> None:
        """End all links."""
        with self._lock:
            self._closed = True
            links = list(self._live)
            self._live.clear()
            self._idle.clear()
        for link in links:
            link.close()


def _pipeline(link: Link, targets: Sequence[str], found: list[tuple[int, bytes]]) -> bool:
    """Ask for all `targets`, and add the answers to `found` until the other side ends the connection: then False."""
    link.send(b"".join(_head("GET", target, {}, None, upgrade=False) for target in targets))
    for _ in targets:
        head = link.reader.head()
        found.append((head.status, body_of(head, link.reader).read()))
        if not head.keeps_alive:
            return False
    return True


def _head(
    method: str, target: str, headers: Mapping[str, str], body: bytes | Iterable[bytes] | None, *, upgrade: bool
) -> bytes:
    fields = {"Host": "docker", "User-Agent": "sandboxrun", **headers}
    if upgrade:
        fields |= {"Connection": "Upgrade", "Upgrade": "tcp"}
    if isinstance(body, bytes):
        fields["Content-Length"] = str(len(body))
    elif body is not None:
        fields["Transfer-Encoding"] = "chunked"
    elif method not in ("GET", "HEAD"):
        fields["Content-Length"] = "0"
    lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items())]
    if any(map(_CONTROL.search, lines)):
        raise ValueError("a request's head cannot hold control characters")
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def _send(link: Link, head: bytes, body: bytes | Iterable[bytes] | None) -> bool:
    """Send a request. False when the other side stopped taking the body: its answer then tells why."""
    if body is None or isinstance(body, bytes):
        link.send(head + (body or b""))
        return True
    link.send(head)
    try:
        for piece in body:
            for start in range(0, len(piece), PIECE):
                part = piece[start : start + PIECE]
                link.send(b"%x\r\n%b\r\n" % (len(part), part))
        link.send(b"0\r\n\r\n")
    except Broken:
        return False
    return True
