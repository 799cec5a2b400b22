"""Stands in for what a workspace must not get: a mount needs something to stand on, so what is not there is made, and
taken away again when no sandbox has it any more.

Owns those stand-ins, in the user's own directory: an empty directory, or a file that means what its absence meant. Each
is noted in the state directory before it is made, so that whoever comes next takes it away if this program is killed;
what is not noted there, or is not what was made, is never touched. And with them what else killed processes left in the
state directory: a run's staging folder is made after its container, so one whose container is not on its engine is
needed no longer, unless the process that made it is still at work.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import structs

from sandboxrun.backend.docker.observe import APPLIED
from sandboxrun.backend.owner import decode
from sandboxrun.data import Data, json_as
from sandboxrun.errors import ApplyError, Diagnostic, SandboxrunError
from sandboxrun.evidence.errors import EvidenceError, reason_of
from sandboxrun.evidence.folder import (
    GONE,
    OWNER,
    PARTIAL,
    Folder,
    collect_scratches,
    discard,
    locked,
    note_of,
    writing_state,
)
from sandboxrun.evidence.store import STAGING, safe_name
from sandboxrun.spec import labels
from sandboxrun.spec.guard import GUARDS, HIDDEN, MAKEFILES
from sandboxrun.spec.names import TAKEN_UP, kept_name
from sandboxrun.spec.project import DeclaredSandbox

if TYPE_CHECKING:
    from sandboxrun.backend.docker.client import Engine
    from sandboxrun.evidence.store import Store

NOTES = "stand-ins"  # in the state directory: a note a workspace and engine
_LARGEST = 16 << 20  # bytes of a note
_WAIT = 30.0  # seconds for another process that makes or removes stand-ins


@contextlib.contextmanager
def held(sandbox: DeclaredSandbox, store: Store, engine: Engine) -> Iterator[None]:
    """While the container is made: everything that it must not write to is there to be mounted over. Raises ApplyError
    for what can't be kept."""
    workspace = sandbox.spec.workspace
    if workspace is None or not workspace.protected:
        yield
        return
    with store.state(NOTES, create=True) as notes, locked(notes.fd, notes.path, wait=_WAIT):
        try:
            with Folder.at(Path(workspace.source)) as top:
                missing = [path for path in workspace.protected if _is_missing(top, path)]
                if missing:
                    _stand_in(top, missing, os.path.realpath(workspace.source), engine.identity, notes)
        except (OSError, EvidenceError) as error:
            message = f"{sandbox.address}: the workspace can't be protected: {reason_of(error)}"
            fault = Diagnostic(message=message, span=sandbox.place("workspace"), help="use access: copy")
            raise ApplyError(fault) from error
        yield


class _StandIn(Data):
    """What is made in place of a path: a file of that content, or a directory. `inode` is its own, once it is made."""

    content: str | None
    inode: int | None = None


class _Note(Data):
    """The stand-ins in a workspace, by path, that sandboxes on one engine need."""

    source: str
    engine: str
    made: Mapping[str, _StandIn]

    @property
    def name(self) -> str:
        """The note's file."""
        return hashlib.sha256(f"{self.engine}\0{self.source}".encode("utf-8", "surrogateescape")).hexdigest()[:32]

    def write(self, notes: Folder) -> None:
        """Keep it, while there is anything in it."""
        if self.made:
            notes.write(self.name, msgspec.json.encode(self))
        else:
            notes.unlink(self.name)


def _read(notes: Folder, name: str) -> _Note | None:
    """A note; None for one that can't be read."""
    try:
        with notes.open(name) as file:
            return msgspec.json.decode(file.read(_LARGEST), type=_Note)
    except (OSError, EvidenceError, msgspec.MsgspecError, ValueError, RecursionError):
        return None


def _is_missing(top: Folder, path: str) -> bool:
    """Whether nothing is there; raises EvidenceError for what can't be kept."""
    *above, name = path.split("/")
    try:
        opened = top.walk_to(tuple(above))
    except FileNotFoundError as error:
        raise EvidenceError(f"{'/'.join(above)} is not there, and {path} must be kept") from error
    with opened as place:
        kind = place.kind(name)
        if kind == stat.S_IFLNK:
            raise EvidenceError(f"{path} is a link")
        if kind == stat.S_IFREG and os.stat(name, dir_fd=place.fd, follow_symlinks=False).st_nlink > 1:
            raise EvidenceError(f"{path} is a hard link: it could be written to by its other name")
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise EvidenceError(f"{path} is neither a file nor a directory")
        return kind == 0


def _stand_in(top: Folder, paths: list[str], source: str, engine: str, notes: Folder) -> None:
    """Note them, then make them, then note what was made."""
    note = _Note(source=source, engine=engine, made={})
    earlier = _read(notes, note.name)
    planned = {path: _StandIn(content=_content(top, path)) for path in paths}
    note = structs.replace(note, made={**(earlier.made if earlier is not None else {}), **planned})
    with writing_state():
        note.write(notes)
    made = {path: structs.replace(one, inode=_make(top, path, one.content)) for path, one in planned.items()}
    with writing_state():
        structs.replace(note, made={**note.made, **made}).write(notes)


def _make(top: Folder, path: str, content: str | None) -> int:
    """Make it, as the owner of the directory it stands in; its inode."""
    *above, name = path.split("/")
    with top.walk_to(tuple(above)) as place:
        owner = os.fstat(place.fd)
        if content is None:
            os.mkdir(name, 0o700, dir_fd=place.fd)
            made = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=place.fd)
            mode = 0o755
        else:
            made, mode = place.create(name), 0o644
            os.write(made, content.encode())
        try:
            if (owner.st_uid, owner.st_gid) != (os.geteuid(), os.getegid()):
                with contextlib.suppress(PermissionError):  # only root can give it away
                    os.fchown(made, owner.st_uid, owner.st_gid)
            os.fchmod(made, mode)
            return os.fstat(made).st_ino
        finally:
            os.close(made)


def _content(top: Folder, path: str) -> str | None:
    """What a file that stands in says; None for a directory, which git does not show and nothing reads.

    make takes the first of its names: a directory there would end it, so a stand-in leads to the file that is there.
    A file of the profile's own that is not there (an env file that may be missing) is an empty one.
    """
    if path == MAKEFILES[0]:
        found = next((other for other in MAKEFILES[1:] if top.kind(other) == stat.S_IFREG), None)
        return f"include {found}\n" if found is not None else None
    known = path in GUARDS or path in MAKEFILES or path == HIDDEN or os.path.basename(path) in TAKEN_UP
    return None if known else ""


def release(engine: Engine, store: Store) -> Mapping[str, Mapping[str, str]]:
    """Take away the stand-ins that no sandbox on the engine has in it. Never raises for one that can't be: it is left
    to the next time. The containers, each with its labels, that alone keep any, for nobody collects them: of a `run` or
    a `verify` whose process is gone."""
    stay = set[str]()
    with contextlib.suppress(OSError, SandboxrunError), store.state(NOTES) as notes:
        if not notes.names():
            return {}
        with locked(notes.fd, notes.path, wait=_WAIT):
            users = tuple(_users(engine))
            used = frozenset[str]().union(*(user.paths for user in users))
            for name in notes.names():
                note = None if name.startswith(PARTIAL) else _read(notes, name)
                if note is None:
                    notes.unlink(name)
                elif note.engine in (engine.identity, engine.endpoint):
                    at = partial(os.path.join, note.source)
                    made = note.made.items()
                    left = {p: one for p, one in made if at(p) in used or not _taken_away(note.source, p, one)}
                    if left.keys() != note.made.keys():
                        structs.replace(note, made=left).write(notes)
                    stay |= set(map(at, left))
        return {user.id: user.labels for user in users if user.abandoned and not stay.isdisjoint(user.paths)}
    return {}


def _taken_away(source: str, path: str, one: _StandIn) -> bool:
    """Whether nothing of ours is there any more. What somebody has put to use meanwhile is theirs, and so is whatever
    stands in its place; a symlink on the way to it is not followed."""
    *above, name = os.path.join(source, path).split("/")[1:]
    try:
        with Folder.at(Path("/")) as root, root.walk_to(tuple(above)) as place:
            found = os.stat(name, dir_fd=place.fd, follow_symlinks=False)
            if one.inode is not None and found.st_ino != one.inode:
                return True
            if one.content is None:
                os.rmdir(name, dir_fd=place.fd)
            elif stat.S_ISREG(found.st_mode):
                with place.open(name) as file:
                    as_made = file.read(len(one.content) + 1) == one.content.encode()
                if as_made:
                    place.unlink(name)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except EvidenceError:
        return False
    except OSError as error:
        return error.errno in (errno.ENOTEMPTY, errno.EEXIST)
    return True


class _User(Data):
    """A container that has a workspace: what of it is protected there, and whether nobody collects it."""

    id: str
    labels: Mapping[str, str]
    paths: frozenset[str]
    abandoned: bool


def _users(engine: Engine) -> Iterator[_User]:
    """All on the engine, whosever they are. By label: a listing need not show mounts."""
    for container in engine.containers(labels={labels.WORKSPACE: None}):
        own = labels.read(container.get("Labels"))
        label = json_as(dict, own.get(labels.WORKSPACE, ""))
        with contextlib.suppress(ValueError, KeyError, TypeError):
            source = os.path.realpath(str(label["source"]))
            paths = frozenset(os.path.join(source, str(path)) for path in label["protected"])
            yield _User(
                id=str(container.get("Id") or ""), labels=own, paths=paths, abandoned=_is_forsaken(container, own)
            )


def _is_forsaken(container: Mapping[str, Any], own: Mapping[str, str]) -> bool:
    """Whether it is a one-off whose process is certainly gone, and was not kept after its end on purpose."""
    owner, kept = decode(own.get(labels.OWNER, "")), kept_name("", own.get(labels.RUN, ""))
    if owner is None or labels.ONE_OFF not in own or any(str(n).endswith(kept) for n in container.get("Names") or ()):
        return False
    return owner.is_gone


def collect(engine: Engine, store: Store, *, thorough: bool = False) -> Mapping[str, Mapping[str, str]]:
    """Take away what can be; `thorough`, also of sandboxes that somebody else may have removed. Never raises: what
    can't be is left to the next time. See `release` for what it gives."""
    keeping = release(engine, store)
    with contextlib.suppress(OSError, SandboxrunError), store.state(STAGING) as staging:
        _unstage(engine, staging, thorough)
    with contextlib.suppress(OSError, SandboxrunError):
        collect_scratches(store)
    return keeping


def _unstage(engine: Engine, staging: Folder, thorough: bool) -> None:
    """The folders first, the containers after: whatever folder is seen had its container before that."""
    names = [name for name in staging.names() if _is_abandoned(engine, staging, name, thorough)]
    if not names:
        return
    listed = engine.containers(labels={labels.RUN: None})
    there = {safe_name(str(labels.text_of(container.get("Labels"), labels.RUN))) for container in listed}
    for name in names:
        if name not in there:
            with contextlib.suppress(OSError):  # another process removes it too
                discard(staging, name)


def _is_abandoned(engine: Engine, staging: Folder, name: str, thorough: bool) -> bool:
    """Whether it is of a run on this engine, and its process is not known to be alive; or being removed already. What
    has nothing but notes is of a sandbox that is there, unless somebody else removed it."""
    if name.startswith(GONE):
        return True
    with contextlib.suppress(OSError, SandboxrunError), staging.enter(name) as folder:
        note = note_of(folder)
        if note is not None:
            if not thorough and {*folder.names()} <= {OWNER, APPLIED}:
                return False
            here = note.engine in (engine.identity, engine.endpoint)
            return here and not (note.owner is not None and note.owner.is_alive)
        os.rmdir(name, dir_fd=staging.fd)  # its process was killed before it had anything in it
    return False
