"""Takes away what killed processes left: in the user's state directory, and of theirs in workspaces.

Owns when that is: nobody can need it any more. A run's staging folder is made after its container, so one whose
container is not on its engine is needed no longer, unless the process that made it is still at work. A scratch folder
is locked by its process for as long as that lives.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

from sandboxrun.backend.docker.holding import release
from sandboxrun.errors import SandboxrunError
from sandboxrun.evidence.folder import Folder, locked
from sandboxrun.evidence.state import GONE, discard, note_of
from sandboxrun.evidence.store import STAGING, safe_name
from sandboxrun.spec import labels

if TYPE_CHECKING:
    from sandboxrun.backend.docker.client import Engine
    from sandboxrun.evidence.store import Store

SCRATCH = "verify"  # in the state directory: what verifications leave their evidence in
KEPT = "kept-"  # starts the names of those that are left for the user to look at
_WAIT = 30.0  # seconds for another process that makes or removes a scratch folder


def collect(engine: Engine, store: Store) -> None:
    """Take away what can be. Never raises: what can't be is left to the next time."""
    release(engine, store)
    with contextlib.suppress(OSError, SandboxrunError), store.state(STAGING) as staging:
        _unstage(engine, staging)
    with contextlib.suppress(OSError, SandboxrunError), store.state(SCRATCH) as scratches:
        if scratches.names():
            with locked(scratches.fd, scratches.path, wait=_WAIT):
                _clear(scratches, kept=False)


def _unstage(engine: Engine, staging: Folder) -> None:
    """The folders first, the containers after: whatever folder is seen had its container before that."""
    names = [name for name in staging.names() if _is_abandoned(engine, staging, name)]
    if not names:
        return
    listed = engine.containers(labels={labels.RUN: None})
    there = {safe_name(str((container.get("Labels") or {}).get(labels.RUN))) for container in listed}
    for name in names:
        if name not in there:
            with contextlib.suppress(OSError):  # another process removes it too
                discard(staging, name)


def _is_abandoned(engine: Engine, staging: Folder, name: str) -> bool:
    """Whether it is of a run on this engine, and its process is not known to be alive; or being removed already."""
    if name.startswith(GONE):
        return True
    with contextlib.suppress(OSError, SandboxrunError), staging.enter(name) as folder:
        note = note_of(folder)
        if note is not None:
            here = note.engine in (engine.identity, engine.endpoint)
            return here and not (note.owner is not None and note.owner.is_alive)
        os.rmdir(name, dir_fd=staging.fd)  # its process was killed before it had anything in it
    return False


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


def _clear(scratches: Folder, *, kept: bool) -> None:
    """Remove those that no living process has locked, and with `kept` those that were left to the user."""
    for name in scratches.names():
        if name.startswith(KEPT) and not kept:
            continue
        with contextlib.suppress(OSError, SandboxrunError), scratches.enter(name) as folder:
            fcntl.flock(folder.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            scratches.remove(name)
