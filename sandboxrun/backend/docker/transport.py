"""The small protocol between the engine's calls and whatever carries them.

Owns the shape of a request's answer and the three ways in which carrying it can fail. Must not know the Engine API.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

PIECE = 64 * 1024
MAX_WHOLE = 256 * 1024 * 1024  # bytes of a body that is read into memory
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


def checked(target: str, headers: Mapping[str, str]) -> None:
    """Raises ValueError for what would end a line of a request's head."""
    if any(map(_CONTROL.search, (target, *headers, *headers.values()))):
        raise ValueError("a request's head cannot hold control characters")


def seconds_left(deadline: float) -> float:
    """Until the monotonic clock is at `deadline`. Raises TimedOut when it was."""
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
    """An answer whose head has arrived. Read it whole, piece by piece, or take the connection over: one of them."""

    @property
    def status(self) -> int:
        """The HTTP status."""
        ...

    @property
    def headers(self) -> Mapping[str, str]:
        """The head's fields, names in lower case."""
        ...

    def read(self) -> bytes:
        """The whole body."""
        ...

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

    @property
    def endpoint(self) -> str:
        """Where to, as a URL for a person."""
        ...

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
    ) -> Response:
        """Send one request and wait for the answer's head.

        `target` is path and query, quoted. `timeout` in seconds bounds connecting, and the whole exchange unless
        `stream` (then up to the head). `upgrade` asks to take the connection over. Raises TransportError.
        """
        ...

    def get_all(self, targets: Sequence[str], *, timeout: float) -> tuple[tuple[int, bytes], ...]:
        """Several GETs at once: the status and whole body of each, in their order. Raises TransportError."""
        ...

    def peer_pid(self) -> int | None:
        """The process that listens, as a local socket tells it: 0 when it is not in this pid namespace.

        None when the connection does not tell (anything that is not a local socket).
        """
        ...

    def close(self) -> None:
        """End all connections, those in use too."""
        ...
