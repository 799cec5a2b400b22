"""A workspace's directory as it is on the disk: what of it goes into a copy, what does not, and why.

Owns the walk, its limits, and the patterns of `exclude`. The source is the user's own, or a hostile checkout: symlinks
are never followed, and nothing but directories is opened.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Iterator
from fnmatch import fnmatchcase
from pathlib import Path

import attrs

from sandboxrun.errors import Problems
from sandboxrun.evidence.errors import EvidenceError
from sandboxrun.evidence.export import shown

ALWAYS_EXCLUDED = ".sandboxrun"
DEEPEST = 100
_MOST_NAMED = 20
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_SPECIAL = {stat.S_IFSOCK: "socket", stat.S_IFIFO: "fifo", stat.S_IFCHR: "device", stat.S_IFBLK: "device"}


@attrs.frozen(kw_only=True)
class WorkspaceLimits:
    """How large a workspace may be."""

    files: int = 50_000
    bytes: int = 512 << 20


@attrs.frozen(kw_only=True)
class Node:
    """A directory, regular file or symlink; `fd` is the open directory that it is in, `entry` what lstat says."""

    path: str
    entry: os.stat_result
    fd: int

    @property
    def name(self) -> str:
        """The last component."""
        return self.path.rpartition("/")[2]


@attrs.frozen(kw_only=True)
class LeftOut:
    """A path of the source that a copy does not have, undecodable bytes as surrogates, and what it is."""

    path: str
    kind: str


class SourceTree:
    """One walk over a source. `left_out`, `excluded` and `partial` are complete once `walk` has ended.

    `partial`: directories of the copy that have more in them on the disk than in the copy.
    """

    def __init__(self, top: Path, exclude: Iterable[str] = (), limits: WorkspaceLimits | None = None) -> None:
        self.top = top
        self.left_out: list[LeftOut] = []
        self.excluded: list[str] = []
        self.partial: set[str] = set()
        self.files = self.bytes = 0
        self._problems = Problems()
        self._limits = limits or WorkspaceLimits()
        self._is_excluded = excluder(exclude)

    def walk(self, root: int) -> Iterator[Node]:
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
            raise self._too_large(f"{self._limits.bytes} bytes")

    def unreadable(self, path: str, error: OSError) -> None:
        """Note what can't be read."""
        if len(self._problems) < _MOST_NAMED:
            text = f"the workspace {self.top}: {shown(path)} cannot be read: {error.strerror}"
            self._problems.add(text, help="make it readable for the user who runs sandboxrun, or exclude it")

    def _below(self, fd: int, above: str) -> Iterator[Node]:
        if above.count("/") > DEEPEST:
            raise EvidenceError(f"the workspace is nested too deep: {shown(above)}", help="exclude that directory")
        for name in sorted(os.listdir(fd)):
            path = f"{above}{name}"
            if self._is_excluded(path):
                self.excluded.append(path)
                self._note_partial(path)
                continue
            try:
                entry = os.stat(name, dir_fd=fd, follow_symlinks=False)
            except FileNotFoundError:  # removed meanwhile: lock files and sockets come and go
                continue
            except OSError as error:
                self.unreadable(path, error)
                continue
            yield from self._entry(Node(path=path, entry=entry, fd=fd))

    def _entry(self, node: Node) -> Iterator[Node]:
        if kind := _SPECIAL.get(stat.S_IFMT(node.entry.st_mode)):
            self.left_out.append(LeftOut(path=node.path, kind=kind))
            self._note_partial(node.path)
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

    def _note_partial(self, path: str) -> None:
        self.partial.update(parents(path))

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
