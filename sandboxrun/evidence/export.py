"""Takes files out of a container: regular files and directories, under limits, and nothing else.

tarfile's filters have been bypassed four times: the reader of the stream is our own, bounded, and takes two kinds
only.
"""

from __future__ import annotations

import enum
import re
import time
from collections.abc import Callable, Iterable, Iterator

from msgspec import structs

from sandboxrun.data import Data
from sandboxrun.evidence.errors import EvidenceError
from sandboxrun.evidence.folder import RunFolder
from sandboxrun.evidence.index import Kept, MissingPart, RefusedName
from sandboxrun.evidence.masking import Masker
from sandboxrun.spec.types import size_told

# -- Reads a tar stream that an agent may have shaped: headers and content, in order, under limits

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


class Member(Data):
    """A header: `name` and `link` as they are there (undecodable bytes as surrogates), `size` as claimed."""

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
        if extended and any(key.startswith("GNU.sparse") for key in extended):
            kind = Kind.SPARSE
        if (claimed := extended.get("size")) is not None:
            if not claimed.isascii() or not claimed.isdigit() or len(claimed) > 19:
                raise TarError("a size that is not a number")
            size = int(claimed)
        if kind in (Kind.HARDLINK, Kind.SYMLINK, Kind.DIRECTORY, Kind.FIFO, Kind.DEVICE):
            size = 0
        self._size, self._left = size, _padded(size)
        prefix = _text(header[345:500]) if header[257:263] == b"ustar\0" else ""
        short = _text(header[:100])
        # Not by the short name: Go leaves out of it what is not ASCII, and of a file "w/ü" only "w/" is left.
        name = extended.get("path", f"{prefix}/{short}" if prefix else short)
        return Member(
            name=name,
            kind=Kind.DIRECTORY if kind is Kind.FILE and name.endswith("/") else kind,
            mode=_number(header[100:108]) & 0o7777,
            size=size,
            link=extended.get("linkpath", _text(header[157:257])),
        )

    def _header(self) -> bytes | None:
        """The next block, checked; None at the archive's end, which an archive says itself: an engine that fails in the
        middle of one may end the answer as if that were all."""
        while self._left:
            self._left -= len(self._take(min(self._left, 1 << 16)))
        header = self._take(BLOCK)
        if header == bytes(BLOCK):
            return None
        expected = _number(header[148:156])
        if expected != sum(header) - sum(header[148:156]) + 8 * 32:
            raise TarError("a header's checksum is wrong")
        return header

    def _extension(self, flag: bytes, size: int) -> dict[str, str]:
        if size > _LONGEST_EXTENSION:
            raise TarError("an extension header is too long")
        data = self._take(_padded(size))[:size]
        if flag in (b"L", b"K"):
            return {"path" if flag == b"L" else "linkpath": _text(data)}
        # pax: records `LENGTH KEY=VALUE\n`, of which extended attributes and other keys are of no use here
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

    def _take(self, size: int) -> bytes:
        """`size` bytes."""
        while len(self._buffer) < size:
            chunk = next(self._chunks, None)
            if chunk is None:
                raise TarError("the stream ends in the middle of the archive")
            self._buffer += chunk
        taken = bytes(self._buffer[:size])
        del self._buffer[:size]
        self.position += size
        return taken


def first_file(data: bytes | bytearray) -> bytes:
    """What the first member of an archive has in it; b"" where that is no regular file. Raises TarError."""
    reader = TarReader((bytes(data),))
    member = next(iter(reader), None)
    return b"".join(reader.content()) if member is not None and member.kind is Kind.FILE else b""


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
    if digits.strip(b"01234567"):
        raise TarError("a number that is not one")
    return int(digits, 8)


# -- Takes files out of a container: regular files and directories, under limits, and nothing else

LONGEST_NAME = 255  # bytes of one component, as Linux file systems have it
LONGEST_PATH = 1024
DEEPEST = 32
_SETUID_SETGID = 0o6000

# What any git, on any file system, takes for `.git`: upper case, trailing dots and spaces, NTFS streams and short
# names, and the characters HFS+ ignores.
_GIT = re.compile(r"(\.git|git~1)[ .]*(:.*)?", re.DOTALL)
_IGNORED = re.compile("[\u200c-\u200f\u202a-\u202e\u206a-\u206f\ufeff]")


class ExportLimits(Data):
    """How much is taken, in bytes and files; `refused` is how many refusals are listed one by one.

    `skipped_bytes`: how much of what is refused is read past to get at the rest, since a stream cannot be
    sought in. A sparse giant can still end it there.
    """

    bytes: int = 256 << 20
    files: int = 10_000
    file_bytes: int = 128 << 20
    skipped_bytes: int = 2 << 30
    refused: int = 1_000


class Exported(Data):
    """What became of a stream: files kept, members refused (the first, and how many in all), why it ended early."""

    kept: tuple[Kept, ...]
    refused: tuple[RefusedName, ...]
    refused_total: int
    missing: tuple[MissingPart, ...]


def export(
    stream: Iterable[bytes],
    into: RunFolder,
    *,
    part: str,
    under: str,
    limits: ExportLimits | None = None,
    masker: Masker | None = None,
    deadline: float | None = None,
) -> Exported:
    """Write a tar stream's regular files to `into`, below the folder `under`. Raises OSError, EvidenceError.

    `part` names the stream in what is reported, `masker` finds (and does not change) secrets in the files,
    `deadline` is a `time.monotonic` value. Whatever is wrong with the stream ends it; what came before stays.
    """
    limits = limits or ExportLimits()
    task = _Export(into, part, under, limits, masker or Masker())
    most = limits.bytes + limits.skipped_bytes + (limits.files + limits.refused) * 4096 + (1 << 20)  # headers included
    reader = TarReader(bounded(stream, most, deadline, "the stream is longer than the limits allow"))
    try:
        for member in reader:
            task.take(member, reader)
    except TarError as error:
        task.missing.append(MissingPart(part=part, reason=f"incomplete: {error}"))
    return Exported(
        kept=tuple(task.kept),
        refused=tuple(task.refused),
        refused_total=task.refused_total,
        missing=tuple(task.missing),
    )


def bounded(stream: Iterable[bytes], most: int, deadline: float | None, larger: str) -> Iterator[bytes]:
    """The stream, as long as it has at most that many bytes, and until the deadline; then TarError."""
    for chunk in stream:
        most -= len(chunk)
        if most < 0:
            raise TarError(larger)
        if deadline is not None and time.monotonic() > deadline:
            raise TarError("ran out of time")
        yield chunk


class _Export:
    def __init__(self, into: RunFolder, part: str, under: str, limits: ExportLimits, masker: Masker) -> None:
        self._into, self._part, self._under, self._limits, self._masker = into, part, under, limits, masker
        self._bytes = 0
        self._members = 0
        self._directories = set[str]()
        self._repositories = set[str]()
        self._names: dict[str, str] = {}  # as a file system that does not tell cases apart has them
        self.kept: list[Kept] = []
        self.refused: list[RefusedName] = []
        self.refused_total = 0
        self.missing: list[MissingPart] = []

    def take(self, member: Member, reader: TarReader) -> None:
        self._members += 1
        if self._members > 8 * self._limits.files + self._limits.refused:
            raise TarError("too many members")
        path = f"{self._under}/{member.name.rstrip('/')}"
        regular, known = member.kind is Kind.FILE, member.kind in (Kind.FILE, Kind.DIRECTORY)
        setuid = "a setuid or setgid file" if regular and member.mode & _SETUID_SETGID else None
        if reason := name_fault(member.name) or (setuid if known else f"a {member.kind.value}"):
            return self._refuse(member, reason)
        if (repository := git_part(member.name.rstrip("/"))) is not None:
            told = repository in self._repositories  # once for all that lies in it
            self._repositories.add(repository)
            member = structs.replace(member, name=repository)
            return None if told else self._refuse(member, "a repository: git on the host would run what is in it")
        if self._masker.data(raw := member.name.encode("utf-8", "surrogateescape")) != raw:
            return self._refuse(member, "a name that holds a secret")
        if self._names.setdefault(_folded(path), path) != path:
            return self._refuse(member, "a name that some file systems treat as equal to another one here")
        if member.kind is Kind.DIRECTORY:
            self._directories.add(path)
            return None
        if len(self.kept) >= self._limits.files:
            raise TarError(f"more than {self._limits.files} files")
        if not self._into.has_room(path):
            raise TarError("the names of all files are more than the index has room for")
        if member.size > self._limits.file_bytes:
            return self._refuse(member, f"larger than {size_told(self._limits.file_bytes)}")
        if self._bytes + member.size > self._limits.bytes:
            return self._refuse(member, f"all files together are larger than {size_told(self._limits.bytes)}")
        return self._write(member, path, reader)

    def _write(self, member: Member, path: str, reader: TarReader) -> None:
        search: Callable[[bytes], bytes] = (stream := self._masker.stream()).feed
        if path in self._directories:
            return self._refuse(member, "a second member of that name")
        try:
            writer = self._into.writer(path, durable=False)
        except (EvidenceError, FileExistsError):
            return self._refuse(member, "a second member of that name")
        steps = path.split("/")
        self._directories.update("/".join(steps[:end]) for end in range(1, len(steps)))
        with writer:
            for chunk in reader.content():
                writer.write(chunk)
                search(chunk)
                self._bytes += len(chunk)
            stream.finish()
            self.kept.append(writer.commit(sensitive=stream.hits > 0))
        return None

    def _refuse(self, member: Member, reason: str) -> None:
        self.refused_total += 1
        if len(self.refused) < self._limits.refused:
            self.refused.append(RefusedName(part=self._part, path=shown(member.name), reason=reason))


def shown(name: str) -> str:
    """A hostile name in a report: of bounded length, valid Unicode, no control characters."""
    cut = name if len(name) <= LONGEST_PATH else f"{name[:LONGEST_PATH]}…"
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in cut)


def name_fault(name: str, *, odd: bool = False) -> str | None:
    """Why a member's name is not taken; None for one that is. `odd` lets unprintable characters pass."""
    parts = name.rstrip("/").split("/")
    if name.startswith("/"):
        return "an absolute name"
    if ".." in parts:
        return 'a name with ".."'
    if "" in parts or "." in parts:
        return "a name with an empty or dot component"
    if "\0" in name or not (odd or name.isprintable()):
        return "a name with control or undecodable characters"
    length = _length(name)
    if length > LONGEST_PATH or (length > LONGEST_NAME and any(_length(part) > LONGEST_NAME for part in parts)):
        return "a name that is too long"
    return "nested too deep" if len(parts) > DEEPEST else None


def git_part(path: str) -> str | None:
    """How far `path` leads to what git takes for a repository: a directory or file `.git` (by any of its spellings), or
    a file named HEAD, without which no directory is a bare one. None for all others."""
    parts = path.split("/")
    end = next((at for at, part in enumerate(parts, 1) if is_git(part)), None)
    if end is not None:
        return "/".join(parts[:end])
    return path if parts[-1].upper() == "HEAD" else None


def is_git(path: str) -> bool:
    """Whether a component of `path` is `.git` to some git on some file system."""
    if path.isascii() and "git" not in path.lower():  # as nearly all of a hundred thousand are
        return False
    return any(_GIT.fullmatch(plain_name(part)) for part in re.split(r"[/\\]", path))


def plain_name(part: str) -> str:
    """A component as a file system may have it that tells neither cases nor invisible characters apart."""
    return _IGNORED.sub("", part).lower()


def _folded(path: str) -> str:
    if path.isascii():
        return path.lower()
    import unicodedata

    return unicodedata.normalize("NFD", path).casefold()


def _length(name: str) -> int:
    return len(name.encode("utf-8", "surrogateescape"))
