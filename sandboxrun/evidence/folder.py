"""Folders held by descriptor, files written whole or not at all, the folder of one run while it is being written; and
the user's state directory: what is believed of earlier runs lies there, out of reach of any checkout. A file in a
project's directory may have come with the checkout, so nothing there is acted upon unless it is sealed.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import stat
import threading
import time
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from io import BufferedReader
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, cast
from uuid import uuid4
from weakref import WeakValueDictionary

from sandboxrun.backend.owner import Owner, decode, this_process
from sandboxrun.data import Closing, Data
from sandboxrun.errors import SandboxrunError
from sandboxrun.evidence.errors import EvidenceError, disk_full
from sandboxrun.evidence.index import ROOM, room_of
from sandboxrun.threads import Aside

if TYPE_CHECKING:
    from sandboxrun.evidence.index import Kept
    from sandboxrun.evidence.store import Store


# -- Folders held by descriptor, and files written whole or not at all

PARTIAL = ".partial-"  # starts the names of files that are being written
_AGAIN = 100  # times that a directory is made which others remove
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class Folder(Closing):
    """An open directory. Where it is said to be, `at`, is for messages only. Close it, or use it as a context
    manager."""

    def __init__(self, fd: int, at: str) -> None:
        self.fd = fd
        self._at = at  # a text: what enters many folders makes a path of few

    @property
    def path(self) -> Path:
        return Path(self._at)

    @classmethod
    def at(cls, path: Path) -> Folder:
        """Open an existing directory the user named: symlinks on the way to it are the user's own."""
        try:
            return cls(os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC), os.fspath(path))
        except OSError as error:
            raise EvidenceError(f"cannot open the directory {path}: {error.strerror}") from error

    def enter(self, name: str, *, create: bool = False) -> Folder:
        """The directory `name` in this one; `create` makes it, 0700: again where somebody removes it while it is empty.
        Raises FileNotFoundError, EvidenceError."""
        at = f"{self._at.rstrip('/')}/{name}"
        for _ in range(_AGAIN):
            if create:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(name, 0o700, dir_fd=self.fd)
            try:
                return Folder(os.open(name, _DIRECTORY, dir_fd=self.fd), at)
            except FileNotFoundError:
                if not create:
                    raise
            except OSError as error:
                path = Path(at)
                if error.errno in (errno.ELOOP, errno.ENOTDIR):
                    raise EvidenceError(
                        f"{path} is a symlink or a file, not a directory",
                        help="remove it: nothing is written through a symlink",
                    ) from error
                raise EvidenceError(f"cannot open the directory {path}: {error.strerror}") from error
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), at)

    def walk_to(self, parts: tuple[str, ...], *, create: bool = False) -> Folder:
        """The directory several steps down."""
        here = Folder(os.dup(self.fd), self._at)
        for part in parts:
            with here:
                below = here.enter(part, create=create)
            here = below
        return here

    def names(self) -> list[str]:
        """What is in it, sorted."""
        return sorted(os.listdir(self.fd))

    def kind(self, name: str) -> int:
        """The file type bits (`stat.S_IFREG` …) of `name`, symlinks not followed; 0 when nothing is there."""
        try:
            return stat.S_IFMT(os.stat(name, dir_fd=self.fd, follow_symlinks=False).st_mode)
        except FileNotFoundError:
            return 0

    def walk(self, *, deepest: int = 200) -> Iterator[tuple[str, os.stat_result]]:
        """All that is below, as path and lstat, but directories; what vanishes meanwhile is left out. Raises
        EvidenceError for directories nested deeper than `deepest`."""
        yield from self._below("", deepest)

    def _below(self, above: str, left: int) -> Iterator[tuple[str, os.stat_result]]:
        if left < 0:
            raise EvidenceError(f"{self.path} is nested too deeply")
        for name in self.names():
            with contextlib.suppress(FileNotFoundError):
                found = os.stat(name, dir_fd=self.fd, follow_symlinks=False)
                if stat.S_ISDIR(found.st_mode):
                    with self.enter(name) as below:
                        yield from below._below(f"{above}{name}/", left - 1)
                else:
                    yield f"{above}{name}", found

    def open(self, name: str) -> BufferedReader:
        """A regular file for reading. Raises FileNotFoundError, EvidenceError."""
        return cast(BufferedReader, _regular(self, name, _READ, "rb"))

    def append(self, name: str) -> BinaryIO:
        """A regular file for reading and appending, without buffer, made 0600 when it is not there."""
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        return _regular(self, name, flags, "r+b", buffering=0)

    def write(self, name: str, data: bytes, *, replace: bool = True) -> None:
        """A file, whole or not at all, on the disk when this returns. Without `replace` it raises FileExistsError for
        one that is there. Where the filesystem can do so it has no name until it is whole: a kill leaves nothing."""
        partial = f"{PARTIAL}{os.urandom(8).hex()}"
        try:
            with os.fdopen(self._draft(partial), "wb") as file:
                file.write(data)
                sync(file)
                named = self.kind(partial) != 0
                try:
                    if named and replace:
                        self.rename(partial, name)
                    else:
                        source = partial if named else f"/proc/self/fd/{file.fileno()}"
                        os.link(source, name, src_dir_fd=self.fd, dst_dir_fd=self.fd)
                except FileExistsError:
                    if not replace:
                        raise
                    os.link(source, partial, dst_dir_fd=self.fd)
                    self.rename(partial, name)
        finally:
            self.unlink(partial)

    def _draft(self, partial: str) -> int:
        """A new file without a name, or called `partial` on a filesystem that knows only files with names."""
        with contextlib.suppress(OSError, AttributeError):  # AttributeError: a system without such files
            return os.open(".", os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o600, dir_fd=self.fd)
        return self.create(partial)

    def create(self, name: str) -> int:
        """A new file's descriptor, 0600; it must not exist."""
        return os.open(name, _CREATE, 0o600, dir_fd=self.fd)

    def scratch(self) -> BinaryIO:
        """A file without a name, for reading and writing, gone when it is closed."""
        name = f"{PARTIAL}{os.urandom(8).hex()}"
        fd = os.open(name, _CREATE & ~os.O_WRONLY | os.O_RDWR, 0o600, dir_fd=self.fd)
        self.unlink(name)
        return os.fdopen(fd, "w+b")

    def rename(self, old: str, new: str) -> None:
        os.rename(old, new, src_dir_fd=self.fd, dst_dir_fd=self.fd)

    def unlink(self, name: str) -> None:
        """Remove a file; one that is gone already is fine."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=self.fd)

    def remove(self, name: str) -> None:
        """Remove a file, or a directory with all it holds; symlinks are removed, never followed."""
        if self.kind(name) != stat.S_IFDIR:
            self.unlink(name)
            return
        with self.enter(name) as below:
            for inner in os.listdir(below.fd):  # a level by hand: most have no other, and then this is much quicker
                if below.kind(inner) == stat.S_IFDIR:
                    import shutil

                    shutil.rmtree(inner, dir_fd=below.fd)
                else:
                    below.unlink(inner)
        os.rmdir(name, dir_fd=self.fd)

    def clear(self) -> None:
        for name in os.listdir(self.fd):
            self.remove(name)

    def sync(self) -> None:
        """Bring its names to the disk."""
        os.fsync(self.fd)

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def is_name(text: str) -> bool:
    """Whether `text` can be the name of something in a directory."""
    if text in ("", ".", "..") or "/" in text or "\0" in text:
        return False
    try:
        os.fsencode(text)
    except UnicodeEncodeError:
        return False
    return True


def sync(file: BinaryIO) -> None:
    """Bring what was written to the disk."""
    file.flush()
    os.fsync(file.fileno())


def _no_file(path: Path) -> EvidenceError:
    return EvidenceError(f"{path} is not a regular file", help="remove it: nothing is written through a symlink")


def _regular(folder: Folder, name: str, flags: int, mode: str, buffering: int = -1) -> BinaryIO:
    try:
        fd = os.open(name, flags, 0o600, dir_fd=folder.fd)
    except FileNotFoundError:
        raise
    except OSError as error:
        path = folder.path / name
        if error.errno in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
            raise _no_file(path) from error
        raise EvidenceError(f"cannot open {path}: {error.strerror}") from error
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise _no_file(folder.path / name)
    return cast(BinaryIO, os.fdopen(fd, mode, buffering))


# The threads of this process take turns: a lock that has to be tried again and again keeps them from their work.
_turns: WeakValueDictionary[tuple[int, int], threading.Lock] = WeakValueDictionary()  # by device and inode
os.register_at_fork(after_in_child=_turns.clear)


@contextlib.contextmanager
def locked(fd: int, path: Path, *, wait: float) -> Iterator[None]:
    """Hold the exclusive `flock` of an open file or directory; EvidenceError after `wait` seconds of trying."""
    end, found = time.monotonic() + wait, os.fstat(fd)
    turn = _turns.setdefault((found.st_dev, found.st_ino), threading.Lock())
    if not turn.acquire(timeout=wait):
        raise _busy(path, wait)
    try:
        while not _flocked(fd):
            if time.monotonic() >= end:
                raise _busy(path, wait)
            time.sleep(0.002)
        try:
            yield
        finally:
            fcntl.flock(fd, fcntl.LOCK_UN)
    finally:
        turn.release()


def _flocked(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _busy(path: Path, wait: float) -> EvidenceError:
    return EvidenceError(
        f"{path} has been locked by another process for {wait:g} s",
        help="another run is being recorded there: try again when it is done",
    )


# -- The folder of one run while its evidence is being written

INDEX = "index.json"


class RunFolder:
    """A run's folder. Usable from several threads; after `close_parts` nothing more can be added.

    Files are brought to the disk in threads of their own: side by side they take little longer than one, and meanwhile
    the next ones are made.
    """

    def __init__(self, folder: Folder, name: str, root: Folder | None = None) -> None:
        """Where it was made in `root`, its own name goes to the disk as well."""
        self.folder = folder
        self.name = name
        self._lock = threading.Lock()
        self._kept: dict[str, Kept] = {}
        self._room = ROOM
        self._open = True
        self._flushing: list[Aside[None]] = []
        self._unsynced = False
        if root is not None:
            self._flush(root.fd, "the names of runs")

    def _flush(self, fd: int, what: str) -> None:
        self._flushing.append(Aside(partial(_flush, os.dup(fd)), name=f"evidence: flush {what}"))

    @property
    def path(self) -> Path:
        return self.folder.path

    def writer(self, path: str, *, durable: bool = True) -> Writer:
        """A new file at `path` ("logs/out"), folders on the way made. EvidenceError when it is there already.

        `durable=False`: not flushed to the disk one by one but with all others, for parts of many files.
        """
        *folders, name = path.split("/")
        if path in self._kept:
            raise EvidenceError(f"{path} is there already")
        return Writer(self, self.folder.walk_to(tuple(folders), create=True), path, name, durable)

    def write(self, path: str, data: bytes, *, truncated: bool = False) -> Kept:
        """A file of known content."""
        with self.writer(path) as writer:
            writer.write(data)
            return writer.commit(truncated=truncated)

    def has_room(self, path: str) -> bool:
        """Whether the index can have one more file, called `path`: a larger one would not be read."""
        return room_of(path) <= self._room

    def put_in_place(self, place: Folder, half: str, name: str, kept: Kept, file: BinaryIO | None) -> Kept:
        """Rename a finished file and note it; refused once the index is being written. `file`: flush this one by
        itself."""
        with self._lock:
            if not self._open:
                raise EvidenceError(f"{kept.path} came too late")
            place.rename(half, name)
            self._kept[kept.path] = kept
            self._room -= room_of(kept.path)
            if file is not None:
                self._flush(file.fileno(), name)
            self._unsynced = self._unsynced or file is None
        return kept

    def flushed(self) -> None:
        """Wait until all of it and the names of all are on the disk, after `write_index`. Raises OSError."""
        for flushing in self._flushing:
            flushing.result()
        if self._unsynced:
            os.sync()

    def close_parts(self) -> tuple[Kept, ...]:
        """All that is kept, by path; whoever still writes is shut out, and what they left half-written removed."""
        with self._lock:
            self._open = False
        for place, _, files, fd in os.fwalk(".", dir_fd=self.folder.fd, follow_symlinks=False):
            del place
            for name in files:
                if name.startswith(PARTIAL):
                    os.unlink(name, dir_fd=fd)
        return tuple(self._kept[path] for path in sorted(self._kept))

    def write_index(self, data: bytes) -> None:
        """The last file, after `close_parts`: whole for whoever looks as soon as it is there."""
        half = f"{PARTIAL}{os.urandom(8).hex()}"
        with os.fdopen(self.folder.create(half), "wb") as file:
            file.write(data)
            file.flush()
            self.folder.rename(half, INDEX)
            self._flush(self.folder.fd, "names")
            self._flush(file.fileno(), INDEX)

    def close(self) -> None:
        self.folder.close()


def _flush(fd: int) -> None:
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


class Writer:
    """A file being written. Nothing is there under its name before `commit`."""

    def __init__(self, run: RunFolder, place: Folder, path: str, name: str, durable: bool) -> None:
        self._run, self._place, self.path, self._name, self._durable = run, place, path, name, durable
        self._partial = f"{PARTIAL}{os.urandom(8).hex()}"
        self._hash = hashlib.sha256()
        self.bytes = 0
        try:
            self._file: BinaryIO = os.fdopen(place.create(self._partial), "wb")
        except OSError:
            place.close()
            raise
        self._done = False

    def write(self, data: bytes) -> None:
        self._hash.update(data)
        self.bytes += len(data)
        self._file.write(data)

    def commit(self, *, truncated: bool = False, sensitive: bool = False) -> Kept:
        """Put it in place, whole."""
        from sandboxrun.evidence.index import Kept

        self._file.flush()
        kept = Kept(
            path=self.path, sha256=self._hash.hexdigest(), bytes=self.bytes, truncated=truncated, sensitive=sensitive
        )
        self._run.put_in_place(self._place, self._partial, self._name, kept, self._file if self._durable else None)
        self._file.close()
        self._done = True
        return kept

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        if not self._done:
            self._place.unlink(self._partial)
        self._place.close()


def chunks_of(file: BinaryIO) -> Iterator[bytes]:
    """What is left of a file, a megabyte at a time."""
    while chunk := file.read(1 << 20):
        yield chunk


# -- The user's state directory: where it is, and what makes it this user's alone


OWNER = "owner.json"
GONE = "gone-"  # starts the names of staging folders that are being removed
_NAME = "sandboxrun"
_LARGEST = 1 << 20  # bytes of a note
_HELP = "set XDG_STATE_HOME to a directory that belongs to you and lies outside the project"


def state_path() -> Path:
    """`$XDG_STATE_HOME/sandboxrun`, by default `~/.local/state/sandboxrun`. Raises EvidenceError when there is no
    absolute path for it: a relative one would lie in whatever checkout is the current directory."""
    state = os.environ.get("XDG_STATE_HOME", "")
    if not os.path.isabs(state):
        home = os.path.expanduser("~")
        if not os.environ.get("HOME", home) or not os.path.isabs(home):
            message = "there is no state directory: neither XDG_STATE_HOME nor HOME is an absolute path"
            raise EvidenceError(message, help=_HELP)
        state = os.path.join(home, ".local", "state")
    return _named(state)


@lru_cache(maxsize=4)
def _named(state: str) -> Path:
    return Path(state, _NAME)


def open_state(*parts: str, create: bool = False) -> Folder:
    """The state directory, or a directory below it. Raises FileNotFoundError when it is not there and not to be made,
    EvidenceError when it can't be made or others may have written to it."""
    path = state_path()
    above = path.parent
    try:
        if not os.path.isdir(above):
            if not create:
                raise FileNotFoundError(path)
            above.mkdir(mode=0o700, parents=True, exist_ok=True)
        with Folder.at(above) as parent, parent.enter(_NAME, create=create) as state:
            _check_own(state)
            return state.walk_to(parts, create=create)
    except OSError as error:
        if isinstance(error, FileNotFoundError) and not create:
            raise
        raise state_fault(error) from error


def state_fault(error: OSError) -> EvidenceError:
    """What it is when the system refuses something of the state directory. It names that directory, which is on another
    disk than the workspace and the evidence, perhaps."""
    what = f"the state directory {state_path()} can't be used: {error.strerror or error}"
    return EvidenceError(what, help="make room there" if disk_full(error) else _HELP)


@contextlib.contextmanager
def writing_state() -> Iterator[None]:
    """Something is written to the state directory meanwhile. Raises EvidenceError where the system refuses it."""
    try:
        yield
    except (FileNotFoundError, FileExistsError):
        raise
    except OSError as error:
        raise state_fault(error) from error


def _check_own(state: Folder) -> None:
    found = os.fstat(state.fd)
    if found.st_uid != os.geteuid():
        raise EvidenceError(f"the state directory {state.path} belongs to user {found.st_uid}", help=_HELP)
    if stat.S_IMODE(found.st_mode) & 0o077:
        message = f"the state directory {state.path} is open to other users"
        raise EvidenceError(message, help=f"check what is in it, then: chmod 700 {state.path}")


def check_apart(project: Path) -> None:
    """Raise EvidenceError where the project's directory holds the state directory: a checkout could bring that."""
    path, top = state_path(), _real(project)
    if os.path.commonpath((_real(path), top)) == top:
        message = f"the state directory {path} lies in the project's directory {project}, where a checkout can bring it"
        raise EvidenceError(message, help=_HELP)


def _real(path: Path) -> str:
    """Where it leads to. The kernel tells that more quickly, which counts: it is asked for with each look at the
    state."""
    with contextlib.suppress(OSError, AttributeError):  # not there yet, or a system that has no such descriptors
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
        try:
            told = os.readlink(f"/proc/self/fd/{fd}")
        finally:
            os.close(fd)
        if told.startswith("/") and not told.endswith(" (deleted)"):
            return told
    return os.path.realpath(path)


def is_apart(project: Path) -> bool:
    """Whether `check_apart` finds nothing."""
    with contextlib.suppress(EvidenceError):
        check_apart(project)
        return True
    return False


class Note(Data):
    """Whose a directory is: the engine that it is about, the process that made it, and the project's directory and
    place of evidence, None where they were not noted."""

    engine: str
    owner: Owner | None
    directory: str | None = None
    evidence: str | None = None


def signed(opened: Callable[[], Folder], engine: str, **more: str) -> Folder:
    """A directory with a note of whose it is; one that is removed before it has its note is opened again. `more` are
    further fields of the note."""
    while True:
        folder = opened()
        try:
            if not folder.kind(OWNER):
                note = {"engine": engine, "owner": this_process().encode(), **more}
                with writing_state():
                    folder.write(OWNER, json.dumps(note).encode())
            return folder
        except FileNotFoundError:
            folder.close()
        except BaseException:
            folder.close()
            raise


def discard(staging: Folder, name: str) -> None:
    """Remove a staging folder. Its name says so first: a process killed in the middle leaves what needs no owner."""
    if not name.startswith(GONE):
        os.rename(name, GONE + name, src_dir_fd=staging.fd, dst_dir_fd=staging.fd)
        name = GONE + name
    staging.remove(name)


def note_of(folder: Folder) -> Note | None:
    """The note; None where there is none that can be read."""
    try:
        with folder.open(OWNER) as file:
            body = json.loads(file.read(_LARGEST))
        places = (body.get("directory"), body.get("evidence"))
        directory, evidence = (place if isinstance(place, str) else None for place in places)
        return Note(
            engine=str(body["engine"]), owner=decode(str(body["owner"])), directory=directory, evidence=evidence
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


# -- What verifications leave their evidence in: each folder is locked by its process for as long as that lives

SCRATCH = "verify"
KEPT = "kept-"  # starts the names of those that are left for the user to look at
_WAIT = 30.0  # seconds for another process that makes or removes one


@contextlib.contextmanager
def scratch(store: Store) -> Iterator[Folder]:
    """A folder that is gone afterwards, also where this process is killed meanwhile; see `keep`."""
    with store.state(SCRATCH, create=True) as scratches:
        with locked(scratches.fd, scratches.path, wait=_WAIT):
            _clear(scratches, kept=True)
            folder = scratches.enter(uuid4().hex, create=True)
            fcntl.flock(folder.fd, fcntl.LOCK_EX)
        with folder:
            try:
                yield folder
            finally:
                with contextlib.suppress(OSError):
                    scratches.remove(folder.path.name)


def keep(folder: Folder) -> Path:
    """Leave a scratch folder to the user, until the next one is made; where it is from now on."""
    kept = folder.path.with_name(KEPT + folder.path.name)
    folder.path.rename(kept)
    return kept


def collect_scratches(store: Store) -> None:
    """Remove those that killed processes left. Raises OSError, EvidenceError."""
    with store.state(SCRATCH) as scratches:
        if scratches.names():
            with locked(scratches.fd, scratches.path, wait=_WAIT):
                _clear(scratches, kept=False)


def _clear(scratches: Folder, *, kept: bool) -> None:
    """Remove those that no living process has locked, and with `kept` those that were left to the user."""
    for name in scratches.names():
        if name.startswith(KEPT) and not kept:
            continue
        with contextlib.suppress(OSError, SandboxrunError), scratches.enter(name) as folder:
            fcntl.flock(folder.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            scratches.remove(name)
