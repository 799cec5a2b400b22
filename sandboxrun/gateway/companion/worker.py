"""One HAProxy process: its start, its own socket, its sessions, its end.

Owns what is said to HAProxy. Does not know the rules.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

START_SECONDS = 10.0
SAY_SECONDS = 3.0
MAX_ANSWER = 8 << 20
_SESSION = re.compile(rb"^(0x[0-9a-f]+): \[.*\] id=([0-9]+) proto=(?!unix_stream source=unix:\S* *$)", re.MULTILINE)
ADMIN = "admin.sock"


class WorkerError(Exception):
    """HAProxy did not start, or does not answer."""


class Worker:
    """HAProxy at work by one configuration, in a folder of its own."""

    def __init__(self, folder: Path, before: Worker | None = None) -> None:
        """Start it; from `before` it takes over the sockets that both listen on. Raises WorkerError, OSError."""
        self.folder = folder
        self.began = time.monotonic()
        command = ["haproxy", "-q", "-db", "-f", str(folder / "haproxy.cfg")]
        if before is not None:
            command += ["-x", str(before.folder / ADMIN)]
        with open(folder / "errors", "wb") as errors:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=errors, stderr=errors, env={"PATH": os.environ["PATH"]}
            )
        try:
            self._await()
        except WorkerError:
            self.kill()
            raise

    def _await(self) -> None:
        """Until it answers: then it listens."""
        until = self.began + START_SECONDS
        while time.monotonic() < until:
            if self._process.poll() is not None:
                raise WorkerError(self._said() or f"HAProxy ended with {self._process.returncode}")
            try:
                if b"Pid: " in self.ask("show info"):
                    return
            except WorkerError:
                time.sleep(0.005)
        raise WorkerError("HAProxy does not answer")

    def _said(self) -> str:
        lines = (self.folder / "errors").read_bytes()[:65536].decode("ascii", "replace").splitlines()
        return next((line for line in lines if "[ALERT]" in line), lines[-1] if lines else "")[:300]

    @property
    def pid(self) -> int:
        """The process id, which its records' ids begin with."""
        return self._process.pid

    def ended(self) -> int | None:
        """Its exit code once it has ended."""
        return self._process.poll()

    def ask(self, command: str) -> bytes:
        """Its answer to a command on its own socket. Raises WorkerError."""
        data = bytearray()
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
                sock.settimeout(SAY_SECONDS)
                sock.connect(str(self.folder / ADMIN))
                sock.sendall(command.encode("ascii") + b"\n")
                while piece := sock.recv(65536):
                    data += piece
                    if len(data) > MAX_ANSWER:
                        raise WorkerError("HAProxy's answer has no end")
        except OSError as error:
            raise WorkerError(f"HAProxy does not answer: {error}") from None
        return bytes(data)

    def sessions(self) -> Mapping[str, str]:
        """Its sessions: their records' id → what HAProxy calls them."""
        found = _SESSION.findall(self.ask("show sess all"))
        return {f"{self.pid}-{number.decode()}": pointer.decode() for pointer, number in found}

    def close(self, pointers: Iterable[str]) -> None:
        """End sessions; those that have ended already are fine."""
        wanted = list(pointers)
        for at in range(0, len(wanted), 64):
            self.ask(";".join(f"shutdown session {pointer}" for pointer in wanted[at : at + 64]))

    def retire(self) -> None:
        """Take no more connections, and end with the last. Once this returns, its rules allow nothing new."""
        self._process.send_signal(signal.SIGUSR1)
        until = time.monotonic() + SAY_SECONDS
        while self._process.poll() is None:
            try:
                if b"\nStopping: 1" in self.ask("show info"):
                    return
            except WorkerError:
                if self._process.poll() is not None:
                    return
            if time.monotonic() > until:
                self.kill()
                return
            time.sleep(0.005)

    def pause(self, *, on: bool) -> None:
        """Stop it where it stands, or let it go on."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGSTOP if on else signal.SIGCONT)

    def kill(self) -> None:
        """End it at once."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()

    def forget(self) -> None:
        """Remove its folder."""
        shutil.rmtree(self.folder, ignore_errors=True)
