"""Evidence lies outside of every sandbox: what an agent can write proves nothing about it.

Owns that check, for a workspace and for binds that a sandbox may write to.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from sandboxrun.errors import Diagnostic, PlanError
from sandboxrun.evidence.state import state_path
from sandboxrun.model.declared import DeclaredSandbox
from sandboxrun.model.guard import HIDDEN

if TYPE_CHECKING:
    from sandboxrun.evidence.store import Store

HELP = "use access: copy, name a directory below it, or keep the evidence elsewhere: --evidence DIR"


def check_outside(sandboxes: Iterable[DeclaredSandbox], store: Store) -> None:
    """Raise PlanError for every place of a sandbox's that it may write to and that holds the evidence, and for every
    one that holds the user's state: the key in it must not even be read."""
    given = [(sandbox, *place) for sandbox in sandboxes for place in _given(sandbox)]
    if not given:
        return
    evidence, state = (Path(os.path.realpath(place)) for place in (store.path, state_path()))
    key_of = f"gives the sandbox the state directory {state}, with the key that seals evidence"
    faults = [
        Diagnostic(message=f"{sandbox.address}: {_WHAT[key]} {source} {what}", span=sandbox.place(key, item), help=HELP)
        for sandbox, key, item, source, writable, hidden in given
        for what, wrong in (
            (key_of, state),
            ("lets the sandbox write to its own evidence", evidence if writable else None),
        )
        if wrong is not None and wrong.is_relative_to(os.path.realpath(source)) and not _is_hidden(wrong, hidden)
    ]
    if faults:
        raise PlanError(*faults)


_WHAT = {"workspace": "the workspace", "volumes": "the bind"}


def _given(sandbox: DeclaredSandbox) -> Iterator[tuple[str, str | None, str, bool, str | None]]:
    """The option, its item and the host path of each place that the sandbox is given as it is; whether it may write
    there; what of it it can't see."""
    workspace = sandbox.spec.workspace
    if workspace is not None and workspace.access != "copy":
        hidden = f"{workspace.source}/{HIDDEN}" if HIDDEN in workspace.protected else None
        yield "workspace", None, workspace.source, workspace.access == "rw", hidden
    for mount in sandbox.spec.volumes:
        if mount.type == "bind":
            yield "volumes", mount.target, mount.source or "", not mount.read_only, None


def _is_hidden(place: Path, hidden: str | None) -> bool:
    """Whether another mount stands over it. Not through a link: that stays in the sandbox's reach."""
    return hidden is not None and not os.path.islink(hidden) and place.is_relative_to(os.path.realpath(hidden))
