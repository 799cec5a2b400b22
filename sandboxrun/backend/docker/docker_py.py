"""Requests over docker-py: to an engine behind tcp, TLS, a local socket or ssh.

Owns the use of docker-py's client as a carrier. Does not use its calls: their answers and defaults are not the API's
(see the notes on update and on warnings in docs). Imported only where needed, for docker-py takes a fifth of a second.
"""

from __future__ import annotations

import http.client
import select
import socket
import ssl
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import requests
import urllib3.exceptions
from docker import APIClient
from docker.errors import DockerException, TLSParameterError
from docker.tls import TLSConfig
from requests.adapters import HTTPAdapter
from requests.structures import CaseInsensitiveDict
from requests.utils import get_environ_proxies
from urllib3.connection import HTTPConnection
from urllib3.connectionpool import HTTPConnectionPool

from sandboxrun.backend.docker import transport
from sandboxrun.backend.errors import Unsupported
from sandboxrun.threads import after_fork, together

if TYPE_CHECKING:
    from sandboxrun.backend.docker.transport import Endpoint, Tls

T = TypeVar("T")
_BASE_VERSION = "1.41"  # docker-py wants one; the paths sent are this program's own
_MUCH, _MOST = 1 << 14, 1 << 18  # bytes that arrive at once from a program that writes as fast as it can
_LONGEST_LINE = 1 << 16  # bytes, of a chunk's size or what trails the last one: as http.client has it
_ASKERS = 4  # threads that ask many questions, and wait for each answer
_GATHERING = 0.0005  # seconds: less than it takes the engine to fill the socket's buffer
_DIALLED = "tcp://docker:2375"  # what docker-py takes for the address of an engine that `dial` leads to


def tls_config(tls: Tls | None) -> Any:
    """As docker-py takes it; False without TLS. Raises Unsupported."""
    if tls is None:
        return False
    if (tls.certificate is None) != (tls.key is None):
        raise Unsupported("setting up TLS", "of cert.pem and key.pem one is missing", help="see DOCKER_CERT_PATH")
    pair = (str(tls.certificate), str(tls.key)) if tls.certificate else None
    ca = str(tls.ca) if tls.ca else None
    try:
        return TLSConfig(client_cert=pair, ca_cert=ca, verify=tls.verify)
    except TLSParameterError as error:
        raise Unsupported("setting up TLS", str(error), help="see DOCKER_CERT_PATH") from error


class _WholeHead(http.client.HTTPResponse):
    """An answer whose head is not cut off."""

    def __init__(self, sock: socket.socket, *args: Any, **options: Any) -> None:
        super().__init__(sock, *args, **options)
        self.fp = transport.WholeLines(self.fp.detach())

    def begin(self) -> None:
        if self.headers is None and not self.fp.peek(1):
            raise http.client.RemoteDisconnected("no answer")
        super().begin()


class _Strict:
    """A connection that takes no other answers."""

    response_class = _WholeHead


class _Carrying(HTTPAdapter):
    """Carries the session's requests over urllib3's connections."""

    def get_connection_with_tls_context(self, *args: Any, **kwargs: Any) -> HTTPConnectionPool:
        pool: HTTPConnectionPool = super().get_connection_with_tls_context(*args, **kwargs)
        if not issubclass(kind := pool.ConnectionCls, _Strict):
            pool.ConnectionCls = type(kind.__name__, (_Strict, kind), {})
        return pool


class _Dialled(_Strict, HTTPConnection):  # type: ignore[misc]
    """A connection that `dial` opens."""

    def __init__(self, dial: transport.Dial, **options: Any) -> None:
        super().__init__(**options)
        self._dial = dial

    def _new_conn(self) -> socket.socket:
        timeout = self.timeout
        return self._dial(float(timeout) if isinstance(timeout, int | float) else None)


class _Dialling(HTTPAdapter):
    """Carries the session's requests over the connections of one dial."""

    def __init__(self, dial: transport.Dial, size: int) -> None:
        super().__init__()
        self._pool = HTTPConnectionPool("docker", maxsize=size)
        self._pool.ConnectionCls = partial(_Dialled, self._noted(dial))  # type: ignore[assignment]
        self._lock = threading.Lock()
        self._sockets: weakref.WeakSet[socket.socket] = weakref.WeakSet()

    def _noted(self, dial: transport.Dial) -> transport.Dial:
        def noted(timeout: float | None) -> socket.socket:
            sock = dial(timeout)
            with self._lock:
                self._sockets.add(sock)
            return sock

        return noted

    def get_connection_with_tls_context(self, *args: Any, **kwargs: Any) -> HTTPConnectionPool:
        return self._pool

    def close(self) -> None:
        with self._lock:
            for sock in list(self._sockets):  # those too whose answer is still waited for
                transport.shut(sock)
        self._pool.close()


def _cause(error: BaseException) -> BaseException:
    """The innermost reason: requests and urllib3 wrap the one that matters several times."""
    seen: BaseException = error
    while True:
        inner = getattr(seen, "reason", None)
        if not isinstance(inner, BaseException):
            inner = next((arg for arg in seen.args if isinstance(arg, BaseException)), None) or seen.__cause__
        if not isinstance(inner, BaseException) or inner is seen:
            return seen
        seen = inner


def _translated(error: BaseException) -> transport.TransportError:
    """What requests, urllib3 or a socket raised, as one of ours."""
    match error:
        case requests.exceptions.SSLError():
            return transport.Unreachable(
                f"TLS failed ({_text(error)})", "check DOCKER_CERT_PATH and the certificates in it"
            )
        case requests.exceptions.ConnectTimeout():
            return transport.TimedOut("no connection in time")
        case requests.exceptions.Timeout() | urllib3.exceptions.TimeoutError():
            return transport.TimedOut("no answer in time")
        case requests.exceptions.ConnectionError(args=[first, *_]) if isinstance(
            getattr(first, "reason", first),
            urllib3.exceptions.NewConnectionError | urllib3.exceptions.NameResolutionError,
        ):
            help = "check the address, and that the engine listens there"
            return transport.Unreachable(f"no connection ({_text(error)})", help)
    return transport.lost(_cause(error))


def _text(error: BaseException) -> str:
    cause = _cause(error)
    return str(getattr(cause, "strerror", None) or cause) or type(cause).__name__


class HijackedConnection:
    """A connection taken over from docker-py's session: bytes both ways. Reading and closing may be in two threads."""

    def __init__(self, response: Any) -> None:
        self._response = response
        self._file = response.raw._fp.fp
        self._sock: socket.socket = response.raw._fp.fp.raw._sock
        # With TLS it never waits in the socket: Python's may not be read in one thread and written in another at once,
        # so a lock is held for each step, and the waiting is done by poll.
        self._waits = not isinstance(self._sock, ssl.SSLSocket)
        self._sock.setblocking(False)
        self._lock = nullcontext() if self._waits else threading.Lock()
        self._reading = threading.RLock()
        self._ended = self._flowing = False  # whether what came last was much
        self._early = self._drain()
        self._sock.setblocking(self._waits)

    def _drain(self) -> bytes:
        """What came along with the head: it lies in the buffered reader."""
        try:
            return bytes(self._file.read1(transport.PIECE) or b"") if self._file.peek(1) else b""
        except OSError:
            return b""  # nothing there yet (with TLS, said by an exception)

    def recv(self, size: int) -> bytes:
        """What has arrived, at most `size` bytes; waits for the first; b"" when the other side has ended."""
        if self._early:
            taken, self._early = self._early[:size], self._early[size:]
            return taken
        with self._reading:
            if self._flowing:  # so does what comes next, and who is woken for all of it at once is woken less often
                time.sleep(_GATHERING)
            if self._ended:
                return b""
            try:
                data = self._step(lambda: self._sock.recv(size), select.POLLIN)
            except transport.Broken:
                if self._ended:
                    return b""
                raise
            self._flowing = self._waits and len(data) >= _MUCH
            return data

    def send(self, data: bytes) -> int:
        """Send all of `data`."""
        left = memoryview(data)
        while left:
            left = left[self._step(partial(self._sock.send, left), select.POLLOUT) :]
        return len(data)

    def _step(self, step: Callable[[], T], events: int) -> T:
        """Do `step` once it can be done without waiting; `events` is what it waits for."""
        wanted = events
        while True:
            try:
                with self._lock:
                    return step()
            except ssl.SSLWantReadError:
                wanted = select.POLLIN
            except ssl.SSLWantWriteError:
                wanted = select.POLLOUT
            except BlockingIOError:
                wanted = events
            except (OSError, ValueError) as error:
                raise transport.Broken(f"the connection was lost ({error})") from error
            if self._ended:
                raise transport.Broken("the connection was ended")
            waiter = select.poll()
            waiter.register(self._sock.fileno(), wanted)
            waiter.poll()

    def end_input(self) -> None:
        """Nothing more will be sent; reading goes on. TLS in Python ends only both ways at once: Unsupported."""
        if not self._waits:
            raise Unsupported("ending a command's input", "a connection with TLS cannot be ended in one direction")
        self._sock.shutdown(socket.SHUT_WR)

    def fileno(self) -> int:
        """For select; look at `pending` first."""
        return self._sock.fileno()

    def pending(self) -> bool:
        """True when `recv` has bytes already that a select would not announce: from the head's read, or decrypted."""
        return bool(self._early) or bool(getattr(self._sock, "pending", int)())

    def close(self) -> None:
        """End it: wake whoever reads, and give the descriptor back once nobody does."""
        self._ended = True
        transport.shut(self._sock)
        with self._reading:
            self._response.close()


class _Chunks:
    """The body of a chunked answer, of which all is decoded that has arrived: an engine sends each line of a log as a
    chunk, and http.client takes ten times as long to read them one by one."""

    def __init__(self, answer: Any) -> None:
        self._answer, self._file = answer, answer.fp
        self._data = b""  # arrived, and not decoded: the beginning of a line
        self._left = self._after = 0  # bytes of the chunk that are still to come, and of what ends it
        self._trailing = self._done = False
        self._fault: http.client.HTTPException | None = None  # in what follows what was decoded last

    @property
    def spent(self) -> bool:
        """Whether nothing came after its end."""
        return self._done and not self._data

    def read(self, begin: Callable[[], None]) -> bytes:
        """The next piece; b"" at the end. `begin` is called before each wait for more."""
        while not (found := self._decoded()) and not self._done:
            if self._fault is not None:
                raise self._fault
            begin()
            more = self._file.read1(_MOST)
            if not more:
                raise http.client.IncompleteRead(b"")
            self._data += more
        return found

    def _decoded(self) -> bytes:
        data, at, parts = self._data, 0, list[bytes]()
        while not self._done and self._fault is None:
            if self._left:
                part = data[at : at + self._left]
                parts.append(part)
                at += len(part)
                self._left -= len(part)
                self._after = 2
            if self._left or len(data) - at < self._after:
                break
            at, self._after = at + self._after, 0
            end = data.find(b"\n", at) + 1
            if (end or len(data)) - at > _LONGEST_LINE:
                self._fault = http.client.LineTooLong("chunk size")
            elif not end:
                break
            elif self._trailing:
                self._done = data[at:end] in (b"\r\n", b"\n")
            else:
                try:
                    self._left = int(data[at:end].partition(b";")[0], 16)
                except ValueError:
                    self._left = -1
                if self._left < 0:
                    self._left, self._fault = 0, http.client.IncompleteRead(b"")
                self._trailing = not self._left
            at = end
        self._data = data[at:]
        if self._done:
            self._answer.close()
        return b"".join(parts)


class DockerPyResponse:
    """An answer that docker-py's session carried. Its connection goes back into the pool at the body's end."""

    def __init__(self, response: Any, *, upgraded: bool, deadline: float | None) -> None:
        self.status = int(response.status_code)
        self.headers: Mapping[str, str] = {name.lower(): value for name, value in response.headers.items()}
        self._raw = raw = response.raw
        self._deadline = deadline
        self._lock = threading.Lock()
        self._ended = self._closed = False
        self._hijacked = HijackedConnection(response) if upgraded else None
        self._sock: socket.socket | None = None
        if upgraded:
            return
        # Given back here and not by urllib3: `close` in another thread must not end what carries the next request.
        self._connection, raw._connection = raw._connection, None
        self._sock = getattr(getattr(getattr(raw._fp, "fp", None), "raw", None), "_sock", None)
        chunked = raw.length_remaining is None and raw._fp.chunked and raw._fp.fp is not None
        self._chunks = _Chunks(raw._fp) if chunked else None
        if raw.length_remaining == 0:
            self.some()

    def some(self) -> bytes:
        """The next piece of the body as it arrives; b"" at its end, or after `close`."""
        if self._hijacked is not None:
            return self._hijacked.recv(_MOST)
        if self._ended:
            return self._left()
        try:
            if self._chunks is not None:
                data = self._chunks.read(self._begin)
            else:
                self._begin()
                data = bytes(self._raw.read1(transport.PIECE, decode_content=False))
        except Exception as error:  # a dozen kinds, ValueError and AttributeError too
            if not self._ends():
                return self._left()
            self._give_back(keep=False)
            transport.give_up(_translated(error), error)
        if not data and self._ends():
            self._give_back(keep=self._chunks is None or self._chunks.spent)
        return data or self._left()

    def _begin(self) -> None:
        # After "Connection: close" it is gone with the body's last byte, before the end is read.
        if self._deadline is not None and self._sock is not None and self._sock.fileno() >= 0:
            self._sock.settimeout(transport.seconds_left(self._deadline))

    def _left(self) -> bytes:
        """After `close`, which only woke the reader: nobody uses the connection any more."""
        with self._lock:
            if self._closed:
                self._give_back(keep=False)
        return b""

    def _ends(self) -> bool:
        """True once: from then on the connection may be another request's, and is not ours to end."""
        with self._lock:
            first, self._ended = not self._ended, True
        return first

    def _give_back(self, *, keep: bool) -> None:
        if not keep:
            self._raw.close()
            if self._connection is not None:
                self._connection.close()
        elif self._connection is not None:
            self._raw._pool._put_conn(self._connection)

    def connection(self) -> HijackedConnection:
        """The connection itself."""
        if self._hijacked is None:
            raise transport.Broken("the engine did not hand the connection over")
        return self._hijacked

    def close(self) -> None:
        """Drop the rest; a reader in another thread gets b""."""
        if self._hijacked is not None:
            self._hijacked.close()
        else:
            with self._lock:  # the reader does not end the socket meanwhile
                if not self._ended:
                    self._ended = self._closed = True
                    if self._sock is not None:
                        transport.shut(self._sock)


class DockerPyTransport:
    """Requests through one docker-py APIClient, which is a requests.Session with a pool of connections."""

    def __init__(self, endpoint: Endpoint, dial: transport.Dial | None = None, *, parallelism: int) -> None:
        """`dial` opens the connections; without it, `endpoint` is tcp and docker-py does."""
        self.endpoint = endpoint.url
        self._where, self._dial, self._size = endpoint, dial, max(10, parallelism)
        self._closed = False
        self.begin()
        after_fork(self.begin)

    def begin(self) -> None:
        """Without a connection: as made, and in a process forked from the one whose its connections are."""
        endpoint, dial, size = self._where, self._dial, self._size
        self._lock = threading.Lock()
        self._live: weakref.WeakSet[DockerPyResponse] = weakref.WeakSet()
        tls = tls_config(endpoint.tls)
        try:
            self._client = APIClient(_DIALLED if dial else endpoint.url, version=_BASE_VERSION, tls=tls, timeout=None)
        except DockerException as error:
            raise Unsupported(f"connecting to {endpoint}", str(error), help="check the address") from error
        client = self._client
        proxies = {} if dial else get_environ_proxies(client.base_url)
        # Else the engine compresses archives, which would then be no tar.
        self._headers = CaseInsensitiveDict({**client.headers, "Accept-Encoding": "identity"})
        adapter = _Dialling(dial, size) if dial else _Carrying(pool_connections=1, pool_maxsize=size)
        for scheme in ("http://", "https://"):
            client.mount(scheme, adapter)
        # By itself the session works out for each request what is the same for all, reads .netrc, whose passwords are
        # not meant for an engine, and follows redirects: that takes as long again as the adapter.
        carrier = client.get_adapter(client.base_url)
        self._carry = partial(carrier.send, stream=True, verify=client.verify, cert=client.cert, proxies=proxies)

    def request(self, request: transport.Request) -> DockerPyResponse:
        """Send it and wait for the answer's head. One that drips in is bounded by `timeout` for each of its pieces, as
        requests has it. Raises TransportError."""
        deadline = request.deadline()
        try:
            response = self._send(request)
        except transport.Broken:
            if request.method != "GET":
                raise
            response = self._send(request)  # a kept connection that had ended
        if request.stream and (sock := getattr(getattr(response.raw._fp, "fp", None), "raw", None)):
            sock._sock.settimeout(None)
        upgraded = request.upgrade and response.status_code in (101, 200)
        found = DockerPyResponse(response, upgraded=upgraded, deadline=None if request.stream else deadline)
        with self._lock:
            self._live.add(found)
            closed = self._closed
        if closed:
            found.close()
        return found

    def each(self, requests: Sequence[transport.Request], read: Callable[[Response], T]) -> Sequence[T]:
        """What `read` makes of the answers to plain questions, in their order. Raises TransportError."""
        return together(lambda one: read(self.request(one)), requests, workers=_ASKERS)

    def _send(self, request: transport.Request) -> Any:
        if self._closed:
            raise transport.Unreachable(transport.CLOSED)
        body = request.body
        asked = requests.PreparedRequest()
        asked.method, asked.url = request.method, self._client.base_url + request.target
        asked.headers = self._headers.copy()
        asked.headers.update(request.headers)
        if request.upgrade:
            asked.headers.update({"Connection": "Upgrade", "Upgrade": "tcp"})
        # requests takes a tuple or a list for the fields of a form
        asked.prepare_body(body if body is None or isinstance(body, bytes) else iter(body), None)
        try:
            return self._carry(asked, timeout=(request.timeout, request.timeout))
        except (requests.exceptions.RequestException, OSError) as error:
            transport.give_up(_translated(error), error)

    def peer_pid(self) -> None:
        """The process that listens: neither tcp nor ssh tells."""
        return None

    def close(self) -> None:
        """End all connections. Over tcp, one whose answer has not begun ends with it, or in its time."""
        with self._lock:
            self._closed = True
            live = list(self._live)
        for response in live:
            response.close()
        self._client.close()


Response = transport.Whole | DockerPyResponse  # read it piece by piece, or take the connection over: one of them
# Carries requests to one engine; usable from several threads at once.
Transport = transport.LocalTransport | DockerPyTransport
