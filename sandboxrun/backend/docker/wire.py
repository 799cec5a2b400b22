"""HTTP/1.1 answers, read from a function that gives bytes: heads, lengths and chunks, all of them bounded.

Owns the parsing. Must not open, close or time anything. Written for one peer, the engine, because importing the
standard library's client costs more than a whole listing (see benchmarks/); it accepts less than that client does.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping

import attrs

from sandboxrun.backend.docker.transport import Broken

MAX_HEAD = 64 * 1024  # bytes of a head, and of a trailer
MAX_FIELDS = 200
MAX_LINE = 4096  # bytes of a chunk's size line
MAX_WHOLE = 256 * 1024 * 1024  # bytes of a body that is read into memory
PIECE = 64 * 1024

_TOKEN = frozenset(b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
_HEX = frozenset(b"0123456789abcdefABCDEF")


@attrs.frozen(kw_only=True)
class Head:
    """A status line and its fields (names in lower case, repeated ones joined with a comma)."""

    status: int
    headers: Mapping[str, str]

    @property
    def keeps_alive(self) -> bool:
        """Whether the connection can carry another request afterwards."""
        return "close" not in self.headers.get("connection", "").lower()


def parse_head(data: bytes) -> Head:
    """A head's bytes without the empty line at its end. Raises Broken for anything that is not one."""
    first, *lines = data.split(b"\r\n")
    if not (first.startswith(b"HTTP/1.") and len(first) >= 12 and first[8:9] == b" " and first[9:12].isdigit()):
        raise Broken("the answer is not HTTP")
    if len(lines) > MAX_FIELDS:
        raise Broken(f"the answer's head has more than {MAX_FIELDS} fields")
    headers: dict[str, str] = {}
    for line in lines:
        name, value = _field(line)
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    if first[7:8] == b"0":
        headers["connection"] = "close"
    return Head(status=int(first[9:12]), headers=headers)


def _field(line: bytes) -> tuple[str, str]:
    name, colon, value = line.partition(b":")
    if not colon or not name or not _TOKEN.issuperset(name):
        raise Broken("the answer's head has a malformed field")
    if b"\r" in value or b"\n" in value or b"\0" in value:
        raise Broken("the answer's head has a control character in a field")
    return name.decode("ascii").lower(), value.strip(b" \t").decode("latin-1")


class Reader:
    """Takes bytes off `receive` (at most as many as asked; b"" at the end) into a buffer and out of it."""

    def __init__(self, receive: Callable[[int], bytes]) -> None:
        self._receive = receive
        self._buffer = bytearray()

    @property
    def buffered(self) -> int:
        """How many bytes have been received and not been taken."""
        return len(self._buffer)

    def _fill(self) -> bool:
        data = self._receive(PIECE)
        self._buffer += data
        return bool(data)

    def until(self, mark: bytes, limit: int, what: str) -> bytes:
        """Everything before `mark`, which is taken too. Raises Broken at the end or past `limit` bytes."""
        start = 0
        while (at := self._buffer.find(mark, start)) < 0:
            if len(self._buffer) >= limit + len(mark):  # what is before the mark is longer, wherever it will be
                raise Broken(f"{what} is longer than {limit} bytes")
            start = max(0, len(self._buffer) - len(mark) + 1)
            if not self._fill():
                raise Broken("the connection ended before the answer did" if self._buffer or what != _HEAD else _NONE)
        if at > limit:
            raise Broken(f"{what} is longer than {limit} bytes")
        found = bytes(self._buffer[:at])
        del self._buffer[: at + len(mark)]
        return found

    def some(self, limit: int) -> bytes:
        """At least one byte and at most `limit`; b"" at the end."""
        if not self._buffer:
            return self._receive(min(limit, PIECE))
        taken = bytes(self._buffer[:limit])
        del self._buffer[: len(taken)]
        return taken

    def head(self) -> Head:
        """The next answer's head; interim ones (100, 103) are passed over."""
        for _ in range(10):
            head = parse_head(self.until(b"\r\n\r\n", MAX_HEAD, _HEAD))
            if head.status >= 200 or head.status == 101:
                return head
        raise Broken("the answer does not get past interim heads")


_HEAD = "the answer's head"
_NONE = "the connection ended without an answer"


class Body(abc.ABC):
    """A body, piece by piece. `ended` tells whether its end was seen."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self.ended = False

    @abc.abstractmethod
    def some(self) -> bytes:
        """The next piece; b"" at the end. Raises Broken when the connection ends first."""

    def read(self) -> bytes:
        """All of it. Raises Broken past MAX_WHOLE bytes."""
        pieces: list[bytes] = []
        size = 0
        while piece := self.some():
            size += len(piece)
            if size > MAX_WHOLE:
                raise Broken(f"the answer is longer than {MAX_WHOLE} bytes")
            pieces.append(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)


class SizedBody(Body):
    """A body whose length the head told."""

    def __init__(self, reader: Reader, length: int) -> None:
        super().__init__(reader)
        self._left = length
        self.ended = length == 0

    def some(self) -> bytes:
        """The next piece; b"" at the end."""
        if self._left == 0:
            return b""
        piece = self._reader.some(self._left)
        if not piece:
            raise Broken("the connection ended before the answer did")
        self._left -= len(piece)
        self.ended = self._left == 0
        return piece


class ChunkedBody(Body):
    """A body in chunks, each with its size before it."""

    def __init__(self, reader: Reader) -> None:
        super().__init__(reader)
        self._left = 0
        self._begun = False

    def some(self) -> bytes:
        """The next piece, at most one chunk; b"" at the end."""
        if self.ended:
            return b""
        if self._left == 0:
            # The line end after a chunk is taken with the next size: waiting for it would keep the piece back.
            if self._begun and self._reader.until(b"\r\n", 0, "a chunk"):
                raise Broken("a chunk of the answer is malformed")
            self._begun = True
            self._left = self._size()
            if self._left == 0:
                self._trailer()
                self.ended = True
                return b""
        piece = self._reader.some(self._left)
        if not piece:
            raise Broken("the connection ended before the answer did")
        self._left -= len(piece)
        return piece

    def _size(self) -> int:
        digits = self._reader.until(b"\r\n", MAX_LINE, "a chunk's size").partition(b";")[0].rstrip(b" \t")
        if not 0 < len(digits) <= 16 or not _HEX.issuperset(digits):
            raise Broken("a chunk's size is malformed")
        return int(digits, 16)

    def _trailer(self) -> None:
        size = 0
        while line := self._reader.until(b"\r\n", MAX_LINE, "a trailer"):
            size += len(line)
            if size > MAX_HEAD:
                raise Broken(f"the trailer is longer than {MAX_HEAD} bytes")


class OpenBody(Body):
    """A body that goes on until the connection ends."""

    def some(self) -> bytes:
        """The next piece; b"" at the end."""
        piece = b"" if self.ended else self._reader.some(PIECE)
        self.ended = not piece
        return piece


def body_of(head: Head, reader: Reader, *, asked: str = "GET") -> Body:
    """The body that follows `head`; none does where the method was HEAD. Raises Broken when the head contradicts
    itself."""
    coding = head.headers.get("transfer-encoding")
    length = head.headers.get("content-length")
    if asked == "HEAD" or head.status in (204, 304):
        return SizedBody(reader, 0)
    if coding is not None:
        if coding.lower() != "chunked" or length is not None:
            raise Broken("the answer's head does not say how long it is")
        return ChunkedBody(reader)
    if length is None:
        return OpenBody(reader)
    values = {part.strip() for part in length.split(",")}
    (only, *others) = values
    if others or not only.isascii() or not only.isdigit() or len(only) > 18:
        raise Broken("the answer's head does not say how long it is")
    return SizedBody(reader, int(only))
