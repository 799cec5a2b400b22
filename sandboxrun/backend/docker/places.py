"""Host paths that sandboxes are given: each must still be what it was when the apply began, and nobody may move it.

Owns that check. A sandbox that has run meanwhile may have put a link in the place of a directory that the next one
starts from; the engine would follow it anywhere.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sandboxrun.backend.docker.owned import own_containers
from sandboxrun.errors import ApplyError, Diagnostic
from sandboxrun.profile.guarding import sources_of
from sandboxrun.spec import labels
from sandboxrun.spec.project import DeclaredSandbox, Profile

if TYPE_CHECKING:
    from sandboxrun.backend.docker.client import Engine


def real_places(sandboxes: Iterable[DeclaredSandbox]) -> Mapping[str, str]:
    """Where the host paths of the sandboxes lead now, links followed."""
    return {str(path): os.path.realpath(path) for sandbox in sandboxes for _, _, path in sources_of(sandbox)}


def check_places(sandbox: DeclaredSandbox, places: Mapping[str, str]) -> None:
    """Raise ApplyError for each that leads elsewhere now. One that was made by another process is not known of."""
    faults = []
    for key, item, path in sources_of(sandbox):
        if os.path.realpath(path) != places.get(str(path), os.path.realpath(path)):
            message = f"{sandbox.address}: {path} leads elsewhere since this apply began"
            help = "see what has put a link there"
            faults.append(Diagnostic(message=message, span=sandbox.place(key, item), help=help))
    if faults:
        raise ApplyError(*faults)


def check_neighbours(sandboxes: Iterable[DeclaredSandbox], profile: Profile, engine: Engine) -> None:
    """Raise ApplyError for a path that a sandbox which is on the engine now, and not in the profile, may move.

    Those of one profile are compared when it is read.
    """
    declared = {sandbox.address for sandbox in profile.sandboxes}
    given = [
        (sandbox, sandbox.place(key, item), path) for sandbox in sandboxes for key, item, path in sources_of(sandbox)
    ]
    faults = []
    ours = {str(c["Id"]) for c in own_containers(engine, profile.project)} if given else set()
    for container in engine.containers(labels={labels.SANDBOX: None}) if given else ():
        if str(container["Id"]) in ours and labels.read(container.get("Labels")).get(labels.SANDBOX) in declared:
            continue
        binds = [mount for mount in container.get("Mounts") or () if mount.get("Type") == "bind"]
        whose = str((container.get("Names") or ["?"])[0]).removeprefix("/")
        for sandbox, span, path in given:
            if _is_movable(os.path.realpath(path), binds):
                message = f"{sandbox.address}: {path} lies where {whose} may write: it could put a link in its place"
                help = "wait until that one is gone, or give each a directory of its own"
                faults.append(Diagnostic(message=message, span=span, help=help))
    if faults:
        raise ApplyError(*faults)


def _is_movable(path: str, binds: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a container with these binds can put another thing where `path` is: it lies in one that it may write to,
    and no mount of its own keeps it in place."""
    for bind in binds:
        top = os.path.realpath(str(bind.get("Source") or ""))
        if not bind.get("RW") or path == top or os.path.commonpath((path, top)) != top:
            continue
        at = Path(str(bind.get("Destination"))) / os.path.relpath(path, top)
        kept = {Path(str(other.get("Destination"))): not other.get("RW") for other in binds if other is not bind}
        if at not in kept and not any(kept.get(above) for above in at.parents):
            return True
    return False
