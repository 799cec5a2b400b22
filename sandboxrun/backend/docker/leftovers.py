"""Takes away what killed processes left: in the user's state directory, and of theirs in workspaces.

Owns when that is: nobody can need it any more. A run's staging folder is made after its container, so one whose
container is not on its engine is needed no longer, unless the process that made it is still at work.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from sandboxrun.backend.docker.holding import release
from sandboxrun.errors import SandboxrunError
from sandboxrun.evidence.folder import Folder
from sandboxrun.evidence.state import GONE, collect_scratches, discard, note_of
from sandboxrun.evidence.store import STAGING, safe_name
from sandboxrun.spec import labels

if TYPE_CHECKING:
    from sandboxrun.backend.docker.client import Engine
    from sandboxrun.evidence.store import Store


def collect(engine: Engine, store: Store) -> None:
    """Take away what can be. Never raises: what can't be is left to the next time."""
    release(engine, store)
    with contextlib.suppress(OSError, SandboxrunError), store.state(STAGING) as staging:
        _unstage(engine, staging)
    with contextlib.suppress(OSError, SandboxrunError):
        collect_scratches(store)


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
