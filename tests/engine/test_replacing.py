"""What runs is given up only for what was made: a change that fails leaves what was."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import pytest

from sandboxrun.errors import SandboxrunError
from sandboxrun.evidence.checking import verify_chain
from sandboxrun.spec.state import How
from tests.conftest import Cli
from tests.engine.chaos import Project, killed_at
from tests.engine.world import World, open_world

CALLS = 130  # more than the apply makes


@pytest.fixture
def world(engine_host: str, project: str, tmp_path: Path, busybox: str) -> Iterator[World]:
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "large").write_bytes(bytes(2 << 20))
    with open_world(engine_host, project, tmp_path, busybox) as opened:
        opened.environment["TOKEN"] = "a-token-of-this-test"
        yield opened


FULL = {
    "workspace": {"source": "src"},
    "secrets": ["token"],
    "networks": {"one": {"aliases": ["x"]}, "two": None},
    "network_mode": "bridge",
    "volumes": ["logs:/logs:ro"],
}
MORE: dict[str, Any] = {
    "secrets": {"token": {"environment": "TOKEN"}},
    "networks": {"one": {}, "two": {}},
    "volumes": {"logs": {}, "gone": {"driver_opts": {"type": "tmpfs", "device": "tmpfs", "o": "size=none"}}},
}


def there(world: World) -> dict[str, Any]:
    """All that the project has on the engine: containers with their starts and networks, networks, volumes."""
    own = {"sandboxrun.project": world.project}
    listed = world.engine.inspect_containers([str(c["Id"]) for c in world.engine.containers(labels=own)])
    return {
        "containers": sorted(
            (
                c["Id"],
                c["Name"],
                c["State"]["Status"],
                c["State"]["StartedAt"],
                c["HostConfig"]["Memory"],
                sorted(c["NetworkSettings"]["Networks"]),
            )
            for c in listed
        ),
        "networks": sorted(n["Name"] for n in world.engine.networks(labels=own)),
        "volumes": sorted(v["Name"] for v in world.engine.volumes(labels=own)),
    }


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"image": "localhost:1/none:latest"}, id="image that can't be pulled"),
        pytest.param({"command": ["/no/such/program"], "init": False}, id="command that can't be started"),
        pytest.param({"command": ["/no/such/program"]}, id="command that ends at once under the engine's init"),
        pytest.param({"command": ["/etc/passwd"]}, id="command that is not executable"),
        pytest.param({"sysctls": {"net.ipv4.no_such": "1"}}, id="option that the kernel refuses"),
        pytest.param({"volumes": ["gone:/gone"]}, id="volume that can't be mounted"),
        pytest.param({"workspace": {"source": "src", "size": "1m"}}, id="workspace that does not fit"),
        pytest.param(
            {"user": "7", "depends_on": {"b": {"condition": "service_completed_successfully"}}},
            id="dependency that fails",
        ),
    ],
)
def test_what_runs_is_untouched_by_a_replacement_that_fails(world: World, change: dict[str, Any]) -> None:
    before = world.profile({"a": FULL, "c": {}}, **MORE)
    world.apply(before)
    was = there(world)
    assert len(was["containers"]) == 3  # the keeper of its secrets too
    with pytest.raises(SandboxrunError):
        world.apply(
            world.profile({"a": {**FULL, **change}, "b": {"command": ["false"]}, "c": {}}, **MORE), targets=("a",)
        )
    assert {key: [i for i in items if f"{world.project}-b" not in str(i)] for key, items in there(world).items()} == was
    assert [change.address for change in world.plan(before).pending] == (["b"] if "depends_on" in change else [])


def test_of_two_that_write_to_the_same_the_first_is_ended_before_the_other_starts(world: World, cli: Cli) -> None:
    """It can't be had back, for no agent is run twice: but all that could be made was made before, and it is said."""
    shared = {"volumes": ["data:/data"], "command": ["sh", "-c", "echo here; exec sleep 600"]}
    volumes = {"data": {}}
    world.apply(world.profile({"a": shared}, volumes=volumes))
    was = there(world)
    fails = world.profile({"a": {**shared, "sysctls": {"net.ipv4.no_such": "1"}}}, volumes={"data": {}})
    with pytest.raises(SandboxrunError, match="no_such"):
        world.apply(fails)
    assert there(world) == {**was, "containers": [], "networks": []}
    (entry,) = world.store.entries(world.project)
    assert (entry.sandbox, entry.outcome) == ("a", How.KILLED)
    told = [getattr(event, "what", "") for event in world.events]
    assert (
        f"removed; the container it was to replace had been stopped, its evidence is in {world.store.path}"
        in "".join(told)
    )
    pulled = world.profile({"a": {**shared, "image": "localhost:1/none:latest"}}, volumes=volumes)
    world.apply(world.profile({"a": {**shared, "user": "5"}}, volumes=volumes))
    was = there(world)
    with pytest.raises(SandboxrunError):
        world.apply(pulled)
    assert there(world) == was


def test_a_replaced_one_has_its_name_and_nothing_is_left_of_the_other(world: World) -> None:
    for user in ("1000", "1001", "1002"):
        profile = world.profile(
            {"a": {**FULL, "user": user}, "d": {"network_mode": "bridge", "egress": "open", "user": user}}, **MORE
        )
        world.apply(profile)
        assert world.plan(profile).empty
        assert sorted(o.name for o in world.snapshot(profile).sandboxes) == [f"{world.project}-a", f"{world.project}-d"]
    found = there(world)
    assert len(found["containers"]) == 4
    assert len(found["volumes"]) == 4  # workspace, secrets, rules and logs
    world.destroy(profile)
    assert there(world) == {"containers": [], "networks": [], "volumes": []}


def test_a_network_that_cannot_be_made_leaves_the_one_that_was(
    world: World, engine_client: docker.DockerClient
) -> None:
    options = {"network_mode": "bridge", "networks": {"one": {"aliases": ["x"]}}}
    before = world.profile({"a": options, "b": {"network_mode": "bridge", "egress": "open"}}, networks={"one": {}})
    world.apply(before)
    was = there(world)
    taken = docker.types.IPAMConfig(pool_configs=[docker.types.IPAMPool(subnet="10.213.77.0/24")])
    other = engine_client.networks.create(f"{world.project}-other", ipam=taken)
    try:
        with pytest.raises(SandboxrunError):
            world.apply(
                world.profile(
                    {"a": {**options, "user": "5"}, "b": {"network_mode": "bridge", "egress": "open"}},
                    networks={"one": {"subnet": "10.213.77.0/28"}},
                )
            )
    finally:
        other.remove()
    assert there(world) == was
    assert world.plan(before).empty


def test_an_update_that_fails_halfway_is_taken_back(world: World) -> None:
    networks = {"one": {"subnet": "10.213.78.0/28"}, "two": {}}
    base = {"network_mode": "bridge", "networks": {"one": None}, "mem_limit": "16m"}
    holder = {"network_mode": "bridge", "networks": {"one": {"ipv4_address": "10.213.78.9"}}}
    world.apply(world.profile({"a": base, "b": holder}, networks=networks))
    before = world.profile({"a": base, "b": holder}, networks=networks)
    was = there(world)
    changed = {**base, "mem_limit": "24m", "networks": {"two": None, "one": {"ipv4_address": "10.213.78.9"}}}
    with pytest.raises(SandboxrunError):
        world.apply(world.profile({"a": changed}, networks=networks), targets=("a",))
    now = there(world)
    assert (now["containers"], now["volumes"]) == (was["containers"], was["volumes"])
    assert [c.address for c in world.plan(before).pending if c.kind == "sandbox"] == []


# -- killed

PROFILE = """
name: {{project}}
sandboxes:
  side: {{{{image: {{image}}, user: "{user}", command: [sh, -c, "echo {user}; exec sleep 300"], network_mode: none,
         workspace: {{{{source: src}}}}}}}}
  shared: {{{{image: {{image}}, user: "{user}", command: [sh, -c, "echo {user}; exec sleep 300"], network_mode: none,
           volumes: ["data:/data"]}}}}
volumes: {{{{data: }}}}
"""


def _running(client: docker.DockerClient, name: str) -> list[str]:
    found = client.api.containers(filters={"label": f"sandboxrun.project={name}"})
    return sorted(c["Labels"]["sandboxrun.sandbox"] for c in found)


@pytest.mark.parametrize("first", [0, *(pytest.param(n, marks=pytest.mark.full) for n in range(1, 6))])
def test_a_replacement_that_is_killed_is_finished_by_the_next_apply(
    chaos: Project, engine_client: docker.DockerClient, first: int
) -> None:
    for number in range(1 + 3 * first, CALLS, 18):
        chaos.write(PROFILE.format(user="1000"))
        chaos.apply()
        chaos.write(PROFILE.format(user="2000"))
        if not killed_at(number, "after", lambda: chaos.apply(parallelism=1)):
            return
        assert "side" in _running(engine_client, chaos.name), "nothing of it ran"
        chaos.apply()
        assert chaos.plan().empty, str(chaos.plan())
        names = sorted(
            c.name
            for c in engine_client.containers.list(
                filters={"label": f"sandboxrun.project={chaos.name}"}, ignore_removed=True
            )
        )
        assert names == [f"{chaos.name}-shared", f"{chaos.name}-side"]
        for sandbox in ("side", "shared"):
            old = [e for e in chaos.store.entries(chaos.name) if e.sandbox == sandbox]
            with chaos.store.open(old[0], "stdout.log") as log:
                assert log.read() == b"1000\n"
        assert verify_chain(chaos.store) == ()
        chaos.destroy()
        (chaos.directory / ".sandboxrun").rename(chaos.directory / f".old-{time.monotonic_ns()}")
    pytest.fail("the apply makes more calls than were tried")
