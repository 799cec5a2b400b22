"""Reads the ClientHello, the first message of TLS: whom the client wants to speak with.

Owns that format (RFC 8446, 4.1.2; RFC 6066, 3), within bounds, from bytes as they come in. Pure.
"""

from __future__ import annotations

MAX_HELLO = 16 * 1024  # bytes in all; those with post-quantum keys take about two thousand
MAX_RECORDS = 64
CLIENT_HELLO = 1
SERVER_HELLO = 2
SERVER_NAME = 0
ECH = 0xFE0D
# RFC 8446, 4.1.3: a ServerHello with this in place of its random bytes asks for another ClientHello
RETRY = bytes.fromhex("cf21ad74e59a6111be1d8c021e65b891c2a211167abb8c5e079e09e2c8a8339c")
SERVER_START = 5 + 4 + 2 + 32  # the heads of record and message, version, random
CHANGE_CIPHER = b"\x14\x03\x03\x00\x01\x01"  # may stand before a second ClientHello
ALERT = b"\x15\x03\x03\x00\x02\x02\x31"  # fatal: access denied


class NotTls(Exception):
    """The bytes are not the start of TLS."""


class BadHello(Exception):
    """The bytes begin as TLS and go on as something else; the clause says what is wrong."""


class Hello:
    """What of a ClientHello counts: the name asked for in lower case (None: none), whether ECH is offered, its size.

    `ech` is a hint only: clients also send the extension without using it.
    """

    __slots__ = ("ech", "name", "size")

    def __init__(self, name: str | None, ech: bool, size: int) -> None:
        self.name = name
        self.ech = ech
        self.size = size


def read_hello(data: bytes) -> Hello | None:
    """The ClientHello that `data` begins with; None when more is needed. Raises NotTls, BadHello.

    `size` is how many of the bytes it took, its records' heads included.
    """
    message = bytearray()
    at = 0
    for _ in range(MAX_RECORDS):
        body = _record(data, at)
        if body is None:
            return None
        message += body
        at += 5 + len(body)
        if message[0] != CLIENT_HELLO:
            raise BadHello("its first message is no ClientHello")
        if len(message) < 4:
            continue
        length = int.from_bytes(message[1:4])
        if length > MAX_HELLO:
            raise BadHello("its ClientHello is too long")
        if len(message) > 4 + length:
            raise BadHello("something follows its ClientHello in the same record")
        if len(message) == 4 + length:
            name, ech = _read_message(bytes(message[4:]))
            return Hello(name, ech, at)
    raise BadHello("its ClientHello comes in too many pieces")


def asks_again(start: bytes) -> bool:
    """Whether a server that begins like this (SERVER_START bytes) wants another ClientHello. Raises BadHello.

    A server that ended before, or that began with an alert, wants none.
    """
    if len(start) < SERVER_START or start[:1] == b"\x15":
        return False
    if start[:2] != b"\x16\x03" or start[5] != SERVER_HELLO or int.from_bytes(start[3:5]) < SERVER_START - 5:
        raise BadHello("the server's first message is no ServerHello")
    return start[-32:] == RETRY


def _record(data: bytes, at: int) -> bytes | None:
    """The body of the record at `at`; None when it is not all there."""
    head = data[at : at + 5]
    wrong = NotTls if at == 0 else BadHello
    if head[:1] not in (b"", b"\x16") or head[1:2] not in (b"", b"\x03"):
        raise wrong("not a record of the handshake")
    if len(head) < 5:
        return None
    length = int.from_bytes(head[3:5])
    if not 0 < length <= MAX_HELLO:
        raise BadHello("a record's length is out of bounds")
    body = data[at + 5 : at + 5 + length]
    return body if len(body) == length else None


class _Reader:
    """Takes pieces off the front of a message. Raises BadHello where it ends too early."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def take(self, count: int) -> bytes:
        piece = self.data[self.at : self.at + count]
        if len(piece) != count:
            raise BadHello("its ClientHello ends too early")
        self.at += count
        return piece

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size))

    def vector(self, size: int) -> bytes:
        """A piece that begins with its own length, in `size` bytes."""
        return self.take(self.number(size))

    @property
    def over(self) -> bool:
        return self.at == len(self.data)


def _read_message(message: bytes) -> tuple[str | None, bool]:
    """Name and ECH of a ClientHello without its head."""
    reader = _Reader(message)
    reader.take(2 + 32)  # version, random
    if len(reader.vector(1)) > 32:
        raise BadHello("its session id is too long")
    suites = reader.vector(2)
    if not suites or len(suites) % 2:
        raise BadHello("its cipher suites are malformed")
    if not reader.vector(1):
        raise BadHello("its compression methods are missing")
    if reader.over:
        return None, False
    extensions = _extensions(reader.vector(2))
    if not reader.over:
        raise BadHello("something follows its extensions")
    name = _server_name(extensions[SERVER_NAME]) if SERVER_NAME in extensions else None
    return name, ECH in extensions


def _extensions(data: bytes) -> dict[int, bytes]:
    reader = _Reader(data)
    found: dict[int, bytes] = {}
    while not reader.over:
        kind = reader.number(2)
        if kind in found:
            raise BadHello("an extension stands twice")
        found[kind] = reader.vector(2)
    return found


def _server_name(data: bytes) -> str:
    """The one host name of the extension."""
    outer = _Reader(data)
    names = _Reader(outer.vector(2))
    kind, name = names.number(1), names.vector(2)
    if kind != 0 or not names.over or not outer.over:
        raise BadHello("its server name is malformed")
    if not name or len(name) > 255 or not all(0x21 <= byte < 0x7F for byte in name):
        raise BadHello("its server name has characters that no host name has")
    return name.decode("ascii").lower()
