"""A dockerd of one's own: where its files lie, starting, stopping and killing it, and what it leaves behind.

Everything of one daemon lies below one folder, so that its processes and mounts are told from any other's. It
never touches a process that does not name that folder. Standard library only: an engine can be stopped when the
virtual environment is gone.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar

from scripts.system import SEARCH_PATH, locked

_LIBC = ctypes.CDLL(None, use_errno=True)
_MNT_DETACH = 2


class DaemonError(Exception):
    """The daemon did not start or stop; the text says why, with the end of its log."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Daemon:
    """One dockerd. `enter` is put before its command line (`nsenter …`), `options` after it."""

    root: Path
    socket: Path
    enter: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    programs: ClassVar[tuple[str, ...]] = ("dockerd", "containerd", "containerd-shim", "containerd-shim-runc-v2")

    @property
    def endpoint(self) -> str:
        """As DOCKER_HOST wants it."""
        return f"unix://{self.socket}"

    @property
    def log(self) -> Path:
        """What the daemon and its containerd print; appended to over restarts."""
        return self.root / "dockerd.log"

    @property
    def pid(self) -> int | None:
        """The process id while it runs; None when it does not, whatever a stale pidfile says."""
        try:
            pid = int(self._pidfile.read_text())
        except (FileNotFoundError, ValueError):
            return None
        return pid if any(word.endswith(self.endpoint) for word in _argv(pid)) else None

    def start(self, *, within: float = 90) -> None:
        """Start it unless it runs, and wait until it answers. Raises DaemonError with the log's end."""
        self.root.mkdir(parents=True, exist_ok=True)
        with locked(self.root / "lock"):  # two daemons on one data-root corrupt each other
            process = None
            if self.pid is None:
                self._drop_stale_pidfiles()
                process = self._spawn()
            ended = (lambda: process.poll() is not None) if process else (lambda: self.pid is None)
            self._wait_until_it_answers(ended, within)

    def stop(self, *, within: float = 60) -> None:
        """End it as an administrator would (its containers are stopped too), then whatever did not go by itself."""
        if (pid := self.pid) is not None:
            os.kill(pid, signal.SIGTERM)
            if not _eventually(lambda: not _alive(pid), within):
                os.kill(pid, signal.SIGKILL)
                _eventually(lambda: not _alive(pid), 10)
        self._clear()

    def kill(self) -> None:
        """SIGKILL the daemon alone, as a crash: its containers run on and its pidfile stays."""
        if (pid := self.pid) is not None:
            os.kill(pid, signal.SIGKILL)
            if not _eventually(lambda: not _alive(pid), 10):
                raise DaemonError(f"dockerd {pid} outlived SIGKILL")

    @property
    def _pidfile(self) -> Path:
        return self.root / "dockerd.pid"

    def _drop_stale_pidfiles(self) -> None:
        """After a SIGKILL: dockerd refuses to start over its own, and waits for a dead containerd over the other.

        The kernel ends containerd with its parent, but dockerd 20.10 takes it for running while it is a zombie.
        """
        self._pidfile.unlink(missing_ok=True)
        theirs = self.root / "exec/containerd/containerd.pid"
        with contextlib.suppress(FileNotFoundError, ValueError):
            pid = int(theirs.read_text())
            if _eventually(lambda: str(theirs.parent) not in " ".join(_argv(pid)), 5):  # a zombie has no argv
                theirs.unlink()

    def _spawn(self) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [*self.enter, *self._command()], env={**os.environ, "PATH": SEARCH_PATH}, cwd="/",
                start_new_session=True, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip

    def _command(self) -> list[str]:
        return [
            "dockerd",
            f"--data-root={self.root}/data", f"--exec-root={self.root}/exec", f"--pidfile={self._pidfile}",
            f"--host={self.endpoint}", *self.options,
        ]  # fmt: skip

    def _wait_until_it_answers(self, ended: Callable[[], bool], within: float) -> None:
        if _eventually(lambda: answers(self.socket) or ended(), within) and answers(self.socket):
            return
        what = "ended at once" if ended() else f"did not answer within {within:.0f} s"
        tail = self.log.read_text(errors="replace").splitlines()[-20:]
        raise DaemonError("\n".join([f"dockerd {what}; the end of {self.log}:", *tail]))

    def _clear(self) -> None:
        """End what this daemon started (containerd, shims) and their containers, and undo its mounts."""
        for pid in [pid for shim in self._processes() for pid in (*_children(shim), shim)]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        _eventually(lambda: not list(self._processes()), 10)
        for mount in self._mounts():
            _LIBC.umount2(mount.encode(), _MNT_DETACH)
        self.socket.unlink(missing_ok=True)
        self._pidfile.unlink(missing_ok=True)

    def _processes(self) -> Iterator[int]:
        for entry in Path("/proc").glob("[0-9]*"):
            argv = _argv(int(entry.name))
            if argv and Path(argv[0]).name in self.programs and any(f"{self.root}/" in word for word in argv):
                yield int(entry.name)

    def _mounts(self) -> list[str]:
        """Deepest first, so that each can go."""
        points = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
        return sorted((p for p in points if p.startswith(f"{self.root}/")), key=len, reverse=True)


def answers(path: Path) -> bool:
    """Whether an engine answers on this socket within two seconds."""
    with _connected(path) as connection:
        if connection is None:
            return False
        try:
            connection.sendall(b"GET /_ping HTTP/1.0\r\n\r\n")
            return b" 200 " in connection.recv(64)
        except OSError:
            return False


def listens(path: Path) -> bool:
    """Whether any process holds this socket open, answering or not: a daemon started on it would take it away."""
    with _connected(path) as connection:
        return connection is not None


@contextlib.contextmanager
def _connected(path: Path) -> Iterator[socket.socket | None]:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(2)
        try:
            connection.connect(str(path))
        except OSError:
            yield None
        else:
            yield connection


def _argv(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")[:-1]
    except (FileNotFoundError, ProcessLookupError):
        return []


def _alive(pid: int) -> bool:
    """A zombie does not count: whoever started it may not have waited for it yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def _children(pid: int) -> list[int]:
    found: list[int] = []
    for tasks in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found += map(int, tasks.read_text().split())
    return found


def _eventually(holds: Callable[[], bool], within: float) -> bool:
    deadline = time.monotonic() + within
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True
