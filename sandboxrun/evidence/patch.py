"""A workspace's changes as a patch that `git apply` takes, made without git.

Owns git's patch format. The agent wrote one side of it: work, memory and output are bounded, and what cannot
be in a patch is listed with its reason.
"""

from __future__ import annotations

import posixpath
import time
from collections.abc import Iterable, Iterator
from typing import BinaryIO, cast

import attrs

from sandboxrun.evidence.baseline import unpacked
from sandboxrun.evidence.errors import EvidenceError
from sandboxrun.evidence.export import shown
from sandboxrun.evidence.index import Refused
from sandboxrun.evidence.linediff import Budget, hunks
from sandboxrun.evidence.sourcetree import LeftOut, excluder, parents
from sandboxrun.evidence.tarstream import TarError
from sandboxrun.evidence.worktree import (
    LINK,
    Entry,
    Tree,
    TreeLimits,
    link_fault,
    modules_fault,
    read_baseline,
    read_workspace,
)

_NO_OID = "0" * 40
_B85_LINE = 52
_LENGTHS = b"?ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"  # by how many bytes a line holds
_READ_TO_WRITTEN = 4  # how much more may be read, for deflating and comparing, than the patch may hold
_MOST_LINKS = 40  # in one path, as Linux follows them
_ESCAPES = {7: "\\a", 8: "\\b", 9: "\\t", 10: "\\n", 11: "\\v", 12: "\\f", 13: "\\r", 34: '\\"', 92: "\\\\"}


@attrs.frozen(kw_only=True)
class PatchLimits:
    """Bounds of what is read, and of the patch's own size in bytes."""

    tree: TreeLimits = TreeLimits()
    patch_bytes: int = 64 << 20


@attrs.frozen(kw_only=True)
class GitChange:
    """A path in a `.git` that changed: blob ids before and after, None where it was not there."""

    path: str
    before: str | None
    after: str | None


@attrs.frozen(kw_only=True)
class Patch:
    """`data` is the patch (b"" when nothing changed), `paths` those in it."""

    data: bytes
    paths: tuple[str, ...]
    left_out: tuple[Refused, ...]
    git_changes: tuple[GitChange, ...]

    @property
    def changed(self) -> int:
        """How many paths are in it."""
        return len(self.paths)


def make_patch(
    baseline: BinaryIO,
    current: Iterable[bytes],
    *,
    limits: PatchLimits | None = None,
    exclude: Iterable[str] = (),
    left_out: Iterable[LeftOut] = (),
    partial: Iterable[str] = (),
    artifacts: Iterable[str] = (),
    spool: BinaryIO | None = None,
    deadline: float | None = None,
) -> Patch:
    """The patch from a packed workspace (`baseline`, seekable) to the engine's archive of the workspace now.

    `exclude` are the patterns it was packed with, `left_out` and `partial` what the source has beyond the baseline
    (see PackedWorkspace): the patch applies to the source. `artifacts` are paths below the workspace that are kept by
    themselves: what is new there is not in the patch. `spool` a scratch file for what changed, `deadline` a
    `time.monotonic` value. Raises EvidenceError when either side cannot be read whole.
    """
    import tempfile

    bounds = limits or PatchLimits()
    try:
        baseline.seek(0)
        before = read_baseline(baseline, unpacked(baseline))
        with tempfile.SpooledTemporaryFile(max_size=8 << 20) as scratch:
            after = read_workspace(
                current,
                before,
                spool if spool is not None else cast(BinaryIO, scratch),
                limits=bounds.tree,
                excluded=excluder(exclude),
                elsewhere=tuple(artifacts),
                deadline=deadline,
            )
            return _patch(before, after, bounds, _Beyond(left_out, partial), deadline)
    except TarError as error:
        raise EvidenceError(f"no patch of the workspace could be made: {error}") from error


def _patch(before: Tree, after: Tree, limits: PatchLimits, beyond: _Beyond, deadline: float | None) -> Patch:
    pieces: dict[str, bytes] = {}
    size, read, budget = 0, 0, Budget()
    for path in sorted(before.entries.keys() | after.entries.keys(), key=_bytes):
        old, new = before.entries.get(path), after.entries.get(path)
        if path in after.left_out or (old and new and (old.oid, old.mode) == (new.oid, new.mode)):
            continue
        if LINK in {entry.mode for entry in (old, new) if entry} and (fault := modules_fault(path)):
            after.leave_out(path, fault)
            continue
        if new is not None and not new.known and not (old and old.oid == new.oid):
            after.leave_out(path, f"larger than {limits.tree.file_bytes} bytes, or all changes together too large")
            continue
        if deadline is not None and time.monotonic() > deadline:
            raise TarError("ran out of time")
        read += new.size if new else 0
        if read > _READ_TO_WRITTEN * limits.patch_bytes:
            after.leave_out(path, "all changes together too large")
            continue
        try:
            piece = b"".join(_file(before, old, after, new, budget, limits.patch_bytes - size))
        except _TooLargeError:
            piece = b""
        if not piece or size + len(piece) > limits.patch_bytes:
            after.leave_out(path, f"the patch would be larger than {limits.patch_bytes} bytes")
            continue
        pieces[path] = piece
        size += len(piece)
    for path, reason in _blocked(pieces, before, after, beyond):
        after.leave_out(path, reason)
        del pieces[path]
    return Patch(
        data=b"".join(pieces.values()),
        paths=tuple(pieces),
        left_out=tuple(after.left_out[path] for path in sorted(after.left_out)),
        git_changes=tuple(_git_changes(before.git, after.git)),
    )


class _Beyond:
    """What the source has and the baseline has not."""

    def __init__(self, left_out: Iterable[LeftOut], partial: Iterable[str]) -> None:
        self.special = {one.path: one.kind for one in left_out}
        self.partial = frozenset(partial)


def _blocked(pieces: dict[str, bytes], before: Tree, after: Tree, beyond: _Beyond) -> list[tuple[str, str]]:
    """New paths of the patch that something of the source is in the way of, for it is not in the patch, and why.

    `git apply` would refuse all of it, or worse, apply a part.
    """
    new = [path for path in pieces if path not in before.entries]
    if not new:
        return []
    stays = {path for path in before.entries if path not in pieces or path in after.entries} | beyond.special.keys()
    directories = {*beyond.partial, *(above for path in stays for above in parents(path))}
    found = []
    for path in new:
        if path in beyond.special:
            found.append((path, f"the source has a {beyond.special[path]} of that name, which was not copied"))
        elif path in directories:
            found.append(
                (path, "the source has a directory of that name, not all of which is in the copy or the patch")
            )
        elif (above := next((above for above in parents(path) if above in stays), None)) is not None:
            found.append((path, f"{shown(above)} is not a directory in the source, and stays"))
        elif (above := next((above for above in parents(path) if _is_loop(above, before)), None)) is not None:
            found.append((path, f"{shown(above)} is a symlink in a loop in the source: `git apply` fails below it"))
    return found


def _is_loop(path: str, tree: Tree) -> bool:
    """Whether a symlink of the tree resolves to nothing because it comes back to itself."""
    if path not in tree.entries:
        return False
    for _ in range(_MOST_LINKS):
        links = [at for at in (path, *parents(path)) if at in tree.entries and tree.entries[at].mode == LINK]
        if not links:
            return False
        link = links[-1]
        target = tree.content(tree.entries[link]).decode("utf-8", "surrogateescape")
        if link_fault(link, target):
            return False
        path = posixpath.normpath(posixpath.join(posixpath.dirname(link), target) + path[len(link) :])
    return True


def _git_changes(before: dict[str, str], after: dict[str, str]) -> Iterator[GitChange]:
    for path in sorted(before.keys() | after.keys()):
        if before.get(path) != after.get(path):
            yield GitChange(path=path, before=before.get(path), after=after.get(path))


class _TooLargeError(Exception):
    """A binary file's new content does not fit what is left of the patch."""


def _file(
    before: Tree, old: Entry | None, after: Tree, new: Entry | None, budget: Budget, room: int
) -> Iterator[bytes]:
    """One path's part of the patch. A file that became a link (or the reverse) is deleted, then created."""
    if old and new and (old.mode == LINK) != (new.mode == LINK):
        yield from _file(before, old, after, None, budget, room)
        yield from _file(before, None, after, new, budget, room)
        return
    entry = new or old
    assert entry is not None
    a, b = _quoted("a/" + entry.path), _quoted("b/" + entry.path)
    yield b"diff --git %s %s\n" % (a, b)
    yield from _modes(old, new)
    old_oid, new_oid = old.oid if old else _NO_OID, new.oid if new else _NO_OID
    if old_oid == new_oid:
        return
    both = f" {entry.mode}" if old and new and old.mode == new.mode else ""
    yield f"index {old_oid}..{new_oid}{both}\n".encode()
    one, other = before.content(old) if old else b"", after.content(new) if new else b""
    if b"\0" in one or b"\0" in other:
        yield _binary(other, room)
    elif body := hunks(one, other, budget):
        # Git ends a name that holds white space with a tab, so that it can be told from a date.
        tab = b"\t" if any(c.isspace() for c in entry.path) and not a.startswith(b'"') else b""
        yield b"--- %s\n" % (a + tab if old else b"/dev/null")
        yield b"+++ %s\n" % (b + tab if new else b"/dev/null")
        yield body


def _modes(old: Entry | None, new: Entry | None) -> Iterator[bytes]:
    if old is None and new is not None:
        yield f"new file mode {new.mode}\n".encode()
    elif new is None and old is not None:
        yield f"deleted file mode {old.mode}\n".encode()
    elif old and new and old.mode != new.mode:
        yield f"old mode {old.mode}\nnew mode {new.mode}\n".encode()


def _binary(content: bytes, room: int) -> bytes:
    """The file's new content whole, deflated, in git's base 85: 52 bytes a line, each line with its length."""
    import base64
    import zlib

    deflated = zlib.compress(content, 6 if len(content) < 1 << 20 else 1)
    if len(deflated) * 5 // 4 > room:
        raise _TooLargeError
    lines = [b"GIT binary patch\nliteral %d\n" % len(content)]
    for begin in range(0, len(deflated), _B85_LINE * 1024):
        block = deflated[begin : begin + _B85_LINE * 1024]
        # 52 bytes are 65 characters, so that the lines of a block can be cut from its encoding.
        encoded = base64.b85encode(block, pad=True)
        for at in range(0, len(block), _B85_LINE):
            part, start = min(_B85_LINE, len(block) - at), at * 5 // 4
            lines.append(_LENGTHS[part : part + 1] + encoded[start : start + (part + 3) // 4 * 5] + b"\n")
    return b"".join(lines) + b"\n"


def _quoted(path: str) -> bytes:
    """A path as git writes it: in C's quotes when it holds a control character, a quote, a backslash or no ASCII."""
    raw = _bytes(path)
    if all(32 <= byte < 127 and byte not in b'"\\' for byte in raw):
        return raw
    return b'"' + "".join(_ESCAPES.get(c) or (chr(c) if 32 <= c < 127 else f"\\{c:03o}") for c in raw).encode() + b'"'


def _bytes(path: str) -> bytes:
    return path.encode("utf-8", "surrogateescape")
