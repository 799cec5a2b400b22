"""Reads the ClientHello, the first message of TLS: whom the client wants to speak with.

Owns that format (RFC 8446, 4.1.2; RFC 6066, 3), within bounds, from bytes as they come in. Pure.
"""

from __future__ import annotations

MAX_HELLO = 16 * 1024  # bytes in all; those with post-quantum keys take about two thousand
MAX_RECORDS = 64
CLIENT_HELLO = 1
SERVER_HELLO = 2
SERVER_NAME, ECH = b"\x00\x00", b"\xfe\x0d"  # extensions
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


def _vector(data: bytes, at: int, size: int) -> tuple[int, int]:
    """Where a piece begins and ends that has its length before it, in `size` bytes. Raises BadHello."""
    begin = at + size
    end = begin + int.from_bytes(data[at:begin])
    if end > len(data) or begin > len(data):
        raise BadHello("its ClientHello ends too early")
    return begin, end


def _read_message(message: bytes) -> tuple[str | None, bool]:
    """Name and ECH of a ClientHello without its head."""
    begin, end = _vector(message, 2 + 32, 1)  # after version and random
    if end - begin > 32:
        raise BadHello("its session id is too long")
    begin, end = _vector(message, end, 2)
    if end == begin or (end - begin) % 2:
        raise BadHello("its cipher suites are malformed")
    begin, end = _vector(message, end, 1)
    if end == begin:
        raise BadHello("its compression methods are missing")
    if end == len(message):
        return None, False
    begin, end = _vector(message, end, 2)
    if end != len(message):
        raise BadHello("something follows its extensions")
    return _extensions(message, begin)


def _extensions(message: bytes, at: int) -> tuple[str | None, bool]:
    """Name and ECH of the extensions, which go on to the end."""
    kinds, name = set(), None
    while at < len(message):
        kind = message[at : at + 2]
        begin, end = _vector(message, at + 2, 2)
        if kind in kinds:
            raise BadHello("an extension stands twice")
        kinds.add(kind)
        if kind == SERVER_NAME:
            name = _server_name(message[begin:end])
        at = end
    return name, ECH in kinds


def _server_name(data: bytes) -> str:
    """The one host name of the extension: a list of one entry, of the kind 0."""
    begin, end = _vector(data, 0, 2)
    name_begin, name_end = _vector(data, begin + 1, 2)
    if end != len(data) or data[begin] != 0 or name_end != end:
        raise BadHello("its server name is malformed")
    name = data[name_begin:name_end]
    if (
        not name
        or len(name) > 255
        or not name.isascii()
        or not (text := name.decode("ascii")).isprintable()
        or " " in text
    ):
        raise BadHello("its server name has characters that no host name has")
    return text.lower()
