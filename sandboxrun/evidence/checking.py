"""Checks a store against its chain: is everything that was recorded still there, unchanged, and nothing else.

Owns what counts as a difference. The store may have come with a checkout: whatever is read of it is bounded.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import stat
from collections.abc import Collection, Iterator, Mapping

from sandboxrun.data import Data
from sandboxrun.evidence.errors import EvidenceError, reason_of
from sandboxrun.evidence.folder import INDEX, Folder, is_name
from sandboxrun.evidence.index import LARGEST as LARGEST_INDEX
from sandboxrun.evidence.index import Index, Kept
from sandboxrun.evidence.store import (
    NAME,
    ChainEntry,
    Notice,
    NoticeKind,
    Store,
    digest_of,
    entries,
    entry_of,
    line_of,
    lines_of,
    notices,
    read,
    torn_end,
)

_OLD_STAGING = ".staging"  # where runs waited to be captured before that lay in the state directory; never read


class ChainProblem(Data):
    """One thing that is not as it was recorded. `folder` is "" when it concerns the chain itself."""

    folder: str
    problem: str

    def __str__(self) -> str:
        return f"{self.folder}: {self.problem}" if self.folder else self.problem


class CheckLimits(Data):
    """How much work a store may cause: problems that are listed, files that one run may have beyond its index, bytes
    that are read of runs without this user's seal."""

    problems: int = 1_000
    more_files: int = 10_000
    unsealed_bytes: int = 16 << 30


class Checked(Data):
    """What a check found. `runs` are those whose evidence is here, `removed` those that `prune` has removed, `files`
    and `bytes` what was compared, `unfinished` the folders that captures are writing to now.

    `sealed` lines have this user's seal, `foreign` ones don't; the `unsealed` ones could not be checked, since there is
    no key for it here. `more`: there are more problems than are listed. `last_line` is the digest to keep elsewhere.
    """

    problems: tuple[ChainProblem, ...] = ()
    more: bool = False
    runs: int = 0
    removed: int = 0
    files: int = 0
    bytes: int = 0
    sealed: int = 0
    unsealed: int = 0
    foreign: int = 0
    unfinished: tuple[str, ...] = ()
    last_line: str | None = None


def check(
    store: Store,
    *,
    only: Collection[str] | None = None,
    last_line: str | None = None,
    seals: bool = True,
    limits: CheckLimits | None = None,
) -> Checked:
    """Compare a store with its chain; `only` limits it to the files of these runs, the chain is checked as a whole.

    `last_line` is a digest that was kept elsewhere: the chain must have that line. `seals`: whether each line must have
    this user's seal, where there is a key. Raises EvidenceError for a directory without a chain and for one that can't
    be read.
    """
    try:
        with store.open_root() as root:
            if not root.kind(NAME):
                raise _elsewhere(f"{store.path} has no {NAME}: nothing in it can be checked", store)
            return _Check(store, root, only, seals, limits or CheckLimits()).run(last_line)
    except FileNotFoundError:
        raise _elsewhere(f"there is no evidence in {store.path}", store) from None


def verify_chain(store: Store) -> tuple[ChainProblem, ...]:
    """Everything that is not as recorded, in the chain's order; empty for a store that holds (or is not there)."""
    try:
        return check(store).problems
    except EvidenceError as error:
        with contextlib.suppress(FileNotFoundError), store.open_root() as root:
            if root.kind(NAME) or root.names():
                return (ChainProblem(folder="", problem=reason_of(error)),)
        return ()


def _elsewhere(message: str, store: Store) -> EvidenceError:
    inner = store.path / ".sandboxrun" / "evidence"
    found = (inner / NAME).is_file()
    help = f"it is in {inner}" if found else f"name the directory that has {NAME}"
    return EvidenceError(message, help=help, option=f"--dir {inner if found else 'DIR'}")


class _Enough(Exception):
    """As many problems as are listed were found."""


class _Check:
    def __init__(
        self, store: Store, root: Folder, only: Collection[str] | None, seals: bool, limits: CheckLimits
    ) -> None:
        self._root, self._only, self._limits = root, only, limits
        self._own = store.own() if seals and store.has_key() else None
        self._data = read(root)
        self._problems: list[ChainProblem] = []
        self._entries: dict[str, ChainEntry] = {}  # by run
        self._folders: dict[str, str] = {}  # to the run
        self._gone = {n.folder for n in notices(self._data) if n.action is NoticeKind.REMOVED}
        self._held: set[str] = set()
        self._counts = dict.fromkeys(("runs", "removed", "files", "bytes", "sealed", "unsealed", "foreign"), 0)
        self._left = self._limits.unsealed_bytes
        self._unfinished: list[str] = []

    def run(self, last_line: str | None) -> Checked:
        more = False
        try:
            self._lines(last_line)
            if self._only is None:
                self._others()
        except _Enough:
            more = True
        return Checked(
            problems=tuple(self._current()),
            more=more,
            unfinished=tuple(self._unfinished),
            last_line=next(map(digest_of, lines_of(self._data, backwards=True)), None),
            **self._counts,
        )

    def _add(self, folder: str, problem: str) -> None:
        if len(self._problems) >= self._limits.problems:
            raise _Enough
        self._problems.append(ChainProblem(folder=folder, problem=problem))

    def _lines(self, last_line: str | None) -> None:
        previous, kept_elsewhere = None, last_line is None
        for number, raw in enumerate(lines_of(self._data), 1):
            try:
                line = line_of(raw)
            except ValueError:
                self._add("", f"line {number} of the chain cannot be read")
            else:
                self._line(number, raw, line, previous)
            previous = digest_of(raw)
            kept_elsewhere = kept_elsewhere or previous == last_line
        if torn_end(self._data):
            self._add("", "the last line of the chain is torn (a writer was killed)")
        if not kept_elsewhere:
            text = f"no line of the chain has the digest {last_line}: its end is missing, or it was rewritten"
            self._add("", text)

    def _line(self, number: int, raw: bytes, line: ChainEntry | Notice, previous: str | None) -> None:
        if line.previous != previous:
            self._add(line.folder, f"line {number} does not follow the line before it")
        if line.to_line() != raw + b"\n":
            self._add(line.folder, f"line {number} is not as sandboxrun writes it")
        sealed = self._seal(number, line)
        if isinstance(line, Notice):
            self._notice(number, line)
            return
        if line.run in self._entries or line.folder in self._folders:
            self._add(line.folder, f"line {number} records a run a second time")
        self._entries[line.run] = line
        self._folders[line.folder] = line.run
        if line.folder in self._gone:
            self._counts["removed"] += 1
            if is_name(line.folder) and self._root.kind(line.folder):
                self._add(line.folder, "its removal was interrupted: `sandboxrun evidence prune` completes it")
        elif self._only is None or line.run in self._only:
            self._counts["runs"] += 1
            for text in self._run_problems(line, sealed):
                self._add(line.folder, text)

    def _seal(self, number: int, line: ChainEntry | Notice) -> bool:
        if self._own is None:
            self._counts["unsealed"] += 1
            return False
        if self._own(line):
            self._counts["sealed"] += 1
            return True
        self._counts["foreign"] += 1
        text = "is not sealed with this user's key: it was changed, or is another user's"
        self._add(line.folder, f"line {number} {text}")
        return False

    def _notice(self, number: int, line: Notice) -> None:
        entry = self._entries.get(line.run)
        if entry is None or any(getattr(entry, name) != getattr(line, name) for name in _SAME):
            self._add(line.folder, f"line {number} is about a run that no line before it records")
            return
        held = line.run in self._held
        match line.action:
            case NoticeKind.HELD:
                self._held.add(line.run)
            case NoticeKind.RELEASED:
                self._held.discard(line.run)
            case NoticeKind.REMOVED if held:
                self._add(line.folder, f"line {number} removes the evidence of a run that was held")

    def _run_problems(self, entry: ChainEntry, sealed: bool) -> Iterator[str]:
        if not is_name(entry.folder):
            yield "not a folder's name"
            return
        try:
            with self._root.enter(entry.folder) as folder:
                index = self._index(folder, entry, sealed)
                if not isinstance(index, Index):
                    yield index
                    return
                yield from self._files(folder, {kept.path: kept for kept in index.kept}, sealed)
                again = entry_of(index, entry.folder, entry.index_sha256, index.previous)
                if index.run != entry.run or index.previous != entry.previous:
                    yield f"{INDEX} is that of another run"
                elif differing := [name for name in _REPEATED if getattr(entry, name) != getattr(again, name)]:
                    yield f"its line in the chain differs from {INDEX} in {', '.join(differing)}"
        except (FileNotFoundError, EvidenceError) as error:
            yield reason_of(error) if isinstance(error, EvidenceError) else "the folder is missing"

    def _index(self, folder: Folder, entry: ChainEntry, sealed: bool) -> Index | str:
        """The run's index, or what is wrong with it."""
        try:
            with folder.open(INDEX) as file:
                size = os.fstat(file.fileno()).st_size
                if size <= LARGEST_INDEX and not self._allows(size, sealed):
                    return f"{INDEX} {_TOO_MUCH}"
                data = file.read(size + 1) if size <= LARGEST_INDEX else b""
            if hashlib.sha256(data).hexdigest() != entry.index_sha256:
                return f"{INDEX} was changed"
            return Index.from_json(data)
        except FileNotFoundError:
            return f"{INDEX} is missing"
        except EvidenceError as error:
            return f"{INDEX}: {reason_of(error)}"

    def _allows(self, size: int, sealed: bool) -> bool:
        """Whether a file of that size is read: one that a checkout brought may claim any, and take up no room."""
        self._left -= 0 if sealed else size
        return sealed or self._left >= 0

    def _files(self, folder: Folder, kept: Mapping[str, Kept], sealed: bool) -> Iterator[str]:
        found, extra = dict[str, os.stat_result](), list[str]()
        for path, entry in folder.walk():
            if path in kept:
                found[path] = entry
            elif path != INDEX:
                extra.append(path)
                if len(extra) > self._limits.more_files:
                    yield "there are too many files that are not in the index"
                    return
        for path, one in kept.items():
            if path not in found:
                yield f"{path} is missing"
            elif not stat.S_ISREG(found[path].st_mode):
                yield f"{path} is not a regular file"
            elif found[path].st_size != one.bytes:
                yield f"{path} was changed"
            else:
                yield from self._content(folder, one, sealed)
        yield from (f"{path} is not in the index" for path in extra)

    def _content(self, folder: Folder, kept: Kept, sealed: bool) -> Iterator[str]:
        if not self._allows(kept.bytes, sealed):
            yield f"{kept.path} {_TOO_MUCH}"
            return
        *above, name = kept.path.split("/")
        try:
            with folder.walk_to(tuple(above)) as place, place.open(name) as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != kept.sha256:
                    yield f"{kept.path} was changed"
            self._counts["files"] += 1
            self._counts["bytes"] += kept.bytes
        except FileNotFoundError:
            yield f"{kept.path} is missing"
        except OSError as error:
            yield f"{kept.path} cannot be read: {error.strerror}"

    def _others(self) -> None:
        """What is in the store and in no line: a capture is under way, was interrupted, or somebody put it there."""
        for name in self._root.names():
            if name in self._folders or name in (NAME, _OLD_STAGING):
                continue
            if _is_written(self._root, name):
                self._unfinished.append(name)
            else:
                self._add(name, _NOT_RECORDED)

    def _current(self) -> Iterator[ChainProblem]:
        """The problems, without those of runs that were captured or removed while the check went on."""
        later = b""
        if self._problems and (data := read(self._root)).startswith(self._data):
            later = data[len(self._data) :]
        captured = {entry.folder for entry in entries(later)}
        removed = {n.folder for n in notices(later) if n.action is NoticeKind.REMOVED}
        for problem in self._problems:
            vanished = problem.folder in removed and not problem.problem.startswith("line ")
            if not vanished and (problem.folder not in captured or problem.problem != _NOT_RECORDED):
                yield problem


_TOO_MUCH = "was not compared: the runs without this user's seal are too large"
_NOT_RECORDED = "not recorded in the chain (an unfinished capture, or put there)"
_SAME = ("project", "sandbox", "folder", "index_sha256")  # in a notice and the line that it is about
_REPEATED = ("project", "sandbox", "spec", "inputs", "outcome", "finished_at")  # what a run's line has of its index


def _is_written(root: Folder, name: str) -> bool:
    """Whether a capture has the folder locked."""
    if root.kind(name) != stat.S_IFDIR:
        return False
    with contextlib.suppress(OSError, EvidenceError), root.enter(name) as folder:
        try:
            fcntl.flock(folder.fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
