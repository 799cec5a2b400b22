"""Evidence lies outside of every sandbox: what an agent can write proves nothing about it.

Owns that check, for a workspace and for binds that a sandbox may write to.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from sandboxrun.errors import Diagnostic, PlanError
from sandboxrun.model.declared import DeclaredSandbox
from sandboxrun.model.guard import HIDDEN

if TYPE_CHECKING:
    from sandboxrun.evidence.store import Store

HELP = "use access: copy, name a directory below it, or keep the evidence elsewhere: --evidence DIR"


def check_outside(sandboxes: Iterable[DeclaredSandbox], store: Store) -> None:
    """Raise PlanError for every place of a sandbox's that holds the evidence, or what waits to become it."""
    kept = {Path(os.path.realpath(place)) for place in (store.path, store.staging_path)}
    faults = [
        Diagnostic(
            message=f"{sandbox.address}: {_WHAT[key]} {source} lets the sandbox write to its own evidence",
            span=sandbox.place(key, item),
            help=HELP,
        )
        for sandbox in sandboxes
        for key, item, source, hidden in _writable(sandbox)
        if any(place.is_relative_to(os.path.realpath(source)) and not _is_hidden(place, hidden) for place in kept)
    ]
    if faults:
        raise PlanError(*faults)


_WHAT = {"workspace": "the workspace", "volumes": "the bind"}


def _writable(sandbox: DeclaredSandbox) -> Iterator[tuple[str, str | None, str, str | None]]:
    """The option, its item and the host path of each place that the sandbox may write to; what of it it can't see."""
    workspace = sandbox.spec.workspace
    if workspace is not None and workspace.access == "rw":
        hidden = f"{workspace.source}/{HIDDEN}" if HIDDEN in workspace.protected else None
        yield "workspace", None, workspace.source, hidden
    for mount in sandbox.spec.volumes:
        if mount.type == "bind" and not mount.read_only:
            yield "volumes", mount.target, mount.source or "", None


def _is_hidden(place: Path, hidden: str | None) -> bool:
    """Whether another mount stands over it. Not through a link: that stays in the sandbox's reach."""
    return hidden is not None and not os.path.islink(hidden) and place.is_relative_to(os.path.realpath(hidden))
