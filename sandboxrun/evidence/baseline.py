"""Packs a workspace `copy`: the tar that is uploaded, and later the baseline its patch is made against.

Owns what of a source directory goes along. The source is the user's own; its links may still point anywhere.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import attrs

from sandboxrun.errors import Diagnostic, Problems
from sandboxrun.evidence.errors import EvidenceError
from sandboxrun.evidence.export import shown
from sandboxrun.evidence.index import Refused
from sandboxrun.evidence.tarstream import BLOCK

if TYPE_CHECKING:
    import tarfile

ALWAYS_EXCLUDED = ".sandboxrun"
BASELINE = "workspace.tar"  # its name in a run's staging folder
LEADING = "workspace"  # the component that everything is packed below, as in an engine's own archive of a directory
DEEPEST = 100
_MOST_NAMED = 20
_CHUNK = 1 << 20


@attrs.frozen(kw_only=True)
class WorkspaceLimits:
    """How large a workspace may be."""

    files: int = 50_000
    bytes: int = 512 << 20


@attrs.frozen(kw_only=True)
class PackedWorkspace:
    """A packed workspace: the tar's SHA-256 and size, how many members, their bytes, and the links left out.

    `content` is `sha256:…` of what an agent would see of it: paths, modes, links' targets and data, less times, owners
    and all that lies in a `.git`, which changes by being looked at.
    """

    sha256: str
    content: str
    tar_bytes: int
    files: int
    bytes: int
    left_out: tuple[Refused, ...] = ()


def pack(
    source: Path,
    into: BinaryIO,
    *,
    uid: int,
    gid: int,
    limits: WorkspaceLimits | None = None,
    exclude: Iterable[str] = (),
) -> PackedWorkspace:
    """Write `source` to `into` as an uncompressed tar, all below `workspace/` and owned by `uid:gid`.

    Unpacked above the mount point of a new volume it makes the volume's own root the agent's: engines leave out
    an entry "./", which would do the same without the leading component.
    Modes are kept, less setuid, setgid and sticky, and the owner can always read and write. Symlinks go along
    when they stay inside `source` by a relative way; others are left out and listed. `.sandboxrun` never goes
    along, nor what matches a pattern in `exclude` (`fnmatch`, against the path below `source` or one component).
    Raises EvidenceError, all faults at once, for a source that is too large or holds special files, and for
    what cannot be read.
    """
    packing = _Packing(source, into, uid, gid, limits or WorkspaceLimits(), tuple(exclude))
    try:
        packing.run()
    except OSError as error:
        raise EvidenceError(
            f"the workspace {source} cannot be packed: {error.filename or ''} {error.strerror}",
            help="make it readable, or exclude it",
        ) from error
    packing.problems.check(EvidenceError)
    return packing.result()


class _Packing:
    def __init__(
        self, source: Path, into: BinaryIO, uid: int, gid: int, limits: WorkspaceLimits, exclude: tuple[str, ...]
    ) -> None:
        self._source, self._into, self._uid, self._gid = source, into, uid, gid
        self._limits, self._excluded = limits, excluder(exclude)
        self._hash, self._content = hashlib.sha256(), hashlib.sha256()
        self._counts = False  # whether what is being added counts for the content's digest
        self._tar_bytes = self._files = self._bytes = 0
        self._left_out: list[Refused] = []
        self.problems = Problems()

    def result(self) -> PackedWorkspace:
        return PackedWorkspace(
            sha256=self._hash.hexdigest(),
            content="sha256:" + self._content.hexdigest(),
            tar_bytes=self._tar_bytes,
            files=self._files,
            bytes=self._bytes,
            left_out=tuple(self._left_out),
        )

    def run(self) -> None:
        if not self._source.is_dir():
            raise EvidenceError(f"the workspace {self._source} is not a directory", help="name an existing directory")
        root = os.open(self._source, os.O_RDONLY | os.O_DIRECTORY)
        try:
            self._add_directory(LEADING, os.fstat(root))
            for path, entry, fd in _walk(root, "", self._excluded):
                self._files += 1
                if self._files > self._limits.files:
                    return self._too_large(f"more than {self._limits.files} files")
                self._add(path, entry, fd)
                if self._bytes > self._limits.bytes:
                    return None
        finally:
            os.close(root)
        self._emit(bytes(2 * BLOCK))
        return None

    def _too_large(self, how: str) -> None:
        self.problems.add(
            f"the workspace {self._source} holds {how}",
            help="exclude what the agent does not need (build output, caches), or mount it with access rw or ro",
        )

    def _add(self, path: str, entry: os.stat_result, fd: int) -> None:
        from tarfile import SYMTYPE

        info = self._info(f"{LEADING}/{path}", entry)
        name = path.rpartition("/")[2]
        if stat.S_ISDIR(entry.st_mode):
            self._add_directory(info.name, entry)
        elif stat.S_ISREG(entry.st_mode):
            self._add_file(info, name, fd)
        elif stat.S_ISLNK(entry.st_mode):
            info.type, info.mode, info.linkname = SYMTYPE, 0o777, os.readlink(name, dir_fd=fd)
            if reason := link_fault(path, info.linkname):
                self._left_out.append(Refused(part="workspace", path=shown(path), reason=reason))
            else:
                self._emit_header(info)
        else:
            self._special(path)

    def _info(self, name: str, entry: os.stat_result) -> tarfile.TarInfo:
        from tarfile import TarInfo

        info = TarInfo(name)
        info.uid, info.gid, info.mtime = self._uid, self._gid, int(entry.st_mtime)
        info.mode = stat.S_IMODE(entry.st_mode) & 0o777 | 0o600
        return info

    def _add_directory(self, name: str, entry: os.stat_result) -> None:
        from tarfile import DIRTYPE

        info = self._info(name, entry)
        info.type, info.mode = DIRTYPE, info.mode | 0o700
        self._emit_header(info)

    def _special(self, path: str) -> None:
        if len(self.problems) < _MOST_NAMED:
            self.problems.extend(
                [
                    Diagnostic(
                        message=f"the workspace holds a special file (socket, fifo or device): {shown(path)}",
                        help="remove or exclude it",
                    )
                ]
            )

    def _add_file(self, info: tarfile.TarInfo, name: str, fd: int) -> None:
        """The header with the size the file has once open; a file that changes meanwhile is cut or padded to it."""
        opened = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=fd)
        with os.fdopen(opened, "rb") as file:
            info.size = left = os.fstat(opened).st_size
            self._bytes += info.size
            if self._bytes > self._limits.bytes:
                return self._too_large(f"more than {self._limits.bytes} bytes")
            self._emit_header(info)
            while left and (chunk := file.read(min(left, _CHUNK))):
                self._emit(chunk)
                if self._counts:
                    self._content.update(chunk)
                left -= len(chunk)
        if left:
            raise EvidenceError(f"{info.name} shrank while the workspace was packed", help="try again")
        self._emit(bytes(-info.size % BLOCK))

    def _emit_header(self, info: tarfile.TarInfo) -> None:
        import tarfile

        self._emit(info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape"))
        _, *path = info.name.split("/")
        self._counts = ".git" not in path
        if self._counts:
            facts = (info.type.decode(), f"{info.mode:o}", str(info.size), info.linkname, "/".join(path), "")
            self._content.update("\0".join(facts).encode("utf-8", "surrogateescape"))

    def _emit(self, data: bytes) -> None:
        self._hash.update(data)
        self._tar_bytes += len(data)
        self._into.write(data)


def _walk(fd: int, above: str, excluded: Callable[[str], bool]) -> Iterator[tuple[str, os.stat_result, int]]:
    """Everything below the directory `fd`, sorted, each directory before its content; symlinks not followed."""
    if above.count("/") > DEEPEST:
        raise EvidenceError(f"the workspace is nested too deep: {shown(above)}", help="exclude that directory")
    for name in sorted(os.listdir(fd)):
        path = f"{above}{name}"
        if excluded(path):
            continue
        entry = os.stat(name, dir_fd=fd, follow_symlinks=False)
        yield path, entry, fd
        if stat.S_ISDIR(entry.st_mode):
            below = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
            try:
                yield from _walk(below, f"{path}/", excluded)
            finally:
                os.close(below)


def excluder(patterns: Iterable[str]) -> Callable[[str], bool]:
    """Whether a path below the workspace is left out: by `fnmatch` on the path or its last component."""
    kept = tuple(patterns)

    def excluded(path: str) -> bool:
        name = path.rpartition("/")[2]
        return name == ALWAYS_EXCLUDED or any(fnmatchcase(path, p) or fnmatchcase(name, p) for p in kept)

    return excluded


def link_fault(path: str, target: str) -> str | None:
    """Why the symlink at `path` may lead out of its tree; None when it cannot.

    `..` counts only at the target's start: after the name of another link it would mean another place.
    """
    if target.startswith("/"):
        return "a symlink to an absolute path"
    parts = [part for part in target.split("/") if part not in ("", ".")]
    rising = next((i for i, part in enumerate(parts) if part != ".."), len(parts))
    if ".." in parts[rising:]:
        return 'a symlink with ".." inside its target'
    if not target or rising > path.count("/"):
        return "a symlink that leads out of the workspace"
    return None


def unpacked(data: BinaryIO) -> Iterator[bytes]:
    """A file as chunks."""
    while chunk := data.read(_CHUNK):
        yield chunk
