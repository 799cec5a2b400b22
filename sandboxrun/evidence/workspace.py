"""A workspace `copy`: its files as they are read, the tar that is uploaded and that its patch is made against, and
where it waits, as a copy of a sandbox's output does.
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
import stat
import tarfile
from collections.abc import Callable, Iterable, Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import BinaryIO, cast

import msgspec

from sandboxrun.data import Data
from sandboxrun.errors import Problems
from sandboxrun.evidence.errors import EvidenceError
from sandboxrun.evidence.export import BLOCK, shown
from sandboxrun.evidence.folder import Folder, state_fault, state_path, sync, writing_state
from sandboxrun.evidence.store import Store
from sandboxrun.spec.types import size_told

# -- What of a run waits in its staging folder until it is captured: the workspace it began with, what it writes

NOTE = "workspace.json"  # written when the tar is whole


def stage_workspace(
    store: Store,
    run: str,
    source: Path,
    *,
    uid: int,
    gid: int,
    engine: str,
    limits: WorkspaceLimits | None = None,
    exclude: Iterable[str] = (),
) -> PackedWorkspace:
    """Pack `source` (see `pack`) into the run's staging folder, replacing what is there. Raises EvidenceError. `engine`
    is the identity of the one that the run is on.

    `open_workspace` then gives the tar to upload; capture makes the patch against it and removes it.
    """
    patterns = not_copied(store, source, exclude)
    with store.staging(run, engine=engine) as staging:
        for name in (NOTE, BASELINE):
            staging.unlink(name)
        with writing_state(), staging.append(BASELINE) as raw:
            packed = pack(source, raw, uid=uid, gid=gid, limits=limits, exclude=patterns)
            sync(raw)
        with writing_state():
            staging.write(NOTE, json.dumps(msgspec.to_builtins(packed)).encode())
    return packed


def open_workspace(store: Store, run: str) -> BinaryIO:
    """The staged tar, for `Engine.put_archive`. Raises EvidenceError when there is none."""
    try:
        with store.staging(run) as staging:
            return staging.open(BASELINE)
    except FileNotFoundError as error:
        raise EvidenceError(f"no workspace is staged for run {run}") from error


def staged_content(store: Store, run: str) -> str:
    """The digest of the staged workspace's content (see `PackedWorkspace`); "" when none is staged."""
    try:
        with store.staging(run) as staging, staging.open(NOTE) as file:
            return msgspec.convert(json.loads(file.read()), PackedWorkspace).content
    except (FileNotFoundError, ValueError, RecursionError):
        return ""


def content_now(store: Store, source: Path, exclude: Iterable[str]) -> str | None:
    """The same of the directory as it is; None for one that can't be packed."""
    patterns = not_copied(store, source, exclude)
    try:
        return pack(source, cast(BinaryIO, _Nowhere()), uid=0, gid=0, exclude=patterns).content
    except EvidenceError:
        return None


def not_copied(store: Store, source: Path, exclude: Iterable[str]) -> tuple[str, ...]:
    """What is left out: the evidence of other runs and the user's state, wherever in the directory they are."""
    state = os.path.relpath(os.path.realpath(state_path()), os.path.realpath(source))
    kept = (os.path.relpath(store.path, source), state)
    inside = (path for path in kept if path.split(os.sep)[0] not in (os.curdir, os.pardir))
    return (*exclude, *map(glob.escape, inside))


class _Nowhere:
    def write(self, data: bytes | memoryview) -> int:
        return len(data)


def baseline_of(staging: Folder) -> tuple[BinaryIO, PackedWorkspace]:
    """The staged tar, opened, and what was packed. Raises FileNotFoundError, EvidenceError where it is not whole."""
    with staging.open(NOTE) as file:
        try:
            packed = msgspec.convert(json.loads(file.read()), PackedWorkspace)
        except (ValueError, RecursionError) as error:
            raise EvidenceError(f"{staging.path / NOTE} cannot be read: {error}") from error
    tar = staging.open(BASELINE)
    if hashlib.file_digest(tar, "sha256").hexdigest() != packed.sha256:
        tar.close()
        raise EvidenceError(f"{staging.path / BASELINE} is not what was packed")
    return tar, packed


# -- A workspace's directory as it is on the disk: what of it goes into a copy, what does not, and why

ALWAYS_EXCLUDED = ".sandboxrun"
DEEPEST = 100
_MOST_NAMED = 20
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_SPECIAL = {stat.S_IFSOCK: "socket", stat.S_IFIFO: "fifo", stat.S_IFCHR: "device", stat.S_IFBLK: "device"}


class WorkspaceLimits(Data):
    """How large a workspace may be."""

    files: int = 50_000
    bytes: int = 512 << 20


class FileNode(Data):
    """A directory, regular file or symlink; `fd` is the open directory that it is in, `entry` what lstat says."""

    path: str
    entry: os.stat_result
    fd: int

    @property
    def name(self) -> str:
        """The last component."""
        return self.path.rpartition("/")[2]


class LeftOut(Data):
    """A path of the source that a copy does not have, undecodable bytes as surrogates, and what it is."""

    path: str
    kind: str


class SourceTree:
    """One walk over a source. `left_out`, `excluded` and `partial` are complete once `walk` has ended.

    `partial`: directories of the copy that have more in them on the disk than in the copy.
    """

    def __init__(self, top: Path, exclude: Iterable[str] = (), limits: WorkspaceLimits | None = None) -> None:
        self.top, self.exclude = top, tuple(exclude)
        self.left_out: list[LeftOut] = []
        self.excluded: list[str] = []
        self.partial: set[str] = set()
        self.files = self.bytes = 0
        self._problems = Problems()
        self._limits = limits or WorkspaceLimits()
        self._is_excluded = excluder(self.exclude)

    def walk(self, root: int) -> Iterator[FileNode]:
        """Everything that goes along below the open directory `root`, sorted, each directory before its content.

        Raises EvidenceError, all faults at once, for what is too large, too deep or can't be read.
        """
        yield from self._below(root, "")
        self._problems.check(EvidenceError)

    def open(self) -> int:
        """A descriptor of the top. Raises EvidenceError."""
        try:
            return os.open(self.top, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError) as error:
            text = f"the workspace {self.top} is not a directory"
            raise EvidenceError(text, help="name an existing directory") from error
        except OSError as error:
            raise EvidenceError(f"cannot open the workspace {self.top}: {error.strerror}") from error

    def count(self, size: int) -> None:
        """Count a file's bytes. Raises EvidenceError when they are too many."""
        self.bytes += size
        if self.bytes > self._limits.bytes:
            raise self._too_large(size_told(self._limits.bytes))

    def unreadable(self, path: str, error: OSError) -> None:
        if len(self._problems) < _MOST_NAMED:
            text = f"the workspace {self.top}: {shown(path)} cannot be read: {error.strerror}"
            self._problems.add(text, help="make it readable for the user who runs sandboxrun, or exclude it")

    def _below(self, fd: int, above: str) -> Iterator[FileNode]:
        if above.count("/") > DEEPEST:
            raise EvidenceError(f"the workspace is nested too deep: {shown(above)}", help="exclude that directory")
        try:
            names = sorted(os.listdir(fd))
        except OSError as error:
            self.unreadable(above or ".", error)
            return
        for name in names:
            path = f"{above}{name}"
            if self._is_excluded(path):
                self.excluded.append(path)
                self.partial.update(parents(path))
                continue
            try:
                entry = os.stat(name, dir_fd=fd, follow_symlinks=False)
            except FileNotFoundError:  # removed meanwhile: lock files and sockets come and go
                continue
            except OSError as error:
                self.unreadable(path, error)
                continue
            yield from self._entry(FileNode(path=path, entry=entry, fd=fd))

    def _entry(self, node: FileNode) -> Iterator[FileNode]:
        if kind := _SPECIAL.get(stat.S_IFMT(node.entry.st_mode)):
            self.left_out.append(LeftOut(path=node.path, kind=kind))
            self.partial.update(parents(node.path))
            return
        self.files += 1
        if self.files > self._limits.files:
            raise self._too_large(f"{self._limits.files} files")
        yield node
        if stat.S_ISDIR(node.entry.st_mode):
            try:
                below = os.open(node.name, _DIRECTORY, dir_fd=node.fd)
            except OSError as error:
                if not isinstance(error, FileNotFoundError):
                    self.unreadable(node.path, error)
                return
            try:
                yield from self._below(below, f"{node.path}/")
            finally:
                os.close(below)

    def _too_large(self, how: str) -> EvidenceError:
        return EvidenceError(
            f"the workspace {self.top} holds more than {how}",
            help="exclude what the agent does not need (build output, caches), or mount it with access rw or ro",
        )


def parents(path: str) -> Iterator[str]:
    """The directories above a path below the workspace's top, the nearest first."""
    while path := path.rpartition("/")[0]:
        yield path


def is_within(path: str, excluded: Callable[[str], bool]) -> bool:
    """Whether the path or a directory above it is left out."""
    return any(excluded(at) for at in (path, *parents(path)))


def excluder(patterns: Iterable[str]) -> Callable[[str], bool]:
    """Whether a path below the workspace is left out: by `fnmatch` on the path or its last component."""
    kept = tuple(patterns)

    def excluded(path: str) -> bool:
        name = path.rpartition("/")[2]
        return name == ALWAYS_EXCLUDED or any(fnmatchcase(path, p) or fnmatchcase(name, p) for p in kept)

    return excluded


# -- Packs a workspace `copy`: the tar that is uploaded, and later the baseline its patch is made against

BASELINE = "workspace.tar"  # its name in a run's staging folder
LEADING = "workspace"  # the component that everything is packed below, as in an engine's own archive of a directory
_CHUNK = 1 << 20
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class PackedWorkspace(Data):
    """A packed workspace: the tar's SHA-256, how many members, their bytes, what was left out, and by which patterns.

    `content` is `sha256:…` of what an agent would see of it: paths, modes, links' targets and data, less times, owners
    and all that lies in a `.git`, which changes by being looked at. `partial` are directories that have more in them
    on the disk than here.
    """

    sha256: str
    content: str
    files: int = 0
    bytes: int = 0
    exclude: tuple[str, ...] = ()
    left_out: tuple[LeftOut, ...] = ()
    partial: frozenset[str] = frozenset()
    last: str = ""  # the last file or directory of a plain name: where that has arrived, all has


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
        self._pending = bytearray()  # not yet written: a small file is three pieces
        self._last = ""
        self._counts = False  # whether what is being added counts for the content's digest

    def run(self) -> PackedWorkspace:
        source, root = self._source, self._source.open()
        try:
            self._add_directory(LEADING, os.fstat(root))
            for node in source.walk(root):
                self._add(node)
        finally:
            os.close(root)
        self._emit(bytes(2 * BLOCK))
        self._flush()
        return PackedWorkspace(
            sha256=self._hash.hexdigest(),
            content="sha256:" + self._content.hexdigest(),
            files=source.files,
            bytes=source.bytes,
            exclude=source.exclude,
            left_out=tuple(source.left_out),
            partial=frozenset(source.partial),
            last=self._last,
        )

    def _add(self, node: FileNode) -> None:
        info = self._info(f"{LEADING}/{node.path}", node.entry)
        try:
            if stat.S_ISDIR(node.entry.st_mode):
                self._add_directory(info.name, node.entry)
            elif stat.S_ISLNK(node.entry.st_mode):
                info.type, info.mode, info.linkname = tarfile.SYMTYPE, 0o777, os.readlink(node.name, dir_fd=node.fd)
                self._emit_header(info)
            else:
                self._add_file(info, node)
            if node.path.isascii() and node.path.isprintable() and not stat.S_ISLNK(node.entry.st_mode):
                self._last = node.path
        except FileNotFoundError:
            pass  # removed meanwhile
        except OSError as error:
            self._source.unreadable(node.path, error)

    def _info(self, name: str, entry: os.stat_result) -> tarfile.TarInfo:
        info = tarfile.TarInfo(name)
        info.uid, info.gid, info.mtime = self._uid, self._gid, int(entry.st_mtime)
        info.mode = stat.S_IMODE(entry.st_mode) & 0o777 | 0o600
        return info

    def _add_directory(self, name: str, entry: os.stat_result) -> None:
        info = self._info(name, entry)
        info.type, info.mode = tarfile.DIRTYPE, info.mode | 0o700
        self._emit_header(info)

    def _add_file(self, info: tarfile.TarInfo, node: FileNode) -> None:
        """The header with the size the file has once open; what a file grows by meanwhile is cut off."""
        file = os.open(node.name, _FILE, dir_fd=node.fd)
        try:
            opened = os.fstat(file)
            if not stat.S_ISREG(opened.st_mode):
                raise EvidenceError(f"{shown(node.path)} was replaced while the workspace was packed", help="try again")
            info.size = left = opened.st_size
            self._source.count(info.size)
            self._emit_header(info)
            while left and (chunk := os.read(file, min(left, _CHUNK))):
                self._emit(chunk)
                if self._counts:
                    self._content.update(chunk)
                left -= len(chunk)
        finally:
            os.close(file)
        if left:
            raise EvidenceError(f"{shown(node.path)} shrank while the workspace was packed", help="try again")
        self._emit(bytes(-info.size % BLOCK))

    def _emit_header(self, info: tarfile.TarInfo) -> None:
        self._emit(info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape"))
        path = info.name.removeprefix(LEADING).lstrip("/")
        self._counts = ".git" not in path.split("/")
        if self._counts:
            facts = (info.type.decode(), f"{info.mode:o}", str(info.size), info.linkname, path, "")
            self._content.update("\0".join(facts).encode("utf-8", "surrogateescape"))

    def _emit(self, data: bytes) -> None:
        self._pending += data
        if len(self._pending) >= _CHUNK:
            self._flush()

    def _flush(self) -> None:
        data, self._pending = memoryview(self._pending), bytearray()
        self._hash.update(data)
        try:
            while data:  # an unbuffered file may take less than all at once
                data = data[self._into.write(data) :]
        except OSError as error:  # of the copy's place, not of the workspace
            raise state_fault(error) from error
