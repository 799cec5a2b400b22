"""The plan of a project as the engine stands now: observe, then plan.

Changes nothing and takes no lock. Kept apart from `converge`, whose imports a mere plan does not need.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

import attrs

from sandboxrun.errors import PlanError
from sandboxrun.plan.planner import Options, make_destroy_plan, make_plan
from sandboxrun.workflow.hostpaths import check_devices, check_sources, content_faults
from sandboxrun.workflow.observe import take_snapshot
from sandboxrun.workflow.outside import check_outside
from sandboxrun.workflow.surveying import sandboxes_made, surveyed

if TYPE_CHECKING:
    from sandboxrun.engine.client import Engine
    from sandboxrun.evidence.store import Store
    from sandboxrun.model.declared import Profile
    from sandboxrun.plan.changes import Plan


def plan(
    engine: Engine,
    profile: Profile,
    store: Store,
    options: Options | None = None,
    environment: Mapping[str, str] = os.environ,
) -> Plan:
    """What apply would do, with warnings of what may not work. `environment` has the variables of secrets and configs.

    Raises PlanError, EngineError.
    """
    check_outside(profile.sandboxes, store)
    made = make_plan(profile, take_snapshot(engine, profile, store, workspaces=True), options)
    making = sandboxes_made(made, profile)
    check_sources(making)
    if any(sandbox.spec.devices for sandbox in making) and engine.shares_filesystem():
        check_devices(making)
    found = tuple(content_faults(profile, making, environment))
    if errors := [fault for fault in found if fault.severity == "error"]:
        raise PlanError(*sorted(errors, key=lambda fault: fault.order))
    made = surveyed(made, profile, store)
    return attrs.evolve(made, warnings=(*made.warnings, *found))


def destroy_plan(engine: Engine, profile: Profile, store: Store, targets: tuple[str, ...] = ()) -> Plan:
    """What destroy would do."""
    return make_destroy_plan(profile, take_snapshot(engine, profile, store), targets)
