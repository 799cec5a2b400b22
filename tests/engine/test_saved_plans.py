"""A saved plan on a real engine: the same state gives the same plan, and what has moved since is named."""

from __future__ import annotations

import pytest

from sandboxrun.errors import PlanError
from sandboxrun.lifecycle.saved import SavedPlan, read_saved, write_saved
from sandboxrun.profile.loader import load
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


def test_a_path_that_a_link_leads_elsewhere_makes_it_stale(world: World) -> None:
    """With --allow-outside such a link could lead anywhere."""

    def read() -> Profile:
        return load([world.directory / "sandbox.yaml"])

    for name in ("data", "other"):
        (world.directory / name).mkdir()
    sandbox = f"{{image: '{world.base['image']}', network_mode: none, volumes: ['./data:/data:ro', './in:/in:ro']}}"
    (world.directory / "sandbox.yaml").write_text(f"name: {world.project}\nsandboxes: {{a: {sandbox}}}\n")
    (world.directory / "in").symlink_to("other")
    plan = saved(world, read())
    assert dict(plan.led) == {"in": "other"}
    assert world.plan(read()).digest == plan.digest
    (world.directory / "data").rmdir()
    (world.directory / "data").symlink_to("other")
    with pytest.raises(PlanError, match="the saved plan is stale: data leads to other now\n"):
        world.apply(read(), expected=plan)
    (world.directory / "in").unlink()
    (world.directory / "in").mkdir()
    with pytest.raises(PlanError, match="in leads to itself now; data leads to other now\n"):
        world.apply(read(), expected=plan)


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
