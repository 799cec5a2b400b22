"""The evidence store: a folder a run, written crash-safely, its index last; the chain over all of them, and its
seals.
"""

from __future__ import annotations

import contextlib
import datetime
import functools
import hashlib
import json
import os
import re
import secrets
from collections.abc import Callable, Iterator, Mapping
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import BinaryIO, Self, TypeVar

import msgspec
from msgspec import structs

from sandboxrun.data import Data
from sandboxrun.errors import ExitCode, did_you_mean, quoted
from sandboxrun.evidence.errors import EvidenceError, reason_of
from sandboxrun.evidence.folder import (
    INDEX,
    OWNER,
    Folder,
    RunFolder,
    check_apart,
    discard,
    is_apart,
    is_name,
    locked,
    note_of,
    open_state,
    signed,
    state_path,
    writing_state,
)
from sandboxrun.evidence.index import LARGEST as LARGEST_INDEX
from sandboxrun.evidence.index import Index, decoded
from sandboxrun.spec.spec import SandboxSpec
from sandboxrun.spec.state import Ending, How

# -- The chain: a line for each run that was captured, and for what became of its evidence later; each line holds the
# SHA-256 of the line before it

NAME = "chain.jsonl"
LARGEST = 128 << 20  # bytes: some 250,000 runs
MOST_LINES = 1 << 19
_LONGEST = 1 << 16  # bytes of a line


class ChainLine(Data, forbid_unknown_fields=True):
    """What all lines have in common: how they are written, read and sealed."""

    @property
    def body(self) -> bytes:
        """What the seal is made of: the line without it."""
        return structs.replace(self, seal=None).to_line()

    def to_line(self) -> bytes:
        """The line, with its newline, in ASCII."""
        with contextlib.suppress(UnicodeEncodeError):  # half a surrogate pair
            line = msgspec.json.encode(self)
            if line.isascii() and b"\x7f" not in line:  # then `json` writes the same, ten times as slowly
                return line + b"\n"
        return json.dumps(msgspec.to_builtins(self), ensure_ascii=True, separators=(",", ":")).encode() + b"\n"

    @classmethod
    def from_line(cls, line: bytes) -> Self:
        """Read a line; ValueError when it is not one."""
        try:
            if len(line) > _LONGEST:
                raise ValueError(f"not a line of the chain: longer than {_LONGEST} bytes")
            return decoded(line, cls)
        except (msgspec.ValidationError, RecursionError) as error:
            raise ValueError(f"not a line of the chain: {error}") from error


class ChainEntry(ChainLine):
    """One run that was captured. `folder` is a name in the store's root; `previous` None in the first line."""

    run: str
    project: str
    sandbox: str
    folder: str
    index_sha256: str
    previous: str | None
    spec: str
    inputs: str
    outcome: How
    finished_at: str | None
    seal: str | None = None  # None where the user has no place for a key


class NoticeKind(StrEnum):
    """What became of a run's evidence."""

    HELD = "held"
    RELEASED = "released"
    REMOVED = "removed"


class Notice(ChainLine):
    """What was done with the evidence of a run that an earlier line records: `index_sha256` and `folder` are that
    line's. With a removed run's evidence its exit code and the digest of its workspace would go, by which a plan sees
    that it has run: they stay here."""

    action: NoticeKind
    run: str
    project: str
    sandbox: str
    folder: str
    index_sha256: str
    reason: str
    at: str  # RFC 3339
    by: str  # user@host
    exit_code: int | None
    workspace: str
    previous: str | None
    seal: str | None = None


_ACTION = b'{"action":'  # what the line of a Notice begins with


def line_of(line: bytes) -> ChainEntry | Notice:
    """Read a line of either kind; ValueError when it is neither."""
    return (Notice if line.startswith(_ACTION) else ChainEntry).from_line(line)


def digest_of(line: bytes) -> str:
    """The SHA-256 by which the next line names `line` (its newline left out)."""
    return hashlib.sha256(line.rstrip(b"\n")).hexdigest()


def lines_of(data: bytes, needle: bytes = b"", *, backwards: bool = False) -> Iterator[bytes]:
    """The complete lines that hold `needle`, without their newlines, one at a time: all together take much memory."""
    if not backwards:
        at = 0
        while (found := data.find(needle, at)) >= 0 and (end := data.find(b"\n", found)) >= 0:
            yield data[data.rfind(b"\n", 0, found) + 1 : end]
            at = end + 1
        return
    end = data.rfind(b"\n")
    while end >= 0 and (found := data.rfind(needle, 0, end)) >= 0:
        start = data.rfind(b"\n", 0, found) + 1
        yield data[start : data.find(b"\n", found)]
        end = start - 1


def torn_end(data: bytes) -> bytes:
    """What follows the last newline: "" where no writer was killed in mid-line."""
    return data[data.rfind(b"\n") + 1 :]


def read(root: Folder) -> bytes:
    """The chain's bytes; "" when there is none."""
    try:
        with root.open(NAME) as file:
            return _bounded(file, root.path / NAME)
    except FileNotFoundError:
        return b""


def _bounded(file: BinaryIO, path: Path) -> bytes:
    data = file.read(LARGEST + 1)
    large = f"larger than {LARGEST >> 20} MiB" if len(data) > LARGEST else ""
    if large or data.count(b"\n") > MOST_LINES:
        what = large or f"longer than {MOST_LINES} lines"
        raise EvidenceError(f"{path} is {what}", help="move that directory to another place")
    return data


def entries(data: bytes, containing: str = "", *, newest_first: bool = False) -> Iterator[ChainEntry]:
    """The lines that can be read, in order; only those holding the text `containing` are looked at."""
    for line in lines_of(data, _needle(containing), backwards=newest_first):
        if not line.startswith(_ACTION):
            with contextlib.suppress(ValueError):
                yield ChainEntry.from_line(line)


def notices(data: bytes, containing: str = "") -> Iterator[Notice]:
    """The lines on what became of runs' evidence that can be read, in order; only those holding `containing`."""
    for line in lines_of(data, _needle(containing) or _ACTION):
        if line.startswith(_ACTION):
            with contextlib.suppress(ValueError):
                yield Notice.from_line(line)


def _needle(text: str) -> bytes:
    return json.dumps(text, ensure_ascii=True)[1:-1].encode()


L = TypeVar("L", ChainEntry, Notice)


class Chain:
    """The chain opened for appending, under its lock."""

    def __init__(self, file: BinaryIO, data: bytes) -> None:
        self._file = file
        self.data = data  # its lines when it was opened, each with its newline
        self._last = digest_of(data[data.rfind(b"\n", 0, -1) + 1 :]) if data else None  # the last line's digest

    def append(self, line_after: Callable[[str | None], L]) -> L:
        """Add the line made from the last line's digest; on the disk, or not at all, when this returns."""
        added = line_after(self._last)
        fd, line = self._file.fileno(), added.to_line()
        size = os.fstat(fd).st_size
        try:
            written = os.write(fd, line)
            if written != len(line):
                raise OSError(f"only {written} of {len(line)} bytes of {NAME} could be written")
            os.fsync(fd)
        except OSError:
            os.ftruncate(fd, size)
            raise
        self._last = digest_of(line)
        return added


@contextlib.contextmanager
def opened_chain(root: Folder, *, wait: float = 60.0) -> Iterator[Chain]:
    """The chain of `root`, locked against other writers; EvidenceError when that takes longer than `wait` s."""
    with (
        root.append(NAME) as file,
        locked(file.fileno(), root.path / NAME, wait=wait),
    ):
        data, fd = _bounded(file, root.path / NAME), file.fileno()
        if torn := torn_end(data):  # a writer was killed in mid-line
            try:
                line_of(torn)
                os.write(fd, b"\n")  # it lacks only its end
                data += b"\n"
            except ValueError:
                os.ftruncate(fd, os.fstat(fd).st_size - len(torn))
                data = data[: -len(torn)]
        yield Chain(file, data)


# -- The seal of a line of the chain: made with a key of the user's own, outside the project and every sandbox

SIZE = 32  # bytes
_NAME = "seal.key"


def key_path() -> Path:
    """Where the key lies. Raises EvidenceError when there is no place for it."""
    return state_path() / _NAME


def seal_of(body: bytes) -> str:
    """The seal of `body`; the key is made when there is none. Raises EvidenceError when it can't be."""
    if (key := _key()) is None:  # a new one, unless another process makes one meanwhile
        with open_state(create=True) as state, contextlib.suppress(FileExistsError), writing_state():
            state.write(_NAME, secrets.token_bytes(SIZE), replace=False)
        key = _key()
    if key is None:
        raise EvidenceError(f"{key_path()} is not a key of sandboxrun", help="remove it; a new one is made")
    return _seal(key, body)


def is_sealed(body: bytes, seal: str | None) -> bool:
    """Whether `seal` is this user's of `body`."""
    return seal is not None and (key := _key()) is not None and _fits(key, body, seal)


def _fits(key: bytes, body: bytes, seal: str) -> bool:
    given = seal.encode("utf-8", "surrogatepass")  # a checkout's chain may hold any text
    return secrets.compare_digest(_seal(key, body).encode(), given)


def _seal(key: bytes, body: bytes) -> str:
    import hmac

    return hmac.digest(key, body, "sha256").hex()


def _key() -> bytes | None:
    """The key, where there is one that can be trusted."""
    with contextlib.suppress(OSError, EvidenceError):
        path = key_path()
        return _read(path, os.stat(path).st_mtime_ns)
    return None


@functools.lru_cache(maxsize=4)
def _read(path: Path, changed: int) -> bytes | None:
    with open_state() as state, state.open(_NAME) as file:
        key = file.read(SIZE + 1)
    return key if len(key) == SIZE else None


# -- The evidence store: a folder a run, written crash-safely, its index last, and the chain over all of them

HOME = ".sandboxrun"
SETTLED = "captured"  # in a run's folder there: only the container is to be removed
STAGING = "staging"  # in the state directory: what is needed of runs until they are captured
REVISION = "revision.json"  # the revision of the workspace when the sandbox was made
USAGE = "usage.jsonl"  # samples, as they were taken
STDOUT, STDERR = "stdout.log", "stderr.log"  # live output as the runner saw it, cut one byte past the limit
ENDED = frozenset({How.EXITED, How.FAILED, How.OOM, How.TIMEOUT})  # the ends of a run that had its chance
_SHORT = 12
_TIME = re.compile(r"\d{8}T\d{6}Z")
LAST = "last"  # names the newest run of all
_LEAST = 6  # characters of a run's id that name it
_NAMED = 5
_COMPARED = 1_000  # names that a mistyped one is compared with
_DIFFER = f"the ids of runs must differ in their first {_SHORT} characters"


class Reading:
    """How many bytes of indexes a command reads: a checkout may bring large ones by the thousand."""

    def __init__(self, most: int = 256 << 20) -> None:
        self.left = most

    def allows(self, size: int) -> bool:
        """Whether it reads so many more."""
        self.left -= size
        return self.left >= 0


class Store(Data):
    """The store of a project. Making one touches nothing; folders are made when something is written.

    `project_directory` must exist. `root` is the place given by the user, relative to it; None for
    `.sandboxrun/evidence`. Inside the project's directory no symlink is followed; a root outside it is the
    user's own choice and only its last component may not be one.
    """

    project_directory: Path
    root: Path | None = None

    @property
    def path(self) -> Path:
        """Where runs are kept."""
        return self.project_directory / (self.root if self.root is not None else Path(HOME, "evidence"))

    def check(self) -> None:
        """Make the folders, before anything runs whose evidence could not be kept then. Raises EvidenceError."""
        try:
            with self.state(STAGING, create=True), self.open_root(create=True) as root:
                read(root)
                root.scratch().close()  # it may be there, and closed to this user, or read-only
                if root.kind(NAME):
                    root.append(NAME).close()
        except OSError as error:
            what = f"evidence can't be kept in {self.path}: {error.strerror or error}"
            help = "make it writable, or keep evidence elsewhere"
            raise EvidenceError(what, help=help, option="--evidence DIR", argument="Store(root=…)") from error

    @contextlib.contextmanager
    def recording(self, run: str, name: str, *, wait: float = 60.0) -> Iterator[RunFolder | ChainEntry]:
        """The empty folder to write a run's evidence to, held against others; its Entry when it is captured.

        A folder that a killed capture of the same run left is emptied and used again. Raises EvidenceError,
        OSError.
        """
        with self.open_root(create=True) as root:
            with opened_chain(root, wait=wait) as opened:
                entry = self._own(opened.data, run)
                place = self._place(root, run, name, opened.data) if entry is None else None
                opened.data = b""  # it may be large, and a run takes its time
            if place is None:
                assert entry is not None
                yield entry
                return
            with place, locked(place.fd, place.path, wait=wait):
                if captured := self._captured(root, place, run):
                    yield captured
                    return
                place.clear()
                yield RunFolder(place, place.path.name, root)

    def _captured(self, root: Folder, place: Folder, run: str) -> ChainEntry | None:
        """The run's line, where it was captured meanwhile. Raises EvidenceError where another run's names its place."""
        recorded = read(root)
        captured = self._own(recorded, run)
        if captured is None and any(o.folder == place.path.name for o in entries(recorded, place.path.name)):
            raise EvidenceError(f"another run's evidence is in {place.path}", help=_DIFFER)
        return captured

    def finish(
        self, folder: RunFolder, index_after: Callable[[str | None], Index], *, wait: float = 60.0
    ) -> ChainEntry:
        """Write the index (made from the digest of the chain's last line) and the chain's line. Raises EvidenceError
        where the line can't be sealed: nobody could rely on it."""
        check_apart(self.project_directory)
        with self.open_root(create=True) as root, opened_chain(root, wait=wait) as opened:

            def entry_after(previous: str | None) -> ChainEntry:
                index = index_after(previous)
                data = index.to_json()
                folder.write_index(data)
                entry = entry_of(index, folder.name, hashlib.sha256(data).hexdigest(), previous)
                entry = structs.replace(entry, seal=seal_of(entry.body))
                folder.flushed()
                return entry

            return opened.append(entry_after)

    def entries(self, project: str | None = None) -> tuple[ChainEntry, ...]:
        """All runs that were captured (of one project), oldest first; anybody's, for showing them: see `is_own`."""
        return tuple(self.each(project))

    def each(self, project: str | None = None, *, newest_first: bool = False) -> Iterator[ChainEntry]:
        """The same, one at a time: a chain that came with a checkout may have half a million."""
        for entry in entries(self.chain(), project or "", newest_first=newest_first):
            if project is None or entry.project == project:
                yield entry

    def entry(self, run: str) -> ChainEntry | None:
        """A run's entry, where this user captured it."""
        return self._own(self.chain(), run)

    def is_own(self, line: ChainEntry | Notice) -> bool:
        """Whether this user's sandboxrun wrote the line."""
        return self.own()(line)

    def own(self) -> Callable[[ChainEntry | Notice], bool]:
        """`is_own` of many lines, for which the key is looked for once."""
        key = _key() if is_apart(self.project_directory) else None
        return lambda line: key is not None and line.seal is not None and _fits(key, line.body, line.seal)

    def has_key(self) -> bool:
        """Whether seals can be checked: there is a key, and no checkout can have brought it."""
        return is_apart(self.project_directory) and _key() is not None

    def removed(self) -> Mapping[str, Notice]:
        """By run, what this user's `prune` left of runs whose evidence it removed."""
        own, gone = self.own(), (n for n in notices(self.chain()) if n.action is NoticeKind.REMOVED)
        return {notice.run: notice for notice in gone if own(notice)}

    def find(self, name: str) -> ChainEntry:
        """The run that a user means: `last`, a run's id or its beginning, its folder's name, or a sandbox, of which it
        is the newest run. Raises EvidenceError."""
        data = self.chain()
        newest = next(entries(data, newest_first=True), None)
        if newest is None:
            raise EvidenceError(f"no run is recorded in {self.path}")
        if name == LAST:
            return newest
        for fits in (
            lambda entry: name in (entry.run, entry.folder),
            lambda entry: entry.sandbox == name,
            lambda entry: entry.sandbox.partition("[")[0] == name,
            lambda entry: len(name) >= _LEAST and entry.run.startswith(name),
        ):
            found, which = None, set[tuple[str, str]]()
            for entry in filter(fits, entries(data, name, newest_first=True)):
                found = found or entry
                which.add((entry.project, entry.sandbox))
            if len(which) > 1:
                listed = ", ".join(f"{sandbox} of project {project}" for project, sandbox in sorted(which)[:_NAMED])
                raise EvidenceError(f"{quoted(name)} is ambiguous: {listed}", help="pass the id of the run")
            if found is not None:
                return found
        known = sorted({entry.sandbox for entry in entries(data)})
        help = (
            did_you_mean(name, known[:_COMPARED])
            or f"pass a run's id, {LAST}, or a sandbox: {', '.join(known[:_NAMED])}"
        )
        raise EvidenceError(f"no run {quoted(name)} is recorded in {self.path}", help=help)

    def _own(self, data: bytes, run: str) -> ChainEntry | None:
        """A line that says a run was captured has its container removed: none but this user's own counts."""
        own = self.own()
        return next((entry for entry in entries(data, run) if entry.run == run and own(entry)), None)

    def index(self, entry: ChainEntry, reading: Reading | None = None) -> Index:
        """A run's index, where the command may still read that much. Raises EvidenceError when it is gone, not the one
        that was chained, or too large."""
        with self.open(entry, INDEX) as file:
            size = os.fstat(file.fileno()).st_size
            if size > LARGEST_INDEX or (reading is not None and not reading.allows(size)):
                raise EvidenceError(f"{self.path / entry.folder / INDEX} is too large")
            data = file.read(size + 1)
        if hashlib.sha256(data).hexdigest() != entry.index_sha256:
            raise EvidenceError(f"{self.path / entry.folder / INDEX} is not the index that was recorded")
        return Index.from_json(data)

    def open(self, entry: ChainEntry, path: str) -> BinaryIO:
        """A file of a run's evidence, by its `Kept.path`. Raises EvidenceError."""
        *folders, name = (entry.folder, *path.split("/"))
        if not all(map(is_name, (*folders, name))):
            raise EvidenceError(f"not a path in the evidence: {entry.folder}/{path}")
        try:
            with self.open_root() as root, root.walk_to(tuple(folders)) as place:
                return place.open(name)
        except FileNotFoundError as error:
            raise EvidenceError(f"{self.path / entry.folder / path} is not there") from error

    @contextlib.contextmanager
    def staging(self, run: str, *, engine: str | None = None) -> Iterator[Folder]:
        """The folder for what is needed until a run is captured (baseline, live logs, usage).

        It is made for a run on the engine of that `identity`; without, FileNotFoundError is raised when there is none.
        """
        opened = partial(self.state, STAGING, safe_name(run), create=engine is not None)
        with opened() if engine is None else signed(opened, engine, **self._home) as folder:
            yield folder

    @property
    def _home(self) -> dict[str, str]:
        return {"directory": os.path.abspath(self.project_directory), "evidence": os.path.abspath(self.path)}

    def unstage(self, run: str) -> None:
        """Remove a run's staging folder; fine when there is none."""
        with contextlib.suppress(FileNotFoundError), self.state(STAGING) as staging:
            discard(staging, safe_name(run))

    def settle(self, run: str) -> None:
        """Remove what a captured run needs no longer: all but the note of where its evidence is, as long as its
        sandbox is there."""
        with contextlib.suppress(FileNotFoundError), self.staging(run) as folder:
            for name in folder.names():
                if name != OWNER:
                    folder.remove(name)
            folder.append(SETTLED).close()  # not flushed: a thorough collection needs no such mark

    def state(self, *parts: str, create: bool = False) -> Folder:
        """The user's state directory or one below it; see `open_state`. No project may hold it."""
        check_apart(self.project_directory)
        return open_state(*parts, create=create)

    def chain(self) -> bytes:
        """The chain's bytes; none where there is no store."""
        try:
            with self.open_root() as root:
                return read(root)
        except FileNotFoundError:
            return b""

    def open_root(self, *, create: bool = False) -> Folder:
        """The root, opened. Raises FileNotFoundError when it is not there and not to be made."""
        full, top = os.path.abspath(self.path), os.path.abspath(self.project_directory)
        parts = _steps(full, top)
        if parts[0] in (os.pardir, os.curdir):
            if create:
                self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not self.path.parent.is_dir():
                raise FileNotFoundError(self.path.parent)
            with Folder.at(self.path.parent) as parent:
                return parent.enter(self.path.name, create=create)
        with Folder.at(self.project_directory) as project:
            if create and parts[:1] == (HOME,):
                with project.enter(HOME, create=True) as home:
                    if not home.kind(".gitignore"):
                        home.write(".gitignore", b"*\n")  # keeps git from seeing what we write
            return project.walk_to(parts, create=create)

    def _place(self, root: Folder, run: str, name: str, chain: bytes) -> Folder:
        """The run's folder: the one a killed capture began, or a new one named by the time."""
        tail = f"-{safe_name(name)}-{safe_name(run)[:_SHORT]}"
        recorded = {entry.folder: entry for entry in entries(chain, tail[1:])}
        begun = [n for n in root.names() if n.endswith(tail) and _TIME.fullmatch(n[: -len(tail)]) and n not in recorded]
        now = datetime.datetime.now(datetime.UTC)
        while (fresh := f"{now:%Y%m%dT%H%M%SZ}{tail}") in recorded and not begun:
            if self.is_own(recorded[fresh]):
                raise EvidenceError(f"another run's evidence is in {root.path / fresh}", help=_DIFFER)
            now += datetime.timedelta(seconds=1)  # whoever wrote that line can't take the place of this run
        return root.enter(begun[-1] if begun else fresh, create=True)


@functools.lru_cache(maxsize=16)
def _steps(full: str, top: str) -> tuple[str, ...]:
    """From one directory to another, by name only: nothing is looked up."""
    return tuple(os.path.relpath(full, top).split(os.sep))


def no_store() -> Store:
    """For what takes no evidence: it lies nowhere, so that only the state directory is used."""
    nowhere = state_path() / "nowhere"
    return Store(project_directory=nowhere, root=nowhere)


def home_of(run: str) -> Store | None:
    """The store that a run's evidence belongs in, as this user's sandboxrun noted when it started the run; None where
    it did not, or the project's directory is gone."""
    with contextlib.suppress(OSError, EvidenceError), open_state(STAGING, safe_name(run)) as folder:
        note = note_of(folder)
        if note is not None and note.directory and note.evidence and os.path.isdir(note.directory):
            return Store(project_directory=Path(note.directory), root=Path(note.evidence))
    return None


def entry_of(index: Index, folder: str, index_sha256: str, previous: str | None) -> ChainEntry:
    """The line of a run with that index, without its seal."""
    return ChainEntry(
        run=index.run,
        project=index.project,
        sandbox=index.sandbox,
        folder=folder,
        index_sha256=index_sha256,
        previous=previous,
        spec=index.digests.spec,
        inputs=index.digests.inputs,
        outcome=index.ending.how,
        finished_at=index.finished_at,
    )


def safe_name(text: str) -> str:
    """`text` as part of a folder's name: labels may hold anything."""
    return re.sub(r"[^A-Za-z0-9_.-]", "_", text)[:100].lstrip(".") or "_"


# -- A run's evidence as its takers and readers have it


def last_line(store: Store) -> str | None:
    """The SHA-256 of the chain's last complete line, to be kept elsewhere; None for an empty chain."""
    newest = next(lines_of(store.chain(), backwards=True), None)
    return digest_of(newest) if newest is not None else None


class Watched(Data):
    """What the caller knows of a run that it watched to its end: who stopped it (state.StoppedBy),
    whether its output was kept while it ran, its exit code, which counts where somebody else removed it, how many bytes
    it wrote to each stream where that is known, and what its evidence will lack (part, reason)."""

    stopped_by: str = "itself"
    live_logs: bool = False
    note: str = ""
    exit_code: int | None = None
    written: Mapping[int, int] | None = None
    missing: tuple[tuple[str, str], ...] = ()


class Captured(Data):
    """What came of it. `entry` is None, and `failure` says why, when there is no evidence to rely on.

    `already`: this run had been captured before, and that is what is reported here.
    """

    entry: ChainEntry | None
    folder: Path | None = None
    index: Index | None = None
    already: bool = False
    failure: str | None = None


class RunResult(Data):
    """How one sandbox ended. `evidence` is None when it never came to be, or when another job has it: `seen` says how
    it ended then, as far as this one saw it. `spec` is its spec, for its limits; `note` what was seen of its end.
    `named` is false of one that ran only because another depends on it."""

    address: str
    evidence: Captured | None
    spec: SandboxSpec | None = None
    note: str = ""
    blocked: bool = False  # not started: what it depends on failed
    named: bool = True
    seen: Ending | None = None
    kept: str = ""  # the name of its container, where that is kept after its end

    @property
    def index(self) -> Index | None:
        """What its evidence says of it."""
        return self.evidence.index if self.evidence is not None else None

    @property
    def ending(self) -> Ending | None:
        """How it ended, as far as is known."""
        return self.seen or (self.index.ending if self.index is not None else None)

    @property
    def exit_code(self) -> int:
        """The agent's own code; 124 for a timeout, 125 when it did not run or nothing is known of its end."""
        return ExitCode.NOT_RUN if self.ending is None else self.ending.code


def recorded(store: Store, run: str) -> Captured | None:
    """The evidence of a run that was captured before, by whichever job; None where the store has none."""
    entry = store.entry(run)
    if entry is None:
        return None
    folder = store.path / entry.folder
    if gone := store.removed().get(run):
        from sandboxrun.evidence.index import remainder

        return Captured(entry=entry, index=remainder(entry, gone), already=True)
    try:
        return Captured(entry=entry, folder=folder, index=store.index(entry), already=True)
    except Exception as error:
        return Captured(entry=None, folder=folder, already=True, failure=reason_of(error))
