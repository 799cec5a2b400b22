"""The user's state directory: what is believed of earlier runs lies here, out of reach of any checkout.

Owns where it is, and what makes it this user's alone. A file in a project's directory may have come with the checkout,
so nothing there is acted upon unless it is sealed (`seal.py`).
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

from sandboxrun.backend.owner import Owner, decode, this_process
from sandboxrun.data import Data
from sandboxrun.errors import SandboxrunError
from sandboxrun.evidence.errors import EvidenceError
from sandboxrun.evidence.folder import Folder, locked

if TYPE_CHECKING:
    from sandboxrun.evidence.store import Store

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
    return Path(state, _NAME)


def open_state(*parts: str, create: bool = False) -> Folder:
    """The state directory, or a directory below it. Raises FileNotFoundError when it is not there and not to be made,
    EvidenceError when it can't be made or others may have written to it."""
    path = state_path()
    try:
        if create:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        elif not path.parent.is_dir():
            raise FileNotFoundError(path)
        with Folder.at(path.parent) as parent, parent.enter(_NAME, create=create) as state:
            _check_own(state)
            return state.walk_to(parts, create=create)
    except OSError as error:
        if isinstance(error, FileNotFoundError) and not create:
            raise
        what = f"the state directory {path} can't be used: {error.strerror or error}"
        raise EvidenceError(what, help=_HELP) from error


def _check_own(state: Folder) -> None:
    found = os.fstat(state.fd)
    if found.st_uid != os.geteuid():
        raise EvidenceError(f"the state directory {state.path} belongs to user {found.st_uid}", help=_HELP)
    if stat.S_IMODE(found.st_mode) & 0o077:
        message = f"the state directory {state.path} is open to other users"
        raise EvidenceError(message, help=f"check what is in it, then: chmod 700 {state.path}")


def check_apart(project: Path) -> None:
    """Raise EvidenceError where the project's directory holds the state directory: a checkout could bring that."""
    path = state_path()
    if Path(os.path.realpath(path)).is_relative_to(os.path.realpath(project)):
        message = f"the state directory {path} lies in the project's directory {project}, where a checkout can bring it"
        raise EvidenceError(message, help=_HELP)


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
