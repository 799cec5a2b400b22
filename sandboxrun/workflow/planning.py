"""The plan of a project as the engine stands now: observe, then plan.

Changes nothing and takes no lock. Kept apart from `converge`, whose imports a mere plan does not need.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sandboxrun.plan.planner import Options, make_destroy_plan, make_plan
from sandboxrun.workflow.observe import take_snapshot
from sandboxrun.workflow.outside import check_outside

if TYPE_CHECKING:
    from sandboxrun.engine.client import Engine
    from sandboxrun.evidence.store import Store
    from sandboxrun.model.declared import Profile
    from sandboxrun.plan.changes import Plan


def plan(engine: Engine, profile: Profile, store: Store, options: Options | None = None) -> Plan:
    """What apply would do. Raises PlanError, EngineError."""
    check_outside(profile.sandboxes, store)
    return make_plan(profile, take_snapshot(engine, profile, store, workspaces=True), options)


def destroy_plan(engine: Engine, profile: Profile, store: Store, targets: tuple[str, ...] = ()) -> Plan:
    """What destroy would do."""
    return make_destroy_plan(profile, take_snapshot(engine, profile, store), targets)
