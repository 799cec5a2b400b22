"""Packs a workspace `copy`: the tar that is uploaded, and later the baseline its patch is made against.

Owns the tar's form. What of the source goes along is in `sourcetree.py`.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import attrs

from sandboxrun.evidence.errors import EvidenceError
from sandboxrun.evidence.export import shown
from sandboxrun.evidence.sourcetree import LeftOut, Node, SourceTree, WorkspaceLimits
from sandboxrun.evidence.tarstream import BLOCK

if TYPE_CHECKING:
    import tarfile

BASELINE = "workspace.tar"  # its name in a run's staging folder
LEADING = "workspace"  # the component that everything is packed below, as in an engine's own archive of a directory
_CHUNK = 1 << 20
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


@attrs.frozen(kw_only=True)
class PackedWorkspace:
    """A packed workspace: the tar's SHA-256 and size, how many members, their bytes, and what was left out.

    `content` is `sha256:…` of what an agent would see of it: paths, modes, links' targets and data, less times, owners
    and all that lies in a `.git`, which changes by being looked at. `partial` are directories that have more in them
    on the disk than here.
    """

    sha256: str
    content: str
    tar_bytes: int
    files: int
    bytes: int
    left_out: tuple[LeftOut, ...] = ()
    partial: frozenset[str] = frozenset()


def pack(
    source: Path,
    into: BinaryIO,
    *,
    uid: int,
    gid: int,
    limits: WorkspaceLimits | None = None,
    exclude: Iterable[str] = (),
) -> PackedWorkspace:
    """Write `source` to `into` as an uncompressed tar, all below LEADING and owned by `uid:gid`.

    Unpacked above the mount point of a new volume it makes the volume's own root the agent's: engines leave out
    an entry "./", which would do the same without the leading component. That has to be the root of a file system:
    engines refuse symlinks that leave the directory that they unpack into.
    Modes are kept, less setuid, setgid and sticky, and the owner can always read and write. Symlinks are text and go
    along as they are; sockets, fifos and devices are left out and listed. `.sandboxrun` never goes along, nor what
    matches a pattern in `exclude` (`fnmatch`, against the path below `source` or one component).
    Raises EvidenceError, all faults at once, for a source that is too large, and for what cannot be read.
    """
    return _Packing(SourceTree(source, exclude, limits), into, uid, gid).run()


class _Packing:
    def __init__(self, source: SourceTree, into: BinaryIO, uid: int, gid: int) -> None:
        self._source, self._into, self._uid, self._gid = source, into, uid, gid
        self._hash, self._content = hashlib.sha256(), hashlib.sha256()
        self._counts = False  # whether what is being added counts for the content's digest
        self._tar_bytes = 0

    def run(self) -> PackedWorkspace:
        source, root = self._source, self._source.open()
        try:
            self._add_directory(LEADING, os.fstat(root))
            for node in source.walk(root):
                self._add(node)
        finally:
            os.close(root)
        self._emit(bytes(2 * BLOCK))
        return PackedWorkspace(
            sha256=self._hash.hexdigest(),
            content="sha256:" + self._content.hexdigest(),
            tar_bytes=self._tar_bytes,
            files=source.files,
            bytes=source.bytes,
            left_out=tuple(source.left_out),
            partial=frozenset(source.partial),
        )

    def _add(self, node: Node) -> None:
        from tarfile import SYMTYPE

        info = self._info(f"{LEADING}/{node.path}", node.entry)
        try:
            if stat.S_ISDIR(node.entry.st_mode):
                self._add_directory(info.name, node.entry)
            elif stat.S_ISLNK(node.entry.st_mode):
                info.type, info.mode, info.linkname = SYMTYPE, 0o777, os.readlink(node.name, dir_fd=node.fd)
                self._emit_header(info)
            else:
                self._add_file(info, node)
        except FileNotFoundError:
            pass  # removed meanwhile
        except OSError as error:
            self._source.unreadable(node.path, error)

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

    def _add_file(self, info: tarfile.TarInfo, node: Node) -> None:
        """The header with the size the file has once open; what a file grows by meanwhile is cut off."""
        with os.fdopen(os.open(node.name, _FILE, dir_fd=node.fd), "rb") as file:
            opened = os.fstat(file.fileno())
            if not stat.S_ISREG(opened.st_mode):
                raise EvidenceError(f"{shown(node.path)} was replaced while the workspace was packed", help="try again")
            info.size = left = opened.st_size
            self._source.count(info.size)
            self._emit_header(info)
            while left and (chunk := file.read(min(left, _CHUNK))):
                self._emit(chunk)
                if self._counts:
                    self._content.update(chunk)
                left -= len(chunk)
        if left:
            raise EvidenceError(f"{shown(node.path)} shrank while the workspace was packed", help="try again")
        self._emit(bytes(-info.size % BLOCK))

    def _emit_header(self, info: tarfile.TarInfo) -> None:
        import tarfile

        self._emit(info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape"))
        path = info.name.removeprefix(LEADING).lstrip("/")
        self._counts = ".git" not in path.split("/")
        if self._counts:
            facts = (info.type.decode(), f"{info.mode:o}", str(info.size), info.linkname, path, "")
            self._content.update("\0".join(facts).encode("utf-8", "surrogateescape"))

    def _emit(self, data: bytes) -> None:
        self._hash.update(data)
        self._tar_bytes += len(data)
        self._into.write(data)


def unpacked(data: BinaryIO) -> Iterator[bytes]:
    """A file as chunks."""
    while chunk := data.read(_CHUNK):
        yield chunk
