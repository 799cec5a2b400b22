"""The spec of the last update in place: labels are set at creation only, so it is recorded beside the engine.

Owns that record, files in the run's staging folder, gone when the run's evidence is taken. Without it (another machine)
a later drift is told as a change of the profile; which rules a gateway serves by is told by `verify --running` then.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import attrs

from sandboxrun.model import labels
from sandboxrun.model.codec import from_label
from sandboxrun.model.egress import ALLOW
from sandboxrun.model.spec import SandboxSpec

if TYPE_CHECKING:
    from sandboxrun.evidence.folder import Folder
    from sandboxrun.evidence.store import Store

APPLIED = "applied.json"
UNFINISHED = "rules-unfinished"  # there while a gateway may have other rules than those recorded


def record_update(store: Store, run: str, spec_label: str, *, engine: str) -> None:
    """Keep the spec of an update in place, on the engine of that identity, until the run's evidence is taken."""
    with store.staging(run, engine=engine) as staging:
        staging.write(APPLIED, spec_label.encode())
        if staging.kind(UNFINISHED):
            staging.unlink(UNFINISHED)


def begin_rules(store: Store, run: str, *, engine: str) -> None:
    """Note that a gateway is being given other rules: until `record_update` nobody may rely on those recorded."""
    with store.staging(run, engine=engine) as staging:
        staging.write(UNFINISHED, b"")


def updated_spec(inspect: Mapping[str, Any], store: Store) -> SandboxSpec | None:
    """The spec of a container's last update in place; None when there was none, or it was recorded elsewhere.

    After one that was not finished its egress is one that no profile can declare: the next apply gives the rules anew.
    """
    own = labels.read((inspect.get("Config") or {}).get("Labels"))
    run = own.get(labels.RUN)
    if not run:
        return None
    try:
        with store.staging(run) as staging:
            recorded = _recorded(staging)
            if not staging.kind(UNFINISHED):
                return from_label(recorded)
            spec = from_label(recorded or str(own.get(labels.SPEC) or ""))
            return _unknown_rules(spec) if spec is not None else None
    except (OSError, ValueError):
        return None


def _recorded(staging: Folder) -> str:
    try:
        with staging.open(APPLIED) as file:
            return file.read().decode()
    except FileNotFoundError:
        return ""


def _unknown_rules(spec: SandboxSpec) -> SandboxSpec:
    """The spec with an egress that allows nothing, which is refused in a profile."""
    if spec.egress is None or not spec.egress.has_gateway:
        return spec
    return attrs.evolve(spec, egress=attrs.evolve(spec.egress, mode=ALLOW, allow=()))
