"""One request and what became of it, from the first byte to its record.

Owns the record's fields and the answers that the gateway itself gives. Must not decide what is let through.
"""

from __future__ import annotations

import time
from typing import Any

from sandboxrun.gateway.program.names import Target
from sandboxrun.gateway.program.records import clipped
from sandboxrun.gateway.program.refusals import ADVICE, Failed, Refused

ESTABLISHED = b"HTTP/1.1 200 Connection established\r\n\r\n"
_PHRASES = {400: "Bad Request", 431: "Request Header Fields Too Large", 408: "Request Timeout", 505: "Version"}


class Exchange:
    """What is known of a request so far. `sent` and `received` are the sandbox's: bytes to the host and from it."""

    __slots__ = (
        "address", "began", "ech", "host", "method", "port", "reason", "received", "sent", "started", "told", "verdict",
    )  # fmt: skip

    def __init__(self) -> None:
        self.begin()
        self.method = ""
        self.host = ""
        self.port = 0
        self.address = ""
        self.verdict = "denied"
        self.reason = ""
        self.sent = 0
        self.received = 0
        self.ech = False
        self.told = False  # whether an `open` event has been recorded

    def begin(self) -> None:
        """It begins now."""
        self.began, self.started = time.time(), time.monotonic()

    def aim(self, method: str, target: Target) -> None:
        """Note what is asked for."""
        self.method, self.host, self.port = method, target.host, target.port

    def values(self, sandbox: str) -> dict[str, Any]:
        """The record's fields."""
        found: dict[str, Any] = {
            "sandbox": sandbox,
            "method": clipped(self.method),
            "host": clipped(self.host),
            "port": self.port,
            "address": self.address,
            "verdict": self.verdict,
            "reason": self.reason,
            "sent": self.sent,
            "received": self.received,
            "seconds": round(time.monotonic() - self.started, 3),
        }
        if self.ech:
            found["ech"] = True
        return found


def answer_to(error: Refused | Failed) -> bytes:
    """The answer to a request that was refused or failed: the reason in its first line, which most clients show."""
    phrase = error.what if error.status in (403, 502, 504) else _PHRASES.get(error.status, "Refused")
    if isinstance(error, Refused):
        text = f"sandboxrun: denied: {error.what}\n{ADVICE[error.reason]}\n"
    else:
        text = f"sandboxrun: allowed, but {error.what}\n"
    body = text.encode("ascii", "replace")
    head = (
        f"HTTP/1.1 {error.status} {phrase}\r\nContent-Type: text/plain; charset=us-ascii\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode("ascii", "replace") + body
