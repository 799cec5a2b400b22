"""Network namespaces of a test's own: all that its servers and clients say to each other stays in them.

Needs root. Nothing is left: a namespace ends with the last that uses it.
"""

from __future__ import annotations

import ctypes
import os
import socket
import subprocess
import threading
from collections.abc import Callable
from types import TracebackType
from typing import TypeVar

T = TypeVar("T")
_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


def impossible() -> str | None:
    """Why there can be none here."""
    return None if os.geteuid() == 0 else "network namespaces of one's own need root"


class Space:
    """One namespace, with loopback up; sockets can be made in it, and programs run."""

    def __init__(self) -> None:
        self._holder = subprocess.Popen(
            ["unshare", "--net", "sh", "-c", "ip link set lo up && echo && exec sleep 3600"], stdout=subprocess.PIPE
        )
        assert self._holder.stdout is not None
        if self._holder.stdout.readline() != b"\n":
            raise OSError("no network namespace could be made")
        self.pid = self._holder.pid
        self._file = os.open(f"/proc/{self.pid}/ns/net", os.O_RDONLY)

    def __enter__(self) -> Space:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Let go of it."""
        os.close(self._file)
        self._holder.kill()
        self._holder.wait()
        assert self._holder.stdout is not None
        self._holder.stdout.close()

    def ip(self, *arguments: str) -> None:
        """`ip` in the namespace."""
        subprocess.run([*self.command, "ip", *arguments], check=True, capture_output=True)

    @property
    def command(self) -> list[str]:
        """What a command line begins with, to run in the namespace."""
        return ["nsenter", f"--net=/proc/{self.pid}/ns/net"]

    def inside(self, make: Callable[[], T]) -> T:
        """Call `make` in the namespace: what sockets it makes belong there."""
        results: list[T] = []
        errors: list[BaseException] = []

        def call() -> None:
            try:
                if _libc.setns(self._file, _CLONE_NEWNET) != 0:
                    raise OSError(ctypes.get_errno(), "setns")
                results.append(make())
            except BaseException as error:
                errors.append(error)

        thread = threading.Thread(target=call)
        thread.start()
        thread.join()
        if errors:
            raise errors[0]
        return results[0]

    def listen(self, host: str, port: int, kind: int = socket.SOCK_STREAM) -> socket.socket:
        """A bound socket, listening where it is TCP."""

        def make() -> socket.socket:
            sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, kind)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((host, port))
            if kind == socket.SOCK_STREAM:
                sock.listen(128)
            return sock

        return self.inside(make)

    def connect(self, host: str, port: int) -> socket.socket:
        """A connection from the namespace."""
        return self.inside(lambda: socket.create_connection((host, port), timeout=60))
