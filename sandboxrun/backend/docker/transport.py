"""Which engine to talk to, the user's registry credentials, and carrying requests to it: what a request and its answer
are, how it can fail, how connections are opened, to a local socket and to another machine's through ssh as the docker
command does it; and over a local socket.

Owns the order in which settings count: --host, DOCKER_SOCKET, DOCKER_HOST, DOCKER_CONTEXT, the docker command's
current context, the usual socket. On a local socket what changes the engine, and every stream, goes over docker-py
(docker_py.py), as all does elsewhere; plain questions go over the standard library, so that a listing or a plan does
without importing docker-py, which takes longer than all of its requests. Nothing but GET and HEAD may go past
docker-py. Does not know the Engine API.
"""

from __future__ import annotations

import hashlib
import http.client
import io
import json
import os
import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar
from urllib.parse import urlsplit

from msgspec import Struct, structs

from sandboxrun.backend.errors import EngineError
from sandboxrun.data import Data, DataType
from sandboxrun.errors import Diagnostic, UsageError, printable
from sandboxrun.profile.files import read_regular
from sandboxrun.spec.types import size_told
from sandboxrun.threads import after_fork

if TYPE_CHECKING:
    from sandboxrun.backend.docker.docker_py import DockerPyTransport, HijackedConnection, Response


T = TypeVar("T")


# -- Which engine to talk to. docker-py is asked only about a configuration that holds credentials: its import takes a
# while, and it looks for contexts below the current folder when there is no config.json


DEFAULT = "unix:///var/run/docker.sock"
LARGEST = 8 << 20  # bytes of one of its files


class Tls(Data):
    """The files for a connection with TLS; `verify` False accepts any certificate."""

    ca: Path | None
    certificate: Path | None
    key: Path | None
    verify: bool


class Endpoint(Data):
    """Where an engine is: a URL (unix, tcp or ssh), the setting it came from, and TLS for tcp."""

    url: str
    origin: str
    tls: Tls | None = None

    def __str__(self) -> str:
        return f"{self.url} (from {self.origin})"


def resolve(host: str | None, env: Mapping[str, str]) -> Endpoint:
    """The endpoint that `host` or the settings in `env` name. Raises UsageError for an invalid one."""
    if host:
        return _endpoint(host, "the host given", env)
    if env.get("DOCKER_SOCKET"):
        value = env["DOCKER_SOCKET"]
        if "://" in value and not value.startswith("unix://"):
            help = "for another address, set DOCKER_HOST"
            raise UsageError(Diagnostic(message=f"DOCKER_SOCKET is not a path: {value}", help=help))
        return _endpoint(value if "://" in value else os.path.abspath(value), "DOCKER_SOCKET", env)
    if env.get("DOCKER_HOST"):
        return _endpoint(env["DOCKER_HOST"], "DOCKER_HOST", env)
    if env.get("DOCKER_CONTEXT"):
        return _context(env["DOCKER_CONTEXT"], "DOCKER_CONTEXT", env)
    try:
        current = read_config(env).get("currentContext")
    except ValueError as error:
        raise UsageError(Diagnostic(message=str(error), help="fix the file, or set DOCKER_HOST")) from error
    if current:
        return _context(str(current), "the docker command's current context", env)
    return Endpoint(url=DEFAULT, origin="the default")


def _endpoint(address: str, origin: str, env: Mapping[str, str]) -> Endpoint:
    """An address as users write it, checked."""
    if address.startswith("/"):
        address = f"unix://{address}"
    scheme, _, rest = address.partition("://")
    match scheme:
        case "unix" if rest.startswith("/"):
            return Endpoint(url=address, origin=origin)
        case "tcp" | "http" | "https" if rest.rstrip("/"):
            # a missing port is docker-py's own default: 2375, or 2376 with TLS, as the docker command decides on it
            verify, tls = bool(env.get("DOCKER_TLS_VERIFY")) or scheme == "https", None
            if verify or env.get("DOCKER_TLS"):
                folder = Path(env["DOCKER_CERT_PATH"]) if env.get("DOCKER_CERT_PATH") else config_folder(env)
                tls = _tls_files(folder, verify=verify)
            return Endpoint(url=f"tcp://{rest.rstrip('/')}", origin=origin, tls=tls)
        case "ssh" if rest:
            return Endpoint(url=address, origin=origin)
    message = f"{origin} is not an engine's address: {address}"
    help = "write unix:///path/to/docker.sock, tcp://host:port or ssh://user@host"
    raise UsageError(Diagnostic(message=message, help=help))


def _tls_files(folder: Path, *, verify: bool) -> Tls:
    def file(name: str) -> Path | None:
        return folder / name if (folder / name).is_file() else None

    return Tls(ca=file("ca.pem"), certificate=file("cert.pem"), key=file("key.pem"), verify=verify)


def _context(name: str, origin: str, env: Mapping[str, str]) -> Endpoint:
    """What the docker command keeps of a context: contexts/meta/<sha256 of its name>/meta.json, and tls beside it."""
    if name == "default":
        return Endpoint(url=DEFAULT, origin=f"{origin} (default)")
    key = hashlib.sha256(name.encode()).hexdigest()
    folder = config_folder(env) / "contexts"
    try:
        meta = json.loads(read_regular(folder / "meta" / key / "meta.json", LARGEST))
        docker = meta["Endpoints"]["docker"]
        address, skip = str(docker["Host"]), bool(docker.get("SkipTLSVerify"))
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        message = f'the docker context "{name}" (from {origin}) cannot be read'
        help = "`docker context ls` lists those there are"
        raise UsageError(Diagnostic(message=message, help=help)) from error
    found = _endpoint(address, f'docker context "{name}"', {})
    files = folder / "tls" / key / "docker"
    if not found.url.startswith("tcp://") or not (files.is_dir() or skip):
        return found
    return structs.replace(found, tls=_tls_files(files, verify=not skip))


def config_folder(env: Mapping[str, str]) -> Path:
    """The docker command's configuration folder: DOCKER_CONFIG, or ~/.docker."""
    if env.get("DOCKER_CONFIG"):
        return Path(env["DOCKER_CONFIG"])
    return Path(env.get("HOME") or "~").expanduser() / ".docker"


def read_config(env: Mapping[str, str]) -> Mapping[str, Any]:
    """The docker command's config.json; empty when there is none. Raises ValueError when it is not a JSON object."""
    path = config_folder(env) / "config.json"
    try:
        value = json.loads(read_regular(path, LARGEST))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} is not a JSON object")
    return value


def registry_auth(ref: str, env: Mapping[str, str] | None = None) -> dict[str, str]:
    """The header that lets the engine act as the user at the registry of `ref`; empty without credentials.

    Raises EngineError when credentials are configured and cannot be read: going on without them would
    tell the user that an image of theirs does not exist.
    """
    operation = f"reading the credentials for image {ref}"
    env = os.environ if env is None else env
    try:
        config = read_config(env)
    except ValueError as error:
        raise EngineError(operation, printable(str(error))) from error
    if not any(config.get(key) for key in ("auths", "credsStore", "credHelpers")):
        return {}
    import warnings

    from docker import auth, errors

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what matters of them is raised
            registry, _ = auth.resolve_repository_name(ref.partition("@")[0])
            found = auth.AuthConfig.load_config(None, dict(config)).resolve_authconfig(registry)
    except errors.DockerException as error:
        raise EngineError(operation, printable(str(error))) from error
    return {"X-Registry-Auth": auth.encode_header(found).decode("ascii")} if found else {}


# -- Carrying requests


PIECE = 64 * 1024
MAX_WHOLE = 256 * 1024 * 1024  # bytes of a body that is read into memory
TIMEOUT = 120.0  # seconds; the engine's slowest short call (removing a large container) stays well below
CLOSED = "the connection to the engine was closed by this process"
_CONTROL = re.compile("[\x00-\x1f\x7f]")


class TransportError(Exception):
    """Carrying a request failed; the text is the cause, a clause for a person."""


class Unreachable(TransportError):
    """No connection came about: nothing was sent. `help` says what to do about it, where known."""

    def __init__(self, cause: str, help: str | None = None) -> None:
        super().__init__(cause)
        self.help = help


class Broken(TransportError):
    """The connection ended, or carried something that is not HTTP, before the answer was complete."""


class TooLarge(TransportError):
    """An answer that was to be read whole, and is larger than that may be."""


class TimedOut(TransportError):
    """No (complete) answer within the time given."""


class Request(Data):
    """One request. Raises ValueError for what would end a line of its head.

    `target` is path and query, quoted. `timeout` in seconds bounds connecting, and the whole exchange unless `stream`
    (then up to the answer's head). `upgrade` asks to take the connection over. What is read whole may have `most`
    bytes.
    """

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes | Iterable[bytes] | None = None
    timeout: float | None = TIMEOUT
    upgrade: bool = False
    stream: bool = False
    most: int | None = None

    def __post_init__(self) -> None:
        if any(map(_CONTROL.search, (self.target, *self.headers, *self.headers.values()))):
            raise ValueError("a request's head cannot hold control characters")

    def deadline(self) -> float | None:
        """When it must be done, by the monotonic clock, if it begins now."""
        return None if self.timeout is None else time.monotonic() + self.timeout


def seconds_left(deadline: float | None) -> float | None:
    """Until the monotonic clock is at `deadline`. Raises TimedOut when it was."""
    if deadline is None:
        return None
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimedOut("no answer in time")
    return left


Dial = Callable[[float | None], socket.socket]  # opens a connection, within so many seconds; raises TransportError


def dial_unix(path: str) -> Dial:
    """Connections to the local socket at `path`."""

    def dial(timeout: float | None) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            sock.settimeout(timeout)
            sock.connect(path)
        except OSError as error:
            sock.close()
            raise _refused(path, error) from error
        return sock

    return dial


def _refused(path: str, error: OSError) -> TransportError:
    match error:
        case FileNotFoundError():
            return Unreachable(f"there is no socket {path}", "start the engine, or set DOCKER_HOST to its address")
        case PermissionError():
            help = 'join the group that owns the socket (usually `sudo usermod -aG docker "$USER"`, then log in again)'
            return Unreachable(f"no permission to use {path}", help)
        case ConnectionRefusedError() if not Path(path).is_socket():
            return Unreachable(f"{path} is not a socket", "set DOCKER_HOST to the engine's address")
        case ConnectionRefusedError():
            return Unreachable(f"nothing listens on {path}", "start the engine: the socket was left by one that ended")
        case TimeoutError():
            return TimedOut(f"{path} does not accept connections")
    return Unreachable(f"{path} does not connect ({error.strerror or error})", "check the socket's path")


def ssh_command(url: str) -> tuple[str, ...]:
    """The command for `ssh://[user@]host[:port][/socket]`. Raises ValueError for another form."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    if parts.scheme != "ssh" or not host or host.startswith("-") or parts.password or parts.query or parts.fragment:
        raise ValueError("an ssh address has the form ssh://[user@]host[:port]")
    command = ["ssh", "-o", "ConnectTimeout=30", "-T"]
    if parts.username:
        command += ["-l", parts.username]
    if parts.port:
        command += ["-p", str(parts.port)]
    at = ["--host", f"unix://{parts.path}"] if parts.path not in ("", "/") else []
    return (*command, "--", host, "docker", *at, "system", "dial-stdio")


def dial_ssh(url: str) -> Dial:
    """Connections through `ssh … docker system dial-stdio`: the process holds the other end of a socket pair."""
    command = ssh_command(url)

    def dial(timeout: float | None) -> socket.socket:
        import subprocess

        from sandboxrun.threads import begin

        ours, theirs = socket.socketpair()
        ours.settimeout(timeout)
        try:
            # A session of its own: ^C on the terminal is for this process to handle, not for ssh.
            process = subprocess.Popen(command, stdin=theirs.fileno(), stdout=theirs.fileno(), start_new_session=True)
        except OSError as error:
            ours.close()
            raise Unreachable(f"ssh cannot be run ({error.strerror or error})", "install the OpenSSH client") from error
        finally:
            theirs.close()
        # It ends by itself once its socket is closed.
        begin(process.wait, name="sandboxrun-ssh", failed=lambda error: process.kill())
        return ours

    return dial


def shut(sock: socket.socket) -> None:
    """Wake whoever reads `sock`. Below TLS: its own shutdown would take the keys away under the reader."""
    with suppress(OSError):  # not connected any more
        socket.socket.shutdown(sock, socket.SHUT_RDWR)


def lost(error: BaseException) -> TransportError:
    """What a socket or the standard library's HTTP raised under way, as one of ours."""
    match error:
        case TransportError():
            return error
        case TimeoutError():
            return TimedOut("no answer in time")
        case http.client.RemoteDisconnected():
            return Broken("the connection ended without an answer")
        case http.client.IncompleteRead():
            return Broken("the connection ended before the answer did")
        case http.client.HTTPException():
            return Broken("the answer is not HTTP")
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return Broken(f"the connection was lost ({text})")


def give_up(told: TransportError, error: BaseException) -> NoReturn:
    """Raise it because of `error`. One that was raised before is, or lies below, that error: were it its own cause as
    well, whoever walks the causes would never end."""
    raise told from (error if told.__traceback__ is None else None)


# -- A local engine

_AT_ONCE = 50  # questions: far fewer bytes than a socket takes while nobody reads


class Whole(Struct, metaclass=DataType, frozen=False, kw_only=True, unshown=("body",)):
    """An answer that was read whole; its headers' names are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def some(self) -> bytes:
        """The next piece of the body: what was not taken yet; b"" at its end."""
        taken, self.body = self.body, b""
        return taken

    def connection(self) -> HijackedConnection:
        """There is none."""
        raise Broken("the engine did not hand the connection over")

    def close(self) -> None:
        """Drop the rest."""
        self.body = b""


class _Arriving(io.RawIOBase):
    """What arrives on a socket, waited for until `deadline`; where the socket does not wait, BlockingIOError."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self.deadline: float | None = None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if self._sock.gettimeout() != 0:
            self._sock.settimeout(seconds_left(self.deadline))
        return self._sock.recv_into(buffer)


class WholeLines(io.BufferedReader):
    """What arrives. A line that its connection cuts off is none: http.client takes a head that was cut off for one that
    ends there."""

    def readline(self, size: int | None = -1, /) -> bytes:
        line = super().readline(size)
        if not line.endswith(b"\n") and len(line) != size:
            raise http.client.IncompleteRead(line)
        return line


class _Reader(WholeLines):
    """The same, for one HTTPResponse after the other: each closes at its end what it reads from."""

    def makefile(self, _mode: str) -> _Reader:
        return self

    def close(self) -> None:
        """It ends with its socket."""


class _Connection:
    """A connection for plain questions, of which several may be sent before the first is answered."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._arriving = _Arriving(sock)
        self._reader = _Reader(self._arriving)
        self.ended = False  # by the engine, after its last answer

    def is_usable(self) -> bool:
        """Whether it is as its last answer left it: it may have ended, and what nobody asked for would be taken for the
        answer to the next question."""
        self.sock.settimeout(0)
        try:
            self._reader.peek(1)
        except OSError as error:
            return isinstance(error, BlockingIOError)
        return False

    def send(self, requests: Iterable[Request], deadline: float | None) -> None:
        fields = {"Host": "docker", "Accept-Encoding": "identity", "User-Agent": "sandboxrun"}
        heads = bytearray()
        for one in requests:
            lines = [f"{name}: {value}\r\n" for name, value in {**fields, **one.headers}.items()]
            heads += f"{one.method} {one.target} HTTP/1.1\r\n{''.join(lines)}\r\n".encode("latin-1")
        self.sock.settimeout(seconds_left(deadline))
        self.sock.sendall(heads)

    def answer(self, request: Request, deadline: float | None) -> Whole:
        """The next one."""
        self._arriving.deadline = deadline
        if not self._reader.peek(1):
            raise http.client.RemoteDisconnected("no answer")
        while True:
            with http.client.HTTPResponse(self._reader, method=request.method) as answer:  # type: ignore[arg-type]
                answer.begin()
                if answer.status >= 200:  # of what comes before the answer http.client itself passes over 100 only
                    return self._whole(answer, MAX_WHOLE if request.most is None else request.most)

    def _whole(self, answer: http.client.HTTPResponse, most: int) -> Whole:
        """All of it. Piece by piece, for else its size had no end."""
        body = bytearray()
        while piece := answer.read1(PIECE):
            body += piece
            if len(body) > most:
                raise TooLarge(f"the engine's answer is larger than {size_told(most)}")
        if answer.length and answer.chunked is False:
            raise http.client.IncompleteRead(bytes(body), answer.length)
        self.ended = answer.will_close
        fields = {name.lower(): value for name, value in answer.getheaders()}
        return Whole(status=answer.status, headers=fields, body=bytes(body))

    def close(self) -> None:
        self.sock.close()


class LocalTransport:
    """Requests over the connections of `dial`; up to `parallelism` idle ones are kept for questions."""

    def __init__(self, endpoint: Endpoint, dial: Dial, *, parallelism: int) -> None:
        self.endpoint = endpoint.url
        self._where = endpoint
        self._parallelism = max(1, parallelism)
        self._dial = dial
        self._idle: list[_Connection] = []
        self._asking: set[socket.socket] = set()
        self._closed = False
        self.begin()
        after_fork(self.begin)

    def begin(self) -> None:
        """Without a connection: as made, and in a process forked from the one whose its connections are."""
        self._lock = threading.RLock()
        for sock in (*self._asking, *(connection.sock for connection in self._idle)):
            sock.close()  # this process's half: the other one goes on using it
        self._asking, self._idle = set(), []
        self.__dict__.pop("_docker_py", None)

    @cached_property
    def _docker_py(self) -> DockerPyTransport:
        from sandboxrun.backend.docker.docker_py import DockerPyTransport

        return DockerPyTransport(self._where, self._dial, parallelism=self._parallelism)

    def request(self, request: Request) -> Response:
        """Send it and wait for the answer's head. Raises TransportError."""
        if request.method in ("GET", "HEAD") and request.body is None and not (request.upgrade or request.stream):
            return self.each((request,), lambda answer: answer)[0]
        with self._lock:  # made once, and not after `close`
            if self._closed:
                raise Unreachable(CLOSED)
            carrier = self._docker_py
        return carrier.request(request)

    def each(self, requests: Sequence[Request], read: Callable[[Response], T]) -> list[T]:
        """What `read` makes of the answers to plain questions, in their order. Many are sent at once: to wait for each
        answer takes three times as long. Raises TransportError.

        They go over a kept connection, or where that has ended over the next, and at last over a new one. If one ends
        before all are answered, the others are sent one by one: a question may be asked twice.
        """
        found: list[T] = []
        at_once = _AT_ONCE
        while sent := requests[len(found) : len(found) + at_once]:
            deadline, known = sent[0].deadline(), len(found)
            with self._lock:
                if self._closed:
                    raise Unreachable(CLOSED)
                kept = self._idle.pop() if self._idle else None
            if kept is not None and not kept.is_usable():
                kept.close()
                continue
            try:
                connection = kept or _Connection(self._dial(seconds_left(deadline)))
                self._exchange(connection, sent, deadline, lambda answer: found.append(read(answer)))
            except (OSError, http.client.HTTPException, TransportError) as error:
                told = lost(error)
                if not (isinstance(told, Broken) and (kept or len(sent) > 1 or self._closed)):
                    give_up(told, error)
            if not kept and len(found) - known < len(sent):
                at_once = 1
        return found

    def _exchange(
        self, connection: _Connection, sent: Sequence[Request], deadline: float | None, take: Callable[[Whole], None]
    ) -> None:
        """Until all are answered, or the engine ends the connection after an answer. It is kept for the next ones."""
        reusable = False
        try:
            with self._lock:
                if self._closed:
                    raise Unreachable(CLOSED)
                self._asking.add(connection.sock)
            connection.send(sent, deadline)
            for number, one in enumerate(sent):
                take(connection.answer(one, one.deadline() if number else deadline))
                if connection.ended:
                    return
            reusable = True
        finally:
            with self._lock:
                self._asking.discard(connection.sock)
                if reusable and not self._closed and len(self._idle) < self._parallelism:
                    self._idle.append(connection)
                else:
                    connection.close()

    def peer_pid(self) -> int:
        """The process that listens: 0 when it is not in this pid namespace. Raises TransportError, OSError."""
        with self._dial(10) as sock:
            try:
                told = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
            except OSError as error:
                raise Broken(f"the socket does not report who listens ({error.strerror or error})") from error
        return int(struct.unpack("3i", told)[0])

    def close(self) -> None:
        """End all connections, those in use too."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
            for sock in self._asking:
                shut(sock)
        for connection in idle:
            connection.close()
        if "_docker_py" in self.__dict__:
            self._docker_py.close()
