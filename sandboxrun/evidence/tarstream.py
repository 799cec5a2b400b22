"""Reads a tar stream that an agent may have shaped: headers and content, in order, under limits.

Owns the format (ustar, with pax and GNU extensions for long names and sizes). Must not write anything: what
is done with a member is the caller's decision. Python's `tarfile` is not used for reading, since it takes
sizes and extension headers of any length on trust.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator

import attrs

BLOCK = 512
_LONGEST_EXTENSION = 1 << 20  # bytes of a pax or GNU header; an engine's own stay far below


class TarError(Exception):
    """The stream is not a tar archive, ends too early, or breaks a bound of the format."""


class Kind(enum.Enum):
    """What a member is; the value is how a report names it."""

    FILE = "file"
    DIRECTORY = "directory"
    SYMLINK = "symlink"
    HARDLINK = "hard link"
    FIFO = "fifo"
    DEVICE = "device"
    SPARSE = "sparse file"
    OTHER = "member of an unknown kind"


_KINDS = {
    b"0": Kind.FILE,
    b"\0": Kind.FILE,
    b"7": Kind.FILE,
    b"1": Kind.HARDLINK,
    b"2": Kind.SYMLINK,
    b"3": Kind.DEVICE,
    b"4": Kind.DEVICE,
    b"5": Kind.DIRECTORY,
    b"6": Kind.FIFO,
    b"S": Kind.SPARSE,
}


@attrs.frozen(kw_only=True)
class Member:
    """A header: `name` and `link` as they stand there (undecodable bytes as surrogates), `size` as claimed."""

    name: str
    kind: Kind
    mode: int
    size: int
    link: str


class TarReader:
    """Goes through a stream once: iterate for the members; `content` gives the current one's, or is skipped."""

    def __init__(self, stream: Iterable[bytes]) -> None:
        self._chunks = iter(stream)
        self._buffer = bytearray()
        self._left = 0  # of the current member, its padding included
        self._size = 0  # of the current member's content not yet read
        self.position = 0  # bytes of the stream taken; at a new member, where its content begins

    def __iter__(self) -> Iterator[Member]:
        while (member := self._next()) is not None:
            yield member

    def content(self) -> Iterator[bytes]:
        """The current member's bytes. Raises TarError when the stream ends before them."""
        while self._size:
            chunk = self._take(min(self._size, 1 << 16))
            self._size -= len(chunk)
            self._left -= len(chunk)
            yield chunk

    def _next(self) -> Member | None:
        """The next member with what extension headers say of it."""
        extended: dict[str, str] = {}
        for _ in range(8):  # an engine writes at most two before a member
            header = self._header()
            if header is None:
                return None
            flag, size = header[156:157], _number(header[124:136])
            if flag in (b"x", b"L", b"K"):
                extended |= self._extension(flag, size)
            elif flag == b"g":
                self._extension(flag, size)
            else:
                return self._member(header, flag, size, extended)
        raise TarError("too many extension headers in a row")

    def _member(self, header: bytes, flag: bytes, size: int, extended: dict[str, str]) -> Member:
        kind = _KINDS.get(flag, Kind.OTHER)
        if any(key.startswith("GNU.sparse") for key in extended):
            kind = Kind.SPARSE
        if (claimed := extended.get("size")) is not None:
            if not claimed.isascii() or not claimed.isdigit() or len(claimed) > 19:
                raise TarError("a size that is not a number")
            size = int(claimed)
        if kind in (Kind.HARDLINK, Kind.SYMLINK, Kind.DIRECTORY, Kind.FIFO, Kind.DEVICE):
            size = 0
        self._size, self._left = size, _padded(size)
        prefix = _text(header[345:500]) if header[257:263] == b"ustar\0" else ""
        name = _text(header[:100])
        return Member(
            name=extended.get("path", f"{prefix}/{name}" if prefix else name),
            kind=Kind.DIRECTORY if kind is Kind.FILE and name.endswith("/") else kind,
            mode=_number(header[100:108]) & 0o7777,
            size=size,
            link=extended.get("linkpath", _text(header[157:257])),
        )

    def _header(self) -> bytes | None:
        """The next block, checked; None at the archive's end."""
        while self._left:
            self._left -= len(self._take(min(self._left, 1 << 16)))
        header = self._take(BLOCK, at_end=True)
        if not header or header == bytes(BLOCK):
            return None
        expected = _number(header[148:156])
        if expected != sum(header[:148]) + 8 * 32 + sum(header[156:]):
            raise TarError("a header's checksum is wrong")
        return header

    def _extension(self, flag: bytes, size: int) -> dict[str, str]:
        if size > _LONGEST_EXTENSION:
            raise TarError("an extension header is too long")
        data = b"".join(self._exactly(size))
        for _ in self._exactly(_padded(size) - size):
            pass
        match flag:
            case b"L":
                return {"path": _text(data)}
            case b"K":
                return {"linkpath": _text(data)}
        return _pax(data)

    def _exactly(self, size: int) -> Iterator[bytes]:
        while size:
            chunk = self._take(min(size, 1 << 16))
            size -= len(chunk)
            yield chunk

    def _take(self, size: int, *, at_end: bool = False) -> bytes:
        """`size` bytes; b"" at the stream's end if that is allowed here."""
        while len(self._buffer) < size:
            chunk = next(self._chunks, None)
            if chunk is None:
                if at_end and not self._buffer:
                    return b""
                raise TarError("the stream ends in the middle of the archive")
            self._buffer += chunk
        taken = bytes(self._buffer[:size])
        del self._buffer[:size]
        self.position += size
        return taken


def _padded(size: int) -> int:
    return (size + BLOCK - 1) // BLOCK * BLOCK


def _text(field: bytes) -> str:
    return field.split(b"\0", 1)[0].decode("utf-8", "surrogateescape")


def _number(field: bytes) -> int:
    """An octal field, or GNU's base-256 form for large numbers."""
    if field[:1] == b"\x80":
        return int.from_bytes(field[1:], "big")
    digits = field.split(b"\0", 1)[0].strip()
    if not digits:
        return 0
    if any(digit not in b"01234567" for digit in digits):
        raise TarError("a number that is not one")
    return int(digits, 8)


def _pax(data: bytes) -> dict[str, str]:
    """The records `LENGTH KEY=VALUE\\n`. Extended attributes and other keys are of no use here."""
    records: dict[str, str] = {}
    at = 0
    while at < len(data):
        length, space, _ = data[at : at + 20].partition(b" ")
        if not space or not length.isdigit():
            raise TarError("a pax record without a length")
        record = data[at + len(length) + 1 : at + int(length)]
        if not record.endswith(b"\n") or at + int(length) > len(data):
            raise TarError("a pax record that is cut short")
        key, _, value = record[:-1].partition(b"=")
        if key in (b"path", b"linkpath", b"size") or key.startswith(b"GNU.sparse"):
            records[key.decode("ascii", "replace")] = value.decode("utf-8", "surrogateescape")
        at += int(length)
    return records
