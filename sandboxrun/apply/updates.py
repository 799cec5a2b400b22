"""The spec of the last update in place: labels are set at creation only, so it is recorded beside the engine.

Owns that record, a file in the run's staging folder, gone when the run's evidence is taken. Without it (another
machine) a later drift is told as a change of the profile, nothing worse.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sandboxrun.model import labels
from sandboxrun.model.codec import from_label
from sandboxrun.model.spec import SandboxSpec

if TYPE_CHECKING:
    from sandboxrun.evidence.store import Store

APPLIED = "applied.json"


def record_update(store: Store, run: str, spec_label: str) -> None:
    """Keep the spec of an update in place until the run's evidence is taken."""
    with store.staging(run) as staging:
        staging.write(APPLIED, spec_label.encode())


def updated_spec(inspect: Mapping[str, Any], store: Store) -> SandboxSpec | None:
    """The spec of a container's last update in place; None when there was none, or it was recorded elsewhere."""
    run = ((inspect.get("Config") or {}).get("Labels") or {}).get(labels.RUN)
    if not run:
        return None
    try:
        with store.staging(run, create=False) as staging, staging.open(APPLIED) as file:
            return from_label(file.read().decode())
    except (OSError, ValueError):
        return None
