"""Carrying requests to an engine: what a request and its answer are, how it can fail, and how connections are opened,
to a local socket and to another machine's through ssh as the docker command does it. Must not know the Engine API.
"""

from __future__ import annotations

import http.client
import re
import socket
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Protocol
from urllib.parse import urlsplit

from sandboxrun.data import Data

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


class TimedOut(TransportError):
    """No (complete) answer within the time given."""


class Request(Data):
    """One request. Raises ValueError for what would end a line of its head.

    `target` is path and query, quoted. `timeout` in seconds bounds connecting, and the whole exchange unless `stream`
    (then up to the answer's head). `upgrade` asks to take the connection over.
    """

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes | Iterable[bytes] | None = None
    timeout: float | None = TIMEOUT
    upgrade: bool = False
    stream: bool = False

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


class Connection(Protocol):
    """A connection that was taken over from HTTP: bytes both ways. Reading and closing may be in two threads."""

    def recv(self, size: int) -> bytes:
        """What has arrived, at most `size` bytes; waits for the first; b"" when the other side has ended."""
        ...

    def send(self, data: bytes) -> int:
        """Send all of `data`; its length."""
        ...

    def end_input(self) -> None:
        """Say that nothing more will be sent; reading goes on."""
        ...

    def fileno(self) -> int:
        """For select; look at `pending` first."""
        ...

    def pending(self) -> bool:
        """True when `recv` has bytes already that a select on `fileno` would not announce."""
        ...

    def close(self) -> None:
        """End it; a reader in another thread gets b""."""
        ...


class Response(Protocol):
    """An answer whose head has arrived. Read it piece by piece, or take the connection over: one of them."""

    status: int
    headers: Mapping[str, str]  # names in lower case

    def some(self) -> bytes:
        """The next piece of the body as it arrives; b"" at its end, or after `close`."""
        ...

    def connection(self) -> Connection:
        """The connection itself, after an upgrade."""
        ...

    def close(self) -> None:
        """Drop the rest; a reader in another thread gets b""."""
        ...


class Transport(Protocol):
    """Carries requests to one engine; usable from several threads at once."""

    endpoint: str  # where to, as a URL for a person

    def request(self, request: Request) -> Response:
        """Send it and wait for the answer's head. Raises TransportError."""
        ...

    def peer_pid(self) -> int | None:
        """The process that listens, as a local socket tells it: 0 when it is not in this pid namespace.

        None when the connection does not tell (anything that is not a local socket).
        """
        ...

    def close(self) -> None:
        """End all connections, those in use too."""
        ...


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
            return Unreachable(f"there is no socket {path}", "start the engine, or pass its address with --host")
        case PermissionError():
            help = 'join the group that owns the socket (usually `sudo usermod -aG docker "$USER"`, then log in again)'
            return Unreachable(f"no permission to use {path}", help)
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
