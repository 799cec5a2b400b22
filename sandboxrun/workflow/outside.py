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

if TYPE_CHECKING:
    from sandboxrun.evidence.store import Store

HELP = "use access: copy, name a directory below it, or keep the evidence elsewhere: --evidence DIR"


def check_outside(sandboxes: Iterable[DeclaredSandbox], store: Store) -> None:
    """Raise PlanError for every place of a sandbox's that holds the evidence, or what waits to become it."""
    kept = {Path(os.path.realpath(place)) for place in (store.path, store.staging_path)}
    faults = [
        Diagnostic(
            message=f"{sandbox.address}: {what} {source} lets the sandbox write to its own evidence",
            span=found.span if (found := sandbox.provenance.get(key)) is not None else sandbox.span,
            help=HELP,
        )
        for sandbox in sandboxes
        for key, what, source in _writable(sandbox)
        if any(place.is_relative_to(os.path.realpath(source)) for place in kept)
    ]
    if faults:
        raise PlanError(*faults)


def _writable(sandbox: DeclaredSandbox) -> Iterator[tuple[str, str, str]]:
    """The option, in words, and the host path, of each place that the sandbox may write to."""
    workspace = sandbox.spec.workspace
    if workspace is not None and workspace.access == "rw":
        yield "workspace", "the workspace", workspace.source
    for mount in sandbox.spec.volumes:
        if mount.type == "bind" and not mount.read_only:
            yield "volumes", "the bind", mount.source or ""
