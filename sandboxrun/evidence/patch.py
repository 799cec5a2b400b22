"""A workspace's changes as a patch that `git apply` takes, made without git, with bounds on the work whatever the
two sides are.

difflib has no bound, and git run on what an agent wrote would execute it: that is why both are our own.
"""

from __future__ import annotations

import hashlib
import posixpath
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import BinaryIO, cast

from msgspec import structs

from sandboxrun.data import Data
from sandboxrun.evidence.errors import EvidenceError
from sandboxrun.evidence.export import Kind, Member, TarError, TarReader, bounded, is_git, name_fault, plain_name, shown
from sandboxrun.evidence.folder import chunks_of
from sandboxrun.evidence.ignoring import Apart, Ignoring, tracked_in
from sandboxrun.evidence.index import RefusedName
from sandboxrun.evidence.workspace import LEADING, LeftOut, excluder, is_within, parents
from sandboxrun.spec.types import size_told

# -- The hunks of a unified diff, with a bound on the work whatever the two texts are

CONTEXT = 3
_MOST_LINES = 50_000  # of either text, between the common start and end
_MOST_EDITS = 1_000
_STEPS_A_FILE = 2_000_000
_BLOCK = 1 << 16
_NO_NEWLINE = b"\\ No newline at end of file\n"

LineEdit = tuple[int, int, int, int]  # lines old[a:b] became new[c:d]


class Budget:
    """What a whole patch may take: steps of comparing lines (ten million are a second or two)."""

    def __init__(self, steps: int = 30_000_000) -> None:
        self.left = steps


def hunks(old: bytes, new: bytes, budget: Budget) -> bytes:
    """The hunks that turn `old` into `new`, lines ending at b"\\n" alone; b"" for equal texts."""
    if old == new:
        return b""
    # only the part that holds all differences, with the context lines there are around it, is split into lines
    shortest = min(len(old), len(new))
    same = _common(old, new, shortest)
    tail = _common(old[::-1], new[::-1], shortest - same)
    start, end = old.rfind(b"\n", 0, same) + 1, len(old) - tail
    for _ in range(CONTEXT):
        start = old.rfind(b"\n", 0, max(0, start - 1)) + 1
    for _ in range(CONTEXT + 1):
        end = (old.find(b"\n", end) + 1) or len(old)
    first = old.count(b"\n", 0, start)
    old, new = old[start:end], new[start : end + len(new) - len(old)]
    if old.count(b"\n") > _MOST_LINES or new.count(b"\n") > _MOST_LINES:  # one hunk, without splitting either
        counts = [text.count(b"\n") + (not text.endswith(b"\n")) if text else 0 for text in (old, new)]
        return _head(first, counts[0], first, counts[1]) + _marked(b"-", old) + _marked(b"+", new)
    old_lines, new_lines = _lines(old), _lines(new)
    groups: list[list[LineEdit]] = []  # edits whose context lines would touch, together
    for edit in _edits(old_lines, new_lines, budget):
        if not groups or edit[0] - groups[-1][-1][1] > 2 * CONTEXT:
            groups.append([])
        groups[-1].append(edit)
    return b"".join(_hunk(group, old_lines, new_lines, first) for group in groups)


_lines = re.compile(rb"[^\n]*\n|[^\n]+").findall


def _common(old: bytes, new: bytes, most: int) -> int:
    """How many bytes are the same from the start."""
    at = 0
    while at < most and old[at : at + _BLOCK] == new[at : at + _BLOCK]:
        at += _BLOCK
    if at >= most:
        return most
    low, high = 0, min(_BLOCK, most - at)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if old[at : at + middle] == new[at : at + middle] else (low, middle - 1)
    return at + low


def _edits(old: list[bytes], new: list[bytes], budget: Budget) -> list[LineEdit]:
    """What changed, in order; the lines at both ends that are the same are taken off first."""
    numbers: dict[bytes, int] = {}
    a = [numbers.setdefault(line, len(numbers)) for line in old]
    b = [numbers.setdefault(line, len(numbers)) for line in new]
    head = len(posixpath.commonprefix([a, b]))
    tail = len(posixpath.commonprefix([a[head:][::-1], b[head:][::-1]]))
    a, b = a[head : len(a) - tail], b[head : len(b) - tail]
    found = (_myers(a, b, budget) if a and b else None) or [(0, len(a), 0, len(b))]
    return [(i + head, j + head, k + head, m + head) for i, j, k, m in found]


def _myers(a: list[int], b: list[int], budget: Budget) -> list[LineEdit] | None:
    """A shortest edit script, or None when finding it would take too many steps."""
    steps = min(_STEPS_A_FILE, budget.left)
    if set(a).isdisjoint(b):
        return None
    n, m = len(a), len(b)
    spent, most = 0, min(n + m, _MOST_EDITS)
    reach = [0] * (2 * most + 3)  # by diagonal, from -most-1 on: the furthest line of `a`
    trace: list[list[int]] = []
    for d in range(most + 1):
        trace.append(reach[most + 1 - d : most + 2 + d])
        for k in range(-d, d + 1, 2):
            at = most + 1 + k
            x = reach[at + 1] if k == -d or (k != d and reach[at - 1] < reach[at + 1]) else reach[at - 1] + 1
            y, begin = x - k, x
            while x < n and y < m and a[x] == b[y]:
                x, y = x + 1, y + 1
            reach[at] = x
            spent += 1 + x - begin
            if x == n and y == m:
                budget.left -= spent
                return _path(trace, n, m)
            if spent > steps:
                budget.left -= spent
                return None
    budget.left -= spent
    return None


def _path(trace: list[list[int]], x: int, y: int) -> list[LineEdit]:
    """Walk back through what each round reached, collecting single edits, then join those that touch."""
    edits: list[LineEdit] = []
    for d in range(len(trace) - 1, 0, -1):
        before, k = trace[d], x - y

        def reached(diagonal: int, before: list[int] = before, d: int = d) -> int:
            return before[diagonal + d] if -d <= diagonal <= d else -1

        down = k == -d or (k != d and reached(k - 1) < reached(k + 1))
        k = k + 1 if down else k - 1
        px = reached(k)
        py = px - k
        edits.append((px, px, py, py + 1) if down else (px, px + 1, py, py))
        x, y = px, py
    joined: list[LineEdit] = []
    for edit in reversed(edits):
        if joined and joined[-1][1] == edit[0] and joined[-1][3] == edit[2]:
            joined[-1] = (joined[-1][0], edit[1], joined[-1][2], edit[3])
        else:
            joined.append(edit)
    return joined


def _hunk(group: list[LineEdit], old: list[bytes], new: list[bytes], first: int) -> bytes:
    begin, end = max(0, group[0][0] - CONTEXT), min(len(old), group[-1][1] + CONTEXT)
    new_begin = group[0][2] - (group[0][0] - begin)
    new_end = group[-1][3] + end - group[-1][1]
    body, at = [], begin
    for a, b, c, d in group:
        for mark, lines in ((b" ", old[at:a]), (b"-", old[a:b]), (b"+", new[c:d])):
            body.append(_marked(mark, b"".join(lines)))
        at = b
    body.append(_marked(b" ", b"".join(old[at:end])))
    return _head(first + begin, end - begin, first + new_begin, new_end - new_begin) + b"".join(body)


def _marked(mark: bytes, text: bytes) -> bytes:
    if not text:
        return b""
    whole = text.endswith(b"\n")
    marked = mark + (text[:-1] if whole else text).replace(b"\n", b"\n" + mark) + b"\n"
    return marked if whole else marked + _NO_NEWLINE


def _head(old_at: int, old_count: int, new_at: int, new_count: int) -> bytes:
    """Positions are 1-based; an empty range is named by the line before it."""
    old_start, new_start = old_at + (old_count > 0), new_at + (new_count > 0)
    return b"@@ -%d,%d +%d,%d @@\n" % (old_start, old_count, new_start, new_count)


# -- A workspace's files as git would name them, read from a tar: path, mode, blob id, where the content lies

FILE, EXECUTABLE, LINK = "100644", "100755", "120000"

# A link of that name is refused by git, and with it the whole patch; by any of its spellings.
_MODULES = re.compile(r"(\.gitmodules|gitmod~\d|gi7eb).*", re.DOTALL)


class TreeEntry(Data):
    """A file or symlink. `at` is a file's offset in the tree's file, None when its content was not kept."""

    path: str
    mode: str
    oid: str
    size: int
    at: int | None = None
    target: bytes | None = None  # a symlink's

    @property
    def known(self) -> bool:
        return self.at is not None or self.target is not None


class Tree:
    """The entries of one side. What lies in a `.git` is only hashed, into `git`."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.entries: dict[str, TreeEntry] = {}
        self.directories: set[str] = set()  # of a baseline
        self.git: dict[str, str] = {}
        self.of_git: dict[str, TreeEntry] = {}  # what of a baseline's `.git` says which files are git's
        self.left_out: dict[str, RefusedName] = {}

    def content(self, entry: TreeEntry) -> bytes:
        if entry.target is not None:
            return entry.target
        assert entry.at is not None
        self.file.seek(entry.at)
        return self.file.read(entry.size)

    def leave_out(self, path: str, reason: str) -> None:
        """Note that a path's state here is not known."""
        self.left_out[path] = RefusedName(part="workspace.patch", path=shown(path), reason=reason)


class TreeLimits(Data):
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
        entry = TreeEntry(path=path, mode=_mode(member), oid=oid, size=member.size, at=at)
        if path in (_INDEX, _EXCLUDE):
            tree.of_git[path] = entry
        _add(tree, path, entry)
    return tree


_INDEX, _EXCLUDE, _IGNORE = ".git/index", ".git/info/exclude", ".gitignore"
_LARGEST_INDEX, _LARGEST_IGNORE = 64 << 20, 1 << 20  # bytes


def apart_of(baseline: Tree) -> Apart:
    """Which changes a clone would not take, by what the workspace began with."""
    index, exclude = baseline.of_git.get(_INDEX), baseline.of_git.get(_EXCLUDE)
    tracked = None
    if index is not None and index.size <= _LARGEST_INDEX:
        tracked = tracked_in(baseline.content(index))
    ignoring = [("", exclude)] if exclude is not None else []
    for path, entry in baseline.entries.items():
        above, _, name = path.rpartition("/")
        if name == _IGNORE and entry.mode != LINK:
            ignoring.append((above, entry))
    files = [(above, baseline.content(entry)) for above, entry in ignoring if entry.size <= _LARGEST_IGNORE]
    return Apart(tracked, Ignoring(files))


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
    most, larger = limits.bytes + limits.files * 2048, f"the workspace is larger than {size_told(limits.bytes)}"
    reader = TarReader(bounded(stream, most, deadline, larger))
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
        _read(tree, baseline, member, path, reader, limits)
    if not count:
        raise TarError("the engine's archive of it is empty")
    return tree


def _read(tree: Tree, baseline: Tree, member: Member, path: str, reader: TarReader, limits: TreeLimits) -> None:
    fault = name_fault(path, odd=True)
    if fault and member.kind is not Kind.DIRECTORY and path not in baseline.entries:
        return tree.leave_out(path, fault)
    match member.kind:
        case Kind.DIRECTORY:  # one too deep is told, once for all below it: the engine leaves out what no path can name
            above = path.rpartition("/")[0] or "top"
            if fault and path not in baseline.directories and not name_fault(above, odd=True):
                tree.leave_out(path, f"a directory: {fault}")
            return None
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
        return tree.leave_out(path, "a hard link to a file that was not saved")
    before = baseline.entries.get(target)
    if not entry.known and before is not None and before.oid == entry.oid:
        at = tree.file.tell()
        tree.file.write(baseline.content(before))
        entry = structs.replace(entry, at=at)
    return _add(tree, path, structs.replace(entry, path=path))


def _spooled(tree: Tree, baseline: Tree, member: Member, path: str, reader: TarReader, limits: TreeLimits) -> TreeEntry:
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
    return TreeEntry(path=path, mode=_mode(member), oid=oid, size=member.size, at=start if keep else None)


def _add(tree: Tree, path: str, entry: TreeEntry) -> None:
    if is_git(path):
        tree.git[path] = entry.oid
    elif path in tree.entries:
        tree.leave_out(path, "a second member of that name")
    else:
        tree.entries[path] = entry


def _link(member: Member, path: str) -> TreeEntry:
    target = member.link.encode("utf-8", "surrogateescape")
    return TreeEntry(path=path, mode=LINK, oid=_oid(len(target), (target,)), size=len(target), target=target)


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


# -- A workspace's changes as a patch that `git apply` takes, made without git

_NO_OID = "0" * 40
_B85_LINE = 52
_LENGTHS = b"?ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"  # by how many bytes a line holds
_READ_TO_WRITTEN = 4  # how much more may be read, for deflating and comparing, than the patch may hold
_MOST_LINKS = 40  # in one path, as Linux follows them
_ESCAPES = {7: "\\a", 8: "\\b", 9: "\\t", 10: "\\n", 11: "\\v", 12: "\\f", 13: "\\r", 34: '\\"', 92: "\\\\"}


class PatchLimits(Data):
    """Bounds of what is read, and of the patch's own size in bytes."""

    tree: TreeLimits = TreeLimits()
    patch_bytes: int = 64 << 20


class GitChange(Data):
    """A path in a `.git` that changed: blob ids before and after, None where it was not there."""

    path: str
    before: str | None
    after: str | None


class Patch(Data):
    """`data` is the patch (b"" when nothing changed), `paths` those in it. `untracked` is the part that a clone would
    refuse, of files that git does not track or ignores; it applies after the other one, where the workspace came
    from."""

    data: bytes
    paths: tuple[str, ...]
    untracked: bytes
    untracked_paths: tuple[str, ...]
    left_out: tuple[RefusedName, ...]
    git_changes: tuple[GitChange, ...]


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
        before = read_baseline(baseline, chunks_of(baseline))
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
            beyond = {one.path: one.kind for one in left_out}
            return _patch(before, after, bounds, beyond, frozenset(partial), deadline)
    except TarError as error:
        raise EvidenceError(f"no patch of the workspace could be made: {error}") from error


def _patch(
    before: Tree,
    after: Tree,
    limits: PatchLimits,
    special: Mapping[str, str],
    partial: frozenset[str],
    deadline: float | None,
) -> Patch:
    pieces: dict[str, bytes] = {}
    size, read, budget, apart = 0, 0, Budget(), apart_of(before)
    both = before.entries.keys() | after.entries.keys()
    sides = {path: (before.entries.get(path), after.entries.get(path)) for path in both}
    changed = [p for p, (old, new) in sides.items() if not old or not new or (old.oid, old.mode) != (new.oid, new.mode)]
    # those of the first part come first, so that the others don't take its room
    for path in sorted(changed, key=lambda path: (apart.has(path, existed=path in before.entries), _bytes(path))):
        old, new = sides[path]
        if path in after.left_out:
            continue
        if LINK in {entry.mode for entry in (old, new) if entry} and (fault := modules_fault(path)):
            after.leave_out(path, fault)
            continue
        if new is not None and not new.known and not (old and old.oid == new.oid):
            after.leave_out(path, f"larger than {size_told(limits.tree.file_bytes)}, or all changes together too large")
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
            after.leave_out(path, f"the patch would be larger than {size_told(limits.patch_bytes)}")
            continue
        pieces[path] = piece
        size += len(piece)
    for path, reason in _blocked(pieces, before, after, special, partial):
        after.leave_out(path, reason)
        del pieces[path]
    kept, untracked = (sorted(part, key=_bytes) for part in apart.split(pieces, before.entries))
    return Patch(
        data=b"".join(pieces[path] for path in kept),
        paths=tuple(kept),
        untracked=b"".join(pieces[path] for path in untracked),
        untracked_paths=tuple(untracked),
        left_out=tuple(after.left_out[path] for path in sorted(after.left_out)),
        git_changes=tuple(
            GitChange(path=path, before=before.git.get(path), after=after.git.get(path))
            for path in sorted(before.git.keys() | after.git.keys())
            if before.git.get(path) != after.git.get(path)
        ),
    )


def _blocked(
    pieces: Mapping[str, bytes], before: Tree, after: Tree, special: Mapping[str, str], partial: frozenset[str]
) -> list[tuple[str, str]]:
    """New paths of the patch that something of the source is in the way of, for it is not in the patch, and why.

    `git apply` would refuse all of it, or worse, apply a part.
    """
    new = [path for path in pieces if path not in before.entries]
    if not new:
        return []
    stays = {path for path in before.entries if path not in pieces or path in after.entries} | special.keys()
    directories = {*partial, *(above for path in stays for above in parents(path))}
    found = []
    for path in new:
        if path in special:
            found.append((path, f"the source has a {special[path]} of that name, which was not copied"))
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


class _TooLargeError(Exception):
    """A binary file's new content does not fit what is left of the patch."""


def _file(
    before: Tree, old: TreeEntry | None, after: Tree, new: TreeEntry | None, budget: Budget, room: int
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
        # Git ends a name that holds white space with a tab, so that it can be distinguished from a date.
        tab = b"\t" if any(c.isspace() for c in entry.path) and not a.startswith(b'"') else b""
        yield b"--- %s\n" % (a + tab if old else b"/dev/null")
        yield b"+++ %s\n" % (b + tab if new else b"/dev/null")
        yield body


def _modes(old: TreeEntry | None, new: TreeEntry | None) -> Iterator[bytes]:
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
    """A path as git writes it: in C's quotes when it holds a control character, a quote, a backslash or no ASCII, or a
    folder whose name ends with a space: git would look for the path's end there."""
    raw = _bytes(path)
    if b" /" not in raw and all(32 <= byte < 127 and byte not in b'"\\' for byte in raw):
        return raw
    return b'"' + "".join(_ESCAPES.get(c) or (chr(c) if 32 <= c < 127 else f"\\{c:03o}") for c in raw).encode() + b'"'


def _bytes(path: str) -> bytes:
    return path.encode("utf-8", "surrogateescape")
