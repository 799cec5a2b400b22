"""Opening connections: to a local socket, and to another machine's through ssh, as the docker command does it.

Owns what stands behind a connection (the socket's path, the ssh process), ending one that is being read, and what is
said of one that failed.
"""

from __future__ import annotations

import http.client
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from sandboxrun.backend.docker.transport import Broken, TimedOut, TransportError, Unreachable

if TYPE_CHECKING:
    import subprocess

Dial = Callable[[float | None], socket.socket]  # opens one, within so many seconds; raises TransportError


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
            return Unreachable(f"there is no socket {path}", "start the engine, or say where it listens with --host")
        case PermissionError():
            help = 'join the group that owns the socket (usually `sudo usermod -aG docker "$USER"`, then log in again)'
            return Unreachable(f"no permission to use {path}", help)
        case ConnectionRefusedError():
            return Unreachable(f"nothing listens on {path}", "start the engine: the socket was left by one that ended")
        case TimeoutError():
            return TimedOut(f"{path} does not take connections")
    return Unreachable(f"{path} does not connect ({error.strerror or error})", "check the socket's path")


def ssh_command(url: str) -> tuple[str, ...]:
    """The command for `ssh://[user@]host[:port][/socket]`. Raises ValueError for another form."""
    from urllib.parse import urlsplit

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
        _reap(process)
        return ours

    return dial


def _reap(process: subprocess.Popen[bytes]) -> None:
    """Wait for the process in the background: it ends by itself once its socket is closed."""
    from sandboxrun.threads import begin

    begin(process.wait, name="sandboxrun-ssh", failed=lambda error: process.kill())


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
