"""Requests over docker-py: an engine behind tcp, with or without TLS.

Owns the use of docker-py's client as a carrier. Must not use its calls: their answers and defaults are not the API's
(see the notes on update and on warnings in docs). docker-py costs a fifth of a second to import, hence local sockets
go another way (unix.py).
"""

from __future__ import annotations

import select
import socket
import threading
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from sandboxrun.backend.docker.transport import Broken, TimedOut, TransportError, Unreachable
from sandboxrun.backend.errors import Unsupported

if TYPE_CHECKING:
    from sandboxrun.backend.docker.connect import Endpoint, Tls

T = TypeVar("T")
PIECE = 64 * 1024
_BASE_VERSION = "1.41"  # docker-py wants one; the paths sent are this program's own


def tls_config(tls: Tls | None) -> Any:
    """As docker-py takes it; False without TLS. Raises Unsupported."""
    from docker.errors import TLSParameterError
    from docker.tls import TLSConfig

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


def _socket_of(raw: Any) -> socket.socket:
    """The socket below a urllib3 response: response, http.client response, buffered reader, SocketIO, socket."""
    found = raw._fp.fp.raw._sock
    assert isinstance(found, socket.socket)
    return found


def _cause(error: BaseException) -> str:
    """The innermost reason: requests and urllib3 wrap the one that matters several times."""
    seen: BaseException = error
    while True:
        inner = getattr(seen, "reason", None)
        if not isinstance(inner, BaseException):
            inner = next((arg for arg in seen.args if isinstance(arg, BaseException)), None) or seen.__cause__
        if not isinstance(inner, BaseException) or inner is seen:
            break
        seen = inner
    text = str(getattr(seen, "strerror", None) or seen)
    return text or type(seen).__name__


def _translated(error: BaseException) -> TransportError:
    """What requests, urllib3 or a socket raised, as one of ours."""
    from requests import exceptions as requests
    from urllib3 import exceptions as urllib3

    cause = _cause(error)
    match error:
        case requests.SSLError():
            return Unreachable(f"TLS failed ({cause})", "check DOCKER_CERT_PATH and the certificates in it")
        case requests.ConnectTimeout():
            return TimedOut("no connection in time")
        case requests.Timeout() | urllib3.TimeoutError() | TimeoutError():
            return TimedOut("no answer in time")
        case requests.ConnectionError() if _never_connected(error):
            return Unreachable(f"no connection ({cause})", "check the address, and that the engine listens there")
    return Broken(f"the connection was lost ({cause})")


def _never_connected(error: BaseException) -> bool:
    from urllib3 import exceptions as urllib3

    reason = getattr(error.args[0], "reason", error.args[0]) if error.args else None
    return isinstance(reason, urllib3.NewConnectionError | urllib3.NameResolutionError)


class HijackedConnection:
    """A connection taken over from docker-py's session."""

    def __init__(self, response: Any) -> None:
        self._response = response
        self._file = response.raw._fp.fp
        self._sock = _socket_of(response.raw)
        # Never waits in the socket: with TLS, Python's may not be read in one thread and written in another at once,
        # so a lock is held for each step, and the waiting is done by poll.
        self._sock.setblocking(False)
        self._lock = threading.Lock()
        self._reading = threading.RLock()
        self._ended = False
        self._early = self._drain()

    def _drain(self) -> bytes:
        """What came along with the head: it lies in the buffered reader."""
        try:
            return bytes(self._file.read1(PIECE) or b"") if self._file.peek(1) else b""
        except OSError:
            return b""  # nothing there yet (with TLS, said by an exception)

    def recv(self, size: int) -> bytes:
        """What has arrived; b"" at the end."""
        if self._early:
            taken, self._early = self._early[:size], self._early[size:]
            return taken
        with self._reading:
            if self._ended:
                return b""
            try:
                return self._step(lambda: self._sock.recv(size), select.POLLIN)
            except Broken:
                if self._ended:
                    return b""
                raise

    def send(self, data: bytes) -> int:
        """Send all of `data`."""
        left = memoryview(data)
        while left:
            left = left[self._step(partial(self._sock.send, left), select.POLLOUT) :]
        return len(data)

    def _step(self, step: Callable[[], T], events: int) -> T:
        """Do `step` once it can be done without waiting; `events` is what it waits for."""
        import ssl

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
                raise Broken(f"the connection was lost ({error})") from error
            if self._ended:
                raise Broken("the connection was ended")
            waiter = select.poll()
            waiter.register(self._sock.fileno(), wanted)
            waiter.poll()

    def end_input(self) -> None:
        """Nothing more will be sent. TLS in Python can only be ended both ways at once: Unsupported."""
        import ssl

        if isinstance(self._sock, ssl.SSLSocket):
            raise Unsupported("ending a command's input", "a connection with TLS cannot be ended in one direction")
        self._sock.shutdown(socket.SHUT_WR)

    def fileno(self) -> int:
        """The socket's descriptor."""
        return self._sock.fileno()

    def pending(self) -> bool:
        """True with bytes from the head's read, or decrypted ones."""
        return bool(self._early) or bool(getattr(self._sock, "pending", int)())

    def close(self) -> None:
        """End it: wake whoever reads, and give the descriptor back once nobody does."""
        self._ended = True
        _shut(self._sock)
        with self._reading:
            self._response.close()


def _shut(sock: socket.socket) -> None:
    """Wake whoever reads. Below TLS: its own shutdown would take the keys away under the reader."""
    try:
        socket.socket.shutdown(sock, socket.SHUT_RDWR)
    except OSError:
        return


class DockerPyResponse:
    """An answer that docker-py's session carried."""

    def __init__(self, response: Any, *, upgraded: bool) -> None:
        self.status = int(response.status_code)
        self.headers: Mapping[str, str] = {name.lower(): value for name, value in response.headers.items()}
        self._response = response
        self._hijacked = HijackedConnection(response) if upgraded else None
        self._ended = False
        self._sock = None if upgraded else self._find_socket()
        self._pieces = None if upgraded else response.raw.stream(PIECE, decode_content=False)

    def _find_socket(self) -> socket.socket | None:
        """Known only while the body has not ended: an empty body's socket is back in the pool."""
        try:
            return _socket_of(self._response.raw)
        except AttributeError:
            return None

    def _guarded(self, read: Callable[[], bytes]) -> bytes:
        try:
            return read()
        except TransportError:
            raise
        except Exception as error:  # a dozen kinds, ValueError and AttributeError too
            if self._ended:
                return b""
            self.close()
            raise _translated(error) from error

    def read(self) -> bytes:
        """The whole body."""
        return self._guarded(lambda: b"".join(iter(self.some, b"")))

    def some(self) -> bytes:
        """The next piece; b"" at the end."""
        if self._hijacked is not None:
            return self._hijacked.recv(PIECE)
        if self._ended or self._pieces is None:
            return b""
        pieces = self._pieces
        data = self._guarded(lambda: next(pieces, b""))
        if not data:
            self._sock = None  # back in the pool: no longer ours to end
        return data

    def connection(self) -> HijackedConnection:
        """The connection itself."""
        if self._hijacked is None:
            raise Broken("the engine did not hand the connection over")
        return self._hijacked

    def close(self) -> None:
        """Drop the rest."""
        self._ended = True
        if self._hijacked is not None:
            self._hijacked.close()
        elif self._sock is not None:
            _shut(self._sock)
            self._sock = None


class DockerPyTransport:
    """Requests through one docker-py APIClient, which is a requests.Session with a pool of connections."""

    def __init__(self, endpoint: Endpoint, *, parallelism: int) -> None:
        from docker import APIClient
        from docker.errors import DockerException
        from requests.adapters import HTTPAdapter
        from requests.utils import get_environ_proxies

        self.endpoint = endpoint.url
        self._live: weakref.WeakSet[DockerPyResponse] = weakref.WeakSet()
        try:
            self._client = APIClient(endpoint.url, version=_BASE_VERSION, tls=tls_config(endpoint.tls), timeout=None)
        except DockerException as error:
            raise Unsupported(f"connecting to {endpoint}", str(error), help="check the address") from error
        # Once instead of at each request; and no .netrc, whose passwords are not meant for an engine.
        self._client.proxies = get_environ_proxies(self._client.base_url)
        self._client.trust_env = False
        # Else the engine compresses archives, which would then be no tar.
        self._client.headers["Accept-Encoding"] = "identity"
        for scheme in ("http://", "https://"):
            self._client.mount(scheme, HTTPAdapter(pool_connections=1, pool_maxsize=max(10, parallelism)))

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
    ) -> DockerPyResponse:
        """See Transport. `timeout` bounds each wait for bytes, as requests has it; none after a stream's head."""
        fields = {**headers, "Connection": "Upgrade", "Upgrade": "tcp"} if upgrade else dict(headers)
        try:
            response = self._send(method, target, fields, body, timeout)
        except Broken:
            if method != "GET":
                raise
            response = self._send(method, target, fields, body, timeout)  # a kept connection that had ended
        if stream and (sock := getattr(getattr(response.raw._fp, "fp", None), "raw", None)):
            sock._sock.settimeout(None)
        found = DockerPyResponse(response, upgraded=upgrade and response.status_code in (101, 200))
        self._live.add(found)
        return found

    def _send(
        self,
        method: str,
        target: str,
        headers: Mapping[str, str],
        body: bytes | Iterable[bytes] | None,
        timeout: float | None,
    ) -> Any:
        from requests.exceptions import RequestException

        try:
            return self._client.request(
                method,
                self._client.base_url + target,
                headers=headers,
                data=body,
                timeout=(timeout, timeout),
                stream=True,
                allow_redirects=False,
            )
        except (RequestException, OSError) as error:
            raise _translated(error) from error

    def get_all(self, targets: Sequence[str], *, timeout: float) -> tuple[tuple[int, bytes], ...]:
        """See Transport. One after the other: docker-py cannot do better."""
        found = []
        for target in targets:
            response = self.request("GET", target, headers={}, body=None, timeout=timeout, upgrade=False, stream=False)
            found.append((response.status, response.read()))
        return tuple(found)

    def peer_pid(self) -> None:
        """See Transport: tcp does not tell."""
        return None

    def close(self) -> None:
        """End all connections whose answer has begun, and the idle ones."""
        for response in list(self._live):
            response.close()
        self._client.close()
