"""A workspace's changes as a patch that `git apply` takes, made without git.

Owns git's patch format. The agent wrote one side of it: work, memory and output are bounded, and what cannot
be in a patch is listed with its reason.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import BinaryIO, cast

import attrs

from sandboxrun.evidence.baseline import excluder, unpacked
from sandboxrun.evidence.errors import EvidenceError
from sandboxrun.evidence.index import Refused
from sandboxrun.evidence.linediff import Budget, hunks
from sandboxrun.evidence.tarstream import TarError
from sandboxrun.evidence.worktree import LINK, Entry, Tree, TreeLimits, read_baseline, read_workspace

_NO_OID = "0" * 40
_B85_LINE = 52
_LENGTHS = b"?ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"  # by how many bytes a line holds
_READ_TO_WRITTEN = 4  # how much more may be read, for deflating and comparing, than the patch may hold
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
    artifacts: Iterable[str] = (),
    spool: BinaryIO | None = None,
    deadline: float | None = None,
) -> Patch:
    """The patch from a packed workspace (`baseline`, seekable) to the engine's archive of the workspace now.

    `exclude` are the patterns it was packed with, `artifacts` paths below the workspace that are kept by themselves:
    what is new there is not in the patch. `spool` a scratch file for what changed, `deadline` a
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
            return _patch(before, after, bounds, deadline)
    except TarError as error:
        raise EvidenceError(f"no patch of the workspace could be made: {error}") from error


def _patch(before: Tree, after: Tree, limits: PatchLimits, deadline: float | None) -> Patch:
    pieces: list[bytes] = []
    size, paths, read, budget = 0, list[str](), 0, Budget()
    for path in sorted(before.entries.keys() | after.entries.keys(), key=_bytes):
        old, new = before.entries.get(path), after.entries.get(path)
        if path in after.left_out or (old and new and (old.oid, old.mode) == (new.oid, new.mode)):
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
        pieces.append(piece)
        size += len(piece)
        paths.append(path)
    return Patch(
        data=b"".join(pieces),
        paths=tuple(paths),
        left_out=tuple(after.left_out[path] for path in sorted(after.left_out)),
        git_changes=tuple(_git_changes(before.git, after.git)),
    )


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
