"""Sandboxes whose gateway was a proxy, as an earlier version made them: shown as they are, and replaced."""

from __future__ import annotations

import json
from pathlib import Path

from msgspec import structs

from sandboxrun.backend.docker.codec import observe
from sandboxrun.plan.changes import Action
from sandboxrun.plan.planner import make_plan
from sandboxrun.spec.names import Names
from sandboxrun.spec.option_types import PUBLIC
from tests.unit.plan.world import HELPER, RUNNING, declared, network, profile, snapshot

BEFORE = Path(__file__).resolve().parents[2] / "baselines/before/project/evidence"


def test_a_sandbox_with_proxy_variables_is_replaced() -> None:
    (path,) = BEFORE.glob("*-copied-*/inspect.json")
    inspect = json.loads(path.read_text())
    seen = observe(inspect, Names(project="house-before"), None)
    assert seen.spec.egress is None, "it is not wired as sandboxes are now"
    assert seen.spec.dns == ("127.0.0.1",) and "HTTPS_PROXY" in seen.spec.environment
    assert seen.applied is not None and seen.applied.egress == PUBLIC
    wanted = declared("a", egress=PUBLIC)
    running = structs.replace(seen, address="a", name=wanted.name, state=RUNNING, one_off=False, owner=None)
    plan = make_plan(profile(wanted), snapshot(running, networks=(network("egress"),), helper=HELPER))
    (change,) = [c for c in plan.changes if c.address == "a"]
    assert change.action is Action.REPLACE
