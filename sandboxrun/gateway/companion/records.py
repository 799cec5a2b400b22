"""The gateway's records: one JSON object a line on stdout, most of them made from what HAProxy says.

Owns their form, their bounds and their budget. Does not decide what is allowed.
"""

from __future__ import annotations

import functools
import json
import os
import re
import time
from typing import Any, NamedTuple

MAX_TEXT = 255  # characters of anything that a client wrote
MAX_LINE = 2048  # bytes of a line of HAProxy's
OVERHEAD = 64  # bytes that a log keeps beside each line
PAUSE_AT = 1 << 20  # bytes not yet written at which nothing more may happen
_encode = json.JSONEncoder(separators=(",", ":")).encode
_ID, _WORD, _ADDRESS = "[0-9]+-[0-9]+|-", "[a-z-]{1,64}", "[0-9a-f.:-]{1,64}"
_NUMBER, _HEX = "-?[0-9]{1,19}", "[0-9A-F]*|-"
_OPEN = re.compile(rf"\[debug\] open: type=str <({_ID})/({_WORD})/({_NUMBER})/({_ADDRESS})/({_HEX})>")
_END = re.compile(
    rf"end ({_ID}) ({_NUMBER}) ({_NUMBER}) ({_WORD}) ({_NUMBER}) ({_WORD}) ({_WORD}) ({_ADDRESS}) ({_HEX}) ({_HEX})"
    rf" ({_NUMBER}) ({_NUMBER}) ({_NUMBER}) ([A-Za-z-]{{2,4}}) ({_NUMBER})"
)
_NOTICE = re.compile(rb"Proxy (port|http)-[0-9]+ stopped |(backend|proxy) tunnels has no server available!")
_LOST = re.compile(rb"[0-9]+ events? dropped")
_LAST = re.compile(rb"Server tunnels/there is (going )?DOWN ")  # once it was asked for a last word


class Fault(Exception):
    """HAProxy said something that it is not configured to say, so what happened is not known."""


class Open(NamedTuple):
    """A connection or request that was allowed and has begun."""

    id: str
    kind: str
    port: int
    address: str
    host: str


class End(NamedTuple):
    """One that is over, or that was refused: what a record says of it."""

    id: str
    began: float  # seconds since 1970
    kind: str
    port: int
    host: str
    verdict: str = "allowed"
    reason: str = ""
    address: str = ""
    method: str = ""
    sent: int = 0
    received: int = 0
    seconds: float = 0.0


# How a session of HAProxy's ended, where its rules did not say why: who ended it, and during what.
_ENDS = {"SC": "unreachable", "sC": "timeout", "CC": "", "UC": "unreachable", "RC": "unreachable"}
_FAILURES = frozenset({"unresolved"})  # of what the rules allow
_IDLE, _BROKEN = frozenset({"cD", "sD", "cH", "sH"}), frozenset({"SD", "SH", "SL", "PH"})


class Last(NamedTuple):
    """All that HAProxy said before it was asked for this is said."""


def read_line(line: bytes) -> Open | End | Last | None:
    """What a line of HAProxy's says; None for its notices that it ends. Raises Fault."""
    text = line.decode("ascii", "replace")
    try:
        if found := _END.fullmatch(text):
            id, seconds, ms, kind, port, verdict, reason, address, method, host, *rest = found.groups()
            sent, received, took, state, status = rest
            refused = verdict != "allowed"  # or failed before anything was connected to
            return End(
                id=id,
                began=int(seconds) + int(ms) / 1000,
                kind="http" if kind == "-" else kind,  # a request so malformed that no rule saw it
                port=int(port),
                verdict="denied" if refused and reason not in _FAILURES else "allowed",
                reason=_why_refused(reason, state, status) if refused else _why_ended(state),
                address="" if address == "-" else address,
                method=_text(method),
                host=_text(host),
                sent=0 if refused else int(sent),
                received=0 if refused else int(received),
                seconds=int(took) / 1000,
            )
        if found := _OPEN.fullmatch(text):
            id, kind, port, address, host = found.groups()
            return Open(id, kind, int(port), address, _text(host))
    except ValueError:
        raise Fault("a record could not be read") from None
    if _LAST.match(line):
        return Last()
    if _NOTICE.match(line):
        return None
    raise Fault("records were lost" if _LOST.match(line) else "a record could not be read")


def _text(digits: str) -> str:
    return "" if digits == "-" else clipped(bytes.fromhex(digits).decode("ascii", "backslashreplace"))


def _why_refused(reason: str, state: str, status: str) -> str:
    """A request without a reason was not understood."""
    if state[:1] == "c" or status == "408":
        return "timeout"
    return "request" if reason == "-" else reason


def _why_ended(state: str) -> str:
    if state[:1] == "K":
        return "closed"
    if state[:2] in _IDLE:
        return "idle"
    return "broken" if state[:2] in _BROKEN else _ENDS.get(state[:2], "")


class Records:
    """Writes records. What clients cause counts towards the budget; when it is used up, `spent` is true for good.

    A log is bounded: without a budget, a client could push out of it what it did before.
    """

    def __init__(self, descriptor: int, budget: int) -> None:
        """`descriptor` is written to without waiting; `budget` is in bytes."""
        os.set_blocking(descriptor, False)
        self._descriptor = descriptor
        self._left = budget
        self._waiting = bytearray()
        self.spent = False
        self.unrecorded = 0

    @property
    def behind(self) -> int:
        """How many bytes are not written yet."""
        return len(self._waiting)

    def tell(self, event: str, **values: Any) -> None:
        """An event that no client can cause; it counts towards nothing."""
        self._add({"event": event, "time": timestamp(time.time()), **values})

    def client(self, event: str, sandbox: str, said: End) -> None:
        """What a client caused. Past the budget it is only counted."""
        if self.spent:
            self.unrecorded += 1
            return
        self._left -= self._add(
            {
                "event": event,
                "time": timestamp(said.began),
                "sandbox": sandbox,
                "protocol": said.kind,
                "method": said.method,
                "host": said.host,
                "port": said.port,
                "address": said.address,
                "verdict": said.verdict,
                "reason": said.reason,
                "sent": said.sent,
                "received": said.received,
                "seconds": said.seconds,
            }
        )
        if self._left <= 0:
            self.spent = True
            self.tell("budget")

    def _add(self, values: dict[str, Any]) -> int:
        line = _encode(values)
        self._waiting += line.encode("ascii") + b"\n"
        return len(line) + OVERHEAD

    def flush(self) -> None:
        """Write what the reader takes now. Raises OSError when there is no reader."""
        while self._waiting:
            try:
                del self._waiting[: os.write(self._descriptor, self._waiting[:65536])]
            except BlockingIOError:
                return


def timestamp(seconds: float) -> str:
    """UTC, to the millisecond, as RFC 3339 has it."""
    whole = int(seconds)
    return f"{_to_the_second(whole)}.{int((seconds - whole) * 1000):03d}Z"


@functools.lru_cache(maxsize=16)
def _to_the_second(whole: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole))


def clipped(text: str) -> str:
    """`text`, with an end to it."""
    return text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]}…"
