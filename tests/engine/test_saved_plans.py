"""A saved plan on a real engine: the same state gives the same plan, and what has moved since is named."""

from __future__ import annotations

import pytest

from sandboxrun.errors import PlanError
from sandboxrun.lifecycle.saved import SavedPlan, read_saved, write_saved
from sandboxrun.spec.project import Profile
from tests.engine.world import World


def saved(world: World, profile: Profile) -> SavedPlan:
    path = world.directory / "plan.out"
    write_saved(path, world.plan(profile), files=[world.directory / "sandbox.yaml"], directory=world.directory)
    return read_saved(path)


def test_a_plan_of_the_same_state_has_the_same_digest(world: World) -> None:
    profile = world.profile({"one": {"network_mode": "bridge"}, "two": {}})
    assert world.plan(profile).digest == world.plan(profile).digest
    world.apply(profile)
    running = world.plan(profile)
    assert running.empty and running.digest == world.plan(profile).digest


def test_it_is_applied_while_it_holds_and_refused_afterwards(world: World) -> None:
    profile = world.profile({"one": {}})
    plan = saved(world, profile)
    assert world.apply(profile, expected=plan).digest == plan.digest
    with pytest.raises(PlanError, match=r"the saved plan is stale: .*one \([0-9a-f]{12}\) has appeared"):
        world.apply(profile, expected=plan)


def test_what_moved_on_the_engine_is_named(world: World) -> None:
    profile = world.profile({"one": {}, "two": {}})
    world.apply(profile)
    changed = world.profile({"one": {"mem_limit": "256m"}, "two": {}})
    plan = saved(world, changed)
    world.engine.kill_container(world.ids(profile)["one"])
    world.engine.wait_container(world.ids(profile)["one"])
    with pytest.raises(PlanError, match=r"one \([0-9a-f]{12}\) has ended"):
        world.apply(changed, expected=plan)
    world.engine.remove_container(world.ids(profile)["one"], force=True)
    with pytest.raises(PlanError, match=r"one \([0-9a-f]{12}\) has gone"):
        world.apply(changed, expected=plan)
    with pytest.raises(PlanError, match="the profile has changed"):
        world.apply(world.profile({"one": {"mem_limit": "128m"}, "two": {}}), expected=plan)
