"""A workspace's files as git would name them, read from a tar: path, mode, blob id, where the content lies.

Owns the reading of both sides of a patch. Git itself is never run, and nothing in a `.git` is interpreted.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable, Iterable, Iterator
from typing import BinaryIO

import attrs

from sandboxrun.evidence.baseline import LEADING
from sandboxrun.evidence.export import is_git, name_fault, plain_name, shown
from sandboxrun.evidence.index import Refused
from sandboxrun.evidence.sourcetree import is_within
from sandboxrun.evidence.tarstream import Kind, Member, TarError, TarReader

FILE, EXECUTABLE, LINK = "100644", "100755", "120000"

# A link of that name is refused by git, and with it the whole patch; by any of its spellings.
_MODULES = re.compile(r"(\.gitmodules|gitmod~\d|gi7eb).*", re.DOTALL)


@attrs.frozen(kw_only=True)
class Entry:
    """A file or symlink. `at` is a file's offset in the tree's file, None when its content was not kept."""

    path: str
    mode: str
    oid: str
    size: int
    at: int | None = None
    target: bytes | None = None  # a symlink's

    @property
    def known(self) -> bool:
        """Whether the content can be read."""
        return self.at is not None or self.target is not None


class Tree:
    """The entries of one side. What lies in a `.git` is only hashed, into `git`."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.entries: dict[str, Entry] = {}
        self.directories: set[str] = set()  # of a baseline
        self.git: dict[str, str] = {}
        self.left_out: dict[str, Refused] = {}

    def content(self, entry: Entry) -> bytes:
        """An entry's bytes."""
        if entry.target is not None:
            return entry.target
        assert entry.at is not None
        self.file.seek(entry.at)
        return self.file.read(entry.size)

    def leave_out(self, path: str, reason: str) -> None:
        """Note that a path's state here is not known."""
        self.left_out[path] = Refused(part="workspace.patch", path=shown(path), reason=reason)


@attrs.frozen(kw_only=True)
class TreeLimits:
    """Bounds of what is read from a container's workspace; `file_bytes` of a file that can be in a patch."""

    files: int = 100_000
    bytes: int = 1 << 30
    file_bytes: int = 32 << 20
    kept_bytes: int = 512 << 20


def read_baseline(tar: BinaryIO, chunks: Iterable[bytes]) -> Tree:
    """The tree of a packed workspace: `chunks` are the bytes of `tar`, which also serves the content later.

    All is below LEADING.
    """
    tree, reader = Tree(tar), TarReader(chunks)
    for member in reader:
        path = member.name.rstrip("/").removeprefix(f"{LEADING}/")
        if member.kind is Kind.DIRECTORY:
            tree.directories.add(path)
            continue
        if member.kind is Kind.SYMLINK:
            _add(tree, path, _link(member, path))
            continue
        at = reader.position
        oid = _oid(member.size, reader.content())
        _add(tree, path, Entry(path=path, mode=_mode(member), oid=oid, size=member.size, at=at))
    return tree


def read_workspace(
    stream: Iterable[bytes],
    baseline: Tree,
    spool: BinaryIO,
    *,
    limits: TreeLimits,
    excluded: Callable[[str], bool],
    elsewhere: tuple[str, ...] = (),
    deadline: float | None = None,
) -> Tree:
    """The tree of a container's workspace as the engine archives it (all below one leading component).

    Only what differs from `baseline` is kept, in `spool`; what is new at or below the paths `elsewhere` is left out,
    for it is kept elsewhere. Raises TarError when the stream cannot be read to its
    end: a tree of a part of it would show everything else as deleted.
    """
    tree = Tree(spool)
    reader = TarReader(_bounded(stream, limits, deadline))
    count = 0
    for member in reader:
        count += 1
        if count > limits.files:
            raise TarError(f"more than {limits.files} files")
        path = member.name.rstrip("/").partition("/")[2]
        if not path or is_within(path, excluded):
            continue
        if path not in baseline.entries and any(path == at or path.startswith(f"{at}/") for at in elsewhere):
            continue
        if member.kind is Kind.DIRECTORY:
            _directory(tree, baseline, path)
        else:
            _read(tree, baseline, member, path, reader, limits)
    return tree


def _directory(tree: Tree, baseline: Tree, path: str) -> None:
    """One too deep is told, once for all below it: what no path can name, the engine leaves out in silence."""
    fault = name_fault(path, odd=True)
    if fault and path not in baseline.directories and not name_fault(path.rpartition("/")[0] or "top", odd=True):
        tree.leave_out(path, f"a directory: {fault}")


def _read(tree: Tree, baseline: Tree, member: Member, path: str, reader: TarReader, limits: TreeLimits) -> None:
    if path not in baseline.entries and (fault := name_fault(path, odd=True)):
        return tree.leave_out(path, fault)
    match member.kind:
        case Kind.FILE:
            return _add(tree, path, _spooled(tree, baseline, member, path, reader, limits))
        case Kind.SYMLINK:
            entry, before = _link(member, path), baseline.entries.get(path)
            unchanged = before is not None and (before.mode, before.oid) == (entry.mode, entry.oid)
            if not is_git(path) and not unchanged and (fault := link_fault(path, member.link)):
                return tree.leave_out(path, fault)
            return _add(tree, path, entry)
        case Kind.HARDLINK:
            return _hard_link(tree, baseline, path, member.link.partition("/")[2])
    return tree.leave_out(path, f"a {member.kind.value}")


def _hard_link(tree: Tree, baseline: Tree, path: str, target: str) -> None:
    """A second name of a file that came earlier: the same content again."""
    if is_git(path) or is_git(target):
        if is_git(path) and (oid := tree.git.get(target)):
            tree.git[path] = oid
            return None
        return tree.leave_out(path, "a hard link into or out of .git")
    entry = tree.entries.get(target)
    if entry is None:
        return tree.leave_out(path, "a hard link to something that was not taken")
    before = baseline.entries.get(target)
    if not entry.known and before is not None and before.oid == entry.oid:
        at = tree.file.tell()
        tree.file.write(baseline.content(before))
        entry = attrs.evolve(entry, at=at)
    return _add(tree, path, attrs.evolve(entry, path=path))


def _spooled(tree: Tree, baseline: Tree, member: Member, path: str, reader: TarReader, limits: TreeLimits) -> Entry:
    start = tree.file.tell()
    keep = not is_git(path) and member.size <= limits.file_bytes and start + member.size <= limits.kept_bytes

    def kept() -> Iterator[bytes]:
        for chunk in reader.content():
            if keep:
                tree.file.write(chunk)
            yield chunk

    oid = _oid(member.size, kept())
    before = baseline.entries.get(path)
    if keep and before is not None and before.oid == oid and before.mode != LINK:
        tree.file.seek(start)
        tree.file.truncate()
        keep = False
    return Entry(path=path, mode=_mode(member), oid=oid, size=member.size, at=start if keep else None)


def _add(tree: Tree, path: str, entry: Entry) -> None:
    if is_git(path):
        tree.git[path] = entry.oid
    elif path in tree.entries:
        tree.leave_out(path, "a second member of that name")
    else:
        tree.entries[path] = entry


def _link(member: Member, path: str) -> Entry:
    target = member.link.encode("utf-8", "surrogateescape")
    return Entry(path=path, mode=LINK, oid=_oid(len(target), (target,)), size=len(target), target=target)


def _oid(size: int, chunks: Iterable[bytes]) -> str:
    """Git's blob id (SHA-1): `git apply` compares it before it applies a binary patch."""
    digest = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
    for chunk in chunks:
        digest.update(chunk)
    return digest.hexdigest()


def _mode(member: Member) -> str:
    return EXECUTABLE if member.mode & 0o100 else FILE


def link_fault(path: str, target: str) -> str | None:
    """Why the symlink at `path` may resolve to something outside of its tree; None when it cannot.

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


def modules_fault(path: str) -> str | None:
    """Git refuses a patch as a whole that makes, changes or removes a symlink of that name."""
    found = any(_MODULES.fullmatch(plain_name(part)) for part in re.split(r"[/\\]", path))
    return "a symlink named .gitmodules" if found else None


def _bounded(stream: Iterable[bytes], limits: TreeLimits, deadline: float | None) -> Iterator[bytes]:
    left = limits.bytes + limits.files * 2048
    for chunk in stream:
        left -= len(chunk)
        if left < 0:
            raise TarError(f"the workspace is larger than {limits.bytes} bytes")
        if deadline is not None and time.monotonic() > deadline:
            raise TarError("ran out of time")
        yield chunk
