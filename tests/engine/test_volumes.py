"""Volumes of a profile's own: who may write to them."""

from __future__ import annotations

import pytest

from sandboxrun.errors import ApplyError
from sandboxrun.lifecycle import run as oneoff
from sandboxrun.plan import operations as op
from tests.engine.world import World


@pytest.mark.parametrize("user", ["1000:1000", "agent"])
def test_a_new_volume_belongs_to_the_first_who_writes_to_it(world: World, user: str) -> None:
    profile = world.profile(
        {
            "reader": {"volumes": ["data:/data:ro"], "user": "1001:1001"},
            "writer": {"volumes": ["data:/data"], "user": user},
            "second": {"volumes": ["data:/data"], "user": "1002:1002"},
        },
        volumes={"data": {}},
    )
    plan = world.apply(profile)
    assert [s.id for s in plan.operations if isinstance(s, op.GiveVolume)] == ["give writer data"]
    ids = world.ids(profile)
    assert world.run(ids["writer"], "sh", "-c", "echo 1 > /data/x && stat -c %u:%g:%a /data") == (0, "1000:1000:755\n")
    assert world.run(ids["reader"], "cat", "/data/x") == (0, "1\n")
    assert world.run(ids["second"], "touch", "/data/y")[0] != 0
    assert world.plan(profile).empty

    later = world.profile({"second": {"volumes": ["data:/data"], "user": "1002:1002"}}, volumes={"data": {}})
    world.apply(later, replace=("second",))
    id = world.ids(later)["second"]
    assert world.run(id, "stat", "-c", "%u", "/data") == (0, "1000\n")  # it was not made in this apply


def test_one_with_driver_options_is_left_as_it_is(world: World) -> None:
    options = {"driver_opts": {"type": "tmpfs", "device": "tmpfs", "o": "size=1m,uid=1000"}}
    profile = world.profile({"a": {"volumes": ["data:/data"]}}, volumes={"data": options})
    plan = world.apply(profile)
    assert not any(isinstance(s, op.GiveVolume) for s in plan.operations)
    assert world.run(world.ids(profile)["a"], "touch", "/data/x")[0] == 0


def test_a_run_can_write_to_it_too(world: World) -> None:
    profile = world.profile({"a": {"command": ["touch", "/data/x"], "volumes": ["data:/data"]}}, volumes={"data": {}})
    (result,) = oneoff.run(world.engine, profile, world.store, profile.sandboxes)
    assert result.exit_code == 0


def test_one_that_could_not_be_given_is_taken_back(world: World) -> None:
    """The next apply would take it for one that was given."""
    profile = world.profile({"a": {"volumes": ["data:/data"], "user": "nobody-here"}}, volumes={"data": {}})
    with pytest.raises(ApplyError, match="nobody-here"):
        world.apply(profile)
    assert world.ids(profile) == {}
    assert world.engine.volume(profile.names.volume("data")) is None
