"""Stands in for what a workspace must not get: a mount needs something to stand on, so what is not there is made, and
taken away again when no sandbox has it any more.

Owns those stand-ins, in the user's own directory: an empty directory, or a file that means what its absence meant. Each
is noted in the staging folder before it is made, so that whoever comes next takes it away if this program is killed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sandboxrun.errors import ApplyError, Diagnostic
from sandboxrun.evidence.errors import EvidenceError
from sandboxrun.evidence.folder import Folder, locked
from sandboxrun.model import labels
from sandboxrun.model.declared import DeclaredSandbox
from sandboxrun.model.guard import GUARDS, HIDDEN, MAKEFILES

if TYPE_CHECKING:
    from sandboxrun.engine.client import Engine
    from sandboxrun.evidence.store import Store

NOTES = "stand-ins"  # a folder beside those of runs
_WAIT = 30.0  # seconds for another process that makes or removes stand-ins
_COPY = "use access: copy"


@contextlib.contextmanager
def held(sandbox: DeclaredSandbox, store: Store) -> Iterator[None]:
    """While the container is made: everything that it must not write to is there to be mounted over. Raises ApplyError
    for what can't be kept."""
    workspace = sandbox.spec.workspace
    if workspace is None or not workspace.protected:
        yield
        return
    with store.staging(NOTES) as notes, locked(notes.fd, notes.path, wait=_WAIT):
        try:
            with Folder.at(Path(workspace.source)) as top:
                for path in workspace.protected:
                    _hold(top, path, workspace.source, notes)
        except (OSError, EvidenceError) as error:
            raise ApplyError(_refused(sandbox, str(error))) from error
        except _Fault as fault:
            raise ApplyError(_refused(sandbox, str(fault))) from fault
        yield


class _Fault(Exception):
    """Why a path can't be kept."""


def _refused(sandbox: DeclaredSandbox, why: str) -> Diagnostic:
    message = f"{sandbox.address}: the workspace can't be protected: {why}"
    return Diagnostic(message=message, span=sandbox.place("workspace"), help=_COPY)


def _hold(top: Folder, path: str, source: str, notes: Folder) -> None:
    *above, name = path.split("/")
    try:
        opened = top.walk_to(tuple(above))
    except FileNotFoundError as error:
        raise _Fault(f"{'/'.join(above)} is not there, and {path} must be kept") from error
    with opened as place:
        kind = place.kind(name)
        if kind == 0:
            return _stand_in(place, name, path, source, notes)
        if kind == stat.S_IFLNK:
            raise _Fault(f"{path} is a link")
        if kind == stat.S_IFREG and os.stat(name, dir_fd=place.fd, follow_symlinks=False).st_nlink > 1:
            raise _Fault(f"{path} is a hard link: it could be written to by its other name")
        if kind not in (stat.S_IFREG, stat.S_IFDIR):
            raise _Fault(f"{path} is neither a file nor a directory")


def _stand_in(place: Folder, name: str, path: str, source: str, notes: Folder) -> None:
    """Note it, then make it, as the owner of the directory it stands in."""
    content = _content(place, name, path)
    at = os.path.join(os.path.realpath(source), path)
    notes.write(_note_of(at), json.dumps({"at": at, "content": content}).encode())
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
    finally:
        os.close(made)


def _content(place: Folder, name: str, path: str) -> str | None:
    """What a file that stands in says; None for a directory, which git does not show and nothing reads.

    make takes the first of its names: a directory there would end it, so a stand-in leads to the file that is there.
    A file of the profile's own that is not there (an env file that may be missing) is an empty one.
    """
    if path == MAKEFILES[0]:
        found = next((other for other in MAKEFILES[1:] if place.kind(other) == stat.S_IFREG), None)
        return f"include {found}\n" if found is not None else None
    known = path in GUARDS or path in MAKEFILES or path == HIDDEN
    return None if known else ""


def _note_of(at: str) -> str:
    return hashlib.sha256(at.encode("utf-8", "surrogateescape")).hexdigest()[:32]


def release(engine: Engine, store: Store) -> None:
    """Take away the stand-ins that no sandbox on the engine has in it. Never raises for one that can't be: it is left
    to the next time."""
    try:
        with store.staging(NOTES, create=False) as notes:
            names = [name for name in notes.names() if len(name) == 32]
            if not names:
                return
            with locked(notes.fd, notes.path, wait=_WAIT):
                used = _used(engine)
                for name in names:
                    _release(notes, name, used)
    except (OSError, EvidenceError):
        return


def _release(notes: Folder, name: str, used: frozenset[str]) -> None:
    try:
        with notes.open(name) as file:
            note = json.loads(file.read())
        at, content = str(note["at"]), note["content"]
    except FileNotFoundError:
        return
    except (ValueError, KeyError, TypeError):
        notes.unlink(name)
        return
    if at not in used and _taken_away(Path(at), content):
        notes.unlink(name)


def _taken_away(at: Path, content: Any) -> bool:
    """Whether nothing of ours is there any more. What somebody has put to use meanwhile is theirs."""
    try:
        with Folder.at(at.parent) as place:
            if not isinstance(content, str):
                os.rmdir(at.name, dir_fd=place.fd)
            elif _reads(place, at.name, content):
                place.unlink(at.name)
    except (FileNotFoundError, NotADirectoryError, EvidenceError):
        return True
    except OSError as error:
        import errno

        return error.errno in (errno.ENOTEMPTY, errno.EEXIST)
    return True


def _reads(place: Folder, name: str, content: str) -> bool:
    with place.open(name) as file:
        return file.read(len(content) + 1) == content.encode()


def _used(engine: Engine) -> frozenset[str]:
    """All that a workspace on the engine has protected, whosever it is. By label: a listing need not show mounts."""
    found = set()
    for container in engine.containers(labels={labels.WORKSPACE: None}):
        try:
            label = json.loads((container.get("Labels") or {}).get(labels.WORKSPACE) or "{}")
            source = os.path.realpath(str(label["source"]))
            found |= {os.path.join(source, str(path)) for path in label["protected"]}
        except (ValueError, KeyError, TypeError):
            continue
    return frozenset(found)
