"""Volumes of a profile's own: who may write to them."""

from __future__ import annotations

from typing import Any

import pytest

from sandboxrun.backend.docker.client import Engine
from sandboxrun.errors import ApplyError
from sandboxrun.lifecycle import run as oneoff
from sandboxrun.plan import operations as op
from sandboxrun.spec.labels import PROJECT
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


_PRUNED: dict[str, dict[str, Any]] = {
    "secrets": {"a": {"secrets": ["key"], "volumes": ["data:/data"]}},
    "workspace": {"a": {"workspace": {"source": ".", "size": "4m"}}},
    "configs": {"a": {"configs": ["text"]}},
    "data": {"a": {"volumes": ["data:/data"]}},
}


@pytest.mark.parametrize("part", _PRUNED)
def test_one_that_is_pruned_before_a_container_has_it_is_missed(
    part: str, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`docker volume prune`: the engine makes another one with the container, on its disk, without options and labels.
    Secrets would lie there, a copy would have no bound, and nobody would remove it."""
    world.environment["KEY"] = "correct-horse"
    profile = world.profile(
        _PRUNED[part],
        volumes={"data": {"driver_opts": {"type": "tmpfs", "device": "tmpfs", "o": "size=1m,uid=1000"}}},
        secrets={"key": {"environment": "KEY"}},
        configs={"text": {"content": "x"}},
    )
    name = profile.names.volume("data") if part == "data" else f"{world.project}-a.{part}"
    created, carried = Engine.create_container, list[str]()

    def create(engine: Engine, *args: Any, **more: Any) -> Any:
        if engine.volume(name) is not None and not carried:
            carried.append(name)
            engine.remove_volume(name)
        return created(engine, *args, **more)

    def put(engine: Engine, *args: Any) -> None:
        pytest.fail("something was put into it")

    with monkeypatch.context() as patch, pytest.raises(ApplyError, match="is not the one that was made"):
        patch.setattr(Engine, "create_container", create)
        patch.setattr(Engine, "put_archive", put)
        world.apply(profile)
    assert carried and world.ids(profile) == {}
    assert world.engine.volume(name) is None
    world.apply(profile)
    assert list(world.ids(profile)) == ["a"]


@pytest.mark.parametrize("egress", ["open", None])
@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("labels", {"Labels": {}}),  # it would stay for ever, and be in the way
        ("internal", {"Internal": False}),
        ("subnet", {"IPAM": {"Driver": "default", "Config": [{"Subnet": "10.99.7.0/24"}]}}),
        ("com.docker.network.bridge.enable_icc", {"Options": {}}),
    ],
)
def test_a_network_that_is_not_as_asked_is_refused(
    name: str, changed: dict[str, Any], egress: str | None, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An engine, or a proxy before it, that drops what it is asked for."""
    own = {"egress": egress, "network_mode": "bridge"} if egress else {"networks": ["inner"], "network_mode": None}
    inner = {
        "internal": True,
        "driver_opts": {"com.docker.network.bridge.enable_icc": "false"},
        "subnet": "10.99.8.0/24",
    }
    profile = world.profile({"a": own}, **({} if egress else {"networks": {"inner": inner}}))
    create, wanted = Engine.create_network, ".net" if egress else "_inner"

    def otherwise(engine: Engine, payload: Any) -> str:
        return create(engine, {**payload, **changed} if payload["Name"].endswith(wanted) else payload)

    with monkeypatch.context() as patch, pytest.raises(ApplyError, match=name):
        patch.setattr(Engine, "create_network", otherwise)
        world.apply(profile)
    assert world.ids(profile) == {}
    assert world.engine.networks(labels={PROJECT: world.project}) == ()
    assert not [one for one in world.engine.networks() if str(one["Name"]).startswith(world.project)]
