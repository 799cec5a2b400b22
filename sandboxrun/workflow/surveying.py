"""What is said of workspaces before a plan is carried out: what does not go along, and what will not work inside.

Owns which workspaces are looked at: those of sandboxes that the plan makes.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from sandboxrun.errors import Diagnostic, PlanError
from sandboxrun.evidence.errors import EvidenceError
from sandboxrun.model.declared import DeclaredSandbox, Profile
from sandboxrun.plan.changes import Plan
from sandboxrun.workflow.hostpaths import check_sources, source_warnings

if TYPE_CHECKING:
    from sandboxrun.evidence.store import Store


def sandboxes_made(made: Plan, profile: Profile) -> tuple[DeclaredSandbox, ...]:
    """The sandboxes that the plan makes: what they need must be right before anything is touched."""
    return tuple(s for s in profile.sandboxes if s.address in made.making)


def surveyed(made: Plan, profile: Profile, store: Store) -> Plan:
    """The plan with what is to be said of its workspaces and binds. Raises PlanError for those that can't be used."""
    making = sandboxes_made(made, profile)
    check_sources(making)
    faults, warnings = list[Diagnostic](), list(source_warnings(making))
    for sandbox in making:
        warnings += _binds(sandbox)
        if sandbox.spec.workspace is None:
            continue
        try:
            warnings += [_placed(sandbox, found) for found in _survey(sandbox, store)]
        except EvidenceError as error:
            faults += [_placed(sandbox, found) for found in error.diagnostics]
    if faults:
        raise PlanError(*faults)
    return attrs.evolve(made, warnings=tuple(warnings))


def _binds(sandbox: DeclaredSandbox) -> Iterator[Diagnostic]:
    from sandboxrun.evidence.survey import survey_bind

    for mount in sandbox.spec.volumes:
        if mount.type == "bind" and mount.source is not None:
            for found in survey_bind(Path(mount.source)):
                message = f"{sandbox.address}: the bind's source {mount.source}: {found.message}"
                yield attrs.evolve(found, message=message, span=sandbox.place("volumes", mount.target))


def _survey(sandbox: DeclaredSandbox, store: Store) -> list[Diagnostic]:
    from sandboxrun.evidence.staged import not_copied
    from sandboxrun.evidence.survey import View, survey_copy, survey_mount

    workspace = sandbox.spec.workspace
    assert workspace is not None
    source = sandbox.workspace or Path(workspace.source)
    user = sandbox.spec.user.partition(":")[0]
    view = View(
        target=workspace.target,
        mounts=tuple(mount.target for mount in sandbox.spec.volumes),
        uid=int(user) if user.isdigit() else None,
        trusting="safe.directory" in sandbox.spec.environment.values(),
    )
    if workspace.access != "copy":
        return survey_mount(source, view)
    return survey_copy(source, view, not_copied(store, source, workspace.exclude), workspace.exclude)


def _placed(sandbox: DeclaredSandbox, found: Diagnostic) -> Diagnostic:
    workspace = sandbox.spec.workspace
    assert workspace is not None
    named = "" if found.severity == "error" else f"workspace {workspace.source}: "
    return attrs.evolve(found, message=f"{sandbox.address}: {named}{found.message}", span=sandbox.place("workspace"))
