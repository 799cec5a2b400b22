"""Connections to an engine on another machine through the system's ssh, as the docker command makes them.

Owns the ssh process behind a connection. Must not know HTTP.
"""

from __future__ import annotations

import socket

from sandboxrun.engine.transport import Unreachable
from sandboxrun.engine.unix import Dial


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


def _reap(process: object) -> None:
    """Wait for the process in the background: it ends by itself once its socket is closed."""
    import threading

    threading.Thread(target=getattr(process, "wait"), daemon=True, name="sandboxrun-ssh").start()  # noqa: B009
