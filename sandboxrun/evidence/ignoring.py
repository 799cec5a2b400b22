"""What git has of a workspace and what it ignores there, by the index and the .gitignore files that the copy began
with, so that a patch can be told apart into what a clone takes and the rest.

Git itself would do, but is not run on what an agent named; pathspec compiles patterns to expressions that a hostile
.gitignore makes run for ever. Here each component is matched by fnmatch, which does not go back.
"""

from __future__ import annotations

import fnmatch
import hashlib
import re
import struct
from collections.abc import Mapping, Sequence
from functools import lru_cache

from sandboxrun.data import Data
from sandboxrun.evidence.workspace import parents

_MOST_PATTERNS = 5_000
_LONGEST = 1_000  # characters of a pattern
_MOST_STEPS = 3_000_000  # patterns tried, in all: some seconds
_GITLINK, _TREE = 0o160000, 0o040000
_ENTRY = 62  # bytes of an entry before its name: the mode is the 24th, the flags are the 60th


# -- The index: which files git tracks


class Tracked(Data):
    """The files in an index, and the directories of which it knows no more (submodules)."""

    files: frozenset[str]
    whole: frozenset[str] = frozenset()

    def has(self, path: str) -> bool:
        """Whether git tracks the path, or what is there is another repository's to know."""
        return path in self.files or any(path.startswith(f"{above}/") for above in self.whole)


def tracked_in(index: bytes) -> Tracked | None:
    """What an index lists; None for one that is damaged, split, or of a repository with other hashes."""
    at, name, files, whole = 12, b"", set[str](), set[str]()
    try:
        magic, version, count = struct.unpack_from(">4sII", index)
        sum_ = index[-20:]
        if magic != b"DIRC" or version not in (2, 3, 4) or (any(sum_) and hashlib.sha1(index[:-20]).digest() != sum_):
            return None
        for _ in range(count):
            mode, flags = struct.unpack_from(">24xI32xH", index, at)
            begin, strip = at + _ENTRY + (2 if flags & 0x4000 else 0), len(name)
            if version == 4:  # it tells how much of the name before it goes, then what comes instead
                strip, begin = _varint(index, begin)
            end = index.index(b"\0", begin)
            name = name[: len(name) - strip] + index[begin:end]
            at = end + 1 if version == 4 else end + 8 - (end - at) % 8
            path = name.decode("utf-8", "surrogateescape").rstrip("/")
            (whole if mode in (_GITLINK, _TREE) else files).add(path)
    except (struct.error, ValueError, IndexError):
        return None
    return None if index[at : at + 4] == b"link" else Tracked(files=frozenset(files), whole=frozenset(whole))


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A number as an index of version 4 has it, and where it ends."""
    value = data[at] & 127
    while data[at] & 128:
        at += 1
        value = (value + 1 << 7) | (data[at] & 127)
    return value, at + 1


# -- .gitignore files


class _Pattern(Data):
    """One line. `parts` are the components of an anchored pattern, or the one that a name must match anywhere."""

    parts: tuple[str, ...]
    anchored: bool
    directory: bool
    negated: bool


class Ignoring:
    """Which paths the .gitignore files ignore. `files` by the directory that each is in ("" for the top), the ones that
    come first for a directory count least. `exhausted`: there were too many patterns; what was not tried counts as not
    ignored."""

    def __init__(self, files: Sequence[tuple[str, bytes]]) -> None:
        self.exhausted = False
        self._left = _MOST_STEPS
        self._patterns: dict[str, list[_Pattern]] = {}
        self._known: dict[str, bool] = {"": False}  # directories
        count = 0
        for directory, content in files:
            found = [p for line in content.split(b"\n") if (p := _pattern(line)) is not None]
            count += len(found)
            if count > _MOST_PATTERNS:
                self.exhausted = True
                return
            self._patterns.setdefault(directory, []).extend(found)

    def ignores(self, path: str) -> bool:
        """Whether a file is ignored, by itself or with a directory above it."""
        above, _, _ = path.rpartition("/")
        return self._ignores_directory(above) or self._matches(path, directory=False)

    def _ignores_directory(self, path: str) -> bool:
        known = self._known.get(path)
        if known is None:
            above, _, _ = path.rpartition("/")
            known = self._known[path] = self._ignores_directory(above) or self._matches(path, directory=True)
        return known

    def _matches(self, path: str, *, directory: bool) -> bool:
        """By the last pattern that matches, in the nearest file that has one."""
        parts = path.split("/")
        for depth in range(len(parts) - 1, -1, -1):
            below = parts[depth:]
            for pattern in reversed(self._patterns.get("/".join(parts[:depth]), ())):
                self._left -= 1
                if self._left < 0:
                    self.exhausted = True
                    return False
                if pattern.directory and not directory:
                    continue
                if _fits(pattern.parts, below) if pattern.anchored else _equal(pattern.parts[0], below[-1]):
                    return not pattern.negated
        return False


def _pattern(raw: bytes) -> _Pattern | None:
    """A line's pattern; None for a blank line, a comment, and what is longer than any use."""
    line = raw.removesuffix(b"\r").decode("utf-8", "surrogateescape")
    line = re.sub(r"(?<!\\) +$", "", line)
    if not line or line.startswith("#") or len(line) > _LONGEST:
        return None
    negated, line = line.startswith("!"), line.removeprefix("!")
    directory, line = line.endswith("/"), line.removesuffix("/")
    if not line:
        return None
    parts = line.removeprefix("/").split("/")
    if parts[-1] == "**" and len(parts) > 1:
        parts.append("*")
    return _Pattern(parts=tuple(parts), anchored="/" in line, directory=directory, negated=negated)


def _fits(pattern: Sequence[str], path: Sequence[str]) -> bool:
    """Whether all of a path's components match, `**` standing for any number of them; it only ever goes back to the
    last `**`."""
    p = n = 0
    star, resume = -1, 0
    while n < len(path):
        if p < len(pattern) and pattern[p] == "**":
            star, resume, p = p, n, p + 1
        elif p < len(pattern) and _equal(pattern[p], path[n]):
            p, n = p + 1, n + 1
        elif star >= 0:
            resume += 1
            p, n = star + 1, resume
        else:
            return False
    return all(part == "**" for part in pattern[p:])


def _equal(pattern: str, name: str) -> bool:
    return name == pattern or _compiled(pattern).match(name) is not None


@lru_cache(maxsize=2 * _MOST_PATTERNS)
def _compiled(pattern: str) -> re.Pattern[str]:
    """A component's pattern; as git has it, a backslash takes the next character as it is."""
    out, at = "", 0
    while at < len(pattern):
        char = pattern[at]
        if char == "\\" and at + 1 < len(pattern):
            at += 1
            out += f"[{pattern[at]}]" if pattern[at] in "*?[" else pattern[at]
        else:
            out += "[!" if pattern.startswith("[^", at) else char
            at += pattern.startswith("[^", at)
        at += 1
    try:
        return re.compile(fnmatch.translate(out))
    except re.error:
        return re.compile(re.escape(pattern))


# -- The two together


class Apart:
    """Which paths of a patch a clone would not take: those that git does not track or ignores."""

    def __init__(self, tracked: Tracked | None, ignoring: Ignoring) -> None:
        self._tracked, self._ignoring = tracked, ignoring

    def has(self, path: str, *, existed: bool) -> bool:
        """Whether that is so of a path. `existed`: the workspace had it at its start."""
        if self._tracked is not None:
            if self._tracked.has(path):
                return False
            if existed:
                return True
        return self._ignoring.ignores(path)

    def split(self, pieces: Mapping[str, bytes], existed: Mapping[str, object]) -> tuple[list[str], list[str]]:
        """The paths of a patch in two, of which the first applies before the second: what stands above or below a path
        of the second goes along with it."""
        apart = {path for path in pieces if self.has(path, existed=path in existed)}
        while True:
            above = {parent for path in apart for parent in parents(path)}
            more = {p for p in pieces if p not in apart and (p in above or not apart.isdisjoint(parents(p)))}
            if not more:
                return [p for p in pieces if p not in apart], [p for p in pieces if p in apart]
            apart |= more
