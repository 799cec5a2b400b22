"""One HAProxy process: its start, its own socket, its sessions, its end.

Owns what is said to HAProxy. Does not know the rules.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from sandboxrun.gateway.companion.haproxy import CONFIGURATION, RETIRED, RETIRED_ENTRY

START_SECONDS = 10.0
SAY_SECONDS = 3.0
MAX_ANSWER = 8 << 20
_SESSION = re.compile(
    r"^(0x[0-9a-f]+): \[[^\n]*\] id=([0-9]+) [^\n]*\n[^\n]*\n +frontend=(?:port|http)-\d+ [^\n]*\n +backend=(\S+) ",
    re.MULTILINE,
)
_LOST = re.compile(r"^ *records +: type=buffer, ([0-9]+) dropped", re.MULTILINE)
_VERSION = re.compile(r"^Version: (\S{1,64})$", re.MULTILINE)
_PROMPT = b"\n> "
ADMIN = "admin.sock"


class WorkerError(Exception):
    """HAProxy did not start, or does not answer."""


class ProxySession(NamedTuple):
    """A connection or request that HAProxy is at."""

    pointer: str  # what HAProxy calls it
    handed_on: bool  # it only carries requests to where they are judged, each as a session of its own


class Worker:
    """HAProxy at work by one configuration, in a folder of its own."""

    def __init__(self, folder: Path, frontends: Sequence[str]) -> None:
        """Start it, beside any that listens already. Raises WorkerError, OSError."""
        self.folder = folder
        self._frontends = frontends
        self.began = time.monotonic()
        self._admin = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        command = ["haproxy", "-q", "-db", "-f", str(folder / CONFIGURATION)]
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
                self._admin = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
                self._admin.settimeout(SAY_SECONDS)
                self._admin.connect(str(self.folder / ADMIN))
            except OSError:
                self._admin.close()
                time.sleep(0.002)
                continue
            self.ask("prompt")
            return
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

    def ask(self, command: str) -> str:
        """Its answer to a command. Raises WorkerError."""
        data = bytearray()
        try:
            self._admin.sendall(command.encode("ascii") + b"\n")
            while not data.endswith(_PROMPT):
                piece = self._admin.recv(65536)
                if not piece or len(data) > MAX_ANSWER:
                    raise WorkerError("HAProxy's answer has no end")
                data += piece
        except OSError as error:
            raise WorkerError(f"HAProxy does not answer: {error}") from None
        return data.decode("ascii", "replace")

    def version(self) -> str:
        """HAProxy's own; "" where it does not say. Raises WorkerError."""
        found = _VERSION.search(self.ask("show info"))
        return found[1] if found else ""

    def lost(self) -> int:
        """How many records it had no room for. Raises WorkerError."""
        found = _LOST.search(self.ask("show events"))
        if found is None:
            raise WorkerError("HAProxy does not say whether records were lost")
        return int(found[1])

    def sessions(self) -> dict[str, ProxySession]:
        """What it is at, by the ids of the records."""
        found = _SESSION.findall(self.ask("show sess all"))
        return {f"{self.pid}-{number}": ProxySession(pointer, of.startswith("to-")) for pointer, number, of in found}

    def close(self, sessions: Iterable[ProxySession]) -> None:
        """End some; those that have ended already are fine."""
        for session in sessions:
            self.ask(f"shutdown session {session.pointer}")

    def retire(self) -> None:
        """Take no more connections. Once this returns, its rules allow nothing new. Raises WorkerError.

        It is not told to stop: from then on it would not say any more what becomes of its connections.
        """
        self.ask(f"add acl {self.folder / RETIRED} {RETIRED_ENTRY}")
        for name in self._frontends:
            self.ask(f"shutdown frontend {name}")

    def last_word(self) -> None:
        """Have it say something more. Once that is heard, so is all that it said before. Raises WorkerError."""
        self.ask("disable server tunnels/there")

    def pause(self, *, on: bool) -> None:
        """Stop it where it stands, or let it go on."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGSTOP if on else signal.SIGCONT)

    def kill(self) -> int:
        """End it at once; the exit code that it has now, or had already."""
        if self._process.poll() is None:
            self._process.kill()
        self._admin.close()
        return self._process.wait()

    def forget(self) -> None:
        """Remove its folder."""
        for path in self.folder.iterdir():
            path.unlink()
        self.folder.rmdir()
